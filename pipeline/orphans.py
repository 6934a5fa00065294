"""Helper processes that do not outlive the one they help, however it ends."""

import multiprocessing
import os
import threading


def die_with_parent() -> None:
    """Watch the process that started this one, and end when it does, in whatever way: SIGKILL leaves no time for goodbyes.

    For the initializer of a pool. The watch is on a pipe that the parent holds open, so it needs no polling, works on every
    system, and does not mistake the end of the starting thread for that of the process, as PR_SET_PDEATHSIG does.
    """
    parent = multiprocessing.parent_process()
    if parent is None:
        return

    def watch() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, name="watch parent", daemon=True).start()

"""`python -m pipeline view`: the flags, and a server that runs until it is told to stop."""

import argparse
import threading
import webbrowser
from pathlib import Path

from pipeline.device import fix_threads
from pipeline.errors import ExitCode
from pipeline.run_settings import RunSettings
from pipeline.signals import StopSignals
from pipeline.view.settings import ViewSettings

_LOOK_S = 0.2  # how soon a signal is noticed


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags of the command, on a parser that has the roots."""
    default = ViewSettings()
    parser.add_argument("--scene", action="append", default=[], metavar="NAME", help="only this scene; may be repeated")
    parser.add_argument("--port", type=int, default=default.port, help="of 127.0.0.1; 0 takes any that is free")
    parser.add_argument(
        "--long_side", type=int, default=default.long_side_px, metavar="PX", help="longer side of the previews, pixels"
    )
    parser.add_argument("--device", default=default.device, help="auto, cpu, cuda or cuda:N")
    parser.add_argument(
        "--checkpoint", type=Path, metavar="PATH", help="a trained network to show beside the lens renderer"
    )
    parser.add_argument("--open", action="store_true", help="open the page in this machine's browser")


def settings_of(args: argparse.Namespace) -> ViewSettings:
    """The flags as settings; UsageError for what is out of range."""
    return ViewSettings(port=args.port, long_side_px=args.long_side, device=args.device, checkpoint=args.checkpoint)


def serve(run: RunSettings, settings: ViewSettings, *, open_page: bool = False) -> ExitCode:
    """Serve the page until SIGINT or SIGTERM.

    Raises:
        PipelineError: there is nothing to look at yet; the message names the phase to run.
        UsageError: the port, the device or the checkpoint cannot be used.
    """
    from pipeline.report.formatting import count
    from pipeline.view.dataset import Dataset
    from pipeline.view.server import ViewServer
    from pipeline.view.workbench import Workbench

    dataset = Dataset(run)
    ready, missing = dataset.ready()
    for line in missing:
        print(f"warning: {line}")
    fix_threads()
    network = None
    if settings.checkpoint is not None:
        from pipeline.engines.trained import TrainedNetwork

        network = TrainedNetwork(settings.checkpoint, settings.device)
    with StopSignals() as signals, ViewServer(Workbench(dataset, settings, network), settings.port) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        print(f"{count(len(ready), 'scene')} to look at: {server.address}", flush=True)
        print("Only this machine reaches it; from another: ssh -L PORT:127.0.0.1:PORT. Ctrl-C ends it.", flush=True)
        if open_page:
            webbrowser.open(server.address)
        while not signals.received:
            thread.join(_LOOK_S)
        server.shutdown()
    print("view: ended")
    return ExitCode.DONE

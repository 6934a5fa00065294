"""Triton's interpreter, faster, and rounding as a GPU does.

It patches the language at every call of a device function, here once a launch; and it cuts float32 off to bfloat16, here
rounded to the nearest.
"""

import numpy as np
import torch
import triton.language as tl
from triton.runtime import interpreter


def speed_up() -> None:
    """For this process, before a kernel runs."""
    patched: set[object] = set()
    start = interpreter.GridExecutor.__call__

    def launch(self, *args, **kwargs):
        patched.clear()  # the end of a launch takes patches back
        return start(self, *args, **kwargs)

    def call(self, *args, **kwargs):
        if self.fn not in patched:
            patched.add(self.fn)
            interpreter._patch_lang(self.fn)
        return self.rewrite()(*args, **kwargs)

    convert = interpreter._convert_float

    def rounded(data, given, wanted, mode):
        if given == tl.float32 and wanted == tl.bfloat16:
            whole = torch.from_numpy(np.ascontiguousarray(data, dtype=np.float32)).bfloat16()
            return whole.view(torch.int16).numpy().view(np.uint16).reshape(np.shape(data))
        if given == tl.bfloat16 and wanted == tl.float32:
            return (np.asarray(data, dtype=np.uint16).astype(np.uint32) << 16).view(np.float32)
        return convert(data, given, wanted, mode)

    interpreter._convert_float = rounded
    interpreter.GridExecutor.__call__ = launch
    interpreter.InterpretedFunction.__call__ = call

"""Found on PYTHONPATH by a Python that starts under a test's brake; see brake/__init__.py."""

import os
import sys
from pathlib import Path

if folder := os.environ.get("BOKEHFLOW_TEST_BRAKE"):
    tests = str(Path(__file__).resolve().parents[2])
    sys.path.append(tests)
    from brake import put_on

    sys.path.remove(tests)
    put_on(Path(folder))

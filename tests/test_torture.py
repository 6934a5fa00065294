"""The campaign itself: inputs follow from their number, and a short run of it finds nothing."""

import os
import random
import subprocess
import sys

import pytest
from conftest import REPOSITORY
from torture.mutations import mutate, npy_of


def test_an_input_is_a_function_of_seed_and_number():
    samples = {
        "a.json": b'{"a": [1, 2, {"b": null}]}',
        "a.npy": npy_of("(2, 2)", "<f2"),
        "a.txt": b"train\n",
        "a.jpg": bytes(99),
    }
    for name, sample in samples.items():
        made = [mutate(sample, name, random.Random(f"0/{number}")) for number in range(40)]
        assert made == [mutate(sample, name, random.Random(f"0/{number}")) for number in range(40)]
        assert len(set(made)) > 10 and sum(data != sample for data in made) > 30


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="the campaign needs Linux")
def test_a_short_campaign_finds_nothing():
    environment = os.environ | {"PYTHONPATH": os.pathsep.join((str(REPOSITORY / "tests"), str(REPOSITORY)))}
    command = [sys.executable, "-m", "torture", "--rounds", "6", "--inputs", "200"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "in 6 rounds" in done.stdout and "200 mutated inputs" in done.stdout

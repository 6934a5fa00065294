"""The last step of phase 0: what this machine computes on, and a clear word when PyTorch and the driver do not fit."""

import os
import platform
import shutil
import subprocess

import torch

from pipeline.errors import PipelineError
from pipeline.storage.completion import software_versions


def describe() -> list[str]:
    """Device, architecture and versions, one fact a line."""
    lines = [f"{platform.system()} {platform.machine()}, {os.cpu_count()} CPUs"]
    if torch.cuda.is_available():
        for number in range(torch.cuda.device_count()):
            properties = torch.cuda.get_device_properties(number)
            memory = f"{properties.total_memory / 2**30:.0f} GiB"
            lines.append(
                f"cuda:{number} {properties.name}, {memory}, CUDA {torch.version.cuda}, driver {driver_version()}"
            )
    else:
        lines.append("no CUDA device: the embedded engines run on the CPU")
    return [*lines, ", ".join(f"{name} {version}" for name, version in software_versions().items())]


def driver_version() -> str | None:
    """The NVIDIA driver's version as nvidia-smi tells it; None without a driver."""
    if shutil.which("nvidia-smi") is None:
        return None
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return answer.stdout.splitlines()[0].strip() if answer.returncode == 0 and answer.stdout.strip() else None


def check() -> list[str]:
    """`describe`, after making sure that what is here works.

    Raises:
        PipelineError: there is a GPU that this PyTorch cannot use.
    """
    driver = driver_version()
    if driver and not torch.cuda.is_available():
        built = f"built for CUDA {torch.version.cuda}" if torch.version.cuda else "a CPU build"
        raise PipelineError(
            f"there is an NVIDIA GPU (driver {driver}, {platform.machine()}) that PyTorch {torch.__version__}, {built}, cannot "
            f"use; on a cluster make the environment with: bash scripts/00_setup_env.sh --conda (a CUDA 12 build)"
        )
    if torch.cuda.is_available():
        value = torch.ones(8, device="cuda").sum().item()  # a kernel really runs
        assert value == 8, "the GPU adds up wrongly"
    return describe()

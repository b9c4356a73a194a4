"""What a result was measured on: commit, hardware, versions, and the peak of the memory."""

import platform
import resource
import subprocess
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path

import torch

from data_prep.device import num_cores

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("torch", "segmentation-models-pytorch", "numpy")


def commit() -> str:
    """Return the short hash of the commit, with ``+`` where more than results differs; ``unknown`` without git."""
    try:
        short_hash, changes = (
            subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=True).stdout
            for arguments in (("rev-parse", "--short", "HEAD"), ("status", "--porcelain", "-uno", ":!solution/results"))
        )
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return short_hash.strip() + ("+" if changes.strip() else "")


def hardware(device: torch.device) -> str:
    """Name what a device is, as a reader of a table wants it."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{num_cores()} CPU cores, {_processor()}"


def _processor() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names and names[0] != "unknown" else platform.machine()


def versions() -> dict[str, str]:
    """Return the versions that results depend on most."""
    return {"python": platform.python_version()} | {name: version(name) for name in PACKAGES}


def reset_peak(device: torch.device) -> None:
    """Start measuring the peak of the memory anew; on a CPU where the system cannot, it goes on from the last."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")  # Linux: peak = what is resident now


def peak_gib(device: torch.device) -> float:
    """Return the peak GiB since :func:`reset_peak`: allocated on a GPU, resident in this process on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**30
    lines = Path("/proc/self/status").read_text().splitlines()
    kib = next((int(line.split()[1]) for line in lines if line.startswith("VmHWM")), None)
    return (kib or resource.getrusage(resource.RUSAGE_SELF).ru_maxrss) / 2**20

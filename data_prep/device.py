"""What there is to compute with: the cores, and the device that a user named."""

from __future__ import annotations

import os

import torch

from data_prep.errors import UserError


def usable_device(name: str) -> torch.device:
    """Return the device of a name such as ``cuda:1``, after something was computed there.

    Raises:
        UserError: the device does not exist here.
    """
    try:
        device = torch.device(name)
        torch.empty(1, device=device).cpu()
        if device.type in ("cpu", "cuda"):
            return device
    except (RuntimeError, AssertionError, ImportError):
        pass
    raise UserError(f"--device {name}: there is no such device here; expected cpu or cuda.")


def num_cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0))

"""Where tensors live that a user named a device for."""

from __future__ import annotations

import torch

from data_prep.errors import UserError


def usable_device(name: str) -> torch.device:
    """Return the device of a name such as ``cuda:1``, after something was computed there.

    Raises:
        UserError: the device does not exist here.
    """
    try:
        torch.empty(1, device=name).cpu()
        return torch.device(name)
    except (RuntimeError, AssertionError, ImportError):
        raise UserError(f"--device {name}: there is no such device here; expected cpu or cuda.") from None

"""What training keeps on disk: two checkpoints of an unfinished run, of which one may be damaged, and final weights."""

import io
import json
import sys
import zipfile
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors.torch import load_file, save
from torch import nn
from torch.optim.swa_utils import AveragedModel
from tqdm import tqdm

from data_prep.files import write_bytes
from solution import processes

WEIGHTS = "weights.safetensors"
CHECKPOINTS = ("resume.pt", "resume.previous.pt")
"""The newest first."""


@dataclass
class State:
    """A run of training as its last checkpoint has it, and the network, EMA and optimiser that go on from there."""

    model: nn.Module
    ema: AveragedModel
    optimiser: torch.optim.Optimizer
    step: int = 0
    """Of the last checkpoint."""
    log: list[dict] = field(default_factory=list)
    rate_share: float = 1.0
    """Of the recipe's learning rate."""

    def save(self, folder: Path, step: int) -> None:
        """Write the newest checkpoint, as the first process; the one before it is kept."""
        self.step = step
        if not processes.is_first():
            return
        newest, previous = (folder / name for name in CHECKPOINTS)
        networks = {"model": self.model, "ema": self.ema, "optimiser": self.optimiser}
        states = {name: network.state_dict() for name, network in networks.items()}
        stored = io.BytesIO()
        torch.save({"step": step, "log": json.dumps(self.log), "rate_share": self.rate_share, **states}, stored)
        if newest.exists():
            newest.replace(previous)
        write_bytes(newest, stored.getbuffer())

    def load(self, folder: Path, device: torch.device) -> None:
        """Take over the newest whole checkpoint, if there is one; damaged ones are removed."""
        for path in (folder / name for name in CHECKPOINTS):
            stored = _read_checkpoint(path, device) if path.exists() else None
            if stored is not None:
                self.model.load_state_dict(stored["model"])
                self.ema.load_state_dict(stored["ema"])
                self.optimiser.load_state_dict(stored["optimiser"])
                self.step, self.rate_share = stored["step"], stored["rate_share"]
                self.log = json.loads(stored["log"])
                return


def remove_checkpoints(folder: Path) -> None:
    """Remove the checkpoints of a run that is finished; the first process does."""
    if processes.is_first():
        for name in CHECKPOINTS:
            (folder / name).unlink(missing_ok=True)


def save_weights(model: nn.Module, folder: Path) -> None:
    """Write ``weights.safetensors``, replacing it only once the new file is complete; the first process does."""
    if processes.is_first():
        state = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
        write_bytes(folder / WEIGHTS, save(state))
    processes.barrier()


def load_weights(model: nn.Module, folder: Path, device: torch.device) -> nn.Module:
    """Load ``weights.safetensors`` into ``model`` and return it in evaluation mode on the device."""
    model.load_state_dict(load_file(folder / WEIGHTS))
    return model.to(device, memory_format=torch.channels_last).eval()


def _read_checkpoint(path: Path, device: torch.device) -> dict | None:
    """Return what a checkpoint holds, or None, with a notice, if its checksums, which torch ignores, do not agree."""
    try:
        with zipfile.ZipFile(path) as archive:
            whole = archive.testzip() is None
    except Exception:  # a damaged file can end in any of them
        whole = False
    if not whole:
        tqdm.write(f"{path} is damaged; going on from the checkpoint before it.", sys.stderr)
        path.unlink()
        return None
    return torch.load(path, map_location=device, weights_only=True)

"""How fast SimVP runs here: one training step and one forward pass at the competition's size, as this kit runs it and
as plain float32.

It trains nothing and reads no data.
"""

from __future__ import annotations

import json
import resource
import time
from collections.abc import Callable

import click
import torch
import torch.nn.functional as F

from data_prep.errors import exits_cleanly
from data_prep.scene import CLIP_FRAMES, HEIGHT, WIDTH
from solution.models.simvp import TRANSLATORS, SimVP
from solution.training import autocast, autocast_dtype


def measure(model: SimVP, clip: torch.Tensor, repeats: int, plain: bool) -> dict[str, float | str]:
    """Return training and forward clips/s (best of ``repeats``) and the peak memory in GiB so far.

    ``plain`` is what anybody would write first: float32, contiguous, not compiled.
    """
    device = clip.device
    if not plain:
        model = model.to(memory_format=torch.channels_last)
        if device.type == "cuda":
            model.compile()
    optimiser = torch.optim.AdamW(model.parameters(), 1e-4, fused=device.type == "cuda")

    def forward() -> torch.Tensor:
        with torch.autocast(device.type, enabled=False) if plain else autocast(device):
            return model(clip)

    def train() -> None:
        F.mse_loss(forward().float(), clip).backward()
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)

    def infer() -> None:
        with torch.inference_mode():
            forward()

    train_seconds = best_seconds(train, repeats, device)
    model.eval()
    forward_seconds = best_seconds(infer, repeats, device)
    if device.type == "cuda":
        memory = torch.cuda.max_memory_allocated(device) / 2**30
        torch.cuda.reset_peak_memory_stats(device)
    else:
        memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    return {
        "precision": "float32" if plain else str(autocast_dtype(device)).removeprefix("torch."),
        "train_clips_per_s": len(clip) / train_seconds,
        "forward_clips_per_s": len(clip) / forward_seconds,
        "peak_gib": memory,
    }


def best_seconds(run: Callable[[], None], repeats: int, device: torch.device) -> float:
    """Return the seconds of the fastest of ``repeats`` runs, after one that warms up."""
    seconds = []
    for _ in range(repeats + 1):
        start = time.perf_counter()
        run()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        seconds.append(time.perf_counter() - start)
    return min(seconds[1:])


@click.command()
@click.option("--device", default="cuda" if torch.cuda.is_available() else "cpu", show_default=True)
@click.option("--batch", default=None, type=int, help="Clips at a time.  [default: 16 on a GPU, else 1]")
@click.option("--repeats", default=3, show_default=True, type=click.IntRange(1))
@click.option("--hid-s", "hid_S", default=64, show_default=True)
@click.option("--hid-t", "hid_T", default=256, show_default=True)
@exits_cleanly
def main(device: str, batch: int | None, repeats: int, hid_S: int, hid_T: int) -> None:
    """Print one JSON object per translator and precision."""
    chosen = torch.device(device)
    clips = batch or (16 if chosen.type == "cuda" else 1)
    for translator in TRANSLATORS:
        for plain in (True, False):
            torch.manual_seed(0)
            model = SimVP(hid_S=hid_S, hid_T=hid_T, translator=translator).to(chosen)
            clip = torch.rand(clips, CLIP_FRAMES, 3, HEIGHT, WIDTH, device=chosen)
            about = {
                "translator": translator,
                "device": str(chosen),
                "threads": torch.get_num_threads(),
                "clips": clips,
            }
            click.echo(json.dumps(about | measure(model, clip, repeats, plain)))


if __name__ == "__main__":
    main()

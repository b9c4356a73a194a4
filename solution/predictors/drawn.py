"""Shared by the predictors that generate frames: batches of clips, the predictor, and the evaluation of its frames.

How frames are drawn is told in ``frames.py`` and ``jepa.py``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from data_prep.files import write_saved
from data_prep.scene import CLIP_FRAMES, NUM_FRAMES
from solution.augment import pasted_video
from solution.clips import FrameVideos, draw_videos
from solution.losses import structural_similarity
from solution.metrics import score
from solution.predictors import Clip
from solution.training import autocast

STRIP_CLIPS = 3
EVALUATION_CLIPS = 64


class FramesPredictor:
    """A trained pipeline from clips to the logits of frame 22's mask."""

    symmetries = frozenset({"flip"})

    def __init__(self, pipeline: nn.Module):
        self.pipeline = pipeline.eval()

    @torch.inference_mode()
    def predict(self, clip: Clip) -> Tensor:
        with autocast(clip.frames.device):
            logits = self.pipeline(clip)
        return logits.float().softmax(1)


def as_clip(frames: Tensor, downscale: int) -> Tensor:
    """Return (B, T, 3, H / downscale, W / downscale) float32 in [0, 1] of (B, T, H, W, 3) uint8 frames."""
    images = frames.flatten(0, 1).permute(0, 3, 1, 2).float() / 255
    if downscale > 1:
        images = F.avg_pool2d(images, downscale)
    return images.unflatten(0, frames.shape[:2])


def count_epochs(steps: int, batch_size: int, videos: Sequence[FrameVideos]) -> int:
    """Return how often training sees every video, rounded, at least 1."""
    return max(1, round(steps * batch_size / sum(len(part.rows) for part in videos)))


def video_batches(
    batch_size: int, videos: Sequence[FrameVideos], seed: int, with_future: bool, pasted: float = 0.0
) -> Callable[[int], dict[str, Tensor]]:
    """Return the function of the step that draws videos, mirrors half of them, and puts others' objects into some.

    A share ``pasted`` of the videos gets objects. Tensors are uint8: ``clip`` (B, 11, H, W, 3), its masks ``seen``
    (B, 11, H, W) if videos have any, and ``future`` (B, 11, H, W, 3) or, for fine-tuning, ``mask`` (B, 1, H, W) of
    frame 22.
    """
    lengths = [len(part.rows) for part in videos]
    times = np.arange(NUM_FRAMES) if with_future else np.r_[:CLIP_FRAMES, NUM_FRAMES - 1]

    def batch(step: int) -> dict[str, Tensor]:
        rng = np.random.default_rng((seed, step))
        tensors: dict[str, list[np.ndarray]] = {}

        def drawn(count: int) -> list[list[np.ndarray]]:
            sides = [(videos[part].video(row), rng.choice((-1, 1))) for part, row in draw_videos(lengths, count, rng)]
            return [[array[times, :, ::side] for array in video] for video, side in sides]

        for video in drawn(batch_size):
            if rng.random() < pasted:
                video = pasted_video(*video, *drawn(1)[0])
            parts = dict(zip(("clip", "seen"), (array[:CLIP_FRAMES] for array in video), strict=False))
            parts |= {"future": video[0][CLIP_FRAMES:]} if with_future else {"mask": video[1][-1:]}
            for name, part in parts.items():
                tensors.setdefault(name, []).append(part)
        return {name: torch.from_numpy(np.stack(arrays)) for name, arrays in tensors.items()}

    return batch


@torch.inference_mode()
def evaluate_frames(
    draw: Callable[[Clip], tuple[Tensor, Tensor]], held_out: FrameVideos, folder: Path, device: torch.device
) -> dict[str, float]:
    """Return PSNR, SSIM, Jaccard and object IoU of frame 22, and save a strip of a few clips in ``folder``.

    Args:
        draw: maps B clips to (B, 3, 160, 240) frames 22 in [0, 1] and their (B, 160, 240) uint8 masks.
        held_out: labelled videos.
        folder: for the strip.
        device: where to draw.
    """
    errors, similarities, masks = [], [], []
    chosen = held_out.rows[:: max(1, len(held_out.rows) // EVALUATION_CLIPS)]
    for start in range(0, len(chosen), 4):
        rows = chosen[start : start + 4]
        seen = held_out.masks if held_out.seen is None else held_out.seen
        frames, seen = (torch.from_numpy(array[rows]).to(device) for array in (held_out.frames, seen[:, :CLIP_FRAMES]))
        with autocast(device):
            drawn, mask = draw(Clip(frames[:, :CLIP_FRAMES], seen))
        drawn = drawn.float()
        masks.append(mask.cpu())
        truth = as_clip(frames[:, -1:], 1)[:, 0]
        errors.append((drawn - truth).square().mean((1, 2, 3)).cpu())
        similarities.append(structural_similarity(drawn, truth).cpu())
        if start == 0:
            last_seen = as_clip(frames[:, CLIP_FRAMES - 1 : CLIP_FRAMES], 1)[:, 0]
            save_strip(last_seen, truth, drawn, folder)
    result = score(torch.cat(masks), held_out.masks[chosen, -1])
    return {
        "psnr": float(-10 * torch.cat(errors).log10().mean()),
        "ssim": float(torch.cat(similarities).mean()),
        "jaccard": result.jaccard,
        "object_iou": result.object_iou,
    }


def save_strip(last_seen: Tensor, truth: Tensor, drawn: Tensor, folder: Path) -> None:
    """Save frame 11 · true frame 22 · drawn frame 22 · |error| ×3 of the first clips, one row each, as the next PNG.

    All three: (B, 3, H, W) in [0, 1].
    """
    error = (3 * (drawn - truth).abs()).clamp(0, 1)
    rows = torch.cat((last_seen, truth, drawn, error), -1)[:STRIP_CLIPS]  # (3, 3, H, 4·W)
    picture = (255 * torch.cat(list(rows), -2)).round().byte().permute(1, 2, 0).cpu().numpy()
    path = folder / f"strip_{len(list(folder.glob('strip_*.png'))):02d}.png"
    write_saved(path, lambda file: Image.fromarray(picture).save(file, "png"))

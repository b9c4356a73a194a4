"""Statistics of any competition beside those of the real one, and frames of two competitions side by side.

The real values were measured on the competition's public frames; foreground IoUs pool the pixels of all videos.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import click
import cv2
import numpy as np

from data_prep.classes import COLOURS, IGNORE, NUM_CLASSES, class_parts
from data_prep.competition import FRAMES_OF_SPLIT, SPLITS, BadFile, find_competition, read_frame, read_mask
from data_prep.errors import UserError
from data_prep.files import write_bytes
from data_prep.pack import is_packed, open_packed
from data_prep.scene import CLIP_FRAMES, HEIGHT, NUM_FRAMES, WIDTH

SMALLEST = 8
"""Pixels from which an object counts as visible."""
STILL = 1.0
"""Pixels per frame under which the middle of what is visible of an object stands still: rough masks flicker so much."""
TOLERANCE = 0.2

SEEN, TARGET = CLIP_FRAMES - 1, NUM_FRAMES - 1
"""Last frame of the clip, and the frame to predict."""
GAPS = {1: 0.69, 3: 0.44, 5: 0.36}
"""Steps between two frames, and the real foreground IoU at that distance."""
STEP_PERCENTILES = {25: 2.5, 50: 4.7, 75: 7.7, 90: 10.8}
COLOUR_MEDIANS = {
    "red": (114, 52, 51),
    "brown": (96, 72, 40),
    "yellow": (130, 125, 58),
    "cyan": (55, 120, 119),
    "green": (47, 86, 36),
    "blue": (57, 74, 122),
    "purple": (93, 49, 112),
}


@dataclass(frozen=True)
class Row:
    """One statistic here and in the real competition, and whether they are within 20 % (or in the real range)."""

    name: str
    found: str
    real: str
    agrees: bool


@dataclass(frozen=True, eq=False)
class VideoCounts:
    """What one video adds to the statistics.

    visible (22,) objects and foreground (22,) pixels of every frame; steps (n,) px of the visible object-steps;
    late and lasting: objects visible in the last frame that first appear after the clip, and all of them;
    overlaps (4, 2): pixels in both and in either of two frames 1, 3, 5 steps apart, and of frames 10 and 21;
    sizes (m, 2): centre row and height of objects not cut by the border; pairs (49, 49) classes at frames 21 × 10;
    pixels: (p, 3) RGB by colour name.
    """

    visible: np.ndarray
    foreground: np.ndarray
    steps: np.ndarray
    late: int
    lasting: int
    overlaps: np.ndarray
    sizes: np.ndarray
    pairs: np.ndarray
    pixels: dict[str, np.ndarray]


def count_video(masks: np.ndarray, frames: np.ndarray | None) -> VideoCounts:
    """Count in one video's (22, 160, 240) uint8 masks and, where there are some, (22, 160, 240, 3) uint8 frames."""
    masks = np.where(masks == IGNORE, 0, masks)
    solid = masks > 0
    frame, row, column = solid.nonzero()
    label = masks[solid].astype(np.int64)
    cell = frame * NUM_CLASSES + label
    cells, shape = NUM_FRAMES * NUM_CLASSES, (NUM_FRAMES, NUM_CLASSES)
    area = np.bincount(cell, minlength=cells)
    middle = [np.bincount(cell, weights=place, minlength=cells) / np.maximum(area, 1) for place in (row, column)]
    top, bottom = np.full(cells, HEIGHT), np.zeros(cells, np.int64)
    np.minimum.at(top, cell, row)
    np.maximum.at(bottom, cell, row + 1)
    at_border = (row == 0) | (row == HEIGHT - 1) | (column == 0) | (column == WIDTH - 1)
    cut = np.bincount(cell[at_border], minlength=cells) > 0

    visible = (area >= SMALLEST).reshape(shape)
    lengths = np.hypot(*(np.diff(place.reshape(shape), axis=0) for place in middle))
    first = visible.argmax(0)
    whole = visible.ravel() & ~cut
    overlaps = [((solid[:-gap] & solid[gap:]).sum(), (solid[:-gap] | solid[gap:]).sum()) for gap in GAPS] + [
        ((solid[SEEN] & solid[TARGET]).sum(), (solid[SEEN] | solid[TARGET]).sum())
    ]
    pairs = masks[TARGET].astype(np.int64) * NUM_CLASSES + masks[SEEN]
    pixels = {}
    if frames is not None:
        colour = np.array([-1] + [class_parts(c)[2] for c in range(1, NUM_CLASSES)])[label]
        for index, name in enumerate(COLOURS):
            chosen = np.flatnonzero(colour == index)[::7]
            pixels[name] = frames[frame[chosen], row[chosen], column[chosen]]
    return VideoCounts(
        visible=visible.sum(1),
        foreground=solid.sum((1, 2)),
        steps=lengths[visible[1:] & visible[:-1]],
        late=int((visible[TARGET] & (first > SEEN)).sum()),
        lasting=int(visible[TARGET].sum()),
        overlaps=np.array(overlaps),
        sizes=np.stack((middle[0][whole], (bottom - top)[whole]), 1),
        pairs=np.bincount(pairs.ravel(), minlength=NUM_CLASSES**2).reshape(NUM_CLASSES, NUM_CLASSES),
        pixels=pixels,
    )


def statistics(videos: list[VideoCounts]) -> list[Row]:
    """Return every statistic of DESIGN's list for counted videos."""
    visible = np.stack([video.visible for video in videos])
    foreground = 100 * np.stack([video.foreground for video in videos]) / (HEIGHT * WIDTH)
    steps = np.concatenate([video.steps for video in videos])
    overlaps = np.sum([video.overlaps for video in videos], axis=0)
    iou = overlaps[:, 0] / np.maximum(overlaps[:, 1], 1)
    slope, start = np.polyfit(*np.concatenate([video.sizes for video in videos]).T, 1)
    late = sum(video.late for video in videos) / max(sum(video.lasting for video in videos), 1)
    pairs = np.sum([video.pairs for video in videos], axis=0)
    either = pairs.sum(0) + pairs.sum(1) - pairs.diagonal()
    copying = float((pairs.diagonal()[either > 0] / either[either > 0]).mean())

    rows = [
        near("visible objects, frame 0", visible[:, 0].mean(), 2.6),
        near("visible objects, frames 5-21", visible[:, 5:].mean(), 4.1),
        Row("most visible objects", f"{visible.max()}", "6", visible.max() <= 6),
        near("foreground, frame 0 (%)", foreground[:, 0].mean(), 3.6),
        near("foreground, frames 5-21 (%)", foreground[:, 5:].mean(), 6.0),
        near("object-steps standing still", (steps < STILL).mean(), 0.5),
    ]
    moving = steps[steps >= STILL]
    rows += [near(f"moving step, {p} % (px)", np.percentile(moving, p), real) for p, real in STEP_PERCENTILES.items()]
    rows.append(near("fast step, 99 % (px)", np.percentile(moving, 99), 25.0))
    rows += [
        near(f"foreground IoU, {gap} apart", value, real) for value, (gap, real) in zip(iou, GAPS.items(), strict=False)
    ]
    rows += [
        near("foreground IoU, frame 10 to 21", iou[-1], 0.23),
        near("first seen after frame 10", late, 0.06),
        near("object height at row 80 (px)", start + 80 * slope, 13 + 0.23 * 80),
        Row("Jaccard of copying frame 10", f"{copying:.3f}", "0.18-0.24", 0.18 <= copying <= 0.24),
    ]
    for name, real in COLOUR_MEDIANS.items():
        pixels = [video.pixels[name] for video in videos if len(video.pixels.get(name, ()))]
        if pixels:
            found = np.median(np.concatenate(pixels), 0)
            agrees = bool((np.abs(found / real - 1) <= TOLERANCE).all())
            rows.append(
                Row(f"median colour, {name}", *(",".join(f"{c:.0f}" for c in rgb) for rgb in (found, real)), agrees)
            )
    return rows


def near(name: str, found: float, real: float) -> Row:
    """Return the row of one number."""
    return Row(name, f"{found:.3g}", f"{real:g}", abs(found / real - 1) <= TOLERANCE)


def table(rows: list[Row]) -> str:
    """Return rows as text."""
    lines = [f"{'':32} {'here':>12} {'real':>12}  within 20 %"]
    lines += [f"{row.name:32} {row.found:>12} {row.real:>12}  {'yes' if row.agrees else 'NO'}" for row in rows]
    return "\n".join(lines)


def labelled_videos(folder: Path) -> Iterator[tuple[np.ndarray, np.ndarray | None]]:
    """Yield (22, 160, 240) masks and (22, 160, 240, 3) frames of every labelled video of a raw or packed competition.

    A stand-in of masks only has no frames, None.

    Raises:
        UserError: there are no masks in ``folder``.
    """
    bare = [folder / split / "masks.npy" for split in SPLITS if (folder / split / "tracks.npz").is_file()]
    if bare:
        for path in bare:
            yield from ((masks, None) for masks in np.load(path, mmap_mode="r"))
    elif is_packed(folder):
        labelled = [split for split in open_packed(folder).values() if split.masks is not None]
        for split in labelled:
            yield from zip(split.masks, split.frames, strict=True)
    else:
        found = find_competition(folder, required=()).splits
        for split in ("train", "val"):
            for video in found.get(split, {}).values():
                with left_out_if_bad(video):
                    yield read_mask(video / "mask.npy")[0], read_video(video, split)


@contextmanager
def left_out_if_bad(video: Path) -> Iterator[None]:
    """Go on after a ``BadFile`` of a video folder, which is named on standard error."""
    try:
        yield
    except BadFile as error:
        click.echo(f"left out: {video}: {error}", err=True)


def read_video(folder: Path, split: str) -> np.ndarray:
    """Return the (T, 160, 240, 3) frames of one raw video."""
    return np.stack([read_frame(folder / f"image_{t}.png") for t in range(FRAMES_OF_SPLIT[split])])


def videos_of(folder: Path) -> Iterator[np.ndarray]:
    """Yield (22, 160, 240, 3) frames of the train and unlabeled videos of a raw or packed competition."""
    if is_packed(folder):
        for split in open_packed(folder).values():
            if split.name != "hidden" and split.frames is not None:
                yield from split.frames
        return
    for split, videos in find_competition(folder, required=()).splits.items():
        if split != "hidden":
            for video in videos.values():
                with left_out_if_bad(video):
                    yield read_video(video, split)


def measure(folder: Path, most: int) -> list[Row]:
    """Return the statistics of the first ``most`` labelled videos of a competition."""
    counted = [count_video(masks, frames) for masks, frames in islice(labelled_videos(folder), most)]
    if not counted:
        raise UserError(
            f"{folder} has no whole video with masks to count in; name a competition with a train or val split."
        )
    return statistics(counted)


def picture(folder: Path, real: Path, out: Path, rows: int = 6) -> None:
    """Write a PNG: three frames of a competition left, three of another right, one video of each per row."""
    when = (0, SEEN, TARGET)
    lines = [
        np.hstack([video[t] for video in pair for t in when])
        for pair in islice(zip(videos_of(folder), videos_of(real), strict=False), rows)
    ]
    if not lines:
        raise UserError(f"{folder} or {real} has no whole videos with frames; name two raw or packed competitions.")
    out.parent.mkdir(parents=True, exist_ok=True)
    write_bytes(out, cv2.imencode(".png", np.vstack(lines)[..., ::-1])[1].tobytes())

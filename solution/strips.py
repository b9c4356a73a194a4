"""One picture of a video for each of four fates: what was seen, what was expected of frame 22, what went wrong."""

from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from data_prep.classes import class_name
from data_prep.errors import UserError
from data_prep.files import write_saved
from data_prep.pack import PackedSplit
from data_prep.scene import CLIP_FRAMES
from solution.fates import FATES, MEANING
from solution.metrics import mean_and_error, object_table, video_confusions
from solution.page import Material, outlined, panels

FORMATS = (".png", ".jpg")
SHOWN = ("moved", "collided", "occluded", "late")
"""Fates that are drawn; still objects are nearly always predicted well."""
DRAWN = 4
"""Videos of a picture without truth."""
Row = tuple[str, list[tuple[str, np.ndarray]]]
"""A title, and captions and (h, w, 3) uint8 panels below it."""


def check_picture(path: Path) -> None:
    """Raise ``UserError`` if no picture can have this name."""
    if path.suffix not in FORMATS:
        raise UserError(f"--picture {path}: expected a name that ends in {' or '.join(FORMATS)}.")


def write_strips(path: Path, material: Material) -> None:
    """Draw the videos of :func:`typical` objects into a PNG or JPEG file that appears when complete.

    Raises:
        UserError: no video has an object in frame 22.
    """
    rows = [(text, panels(material, row)) for text, row in typical(material)]
    if not rows:
        raise UserError(f"--picture {path}: expected videos with objects in frame 22, found none; choose other --data.")
    write_rows(path, rows)


def write_predicted(path: Path, hidden: PackedSplit, masks: np.ndarray) -> None:
    """Draw frames 1, 6 and 11 of the first hidden videos, and on the last the outlines of (N, 160, 240) uint8 masks."""
    rows = []
    for number, frames, mask in zip(hidden.videos[:DRAWN], hidden.frames, masks, strict=False):
        shown = [(f"frame {t + 1}", frames[t]) for t in (0, 5, CLIP_FRAMES - 1)]
        drawn = outlined(frames[CLIP_FRAMES - 1], np.zeros_like(mask), mask)
        rows.append((f"video {number}", [*shown, ("frame 11, predicted outlines of frame 22", drawn)]))
    write_rows(path, rows)


def write_rows(path: Path, rows: list[Row]) -> None:
    """Write rows of panels below each other into a file."""
    columns = max(len(shown) for _, shown in rows)
    figure = Figure(figsize=(3.6 * columns, 2.9 * len(rows)), layout="constrained")
    for part, (text, shown) in zip(figure.subfigures(len(rows), squeeze=False)[:, 0], rows, strict=True):
        part.suptitle(text, x=0.005, ha="left", fontsize="large")
        for axes, (caption, image) in zip(part.subplots(1, columns, squeeze=False)[0], shown, strict=True):
            axes.imshow(image)
            axes.set_title(caption, loc="left", fontsize="medium", color="dimgray")
            axes.axis("off")
    path.parent.mkdir(parents=True, exist_ok=True)
    write_saved(path, lambda file: figure.savefig(file, format=path.suffix[1:], pil_kwargs={"optimize": True}))


def typical(material: Material) -> list[tuple[str, int]]:
    """Return a text and the row of a video for each of ``SHOWN``: of its objects the one nearest to their mean IoU.

    Of equally near ones it is the largest in frame 22, from a video not chosen before; fates without objects are left
    out.
    """
    counts = video_confusions(material.prediction, material.truth)
    ious, sizes = object_table(counts), counts.sum(-1)
    chosen: list[tuple[str, int]] = []
    for fate in SHOWN:
        candidates = (material.fates == FATES.index(fate)) & np.isfinite(ious)
        mean, _ = mean_and_error(ious[candidates])
        candidates[[row for _, row in chosen]] = False
        objects = np.argwhere(candidates)
        if len(objects):
            row, label = min(objects, key=lambda place: (abs(ious[tuple(place)] - mean), -sizes[tuple(place)]))
            which = "{} {}".format(*material.name_of(row))
            text = f"{fate} ({MEANING[fate]}): {class_name(label)} of {which}, IoU {ious[row, label]:.2f}"
            chosen.append((f"{text}; all of this fate {mean:.2f}", int(row)))
    return chosen

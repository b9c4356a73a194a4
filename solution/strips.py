"""One picture of a video for each of four fates: what was seen, what was expected of frame 22, what went wrong."""

from __future__ import annotations

from pathlib import Path

import matplotlib
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from data_prep.classes import class_name
from data_prep.errors import UserError
from data_prep.files import write_saved
from data_prep.pack import PackedSplit
from data_prep.scene import CLIP_FRAMES
from solution.fates import FATES, MEANING
from solution.metrics import mean_and_error, object_table, video_confusions
from solution.page import Material, outlined, panels

FORMATS = {".png": "PNG", ".jpg": "JPEG"}
SHOWN = ("moved", "collided", "occluded", "late")
"""What stood still is met nearly always."""
DRAWN = 4
"""Videos of a picture without truth."""
WIDTH, HEIGHT, LINE, GAP = 360, 240, 24, 4
"""Pixels: of a panel, the line of text above it, and between panels."""
FONT = Path(matplotlib.get_data_path(), "fonts", "ttf", "DejaVuSans.ttf")
"""Pillow's own has no dash."""


def check_picture(path: Path) -> None:
    """Raise ``UserError`` if no picture can have this name."""
    if path.suffix not in FORMATS:
        raise UserError(f"--picture {path}: expected a name that ends in {' or '.join(FORMATS)}.")


def write_strips(path: Path, material: Material) -> None:
    """Draw the strips of typical objects, see :func:`typical`, into a PNG or JPEG file that appears when complete.

    Args:
        path: the file.
        material: of a report page, with fates.

    Raises:
        UserError: no video has an object in frame 22.
    """
    rows = [strip(text, panels(material, row)) for text, row in typical(material)]
    if not rows:
        raise UserError(f"--picture {path}: expected videos with objects in frame 22, found none; choose other --data.")
    write_rows(path, rows)


def write_predicted(path: Path, hidden: PackedSplit, masks: np.ndarray) -> None:
    """Draw frames 1, 6 and 11 of the first hidden videos, and on the last the outlines predicted for frame 22.

    Args:
        path: a PNG or JPEG file, which appears when complete.
        hidden: has frames.
        masks: (N, 160, 240) uint8, predicted.
    """
    rows = []
    for number, frames, mask in zip(hidden.videos[:DRAWN], hidden.frames, masks, strict=False):
        shown = [(f"frame {t + 1}", frames[t]) for t in (0, 5, CLIP_FRAMES - 1)]
        drawn = outlined(frames[CLIP_FRAMES - 1], np.zeros_like(mask), mask)
        rows.append(strip(f"video {number}", [*shown, ("frame 11, predicted outlines of frame 22", drawn)]))
    write_rows(path, rows)


def write_rows(path: Path, rows: list[Image.Image]) -> None:
    """Write pictures below each other into a file."""
    picture = Image.new("RGB", (max(row.width for row in rows), sum(row.height for row in rows)), "white")
    top = 0
    for row in rows:
        picture.paste(row, (0, top))
        top += row.height
    path.parent.mkdir(parents=True, exist_ok=True)
    write_saved(path, lambda file: picture.save(file, FORMATS[path.suffix], quality=85, optimize=True))


def typical(material: Material) -> list[tuple[str, int]]:
    """Return a text and the row of a video for each of ``SHOWN``: of its objects the one nearest to their mean IoU.

    Of equally near ones it is the largest in frame 22, from a video not chosen before; fates without objects are left
    out.
    """
    counts = video_confusions(material.prediction, material.truth)
    ious, sizes = object_table(counts), counts.sum(-1)
    found: list[tuple[str, int]] = []
    for fate in SHOWN:
        some = (material.fates == FATES.index(fate)) & np.isfinite(ious)
        mean, _ = mean_and_error(ious[some])
        some[[row for _, row in found]] = False
        places = np.argwhere(some)
        if len(places):
            row, label = min(places, key=lambda place: (abs(ious[tuple(place)] - mean), -sizes[tuple(place)]))
            which = "{} {}".format(*material.name_of(row))
            text = f"{fate} ({MEANING[fate]}): {class_name(label)} of {which}, IoU {ious[row, label]:.2f}"
            found.append((f"{text}; all of this fate {mean:.2f}", int(row)))
    return found


def strip(text: str, shown: list[tuple[str, np.ndarray]]) -> Image.Image:
    """Return the panels of one video, captions and pictures, side by side below a text."""
    picture = Image.new("RGB", (len(shown) * (WIDTH + GAP) - GAP, HEIGHT + 2 * LINE), "white")
    draw, font = ImageDraw.Draw(picture), ImageFont.truetype(FONT, LINE * 3 // 5)
    draw.text((GAP, GAP), text, "black", font)
    for place, (caption, image) in enumerate(shown):
        left = place * (WIDTH + GAP)
        draw.text((left + GAP, LINE + GAP), caption, (90, 90, 90), font)
        whole = Image.fromarray(np.ascontiguousarray(image))
        picture.paste(whole.resize((WIDTH, HEIGHT), Image.Resampling.LANCZOS), (left, 2 * LINE))
    return picture

"""The report page: one HTML file that shows a score, where its points were lost, and the videos that lost them.

It needs no network and no other file; the template ``page.html`` beside this module holds all its HTML.
"""

import base64
import io
import json
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from PIL import Image

from data_prep.classes import IGNORE, NUM_CLASSES, class_name
from data_prep.files import write_text
from data_prep.scene import CLIP_FRAMES, NUM_FRAMES
from solution.fates import FATES, MEANING
from solution.metrics import Score, mean_and_error, object_table, per_class_iou, video_confusions
from solution.results_table import number, with_error

WORST, RANDOM, CONFUSIONS = 24, 12, 12
"""Videos shown at most, and pairs of classes."""
LOST = 0.2
"""An object with less IoU than this is marked."""

# Okabe & Ito's colours, which people who see no red or no green can tell apart; they differ in lightness too.
TRUTH, PREDICTION = (86, 180, 233), (230, 159, 0)
RIGHT, MISSED, INVENTED = (150, 150, 150), (0, 114, 178), (230, 159, 0)
MISTAKEN, NOT_SCORED = (30, 30, 30), (255, 255, 255)
FLOOR = (238, 238, 238)
DIAMOND = (np.abs(np.arange(-2, 3))[:, None] + np.abs(np.arange(-2, 3)) <= 2).astype(np.uint8)
"""Structuring element of outlines."""
KEY = (
    ("truth, solid line", TRUTH),
    ("prediction, dashed line", PREDICTION),
    ("right", RIGHT),
    ("missed: an object, floor predicted", MISSED),
    ("invented: floor, an object predicted", INVENTED),
    ("mistaken for another object", MISTAKEN),
)


@dataclass(frozen=True)
class Material:
    """What a page is made of.

    Attributes:
        title: of the page.
        prediction: (N, 160, 240) uint8.
        truth: (N, 160, 240) uint8, 255 = not scored.
        scores: by method.
        own: the method of the prediction.
        videos: the number of every video, where known.
        frames: (N, T, 160, 240, 3) uint8 of T = 11 or 22 frames, where known.
        fates: (N, 49) of the objects, see ``solution.fates``; None where only frame 22's masks are known.
        presence: (N, 160, 240) uint8 predicted probability of any object, 255 is certain; None of a file of labels.
        about: headings and texts, or JSON values, of how the prediction was made.
    """

    title: str
    prediction: np.ndarray
    truth: np.ndarray
    scores: dict[str, Score]
    own: str
    videos: list[int] | None = None
    frames: np.ndarray | None = None
    fates: np.ndarray | None = None
    presence: np.ndarray | None = None
    about: dict[str, object] = field(default_factory=dict)

    def name_of(self, row: int) -> tuple[str, int]:
        """Return "video" and its number, or "row" and the row where numbers are unknown."""
        return ("row", row) if self.videos is None else ("video", self.videos[row])


def write_page(path: Path, material: Material) -> None:
    """Write the page to ``path``, which appears only when complete."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, page(material))


def page(material: Material) -> str:
    """Return the page's HTML."""
    counts = video_confusions(material.prediction, material.truth)
    object_ious = object_table(counts)
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=StrictUndefined,
    )
    environment.filters |= {"number": number, "with_error": with_error}
    return environment.get_template("page.html").render(
        material=material,
        own=material.scores[material.own],
        fates=None if material.fates is None else fate_means(object_ious, material.fates),
        meaning=MEANING,
        class_ids={class_name(label): label for label in range(NUM_CLASSES)},
        confusions=largest_confusions(counts.sum(0)),
        colour_key=KEY,
        num_videos=len(counts),
        num_worst=WORST,
        num_others=min(RANDOM, len(counts) - WORST),
        secret=material.frames is not None and material.frames.shape[1] < NUM_FRAMES,
        videos=[
            video_card(material, row, group, counts[row], object_ious[row]) for row, group in choose_videos(counts)
        ],
        about={
            heading: value if isinstance(value, str) else json.dumps(value, indent=1)
            for heading, value in material.about.items()
        },
    )


def choose_videos(counts: np.ndarray) -> list[tuple[int, str]]:
    """Return the rows of the worst and of some random other videos of (N, 49, 49) counts, and which each is."""
    scores = video_scores(counts)
    scored = np.flatnonzero(np.isfinite(scores))
    order = scored[np.argsort(scores[scored], kind="stable")]
    random = np.random.default_rng(0).permutation(order[WORST:])[:RANDOM]
    return [(int(row), "worst") for row in order[:WORST]] + [(int(row), "random") for row in random]


def video_scores(counts: np.ndarray) -> np.ndarray:
    """Return (N,) mean IoU over the object classes in a video's prediction or truth; nan where there is none."""
    ious = per_class_iou(counts)[:, 1:]
    present = np.isfinite(ious)
    total = np.where(present, ious, 0).sum(1)
    return np.divide(total, present.sum(1), out=np.full(len(ious), np.nan), where=present.any(1))


def fate_means(object_ious: np.ndarray, fates: np.ndarray) -> list[tuple[str, int, float, float]]:
    """Return name, number of objects, mean IoU and its standard error of every fate, from (N, 49) IoUs and fates."""
    ious_by_fate = {name: object_ious[fates == index] for index, name in enumerate(FATES)}
    return [(name, int(np.isfinite(ious).sum()), *mean_and_error(ious)) for name, ious in ious_by_fate.items()]


def largest_confusions(confusion: np.ndarray) -> list[tuple[str, str, int]]:
    """Return true class, predicted class and pixels of the largest of (49, 49) counts off the diagonal."""
    wrong = confusion - np.diag(np.diag(confusion))
    largest = np.argsort(wrong, axis=None, kind="stable")[::-1][:CONFUSIONS]
    pairs = [divmod(int(place), NUM_CLASSES) for place in largest]
    return [
        (class_name(true), class_name(drawn), int(wrong[true, drawn])) for true, drawn in pairs if wrong[true, drawn]
    ]


def video_card(material: Material, row: int, group: str, counts: np.ndarray, ious: np.ndarray) -> dict[str, object]:
    """Return what the page says of one video: its score, its pictures and its objects.

    ``counts``: (49, 49) pixels of the video; ``ious``: (49,) of its objects, nan where the truth has none.
    """
    kind, video = material.name_of(row)
    present = np.flatnonzero((counts.sum(0) + counts.sum(1))[1:] > 0) + 1
    objects = []
    for label in map(int, present):
        fate = -1 if material.fates is None else material.fates[row, label]
        if np.isfinite(ious[label]):
            text = f"{class_name(label)} {ious[label]:.2f}" + (f", {FATES[fate]}" if fate >= 0 else "")
            objects.append((text, ious[label] < LOST))
        else:
            objects.append((f"{class_name(label)}: drawn, not there", True))
    return {
        "kind": kind,
        "number": video,
        "group": group,
        "score": float(video_scores(counts[None])[0]),
        "classes": " ".join(map(str, present)),
        "objects": objects,
        "pictures": [(caption, as_png(image)) for caption, image in panels(material, row)],
    }


def panels(material: Material, row: int) -> list[tuple[str, np.ndarray]]:
    """Return captions and (h, w, 3) uint8 pictures of one video."""
    truth, prediction = np.array(material.truth[row]), np.array(material.prediction[row])
    pictures = []
    floor = np.full((*truth.shape, 3), 128, np.uint8)
    if material.frames is not None:
        pictures = [(f"frame {t + 1}", material.frames[row, t]) for t in (0, 5, CLIP_FRAMES - 1)]
        if material.frames.shape[1] == NUM_FRAMES:
            floor = material.frames[row, -1]
        outlines = [("frame 22: truth, prediction", outlined(floor, truth, prediction))]
    else:
        outlines = [
            ("truth", outlined(floor, truth, np.zeros_like(truth))),
            ("prediction", outlined(floor, np.zeros_like(truth), prediction)),
        ]
    if material.presence is not None:
        outlines.append(("probability, truth", likely(floor, material.presence[row], truth)))
    return [*pictures, *outlines, ("errors", error_map(truth, prediction))]


def likely(frame: np.ndarray, presence: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Return the frame in grey, more of the prediction's colour where an object is more likely, with true outlines."""
    share = presence[..., None] / 255
    grey = np.repeat(frame.mean(-1, keepdims=True) * 0.6, 3, -1)
    mixed = (grey * (1 - share) + np.array(PREDICTION) * share).astype(np.uint8)
    return outlined(mixed, truth, np.zeros_like(truth))


def outlined(frame: np.ndarray, truth: np.ndarray, prediction: np.ndarray) -> np.ndarray:
    """Return the frame at twice its size with the truth's outline solid and the prediction's dashed over it."""
    picture, truth, prediction = (np.repeat(np.repeat(a, 2, 0), 2, 1) for a in (frame, truth, prediction))
    picture[edges(truth)] = TRUTH
    rows, columns = np.indices(truth.shape)
    picture[edges(prediction) & ((rows + columns) % 16 < 10)] = PREDICTION
    return picture


def edges(mask: np.ndarray) -> np.ndarray:
    """Return where an object of an (H, W) mask borders on something else, two pixels wide; 255 is no object."""
    different = cv2.dilate(mask, DIAMOND) != cv2.erode(mask, DIAMOND)
    return different & (mask > 0) & (mask != IGNORE)


def error_map(truth: np.ndarray, prediction: np.ndarray) -> np.ndarray:
    """Return the (H, W, 3) picture of what is right, missed, invented and mistaken."""
    picture = np.full((*truth.shape, 3), FLOOR, np.uint8)
    object_there, object_drawn = truth > 0, prediction > 0
    picture[object_there & object_drawn] = MISTAKEN
    picture[object_there & (truth == prediction)] = RIGHT
    picture[object_there & ~object_drawn] = MISSED
    picture[~object_there & object_drawn] = INVENTED
    picture[truth == IGNORE] = NOT_SCORED
    return picture


def as_png(picture: np.ndarray) -> str:
    """Return an (H, W, 3) uint8 picture as a data URL; few colours, because a page holds nearly 200 pictures."""
    stream = io.BytesIO()
    # Maximum coverage keeps the colours of small things, which a median cut gives to the floor.
    image = Image.fromarray(np.ascontiguousarray(picture)).quantize(96, Image.Quantize.MAXCOVERAGE)
    image.save(stream, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(stream.getvalue()).decode()

"""The report page: one HTML file that shows a score, where its points were lost, and the videos that lost them.

It needs no network and no other file; the template beside this module holds its looks and its few lines of script.
"""

from __future__ import annotations

import base64
import io
import json
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from string import Template

import numpy as np
from PIL import Image

from data_prep.classes import IGNORE, NUM_CLASSES, class_name
from data_prep.files import write_text
from data_prep.scene import CLIP_FRAMES, NUM_FRAMES
from solution.evaluation import Reliability
from solution.fates import FATES, MEANING
from solution.metrics import Score, mean_and_error, object_table, per_class_iou, video_confusions
from solution.results_table import number, with_error

WORST, RANDOM, CONFUSIONS = 24, 12, 12
TEMPLATE = Path(__file__).with_name("page.html")

# Okabe & Ito's colours, which people who see no red or no green can tell apart; they differ in lightness too.
TRUTH, PREDICTION = (86, 180, 233), (230, 159, 0)
RIGHT, MISSED, INVENTED, MISTAKEN, NOT_SCORED = (
    (150, 150, 150),
    (0, 114, 178),
    (230, 159, 0),
    (30, 30, 30),
    (255, 255, 255),
)
FLOOR = (238, 238, 238)
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
        scores: by method; the page's own is called ``own``.
        own: which of the scores is the prediction's.
        videos: the number of every video; None where nobody knows.
        frames: (N, T, 160, 240, 3) uint8 of T = 11 or 22 frames; None where nobody has them.
        fates: (N, 49) of the objects, see ``solution.fates``; None where only frame 22's masks are known.
        presence: (N, 160, 240) uint8 predicted probability of any object, 255 is certain; None like ``reliability``.
        reliability: of the probabilities; None where there are only labels.
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
    reliability: Reliability | None = None
    about: dict[str, object] = field(default_factory=dict)

    def name_of(self, row: int) -> tuple[str, int]:
        """Return "video" and the number of the video in a row, or "row" and the row where nobody knows the number."""
        return ("row", row) if self.videos is None else ("video", self.videos[row])


def write_page(path: Path, material: Material) -> None:
    """Write the page to ``path``, which appears only when complete."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, page(material))


def page(material: Material) -> str:
    """Return the page's HTML."""
    own = material.scores[material.own]
    counts = video_confusions(material.prediction, material.truth)
    objects, fate = object_table(counts), material.fates
    rows, groups = choose_videos(counts)
    left_out = f", {own.videos_left_out} videos left out" if own.videos_left_out else ""
    return Template(TEMPLATE.read_text()).substitute(
        title=escape(material.title),
        jaccard=number(own.jaccard),
        object_iou=with_error(own.object_iou, own.object_iou_se),
        videos=own.videos,
        objects=own.objects,
        left_out=left_out,
        methods=method_table(material),
        fates=fate_bars(objects, fate),
        classes=class_bars(own),
        confusions=confusion_table(counts.sum(0)),
        reliability=reliability_plot(material.reliability),
        panels=3 + 2 * (material.frames is not None) + (material.presence is not None),
        strips_note=strips_note(material, len(counts)),
        key="".join(f'<span><i style="background:rgb{colour}"></i>{name}</span>' for name, colour in KEY),
        class_options="".join(f'<option value="{c}">{class_name(c)}</option>' for c in range(1, NUM_CLASSES)),
        strips="".join(
            card(material, row, group, counts[row], objects[row], None if fate is None else fate[row])
            for row, group in zip(rows, groups, strict=True)
        ),
        about="".join(about(heading, value) for heading, value in material.about.items()),
    )


def choose_videos(counts: np.ndarray) -> tuple[list[int], list[str]]:
    """Return the rows of the worst and of some random other videos of (N, 49, 49) counts, and which they are."""
    scores = video_scores(counts)
    scored = np.flatnonzero(np.isfinite(scores))
    order = scored[np.argsort(scores[scored], kind="stable")]
    worst, rest = order[:WORST], order[WORST:]
    random = np.random.default_rng(0).permutation(rest)[:RANDOM]
    return [*map(int, worst), *map(int, random)], ["worst"] * len(worst) + ["random"] * len(random)


def video_scores(counts: np.ndarray) -> np.ndarray:
    """Return (N,) mean IoU over the object classes in a video's prediction or truth; nan where there is none."""
    ious = per_class_iou(counts)[:, 1:]
    present = np.isfinite(ious)
    total = np.where(present, ious, 0).sum(1)
    return np.divide(total, present.sum(1), out=np.full(len(ious), np.nan), where=present.any(1))


def method_table(material: Material) -> str:
    rows = "".join(
        f"<tr{' class=own' if name == material.own else ''}><td>{escape(name)}</td>"
        f'<td class="n">{number(reached.jaccard)}</td>'
        f'<td class="n">{with_error(reached.object_iou, reached.object_iou_se, ".3f")}</td></tr>'
        for name, reached in material.scores.items()
    )
    note = "" if len(material.scores) > 2 else "<p>Other baselines and the ceiling need a run: --run with --data.</p>"
    head = '<tr><th>method</th><th class="n">Jaccard</th><th class="n">object IoU</th></tr>'
    return f"<table>{head}{rows}</table>{note}"


def fate_bars(objects: np.ndarray, fates: np.ndarray | None) -> str:
    """Return bars of the mean IoU by fate, from (N, 49) IoUs and (N, 49) fates."""
    if fates is None:
        return "<p>Not available: it is read off the true masks of all 22 frames, and only frame 22's are known.</p>"
    bars = []
    for index, name in enumerate(FATES):
        values = objects[fates == index]
        mean, error = mean_and_error(values)
        count = int(np.isfinite(values).sum())
        label = f"{name} <small>({count})</small>"
        bars.append(f'<div title="{MEANING[name]}">{bar(label, mean, error)}</div>')
    meaning = " ".join(f"<b>{name}</b>: {text}." for name, text in MEANING.items())
    return f"<p>Mean IoU of the objects, with its standard error.</p>{''.join(bars)}<p><small>{meaning}</small></p>"


def class_bars(own: Score) -> str:
    ids = {class_name(c): c for c in range(NUM_CLASSES)}
    return "".join(bar(name, iou, label_class=ids[name]) for name, iou in own.per_class.items())


def bar(label: str, value: float, error: float = float("nan"), label_class: int | None = None) -> str:
    """Return one labelled bar of a value in [0, 1]; a button where it stands for a class of objects."""
    known = np.isfinite(value)
    mark = ""
    if np.isfinite(error):
        low, high = max(0.0, value - error), min(1.0, value + error)
        mark = f'<span class="error" style="left:{low:.1%};width:{high - low:.1%}"></span>'
    fill = f'<span class="fill" style="width:{value if known else 0:.1%}"></span>{mark}'
    tag, data = ("button", f' data-class="{label_class}"') if label_class else ("div", "")
    text = f"{value:.3f}" if known else "–"
    inside = f'<span>{label}</span><span class="track">{fill}</span><span class="value">{text}</span>'
    return f'<{tag} class="bar"{data}>{inside}</{tag}>'


def confusion_table(confusion: np.ndarray) -> str:
    """Return the largest entries of (49, 49) counts between two different classes."""
    wrong = confusion - np.diag(np.diag(confusion))
    largest = np.argsort(wrong, axis=None, kind="stable")[::-1][:CONFUSIONS]
    rows = "".join(
        f"<tr><td>{class_name(true)}</td><td>{class_name(predicted)}</td>"
        f'<td class="n">{wrong[true, predicted]:,}</td></tr>'
        for true, predicted in (map(int, np.unravel_index(place, wrong.shape)) for place in largest)
        if wrong[true, predicted]
    )
    return f'<table><tr><th>truth</th><th>prediction</th><th class="n">pixels</th></tr>{rows}</table>'


def reliability_plot(reliability: Reliability | None) -> str:
    """Return a plot of how often a pixel was the object it was predicted to be, by probability."""
    if reliability is None:
        return "<p>Not available: a file of labels holds no probabilities; use --run with --data.</p>"
    there = reliability.pairs > 0
    predicted, true = (sums[there] / reliability.pairs[there] for sums in (reliability.predicted, reliability.true))
    points = [(20 + 200 * p, 220 - 200 * t) for p, t in zip(predicted, true, strict=True)]
    line = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    dots = "".join(
        f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4" fill="#0072b2">'
        f"<title>predicted {p:.2f}, true {t:.2f}, {n:,.0f} pixels</title></circle>"
        for (x, y), p, t, n in zip(points, predicted, true, reliability.pairs[there], strict=True)
    )
    off = float(np.abs(reliability.predicted - reliability.true).sum() / max(1.0, reliability.pairs.sum()))
    return (
        '<svg viewBox="0 0 260 262" width="360" role="img" aria-label="reliability diagram" font-size="11">'
        '<rect x="20" y="20" width="200" height="200" fill="#f3f4f6"/>'
        '<line x1="20" y1="220" x2="220" y2="20" stroke="#999" stroke-dasharray="4 3"/>'
        f'<polyline points="{line}" fill="none" stroke="#0072b2" stroke-width="2"/>{dots}'
        '<text x="8" y="224">0</text><text x="8" y="26">1</text><text x="216" y="234">1</text>'
        '<text x="70" y="248">predicted probability</text>'
        '<text x="236" y="120" transform="rotate(90 236 120)" text-anchor="middle">share that was true</text></svg>'
        f"<p>On the dashed line, what is said to be likely with 70 % happens in 70 % of the cases; below it, the "
        f"prediction is too sure. Mean distance: {off:.3f}.</p>"
    )


def strips_note(material: Material, count: int) -> str:
    others = min(RANDOM, count - WORST)
    shown = f"The {WORST} worst and {others} random others of {count} videos. " if others > 0 else "All, worst first. "
    scored = "A video's score is its mean IoU over the objects predicted or true. "
    if material.frames is None and material.fates is not None:
        return shown + scored + "This stand-in has masks only, no frames."
    if material.frames is None:
        return shown + scored + "The frames are not shown: add --data with the competition the truth belongs to."
    if material.frames.shape[1] < NUM_FRAMES:
        return shown + scored + "Frame 22 of these videos is secret; its outlines are drawn on an empty floor."
    return shown + scored


def card(
    material: Material, row: int, group: str, counts: np.ndarray, ious: np.ndarray, fates: np.ndarray | None
) -> str:
    """Return one video: its score, its strip of pictures, and what became of each object."""
    scored = float(video_scores(counts[None])[0])
    kind, video = material.name_of(row)
    present = np.flatnonzero((counts.sum(0) + counts.sum(1))[1:] > 0) + 1
    texts = []
    for label in present:
        if np.isfinite(ious[label]):
            label_fate = f", {FATES[fates[label]]}" if fates is not None and fates[label] >= 0 else ""
            style = ' class="bad"' if ious[label] < 0.2 else ""
            texts.append(f"<span{style}>{class_name(label)} {ious[label]:.2f}{label_fate}</span>")
        else:
            texts.append(f'<span class="bad">{class_name(label)}: drawn, not there</span>')
    figures = "".join(
        f'<figure><img src="{as_png(image)}" alt="{caption}"><figcaption>{caption}</figcaption></figure>'
        for caption, image in panels(material, row)
    )
    return (
        f'<article class="video" data-score="{scored:.6f}" data-number="{video}" data-group="{group}" '
        f'data-classes="{" ".join(map(str, present))}"><header><b>{kind} {video}</b>'
        f'<span>{scored:.3f}</span><small>{group}</small></header><div class="strip">{figures}</div>'
        f'<div class="objects">{"".join(texts)}</div></article>'
    )


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
    padded = np.pad(mask, 2, mode="edge")
    height, width = mask.shape
    different = np.zeros(mask.shape, bool)
    for row, column in ((0, 2), (4, 2), (2, 0), (2, 4), (1, 1), (1, 3), (3, 1), (3, 3)):
        different |= padded[row : row + height, column : column + width] != mask
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


def about(heading: str, value: object) -> str:
    text = value if isinstance(value, str) else json.dumps(value, indent=1)
    return f"<details><summary>{escape(heading)}</summary><pre>{escape(text)}</pre></details>"

"""PNG folders → memory-mapped uint8 arrays, and the way every other module opens them.

``DIR/SPLIT/frames.npy`` is (N, T, 160, 240, 3), ``masks.npy`` (N, T, 160, 240) for train and val, and ``index.json``,
written last, marks the split as complete. A bad train or unlabeled video has no row; val and hidden always have one row
per video: a bad val video's mask is all 255, a bad hidden frame is the nearest readable one.
"""

import hashlib
import json
import os
import time
from collections.abc import Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path

import click
import numpy as np
from tqdm import tqdm

from data_prep.classes import IGNORE
from data_prep.competition import (
    FRAMES_OF_SPLIT,
    LABELLED,
    SPLITS,
    USED_NAME,
    BadFile,
    Competition,
    Problem,
    contents,
    decode,
    find_competition,
    frame_files,
    integrity_report,
    read_image,
    read_mask,
)
from data_prep.deadline import stop_if_time_is_up
from data_prep.device import in_order, num_cores
from data_prep.errors import UserError, exits_cleanly
from data_prep.files import create_part, finish, part_of, read_json, sole_maker, write_row, write_text
from data_prep.scene import HEIGHT, WIDTH

GREY = 124
"""A hidden video without one readable frame becomes this grey, the middle of the real background's gradient."""

LAYOUT = 2
"""Raised when the packed arrays change, so that older ones are packed again."""

SHORT_FIRST = ("hidden", "val", "train", "unlabeled")
"""The order of packing, in which most of what is wrong with a competition shows early."""
ROW_KEPT_ALWAYS = ("val", "hidden")
LEFT_OUT, NOT_SCORED, GREY_ROW = "video left out", "row kept, not scored", "row kept, plain grey"
"""What is done with a video that cannot be used, of train and unlabeled, of val and of hidden."""


@dataclass(frozen=True)
class PackedVideo:
    """The outcome of a video: whether it can be used, a hash of what was read, and what was wrong with it."""

    usable: bool
    content: str
    problems: list[Problem]


@dataclass(frozen=True, eq=False)
class PackedSplit:
    """One split as read-only arrays.

    Attributes:
        name: ``train``, ``val``, ``unlabeled`` or ``hidden``.
        videos: the number of the video in every row.
        frames: (N, T, 160, 240, 3) uint8 RGB; T is 22, of ``hidden`` 11. None in a stand-in of masks only.
        masks: (N, T, 160, 240) uint8, 255 = ignore; None where the split has no masks.
        problems: what was wrong with the files of the videos.
        source: JSON values that say where the arrays come from; equal ones, apart from ``folder``, mean equal arrays.
    """

    name: str
    videos: list[int]
    frames: np.memmap | None = field(repr=False)
    masks: np.memmap | None = field(repr=False)
    problems: list[Problem]
    source: dict

    def __len__(self) -> int:
        return len(self.videos)

    @property
    def content(self) -> dict:
        """What identifies the arrays, wherever they lie."""
        source = {name: value for name, value in self.source.items() if name != "folder"}
        return {"split": self.name, "videos": self.videos, "source": source}


def is_packed(folder: Path) -> bool:
    """Return whether at least one split of a packed competition is complete in ``folder``."""
    return any((folder / split / "index.json").is_file() for split in SPLITS)


def open_packed(folder: Path) -> dict[str, PackedSplit]:
    """Open every split of a packed competition without reading its arrays.

    Raises:
        UserError: ``folder`` holds no packed split, or one whose packing was interrupted or whose files disagree.
    """
    packed = {split: open_split(folder / split) for split in SPLITS if (folder / split).is_dir()}
    if not packed:
        raise UserError(
            f"{folder} holds no packed competition; make one with `python -m data_prep.pack DATA {folder}`."
        )
    return packed


def open_split(folder: Path) -> PackedSplit:
    """Open one packed split, such as ``DIR/val``; see :func:`open_packed`."""
    try:
        index = json.loads((folder / "index.json").read_text())
        videos = [int(number) for number in index["videos"]]
        problems = [Problem(**problem) for problem in index["problems"]]
        source = index["source"]
        has_frames = source.get("standin", {}).get("kind") != "masks"
        has_masks = folder.name in LABELLED or not has_frames or (folder / "masks.npy").is_file()
        frames = np.load(folder / "frames.npy", mmap_mode="r", allow_pickle=False) if has_frames else None
        masks = np.load(folder / "masks.npy", mmap_mode="r", allow_pickle=False) if has_masks else None
    except FileNotFoundError as error:
        raise UserError(f"{error.filename} is missing: packing {folder} was not finished; pack it again.") from None
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{folder} is not a readable packed split ({error}); delete it and pack again.") from None
    for array in (frames, masks):
        if array is not None and (len(array) != len(videos) or array.dtype != np.uint8):
            form = f"{array.dtype} of shape {array.shape}"
            raise UserError(f"{array.filename} should be uint8 with {len(videos)} rows, found {form}; pack it again.")
    return PackedSplit(folder.name, videos, frames, masks, problems, source)


def write_index(
    folder: Path, videos: Sequence[int], problems: Sequence[Problem], source: dict, files: str | None = None
) -> None:
    """Declare a split whose arrays are in ``folder`` complete: write its ``index.json`` atomically.

    See :class:`PackedSplit` for the arguments; ``files``: see :func:`state_of_files`, None where nothing was packed.
    """
    index = {
        "split": folder.name,
        "videos": [int(number) for number in videos],
        "problems": [asdict(problem) for problem in problems],
        "source": source,
        "files": files,
    }
    write_text(folder / "index.json", json.dumps(index, indent=1))


def pack(
    data_dir: Path,
    out_dir: Path,
    required: Collection[str] = ("train", "hidden"),
    allow_gaps: bool = False,
    wanted: Collection[str] = SPLITS,
) -> dict[str, PackedSplit]:
    """Pack a raw competition on all cores; take up interrupted work, and do nothing where nothing changed.

    Every problem of the data goes to ``out_dir/problems.json``. Killed at any point and started again, the result has
    the same bytes, and a video that was done is not decoded again. Memory: a few videos per core.

    Args:
        data_dir: a raw competition, or a packed one, which is returned as it is.
        out_dir: where the packed splits go.
        required: see :func:`find_competition`.
        allow_gaps: see :func:`find_competition`.
        wanted: splits that are packed where they are there.

    Raises:
        UserError: ``find_competition`` finds no usable competition, not one video of a split is readable, or
            ``out_dir`` holds arrays of something else.
        OSError: the disk is full; finished videos are kept.
        TimeIsUp: see ``data_prep.deadline``; finished videos are kept.
    """
    if is_packed(data_dir):
        return open_packed(data_dir)
    competition = find_competition(data_dir, required, allow_gaps)
    for split in SPLITS:
        if split not in competition.splits and (out_dir / split).is_dir():
            raise UserError(f"{out_dir / split} exists, but {data_dir} has no {split}; delete it or pack elsewhere.")
    with sole_maker(out_dir):
        here = [split for split in SPLITS if split in competition.splits and split in wanted]
        for split in sorted(here, key=SHORT_FIRST.index):
            pack_split(competition, split, out_dir / split)
        packed = {split: open_split(out_dir / split) for split in here}
        problems = [problem for split in wanted for problem in competition.problems.get(split, ())]
        problems += [problem for split in packed.values() for problem in split.problems]
        write_text(out_dir / "problems.json", json.dumps([asdict(problem) for problem in problems], indent=1))
    return packed


def pack_split(competition: Competition, split: str, folder: Path) -> None:
    """Pack one split into ``folder``, from where an earlier attempt at the same files stopped; see :func:`pack`.

    Videos are decoded on all cores and written in the order of their numbers. Files have space for all of them at first
    and are cut to the number of usable ones in the end.
    """
    videos = competition.splits[split]
    source, files = {"folder": str(next(iter(videos.values())).parent)}, state_of_files(videos)
    journal = folder / "packing.jsonl"
    shape = (len(videos), FRAMES_OF_SPLIT[split], HEIGHT, WIDTH)
    shapes = {folder / "frames.npy": (*shape, 3)}
    if split in LABELLED:
        shapes[folder / "masks.npy"] = shape

    if (folder / "index.json").is_file():
        index = read_json(folder / "index.json", f"delete {folder} and pack again")
        earlier = index["source"]
        if "fingerprint" not in earlier:
            raise UserError(f"{folder} holds arrays that were not packed from PNG files; choose another folder.")
        if index.get("files") == files and all(path.exists() for path in shapes):
            journal.unlink(missing_ok=True)
            return
        if earlier["folder"] != source["folder"]:
            raise UserError(f"{folder} holds what was packed from {earlier['folder']}; delete it or pack elsewhere.")
    elif not journal.is_file() and (strange := next(filter(Path.exists, shapes), None)):
        raise UserError(f"{strange} was not packed here; move it away or pack elsewhere.")
    records = begun(shapes, journal, files)
    done = [PackedVideo(r["usable"], r["content"], [Problem(**problem) for problem in r["problems"]]) for r in records]
    if len(done) < len(videos):
        pack_rows(split, competition.first[split], list(videos.values()), list(shapes), journal, done)

    problems = [problem for video in done for problem in video.problems]
    if split != "val" and not any(video.usable for video in done):  # val is only scored
        discard(folder)
        example = next(problem for problem in done[0].problems if problem.action in (LEFT_OUT, GREY_ROW))
        raise UserError(
            f"not one of the {len(videos)} videos in {source['folder']} can be used, for example {example.file} "
            f"({example.problem}); expected {shape[1]} RGB frames of {WIDTH} × {HEIGHT}"
            f"{' and mask.npy' * (split in LABELLED)} in every video{contents(next(iter(videos.values())))}."
        )
    kept = {number: video for number, video in zip(videos, done, strict=True) if has_row(split, video)}
    for path, full_shape in shapes.items():
        finish(path, (len(kept), *full_shape[1:]))
    source["fingerprint"] = digest([LAYOUT, *(video.content for video in kept.values())])
    write_index(folder, list(kept), problems, source, files)
    journal.unlink()


def has_row(split: str, video: PackedVideo) -> bool:
    return video.usable or split in ROW_KEPT_ALWAYS


def pack_rows(
    split: str, first: int, folders: list[Path], paths: list[Path], journal: Path, done: list[PackedVideo]
) -> None:
    """Decode the videos that come after those ``done`` on all cores, write their rows, and add them to ``done``."""
    row = sum(has_row(split, video) for video in done)
    with ExitStack() as stack:
        files = [stack.enter_context(open(part_of(path), "r+b", buffering=0)) for path in paths]
        log = stack.enter_context(open(journal, "a", buffering=1))
        threads = ThreadPoolExecutor(num_cores())
        stack.callback(threads.shutdown, cancel_futures=True)
        progress = tqdm(total=len(folders), initial=len(done), desc=f"packing {split}", unit="video", disable=None)
        stack.enter_context(progress)
        for video, arrays in in_order(threads, partial(pack_video, split, first), folders[len(done) :]):
            if has_row(split, video):
                for file, array in zip(files, arrays, strict=True):
                    write_row(file, row, array)
                row += 1
            log.write(json.dumps(asdict(video)) + "\n")
            done.append(video)
            progress.update()
            stop_if_time_is_up()


def pack_video(split: str, first: int, folder: Path) -> tuple[PackedVideo, list[list[np.ndarray]]]:
    """Read one video, whose frames are numbered from ``first``; return what became of it, and its frames and masks."""
    paths, problems = frame_files(folder, split, first)
    frames: dict[int, np.ndarray] = {}
    bad: dict[str, str] = {}
    unusual: dict[str, str] = {}
    content: list = []
    for index in range(FRAMES_OF_SPLIT[split]):
        path = paths.get(index, str(folder / f"image_{index + first}.png"))
        try:
            data, form = read_image(path)
            frames[index] = decode(data)
            content.append((index, digest(data)))
            if form:
                unusual.setdefault(form, path)
        except BadFile as error:
            bad[path] = str(error)
    for form, path in unusual.items():
        problems.append(Problem(path, f"frames in {form}", "read without colour" if "grey" in form else "read as that"))
    mask = None
    if split in LABELLED:
        path = str(folder / "mask.npy")
        try:
            mask, changes = read_mask(path)
            content.append(digest(mask))
            problems += [Problem(path, change, action) for change, action in changes]
        except BadFile as error:
            bad[path] = str(error)

    if split == "hidden":
        usable = bool(frames)
        action = "nearest readable frame repeated" if usable else GREY_ROW
    else:
        usable = not bad
        action = NOT_SCORED if split == "val" else LEFT_OUT
    problems += [Problem(path, text, action) for path, text in bad.items()]
    length = FRAMES_OF_SPLIT[split]
    arrays = [repeat_nearest(frames, length)]
    if split in LABELLED:
        arrays.append([mask if usable else np.full((length, HEIGHT, WIDTH), IGNORE, np.uint8)])
    return PackedVideo(usable, digest([usable, *content]), problems), arrays


def repeat_nearest(frames: dict[int, np.ndarray], length: int) -> list[np.ndarray]:
    """Return ``length`` frames: a missing one is the nearest of ``frames``, of two the earlier; grey if none."""
    if not frames:
        return [np.full((HEIGHT, WIDTH, 3), GREY, np.uint8)] * length
    return [frames[min(frames, key=lambda other: (abs(other - index), other))] for index in range(length)]


def begun(shapes: dict[Path, tuple[int, ...]], journal: Path, source: str) -> list[dict]:
    """Return the journal's lines, one for each video that is done of some unfinished arrays; begin where there is none.

    ``source`` identifies what the videos are made of; arrays of anything else are discarded.
    """
    records = read_journal(journal, source)
    if records is not None and all(path.exists() or part_of(path).exists() for path in shapes):
        return records
    discard(journal.parent)
    journal.parent.mkdir(parents=True, exist_ok=True)
    try:
        for path, shape in shapes.items():
            create_part(path, shape)
    except OSError:
        discard(journal.parent)
        raise
    write_text(journal, json.dumps({"made of": source}) + "\n")
    return []


def read_journal(path: Path, source: str) -> list[dict] | None:
    """Return the lines of the videos that an interrupted run finished; None where there was none of this source.

    The last line may be torn; it is cut off.
    """
    if not path.is_file():
        return None
    lines = path.read_bytes().splitlines(keepends=True)
    if lines and not lines[-1].endswith(b"\n"):
        os.truncate(path, sum(map(len, lines[:-1])))
        lines.pop()
    records = [json.loads(line) for line in lines]
    return records[1:] if records and records[0].get("made of") == source else None


def read_problems(folder: Path) -> list[Problem]:
    """Return every problem that :func:`pack` met, absent splits included; none where it packed nothing."""
    path = folder / "problems.json"
    problems = read_json(path, f"delete {folder} and pack again") if path.is_file() else []
    return [Problem(**problem) for problem in problems]


def discard(folder: Path) -> None:
    """Remove everything that packing a split may have left in ``folder``, what declares it complete first."""
    for name in ("index.json", "packing.jsonl", "frames.npy", "masks.npy", "frames.npy.part", "masks.npy.part"):
        (folder / name).unlink(missing_ok=True)
    if folder.is_dir() and not any(folder.iterdir()):
        folder.rmdir()


def state_of_files(videos: dict[int, Path]) -> str:
    """Return a hash of names, sizes and modification times of a split's frames and masks: the same, nothing changed."""
    state: list = [LAYOUT]
    for folder in videos.values():
        with os.scandir(folder) as entries:
            used = [entry for entry in entries if USED_NAME.fullmatch(entry.name)]
        for entry in sorted(used, key=lambda entry: entry.name):
            with suppress(OSError):  # a link to nowhere
                state.append((folder.name, entry.name, entry.stat().st_size, entry.stat().st_mtime_ns))
    return digest(state)


def digest(content: np.ndarray | bytes | list) -> str:
    """Return a hash of bytes, of an array's, or of those of a list as JSON."""
    data = json.dumps(content).encode() if isinstance(content, list) else content
    return hashlib.blake2b(data, digest_size=16).hexdigest()


@click.command()
@click.argument("data", type=click.Path(path_type=Path))
@click.argument("out", type=click.Path(path_type=Path))
@click.option("--allow-gaps", is_flag=True, help="Take hidden videos even if their numbers have a gap.")
@exits_cleanly
def main(data: Path, out: Path, allow_gaps: bool) -> None:
    """Pack the raw competition DATA into memory-mapped arrays under OUT."""
    source, target = data.resolve(), out.resolve()
    if source.is_relative_to(target) or target.is_relative_to(source):
        raise UserError(f"{data} and {out} are the same folder or one lies in the other; pack into a folder elsewhere.")
    if is_packed(data):
        raise UserError(f"{data} is packed already and {out} was not made; give {data} as --data as it is.")
    start = time.perf_counter()
    packed = pack(data, out, allow_gaps=allow_gaps)
    for split in packed.values():
        click.echo(f"{split.name:9} {len(split):6} videos, frames {split.frames.shape}")
    click.echo(integrity_report(read_problems(out), out / "problems.json"))
    click.echo(f"{out} is complete after {time.perf_counter() - start:.1f} s.")


if __name__ == "__main__":
    main()

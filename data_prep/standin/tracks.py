"""True trajectories of many videos as one ``.npz`` file: written of a stand-in, read to film another simulator's."""

import hashlib
from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path

import numpy as np

from data_prep.classes import NUM_CLASSES, SHAPE_OF_CLASS
from data_prep.errors import UserError
from data_prep.files import write_saved
from data_prep.scene import NUM_FRAMES
from data_prep.standin.physics import MAX_OBJECTS, Trajectories


def write_tracks(path: Path, numbers: Sequence[int], videos: Iterable[Trajectories]) -> None:
    """Write the truth of N videos as one ``.npz``, objects padded to K = 6.

    videos (N,) int64 numbers; class_ids (N, K) uint8, 0 where there is no object; position (N, 22, K, 2) float32 world
    units and yaw (N, 22, K) float32 radians, NaN there.
    """
    count = len(numbers)
    arrays = {
        "videos": np.array(numbers),
        "class_ids": np.zeros((count, MAX_OBJECTS), np.uint8),
        "position": np.full((count, NUM_FRAMES, MAX_OBJECTS, 2), np.nan, np.float32),
        "yaw": np.full((count, NUM_FRAMES, MAX_OBJECTS), np.nan, np.float32),
    }
    for row, video in enumerate(videos):
        size = len(video.class_ids)
        arrays["class_ids"][row, :size] = video.class_ids
        arrays["position"][row, :, :size] = video.position
        arrays["yaw"][row, :, :size] = video.yaw
    write_saved(path, lambda file: np.savez(file, **arrays))


@cache
def read_tracks(path: Path) -> list[Trajectories]:
    """Return the videos of a file as :func:`write_tracks` writes it.

    Raises:
        UserError: the file is not of that form; names what is missing or impossible.
    """

    def wrong(found: str) -> UserError:
        return UserError(
            f"{path}: expected tracks as `data_prep.standin --masks-only` writes them (tracks.npz), found {found}."
        )

    try:
        with np.load(path, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in ("class_ids", "position", "yaw")}
    except FileNotFoundError:
        raise UserError(f"{path} is missing; name a file of tracks, such as tracks.npz of a stand-in.") from None
    except KeyError as error:
        raise wrong(f"no array {error.args[0].split()[0]}") from None
    except (OSError, ValueError, EOFError, TypeError, AttributeError):  # not a zip archive of arrays
        raise wrong("another kind of file") from None
    classes, position, yaw = arrays["class_ids"], arrays["position"], arrays["yaw"]
    count, objects = classes.shape if classes.ndim == 2 else (0, 0)
    for name, shape in {"position": (count, NUM_FRAMES, objects, 2), "yaw": (count, NUM_FRAMES, objects)}.items():
        if arrays[name].shape != shape or arrays[name].dtype.kind != "f":
            raise wrong(f"{name} {arrays[name].shape} {arrays[name].dtype} beside class_ids {classes.shape}")
    if classes.dtype.kind not in "iu" or not count or classes.min() < 0 or classes.max() >= NUM_CLASSES:
        raise wrong(f"class_ids {classes.shape} {classes.dtype}, which are no (videos, objects) ids from 0 to 48")
    videos = []
    for row in range(count):
        slots = np.flatnonzero(classes[row])
        ids = classes[row, slots].astype(np.uint8)
        places, turns = position[row][:, slots].astype(np.float32), yaw[row][:, slots].astype(np.float32)
        if len(np.unique(ids)) < len(ids) or not (np.isfinite(places).all() and np.isfinite(turns).all()):
            raise wrong(f"in row {row} a class twice, or an object whose place is no number")
        videos.append(Trajectories(ids, SHAPE_OF_CLASS[ids], places, turns))
    return videos


def digest(files: tuple[Path, ...]) -> str:
    """Return what identifies the content of files, "" for none."""
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest() if files else ""

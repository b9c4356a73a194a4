"""Tracks as files: written and read back, filmed as a competition, refused in one sentence."""

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from data_prep.standin.__main__ import main
from data_prep.standin.physics import simulate
from data_prep.standin.tracks import read_tracks, write_tracks
from data_prep.standin.writer import paint_videos


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Two files of three and two videos."""
    folder = tmp_path_factory.mktemp("tracks")
    paths = folder / "three.npz", folder / "two.npz"
    for path, seeds in zip(paths, ((11, 12, 13), (14, 15)), strict=True):
        write_tracks(path, seeds, map(simulate, seeds))
    return paths


def film(out, *arguments):
    return CliRunner().invoke(main, ["--out", str(out), "--hidden", "0", *map(str, arguments)])


def test_what_is_written_is_read(files):
    for video, seed in zip(read_tracks(files[0]), (11, 12, 13), strict=True):
        invented = simulate(seed)
        for name in ("class_ids", "shape", "position", "yaw"):
            assert np.array_equal(getattr(video, name), getattr(invented, name))


def test_masks_are_those_of_the_tracks(files, tmp_path):
    """One file gives its videos to split after split, several each to their own."""
    one = film(tmp_path / "one", "--masks-only", "--tracks", files[0], "--train", 2, "--val", 1)
    many = film(
        tmp_path / "many", "--masks-only", *("--tracks", files[0], "--tracks", files[1]), *("--train", 2, "--val", 2)
    )
    assert one.exit_code == many.exit_code == 0, one.output + many.output
    three, two = (paint_videos(read_tracks(path)) for path in files)
    wanted = {"one/train": three[:2], "one/val": three[2:], "many/train": three[:2], "many/val": two}
    for folder, masks in wanted.items():
        assert np.array_equal(np.load(tmp_path / folder / "masks.npy"), masks)


def test_frames_and_hidden_truth_are_those_of_the_tracks(files, tmp_path):
    sizes = ("--train", 1, "--val", 0, "--hidden", 1)
    made = film(tmp_path / "raw", "--tracks", files[0], *sizes)
    assert made.exit_code == 0, made.output
    painted = paint_videos(read_tracks(files[0]))
    assert np.array_equal(np.load(tmp_path / "raw/Dataset_Student/train/video_0/mask.npy"), painted[0])
    assert np.array_equal(torch.load(tmp_path / "raw/hidden_truth.pt").numpy()[0], painted[1, -1])
    again = film(tmp_path / "raw", "--tracks", files[1], *sizes)
    assert again.exit_code == 2 and "made with tracks" in again.stderr


def broken(arrays):
    """Yield what is wrong with a file, and the file's arrays."""
    yield "no array yaw", {name: value for name, value in arrays.items() if name != "yaw"}
    yield "a class twice", arrays | {"class_ids": np.full_like(arrays["class_ids"], 5)}
    yield "no (videos, objects) ids", arrays | {"class_ids": arrays["class_ids"] + 48}
    yield "position", arrays | {"position": arrays["position"][:, :11]}
    yield "an object whose place is no number", arrays | {"position": np.full_like(arrays["position"], np.nan)}


def test_another_file_is_one_sentence(files, tmp_path):
    (tmp_path / "text.npz").write_text("text")
    cases = [("another kind of file", tmp_path / "text.npz"), ("is missing", tmp_path / "none.npz")]
    with np.load(files[0]) as archive:
        arrays = dict(archive)
    for number, (problem, content) in enumerate(broken(arrays)):
        cases.append((problem, tmp_path / f"{number}.npz"))
        np.savez(cases[-1][1], **content)
    for problem, path in cases:
        found = film(tmp_path / "out", "--tracks", path, "--train", 1, "--val", 0)
        assert found.exit_code == 2 and str(path) in found.stderr and problem in found.stderr, found.stderr
        assert len(found.stderr.strip().splitlines()) == 1 and not (tmp_path / "out").exists()


def test_too_few_videos_or_too_many_files_are_refused(files, tmp_path):
    found = film(tmp_path / "out", "--tracks", files[0], "--train", 3, "--val", 1)
    assert found.exit_code == 2 and "expected tracks of 4 videos, found 3" in found.stderr
    found = film(tmp_path / "out", "--tracks", files[0], "--tracks", files[1], "--train", 1, "--val", 0)
    assert found.exit_code == 2 and "one for each of train" in found.stderr

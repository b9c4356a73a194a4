"""Leaderboard files: what is written can be read, and every kind of bad file is a sentence and never code that runs."""

import os
import pickle
import re

import cv2
import numpy as np
import pytest
import torch

from data_prep.competition import Problem
from data_prep.errors import UserError
from data_prep.pack import write_index
from solution import submission


def labels(videos: int = 3, seed: int = 0) -> torch.Tensor:
    return torch.randint(0, 49, (videos, 160, 240), generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)


class Attack:
    """Pickles to a call that creates a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def test_file_is_one_plain_tensor(tmp_path):
    path = tmp_path / "new" / "submission.pt"
    view = labels(6)[::2]
    submission.save_submission(view, path)
    stored = torch.load(path, weights_only=True)
    assert type(stored) is torch.Tensor and stored.dtype == torch.uint8 and stored.is_contiguous()
    assert torch.equal(stored, view) and torch.equal(submission.load_submission(path, count=3), view)
    assert path.stat().st_size < view.numel() + 4096, "the view's whole storage was written"
    assert submission.check_submission(path, 3) == []
    assert os.listdir(path.parent) == ["submission.pt"]


def test_equal_masks_give_equal_bytes_whatever_the_name(tmp_path):
    submission.save_submission(labels(), tmp_path / "a.pt")
    submission.save_submission(labels(), tmp_path / "b.pt")
    assert (tmp_path / "a.pt").read_bytes() == (tmp_path / "b.pt").read_bytes()


def test_existing_file_is_kept_unless_told(tmp_path):
    path = tmp_path / "a.pt"
    submission.save_submission(labels(seed=1), path)
    before = path.read_bytes()
    with pytest.raises(UserError, match="--overwrite"):
        submission.save_submission(labels(seed=2), path)
    assert path.read_bytes() == before
    submission.save_submission(labels(seed=2), path, overwrite=True)
    assert torch.equal(submission.load_submission(path), labels(seed=2))


def test_failed_write_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    path = tmp_path / "a.pt"
    submission.save_submission(labels(seed=1), path)

    def full_disk(masks, file):
        file.write(b"half")
        raise OSError(28, "No space left on device", str(path))

    monkeypatch.setattr(torch, "save", full_disk)
    with pytest.raises(OSError):
        submission.save_submission(labels(seed=2), path, overwrite=True)
    assert torch.equal(submission.load_submission(path), labels(seed=1))
    assert os.listdir(tmp_path) == ["a.pt"]


@pytest.mark.parametrize(
    "dtype", ["uint8", "int64", "int16", "uint16", "uint64", "float32", "float64", "float16", "bfloat16"]
)
def test_whole_numbers_of_any_type_are_read_and_said(tmp_path, capsys, dtype):
    stored, path = labels().to(getattr(torch, dtype)), tmp_path / "a.pt"
    torch.save(stored, path)
    assert torch.equal(submission.load_submission(path), labels())
    assert capsys.readouterr().err == (f"{path}: {dtype} taken as uint8\n" if dtype != "uint8" else "")
    refused = [] if dtype in ("uint8", "int64", "int16") else [dtype]
    assert [text.split()[-1] for text in submission.check_submission(path, 3)] == refused
    if dtype != "bfloat16":  # which NumPy lacks
        for order in ("<", ">"):
            np.save(
                tmp_path / "a.npy", np.asfortranarray(stored.numpy()).astype(stored.numpy().dtype.newbyteorder(order))
            )
            assert torch.equal(submission.load_submission(tmp_path / "a.npy"), labels())
            assert torch.equal(submission.load_truth(tmp_path / "a.npy").masks, labels())
        assert any("NumPy" in text for text in submission.check_submission(tmp_path / "a.npy", 3))


def test_bools_and_dimensions_of_1_are_read_and_said(tmp_path, capsys):
    path = tmp_path / "a.npy"
    np.save(path, (labels() > 3).numpy()[:, None, ..., None])
    assert torch.equal(submission.load_submission(path, 3), (labels() > 3).to(torch.uint8))
    said = [f"{path}: bool taken as uint8", f"{path}: shape (3, 1, 160, 240, 1) taken as (3, 160, 240)"]
    assert capsys.readouterr().err.splitlines() == said
    torch.save(labels(1)[..., None], tmp_path / "one.pt")
    assert torch.equal(submission.load_submission(tmp_path / "one.pt", 1), labels(1))


def test_what_a_file_is_decides_and_not_its_name(tmp_path):
    torch.save(labels(), tmp_path / "a.npy")
    with open(tmp_path / "a.pt", "wb") as file:
        np.save(file, labels().numpy())
    for name in ("a.npy", "a.pt"):
        assert torch.equal(submission.load_submission(tmp_path / name), labels())
    assert submission.check_submission(tmp_path / "a.npy", 3) == []
    for name in ("a.npz", "b.pt"):
        with open(tmp_path / name, "wb") as file:
            np.savez(file, masks=labels().numpy())
        with pytest.raises(UserError, match=r"an archive \(.npz\) of masks instead of one array"):
            submission.load_submission(tmp_path / name)


@pytest.mark.parametrize(
    ("stored", "words"),
    [
        (labels().permute(1, 2, 0), "turned axes"),
        (labels().permute(0, 2, 1), "turned axes"),
        (labels()[:1].expand(22, -1, -1), "the frames of one video"),
        (labels()[:1].expand(33, -1, -1), "all frames of all videos"),
        (labels()[:, None].expand(-1, 22, -1, -1), r"all frames of every video: save \[:, -1\]"),
        (labels()[:, None].expand(-1, 49, -1, -1) == torch.arange(49).view(49, 1, 1), r"one-hot .*argmax\(1\)"),
        (torch.full((3, 160, 240, 49), 1 / 49), r"probabilities of 49 classes: save argmax\(3\)"),
        (torch.full((3, 49, 160, 240), -0.5), r"logits of 49 classes: save argmax\(1\)"),
        (labels()[:2], r"expected \(3, 160, 240\), found \(2, 160, 240\)$"),
    ],
)
def test_a_wrong_shape_is_told_by_what_it_looks_like(tmp_path, stored, words):
    torch.save(stored.contiguous(), tmp_path / "a.pt")
    assert re.search(words, submission.check_submission(tmp_path / "a.pt", 3)[0])


def with_value(value: float, dtype: torch.dtype) -> torch.Tensor:
    masks = labels().to(dtype)
    masks[1, 2, 3] = value
    return masks


@pytest.mark.parametrize(
    ("stored", "words"),
    [
        (with_value(49, torch.uint8), ["0 to 48", "49"]),
        (with_value(-1, torch.int64), ["0 to 48", "-1"]),
        (with_value(float("nan"), torch.float32), ["1 that are NaN"]),
        (with_value(float("inf"), torch.float32), ["1 that are NaN or infinite"]),
        (with_value(0.5, torch.float32), ["whole numbers", "fractions"]),
        (torch.zeros(3, 160, 239, dtype=torch.uint8), ["(3, 160, 240)", "(3, 160, 239)"]),
        (torch.zeros(3, 49, 160, 240, dtype=torch.uint8), ["(3, 160, 240)", "(3, 49, 160, 240)"]),
        (labels(2), ["(3, 160, 240)", "(2, 160, 240)"]),
        (torch.zeros(0, 160, 240, dtype=torch.uint8), ["(3, 160, 240)", "(0, 160, 240)"]),
        (torch.tensor(3), ["(3, 160, 240)", "()"]),
        (labels().to(torch.complex64), ["complex64"]),
        ({"masks": labels()}, ["a dict"]),
        ([labels()], ["a list"]),
        (labels().to_sparse(), ["sparse"]),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_bad_contents_are_named(tmp_path, stored, words):
    path = tmp_path / "a.pt"
    torch.save(stored, path)
    with pytest.raises(UserError) as error:
        submission.load_submission(path, count=3)
    problems = submission.check_submission(path, 3)
    for text in (str(error.value), " ".join(problems)):
        assert all(word in text for word in words), text
    assert str(path) in str(error.value) and "\n" not in str(error.value)


def test_every_problem_is_listed(tmp_path):
    masks = with_value(-3, torch.float32)[:2]
    masks[0, 0, 0], masks[0, 0, 1] = 60, 0.5
    torch.save(masks, tmp_path / "a.pt")
    problems = submission.check_submission(tmp_path / "a.pt", 3)
    assert [text.split(":")[0] for text in problems] == ["shape", "values", "values", "values", "dtype"]


@pytest.mark.parametrize("keep", [0, 10, 1000, 0.5, 0.999])
@pytest.mark.parametrize("name", ["a.pt", "a.npy"])
def test_truncated_file_is_a_sentence(tmp_path, keep, name):
    path = tmp_path / name
    torch.save(labels(), path) if name == "a.pt" else np.save(path, labels().numpy())
    data = path.read_bytes()
    path.write_bytes(data[: int(keep * len(data)) if isinstance(keep, float) else keep])
    with pytest.raises(UserError, match=name):
        submission.load_submission(path)
    assert len(submission.check_submission(path, 3)) == 1


@pytest.mark.parametrize("how", ["torch", "torch legacy", "pickle", "npy"])
def test_pickled_objects_are_never_executed(tmp_path, how):
    target, path = tmp_path / "attacked", tmp_path / ("a.npy" if how == "npy" else "a.pt")
    if how == "npy":
        np.save(path, np.array([Attack(target)], dtype=object), allow_pickle=True)
    elif how == "pickle":
        path.write_bytes(pickle.dumps(Attack(target)))
    else:
        torch.save(Attack(target), path, _use_new_zipfile_serialization=how == "torch")
    with pytest.raises(UserError, match="not loaded because that could run code"):
        submission.load_submission(path)
    assert len(submission.check_submission(path, 3)) == 1
    with pytest.raises(UserError):
        submission.load_truth(path)
    assert not target.exists()


def test_what_is_no_file_is_a_sentence(tmp_path):
    (tmp_path / "text.pt").write_text("0 0 0 1 1 0\n")
    for path in (tmp_path, tmp_path / "none.pt", tmp_path / "text.pt"):
        with pytest.raises(UserError, match="torch.save"):
            submission.load_submission(path)
    with pytest.raises(UserError, match="folder"):
        submission.check_writable(tmp_path)


def test_hidden_videos_are_counted_raw_and_packed(tmp_path):
    submission.save_submission(labels(3), tmp_path / "a.pt")
    for number in (15002, 15000):
        (tmp_path / "data" / "hidden" / f"video_{number}").mkdir(parents=True)
    (tmp_path / "packed" / "hidden").mkdir(parents=True)
    write_index(tmp_path / "packed" / "hidden", [1, 2, 3], [], {})
    assert submission.check_submission(tmp_path / "a.pt", tmp_path / "packed") == []
    assert submission.check_submission(tmp_path / "a.pt", tmp_path / "packed" / "hidden") == []
    for folder in (tmp_path / "data", tmp_path / "data" / "hidden"):
        assert submission.check_submission(tmp_path / "a.pt", folder) == [
            "shape: expected (2, 160, 240), found (3, 160, 240)"
        ]
    with pytest.raises(UserError, match="no existing folder"):
        submission.check_submission(tmp_path / "a.pt", tmp_path / "none")


def test_truth_of_a_raw_split_keeps_the_row_of_a_bad_video(tmp_path):
    masks = np.random.default_rng(0).integers(0, 49, (3, 22, 160, 240))
    masks[0, 21, 5, 5] = 77
    for number, mask in zip((1000, 1002, 1003), masks, strict=True):
        (tmp_path / f"video_{number}").mkdir()
        np.save(tmp_path / f"video_{number}" / "mask.npy", mask[:21] if number == 1002 else mask)
    truth = submission.load_truth(tmp_path)
    expected = masks[:, 21].astype(np.uint8)
    expected[0, 5, 5], expected[1] = 255, 255
    assert truth.videos == [1000, 1002, 1003] and truth.masks.dtype == torch.uint8
    np.testing.assert_array_equal(truth.masks, expected)
    assert [problem.file for problem in truth.problems] == [str(tmp_path / "video_1002" / "mask.npy")]


def test_truth_of_a_raw_split_leaves_out_videos_with_bad_frames(tmp_path):
    frame = cv2.imencode(".png", np.zeros((160, 240, 3), np.uint8))[1].tobytes()
    for number in range(3):
        (tmp_path / f"video_{number}").mkdir()
        np.save(tmp_path / f"video_{number}" / "mask.npy", np.ones((22, 160, 240), np.uint8))
        for index in range(22):
            (tmp_path / f"video_{number}" / f"image_{index}.png").write_bytes(frame)
    (tmp_path / "video_0" / "image_4.png").unlink()
    (tmp_path / "video_1" / "image_4.png").write_bytes(frame[:-5])
    truth = submission.load_truth(tmp_path)
    assert truth.masks[:, 0, 0].tolist() == [255, 255, 1]
    assert [problem.file for problem in truth.problems] == [
        str(tmp_path / "video_0"),
        str(tmp_path / "video_1" / "image_4.png"),
    ]


def test_truth_of_a_raw_split_whose_frames_are_numbered_from_1(tmp_path):
    frame = cv2.imencode(".png", np.zeros((160, 240, 3), np.uint8))[1].tobytes()
    for number in range(2):
        (tmp_path / f"video_{number}").mkdir()
        np.save(tmp_path / f"video_{number}" / "mask.npy", np.asfortranarray(np.ones((22, 160, 240), np.uint8)))
        for index in range(1, 23 - number):
            (tmp_path / f"video_{number}" / f"image_{index}.png").write_bytes(frame)
    truth = submission.load_truth(tmp_path)
    assert truth.masks[:, 0, 0].tolist() == [1, 255] and truth.problems[0].problem == "21 frames instead of 22"


def test_truth_of_a_packed_split_is_its_last_masks(tmp_path):
    masks = np.random.default_rng(0).integers(0, 49, (2, 22, 160, 240)).astype(np.uint8)
    np.save(tmp_path / "frames.npy", np.zeros((2, 22, 160, 240, 3), np.uint8))
    problems = [Problem("video_1", "damaged PNG", "row kept, not scored")]
    write_index(tmp_path, [4, 9], [*problems, Problem("video_9", "frames in RGBA", "read as that")], {})
    with pytest.raises(UserError, match="no masks"):
        submission.load_truth(tmp_path)
    np.save(tmp_path / "masks.npy", masks)
    truth = submission.load_truth(tmp_path)
    np.testing.assert_array_equal(truth.masks, masks[:, 21])
    assert truth.videos == [4, 9] and truth.problems == problems


def test_truth_of_a_file_ignores_what_is_no_class(tmp_path):
    masks = labels().long()
    masks[0, 0, :3] = torch.tensor([49, 255, -1])
    torch.save(masks, tmp_path / "hidden_truth.pt")
    truth = submission.load_truth(tmp_path / "hidden_truth.pt")
    assert truth.masks[0, 0, :3].tolist() == [255] * 3 and truth.videos is None
    assert torch.equal(truth.masks[1:], labels()[1:])


def test_unusable_truth_is_a_sentence(tmp_path):
    torch.save(labels() / 2, tmp_path / "float.pt")
    torch.save(labels()[0], tmp_path / "one.pt")
    (tmp_path / "hidden" / "video_15000").mkdir(parents=True)
    for name in ("float.pt", "one.pt", "none.pt", "hidden", "."):
        with pytest.raises(UserError):
            submission.load_truth(tmp_path / name)

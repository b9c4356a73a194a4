"""The segmenter's loss against plain formulas, its augmentation against its promises, and that it can learn."""

import csv
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch._subclasses.fake_tensor import DynamicOutputShapeException, FakeTensorMode

from data_prep.classes import IGNORE
from solution import segmenter, training
from solution.augment import FrameAugmentation, pasted
from solution.checkpoints import State
from solution.config import SegmenterConfig
from solution.models.unet import SegmentationUNet
from solution.segmenter import (
    as_images,
    build_segmenter,
    crop_batches,
    factored_loss,
    load_segmenter,
    segment,
    segment_split,
    train_segmenter,
)
from solution.settling import settle

CPU = torch.device("cpu")
TINY = SegmenterConfig("resnet18", (32, 24), crop=(64, 64), steps=4, batch=4)


class Fixed:
    """Has given factors instead of a network."""

    log_likelihood = SegmentationUNet.log_likelihood

    def __init__(self, factors: torch.Tensor):
        self.fixed = factors

    def __call__(self, frames: torch.Tensor) -> torch.Tensor:
        return self.fixed


def case(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Return (2, 14, 6, 8) factors and a (2, 6, 8) mask with floor, objects and ignored pixels."""
    generator = torch.Generator().manual_seed(seed)
    factors = torch.randn(2, 14, 6, 8, generator=generator)
    mask = torch.randint(0, 49, (2, 6, 8), generator=generator).to(torch.uint8)
    mask[:, :3] = 0
    mask[:, :, 0] = IGNORE
    return factors, mask


def test_loss_equals_plain_formulas():
    factors, mask = case()
    found = factored_loss(Fixed(factors), None, mask, region_weight=0.7)
    attributes = SegmentationUNet("resnet18", (8, 8, 8)).attributes.double()
    log_p = torch.einsum("kc,nchw->nkhw", attributes, factors.double()).log_softmax(1)
    known = mask != IGNORE
    floor, thing = log_p[:, 0], log_p[:, 1:].logsumexp(1)
    is_thing = known & (mask > 0)
    where = -(torch.where(is_thing, thing, floor))[known].mean()
    own = log_p.gather(1, torch.where(known, mask, 0).long()[:, None])[:, 0]
    which = -(own - thing)[is_thing].mean()
    p, t = thing.exp()[known], is_thing[known].double()
    dice = 1 - 2 * (p * t).sum() / (p + t).sum()
    assert found["where"].item() == pytest.approx(where.item(), rel=1e-5)
    assert found["which"].item() == pytest.approx(which.item(), rel=1e-5)
    assert found["loss"].item() == pytest.approx((where + which + 0.7 * dice).item(), rel=1e-4)


def test_no_step_waits_for_what_is_in_a_mask():
    factors, mask = case()
    with FakeTensorMode() as no_values:  # what must look at values to know a shape is an error
        found = factored_loss(Fixed(no_values.from_tensor(factors)), None, no_values.from_tensor(mask), 0.7)
        assert found["loss"].shape == ()
        with pytest.raises(DynamicOutputShapeException):
            no_values.from_tensor(factors)[no_values.from_tensor(factors) > 0]


def test_ignored_pixels_teach_nothing():
    factors, mask = case()
    factors.requires_grad_()
    factored_loss(Fixed(factors), None, mask, 0.5)["loss"].backward()
    ignored = (mask == IGNORE)[:, None].expand_as(factors)
    assert (factors.grad[ignored] == 0).all() and (factors.grad[~ignored] != 0).any()


@pytest.mark.parametrize("value", [0, IGNORE])
def test_a_batch_without_objects_has_a_finite_loss(value):
    factors = case()[0].requires_grad_()
    loss = factored_loss(Fixed(factors), None, torch.full((2, 6, 8), value, dtype=torch.uint8), 0.5)["loss"]
    loss.backward()
    assert loss.isfinite() and factors.grad.isfinite().all()


def test_an_untrained_network_knows_nothing():
    torch.manual_seed(0)
    frames = torch.rand(2, 3, 64, 64)
    mask = torch.randint(1, 49, (2, 64, 64)).to(torch.uint8)
    found = factored_loss(build_segmenter(TINY), frames, mask, 0.5)
    assert found["which"].item() == pytest.approx(math.log(3) + math.log(2) + math.log(8), abs=0.5)


def scene(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return a (160, 240, 3) uint8 frame with a bright and a dark rectangle, classes 2 and 30, and its mask."""
    random = np.random.default_rng(seed)
    mask = np.zeros((160, 240), np.uint8)
    for c in (2, 30):
        row, column = random.integers(10, 110), random.integers(10, 190)
        mask[row : row + 40, column : column + 40] = c
    frame = np.choose(np.select([mask == 2, mask == 30], [1, 2]), [124, 220, 30])[..., None]
    return np.clip(frame + random.normal(0, 1.4, (160, 240, 3)), 0, 255).astype(np.uint8), mask


def test_augmentation_is_a_function_of_its_seed():
    augment, again = FrameAugmentation((64, 96)), FrameAugmentation((64, 96))
    frame, mask = scene(0)
    crops = [augment(frame, mask, seed) for seed in range(6)]
    for seed in (3, 0, 5):
        for one, other in zip(crops[seed], again(frame, mask, seed), strict=True):
            np.testing.assert_array_equal(one, other)
    assert len({crop.tobytes() for crop, _ in crops}) == 6


@pytest.mark.parametrize("seed", range(8))
def test_augmentation_keeps_labels_on_their_objects(seed):
    frame, mask = FrameAugmentation((96, 128))(*scene(seed), seed)
    assert frame.shape == (96, 128, 3) and mask.shape == (96, 128) and frame.dtype == mask.dtype == np.uint8
    assert set(np.unique(mask)) <= {0, 2, 30, IGNORE} and np.isin(mask, (2, 30)).any()
    for c, low, high in ((2, 170, 256), (30, 0, 75), (0, 95, 155)):
        values = frame[mask == c].mean(-1)
        assert not len(values) or ((values >= low) & (values < high)).mean() > 0.9, c
    spread = frame.astype(int).max(-1) - frame.astype(int).min(-1)
    assert np.median(spread) < 12, "grey stays grey"


def block(rows: slice, columns: slice, label: int) -> tuple[np.ndarray, np.ndarray]:
    """Return a frame of grey 100 and its mask with one block, of grey 2 × label."""
    mask = np.zeros((160, 240), np.uint8)
    mask[rows, columns] = label
    return np.where(mask[..., None] > 0, 2 * mask[..., None], 100).repeat(3, -1).astype(np.uint8), mask


@pytest.mark.parametrize(("bottom", "in_front"), [(50, 7), (70, 30)])
def test_of_pasted_objects_the_one_that_reaches_lower_hides_the_other(bottom, in_front):
    frame, mask = block(slice(20, 60), slice(40, 80), 7)
    other, other_mask = block(slice(30, bottom), slice(60, 100), 30)
    before = frame.copy(), mask.copy()
    both, both_mask = pasted(frame, mask, other, other_mask)
    assert (both_mask[35:50, 60:80] == in_front).all()
    assert (both_mask[20:30, 40:80] == 7).all() and (both_mask[30:bottom, 80:100] == 30).all()
    assert ((both_mask > 0) == ((mask > 0) | (other_mask > 0))).all()
    np.testing.assert_array_equal(both, np.where(both_mask > 0, 2 * both_mask, 100)[..., None].repeat(3, -1))
    np.testing.assert_array_equal(before[0], frame)
    np.testing.assert_array_equal(before[1], mask)


def test_nothing_is_pasted_from_or_over_unknown_pixels():
    frame, mask = block(slice(20, 60), slice(40, 80), IGNORE)
    other, other_mask = block(slice(30, 70), slice(60, 100), 30)
    other_mask[60:] = np.where(other_mask[60:] > 0, IGNORE, 0)
    both, both_mask = pasted(frame, mask, other, other_mask)
    assert (both_mask == np.where(mask == IGNORE, IGNORE, np.where(other_mask == 30, 30, 0))).all()
    changed = (both != frame).any(-1)
    assert changed.any() and (both_mask[changed] == 30).all()


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_so_many_crops_show_objects_of_two_frames(share):
    frames, masks = zip(
        *(
            block(slice(60, 100), slice(place, place + 30), label)
            for label, place in ((1, 20), (2, 70), (3, 140), (4, 190))
        ),
        strict=True,
    )
    frames, masks = np.stack(frames)[:, None], np.stack(masks)[:, None]
    config = replace(TINY, crop=(160, 240), batch=200, pasted=share)
    mask = crop_batches(config, frames, masks, np.arange(4), 0)(0)["mask"].numpy()
    several = np.mean([len(set(np.unique(each)) - {0, IGNORE}) > 1 for each in mask])
    assert several == pytest.approx(0.75 * share, abs=0.12)  # a quarter meet themselves


@pytest.fixture(scope="module")
def videos() -> tuple[np.ndarray, np.ndarray]:
    frames, masks = zip(*(scene(seed) for seed in range(8)), strict=True)
    return np.stack(frames).reshape(4, 2, 160, 240, 3), np.stack(masks).reshape(4, 2, 160, 240)


def test_one_batch_can_be_overfitted(videos):
    frames, mask = (
        torch.from_numpy(videos[0][:2, 0, ::2, ::2].copy()),
        torch.from_numpy(videos[1][:2, 0, ::2, ::2].copy()),
    )
    torch.manual_seed(0)
    network = build_segmenter(SegmenterConfig("resnet18", (32, 24)))
    optimiser = torch.optim.AdamW(network.parameters(), 3e-3)
    for _ in range(40):
        found = factored_loss(network, as_images(frames), mask, 0.5)
        optimiser.zero_grad()
        found["loss"].backward()
        optimiser.step()
    assert found["where"] < 0.05 and found["which"] < 0.05
    assert (network.classes(as_images(frames)) == mask).float().mean() > 0.98


@pytest.mark.parametrize("loses", [True, False])
def test_the_log_scores_settled_masks_too_and_says_where_settling_loses(videos, tmp_path, monkeypatch, capsys, loses):
    truth = torch.from_numpy(videos[1])
    monkeypatch.setattr(segmenter, "settle", lambda masks: truth[3:].clone() if not loses else torch.zeros_like(masks))
    monkeypatch.setattr(segmenter, "segment", lambda model, frames, device: videos[1][3] * (videos[1][3] == 2))
    train_segmenter(TINY, *videos, np.arange(3), np.array([3]), tmp_path, CPU, seed=1)
    rows = list(csv.DictReader((tmp_path / "log.csv").read_text().splitlines()))
    plain, settled = (float(rows[-1][name]) for name in ("jaccard", "settled"))
    assert (settled < plain) == loses and (settled == 1) != loses
    assert ("lowers the Jaccard" in capsys.readouterr().err) == loses


def test_training_is_reproducible_and_survives_a_stop(videos, tmp_path, monkeypatch):
    def train(folder: str) -> dict[str, torch.Tensor]:
        rows = np.arange(3), np.array([3])
        return train_segmenter(TINY, *videos, *rows, tmp_path / folder, CPU, seed=1).state_dict()

    once = train("once")
    monkeypatch.setattr(training, "CHECKPOINT_SECONDS", 0.0)
    save = State.save

    def stopping(state, folder, step):
        save(state, folder, step)
        if step == 2:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(State, "save", stopping)
        train("stopped")
    resumed = train("stopped")
    assert all(torch.equal(value, resumed[name]) for name, value in once.items())
    loaded = load_segmenter(TINY, tmp_path / "once", CPU)
    frames = videos[0][0]
    np.testing.assert_array_equal(
        segment(loaded, frames, CPU), segment(load_segmenter(TINY, tmp_path / "stopped", CPU), frames, CPU)
    )
    found = segment_split(loaded, videos[0], tmp_path / "masks.npy", CPU, "masks")
    assert found.shape == (4, 2, 160, 240) and found.dtype == np.uint8
    pair = np.stack([segment(loaded, frames, CPU) for frames in videos[0][2:4]])
    np.testing.assert_array_equal(found[2:4], settle(torch.from_numpy(pair)).numpy())

"""The mask predictor forgets which class an object has, gives it back, and can learn one video by heart."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from data_prep.classes import IGNORE, NUM_CLASSES, SHAPE_OF_CLASS
from data_prep.scene import CLIP_FRAMES, NUM_FRAMES
from solution.config import MasksConfig
from solution.losses import mask_loss
from solution.predictors import Clip
from solution.predictors.masks import (
    EMPTY,
    SLOTS,
    STAYS,
    ClassSimVP,
    MasksPredictor,
    MaskVideos,
    Sampling,
    SlotSimVP,
    build_masks,
    class_batches,
    evaluate_masks,
    load_masks,
    next_loss,
    slot_batches,
    slot_classes,
    slot_shapes,
    subsample,
    to_classes,
    to_slots,
    train_masks,
    upsample,
)
from solution.presets import PRESETS

TINY = MasksConfig(
    patch=2,
    horizons=1,
    translator="inception",
    size=(8, 16, 2, 2),
    steps=3,
    batch_size=2,
)
CPU = torch.device("cpu")
HEIGHT, WIDTH = 40, 64
"""Of the test videos: nothing in the predictor depends on the competition's sides."""


def sliding_squares(videos: int) -> np.ndarray:
    """(videos, 22, 40, 64) uint8: squares of three classes that slide to the right at constant speed."""
    rng = np.random.default_rng(0)
    masks = np.zeros((videos, NUM_FRAMES, HEIGHT, WIDTH), dtype=np.uint8)
    for video in masks:
        for c, row in zip(rng.choice(np.arange(1, NUM_CLASSES), 3, replace=False), (2, 15, 28), strict=True):
            left, speed = rng.integers(0, 20), rng.integers(0, 3)
            for t in range(NUM_FRAMES):
                video[t, row : row + 10, left + speed * t : left + speed * t + 10] = c
    return masks


@pytest.fixture(scope="module")
def masks() -> np.ndarray:
    return sliding_squares(4)


def network(config: MasksConfig = TINY) -> SlotSimVP | ClassSimVP:
    torch.manual_seed(0)
    return build_masks(config).eval()


def test_slot_classes_are_the_largest_without_flicker():
    masks = np.zeros((2, 11, HEIGHT, WIDTH), dtype=np.uint8)
    masks[0, 0, 0, :20], masks[0, 0, 1, :30], masks[0, 0, 2, :40], masks[0, 0, 3, :3] = 9, 5, 7, 2
    masks[0, 0, 4:20] = IGNORE
    assert slot_classes(masks, 4).tolist() == [[5, 7, 9, 0], [0, 0, 0, 0]]
    assert slot_classes(masks, 2).tolist() == [[5, 7], [0, 0]]


def test_relabelling_there_and_back_is_the_identity_for_any_order(masks):
    clip = torch.from_numpy(masks)
    classes = slot_classes(clip, 8)
    for seed in range(3):
        order = torch.randperm(8, generator=torch.Generator().manual_seed(seed))
        slots = to_slots(clip, classes[:, order])
        assert slots.max() <= 8
        one_hot = torch.nn.functional.one_hot(slots[:, -1].long(), 9).movedim(-1, 1).float()
        back = to_classes(one_hot, classes[:, order])
        assert back.shape == (4, NUM_CLASSES, HEIGHT, WIDTH)
        assert torch.equal(back.argmax(1), clip[:, -1].long())
        shapes = slot_shapes(classes[:, order])
        assert torch.equal(shapes == EMPTY, classes[:, order] == 0)
        assert shapes[0, 0] == SHAPE_OF_CLASS[classes[0, order[0]]]


def test_ignored_stays_ignored_and_strangers_become_background():
    masks = torch.tensor([[[[0, 3, 4, IGNORE]]]], dtype=torch.uint8)
    assert to_slots(masks, torch.tensor([[0, 4, 0]])).tolist() == [[[[0, 0, 2, IGNORE]]]]


@pytest.mark.parametrize("form", ["oneshot", "rollout", "published"])
@pytest.mark.parametrize("downscale", [1, 2])
def test_probabilities_of_frame_22(masks, form, downscale):
    config = replace(TINY, form=form, downscale=downscale)
    predictor = MasksPredictor(network(config))
    clip = torch.from_numpy(masks[:2, :CLIP_FRAMES])
    probabilities = predictor.predict(Clip(clip, clip))
    assert probabilities.shape == (2, NUM_CLASSES, HEIGHT, WIDTH) and probabilities.dtype == torch.float32
    torch.testing.assert_close(probabilities.sum(1), torch.ones(2, HEIGHT, WIDTH))
    assert predictor.symmetries == {"flip"}
    if form != "published":
        absent = [c for c in range(1, NUM_CLASSES) if c not in clip[0].unique()]
        assert probabilities[0, absent].max() == 0


@pytest.mark.parametrize("downscale", [1, 2, 4])
def test_between_thinned_pixels_lies_what_was_there(downscale):
    rows, columns = torch.meshgrid(torch.arange(160.0), torch.arange(240.0), indexing="ij")
    slope = (2 * rows + 3 * columns)[None, None]
    back = upsample(subsample(slope, downscale), downscale)
    inside = np.s_[..., : 160 - downscale, : 240 - downscale]  # behind the last kept pixel nothing is known
    assert back.shape == slope.shape
    torch.testing.assert_close(back[inside], slope[inside])
    disc = ((rows - 70.3).square() + (columns - 99.8).square() < 14**2).float()[None, None]
    drawn = upsample(subsample(disc, downscale), downscale) > 0.5
    iou = (drawn & (disc > 0)).sum() / (drawn | (disc > 0)).sum()
    assert iou > {1: 0.999, 2: 0.92, 4: 0.84}[downscale]  # of an object of usual size


def test_separate_slots_have_no_order(masks):
    model = network()
    clip = torch.from_numpy(masks[:2, :CLIP_FRAMES])
    classes = slot_classes(clip, SLOTS)
    order = torch.tensor([2, 0, 3, 1, 7, 4, 6, 5])
    plain, other = (model(to_slots(clip, some), slot_shapes(some)) for some in (classes, classes[:, order]))
    background_and_slots = torch.cat((torch.zeros(1, dtype=torch.long), order + 1))
    torch.testing.assert_close(other, plain[:, :, background_and_slots])


def test_separate_slots_know_of_each_other_and_may_all_be_empty(masks):
    model = network()
    clip = torch.from_numpy(masks[:1, :CLIP_FRAMES])
    classes = slot_classes(clip, SLOTS)
    slots, shapes = to_slots(clip, classes), slot_shapes(classes)
    alone = torch.where(slots == 1, 1, 0).to(torch.uint8)
    assert not torch.allclose(model(slots, shapes)[:, :, 1], model(alone, shapes)[:, :, 1])
    nothing = model(torch.zeros_like(slots), torch.full_like(shapes, EMPTY))
    assert (nothing.argmax(2) == 0).all()


def test_renaming_the_classes_renames_the_probabilities_and_nothing_else(masks):
    predictor = MasksPredictor(network())
    clip = torch.from_numpy(masks[:1, :CLIP_FRAMES])
    old = slot_classes(clip, SLOTS)[0, :3]
    new = old + torch.where((old - 1) % 16 < 8, 8, -8)  # metal becomes rubber and back; no shape changes
    renamed = clip.clone()
    for o, n in zip(old, new, strict=True):
        renamed[clip == o] = n
    assert torch.equal(new.sort().values, new)  # else the slots would come in another order
    before, after = (predictor.predict(Clip(c, c)) for c in (clip, renamed))
    torch.testing.assert_close(after[:, new], before[:, old])


def test_clips_are_predicted_alike_in_whatever_parts(masks):
    predictor, clip = MasksPredictor(network()), Clip(None, torch.from_numpy(masks[:2, :CLIP_FRAMES]))
    apart = torch.cat([predictor.predict(clip[part]) for part in np.s_[:1, 1:]])
    torch.testing.assert_close(predictor.predict(clip), apart)


def test_initial_loss_is_that_of_choosing_between_the_slots(masks):
    tensors = slot_batches(TINY, [MaskVideos(masks, masks)], 0)(0)
    model = network()
    logits = model(tensors["slots"], tensors["shapes"])
    last = model.certain(tensors["slots"][:, -1:])
    network_alone = mask_loss(logits - STAYS * last, tensors["target"])["cross_entropy"].item()
    assert network_alone == pytest.approx(math.log(4), rel=0.25)
    stays = (tensors["slots"][:, -1:] == tensors["target"]).float().mean().item()
    start = mask_loss(STAYS * last, tensors["target"])["cross_entropy"].item()
    assert start == pytest.approx(math.log(math.exp(STAYS) + SLOTS) - STAYS * stays, rel=1e-4)


def test_batches_depend_on_nothing_but_seed_and_step(masks):
    videos = [MaskVideos(masks[:1], masks[:1]), MaskVideos(masks[1:], masks[1:])]
    for form in ("oneshot", "rollout"):
        config = replace(TINY, form=form)
        batch = slot_batches(config, videos, 3)
        first, again = batch(2), slot_batches(config, videos, 3)(2)
        assert all(torch.equal(first[name], again[name]) for name in first)
        assert not torch.equal(first["slots"], batch(1)["slots"])
        assert first["slots"].max() <= SLOTS


def test_mirroring_happens_to_input_and_target_together(masks):
    still = np.repeat(masks[:, :1], NUM_FRAMES, 1)
    tensors = slot_batches(replace(TINY, batch_size=8), [MaskVideos(still, still)], 0)(0)
    assert torch.equal(tensors["slots"][:, -1], tensors["target"][:, -1])


def test_soft_planes_of_certain_slots_are_the_planes(masks):
    model = network()
    clip = torch.from_numpy(masks[:2, :2])
    classes = slot_classes(clip, SLOTS)
    slots, shapes = to_slots(clip, classes), slot_shapes(classes)
    presence = torch.stack([slots == k for k in range(1, SLOTS + 1)], 2).float()
    torch.testing.assert_close(model.planes(slots, shapes), model.soft_planes(presence, shapes))


def test_rollout_grows_to_all_horizons_and_to_own_feedback(masks):
    config = replace(TINY, form="rollout", steps=100, batch_size=2)
    batch = slot_batches(config, [MaskVideos(masks, masks)], 0)
    horizons = [batch(step)["target"].shape[1] for step in (0, 49, 55, 99)]
    assert horizons[0] == horizons[1] == 1 < horizons[2] < horizons[3] == NUM_FRAMES - CLIP_FRAMES
    assert not batch(0)["own"].any() and batch(99)["own"].all()


def test_a_rollout_fed_the_truth_is_eleven_single_steps(masks):
    model = network(replace(TINY, form="rollout"))
    video = torch.from_numpy(masks[:1])
    classes = slot_classes(video[:, :CLIP_FRAMES], SLOTS)
    slots, shapes = to_slots(video, classes), slot_shapes(classes)
    truth, own = slots[:, CLIP_FRAMES:], torch.zeros(1, 11, dtype=torch.bool)
    rolled = model(slots[:, :CLIP_FRAMES], shapes, truth, own)
    single = torch.cat([model(slots[:, t : t + CLIP_FRAMES], shapes, steps=1) for t in range(11)], 1)
    torch.testing.assert_close(rolled, single, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("form", ["oneshot", "rollout"])
def test_one_video_is_learned_by_heart_and_the_folder_rebuilds_itself(masks, form, tmp_path):
    videos = MaskVideos(masks[:1], masks[:1])
    steps = 150 if form == "oneshot" else 12
    config = replace(TINY, form=form, size=(16, 32, 2, 2), steps=steps, batch_size=1, learning_rate=1e-2)
    predictor = train_masks(config, [videos], videos, tmp_path, CPU)
    if form == "oneshot":
        assert evaluate_masks(predictor.network, videos, CPU)["object_iou"] > 0.7
    clip = torch.from_numpy(masks[:1, :CLIP_FRAMES])
    again = load_masks(tmp_path, CPU).predict(Clip(clip, clip))
    assert torch.equal(again, predictor.predict(Clip(clip, clip)))


def test_a_rollout_whose_sides_simvp_would_pad_is_refused():
    network(replace(TINY, form="rollout", downscale=2, patch=4))
    with pytest.raises(ValueError, match="needs sides that 32 divides"):
        network(replace(TINY, form="rollout", downscale=2, patch=4, size=(8, 16, 4, 2)))


PUBLISHED = replace(TINY, form="published", translator="openstl", size=(8, 16, 2, 2))


def test_published_windows_are_all_eleven_of_a_video_and_what_follows():
    numbers = np.broadcast_to(np.arange(NUM_FRAMES, dtype=np.uint8)[:, None, None], (3, NUM_FRAMES, 2, 2))
    videos = MaskVideos(numbers, numbers)
    batch, first = class_batches(16, [videos], 0), set()
    for step in range(20):
        tensors = batch(step)
        start = tensors["masks"][:, 0, 0, 0]
        assert torch.equal(tensors["masks"][:, -1, 0, 0], start + CLIP_FRAMES - 1)
        assert torch.equal(tensors["target"][:, 0, 0, 0], start + CLIP_FRAMES)
        first |= set(start.tolist())
    assert first == set(range(11))
    steps = 4500
    sampling = Sampling(steps)
    shares = [sampling.own_share(step) for step in range(steps)]
    # 1 - 1.05 ** -(100 · (3 / 20 - 0.033)) by hand; nothing is fed back in the first 0.66 epochs.
    assert shares == sorted(shares) and shares[: steps // 5] == [0.0] * (steps // 5)
    assert shares[-1] == pytest.approx(0.435, abs=0.001)
    assert sampling.rate(0) == sampling.rate(steps - 1) == 1e-4
    own = []
    for step in range(0, steps, 25):
        tensors = sampling.batches(videos, 0)(step)
        assert tensors["own"].shape == (4,) and tensors["own"].unique().numel() == 1
        own.append(tensors["own"][0].item())
        ahead = tensors["target"][:, 0, 0, 0] - tensors["masks"][:, -1, 0, 0]
        assert (ahead == (2 if own[-1] else 1)).all() and tensors["masks"][:, 0].max() <= 5
    assert sum(own) == pytest.approx(sum(shares[::25]), abs=20)


def test_published_feedback_is_the_most_probable_class_and_has_no_gradient(masks):
    model = network(PUBLISHED).train()
    seen = torch.from_numpy(masks[:2, :CLIP_FRAMES])
    later = model.fed_back(seen)
    assert later.dtype == torch.uint8 and torch.equal(later[:, :-1], seen[:, 1:])
    assert torch.equal(later[:, -1], model(seen).argmax(1).to(torch.uint8))
    target = torch.from_numpy(masks[:2, CLIP_FRAMES + 1 : CLIP_FRAMES + 2])
    own = next_loss(model, {"masks": seen, "target": target, "own": torch.ones(2, dtype=torch.bool)})
    given = next_loss(model, {"masks": later, "target": target})
    torch.testing.assert_close(own["loss"], given["loss"])
    model.eval()
    rolled = seen
    for _ in range(10):
        rolled = torch.cat((rolled[:, 1:], model(rolled).argmax(1, keepdim=True).to(torch.uint8)), 1)
    torch.testing.assert_close(model.probabilities(seen), model(rolled).softmax(1))


def test_published_training_learns_from_the_segmenter_s_masks_resumes_and_rebuilds(masks, tmp_path):
    config = replace(PUBLISHED, steps=2, batch_size=2)
    videos = MaskVideos(masks[:1], np.full_like(masks[:1], 48))
    predictor = train_masks(config, [videos], videos, tmp_path, CPU)
    same = train_masks(config, [MaskVideos(masks[:1], masks[:1])], videos, tmp_path / "same", CPU)
    clip = torch.from_numpy(masks[:1, :CLIP_FRAMES])
    probabilities = predictor.predict(Clip(clip, clip))
    assert torch.equal(same.predict(Clip(clip, clip)), probabilities)  # targets that were 48 changed nothing
    assert (tmp_path / "single" / "weights.safetensors").exists()
    assert torch.equal(load_masks(tmp_path, CPU).predict(Clip(clip, clip)), probabilities)
    sampled = (tmp_path / "log.csv").read_text().splitlines()[-1].split(",")[0]
    assert sampled == str(3 * 6 * 1 // 4)


def test_published_network_is_openstl_s_with_an_embedding_and_two_convolutions():
    with torch.device("meta"):
        model = build_masks(PRESETS["masks-rollout"].masks)
    parameters = {name: sum(p.numel() for p in part.parameters()) for name, part in model.named_children()}
    parameters.pop("simvp")
    config = PRESETS["masks-rollout"].masks
    assert config.steps * config.batch_size / (14_000 * 11) == pytest.approx(17, abs=0.01)
    assert parameters == {
        "embedding": 49 * 49,
        "down": 49 * 49 * 9 + 49,
        "up": 49 * 49 * 4 + 49,
        "readout": 49 * 49 + 49,
    }

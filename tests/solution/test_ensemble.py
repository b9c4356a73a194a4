"""Views, weights and decoding against hand-made predictors and direct searches."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from solution.config import EnsembleConfig
from solution.ensemble import (
    THRESHOLDS,
    Copies,
    Fit,
    ThresholdTable,
    WithinMemory,
    decode,
    fit_decoding,
    member_probabilities,
    weighted,
)
from solution.predictors import VIEWS, Clip
from solution.predictors.baselines import DAMPING, background, copy, damped_velocity


def one_hot(mask: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.one_hot(mask.long(), 49).movedim(-1, 1).float()


class Copy:
    """Predicts the mask of frame 11, and claims no symmetry."""

    symmetries: frozenset[str] = frozenset()

    def predict(self, clip: Clip) -> torch.Tensor:
        return one_hot(clip.masks[:, -1])


class Shifted:
    """Not equivariant on purpose: moves the mask of frame 11 three pixels to the right."""

    symmetries = frozenset({"flip"})

    def predict(self, clip: Clip) -> torch.Tensor:
        return one_hot(clip.masks[:, -1].roll(3, -1))


@pytest.fixture
def clip() -> Clip:
    generator = torch.Generator().manual_seed(0)
    masks = torch.randint(0, 49, (2, 11, 160, 240), generator=generator).to(torch.uint8)
    return Clip(torch.zeros(2, 11, 160, 240, 3, dtype=torch.uint8), masks)


def test_a_flipped_view_is_flipped_back(clip):
    both = member_probabilities(Shifted(), clip, ["flip"])
    by_hand = (one_hot(clip.masks[:, -1].roll(3, -1)) + one_hot(clip.masks[:, -1].roll(-3, -1))) / 2
    assert torch.equal(both, by_hand)
    assert torch.equal(member_probabilities(Shifted(), clip, ()), one_hot(clip.masks[:, -1].roll(3, -1)))


def test_a_member_uses_only_views_that_it_learned(clip):
    assert torch.equal(member_probabilities(Copy(), clip, ["flip"]), Copy().predict(clip))
    assert set(VIEWS) == set(EnsembleConfig.views)


def test_every_copy_looks_at_its_own_masks(clip):
    other = Clip(clip.frames, clip.masks.roll(1, 0))
    together = Copies([Shifted(), Copy()]).predict(replace(clip, copies=(other,)))
    shifted, copied = one_hot(clip.masks[:, -1].roll(3, -1)), one_hot(other.masks[:, -1])
    assert torch.equal(together, (shifted + copied) / 2)
    flipped = VIEWS["flip"].see(replace(clip, copies=(other,))).copies[0]
    assert torch.equal(flipped.masks, other.masks.flip(-1))
    first = Copies([Copy(), Copy()]).predict(replace(clip, copies=(other,))[:1])
    assert torch.equal(first, (one_hot(clip.masks[:1, -1]) + one_hot(clip.masks[1:, -1])) / 2)


class Hungry(Copy):
    """Has no memory for more than one clip at a time."""

    def __init__(self):
        self.asked: list[int] = []

    def predict(self, clip: Clip) -> torch.Tensor:
        self.asked.append(len(clip))
        if len(clip) > 1:
            raise torch.OutOfMemoryError("out of memory")
        return super().predict(clip)


def test_a_member_without_memory_for_all_clips_sees_one_after_the_other(clip, capsys):
    hungry = Hungry()
    member = WithinMemory(hungry, most=2)
    for _ in range(2):
        assert torch.equal(member.predict(clip), Copy().predict(clip))
    assert hungry.asked == [2, 1, 1, 1, 1] and member.symmetries == Copy.symmetries
    assert "Not enough memory for 2 videos at a time; going on with 1." in capsys.readouterr().err


def test_a_member_is_shown_no_more_clips_at_a_time_than_it_can_take(clip):
    hungry = Hungry()
    assert torch.equal(WithinMemory(hungry, most=1).predict(clip), Copy().predict(clip))
    assert hungry.asked == [1, 1]


def test_copies_of_one_member_equal_that_member(clip):
    one = member_probabilities(Copy(), clip, ())
    mixed = weighted({"a": one, "b": one}, {"a": 0.25, "b": 0.75})
    assert torch.allclose(mixed, one)
    assert torch.equal(decode(mixed, 0.4), clip.masks[:, -1])


def test_decoding_draws_what_exceeds_the_threshold():
    probabilities = torch.zeros(1, 49, 1, 3)
    probabilities[0, 0, 0] = torch.tensor([0.6, 0.55, 0.2])
    probabilities[0, 7, 0] = torch.tensor([0.4, 0.25, 0.1])
    probabilities[0, 9, 0] = torch.tensor([0.0, 0.2, 0.7])
    assert decode(probabilities, 0.3).tolist() == [[[7, 0, 9]]]
    assert decode(probabilities, None).tolist() == [[[0, 0, 9]]]


def random_case(seed: int, batch: int = 3) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    probabilities = torch.randn(batch, 49, 12, 20, generator=generator).mul(3).softmax(1)
    truth = torch.multinomial(probabilities.movedim(1, -1).reshape(-1, 49), 1, generator=generator)
    truth = truth.view(batch, 12, 20).to(torch.uint8)
    truth[:, 0] = 255
    return probabilities, truth


def pooled_jaccard(prediction: torch.Tensor, truth: torch.Tensor) -> float:
    known = truth != 255
    prediction, truth = prediction[known], truth[known]
    hits = ((prediction == truth) & (truth > 0)).sum()
    return float(hits / ((prediction > 0).sum() + (truth > 0).sum() - hits))


def test_best_threshold_equals_a_direct_search():
    table, cases = ThresholdTable(), [random_case(seed) for seed in range(3)]
    for probabilities, truth in cases:
        table.add(probabilities, truth)
    found = table.best()
    probabilities, truth = (torch.cat(parts) for parts in zip(*cases, strict=True))
    direct = [pooled_jaccard(decode(probabilities, float(t)), truth) for t in THRESHOLDS]
    assert found.jaccard == pytest.approx(max(direct))
    assert found.threshold == pytest.approx(THRESHOLDS[int(np.argmax(direct))])
    assert found.influence.shape == (9,) and found.influence.mean() == pytest.approx(0, abs=1e-9)
    without = ThresholdTable()
    for probabilities, truth in cases[1:]:
        without.add(probabilities, truth)
    # Leaving three of nine videos out moves the ratio by what they weigh in it, to first order.
    assert without.best().jaccard - found.jaccard == pytest.approx(-found.influence[:3].sum() / 6, rel=0.1, abs=2e-3)


def test_the_better_member_gets_the_weight():
    probabilities, truth = random_case(5)
    noise = random_case(6)[0]
    batches = [({"good": probabilities, "bad": noise}, truth)]
    decoding = fit_decoding(("good", "bad"), batches, "fitted")
    assert decoding.weights["good"] > decoding.weights["bad"]
    assert sum(decoding.weights.values()) == pytest.approx(1)
    scores = decoding.pooled_jaccard
    assert scores["ensemble"] >= max(scores["good"], scores["bad"])


def mixed_case(shares: tuple[float, float], videos: int) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    """Two members that are right about this share of the pixels of each video, independently, and surer if so."""
    generator = torch.Generator().manual_seed(7)
    truth = torch.randint(1, 49, (videos, 12, 20), generator=generator)
    probabilities = {}
    for name, share in zip("ab", shares, strict=True):
        right = torch.rand(truth.shape, generator=generator) < share
        said = torch.where(right, truth, torch.randint(1, 49, truth.shape, generator=generator))
        sure = torch.where(right, 0.9, 0.3)[:, None]
        probabilities[name] = torch.nn.functional.one_hot(said, 49).movedim(-1, 1) * sure
    return probabilities, truth.to(torch.uint8)


@pytest.mark.parametrize(("shares", "is_mixed"), [((0.6, 0.6), True), ((0.9, 0.0), False)])
def test_a_mixture_is_chosen_where_members_know_different_things(shares, is_mixed):
    decoding = fit_decoding(("a", "b"), [mixed_case(shares, 8)], "fitted")
    assert (min(decoding.weights.values()) > 0) == is_mixed
    scores = decoding.pooled_jaccard
    assert (scores["ensemble"] > max(scores["a"], scores["b"])) == is_mixed


def best_fit(probabilities: torch.Tensor, truth: torch.Tensor) -> Fit:
    table = ThresholdTable()
    table.add(probabilities, truth)
    return table.best()


def test_what_one_video_gains_is_chance():
    probabilities, truth = mixed_case((0.6, 0.6), 8)
    one, other = probabilities["a"], probabilities["a"].clone()
    other[0] = torch.nn.functional.one_hot(truth[0].long(), 49).movedim(-1, 0) * 0.95  # all of one video is right
    other[1:, ..., :1] = 0  # and a little less of every other
    assert best_fit(other, truth).jaccard > best_fit(one, truth).jaccard + 0.01
    assert not best_fit(other, truth).is_better(best_fit(one, truth))
    assert not best_fit(other[:1], truth[:1]).is_better(best_fit(one[:1], truth[:1]))
    better = mixed_case((0.8, 0.6), 8)[0]["a"]  # right about more of every video
    assert best_fit(better, truth).is_better(best_fit(one, truth))


def test_argmax_needs_no_fit():
    decoding = fit_decoding(("a", "b"), iter(()), "argmax")
    assert decoding.threshold is None and decoding.weights == {"a": 0.5, "b": 0.5}


def test_the_simplest_baselines_look_at_the_last_mask_at_most(clip):
    assert torch.equal(copy(clip.masks), clip.masks[:, -1]) and not background(clip.masks).any()


def moving_masks(step: tuple[int, int], corner: tuple[int, int]) -> torch.Tensor:
    masks = torch.zeros(1, 11, 160, 240, dtype=torch.uint8)
    masks[:, :, 60:70, 20:30] = 5  # stands still
    for t in range(11):
        row, column = corner[0] + step[0] * t, corner[1] + step[1] * t
        masks[0, t, max(row, 0) : row + 8, max(column, 0) : column + 8] = 20
    return masks


def test_damped_velocity_slides_on():
    mask = damped_velocity(moving_masks((2, 4), (20, 40)))[0]
    assert (mask[60:70, 20:30] == 5).all()
    rows, columns = (mask == 20).nonzero(as_tuple=True)
    assert (rows.min(), columns.min()) == (20 + 20 + round(DAMPING * 22), 40 + 40 + round(DAMPING * 44))
    assert len(rows) == 64


def test_damped_velocity_puts_the_nearer_object_in_front_and_drops_what_leaves():
    towards = moving_masks((0, -4), (66, 80))  # frame 11 at column 40, then on to 40 - 13 on the object at rest
    mask = damped_velocity(towards)[0]
    assert (mask == 20).sum() == 64
    assert (mask == 5).sum() < 100
    leaves = moving_masks((0, 10), (100, 100))
    mask = damped_velocity(leaves)[0]
    assert (mask == 20).sum() == 8 * max(0, 240 - 200 - round(DAMPING * 110))

"""The factored head against the 49 logits that it stands for."""

import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from data_prep.classes import NUM_CLASSES, class_parts
from solution.models.unet import GROUPS, SegmentationUNet


@pytest.fixture(scope="module")
def network() -> SegmentationUNet:
    torch.manual_seed(0)
    return SegmentationUNet("resnet18", (32, 24)).eval()


@pytest.fixture
def factors() -> torch.Tensor:
    return 3 * torch.randn(2, sum(GROUPS), 6, 8, generator=torch.Generator().manual_seed(1))


def logits_by_hand(factors: torch.Tensor) -> torch.Tensor:
    """Return (N, 49, H, W) float64 logits, class by class."""
    factors = factors.double()
    shape, material, colour = 1, 4, 6
    logits = [factors[:, 0]]
    for c in range(1, NUM_CLASSES):
        s, m, k = class_parts(c)
        logits.append(factors[:, shape + s] + factors[:, material + m] + factors[:, colour + k])
    return torch.stack(logits, 1)


def with_factors(network: SegmentationUNet, factors: torch.Tensor, monkeypatch) -> SegmentationUNet:
    monkeypatch.setattr(network, "forward", lambda frames: factors)
    return network


def test_a_class_s_logit_is_the_sum_of_its_attributes(network, factors, monkeypatch):
    found = with_factors(network, factors, monkeypatch).logits(None)
    torch.testing.assert_close(found.double(), logits_by_hand(factors), atol=1e-5, rtol=0)


def most_probable(logits: torch.Tensor) -> torch.Tensor:
    """Return (N, H, W) the object of the largest (N, 49, H, W) logit where all objects together exceed the floor."""
    probability = logits.double().softmax(1)
    return torch.where(probability[:, 0] < 0.5, probability[:, 1:].argmax(1) + 1, 0)


def test_classes_are_floor_or_the_most_probable_object(network, factors, monkeypatch):
    classes = with_factors(network, factors, monkeypatch).classes(None)
    assert classes.dtype == torch.uint8 and (classes == 0).any() and len(classes.unique()) > 10
    assert torch.equal(classes.long(), most_probable(logits_by_hand(factors)))


def test_an_object_of_undecided_shape_is_no_floor(network, monkeypatch):
    factors = torch.full((1, 14, 1, 1), -9.0)
    factors[0, [0, 1, 2, 4, 6]] = torch.tensor([1.2, 1.0, 1.0, 0.0, 0.0])[:, None, None]  # floor; cube or sphere
    assert logits_by_hand(factors).argmax(1).item() == 0
    assert with_factors(network, factors, monkeypatch).classes(None).item() in (1, 17)


def test_classes_of_frames_follow_from_their_logits(network):
    frames = torch.rand(2, 3, 32, 48, generator=torch.Generator().manual_seed(2))
    with torch.inference_mode():
        logits, classes = network.logits(frames), network.classes(frames)
    assert logits.shape == (2, 49, 32, 48) and classes.shape == (2, 32, 48)
    objects = logits[:, 1:]
    first, second = objects.topk(2, 1).values.unbind(1)
    clear = (first - second > 1e-5) & ((objects.logsumexp(1) - logits[:, 0]).abs() > 1e-5)
    assert clear.float().mean() > 0.9 and torch.equal(classes[clear].long(), most_probable(logits)[clear])


def test_likelihood_is_the_softmax_over_all_classes(network, factors):
    classes = torch.randint(0, NUM_CLASSES, (2, 6, 8), generator=torch.Generator().manual_seed(3))
    classes[0, 0, 0] = 0
    odds, given = network.log_likelihood(factors.double(), classes)
    expected = logits_by_hand(factors).log_softmax(1).gather(1, classes[:, None])[:, 0]
    found = torch.where(classes > 0, F.logsigmoid(odds) + given.sum(1), F.logsigmoid(-odds))
    torch.testing.assert_close(found, expected)


def test_knowing_nothing_costs_the_logarithms_of_the_choices(network):
    odds, given = network.log_likelihood(torch.zeros(1, 14, 2, 2), torch.full((1, 2, 2), 30))
    assert odds.unique().item() == pytest.approx(math.log(48))
    expected = torch.tensor([math.log(3), math.log(2), math.log(8)]).view(1, 3, 1, 1).expand(1, 3, 2, 2)
    torch.testing.assert_close(-given, expected)


def test_shapes():
    network = SegmentationUNet("resnet18", (16, 12)).eval()
    with torch.inference_mode():
        assert network.logits(torch.rand(1, 3, 160, 240)).shape == (1, 49, 160, 240)
        assert network(torch.rand(1, 3, 64, 64)).shape == (1, 14, 64, 64)


def test_residual_branches_of_an_untrained_encoder_are_open():
    encoder = SegmentationUNet("tu-resnet18d", (32, 24)).unet.encoder
    weights = [module.weight for module in encoder.modules() if isinstance(module, nn.BatchNorm2d)]
    assert weights and all((weight == 1).all() for weight in weights), "timm starts the last of each branch at 0"

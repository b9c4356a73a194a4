"""SimVP has the published sizes, keeps the sides of its input and can learn one clip by heart."""

import pytest
import torch
import torch.nn.functional as F
from torch.utils.flop_counter import FlopCounterMode

from solution.models.simvp import SimVP

TRANSLATORS = ("inception", "gsta")


def tiny(translator: str, **changes) -> SimVP:
    torch.manual_seed(0)
    return SimVP(**{"hid_S": 8, "hid_T": 32, "N_T": 2, "translator": translator} | changes)


# SimVP's and OpenSTL's published tables: millions of parameters, 10⁹ multiply-accumulates a clip.
@pytest.mark.parametrize(
    ("translator", "clip", "hid_T", "parameters", "macs"),
    [
        ("inception", (11, 3, 160, 240), 256, 16.0, 87.0),
        ("gsta", (11, 3, 160, 240), 256, 20.4, 96.0),
        ("inception", (10, 1, 64, 64), 512, 58.0, 19.4),
        ("gsta", (10, 1, 64, 64), 512, 46.8, 16.5),
    ],
)
def test_sizes_are_the_published_ones(translator, clip, hid_T, parameters, macs):
    frames, channels, height, width = clip
    with torch.device("meta"):
        model = SimVP(channels, channels, frames, frames, 64, hid_T, 4, 8, translator).eval()
        counter = FlopCounterMode(display=False)
        with counter:
            predicted = model(torch.empty(1, *clip))
    assert predicted.shape == (1, *clip)
    assert sum(p.numel() for p in model.parameters()) / 1e6 == pytest.approx(parameters, rel=0.02)
    assert counter.get_total_flops() / 2e9 == pytest.approx(macs, rel=0.02)


@pytest.mark.parametrize("translator", TRANSLATORS)
@pytest.mark.parametrize("sides", [(16, 24), (17, 22)])
def test_frames_channels_and_sides(translator, sides):
    model = tiny(translator, in_channels=5, out_channels=7, frames_in=4, frames_out=2)
    assert model(torch.rand(2, 4, 5, *sides)).shape == (2, 2, 7, *sides)


def test_padding_repeats_the_edge_and_is_cropped():
    model = tiny("inception", frames_in=2, frames_out=2).eval()
    clip = torch.rand(1, 2, 3, 14, 19)
    padded = F.pad(clip.flatten(0, 1), (0, 1, 0, 2), mode="replicate")[None]
    torch.testing.assert_close(model(clip), model(padded)[..., :14, :19])


def test_channels_last_changes_nothing():
    model = tiny("gsta", frames_in=2, frames_out=2).eval()
    clip = torch.rand(1, 2, 3, 16, 16)
    expected = model(clip)
    torch.testing.assert_close(model.to(memory_format=torch.channels_last)(clip), expected, atol=1e-5, rtol=1e-4)


def test_every_parameter_gets_a_gradient():
    for translator in TRANSLATORS:
        model = tiny(translator, frames_in=3, frames_out=3)
        model(torch.rand(1, 3, 3, 16, 16)).square().mean().backward()
        assert all(p.grad is not None for p in model.parameters())


@pytest.mark.parametrize("translator", TRANSLATORS)
def test_one_clip_is_learned_by_heart(translator):
    model = tiny(translator, frames_in=3, frames_out=3)
    clip, truth = torch.rand(2, 1, 3, 3, 16, 16)
    optimiser = torch.optim.AdamW(model.parameters(), 1e-2)
    losses = []
    for _ in range(200):
        loss = F.mse_loss(model(clip), truth)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    # The variance of uniform noise is 1/12: below half of it, more than the mean has been learned.
    assert losses[-1] < 1 / 24


def test_bad_arguments_are_named():
    with pytest.raises(ValueError, match="inception, gsta"):
        SimVP(translator="lstm")
    with pytest.raises(ValueError, match="frames_out"):
        SimVP(frames_in=2, frames_out=3)


def test_gradients_in_low_precision_are_those_of_float32():
    """They were not, for one convolution on CPUs, by thirty orders of magnitude."""
    model = tiny("gsta").to(memory_format=torch.channels_last)
    clip = torch.rand(2, 11, 3, 32, 48, generator=torch.Generator().manual_seed(0))
    gradients = []
    for low in (False, True):
        model.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=low):
            loss = F.mse_loss(model(clip).float(), clip)
        loss.backward()
        gradients.append({name: parameter.grad.clone() for name, parameter in model.named_parameters()})
    for name, exact in gradients[0].items():
        if exact.abs().max() > 1e-4:
            assert (gradients[1][name] - exact).norm() < 0.2 * exact.norm(), name

"""SimVP has the published sizes, keeps the sides of its input and can learn one clip by heart."""

import pytest
import torch
import torch.nn.functional as F
from torch.utils.flop_counter import FlopCounterMode

from solution.models.simvp import SimVP, from_openstl

TRANSLATORS = ("inception", "gsta", "openstl")


def tiny(translator: str, **changes) -> SimVP:
    torch.manual_seed(0)
    return SimVP(**{"hid_S": 8, "hid_T": 32, "N_T": 2, "translator": translator} | changes)


# SimVP's and OpenSTL's published tables: millions of parameters, 10⁹ multiply-accumulates a clip. gSTA in the first
# paper's encoder and decoder, which no table has, is smaller by 184,704 parameters.
@pytest.mark.parametrize(
    ("translator", "clip", "hid_T", "parameters", "macs"),
    [
        ("inception", (11, 3, 160, 240), 256, 16.0, 87.0),
        ("gsta", (11, 3, 160, 240), 256, 20.2, 97.0),
        ("openstl", (11, 3, 160, 240), 256, 20.4, 96.0),
        ("inception", (10, 1, 64, 64), 512, 58.0, 19.4),
        ("openstl", (10, 1, 64, 64), 512, 46.8, 16.5),
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


def test_openstl_s_parameters_are_counted_exactly():
    with torch.device("meta"):
        counts = [sum(p.numel() for p in SimVP(translator=name).parameters()) for name in ("openstl", "gsta")]
    assert counts == [20_368_643, 20_183_939]


def test_openstl_s_weights_are_read():
    """Names and shapes as its code makes them, for 2 frames, hid_S 8, hid_T 12, N_S 2, N_T 3."""

    def conv(name: str, out: int, into: int, kernel: int = 1) -> dict[str, tuple[int, ...]]:
        return {f"{name}.weight": (out, into, kernel, kernel), f"{name}.bias": (out,)}

    def norm(name: str, width: int, *statistics: str) -> dict[str, tuple[int, ...]]:
        return {f"{name}.{part}": (width,) for part in ("weight", "bias", *statistics)}

    shapes = {}
    for i, into in enumerate((3, 8)):
        shapes |= conv(f"enc.enc.{i}.conv.conv", 8, into, 3) | norm(f"enc.enc.{i}.conv.norm", 8)
    shapes |= conv("dec.dec.0.conv.conv.0", 32, 8, 3) | norm("dec.dec.0.conv.norm", 8)
    shapes |= conv("dec.dec.1.conv.conv", 8, 8, 3) | norm("dec.dec.1.conv.norm", 8) | conv("dec.readout", 3, 8)
    for i, (width, out) in enumerate(((16, 12), (12, 12), (12, 16))):
        block, gate = f"hid.enc.{i}.block", f"hid.enc.{i}.block.attn.spatial_gating_unit"
        shapes |= {f"{block}.layer_scale_{n}": (width,) for n in (1, 2)}
        for n in (1, 2):
            shapes |= norm(f"{block}.norm{n}", width, "running_mean", "running_var")
            shapes |= {f"{block}.norm{n}.num_batches_tracked": ()}
            shapes |= conv(f"{block}.attn.proj_{n}", width, width)
        shapes |= conv(f"{gate}.conv0", width, 1, 5) | conv(f"{gate}.conv_spatial", width, 1, 7)
        shapes |= conv(f"{gate}.conv1", 2 * width, width) | conv(f"{block}.mlp.fc1", 8 * width, width)
        shapes |= conv(f"{block}.mlp.dwconv.dwconv", 8 * width, 1, 3) | conv(f"{block}.mlp.fc2", width, 8 * width)
        if width != out:
            shapes |= conv(f"hid.enc.{i}.reduction", out, width)
    weights = {name: torch.rand(shape) for name, shape in shapes.items()}
    model = SimVP(3, 3, 2, 2, hid_S=8, hid_T=12, N_S=2, N_T=3, translator="openstl")
    model.load_state_dict(from_openstl(weights))
    far = model.translator.layers[-2].far.weight
    assert torch.equal(far, weights["hid.enc.2.block.attn.spatial_gating_unit.conv_spatial.weight"])
    assert torch.equal(model.translator.layers[-1].weight, weights["hid.enc.2.reduction.weight"])


@pytest.mark.parametrize("translator", TRANSLATORS)
def test_horizons_are_decoded_one_by_one(translator):
    model, clip = tiny(translator, frames_in=3, frames_out=3).eval(), torch.rand(2, 3, 3, 16, 24)
    everything = model(clip)
    torch.testing.assert_close(model(clip, [-1]), everything[:, -1:], atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(model(clip, torch.tensor([2, 0])), everything[:, [2, 0]], atol=1e-5, rtol=1e-4)


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
    with pytest.raises(ValueError, match="inception, gsta, openstl"):
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

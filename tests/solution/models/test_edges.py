"""The edge network: its shapes, and that no profile of an outline is the first."""

import torch

from solution.models.edges import LOG_SCALE, EdgeNetwork


def test_turning_the_ring_of_profiles_turns_what_is_found():
    torch.manual_seed(0)
    network = EdgeNetwork(7, 16)
    profiles = torch.randn(3, 24, 7)
    offset, log_scale = network(profiles)
    assert offset.shape == log_scale.shape == (3, 24) and offset.dtype == torch.float32
    turned = network(profiles.roll(5, 1))
    assert torch.allclose(turned[0], offset.roll(5, 1), atol=1e-5)
    assert torch.allclose(turned[1], log_scale.roll(5, 1), atol=1e-5)


def test_neighbours_count_and_far_profiles_do_not():
    torch.manual_seed(0)
    network = EdgeNetwork(7, 16)
    profiles = torch.zeros(1, 64, 7, requires_grad=True)
    network(profiles)[0][0, 30].backward()
    reached = profiles.grad.abs().sum(-1)[0].nonzero()[:, 0]
    assert reached.min() == 24 and reached.max() == 36  # 2 + 4 to either side


def test_certainty_has_bounds():
    network = EdgeNetwork(2, 4)
    with torch.no_grad():
        network.out.bias[1] = 100.0
    assert (network(torch.zeros(1, 8, 2))[1] == LOG_SCALE[1]).all()

"""Muon against singular value decompositions and AdamW."""

import copy

import pytest
import torch
from torch import nn

from solution.muon import EVERY, KERNEL_RATE, Muon, orthogonalised


@pytest.mark.parametrize("shape", [(8, 40), (40, 8), (16, 16), (1, 9)])
def test_orthogonalised_keeps_singular_vectors_and_makes_values_alike(shape):
    matrix = torch.randn(*shape, generator=torch.Generator().manual_seed(0))
    found = orthogonalised(matrix)
    assert found.shape == matrix.shape
    left, values, right = torch.linalg.svd(matrix, full_matrices=False)
    inner = left.T @ found @ right.T
    assert torch.allclose(inner, inner.diagonal().diag(), atol=1e-4)
    sure = values > 0.05 * values.max()
    assert (inner.diagonal()[sure] > 0.5).all() and (inner.diagonal() < 1.3).all()


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.Conv2d(8, 16, 3), nn.BatchNorm2d(16), nn.Conv2d(16, 4, 1))


def test_hidden_kernels_follow_muon_and_all_else_adamw():
    model, rate, decay = network(), 0.01, 0.1
    before = copy.deepcopy(model.state_dict())
    other = copy.deepcopy(model)
    optimisers = (
        Muon(model, rate, decay),
        torch.optim.AdamW(other.parameters(), rate, weight_decay=decay, fused=True),
    )
    frames = torch.randn(4, 3, 12, 12, generator=torch.Generator().manual_seed(1))
    other(frames).square().sum().backward()
    gradients = [parameter.grad.clone() for parameter in other.parameters()]
    for _ in range(EVERY):
        assert torch.equal(model[1].weight, before["1.weight"])  # which waits for its turn
        for each, optimiser in zip((model, other), optimisers, strict=True):
            for parameter, gradient in zip(each.parameters(), gradients, strict=True):
                parameter.grad = gradient.clone()
            optimiser.step()
        assert model[1].weight.grad is None
    for (name, value), theirs in zip(model.named_parameters(), other.parameters(), strict=True):
        assert torch.equal(value, theirs) == (name != "1.weight"), name
    change = orthogonalised(gradients[2].flatten(1)).view_as(gradients[2])  # any share of it is as long
    rate *= EVERY
    expected = before["1.weight"] * (1 - rate * decay) - KERNEL_RATE * rate * change
    assert torch.allclose(model[1].weight, expected, atol=1e-4)


def test_its_state_can_be_kept_and_taken_over():
    models = [network() for _ in range(2)]
    optimisers = [Muon(model, 0.01, 0.1) for model in models]
    frames = torch.randn(5, 4, 3, 12, 12, generator=torch.Generator().manual_seed(1))
    for step, batch in enumerate(frames):
        if step == 2:
            optimisers[1] = Muon(models[1], 0.01, 0.1)
            optimisers[1].load_state_dict(copy.deepcopy(optimisers[0].state_dict()))
        for model, optimiser in zip(models, optimisers, strict=True):
            model(batch).square().sum().backward()
            optimiser.step()
            optimiser.zero_grad()
    for one, other in zip(*(model.parameters() for model in models), strict=True):
        assert torch.equal(one, other)

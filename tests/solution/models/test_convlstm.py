"""ConvLSTM's cell against its formula pixel by pixel, its rollout against itself, and one clip learned by heart."""

import pytest
import torch
import torch.nn.functional as F

from solution.models.convlstm import Cell, ConvLSTM


def test_a_cell_is_an_lstm_at_every_pixel():
    torch.manual_seed(0)
    cell, reference = Cell(3, 4), torch.nn.LSTMCell(3, 4)
    with torch.no_grad():
        cell.gates.weight.zero_()  # but for the centre: no neighbour has a say
        # torch orders gates as input, forget, cell, output; here the candidate comes last.
        order = torch.cat([torch.arange(4) + 4 * gate for gate in (0, 1, 3, 2)])
        cell.gates.weight[:, :, 2, 2] = torch.cat((reference.weight_ih, reference.weight_hh), 1)[order]
        cell.gates.bias.copy_((reference.bias_ih + reference.bias_hh)[order])
    x, hidden, memory = torch.rand(1, 3, 5, 6), torch.rand(1, 4, 5, 6), torch.rand(1, 4, 5, 6)
    flat = [t[0].flatten(1).T for t in (x, hidden, memory)]
    for found, expected in zip(cell(x, (hidden, memory)), reference(flat[0], (flat[1], flat[2])), strict=True):
        torch.testing.assert_close(found[0].flatten(1).T, expected)
    for found, expected in zip(cell(x, None), reference(flat[0]), strict=True):
        torch.testing.assert_close(found[0].flatten(1).T, expected)


@pytest.mark.parametrize("residual", [False, True])
def test_what_is_predicted_is_the_next_input(residual):
    torch.manual_seed(0)
    model, clip = ConvLSTM(8, 2, frames_out=3, residual=residual).eval(), torch.rand(2, 4, 3, 16, 24)
    torch.nn.init.normal_(model.readout.weight, std=0.2)
    predicted = model(clip)
    assert predicted.shape == (2, 3, 3, 16, 24) and torch.equal(model(clip, [-1]), predicted[:, -1:])
    longer = torch.cat((clip, predicted[:, :1]), 1)
    torch.testing.assert_close(model(longer)[:, :2], predicted[:, 1:])


def test_the_residual_one_starts_from_repeating_the_last_frame():
    model, clip = ConvLSTM(8, 2, frames_out=3, residual=True), torch.rand(2, 4, 3, 16, 24)
    assert torch.equal(model(clip), clip[:, -1:].expand(-1, 3, -1, -1, -1))


def test_one_clip_is_learned_by_heart():
    torch.manual_seed(0)
    model, (clip, truth) = ConvLSTM(8, 2, frames_out=3), torch.rand(2, 1, 3, 3, 16, 16)
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

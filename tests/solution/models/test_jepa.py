"""I-JEPA's networks have timm's sizes, hide what they should, and the target follows as a moving average does."""

import numpy as np
import pytest
import timm
import torch
import torch.nn.functional as F

from solution.models.jepa import (
    HIDDEN_PATCHES,
    Encoder,
    Jepa,
    Predictor,
    draw_patches,
    normalised,
    sine_positions,
    spread,
    take,
)
from solution.models.vit import PATCHES

SIZES = (24, 2, 3)


def tiny() -> Jepa:
    torch.manual_seed(0)
    return Jepa(*SIZES)


def count(module: torch.nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def test_encoder_and_predictor_have_the_size_of_timm_s_vit_tiny():
    shape = {"img_size": (160, 240), "num_classes": 0, "class_token": False, "global_pool": "avg", "fc_norm": False}
    with torch.device("meta"):
        tiny_vit = timm.create_model("vit_tiny_patch16_224", **shape)
        encoder, predictor = Encoder(192, 12, 3), Predictor(192, 12, 3)
    assert tiny_vit.pos_embed.shape[1] == PATCHES == 150
    assert count(encoder) == count(tiny_vit) - tiny_vit.pos_embed.numel()  # positions are fixed here
    assert count(predictor.transformer) == count(tiny_vit.blocks) + count(tiny_vit.norm)


def test_exactly_112_patches_are_hidden_and_no_patch_is_lost():
    hidden, seen = draw_patches(50, np.random.default_rng(0))
    assert hidden.shape == (50, 112) and seen.shape == (50, 38) and HIDDEN_PATCHES == 112
    together = torch.cat((hidden, seen), 1).sort(1).values
    assert torch.equal(together, torch.arange(150).expand(50, -1))
    assert len({tuple(sorted(frame.tolist())) for frame in hidden}) == 50
    often = torch.bincount(draw_patches(4000, np.random.default_rng(1))[0].flatten(), minlength=150) / 4000
    # Binomial, sd 0.007 each; four of them among 150.
    torch.testing.assert_close(often, torch.full((150,), 112 / 150), atol=0.028, rtol=0)


def test_features_of_seen_patches_know_nothing_of_hidden_ones():
    encoder, frames = tiny().encoder.eval(), torch.rand(1, 3, 160, 240)
    hidden, seen = draw_patches(1, np.random.default_rng(0))
    other = frames.clone()
    for patch in hidden[0].tolist():
        row, column = divmod(patch, 15)
        other[:, :, 16 * row : 16 * row + 16, 16 * column : 16 * column + 16] = 0
    torch.testing.assert_close(encoder(other, seen), encoder(frames, seen))
    assert not torch.allclose(take(encoder(other), seen), take(encoder(frames), seen))


def test_targets_are_the_normalised_features_of_whole_frames_at_hidden_places():
    jepa, frames = tiny().eval(), torch.rand(2, 3, 160, 240)
    hidden, seen = draw_patches(2, np.random.default_rng(0))
    predicted, target = jepa(frames, seen, hidden)
    assert predicted.shape == target.shape == (2, 112, 24) and predicted.requires_grad and not target.requires_grad
    features = jepa.target(frames)
    centred = features - features.mean(-1, keepdim=True)
    expected = centred / (centred.square().mean(-1, keepdim=True) + 1e-5).sqrt()
    for video in range(2):
        torch.testing.assert_close(target[video], expected[video, hidden[video]])


def test_positions_of_the_predictor_are_sines():
    positions = sine_positions(150, 192)
    assert positions.shape == (150, 192) and torch.equal(positions[0], torch.tensor([0.0, 1.0]).repeat_interleave(96))
    assert positions[7, 0] == pytest.approx(np.sin(7)) and positions[7, 97] == pytest.approx(
        np.cos(7 / 10_000 ** (2 / 192))
    )


def test_the_target_follows_as_a_moving_average():
    jepa = tiny()
    for parameter in jepa.target.parameters():
        parameter.zero_()
    for _ in range(3):
        jepa.follow(torch.tensor(0.9))
    for target, online in zip(jepa.target.parameters(), jepa.encoder.parameters(), strict=True):
        torch.testing.assert_close(target, (1 - 0.9**3) * online)
    assert jepa.updates == 3 and "updates" in jepa.state_dict()


def test_the_first_loss_is_the_targets_variance_and_one_batch_is_learned_by_heart():
    jepa, frames = tiny(), torch.rand(2, 3, 160, 240)
    hidden, seen = draw_patches(2, np.random.default_rng(0))
    optimiser = torch.optim.AdamW([p for p in jepa.parameters() if p.requires_grad], 1e-2)
    losses = []
    for _ in range(60):
        loss = F.mse_loss(*jepa(frames, seen, hidden))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[0] == pytest.approx(1, abs=0.05)
    assert losses[-1] < 0.5 * losses[0]
    assert all(p.grad is None for p in jepa.target.parameters())


def test_spread_is_between_frames_not_places_and_has_no_scale():
    torch.manual_seed(0)
    features = torch.randn(200, 150, 24)
    assert spread(features) == pytest.approx(1, abs=0.02)
    assert spread(0.1 * features + 5) == pytest.approx(1, abs=0.05)
    assert spread(features[:1].expand(20, -1, -1)) == 0
    torch.testing.assert_close(normalised(features).var(-1, correction=0), torch.ones(200, 150), atol=1e-3, rtol=0)

"""The mask decoder starts from the share of background, learns a frame by heart, and keeps patches in their places."""

import math

import pytest
import timm
import torch
import torch.nn.functional as F

from solution.models.jepa import Encoder
from solution.models.mask_decoder import MaskDecoder, PatchSegmenter


def test_six_layers_are_half_a_vit_tiny():
    with torch.device("meta"):
        blocks = timm.create_model("vit_tiny_patch16_224", num_classes=0).blocks[:6]
        decoder = MaskDecoder(192, 6, 3)
    attention = sum(p.numel() for p in blocks.parameters())
    assert sum(p.numel() for p in decoder.parameters()) == attention + 2 * 192 + 49 * (192 * 256 + 1)


def test_the_first_loss_is_that_of_the_shares_and_one_frame_is_learned_by_heart():
    torch.manual_seed(0)
    decoder, features = MaskDecoder(48, 1, 3), torch.randn(1, 150, 48)
    mask = torch.zeros(1, 160, 240, dtype=torch.long)
    mask[:, 40:90, 30:70], mask[:, 100:120, 150:200] = 7, 48
    share = (mask > 0).float().mean().item()
    optimiser = torch.optim.AdamW(decoder.parameters(), 3e-3)
    losses = []
    for _ in range(60):
        loss = F.cross_entropy(decoder(features), mask)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[0] == pytest.approx(-(1 - share) * math.log(0.94) - share * math.log(0.06 / 48), rel=0.02)
    assert losses[-1] < 0.05
    assert (decoder(features).argmax(1) == mask).float().mean() > 0.99


def test_patches_come_out_where_they_went_in():
    torch.manual_seed(0)
    encoder, decoder = Encoder(24, 0, 3), MaskDecoder(24, 0, 3)  # without attention patches stay apart
    segmenter, frames = PatchSegmenter(encoder, decoder), torch.rand(1, 3, 160, 240)
    other = frames.clone()
    other[..., 32:48, 80:96] = 0
    changed = (segmenter(frames) != segmenter(other)).any(1)[0]
    assert changed[32:48, 80:96].all() and changed.sum() == 16 * 16
    assert torch.equal(segmenter.classes(frames), segmenter(frames).argmax(1).byte())

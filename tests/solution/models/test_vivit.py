"""The generator has ViT-Base's size, embeds tubelets as a 3-D convolution would, and can learn a clip by heart."""

import timm
import torch
import torch.nn.functional as F

from solution.models.unet import FRAME_MEAN
from solution.models.vit import PatchEmbedding
from solution.models.vivit import ViViT


def count(module: torch.nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def test_the_transformer_is_timm_s_vit_base():
    with torch.device("meta"):
        base, generator = timm.create_model("vit_base_patch16_224", num_classes=0), ViViT(768, 12, 12)
    assert count(generator.transformer) == count(base.blocks) + count(base.norm)
    tubelet = 11 * 3 * 16 * 16
    assert count(generator.embed) == (tubelet + 1) * 768
    assert count(generator.draw) == 768 * tubelet + 33


def test_tubelets_are_a_convolution_over_time_and_space():
    torch.manual_seed(0)
    embed, clip = PatchEmbedding(11, 8), torch.rand(2, 11, 3, 160, 240)
    centred = ((clip - embed.mean) / embed.std).transpose(1, 2)  # (B, 3, 11, H, W)
    weight = embed.project.weight.unflatten(1, (11, 3)).transpose(1, 2)
    expected = F.conv3d(centred, weight, embed.project.bias, stride=(11, 16, 16))[:, :, 0]
    found = (embed(clip) - embed.positions).transpose(1, 2).unflatten(2, (10, 15))
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)


def test_positions_differ_and_know_row_and_column():
    positions = PatchEmbedding(1, 16).positions[0].unflatten(0, (10, 15))
    assert len(positions.flatten(0, 1).unique(dim=0)) == 150
    assert torch.equal(positions[3, :, 0:4], positions[3, :1, 0:4].expand(15, -1))  # sines of the row
    assert torch.equal(positions[:, 3, 4:8], positions[:1, 3, 4:8].expand(10, -1))  # sines of the column


def test_starts_near_the_floor_and_learns_a_clip_by_heart():
    torch.manual_seed(0)
    model, (clip, truth) = ViViT(24, 2, 3), torch.rand(2, 1, 11, 3, 160, 240)
    optimiser = torch.optim.AdamW(model.parameters(), 1e-2)
    first = model(clip)
    assert first.shape == truth.shape
    assert (first.mean((0, 1, 3, 4)) - torch.tensor(FRAME_MEAN)).abs().max() < 0.05
    losses = []
    for _ in range(40):
        loss = F.mse_loss(model(clip), truth)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    # The variance of uniform noise is 1/12: below it, more than the mean has been learned.
    assert losses[-1] < 0.9 / 12 < losses[0]

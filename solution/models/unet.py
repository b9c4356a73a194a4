"""The segmenter's network: a segmentation-models U-Net from scratch with a head factored by attribute.

No training code and no data live here.
"""

from __future__ import annotations

import segmentation_models_pytorch as smp
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from data_prep.classes import COLOURS, MATERIALS, NUM_CLASSES, SHAPES, class_parts

FRAME_MEAN = (0.47, 0.47, 0.48)
FRAME_STD = (0.1, 0.1, 0.1)
"""Rough statistics of the grey floor; they only centre the input."""


GROUPS = (1, len(SHAPES), len(MATERIALS), len(COLOURS))
"""Channels of the factored head: background, shape, material, colour."""
SUBPIXEL = 2
"""Logits that the head makes along each side of a pixel of the decoder."""


class SegmentationUNet(nn.Module):
    """``smp.Unet`` whose class logit is the sum of a shape's, a material's and a colour's logit.

    The 48 classes are all combinations of 3 × 2 × 8 attributes, so 14 channels (background included) say everything,
    each attribute learns from every object that has it, and the sum over classes factors into small sums.

    A sub-pixel convolution (Shi et al., CVPR 2016) takes the place of the decoder's last stage, which has no skip and,
    at full size, costs as much as several others.

    Args:
        encoder: name of an smp encoder; it starts from random weights.
        decoder_channels: widths of the decoder stages, coarse to fine; the encoder has one stage more.
    """

    def __init__(self, encoder: str, decoder_channels: tuple[int, ...]):
        super().__init__()
        attributes = torch.zeros(NUM_CLASSES, sum(GROUPS))
        attributes[0, 0] = 1
        for c in range(1, NUM_CLASSES):
            shape, material, colour = class_parts(c)
            attributes[c, [1 + shape, sum(GROUPS[:2]) + material, sum(GROUPS[:3]) + colour]] = 1
        self.register_buffer("attributes", attributes, persistent=False)
        self.register_buffer("mean", torch.tensor(FRAME_MEAN)[:, None, None], persistent=False)
        self.register_buffer("std", torch.tensor(FRAME_STD)[:, None, None], persistent=False)
        self.unet = smp.Unet(
            encoder,
            encoder_depth=len(decoder_channels) + 1,
            encoder_weights=None,
            decoder_channels=(*decoder_channels, decoder_channels[-1]),
        )
        for module in self.unet.encoder.modules():
            if isinstance(module, nn.BatchNorm2d):  # timm's close their residual branches, which take long to open
                nn.init.ones_(module.weight)
        self.unet.decoder.blocks = self.unet.decoder.blocks[:-1]
        head = nn.Conv2d(decoder_channels[-1], sum(GROUPS) * SUBPIXEL**2, 3, padding=1)
        self.unet.segmentation_head = nn.Sequential(head, nn.PixelShuffle(SUBPIXEL))

    def forward(self, frames: Tensor) -> Tensor:
        """Map (N, 3, H, W) frames in [0, 1] to (N, 14, H, W) logits of background, shape, material and colour."""
        return self.unet((frames - self.mean) / self.std)

    def logits(self, frames: Tensor) -> Tensor:
        """Map (N, 3, H, W) frames in [0, 1] to the (N, 49, H, W) logits of the classes."""
        return F.conv2d(self(frames), self.attributes[:, :, None, None])

    def classes(self, frames: Tensor) -> Tensor:
        """Return the (N, H, W) uint8 most probable object where there is rather one than floor, and 0 elsewhere.

        The arg max of :meth:`logits` takes for floor what is surely an object but whose shape is undecided.
        """
        factors = self(frames).float()
        background, *groups = factors.split(GROUPS, 1)
        thing = anything(groups) > background[:, 0]
        logits = factors.permute(0, 2, 3, 1)[thing]  # of few pixels
        shape, material, colour = (group.argmax(1) for group in logits.split(GROUPS, 1)[1:])
        chosen = 1 + (shape * len(MATERIALS) + material) * len(COLOURS) + colour
        return torch.zeros_like(thing, dtype=torch.uint8).masked_scatter_(thing, chosen.to(torch.uint8))

    def log_likelihood(self, factors: Tensor, classes: Tensor) -> tuple[Tensor, Tensor]:
        """Return the parts of what softmax over the 49 logits says of given classes, without making 49 channels.

        Args:
            factors: (N, 14, H, W) float32 from :meth:`forward`.
            classes: (N, H, W) int64 0–48.

        Returns:
            (N, H, W) log-odds of there being an object, and (N, 3, H, W) log-probabilities of its shape, material and
            colour given that there is one; the latter are meaningless where ``classes`` is 0.
        """
        background, *groups = factors.split(GROUPS, 1)
        rest = (classes - 1).clamp_min(0)
        parts = rest // 16, rest // 8 % 2, rest % 8
        given = [group.log_softmax(1).gather(1, part[:, None]) for group, part in zip(groups, parts, strict=True)]
        return anything(groups) - background[:, 0], torch.cat(given, 1)


def anything(groups: list[Tensor]) -> Tensor:
    """Return the (N, H, W) log of the summed exponentials of all objects' logits, from the (N, C, H, W) attributes'."""
    return sum(group.logsumexp(1) for group in groups)

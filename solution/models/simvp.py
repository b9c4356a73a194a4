"""SimVP: the convolutional video predictor, with the translator of its first paper or of its second.

Layers only; losses, data and training live elsewhere. After Gao et al., "SimVP: Simpler yet Better Video Prediction"
(CVPR 2022), as its public code builds it, and Tan et al., "SimVP: Towards Simple yet Powerful Spatiotemporal
Predictive Learning" (2022) for gated spatio-temporal attention (gSTA). What is around the translator is the first
paper's, also around gSTA, or that of OpenSTL, the second paper's code.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class SimVP(nn.Module):
    """Encode every frame alone, mix all of them in a translator, decode every predicted frame alone.

    Maps ``clip: (B, frames_in, in_channels, H, W)`` to ``(B, frames_out, out_channels, H, W)``. Sides that no
    encoder stride divides are padded with their edge and cropped back. ``frames_out`` is at most ``frames_in``:
    predicted frames take the skips of the last ``frames_out`` input frames, one each.

    Args:
        in_channels, out_channels: of a frame.
        frames_in, frames_out: how many frames are seen and predicted.
        hid_S, hid_T, N_S, N_T: widths and depths of encoder and decoder, and of the translator, as in the papers.
        translator: ``inception``, ``gsta``, or ``openstl``: gSTA, with encoder and decoder as in OpenSTL, which have
            SiLU, sub-pixel convolutions (Shi et al., CVPR 2016), an added skip and weights of standard deviation 0.02.

    Raises:
        ValueError: there is no such translator, or ``frames_out`` is out of its range.
    """

    def __init__(
        self,
        in_channels: int = 3,
        out_channels: int = 3,
        frames_in: int = 11,
        frames_out: int = 11,
        hid_S: int = 64,
        hid_T: int = 256,
        N_S: int = 4,
        N_T: int = 8,
        translator: str = "gsta",
    ):
        super().__init__()
        if not 1 <= frames_out <= frames_in:
            raise ValueError(f"frames_out is 1 to frames_in ({frames_in}), not {frames_out}")
        if translator not in TRANSLATORS:
            raise ValueError(f"translator is one of {', '.join(TRANSLATORS)}, not {translator!r}")
        self.frames_out, self.adds_skip = frames_out, translator == "openstl"
        block = SubPixelBlock if self.adds_skip else ConvBlock
        strides = [2 if i % 2 else 1 for i in range(N_S)]
        self.multiple = math.prod(strides)
        self.encoder = nn.ModuleList(
            block(in_channels if i == 0 else hid_S, hid_S, stride) for i, stride in enumerate(strides)
        )
        self.translator = TRANSLATORS[translator](frames_in * hid_S, frames_out * hid_S, hid_T, N_T)
        self.decoder = nn.ModuleList(
            block(hid_S if i < N_S - 1 or self.adds_skip else 2 * hid_S, hid_S, stride, upsamples=stride > 1)
            for i, stride in enumerate(reversed(strides))
        )
        self.readout = nn.Conv2d(hid_S, out_channels, 1)

    def forward(self, clip: Tensor, horizons: Tensor | Sequence[int] | None = None) -> Tensor:
        """Predict; ``horizons`` are the indices of the predicted frames to decode and return, by default of all."""
        batch, frames, channels, height, width = clip.shape
        latent, skip = self.encode(clip.flatten(0, 1))  # (B·T, S, H/4, W/4), (B·T, S, H, W)
        latent = self.translate(latent.unflatten(0, (batch, frames)))
        skip = skip.unflatten(0, (batch, frames))[:, -self.frames_out :]
        if horizons is not None:
            latent, skip = latent[:, horizons], skip[:, horizons]
        predicted = self.decode(latent.flatten(0, 1), skip.flatten(0, 1))  # (B·T_out, C_out, H, W)
        return predicted[..., :height, :width].unflatten(0, latent.shape[:2])

    def encode(self, frames: Tensor) -> tuple[Tensor, Tensor]:
        """Return the latent (N, hid_S, H/4, W/4) of each (N, C, H, W) frame and its skip (N, hid_S, H, W).

        H and W come padded; a rollout calls this once for each new frame and keeps what it has.
        """
        height, width = frames.shape[-2:]
        below, right = -height % self.multiple, -width % self.multiple
        if below or right:
            frames = F.pad(frames, (0, right, 0, below), mode="replicate")
        latent = skip = self.encoder[0](frames)
        for block in self.encoder[1:]:
            latent = block(latent)
        return latent, skip

    def translate(self, latent: Tensor) -> Tensor:
        """Return the latents (B, frames_out, hid_S, h, w) of the predicted frames from (B, frames_in, hid_S, h, w)."""
        return self.translator(latent.flatten(1, 2)).unflatten(1, (self.frames_out, -1))

    def decode(self, latent: Tensor, skip: Tensor) -> Tensor:
        """Return (N, out_channels, H, W) frames from (N, hid_S, H/4, W/4) latents and (N, hid_S, H, W) skips."""
        for block in self.decoder[:-1]:
            latent = block(latent)
        joined = latent + skip if self.adds_skip else torch.cat((latent, skip), 1)
        return self.readout(self.decoder[-1](joined))


class ConvBlock(nn.Module):
    """3×3 convolution (or its transpose, which doubles the sides), group normalisation, leaky ReLU."""

    def __init__(self, in_channels: int, out_channels: int, stride: int, upsamples: bool = False):
        super().__init__()
        if upsamples:
            self.conv = nn.ConvTranspose2d(in_channels, out_channels, 3, stride, padding=1, output_padding=stride - 1)
        else:
            self.conv = nn.Conv2d(in_channels, out_channels, 3, stride, padding=1)
        self.norm = nn.GroupNorm(2, out_channels)

    def forward(self, x: Tensor) -> Tensor:
        return F.leaky_relu(self.norm(self.conv(x)), 0.2)


class SubPixelBlock(nn.Module):
    """3×3 convolution (or four of them, whose outputs are the pixels of twice the sides), group normalisation, SiLU."""

    def __init__(self, in_channels: int, out_channels: int, stride: int, upsamples: bool = False):
        super().__init__()
        if upsamples:
            self.conv = nn.Conv2d(in_channels, out_channels * stride**2, 3, padding=1)
        else:
            self.conv = nn.Conv2d(in_channels, out_channels, 3, stride, padding=1)
        self.upscale = stride if upsamples else 1
        self.norm = nn.GroupNorm(2, out_channels)
        nn.init.trunc_normal_(self.conv.weight, std=0.02)
        nn.init.zeros_(self.conv.bias)

    def forward(self, x: Tensor) -> Tensor:
        return F.silu(self.norm(F.pixel_shuffle(self.conv(x), self.upscale)))


class InceptionTranslator(nn.Module):
    """U-shaped stack of 2·N_T inception blocks: (B, in_channels, h, w) → (B, out_channels, h, w)."""

    def __init__(self, in_channels: int, out_channels: int, hid_T: int, N_T: int):
        super().__init__()
        self.down = nn.ModuleList(Inception(in_channels if i == 0 else hid_T, hid_T // 2, hid_T) for i in range(N_T))
        self.up = nn.ModuleList(
            Inception(hid_T if i == 0 else 2 * hid_T, hid_T // 2, hid_T if i < N_T - 1 else out_channels)
            for i in range(N_T)
        )

    def forward(self, x: Tensor) -> Tensor:
        skips = []
        for block in self.down:
            x = block(x)
            skips.append(x)
        x = self.up[0](skips.pop())
        for block in self.up[1:]:
            x = block(torch.cat((x, skips.pop()), 1))
        return x


class Inception(nn.Module):
    """1×1 convolution, then the sum of grouped convolutions with kernels 3, 5, 7 and 11."""

    KERNELS = (3, 5, 7, 11)
    GROUPS = 8

    def __init__(self, in_channels: int, hidden: int, out_channels: int):
        super().__init__()
        if hidden % self.GROUPS or out_channels % self.GROUPS:
            raise ValueError(f"hid_T / 2 and frames × hid_S divide by {self.GROUPS}, not {hidden} and {out_channels}")
        self.squeeze = nn.Conv2d(in_channels, hidden, 1)
        self.branches = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(hidden, out_channels, kernel, padding=kernel // 2, groups=self.GROUPS),
                nn.GroupNorm(self.GROUPS, out_channels),
                nn.LeakyReLU(0.2),
            )
            for kernel in self.KERNELS
        )

    def forward(self, x: Tensor) -> Tensor:
        x = self.squeeze(x)
        return sum(branch(x) for branch in self.branches)


class GatedAttentionTranslator(nn.Module):
    """N_T gSTA blocks, the first at the width of the input, the rest at hid_T: (B, in, h, w) → (B, out, h, w)."""

    def __init__(self, in_channels: int, out_channels: int, hid_T: int, N_T: int):
        super().__init__()
        layers: list[nn.Module] = []
        width = in_channels
        for i in range(N_T):
            layers.append(GatedAttentionBlock(width))
            following = hid_T if i < N_T - 1 else out_channels
            if following != width:
                layers.append(nn.Conv2d(width, following, 1))
            width = following
        self.layers = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)


class GatedAttentionBlock(nn.Module):
    """Large-kernel gated attention, then a convolutional MLP, both residual and scaled: (B, C, h, w) → the same.

    The 21×21 kernel is a depth-wise 5×5 followed by a depth-wise 7×7 of dilation 3.
    """

    MLP_RATIO = 8
    LAYER_SCALE = 1e-2

    def __init__(self, width: int):
        super().__init__()
        hidden = self.MLP_RATIO * width
        self.attention_norm = nn.BatchNorm2d(width)
        self.attention_in = nn.Conv2d(width, width, 1)
        self.near = nn.Conv2d(width, width, 5, padding=2, groups=width)
        self.far = nn.Conv2d(width, width, 7, padding=9, dilation=3, groups=width)
        self.value_and_gate = nn.Conv2d(width, 2 * width, 1)
        self.attention_out = nn.Conv2d(width, width, 1)
        self.attention_scale = nn.Parameter(torch.full((width, 1, 1), self.LAYER_SCALE))
        self.mlp_norm = nn.BatchNorm2d(width)
        self.mlp = nn.Sequential(
            nn.Conv2d(width, hidden, 1),
            nn.Conv2d(hidden, hidden, 3, padding=1, groups=hidden),
            nn.GELU(),
            nn.Conv2d(hidden, width, 1),
        )
        self.mlp_scale = nn.Parameter(torch.full((width, 1, 1), self.LAYER_SCALE))
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                fan_out = math.prod(module.kernel_size) * module.out_channels // module.groups
                nn.init.normal_(module.weight, 0, math.sqrt(2 / fan_out))
                nn.init.zeros_(module.bias)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention_scale * self.attention(self.attention_norm(x))
        return x + self.mlp_scale * self.mlp(self.mlp_norm(x))

    def attention(self, x: Tensor) -> Tensor:
        wide = self.near(F.gelu(self.attention_in(x)))
        # In bfloat16 and channels-last memory a CPU gets this convolution's weight gradient wrong (torch 2.15, oneDNN).
        if x.device.type == "cpu":
            with torch.autocast("cpu", enabled=False):
                wide = self.far(wide.float())
        else:
            wide = self.far(wide)
        value, gate = self.value_and_gate(wide).chunk(2, 1)
        return x + self.attention_out(value * gate.sigmoid())


TRANSLATORS = {
    "inception": InceptionTranslator,
    "gsta": GatedAttentionTranslator,
    "openstl": GatedAttentionTranslator,
}

OPENSTL_NAMES = (
    (r"enc\.enc\.(\d+)\.conv\.", r"encoder.\1."),
    (r"dec\.dec\.(\d+)\.conv\.", r"decoder.\1."),
    (r"(encoder|decoder)\.(\d+)\.conv\.0\.", r"\1.\2.conv."),
    (r"dec\.readout\.", "readout."),
    (r"block\.norm1\.", "attention_norm."),
    (r"block\.attn\.proj_1\.", "attention_in."),
    (r"block\.attn\.spatial_gating_unit\.conv0\.", "near."),
    (r"block\.attn\.spatial_gating_unit\.conv_spatial\.", "far."),
    (r"block\.attn\.spatial_gating_unit\.conv1\.", "value_and_gate."),
    (r"block\.attn\.proj_2\.", "attention_out."),
    (r"block\.norm2\.", "mlp_norm."),
    (r"block\.mlp\.fc1\.", "mlp.0."),
    (r"block\.mlp\.dwconv\.dwconv\.", "mlp.1."),
    (r"block\.mlp\.fc2\.", "mlp.3."),
    (r"block\.layer_scale_1$", "attention_scale"),
    (r"block\.layer_scale_2$", "mlp_scale"),
)


def from_openstl(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the weights of OpenSTL's ``SimVP_Model`` with gSTA under the names of ``SimVP(translator="openstl")``."""
    reduced = sorted({int(name.split(".")[2]) for name in weights if ".reduction." in name})
    renamed = {}
    for name, tensor in weights.items():
        for theirs, ours in OPENSTL_NAMES:
            name = re.sub(theirs, ours, name)
        if match := re.match(r"hid\.enc\.(\d+)\.(reduction\.)?", name):
            block = int(match[1])
            layer = block + sum(before < block for before in reduced) + bool(match[2])
            name = f"translator.layers.{layer}.{name[match.end() :]}"
        renamed[name] = tensor[:, None, None] if name.endswith("_scale") else tensor
    return renamed

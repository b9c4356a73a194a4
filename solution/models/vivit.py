"""The generator of frames: a ViT on patches of the whole clip, and a transposed convolution back; network only.

After Arnab et al., "ViViT: A Video Vision Transformer" (ICCV 2021), with a tubelet as long as the clip.
"""

from torch import Tensor, nn

from data_prep.scene import CLIP_FRAMES, NUM_FRAMES
from solution.models.vit import PATCH, PatchEmbedding, as_grid, transformer


class ViViT(nn.Module):
    """Maps (B, 11, 3, 160, 240) frames in [0, 1] to the eleven that follow, of the same shape."""

    def __init__(self, width: int, layers: int, heads: int):
        super().__init__()
        self.embed = PatchEmbedding(CLIP_FRAMES, width)
        self.transformer = transformer(width, layers, heads)
        self.draw = nn.ConvTranspose2d(width, 3 * (NUM_FRAMES - CLIP_FRAMES), PATCH, PATCH)

    def forward(self, clip: Tensor) -> Tensor:
        tokens = self.transformer(self.embed(clip))  # (B, 150, width)
        frames = self.draw(as_grid(tokens)).unflatten(1, (-1, 3))
        return frames * self.embed.std + self.embed.mean

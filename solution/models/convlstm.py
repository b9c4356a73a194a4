"""ConvLSTM: a recurrent predictor of frames, for comparison; network only.

After Shi et al., "Convolutional LSTM Network: A Machine Learning Approach for Precipitation Nowcasting" (NIPS 2015):
frames come as patches, all layers' states are read out together, kernels are 5 × 5. As in later implementations there
are no peepholes, and one stack both reads and predicts.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

PATCH = 4
KERNEL = 5


class ConvLSTM(nn.Module):
    """Read a clip frame by frame, then predict frame by frame, each prediction being the next input.

    Maps (B, T, 3, H, W) to the (B, ``frames_out``, 3, H, W) that follow; 4 divides H and W. If ``residual``, what is
    read out is what changes in the frame before; untrained, that is nothing.
    """

    def __init__(self, width: int, layers: int, frames_out: int = 11, residual: bool = False):
        super().__init__()
        self.frames_out, self.residual = frames_out, residual
        pixels = 3 * PATCH**2
        self.cells = nn.ModuleList(Cell(pixels if i == 0 else width, width) for i in range(layers))
        self.readout = nn.Conv2d(layers * width, pixels, 1)
        if residual:
            for parameter in self.readout.parameters():
                nn.init.zeros_(parameter)

    def forward(self, clip: Tensor, horizons: Tensor | Sequence[int] | None = None) -> Tensor:
        """Predict; ``horizons`` are the indices of the predicted frames to return, by default all."""
        seen = F.pixel_unshuffle(clip, PATCH)  # (B, T, 48, H/4, W/4)
        states: list[tuple[Tensor, Tensor] | None] = [None] * len(self.cells)
        for frame in seen.unbind(1):
            states = self.step(frame, states)
        frame, predicted = seen[:, -1], []
        for horizon in range(self.frames_out):
            if horizon:
                states = self.step(frame, states)
            frame = self.read(states) + (frame if self.residual else 0)
            predicted.append(frame)
        frames = torch.stack(predicted, 1)
        return F.pixel_shuffle(frames if horizons is None else frames[:, horizons], PATCH)

    def step(self, x: Tensor, states: list[tuple[Tensor, Tensor] | None]) -> list[tuple[Tensor, Tensor]]:
        """Return every layer's new (hidden, cell), both (B, width, h, w), after a (B, 48, h, w) frame of patches."""
        new = []
        for cell, state in zip(self.cells, states, strict=True):
            new.append(cell(x, state))
            x = new[-1][0]
        return new

    def read(self, states: list[tuple[Tensor, Tensor]]) -> Tensor:
        """Return the (B, 48, h, w) patches of the next frame, or their change."""
        return self.readout(torch.cat([hidden for hidden, _ in states], 1))


class Cell(nn.Module):
    """One layer's gates, by a convolution over its input and its own last output; without a state it starts at 0."""

    def __init__(self, in_channels: int, width: int):
        super().__init__()
        self.gates = nn.Conv2d(in_channels + width, 4 * width, KERNEL, padding=KERNEL // 2)
        self.width = width

    def forward(self, x: Tensor, state: tuple[Tensor, Tensor] | None) -> tuple[Tensor, Tensor]:
        zeros = x.new_zeros(len(x), self.width, *x.shape[2:])
        hidden, memory = state or (zeros, zeros)
        write, keep, show, candidate = self.gates(torch.cat((x, hidden), 1)).chunk(4, 1)
        memory = keep.sigmoid() * memory + write.sigmoid() * candidate.tanh()
        return show.sigmoid() * memory.tanh(), memory

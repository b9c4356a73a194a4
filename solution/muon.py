"""Muon: a step changes a kernel or matrix by its orthogonalised momentum, so that no direction lags behind.

Keller Jordan et al., 2024: Muon, an optimizer for hidden layers in neural networks. PyTorch's own is for matrices only.
"""

import torch
from torch import Tensor, nn

MOMENTUM = 0.95
ITERATIONS = 3
QUINTIC = (3.4445, -4.7750, 2.0315)
"""The authors' coefficients, with which few iterations take all singular values near 1."""
KERNEL_RATE = 10.0
"""Learning rate of kernels over that of everything else."""
EVERY = 2
"""Steps between two changes of a kernel, which are so many times as large; kernels take turns."""
RGB = 3


class Muon(torch.optim.AdamW):
    """Muon for the kernels of hidden convolutions and matrices of hidden layers, AdamW for all other parameters.

    Hidden are all but those that see colours and the network's last, which makes its output.

    Args:
        model: whose parameters are optimised.
        learning_rate: of AdamW; ``KERNEL_RATE`` times that is the spectral norm by which a kernel changes, a step.
        weight_decay: of both, as a share of AdamW's learning rate.
    """

    def __init__(self, model: nn.Module, learning_rate: float, weight_decay: float):
        kernels = [p for p in model.parameters() if p.ndim > 1][:-1]
        self.kernels = [kernel for kernel in kernels if kernel.shape[1] > RGB]
        super().__init__(model.parameters(), learning_rate, weight_decay=weight_decay, fused=True)

    @torch.no_grad()
    def step(self) -> None:
        """Change what has a gradient, of kernels those whose turn it is; their gradients are used up."""
        (group,) = self.param_groups
        for turn, kernel in enumerate(self.kernels):
            gradient, kernel.grad = kernel.grad, None
            if gradient is None:
                continue
            state = self.state[kernel]
            if not state:  # of AdamW's names, for its loading
                state |= {"step": torch.zeros(()), "exp_avg": torch.zeros_like(kernel)}
            state["step"] += 1
            state["exp_avg"].lerp_(gradient, 1 - MOMENTUM)
            if (state["step"] + turn) % EVERY:
                continue
            change = gradient.lerp(state["exp_avg"], MOMENTUM).flatten(1)
            rows, columns = change.shape
            change = orthogonalised(change).view_as(kernel) * max(1.0, rows / columns) ** 0.5
            rate = EVERY * group["lr"]
            kernel.mul_(1 - rate * group["weight_decay"])
            kernel.sub_(change, alpha=KERNEL_RATE * rate)
        super().step()


def orthogonalised(matrix: Tensor) -> Tensor:
    """Return the (m, n) matrix with its singular values, but for the smallest, near 1, by Newton-Schulz iterations.

    These are polynomials of the product with its own transpose; all but the last step is done on that, as it is small.
    """
    wide = matrix if matrix.shape[0] <= matrix.shape[1] else matrix.T
    wide = wide / (wide.norm() + 1e-7)
    square = wide @ wide.T
    unit = whole = torch.eye(len(square), dtype=square.dtype, device=square.device)
    a, b, c = QUINTIC
    for _ in range(ITERATIONS):
        factor = a * unit + b * square + c * square @ square
        square, whole = factor @ square @ factor, factor @ whole
    return whole @ wide if wide.shape == matrix.shape else (whole @ wide).T

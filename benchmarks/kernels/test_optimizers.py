"""adamw_ema_: what follows a backward pass, over the weights of an encoder. Apart: benchmarks/methods/optimizers.py"""

import torch
from torch import Tensor

from vitkiln.kernels import adamw_ema_

ROW = [1e-3, 0.1, 0.1, 0.001, 1e-8, 0.1, 0.001, 1.0, 0.004, 0.0]


def test_a_step(setup, timed):
    """In place, on tensors of the patch projection's size."""
    flat = setup.weight.detach().flatten()
    many = [[torch.zeros_like(flat) for _ in range(24)] for _ in range(5)]
    hyper = torch.tensor([ROW], device=flat.device)

    def step(weight: Tensor) -> Tensor:
        adamw_ema_(*many[:4], hyper, (), many[4])
        return weight

    timed(step, flat, moved=36 * 24 * flat.numel())

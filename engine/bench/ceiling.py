"""What the device could do at best: by its data sheet, and by products of the recipe's own shapes in this process."""

from __future__ import annotations

import re

import torch

from ..train import Trainer
from .clock import Spread, between, stamp, wait

DATA_SHEETS = {  # TFLOP/s of dense bf16 products, by what PyTorch calls the GPU; a slice of one is another device
    r"(NVIDIA )?A100[- ](SXM4|PCIE|PCIe|SXM)?[- ]?\d+GB( PCIe)?": 312.0,
    r"(NVIDIA )?H100 80GB HBM3": 989.0,
    r"(NVIDIA )?H100 SXM\d?": 989.0,
    r"(NVIDIA )?H100 PCIe": 756.0,
    r"(NVIDIA )?H200": 989.0,
}
SECONDS, WARM_UP, FEWEST = 0.3, 2, 5  # for each product
ROWS = {"cpu": 4096, "cuda": 65536}  # at most


def peak_tflops(name: str, precision: str) -> float | None:
    """Of a GPU that is known, in bf16; None of any other, as a guess would be a wrong utilisation.

    >>> peak_tflops("NVIDIA H100 80GB HBM3", "bf16"), peak_tflops("NVIDIA H100 PCIe", "bf16")
    (989.0, 756.0)
    >>> peak_tflops("NVIDIA H100 80GB HBM3 MIG 1g.10gb", "bf16"), peak_tflops("NVIDIA H200", "fp32")
    (None, None)
    """
    found = (peak for pattern, peak in DATA_SHEETS.items() if re.fullmatch(pattern, name))
    return next(found, None) if precision == "bf16" else None


def matmul_tflops(trainer: Trainer) -> float:
    """The rate of the four products of a block, one after another, at the recipe's width, tokens and precision."""
    recipe, device = trainer.recipe, trainer.device
    width, _, _ = recipe.encoder.shape
    hidden = int(width * recipe.encoder.mlp_ratio)
    tokens = recipe.data.batch_size // recipe.run.accumulate * (1 + recipe.encoder.patches)
    rows = min(tokens, ROWS[device.type])
    dtype = torch.bfloat16 if recipe.run.precision == "bf16" else torch.float32
    shapes = [(width, 3 * width), (width, width), (width, hidden), (hidden, width)]
    milliseconds = sum(product(rows, inner, columns, dtype, device) for inner, columns in shapes)
    operations = sum(2 * rows * inner * columns for inner, columns in shapes)
    return operations / milliseconds / 1e9


@torch.no_grad()
def product(rows: int, inner: int, columns: int, dtype: torch.dtype, device: torch.device) -> float:
    """Milliseconds of [rows, inner] by [inner, columns], of random numbers; of the faster ones, as it is a ceiling."""
    left, right = (
        torch.randn(rows, inner, device=device).to(dtype),
        torch.randn(columns, inner, device=device).to(dtype),
    )
    bias = torch.zeros(columns, device=device, dtype=dtype)
    spent: list[float] = []
    for count in range(1000):
        began = stamp(device)
        torch.nn.functional.linear(left, right, bias)
        ended = stamp(device)
        wait(device)
        spent.append(between(began, ended))
        if count >= WARM_UP + FEWEST and sum(spent) > 1e3 * SECONDS:
            break
    return Spread.of(spent[WARM_UP:]).p20

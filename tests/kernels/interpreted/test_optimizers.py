"""The Triton kernels of AdamW and LARS against float64, over tensors that fill no block."""

import pytest
import torch

from vitkiln.kernels import adamw_ema_, lars_ema_, use

SHAPES = [(37, 5), (1024,), (3000,), (1,), (65, 33), (2, 3, 4, 5)]
GROUPS = [0, 1, 0, 1, 0, 0]
ADAMW = [[0.1, 0.05, 0.1, 0.001, 1e-8, 0.19, 0.002, 0.7, 0.01, 0.0], [0.1, 0.0, 0.1, 0.001, 1e-8, 0.1, 0.1, 1, 0, 1]]
LARS = [[0.1, 0.05, 0.9, 0.001, 0.7, 0.01, 0.0], [0.01, 0.0, 0.9, 0.001, 0.7, 0.01, 1.0]]


def tensors(seed, dtype):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=generator).to(dtype) for shape in SHAPES]


@pytest.mark.parametrize("follow", ["", "t", "tc", "c"])
def test_adamw_agrees_with_float64_and_skips_what_shall_not_move(follow, close):
    def moved(implementation, dtype):
        p, g, m, v, t = (tensors(seed, dtype) for seed in range(5))
        copies = [torch.zeros_like(x, dtype=torch.bfloat16) for x in p] if "c" in follow else []
        theirs = [x.clone() for x in copies] if follow == "tc" else []
        v, t = [x.abs() for x in v], t if "t" in follow else []
        with use(implementation, "optimizers"):
            adamw_ema_(p, g, m, v, torch.tensor(ADAMW), GROUPS, t, copies, theirs)
        return [*p, *m, *v, *t], [*copies, *theirs], [*p, *(t if theirs else [])]

    actual, copies, exact = moved("triton", torch.float32)
    for one, other in zip(actual, moved("reference", torch.float64)[0], strict=True):
        close(one, other, torch.float32)
    for index, (copy, whole) in enumerate(zip(copies, exact, strict=False)):
        skipped = GROUPS[index % len(GROUPS)] == 1
        close(copy, torch.zeros_like(whole) if skipped else whole, torch.bfloat16)


def test_lars_agrees_with_float64_and_skips_what_shall_not_move(close):
    def moved(implementation, dtype):
        p, g, m, t = (tensors(seed, dtype) for seed in range(4))
        with use(implementation, "optimizers"):
            lars_ema_(p, g, m, torch.tensor(LARS), GROUPS, t)
        return [*p, *m, *t]

    for one, other in zip(moved("triton", torch.float32), moved("reference", torch.float64), strict=True):
        close(one, other, torch.float32)


def test_a_tensor_of_many_blocks_has_the_ratio_of_all_of_them(close):
    def moved(implementation, dtype):
        p, g = (torch.randn(70, 1030, generator=torch.Generator().manual_seed(seed)).to(dtype) for seed in range(2))
        with use(implementation, "optimizers"):
            lars_ema_([p], [g], [torch.zeros_like(p)], torch.tensor(LARS[:1]))
        return p

    close(moved("triton", torch.float32), moved("reference", torch.float64), torch.float32)

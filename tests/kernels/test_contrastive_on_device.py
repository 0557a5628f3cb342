"""On a GPU the contrastive losses say what they say in float64, without waiting for the device."""

import pytest
import torch

from vitkiln.kernels import info_nce, n_pair, nt_xent, sup_con, use
from vitkiln.kernels.contrastive import reference

pytestmark = pytest.mark.gpu
LABELS = torch.arange(300) % 17


def rows(count: int, *shape: int, dtype: torch.dtype, learned: bool = True) -> torch.Tensor:
    return torch.randn(count, *shape).to("cuda", dtype).requires_grad_(learned)


def losses(dtype: torch.dtype, width: int) -> dict:
    """Each loss, its meaning and arguments that fill no tile."""
    first, second = (rows(300, width, dtype=dtype) for _ in range(2))
    keys = rows(5000, width, dtype=dtype, learned=False)
    return {
        "info_nce": (info_nce, reference.info_nce, (first, second, 0.1)),
        "info_nce of a teacher's keys": (info_nce, reference.info_nce, (first, keys, 0.1, 4000)),
        "nt_xent": (nt_xent, reference.nt_xent, (first, second, 0.1)),
        "sup_con": (sup_con, reference.sup_con, (rows(300, 2, width, dtype=dtype), LABELS.cuda(), 0.1, 0.07)),
        "n_pair": (n_pair, reference.n_pair, ((first / 8).detach().requires_grad_(), second, 0.02)),
    }


NAMES = ["info_nce", "info_nce of a teacher's keys", "nt_xent", "sup_con", "n_pair"]


@pytest.mark.parametrize("implementation", ["triton", "torch"])
@pytest.mark.parametrize(
    ("dtype", "width"), [(torch.bfloat16, 256), (torch.bfloat16, 100), (torch.float16, 128), (torch.float32, 128)]
)
@pytest.mark.parametrize("name", NAMES)
def test_agrees_with_float64(name, dtype, width, implementation, gradients, close):
    loss, meaning, arguments = losses(dtype, width)[name]
    wide = [
        a.detach().double().requires_grad_(a.requires_grad)
        if isinstance(a, torch.Tensor) and a.is_floating_point()
        else a
        for a in arguments
    ]
    with use(implementation, "contrastive"):
        ours = gradients(loss, *arguments)
    tolerance = torch.bfloat16 if dtype == torch.bfloat16 else torch.float16  # products of tf32 are as fp16's
    for actual, expected in zip(ours, gradients(meaning, *wide), strict=True):
        close(actual, expected, tolerance)


@pytest.mark.parametrize("name", NAMES)
def test_repeats_itself_to_the_bit(name, gradients):
    loss, _, arguments = losses(torch.bfloat16, 256)[name]
    with use("triton", "contrastive"):
        first, second = gradients(loss, *arguments), gradients(loss, *arguments)
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


@pytest.mark.parametrize("name", NAMES)
def test_does_not_wait(name):
    loss, _, arguments = losses(torch.bfloat16, 256)[name]
    loss(*arguments).sum().backward()
    torch.cuda.set_sync_debug_mode("error")
    try:
        loss(*arguments).sum().backward()
    finally:
        torch.cuda.set_sync_debug_mode("default")

"""relation_loss: the nine heads of RelViT over all pairs of patches of a 224 px image."""

from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

from vitkiln.kernels import relation_loss

from .conftest import BATCH, DEVICE, DTYPE


@pytest.fixture
def heads(setup: SimpleNamespace) -> tuple[Tensor, ...]:
    """Queries and keys as projections leave them, and where the patches are."""
    shape = 9, setup.dense.shape[2] // 9
    query, key = (
        torch.randn(BATCH, 196, *shape, device=DEVICE, dtype=DTYPE).transpose(1, 2).requires_grad_() for _ in range(2)
    )
    patch = torch.arange(196, device=DEVICE)
    return query, key, patch // 14, patch % 14


def loss(query: Tensor, key: Tensor, rows: Tensor, cols: Tensor) -> Tensor:
    """Without the accuracy, which is found all the same."""
    return relation_loss(query, key, rows, cols)[0]


def test_forward(heads, timed):
    """Evaluation."""
    query, key, *places = heads
    timed(loss, query.detach(), key.detach(), *places, moved=2 * query.numel() * query.element_size())


def test_forward_and_backward(heads, timed):
    """Queries and keys are read twice, and their gradients written."""
    query = heads[0]
    timed(loss, *heads, moved=6 * query.numel() * query.element_size())

"""info_nce: the queries of one rank against the keys of eight; nt_xent, sup_con and n_pair: both views of one rank."""

import torch
from torch import Tensor

from vitkiln.kernels import info_nce, n_pair, nt_xent, sup_con


def loss(query: Tensor, key: Tensor) -> Tensor:
    """Temperature 0.2, as in MoCo v3."""
    return info_nce(query, key, 0.2)


def views_loss(first: Tensor, second: Tensor) -> Tensor:
    """The same temperature, as in MoCo v3's SimCLR."""
    return nt_xent(first, second, 0.2)


def class_loss(features: Tensor, labels: Tensor) -> Tensor:
    """Temperatures of LaCViT."""
    return sup_con(features, labels, 0.1, 0.07)


def pair_loss(anchor: Tensor, positive: Tensor) -> Tensor:
    """Rows as they are."""
    return n_pair(anchor / 16, positive / 16, 0.02)


def test_forward(setup, timed):
    """Evaluation."""
    timed(loss, setup.query.detach(), setup.key)


def test_forward_and_backward(setup, timed):
    """Keys of a teacher, which need no gradient."""
    timed(loss, setup.query, setup.key)


def test_forward_and_backward_to_keys_too(setup, timed):
    """Keys of the same encoder."""
    timed(loss, setup.query, setup.key.requires_grad_())


def test_views_forward_and_backward(setup, timed):
    """SimCLR."""
    timed(views_loss, setup.query, setup.query.detach().flip(0).requires_grad_())


def test_classes_forward_and_backward(setup, timed):
    """LaCViT."""
    count = len(setup.query) // 2
    features = setup.query.detach()[: 2 * count].view(count, 2, -1).requires_grad_()
    timed(class_loss, features, torch.arange(count, device=features.device) % 10)


def test_pairs_forward_and_backward(setup, timed):
    """As many classes as images."""
    timed(pair_loss, setup.query, setup.query.detach().flip(0).requires_grad_())

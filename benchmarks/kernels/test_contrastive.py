"""info_nce: the queries of one rank against the keys of eight; nt_xent: both views of one rank."""

from torch import Tensor

from vitkiln.kernels import info_nce
from vitkiln.kernels.contrastive import nt_xent


def loss(query: Tensor, key: Tensor) -> Tensor:
    """Temperature 0.2, as in MoCo v3."""
    return info_nce(query, key, 0.2)


def views_loss(first: Tensor, second: Tensor) -> Tensor:
    """The same temperature, as in MoCo v3's SimCLR."""
    return nt_xent(first, second, 0.2)


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

"""info_nce: the queries of one rank against the keys of eight."""

from torch import Tensor

from vitkiln.kernels import info_nce


def loss(query: Tensor, key: Tensor) -> Tensor:
    """Temperature 0.2, as in MoCo v3."""
    return info_nce(query, key, 0.2)


def test_forward(setup, timed):
    """Evaluation."""
    timed(loss, setup.query.detach(), setup.key)


def test_forward_and_backward(setup, timed):
    """Keys of a teacher, which need no gradient."""
    timed(loss, setup.query, setup.key)


def test_forward_and_backward_to_keys_too(setup, timed):
    """Keys of the same encoder."""
    timed(loss, setup.query, setup.key.requires_grad_())

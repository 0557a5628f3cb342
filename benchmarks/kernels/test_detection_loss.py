"""detection_loss: one logit a token."""

from torch import Tensor

from vitkiln.kernels import detection_loss


def loss(tokens: Tensor, weight: Tensor, wrong: Tensor) -> Tensor:
    """The loss without the accuracy."""
    return detection_loss(tokens, weight, weight[:1], wrong)[0]


def test_forward_and_backward(setup, timed):
    """Gradients of tokens, weight and bias."""
    moved = 3 * setup.tokens.numel() * setup.tokens.element_size()
    timed(loss, setup.tokens, setup.bias, setup.wrong, moved=moved)

"""place_tokens: a gather with a sum, and two sums by index."""

from vitkiln.kernels import place_tokens


def test_forward(setup, timed):
    """The gather and the sum."""
    moved = setup.keep.numel() * (2 * setup.dense.shape[2] * setup.dense.element_size() + 16)
    arguments = (setup.dense.detach(), setup.position.detach(), setup.keep, setup.place)
    timed(place_tokens, *arguments, moved=moved)


def test_forward_and_backward(setup, timed):
    """A learned table of positions."""
    timed(place_tokens, setup.dense, setup.position, setup.keep, setup.place)


def test_forward_and_backward_beside_fixed_positions(setup, timed):
    """A sin-cos table."""
    timed(place_tokens, setup.dense, setup.position.detach(), setup.keep, setup.place)

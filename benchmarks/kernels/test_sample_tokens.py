"""sample_tokens: a plan for each image."""

from torch import Tensor

from vitkiln.kernels import sample_tokens


def plan(seed: Tensor, ids: Tensor) -> Tensor:
    """The places told, a fifth of them wrong."""
    return sample_tokens(seed, ids, 196, 49, 0.2)[1]


def test_a_quarter_of_196(setup, timed):
    """The plan of a student at 224 px."""
    timed(plan, setup.seed, setup.ids, moved=len(setup.ids) * (49 * 17 + 196 * 8))

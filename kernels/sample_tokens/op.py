"""`sample_tokens`: schema, shapes and the choice of an implementation. Indices have no gradient."""

import torch
from torch import Tensor

from .._shared.checks import refusal
from .._shared.choice import choose, triton_obstacle
from .._shared.philox import check_seed
from .._shared.registration import operator
from . import reference

MOST_PATCHES = 1024  # the Triton kernel sorts an image's keys in the registers of one program


@operator("sample_tokens")
def _draw(
    seed: Tensor, sample_ids: Tensor, num_patches: int, keep: int, wrong_probability: float, implementation: str
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    if implementation == "triton":
        from . import kernel

        return kernel.draw(seed, sample_ids, num_patches, keep, wrong_probability)
    return reference.sample_tokens(seed, sample_ids, num_patches, keep, wrong_probability)


@_draw.register_fake
def _(
    seed: Tensor, sample_ids: Tensor, num_patches: int, keep: int, wrong_probability: float, implementation: str
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    batch = sample_ids.shape[0]
    kept = sample_ids.new_empty(batch, keep)
    wrong = sample_ids.new_empty(batch, keep, dtype=torch.bool)
    return kept, torch.empty_like(kept), wrong, sample_ids.new_empty(batch, num_patches)


def obstacle(num_patches: int, unavailable: str | None) -> str | None:
    """Why the Triton kernel cannot draw plans of so many patches, or None."""
    if unavailable:
        return unavailable
    if num_patches > MOST_PATCHES:
        return f"the kernel sorts up to {MOST_PATCHES} patches, not {num_patches}"
    return None


def sample_tokens(
    seed: Tensor, sample_ids: Tensor, num_patches: int, keep: int, wrong_probability: float = 0.0
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """order = the patches by (24 random bits, index); keep = order[:K]; place = wrong ? order[-K:] : keep

    Each image's patches are shuffled and the first K kept, in that random order; each kept patch is told,
    with probability wrong_probability, the place of one of the last K in the order instead of its own
    (DILEMMA, Sameni et al., arXiv:2204.04788). Where all are kept, the wrong places are the order turned by 1
    + P // 2, so that no token keeps its own: the official code reverses the order, which leaves the middle
    one of an odd number in place.

    seed int64 [2] holds the run's seed and the step, sample_ids int64 [B] on the same device. Returns keep
    and place int64 [B, K], wrong bool [B, K], and restore int64 [B, P], the rank of each patch in the order:
    tokens in that order, indexed by restore, are in the image's order again. All are functions of (seed,
    step, sample id) alone, whatever the batch split or world size, and nothing waits for the device.
    ValueError for a count or probability out of range.

    >>> seed, sample_ids = torch.tensor([0, 0]), torch.tensor([5])
    >>> keep, place, wrong, restore = sample_tokens(seed, sample_ids, num_patches=4, keep=2)
    >>> keep.tolist(), place.tolist(), wrong.tolist(), restore.tolist()
    ([[3, 1]], [[3, 1]], [[False, False]], [[3, 1, 2, 0]])
    """
    check_seed(seed, sample_ids)
    if not 1 <= num_patches <= 1 << 26:
        raise refusal("num_patches", num_patches, "from 1 to 2^26")
    if not 1 <= keep <= num_patches:
        raise refusal("keep", keep, f"from 1 to num_patches, {num_patches}")
    if not 0.0 <= wrong_probability <= 1.0:
        raise refusal("wrong_probability", wrong_probability, "from 0 to 1")
    if num_patches == 1 and wrong_probability > 0:
        raise refusal("wrong_probability", wrong_probability, "0 where there is one patch: it has no other place")
    device = sample_ids.device.type
    found = obstacle(num_patches, triton_obstacle(device))
    implementation = choose("sample_tokens", found, expected=device == "cuda")
    if implementation == "reference":
        return reference.sample_tokens(seed, sample_ids, num_patches, keep, wrong_probability)
    return _draw(seed, sample_ids, num_patches, keep, wrong_probability, implementation)

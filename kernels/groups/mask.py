"""`group_mask`: which pixels are covered. Masks have no gradient."""

import torch
from torch import Tensor

from .._shared.checks import beside, refusal
from .._shared.choice import choose, forced, triton_obstacle
from .._shared.native import native
from .._shared.philox import check_seed
from .._shared.registration import NAMESPACE, operator
from . import reference
from .bitmap import pack, words
from .rule import Rule, blocks, needed_units, random_words, rule_of, unit_order

LARGEST = 16_384  # pixels along a side
DRAWS_AT_ONCE = 32
ANCHORS = ("corner", "centered")


@operator("group_mask")
def _draw(
    seed: Tensor, sample_ids: Tensor, target: Tensor, rule: list[int], implementation: str
) -> tuple[Tensor, Tensor]:
    parts = Rule._make([*rule[:-1], bool(rule[-1])])
    if implementation == "triton":
        from . import mask_kernel

        return mask_kernel.draw(seed, sample_ids, target, parts)
    if implementation == "native" and native("groups"):
        share, threads = target.double().contiguous(), torch.get_num_threads()
        run = getattr(torch.ops, NAMESPACE).groups_mask
        numbers = torch.tensor([*rule, parts.stride])
        both: tuple[Tensor, Tensor] = run(seed.contiguous(), sample_ids.contiguous(), share, numbers, threads)
        return both
    return in_torch(seed, sample_ids, target, parts)


@_draw.register_fake
def _(seed: Tensor, sample_ids: Tensor, target: Tensor, rule: list[int], implementation: str) -> tuple[Tensor, Tensor]:
    batch, height, width = sample_ids.shape[0], rule[0], rule[1]
    bitmap = sample_ids.new_empty(batch, height, words(width), dtype=torch.int32)
    return bitmap, sample_ids.new_empty(batch, height, width, dtype=torch.bool)


def in_torch(seed: Tensor, sample_ids: Tensor, target: Tensor, rule: Rule) -> tuple[Tensor, Tensor]:
    """All images at once: which block is the first to cover a unit, and how many blocks the target takes.

    On a GPU the work is that of the most blocks there can be, since nothing waits to see whether fewer do.
    """
    drawn, needed = random_words(seed, sample_ids, rule), needed_units(target, rule)
    first = first_cover(drawn, needed, rule)
    covered = first < blocks_taken(first, needed, rule.draws)[:, None, None]
    missing = needed - covered.sum((1, 2))
    if sample_ids.device.type != "cpu" or bool((missing > 0).any()):
        covered = with_units(covered, missing, unit_order(drawn, rule))
    mask = covered.repeat_interleave(rule.align, 1).repeat_interleave(rule.align, 2)
    return pack(mask), mask


def first_cover(drawn: Tensor, needed: Tensor, rule: Rule) -> Tensor:
    """The number of the first block over every unit, or `draws`: int16 [B, down, across]"""
    top, bottom, left, right = blocks(drawn, rule)
    down, across = (torch.arange(size, device=drawn.device) for size in rule.grid)
    found = torch.full((len(drawn), *rule.grid), rule.draws, dtype=torch.int16, device=drawn.device)
    for start in range(0, rule.draws, DRAWS_AT_ONCE):
        some = slice(start, start + DRAWS_AT_ONCE)
        rows = as_bits(top[:, some], bottom[:, some], down)
        columns = as_bits(left[:, some], right[:, some], across)
        both = rows[:, :, None] & columns[:, None, :]
        lowest = torch.frexp((both & -both).float()).exponent.to(torch.int16) + (start - 1)
        found = torch.where((both != 0) & (found == rule.draws), lowest, found)
        if drawn.device.type == "cpu" and bool(((found < rule.draws).sum((1, 2)) >= needed).all()):
            break
    return found


def as_bits(first: Tensor, end: Tensor, index: Tensor) -> Tensor:
    """Bit k says whether first[k] <= index < end[k]: int64 [B, K] -> [B, indices]"""
    inside = (index >= first[..., None]) & (index < end[..., None])
    bit = torch.arange(inside.shape[1], device=index.device)
    return (inside.long() << bit[:, None]).sum(1)


def blocks_taken(first: Tensor, needed: Tensor, draws: int) -> Tensor:
    """The fewest blocks that cover what is needed, or all: int64 [B], by halving the interval."""
    least, most = torch.zeros_like(needed), torch.full_like(needed, draws)
    for _ in range(draws.bit_length()):
        middle = (least + most) // 2
        enough = (first < middle[:, None, None]).sum((1, 2)) >= needed
        least, most = torch.where(enough, least, (middle + 1).clamp(max=draws)), torch.where(enough, middle, most)
    return most


def with_units(covered: Tensor, missing: Tensor, order: Tensor) -> Tensor:
    """As many more units, in their order, as are missing."""
    flat = covered.flatten(1)
    fresh = ~flat.gather(1, order)
    taken = fresh & (fresh.cumsum(1) <= missing[:, None])
    return flat.scatter(1, order, ~fresh | taken).view_as(covered)


def obstacle(rule: Rule, unavailable: str | None) -> str | None:
    """Why the Triton kernel cannot draw such masks, or None."""
    largest = 512
    if unavailable:
        return unavailable
    if max(rule.height, rule.width) > largest:
        return f"the kernel keeps masks up to {largest} x {largest}, not {rule.height} x {rule.width}"
    return None


def group_mask(
    seed: Tensor,
    sample_ids: Tensor,
    size: tuple[int, int],
    target: Tensor | float,
    align: int = 1,
    max_block: float = 0.3,
    anchor: str = "corner",
) -> tuple[Tensor, Tensor]:
    """mask = blocks 0 .. n - 1, n the fewest whose union has target * H * W pixels or more

    seed int64 [2] holds the run's seed and the step, sample_ids int64 [B] on the same device; target is a share for
    all or float [B]. A block's row is uniform in [0, H - align) down to a multiple of align; its height uniform in
    [align, int(max_block * H)), cut at the border, then rounded to a multiple, half to even; columns likewise
    (GMML, Atito et al., arXiv:2205.14986, and its code). So corners lie anywhere and blocks seldom reach the first
    rows; with anchor "centered" it is the middle that is uniform in [0, H), and what sticks out is cut off. Where
    int(max_block * H) <= align, a side is one multiple.

    The published loop need not end: with few large units the last row is never drawn. Here ceil(24 / max_block^2)
    blocks are drawn at most (267 for 0.3; what is published took 114), then single units of align x align, whose
    order runs through all of them from a random one on, until the target is reached.

    Returns the bitmap int32 [B, H, ceil(W / 32)], bit x % 32 of word x // 32 for column x, and the same as bool
    [B, H, W]. Both are functions of (seed, step, sample id, target) alone, whatever the batch split or world size,
    and nothing waits for a GPU. ValueError for a size, share or anchor that cannot be.

    >>> _, mask = group_mask(torch.tensor([0, 0]), torch.tensor([5]), (8, 8), 0.4, align=2)
    >>> mask[0, ::2, ::2].int().tolist()
    [[1, 1, 1, 0], [1, 0, 0, 0], [1, 1, 1, 0], [0, 0, 0, 0]]
    """
    check_seed(seed, sample_ids)
    _check(size, align, max_block, anchor)
    share = _share(target, sample_ids)
    rule = rule_of((size[0], size[1]), align, max_block, anchor)
    device = sample_ids.device.type
    found = obstacle(rule, triton_obstacle(device))
    implementation = choose("groups", found, expected=device == "cuda")
    if implementation == "reference":
        return reference.group_mask(seed, sample_ids, share, rule)
    if implementation == "torch" and device == "cpu" and forced("groups") != "torch":
        implementation = "native"
    return _draw(seed, sample_ids, share, [int(part) for part in rule], implementation)


def _check(size: tuple[int, int], align: int, max_block: float, anchor: str) -> None:
    if len(size) != 2 or not all(1 <= side <= LARGEST for side in size):
        raise refusal("size", size, f"height and width, from 1 to {LARGEST} pixels")
    if align < 1 or size[0] % align or size[1] % align:
        raise refusal("align", align, f"1 or more, and divide {size[0]} and {size[1]}")
    if not 0 < max_block <= 1:
        raise refusal("max_block", max_block, "above 0 and at most 1")
    if anchor not in ANCHORS:
        raise refusal("anchor", anchor, f"one of {', '.join(ANCHORS)}")


def _share(target: Tensor | float, sample_ids: Tensor) -> Tensor:
    """One for each image."""
    if not isinstance(target, Tensor):
        if not 0 <= target <= 1:
            raise refusal("target", target, "from 0 to 1")
        return sample_ids.new_full(sample_ids.shape, float(target), dtype=torch.float64)
    if not target.dtype.is_floating_point or target.shape != sample_ids.shape:
        raise refusal("target", target, f"floating {list(sample_ids.shape)}, or one number")
    beside("target", target, "sample_ids", sample_ids)
    return target

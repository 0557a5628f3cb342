"""`corrupt_groups`: covered pixels show noise, one colour or another image. Pixels have no gradient."""

from collections.abc import Sequence

import torch
from torch import Tensor

from .._shared.checks import beside, refusal
from .._shared.choice import choose, forced, triton_obstacle
from .._shared.native import native
from .._shared.philox import check_seed
from .._shared.registration import NAMESPACE, operator
from . import reference
from .bitmap import pixels, words

IMAGES_AT_ONCE = 8  # whose random numbers are held
NATIVE = (torch.uint8, torch.float32)
SOURCES = ("noise", "zeros")
KINDS = (*SOURCES, "images")  # as csrc counts them


@operator("corrupt_groups")
def _corrupt(
    images: Tensor,
    mask: Tensor,
    source: str,
    other: Tensor | None,
    partner: Tensor | None,
    seed: Tensor | None,
    sample_ids: Tensor | None,
    mean: list[float],
    std: list[float],
    implementation: str,
) -> Tensor:
    given = (images, mask, source, other, partner, seed, sample_ids, mean, std)
    if implementation == "triton":
        from . import kernel

        return kernel.corrupt(*given)
    if implementation == "native" and images.dtype in NATIVE and native("groups"):
        return in_cpp(*given)
    return in_torch(*given)


@_corrupt.register_fake
def _(
    images: Tensor,
    mask: Tensor,
    source: str,
    other: Tensor | None,
    partner: Tensor | None,
    seed: Tensor | None,
    sample_ids: Tensor | None,
    mean: list[float],
    std: list[float],
    implementation: str,
) -> Tensor:
    return images.new_empty(images.shape)


def in_torch(
    images: Tensor,
    mask: Tensor,
    source: str,
    other: Tensor | None,
    partner: Tensor | None,
    seed: Tensor | None,
    sample_ids: Tensor | None,
    mean: list[float],
    std: list[float],
) -> Tensor:
    """The reference, some images at a time."""
    out = torch.empty_like(images, memory_format=torch.contiguous_format)
    for start in range(0, len(images), IMAGES_AT_ONCE):
        some = slice(start, start + IMAGES_AT_ONCE)
        ids = None if sample_ids is None else sample_ids[some]
        shown = reference.filling(images[some], source, seed, ids, mean, std) if other is None else other[some]
        if partner is not None:
            chosen = partner[some]
            shown = torch.where((chosen >= 0)[:, None, None, None], images[chosen.clamp(min=0)], shown)
        covered = pixels(mask[some], images.shape[2])
        torch.where(covered[..., None], shown, images[some], out=out[some])
    return out


def in_cpp(
    images: Tensor,
    mask: Tensor,
    source: str,
    other: Tensor | None,
    partner: Tensor | None,
    seed: Tensor | None,
    sample_ids: Tensor | None,
    mean: list[float],
    std: list[float],
) -> Tensor:
    """csrc/groups; a partner below 0 is nobody, and so is one where there is none."""
    nobody = torch.full((len(images),), -1)
    key, ids = torch.zeros(2, dtype=torch.int64) if seed is None else seed, nobody if sample_ids is None else sample_ids
    out: Tensor = getattr(torch.ops, NAMESPACE).groups_corrupt(
        images.contiguous(),
        mask.contiguous(),
        images.contiguous() if other is None else other.contiguous(),
        (nobody if partner is None else partner).contiguous(),
        key.contiguous(),
        ids.contiguous(),
        torch.tensor([*mean, *std]),
        KINDS.index("images" if other is not None else source),
        torch.get_num_threads(),
    )
    return out


def obstacle(images: Tensor, unavailable: str | None) -> str | None:
    """Why the Triton kernel cannot corrupt such images, or None."""
    if unavailable:
        return unavailable
    return "the kernel has no float64" if images.dtype == torch.float64 else None


def corrupt_groups(
    images: Tensor,
    mask: Tensor,
    source: str | Tensor = "noise",
    partner: Tensor | None = None,
    seed: Tensor | None = None,
    sample_ids: Tensor | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
) -> Tensor:
    """out = mask ? (partner >= 0 ? images[partner] : source) : images

    images [B, H, W, 3] uint8 or floating; mask bool [B, H, W] or a bitmap of group_mask. The source is "noise", mean +
    std * n with n ~ N(0, 1) by itself for every channel of every pixel; "zeros", the mean; or images like these.
    uint8 images are of 0 .. 255: noise and mean are multiplied by 255, rounded and clipped, so that mean and std
    (three numbers each) are those by which images are normalised, and must be given. For floating images they are 0
    and 1 by default. partner int64 [B]: an image whose partner is not negative shows, in its groups, that one of the
    batch instead. Pixels outside of the mask are those of the images to the bit.

    n comes from Philox, counter (channel of pixel, sample id, step), by Box and Muller's formula: a function of seed
    int64 [2] and sample_ids int64 [B], both needed for noise, alone. Implementations round its logarithm and cosine
    differently, by some 1e-6. Images have no gradient. ValueError where a shape or type does not fit.

    >>> images, mask = torch.full((2, 1, 2, 3), 9.0), torch.tensor([[[True, False]], [[False, True]]])
    >>> corrupt_groups(images, mask, "zeros")[..., 0].flatten().tolist()
    [0.0, 9.0, 9.0, 0.0]
    """
    _check(images, mask)
    other = source if isinstance(source, Tensor) else None
    _check_source(images, source, seed, sample_ids)
    _check_partner(images, partner)
    if images.dtype == torch.uint8 and other is None and (mean is None or std is None):
        raise refusal("mean" if mean is None else "std", None, "three numbers, as images are uint8")
    check_scaling(mean, std)
    device = images.device.type
    found = obstacle(images, triton_obstacle(device))
    implementation = choose("groups", found, expected=device == "cuda")
    images, other = images.detach(), None if other is None else other.detach()
    if implementation == "reference":
        shown = source if other is None else other
        covered = pixels(mask, images.shape[2])
        return reference.corrupt_groups(images, covered, shown, partner, seed, sample_ids, mean, std)
    if implementation == "torch" and device == "cpu" and forced("groups") != "torch":
        implementation = "native"
    center, scale = [float(x) for x in mean or (0, 0, 0)], [float(x) for x in std or (1, 1, 1)]
    name = source if isinstance(source, str) else ""
    return _corrupt(images, mask, name, other, partner, seed, sample_ids, center, scale, implementation)


def _check(images: Tensor, mask: Tensor) -> None:
    if images.dim() != 4 or images.shape[3] != 3:
        raise refusal("images", images, "[B, H, W, 3]")
    if images.dtype != torch.uint8 and not images.dtype.is_floating_point:
        raise refusal("images", images, "uint8 or floating point")
    check_mask(mask, images)


def check_mask(mask: Tensor, images: Tensor) -> None:
    """ValueError unless it is a mask of these images, of either kind."""
    batch, height, width = images.shape[:3]
    kinds = {torch.bool: (batch, height, width), torch.int32: (batch, height, words(width))}
    if kinds.get(mask.dtype) != tuple(mask.shape):
        raise refusal("mask", mask, f"bool {list(images.shape[:3])} or int32 [{batch}, {height}, {words(width)}]")
    beside("mask", mask, "images", images)


def check_scaling(mean: Sequence[float] | None, std: Sequence[float] | None) -> None:
    """ValueError unless both are given, as three numbers, or neither."""
    if mean is None and std is None:
        return
    for name, values in (("mean", mean), ("std", std)):
        if values is None or len(values) != 3:
            raise refusal(name, values, "three numbers, as both mean and std are given or neither")
    if any(not value > 0 for value in std or ()):
        raise refusal("std", std, "three numbers greater than 0")


def _check_source(images: Tensor, source: str | Tensor, seed: Tensor | None, sample_ids: Tensor | None) -> None:
    if isinstance(source, Tensor):
        if source.shape != images.shape or source.dtype != images.dtype:
            raise refusal("source", source, f"{' or '.join(map(repr, SOURCES))}, or images like the first")
        beside("source", source, "images", images)
    elif source not in SOURCES:
        raise refusal("source", source, f"{' or '.join(map(repr, SOURCES))}, or images like the first")
    elif source == "noise":
        if seed is None or sample_ids is None:
            raise refusal("seed" if seed is None else "sample_ids", None, "given, as the source is noise")
        check_seed(seed, sample_ids)
        if len(sample_ids) != len(images):
            raise refusal("sample_ids", sample_ids, f"int64 [{len(images)}]")
        beside("seed", seed, "images", images)


def _check_partner(images: Tensor, partner: Tensor | None) -> None:
    if partner is None:
        return
    if partner.dtype != torch.int64 or partner.shape != images.shape[:1]:
        raise refusal("partner", partner, f"int64 [{len(images)}]")
    beside("partner", partner, "images", images)

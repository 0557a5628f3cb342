"""The Triton kernels of groups: masks to the bit, noise but for its last bits, errors against float64."""

import pytest
import torch
from torch import Tensor

from vitkiln.kernels import corrupt_groups, group_mask, masked_l1, use
from vitkiln.kernels.groups import kernel, mask_kernel, reference
from vitkiln.kernels.groups.rule import rule_of

SEED = torch.tensor([7 - 2**40, 2**31 + 3])
IDS = torch.tensor([3, 2**40 + 5, -1])
SCALING = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}


@pytest.mark.parametrize(
    ("size", "align", "max_block", "anchor", "target"),
    [
        ((224, 224), 16, 0.3, "corner", 0.2),
        ((33, 70), 1, 0.3, "corner", 0.2),
        ((40, 24), 4, 0.5, "centered", 0.3),
        ((36, 36), 3, 0.5, "centered", 0.3),
        ((32, 32), 16, 0.7, "corner", 1.0),  # no block but the first unit: three are filled up
        ((1, 1), 1, 0.3, "corner", 1.0),
        ((8, 64), 8, 1.0, "centered", 0.7),
    ],
)
def test_draws_the_masks_of_the_reference(size, align, max_block, anchor, target):
    rule, share = rule_of(size, align, max_block, anchor), torch.tensor([target, 0.0, target])
    found = mask_kernel.draw(SEED, IDS, share, rule)
    for actual, expected in zip(found, reference.group_mask(SEED, IDS, share, rule), strict=True):
        assert actual.dtype == expected.dtype
        assert torch.equal(actual, expected)


def sample(size: tuple[int, int], dtype: torch.dtype, bitmap: bool) -> tuple[Tensor, Tensor]:
    """images, and a mask of either kind"""
    torch.manual_seed(0)
    images = torch.randint(0, 256, (3, *size, 3), dtype=torch.uint8)
    with use("torch", "groups"):
        words, mask = group_mask(SEED, IDS, size, 0.4)
    return images if dtype == torch.uint8 else (images / 255).to(dtype), words if bitmap else mask


@pytest.mark.parametrize("size", [(32, 48), (5, 7)])
@pytest.mark.parametrize(
    ("dtype", "bitmap"), [(torch.uint8, True), (torch.uint8, False), (torch.float32, True), (torch.bfloat16, False)]
)
@pytest.mark.parametrize("source", ["noise", "zeros", "images"])
@pytest.mark.parametrize("partner", [None, torch.tensor([2, -1, 0])])
def test_shows_what_the_reference_shows(size, dtype, bitmap, source, partner):
    images, mask = sample(size, dtype, bitmap)
    arguments = (images, mask, images.flip(0) if source == "images" else source, partner, SEED, IDS)
    scaling = SCALING if dtype == torch.uint8 else {}
    with use("triton", "groups"):
        found = corrupt_groups(*arguments, **scaling)
    with use("reference", "groups"):
        apart = (found.double() - corrupt_groups(*arguments, **scaling).double()).abs()
    assert found.dtype == dtype
    if source != "noise":
        assert apart.max() == 0
    else:
        assert apart.max() <= {torch.uint8: 1, torch.float32: 1e-5, torch.bfloat16: 2e-2}[dtype]
        assert (apart > 1e-5).double().mean() < (0.5 if dtype == torch.bfloat16 else 1e-3)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("pixel", [torch.uint8, torch.float32])
@pytest.mark.parametrize(("size", "side", "bitmap"), [((32, 48), 16, True), ((42, 28), 14, False), ((5, 7), 1, True)])
def test_errors_are_those_of_float64(dtype, pixel, size, side, bitmap, gradients, close):
    images, mask = sample(size, pixel, bitmap)
    prediction = torch.randn(3, size[0] * size[1] // side**2, 3 * side**2).to(dtype).requires_grad_()
    with use("triton", "groups"):
        found = gradients(masked_l1, prediction, images, mask, **SCALING)
    wide = prediction.detach().double().requires_grad_()
    with use("reference", "groups"):
        wanted = gradients(masked_l1, wide, images, mask, **SCALING)
    assert [tensor.dtype for tensor in found] == [torch.float32, dtype]
    close(found[0], wanted[0], torch.float32)
    close(found[1], wanted[1], dtype)


def test_what_is_not_covered_does_not_count(gradients):
    images, mask = sample((32, 48), torch.uint8, True)
    prediction = torch.full((3, 6, 768), float("nan"), requires_grad=True)
    with use("triton", "groups"):
        value, grad = gradients(masked_l1, prediction, images, torch.zeros_like(mask))
    assert value == 0
    assert not grad.any()


def test_two_runs_agree_to_the_bit(gradients):
    images, mask = sample((32, 48), torch.uint8, True)
    prediction = torch.randn(3, 6, 768, requires_grad=True)
    with use("triton", "groups"):
        pairs = zip(*(gradients(masked_l1, prediction, images, mask) for _ in range(2)), strict=True)
    assert all(torch.equal(first, second) for first, second in pairs)


def test_the_operators_use_the_kernels_where_they_are_asked_for(monkeypatch):
    launched = []
    for module, name in ((mask_kernel, "draw"), (kernel, "corrupt"), (kernel, "sum_errors"), (kernel, "gradient")):
        original = getattr(module, name)
        monkeypatch.setattr(module, name, lambda *a, n=name, f=original: launched.append(n) or f(*a))
    with use("triton", "groups"):
        bitmap, mask = group_mask(SEED, IDS, (8, 12), 0.3, 4)
        images = corrupt_groups(torch.zeros(3, 8, 12, 3), bitmap, "noise", None, SEED, IDS)
        masked_l1(torch.zeros(3, 6, 48, requires_grad=True), images, mask).backward()
    assert launched == ["draw", "corrupt", "sum_errors", "gradient"]


def test_an_empty_batch_gives_nothing():
    images, bitmap = (tensor[:0] for tensor in sample((8, 12), torch.uint8, True))
    with use("triton", "groups"):
        assert group_mask(SEED, IDS[:0], (8, 12), 0.5)[1].shape == (0, 8, 12)
        assert corrupt_groups(images, bitmap, "noise", None, SEED, IDS[:0], **SCALING).shape == (0, 8, 12, 3)
        value = masked_l1(torch.zeros(0, 6, 48, requires_grad=True), images, bitmap)
        value.backward()
    assert value == 0

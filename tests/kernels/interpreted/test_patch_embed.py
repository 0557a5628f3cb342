"""The Triton kernels of patch_embed against float64, forward and to every table."""

from typing import Any

import pytest
import torch
from torch import Tensor

from vitkiln.kernels import patch_embed, use
from vitkiln.kernels.patch_embed import kernel, reference

SETTINGS = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
SHAPES = [  # B, patch size, patches down and across, kept, D, class tokens
    (2, 4, 2, 3, 4, 5, 1),
    (3, 8, 3, 1, 3, 70, 0),
    (1, 14, 2, 3, 7, 37, 2),
    (1, 16, 1, 2, 5, 20, 1),
    (1, 32, 2, 1, 1, 3, 1),
    (7, 2, 4, 5, 20, 16, 3),
]


def sample(
    batch: int, size: int, down: int, across: int, kept: int, width: int, prefix: int, dtype=torch.float32
) -> tuple[Tensor, ...]:
    """images, weight, bias, position, class tokens, keep and place, with indices that repeat."""
    torch.manual_seed(0)
    images = torch.randint(0, 256, (batch, down * size, across * size, 3), dtype=torch.uint8)
    shapes = [(width, 3, size, size), (width,), (down * across, width), (prefix, width)]
    tables = [torch.randn(shape).mul_(0.3).to(dtype).requires_grad_() for shape in shapes]
    return images, *tables, *torch.randint(0, down * across, (2, batch, kept)).unbind()


def both(gradients: Any, *arguments: Any, **settings: Any) -> list[tuple[Tensor, Tensor]]:
    """Results and gradients of the kernels, each beside those of the reference in float64."""
    wide = [a.detach().double().requires_grad_() if a is not None and a.requires_grad else a for a in arguments]
    if arguments[0].is_floating_point():
        wide[0] = arguments[0].detach().double().requires_grad_(arguments[0].requires_grad)
    with use("triton", "patch_embed"):
        ours = gradients(patch_embed, *arguments, **settings)
    return list(zip(ours, gradients(reference.patch_embed, *wide, **settings), strict=True))


@pytest.mark.parametrize(
    ("shape", "layout"), [(shape, ("last", "first")[i % 2]) for i, shape in enumerate(SHAPES)] + [(SHAPES[0], "first")]
)
def test_agrees_with_float64(shape, layout, gradients, close):
    images, *rest = sample(*shape)
    images = images if layout == "last" else images.permute(0, 3, 1, 2).contiguous()
    for actual, wanted in both(gradients, images, *rest, **SETTINGS):
        close(actual, wanted, torch.float32)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("pixel", [torch.uint8, torch.float32])
def test_narrow_types_stay_close_to_float64(dtype, pixel, gradients, close):
    images, *rest = sample(*SHAPES[0], dtype)
    images = images if pixel == torch.uint8 else images.to(pixel) / 255
    for actual, wanted in both(gradients, images, *rest, **SETTINGS):
        assert actual.dtype == dtype
        close(actual, wanted, torch.bfloat16)  # the interpreter cuts bfloat16 off where a GPU rounds


@pytest.mark.parametrize("pixel", [torch.uint8, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("settings", [{}, SETTINGS, {"mean": (0.0, 1.0, 0.123), "std": (0.01, 1.0, 3.0)}])
def test_normalises_as_the_reference(pixel, settings, gradients, close):
    images, *rest = sample(*SHAPES[0])
    images = images if pixel == torch.uint8 else (images.float() / 255).to(pixel)
    for actual, wanted in both(gradients, images, *rest, **settings):
        close(actual, wanted, torch.float32)


@pytest.mark.parametrize("prefix", [0, 2])
def test_every_patch_in_its_place(prefix, gradients, close):
    images, weight, _, position, cls_token, _, _ = sample(2, 4, 2, 3, 4, 5, prefix)
    for actual, wanted in both(gradients, images, weight, None, position, cls_token, **SETTINGS):
        close(actual, wanted, torch.float32)


def test_kept_patches_are_told_their_own_places_where_no_others_are_given(gradients, close):
    *arguments, _ = sample(*SHAPES[0])
    for actual, wanted in both(gradients, *arguments, **SETTINGS):
        close(actual, wanted, torch.float32)


def test_gradients_of_pixels(gradients, close):
    images, *rest = sample(*SHAPES[0])
    images = (images.float() / 255).requires_grad_()
    pairs = both(gradients, images, *rest, **SETTINGS)
    assert len(pairs) == 6
    for actual, wanted in pairs:
        close(actual, wanted, torch.float32)


@pytest.mark.parametrize(("programs", "tokens"), [(264, 7), (3, 1), (1, 1)])
def test_the_number_of_parts_does_not_change_the_sum(programs, tokens, close, monkeypatch):
    images, _, _, _, _, keep, _ = sample(3, 4, 2, 3, 11, 5, 1)
    grad = torch.randn(3, 11, 5)
    arguments = (grad, images, keep, grad.sum((0, 1)), 4, *SETTINGS.values())
    whole = kernel.to_weight(*arguments)
    monkeypatch.setattr(kernel, "PROGRAMS", programs)
    monkeypatch.setattr(kernel, "TOKENS_PER_PART", tokens)
    close(kernel.to_weight(*arguments), whole)


def test_parts_depend_on_the_sizes_alone():
    assert kernel.share(rows=50 * 1024, tiles=18) * (kernel.PROGRAMS // 18) >= 50 * 1024
    assert kernel.share(rows=100, tiles=18) == kernel.TOKENS_PER_PART
    assert kernel.share(rows=5000, tiles=10**6) == 5000


def test_two_runs_agree_to_the_bit(gradients):
    arguments = sample(*SHAPES[2], torch.bfloat16)
    with use("triton", "patch_embed"):
        first, second = (gradients(patch_embed, *arguments, **SETTINGS) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


@pytest.mark.parametrize("shape", [(0, 4, 2, 3, 4, 5, 1), (2, 4, 2, 3, 0, 5, 1)])
def test_nothing_kept_gives_zero_gradients(shape, gradients):
    arguments = sample(*shape)
    with use("triton", "patch_embed"):
        out, weight, bias, position, cls_token = gradients(patch_embed, *arguments, **SETTINGS)
    assert out.shape == (shape[0], 1 + shape[4], 5)
    assert torch.equal(out[:, :1], arguments[4].detach().expand(shape[0], -1, -1))
    assert not any(x.any() for x in (weight, bias, position))
    assert cls_token.any() == (shape[0] > 0)


def test_an_index_out_of_range_gives_nan_in_its_row_alone():
    *rest, keep, place = sample(*SHAPES[0])
    keep[0, 1], place[0, 2], keep[1, 3] = 6, -1, -1
    with use("triton", "patch_embed"):
        out = patch_embed(*rest, keep, place, **SETTINGS).detach()[:, 1:]
    wrong = torch.zeros(2, 4, dtype=torch.bool)
    wrong[0, 1] = wrong[0, 2] = wrong[1, 3] = True
    assert torch.equal(out.isnan().all(-1), wrong)
    assert torch.equal(out.isnan().any(-1), wrong)


def test_dropped_patches_are_not_read(close):
    images, *tables, _, _ = sample(*SHAPES[0])
    images = images.float()
    keep = torch.tensor([[0, 5], [0, 5]])
    expected = reference.patch_embed(images, *tables, keep)
    images[:, :4, 4:] = torch.nan
    images[:, 4:, :8] = torch.nan
    with use("triton", "patch_embed"):
        close(patch_embed(images, *tables, keep), expected)


def test_strides_do_not_matter(gradients, close):
    images, *rest = sample(*SHAPES[0])
    images = torch.cat([images, images], 1)[:, : images.shape[1]]
    turned = [x.detach().transpose(0, -1).contiguous().transpose(0, -1).requires_grad_() for x in rest[:4]]
    for actual, wanted in both(gradients, images, *turned, *(x.T.contiguous().T for x in rest[4:]), **SETTINGS):
        close(actual, wanted, torch.float32)


def test_an_expanded_upstream_gradient_is_read_right():
    images, weight, bias, position, cls_token, keep, place = sample(*SHAPES[0])
    with use("triton", "patch_embed"):
        patch_embed(images, weight, bias, position, cls_token, keep, place).sum().backward()
    assert torch.equal(bias.grad, torch.full_like(bias, keep.numel()))
    assert torch.equal(position.grad[:, 0], torch.bincount(place.flatten(), minlength=6).float())
    assert torch.equal(weight.grad, weight.grad[:1].expand_as(weight))


@pytest.mark.parametrize(
    ("frozen", "launched"),
    [
        ((), ["forward", "to_position", "to_weight"]),
        (("weight", "bias"), ["forward", "to_position"]),
        (("position",), ["forward", "to_weight"]),
        (("weight", "bias", "position"), ["forward"]),
    ],
)
def test_the_operator_uses_the_kernels_for_what_needs_a_gradient(frozen, launched, monkeypatch, gradients):
    calls = []
    for name in ("forward", "to_weight", "to_position"):
        original = getattr(kernel, name)
        monkeypatch.setattr(kernel, name, lambda *a, n=name, f=original: calls.append(n) or f(*a))
    images, *tables, keep, place = sample(*SHAPES[0])
    names = ("weight", "bias", "position", "cls_token")
    tables = [t.detach() if name in frozen else t for name, t in zip(names, tables, strict=True)]
    with use("triton", "patch_embed"):
        gradients(patch_embed, images, *tables, keep, place, **SETTINGS)
    assert calls == launched


def test_autocast_decides_the_type_and_gradients_keep_their_own(close):
    arguments = sample(*SHAPES[0])
    with torch.autocast("cpu", torch.float16), use("triton", "patch_embed"):
        out = patch_embed(*arguments, **SETTINGS)
    out.sum().backward()
    assert out.dtype == torch.float16
    assert {t.grad.dtype for t in arguments[1:5]} == {torch.float32}
    close(out, reference.patch_embed(*arguments, **SETTINGS), torch.float16)


@pytest.mark.parametrize("kept", [False, True])
def test_registration(kept):
    *arguments, keep, place = sample(*SHAPES[0])
    plan = (keep, place) if kept else (None, None)
    settings = (*SETTINGS.values(), torch.float32, "triton")
    torch.library.opcheck(torch.ops.vitkiln.patch_embed.default, (*arguments, *plan, *settings))


def test_compiles_without_a_break(gradients, close):
    arguments = (*sample(*SHAPES[0]), *SETTINGS.values())
    compiled = torch.compile(patch_embed, backend="aot_eager", fullgraph=True)
    with use("triton"):
        ours = gradients(compiled, *arguments)
    for actual, wanted in zip(ours, gradients(reference.patch_embed, *arguments), strict=True):
        close(actual, wanted)

"""patch_embed: the kept patches, projected, beside the places they are told."""

import logging
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from vitkiln.kernels import patch_embed, use
from vitkiln.kernels._shared import choice
from vitkiln.kernels.patch_embed import op, reference

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
SETTINGS = {"mean": MEAN, "std": STD}


def images(batch=2, height=8, width=12, dtype=torch.uint8) -> Tensor:
    pixels = torch.randint(0, 256, (batch, height, width, 3), dtype=torch.uint8)
    return pixels if dtype == torch.uint8 else pixels.to(dtype) / 255


def tables(size=4, width=5, patches=6, dtype=torch.float64, prefix=1) -> tuple[Tensor, ...]:
    """weight, bias, position, cls_token"""
    shapes = [(width, 3, size, size), (width,), (patches, width), (prefix, width)]
    return tuple(torch.randn(shape, dtype=dtype).mul_(0.3).requires_grad_() for shape in shapes)


def plan(batch=2, patches=6, kept=4) -> tuple[Tensor, Tensor]:
    return torch.rand(batch, patches).argsort(1)[:, :kept], torch.randint(0, patches, (batch, kept))


def loop(
    pixels: Tensor,
    weight: Tensor,
    bias: Tensor,
    position: Tensor,
    prefix: Tensor,
    keep: Tensor,
    place: Tensor,
):
    """Patch by patch, in float64; pixels uint8 [B, H, W, 3]."""
    size, rows = weight.shape[2], []
    normalised = (pixels.double() / 255 - torch.tensor(MEAN).double()) / torch.tensor(STD).double()
    for image, kept, told in zip(normalised, keep.tolist(), place.tolist(), strict=True):
        out = list(prefix)
        for patch, where in zip(kept, told, strict=True):
            top, left = divmod(patch, pixels.shape[2] // size)
            crop = image[top * size : (top + 1) * size, left * size : (left + 1) * size]
            out.append((weight * crop.permute(2, 0, 1)).sum((1, 2, 3)) + bias + position[where])
        rows.append(torch.stack(out))
    return torch.stack(rows)


@pytest.mark.parametrize("implementation", ["reference", "torch"])
def test_means_what_a_loop_says(implementation, close):
    pixels, parameters, (keep, place) = images(), tables(), plan()
    with use(implementation):
        close(
            patch_embed(pixels, *parameters, keep, place, **SETTINGS),
            loop(pixels, *parameters, keep, place),
            torch.float32,
        )


@pytest.mark.parametrize("normalise", [{}, SETTINGS, {"mean": (0.0, 1.0, 0.123), "std": (0.01, 1.0, 3.0)}])
@pytest.mark.parametrize("pixel", [torch.uint8, torch.float64])
def test_operator_equals_reference_forward_and_backward(pixel, normalise, gradients, close):
    arguments = (images(dtype=pixel), *tables(prefix=3), *plan())
    if pixel == torch.float64:
        arguments[0].requires_grad_()
    ours = gradients(patch_embed, *arguments, **normalise)
    for actual, expected in zip(ours, gradients(reference.patch_embed, *arguments, **normalise), strict=True):
        close(actual, expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("pixel", [torch.uint8, torch.float32])
def test_narrow_types_stay_close_to_float64(dtype, pixel, gradients, close):
    narrow = (images(dtype=pixel), *tables(dtype=dtype), *plan())
    wide = [a.detach().double().requires_grad_() if a.dtype == dtype and a.requires_grad else a for a in narrow]
    ours = gradients(patch_embed, *narrow, **SETTINGS)
    for actual, expected in zip(ours, gradients(reference.patch_embed, *wide, **SETTINGS), strict=True):
        close(actual, expected, dtype)


def test_gradients_are_the_derivatives():
    pixels, (keep, place) = images(dtype=torch.float64).requires_grad_(), plan()
    assert torch.autograd.gradcheck(
        lambda *tensors: patch_embed(*tensors, keep, place, **SETTINGS), (pixels, *tables()), fast_mode=True
    )


def test_every_patch_in_its_place_is_a_convolution_plus_positions(close):
    pixels, (weight, bias, position, cls_token) = images(dtype=torch.float64), tables()
    convolved = F.conv2d(pixels.permute(0, 3, 1, 2), weight, bias, stride=4).flatten(2).mT + position
    out = patch_embed(pixels, weight, bias, position, cls_token)
    close(out[:, 1:], convolved)
    assert torch.equal(out[:, 0], cls_token.expand(2, -1))


@pytest.mark.parametrize("pixel", [torch.uint8, torch.float64])
def test_all_layouts_of_the_same_pixels_agree(pixel, gradients, close):
    last, rest = images(dtype=pixel), (*tables(), *plan())
    first = last.permute(0, 3, 1, 2)
    expected = gradients(patch_embed, last, *rest, **SETTINGS)
    padded = torch.cat([last, last], 1)[:, :8]
    for same in (first.contiguous(), first, first.contiguous().permute(0, 2, 3, 1), padded):
        for actual, wanted in zip(gradients(patch_embed, same, *rest, **SETTINGS), expected, strict=True):
            close(actual, wanted)


@pytest.mark.parametrize("layout", ["last", "first", "first in memory as last"])
def test_pixel_gradients_have_the_images_layout(layout, gradients, close):
    pixels = images(dtype=torch.float64)
    pixels = pixels if layout == "last" else pixels.permute(0, 3, 1, 2)
    pixels = pixels.contiguous() if layout == "first" else pixels
    arguments = (pixels.requires_grad_(), *tables(), *plan())
    ours, theirs = gradients(patch_embed, *arguments), gradients(reference.patch_embed, *arguments)
    close(ours[1], theirs[1])


@pytest.mark.parametrize(("value", "fraction"), [(0, 0.0), (255, 1.0)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_extreme_pixels_are_0_and_1(value, fraction, dtype, close):
    pixels, parameters = torch.full((1, 8, 12, 3), value, dtype=torch.uint8), tables(dtype=dtype)
    exact = [p.detach().double() for p in parameters]
    as_float = torch.full((1, 8, 12, 3), fraction, dtype=torch.float64)
    close(patch_embed(pixels, *parameters, **SETTINGS), patch_embed(as_float, *exact, **SETTINGS), dtype)


def test_bfloat16_reads_pixels_exactly():
    """A weight that selects one pixel shows all 256 values, evenly apart."""
    pixels = torch.arange(256, dtype=torch.uint8).view(256, 1, 1, 1).expand(256, 1, 1, 3)
    weight = torch.zeros(1, 3, 1, 1, dtype=torch.bfloat16)
    weight[0, 0] = 255 / 256
    out = patch_embed(pixels, weight, None, torch.zeros(1, 1), torch.zeros(1))[:, 1, 0]
    assert torch.equal(out * 256, torch.arange(256, dtype=torch.bfloat16))


def test_floating_images_are_not_divided_by_255(close):
    pixels, parameters = images(), tables()
    close(patch_embed(pixels, *parameters), patch_embed(pixels.double() / 255, *parameters), torch.float32)


def test_a_patch_may_be_kept_twice_and_a_place_told_twice(gradients, close):
    keep, place = torch.tensor([[1, 1, 4], [0, 0, 0]]), torch.tensor([[2, 2, 2], [5, 0, 5]])
    arguments = (images(dtype=torch.float64).requires_grad_(), *tables(), keep, place)
    theirs = gradients(reference.patch_embed, *arguments)
    for actual, expected in zip(gradients(patch_embed, *arguments), theirs, strict=True):
        close(actual, expected)


def test_places_never_told_receive_no_gradient():
    weight, bias, position, cls_token = tables()
    keep = torch.tensor([[1, 2], [2, 1]])
    patch_embed(images(), weight, bias, position, cls_token, keep).square().sum().backward()
    assert position.grad[[1, 2]].all()
    assert not position.grad[[0, 3, 4, 5]].any()


def test_one_class_token_may_be_a_vector():
    pixels, (*rest, cls_token) = images(), tables()
    vector = cls_token.detach()[0].requires_grad_()
    out = patch_embed(pixels, *rest, vector)
    assert torch.equal(out, patch_embed(pixels, *rest, cls_token))
    out.sum().backward()
    assert vector.grad.shape == vector.shape


@pytest.mark.parametrize("planned", [False, True])
def test_without_a_bias_the_other_gradients_stay(planned, gradients, close):
    weight, _, position, cls_token = tables()
    arguments = (images(), weight, None, position, cls_token, *(plan() if planned else (None, None)))
    theirs = gradients(reference.patch_embed, *arguments, **SETTINGS)
    for actual, expected in zip(gradients(patch_embed, *arguments, **SETTINGS), theirs, strict=True):
        close(actual, expected)


def test_no_class_token_and_no_bias(close):
    pixels, (weight, _, position, _) = images(), tables()
    out = patch_embed(pixels, weight, None, position, torch.empty(0, 5, dtype=torch.float64))
    bias = torch.zeros(5, dtype=torch.float64)
    close(out, patch_embed(pixels, weight, bias, position, torch.zeros(5, dtype=torch.float64))[:, 1:])


def test_an_empty_batch_gives_zero_gradients():
    parameters = tables()
    out = patch_embed(images(batch=0), *parameters, *plan(batch=0), **SETTINGS)
    out.sum().backward()
    assert out.shape == (0, 5, 5)
    assert not any(p.grad.any() for p in parameters)


def test_an_expanded_upstream_gradient_is_read_right():
    (weight, bias, position, cls_token), (keep, place) = tables(), plan()
    patch_embed(images(), weight, bias, position, cls_token, keep, place).sum().backward()
    assert torch.equal(bias.grad, torch.full_like(bias, keep.numel()))
    assert torch.equal(position.grad[:, 0], torch.bincount(place.flatten(), minlength=6).double())


def test_only_what_is_needed_is_computed(called):
    weight, bias, position, cls_token = tables()
    out = patch_embed(images(), weight.detach(), bias, position.detach(), cls_token, *plan())
    with called() as names:
        out.sum().backward()
    assert not {"patch_embed_to_weight", "patch_embed_to_images", "index_add_"} & set(names)
    assert bias.grad is not None


def test_pixels_are_saved_and_not_patches():
    pixels, parameters, saved = images(), tables(), []

    def note(tensor: Tensor) -> Tensor:
        saved.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        patch_embed(pixels, *parameters, *plan())
    assert any(tensor.data_ptr() == pixels.data_ptr() for tensor in saved)
    assert not any(tensor.is_floating_point() for tensor in saved)


def test_dropped_patches_are_not_read():
    pixels, parameters = images(dtype=torch.float64), tables()
    keep = torch.tensor([[0, 5], [0, 5]])
    expected = patch_embed(pixels, *parameters, keep)
    pixels[:, :4, 4:] = torch.nan
    pixels[:, 4:, :8] = torch.nan
    assert torch.equal(patch_embed(pixels, *parameters, keep), expected)


@pytest.mark.parametrize("implementation", ["reference", "torch"])
def test_autocast_decides_the_type_and_gradients_keep_their_own(implementation, close):
    pixels, parameters, (keep, place) = images(), tables(dtype=torch.float32), plan()
    with torch.autocast("cpu", torch.bfloat16), use(implementation):
        out = patch_embed(pixels, *parameters, keep, place, **SETTINGS)
    out.sum().backward()
    assert out.dtype == torch.bfloat16
    assert {p.grad.dtype for p in parameters} == {torch.float32}
    close(out, patch_embed(pixels, *parameters, keep, place, **SETTINGS))


@pytest.mark.parametrize("pixel", [torch.uint8, torch.float64])
@pytest.mark.parametrize("kept", [False, True])
def test_registration(pixel, kept):
    pixels = images(dtype=pixel)
    if pixel == torch.float64:
        pixels.requires_grad_()
    chosen = plan() if kept else (None, None)
    arguments: tuple[Any, ...] = (pixels, *tables(), *chosen, MEAN, STD, torch.float64, "torch")
    torch.library.opcheck(torch.ops.vitkiln.patch_embed.default, arguments)


def test_compiles_without_a_break(gradients, close):
    arguments = (images(), *tables(), *plan(), MEAN, STD)
    compiled = torch.compile(patch_embed, backend="aot_eager", fullgraph=True)
    for actual, expected in zip(gradients(compiled, *arguments), gradients(patch_embed, *arguments), strict=True):
        close(actual, expected)


def test_compiles_under_autocast():
    arguments = (images(), *tables(dtype=torch.float32), *plan(), MEAN, STD)
    compiled = torch.compile(patch_embed, backend="aot_eager", fullgraph=True)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(compiled(*arguments), patch_embed(*arguments))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"images": torch.zeros(2, 8, 12, 4)},
            r"images: float32 \[2, 8, 12, 4\] on cpu; .*one axis of size 3",
        ),
        ({"images": torch.zeros(2, 3, 12, 3)}, r"images: float32 \[2, 3, 12, 3\] .*one axis of size 3"),
        ({"images": torch.zeros(8, 12, 3)}, r"images: float32 \[8, 12, 3\]"),
        ({"images": torch.zeros(2, 8, 12, 3, dtype=torch.int32)}, "images: int32 .*uint8 or floating point"),
        ({"images": torch.zeros(2, 8, 10, 3)}, "images: .*multiples of the patch size 4"),
        ({"weight": torch.zeros(5, 48)}, r"weight: float32 \[5, 48\]"),
        ({"weight": torch.zeros(5, 3, 4, 2)}, r"weight: .*must be \[D, 3, p, p\]"),
        ({"bias": torch.zeros(4)}, r"bias: .*\[5\] or None"),
        ({"position": torch.zeros(7, 5)}, r"position: float32 \[7, 5\].*\[6, 5\]"),
        ({"cls_token": torch.zeros(1, 1, 5)}, r"cls_token: float32 \[1, 1, 5\].*\[5\] or \[T, 5\]"),
        ({"keep": torch.zeros(2, 4)}, r"keep: float32 .*int64 \[2, K\]"),
        ({"place": torch.zeros(2, 3, dtype=torch.int64)}, r"place: int64 \[2, 3\].*keep's shape \[2, 4\]"),
        ({"keep": None}, "place: .*None where keep is None"),
        ({"mean": (0.5, 0.5)}, r"mean: \(0.5, 0.5\); must be three numbers"),
        ({"std": None}, "std: None; .*three numbers"),
        ({"std": (1.0, 0.0, 1.0)}, r"std: \(1.0, 0.0, 1.0\); .*greater than 0"),
        ({"position": torch.zeros(6, 5, device="meta")}, "position: .*must be on cpu, as images is"),
    ],
)
def test_bad_arguments_are_named(changes, message):
    names = ("weight", "bias", "position", "cls_token", "keep", "place")
    arguments = dict(zip(names, (*tables(), *plan()), strict=True), images=images(), **SETTINGS)
    with pytest.raises(ValueError, match=message):
        patch_embed(**{**arguments, **changes})


@pytest.mark.parametrize(
    ("dtypes", "unavailable", "obstacle"),
    [
        ((torch.uint8, torch.bfloat16, torch.float32), None, None),
        ((torch.uint8, torch.float32), "Triton is not installed", "Triton is not installed"),
        ((torch.uint8, torch.float32, torch.float64), None, "the kernel adds in fp32, and an argument is float64"),
        ((torch.float64, torch.float32), None, "the kernel adds in fp32, and an argument is float64"),
    ],
)
def test_the_rule_of_choice(dtypes, unavailable, obstacle):
    assert op.obstacle(dtypes, unavailable) == obstacle


def test_a_kernel_asked_for_in_vain_is_logged_with_its_reason(caplog):
    choice._note_once.cache_clear()
    with caplog.at_level(logging.WARNING), use("triton", "patch_embed"):
        patch_embed(images(), *tables(), *plan())
        patch_embed(images(), *tables(), *plan())
    said = [r.getMessage() for r in caplog.records]
    assert said == ["patch_embed: runs in plain PyTorch, because Triton needs a CUDA device, not cpu"]

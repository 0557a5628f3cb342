"""The Triton kernels of normalized_pixel_mse against float64, for bytes and floating images and odd patches."""

import pytest
import torch
from torch import Tensor

from vitkiln.kernels import use
from vitkiln.kernels.pixel_mse import kernel, normalized_pixel_mse, op, reference

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
SHAPES = [(3, 2, 3, 4), (1, 7, 7, 2), (1, 1, 1, 16), (33, 1, 1, 1), (2, 3, 1, 7), (1, 1, 2, 32)]  # B, rows, columns, p


def sample(batch=3, rows=2, columns=3, size=4, dtype=torch.float32, pixel=torch.uint8) -> tuple[Tensor, ...]:
    """prediction, images, mask"""
    patches = rows * columns
    prediction = torch.randn(batch, patches, size * size * 3).to(dtype).requires_grad_()
    images = torch.randint(0, 256, (batch, rows * size, columns * size, 3), dtype=torch.uint8)
    mask = torch.rand(batch, patches) < 0.6
    mask[0, 0] = True
    return prediction, images if pixel == torch.uint8 else (images / 255).to(pixel), mask


def ours(*arguments) -> Tensor:
    with use("triton", "pixel_mse"):
        return normalized_pixel_mse(*arguments)


def exact(gradients, prediction: Tensor, images: Tensor, *others) -> tuple[Tensor, ...]:
    images = images if images.dtype == torch.uint8 else images.double()
    return gradients(reference.normalized_pixel_mse, prediction.detach().double().requires_grad_(), images, *others)


@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize(
    ("shape", "pixel"),
    [*((shape, torch.uint8) for shape in SHAPES), *((SHAPES[0], pixel) for pixel in (torch.float32, torch.float16))],
)
def test_agrees_with_float64(shape, normalize, pixel, gradients, close):
    prediction, images, mask = sample(*shape, pixel=pixel)
    arguments = prediction, images, mask, MEAN, STD, normalize
    for actual, expected in zip(gradients(ours, *arguments), exact(gradients, *arguments), strict=True):
        close(actual, expected)


@pytest.mark.parametrize("scaling", [(), (MEAN, STD)])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_narrow_predictions_agree_with_float64(dtype, scaling, gradients, close):
    arguments = (*sample(dtype=dtype), *scaling)
    found = gradients(ours, *arguments)
    assert [x.dtype for x in found] == [torch.float32, dtype]
    for actual, expected in zip(found, exact(gradients, *arguments), strict=True):
        close(actual, expected)


@pytest.mark.parametrize("rows_per_part", [1, 7])
def test_the_number_of_parts_does_not_change_the_sum(rows_per_part, close, monkeypatch):
    arguments = sample(5)
    monkeypatch.setattr(kernel, "ROWS_PER_PART", rows_per_part)
    close(ours(*arguments), reference.normalized_pixel_mse(*arguments))


def test_two_runs_agree_to_the_bit(gradients):
    arguments = (*sample(dtype=torch.bfloat16), MEAN, STD)
    pairs = zip(gradients(ours, *arguments), gradients(ours, *arguments), strict=True)
    assert all(torch.equal(first, second) for first, second in pairs)


def test_visible_patches_are_not_read(gradients):
    prediction, images, mask = sample()
    spoilt = torch.where(mask[..., None], prediction.detach(), torch.nan).requires_grad_()
    for actual, expected in zip(
        gradients(ours, spoilt, images, mask), gradients(ours, prediction, images, mask), strict=True
    ):
        assert torch.equal(actual, expected)


def test_large_predictions_stay_finite(gradients, close):
    prediction, images, mask = sample()
    arguments = (1e4 * prediction).detach().requires_grad_(), images, mask
    for actual, expected in zip(gradients(ours, *arguments), exact(gradients, *arguments), strict=True):
        close(actual, expected)


def test_a_patch_of_one_colour_is_a_target_of_zeros():
    prediction, images, mask = sample()
    loss = ours(prediction, torch.full_like(images, 200), mask | True)
    assert loss.item() == pytest.approx(prediction.detach().square().mean().item(), rel=1e-5)


def test_no_masked_patch_costs_nothing(gradients):
    prediction, images, mask = sample()
    loss, gradient = gradients(ours, prediction, images, mask & False)
    assert loss.item() == 0
    assert not gradient.any()
    loss, gradient = gradients(
        ours, *(x[:0].detach().requires_grad_(x.requires_grad) for x in (prediction, images, mask))
    )
    assert (loss.item(), gradient.numel()) == (0, 0)


def test_other_strides_are_read_right(gradients):
    prediction, images, mask = sample()
    turned = prediction.detach().mT.contiguous().mT.requires_grad_(), images.mT.contiguous().mT, mask.T.contiguous().T
    pairs = zip(gradients(ours, *turned), gradients(ours, prediction, images, mask), strict=True)
    assert all(torch.equal(first, second) for first, second in pairs)


def test_registration():
    arguments = (*sample(), list(MEAN), list(STD), True, "triton")
    torch.library.opcheck(op._forward._opoverload, arguments)


def test_compiles_without_a_break(gradients, close):
    arguments = (*sample(), MEAN, STD)
    compiled = torch.compile(normalized_pixel_mse, backend="aot_eager", fullgraph=True)
    with use("triton"):
        found = gradients(compiled, *arguments)
    for actual, expected in zip(found, exact(gradients, *arguments), strict=True):
        close(actual, expected)

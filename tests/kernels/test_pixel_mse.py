"""normalized_pixel_mse: predicted patches beside the image's own, each normalised by itself."""

import logging

import pytest
import torch
from torch import Tensor

from vitkiln.kernels import use
from vitkiln.kernels._shared import choice
from vitkiln.kernels.pixel_mse import normalized_pixel_mse, op, reference

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def sample(batch=3, rows=2, columns=3, size=4, dtype=torch.float64) -> tuple[Tensor, Tensor, Tensor]:
    """prediction, images uint8, mask"""
    patches = rows * columns
    prediction = torch.randn(batch, patches, size * size * 3, dtype=torch.float64).to(dtype).requires_grad_()
    images = torch.randint(0, 256, (batch, rows * size, columns * size, 3), dtype=torch.uint8)
    return prediction, images, torch.rand(batch, patches) < 0.6


def loop(prediction: Tensor, images: Tensor, mask: Tensor, normalize: bool) -> float:
    losses = []
    size = round((prediction.shape[2] / 3) ** 0.5)
    columns = images.shape[2] // size
    for b, p in mask.nonzero().tolist():
        top, left = size * (p // columns), size * (p % columns)
        pixels = images[b, top : top + size, left : left + size].double() / 255
        target = ((pixels - torch.tensor(MEAN).double()) / torch.tensor(STD).double()).flatten()
        if normalize:
            target = (target - target.mean()) / (target.var(unbiased=True) + 1e-6).sqrt()
        losses.append((prediction[b, p].detach() - target).square().mean().item())
    return sum(losses) / len(losses)


@pytest.mark.parametrize("implementation", ["reference", "torch"])
@pytest.mark.parametrize("normalize", [True, False])
def test_means_what_a_loop_says(implementation, normalize):
    arguments = sample()
    with use(implementation):
        loss = normalized_pixel_mse(*arguments, MEAN, STD, normalize)
    assert loss.item() == pytest.approx(loop(*arguments, normalize), rel=1e-6)  # MEAN and STD are fp32 in the loop


@pytest.mark.parametrize("at_once", [1, 1 << 22])
@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize("shape", [(3, 2, 3, 4), (1, 1, 1, 2), (5, 14, 1, 1), (2, 3, 5, 7)])
def test_operator_equals_reference_forward_and_backward(shape, normalize, at_once, gradients, close, monkeypatch):
    monkeypatch.setattr(op, "VALUES_AT_ONCE", at_once)
    arguments = (*sample(*shape), MEAN, STD, normalize)
    theirs = gradients(reference.normalized_pixel_mse, *arguments)
    for actual, expected in zip(gradients(normalized_pixel_mse, *arguments), theirs, strict=True):
        close(actual, expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_is_computed_in_fp32_whatever_arrives(dtype, gradients, close):
    prediction, images, mask = sample(dtype=dtype)
    wide = prediction.detach().double().requires_grad_()
    ours = gradients(normalized_pixel_mse, prediction, images, mask, MEAN, STD)
    assert [x.dtype for x in ours] == [torch.float32, dtype]
    for actual, expected in zip(ours, gradients(normalized_pixel_mse, wide, images, mask, MEAN, STD), strict=True):
        close(actual, expected)


def test_gradients_are_the_derivatives():
    prediction, images, mask = sample(1, 1, 2, 2)
    assert torch.autograd.gradcheck(lambda p: normalized_pixel_mse(p, images, mask | True), prediction)


def test_predicting_nothing_costs_almost_one():
    images = torch.randint(0, 256, (2, 224, 224, 3), dtype=torch.uint8)
    mask = torch.rand(2, 196) < 0.75
    loss = normalized_pixel_mse(torch.zeros(2, 196, 768), images, mask, MEAN, STD)
    assert round(loss.item(), 4) == 0.9987  # 767 / 768: the variance is unbiased


def test_predicting_the_target_costs_nothing():
    _, images, mask = sample(3, 2, 3, 2)
    target = torch.stack([images[:, y : y + 2, x : x + 2].flatten(1) for y in (0, 2) for x in (0, 2, 4)], 1)
    assert normalized_pixel_mse(target.double() / 255, images, mask, normalize=False).item() < 1e-30


def test_visible_patches_count_for_nothing():
    prediction, images, mask = sample()
    loss = normalized_pixel_mse(prediction, images, mask)
    gradient = torch.autograd.grad(loss, prediction)[0]
    changed = torch.where(mask[..., None], prediction, torch.randn_like(prediction))
    assert normalized_pixel_mse(changed, images, mask).item() == loss.item()
    assert not gradient[~mask].any()
    assert gradient[mask].all()


def test_brightness_and_contrast_of_a_patch_count_for_nothing(close):
    prediction, images, mask = sample()
    images = images.double()
    close(
        normalized_pixel_mse(prediction, 3 * images + 7, mask),
        normalized_pixel_mse(prediction, images, mask),
        torch.float32,
    )


def test_uint8_is_divided_by_255(close):
    prediction, images, mask = sample()
    floating = normalized_pixel_mse(prediction, images.double() / 255, mask, MEAN, STD)
    close(normalized_pixel_mse(prediction, images, mask, MEAN, STD), floating)


def test_a_patch_of_one_colour_is_a_target_of_zeros():
    prediction, images, mask = sample()
    loss = normalized_pixel_mse(prediction, torch.full_like(images, 200), mask | True)
    assert loss.item() == pytest.approx(prediction.detach().square().mean().item(), rel=1e-6)


def test_no_masked_patch_costs_nothing():
    prediction, images, mask = sample()
    loss = normalized_pixel_mse(prediction, images, mask & False)
    loss.backward()
    assert loss.item() == 0
    assert not prediction.grad.any()
    assert normalized_pixel_mse(*(x[:0] for x in (prediction, images, mask))).item() == 0


def test_targets_are_not_kept():
    prediction, images, mask = sample(batch=4, size=16)
    saved = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t) or t, lambda t: t):
        normalized_pixel_mse(prediction, images, mask, MEAN, STD)
    assert {tuple(x.shape) for x in saved} == {tuple(x.shape) for x in (prediction, images, mask)} | {()}


def test_other_strides_are_read_right(gradients, close):
    prediction, images, mask = sample()
    turned = prediction.detach().mT.contiguous().mT.requires_grad_(), images.mT.contiguous().mT, mask.T.contiguous().T
    for actual, expected in zip(
        gradients(normalized_pixel_mse, *turned), gradients(normalized_pixel_mse, prediction, images, mask), strict=True
    ):
        close(actual, expected)


@pytest.mark.parametrize("implementation", ["reference", "torch"])
def test_autocast_does_not_narrow_it(implementation, gradients, close):
    prediction, images, mask = sample(dtype=torch.float32)
    wide = prediction.detach().double().requires_grad_()
    with torch.autocast("cpu", torch.bfloat16), use(implementation):
        ours = gradients(normalized_pixel_mse, prediction, images, mask, MEAN, STD)
    for actual, expected in zip(ours, gradients(normalized_pixel_mse, wide, images, mask, MEAN, STD), strict=True):
        close(actual, expected)


def test_registration():
    prediction, images, mask = sample()
    arguments = (prediction, images, mask, list(MEAN), list(STD), True, "torch")
    torch.library.opcheck(op._forward._opoverload, arguments)


def test_compiles_without_a_break(gradients, close):
    arguments = (*sample(), MEAN, STD)
    compiled = torch.compile(normalized_pixel_mse, backend="aot_eager", fullgraph=True)
    ours = gradients(compiled, *arguments)
    for actual, expected in zip(ours, gradients(normalized_pixel_mse, *arguments), strict=True):
        close(actual, expected)


@pytest.mark.parametrize(
    ("dtypes", "width", "unavailable", "obstacle"),
    [
        ((torch.bfloat16, torch.uint8), 3888, None, None),
        ((torch.float32, torch.float32), 768, None, None),
        ((torch.bfloat16, torch.uint8), 4107, None, "the kernel takes patches of up to 4096 values, not 4107"),
        ((torch.bfloat16, torch.float64), 768, None, "the kernel adds in fp32, and an argument is float64"),
        ((torch.bfloat16, torch.uint8), 768, "Triton is not installed", "Triton is not installed"),
    ],
)
def test_the_rule_of_choice(dtypes, width, unavailable, obstacle):
    assert op.obstacle(dtypes, width, unavailable) == obstacle


def test_a_kernel_asked_for_in_vain_is_logged_with_its_reason(caplog):
    choice._note_once.cache_clear()
    with caplog.at_level(logging.WARNING), use("triton", "pixel_mse"):
        normalized_pixel_mse(*sample())
    said = [r.getMessage() for r in caplog.records]
    assert said == ["pixel_mse: runs in plain PyTorch, because Triton needs a CUDA device, not cpu"]


@pytest.mark.gpu
@pytest.mark.parametrize("implementation", ["triton", "torch"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize("shape", [(64, 14, 14, 16), (3, 7, 7, 32), (5, 3, 5, 7), (65, 1, 1, 1)])
def test_agrees_with_float64_on_a_gpu(shape, normalize, dtype, implementation, gradients, close):
    prediction, images, mask = (x.detach().cuda() for x in sample(*shape, dtype))
    arguments = (prediction.requires_grad_(), images, mask, MEAN, STD, normalize)
    wide = (prediction.detach().double().requires_grad_(), *arguments[1:])
    with use(implementation, "pixel_mse"):
        ours, again = gradients(normalized_pixel_mse, *arguments), gradients(normalized_pixel_mse, *arguments)
    for actual, repeated, expected in zip(ours, again, gradients(reference.normalized_pixel_mse, *wide), strict=True):
        assert torch.equal(actual, repeated)
        close(actual, expected, dtype)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"prediction": torch.zeros(3, 6)}, r"prediction: float32 \[3, 6\] on cpu; must be a floating point"),
        ({"prediction": torch.zeros(3, 6, 50)}, r"prediction: .*\[B, P, p \* p \* 3\] for some p"),
        ({"prediction": torch.zeros(3, 6, 2)}, r"prediction: .*for some p"),
        ({"prediction": torch.zeros(3, 6, 12)}, "prediction: .*of 24 patches, as the images have of size 2"),
        ({"prediction": torch.zeros(3, 6, 75)}, "images: .*that patches of 5 divide"),
        ({"images": torch.zeros(2, 8, 12, 3)}, r"images: .*must be \[3, H, W, 3\]"),
        ({"images": torch.zeros(3, 3, 8, 12)}, r"images: .*\[3, H, W, 3\]"),
        ({"images": torch.zeros(3, 8, 12, 3, dtype=torch.int32)}, "images: int32 .*uint8 or floating point"),
        ({"images": torch.zeros(3, 8, 12, 3, device="meta")}, "images: .*must be on cpu, as prediction is"),
        ({"mask": torch.zeros(3, 6)}, r"mask: float32 .*must be bool \[3, 6\]"),
        ({"mask": torch.zeros(3, 5, dtype=torch.bool)}, r"mask: bool \[3, 5\]"),
        ({"mean": MEAN}, "std: None; must be three numbers"),
        ({"mean": (0.5,), "std": STD}, r"mean: \(0.5,\); must be three numbers"),
        ({"mean": MEAN, "std": (0.2, 0.0, 0.2)}, "std: .*greater than 0"),
    ],
)
def test_bad_arguments_are_named(changes, message):
    arguments = dict(zip(("prediction", "images", "mask"), sample(), strict=True))
    with pytest.raises(ValueError, match=message):
        normalized_pixel_mse(**{**arguments, **changes})

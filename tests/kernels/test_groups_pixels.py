"""corrupt_groups and masked_l1: what covered pixels show, and what reconstructing them costs."""

import math

import pytest
import torch
from torch import Tensor

from vitkiln.kernels import corrupt_groups, group_mask, masked_l1, use
from vitkiln.kernels._shared.philox import NOISE, bits
from vitkiln.kernels.groups import loss, reference

SEED = torch.tensor([7 - 2**40, 2**31 + 3])
IDS = torch.tensor([3, 2**40 + 5, -1])
SCALING = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
SIZES = [(32, 48), (5, 7), (1, 1), (33, 31), (224, 16)]
PIXELS = [torch.uint8, torch.float32, torch.float16, torch.bfloat16, torch.float64]


def sample(
    size: tuple[int, int], dtype: torch.dtype = torch.uint8, bitmap: bool = True
) -> tuple[Tensor, Tensor, Tensor]:
    """images, a mask of either kind, and the same as bool [B, H, W]"""
    torch.manual_seed(0)
    images = torch.randint(0, 256, (3, *size, 3), dtype=torch.uint8)
    words, mask = group_mask(SEED, IDS, size, 0.4)
    return images if dtype == torch.uint8 else (images / 255).to(dtype), words if bitmap else mask, mask


def predicted(size: tuple[int, int], side: int, dtype: torch.dtype = torch.float32) -> Tensor:
    patches = size[0] * size[1] // side**2
    return torch.randn(3, patches, 3 * side * side).to(dtype).requires_grad_()


def forced(implementation: str, function, *arguments, **settings):
    with use(implementation, "groups"):
        return function(*arguments, **settings)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("dtype", PIXELS)
@pytest.mark.parametrize("source", ["noise", "zeros", "images"])
@pytest.mark.parametrize("implementation", ["best", "torch", "reference"])
def test_pixels_outside_of_the_mask_stay_to_the_bit(size, dtype, source, implementation):
    images, bitmap, mask = sample(size, dtype)
    shown = images.flip(0) if source == "images" else source
    arguments = (images, bitmap, shown, torch.tensor([-1, 0, 2]), SEED, IDS)
    scaling = SCALING if dtype == torch.uint8 else {}
    call = (
        corrupt_groups if implementation == "best" else lambda *a, **s: forced(implementation, corrupt_groups, *a, **s)
    )
    out = call(*arguments, **scaling)
    assert (out.dtype, out.shape) == (images.dtype, images.shape)
    assert torch.equal(out[~mask], images[~mask])


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("dtype", PIXELS)
@pytest.mark.parametrize("bitmap", [True, False])
@pytest.mark.parametrize("source", ["noise", "zeros", "images"])
def test_implementations_show_the_same(size, dtype, bitmap, source):
    """But for the last bits of noise: at most one level of 256, and seldom."""
    images, mask, _ = sample(size, dtype, bitmap)
    arguments = (images, mask, images.flip(0) if source == "images" else source, torch.tensor([2, -1, -5]), SEED, IDS)
    scaling = SCALING if dtype == torch.uint8 else {}
    expected = forced("reference", corrupt_groups, *arguments, **scaling).double()
    for found in (forced("torch", corrupt_groups, *arguments, **scaling), corrupt_groups(*arguments, **scaling)):
        apart = (found.double() - expected).abs()
        allowed = {torch.float16: 2e-3, torch.bfloat16: 2e-2}.get(dtype, 1e-5)
        if source != "noise":
            assert apart.max() == 0
        elif dtype == torch.uint8:
            assert apart.max() <= 1
            assert apart.sum() <= 2 + 1e-4 * apart.numel()
        else:
            assert apart.max() < allowed


def test_the_noise_is_box_and_mullers_of_philox():
    images, mask = torch.zeros(3, 4, 5, 3, dtype=torch.float64), torch.ones(3, 4, 5, dtype=torch.bool)
    found = corrupt_groups(images, mask, "noise", None, SEED, IDS).flatten(1)
    for row, words in zip(found.tolist(), bits(SEED, IDS, (60, NOISE))[0].tolist(), strict=True):
        for i in range(0, 60, 2):
            radius = math.sqrt(-2 * math.log((words[i] + 1) / 2**24))
            angle = 2 * math.pi * words[i + 1] / 2**24
            assert row[i : i + 2] == pytest.approx([radius * math.cos(angle), radius * math.sin(angle)], abs=3e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_noise_is_normal_and_independent(dtype):
    images, mask = torch.zeros(8, 224, 224, 3, dtype=dtype), torch.ones(8, 224, 224, dtype=torch.bool)
    noise = corrupt_groups(images, mask, "noise", None, SEED, torch.arange(8)).double().flatten()
    count = noise.numel()
    assert noise.mean().abs() < 5 / count**0.5
    assert (noise.square().mean() - 1).abs() < 5 * (2 / count) ** 0.5
    assert (noise.pow(4).mean() - 3).abs() < 5 * (96 / count) ** 0.5
    for distance in (1, 2, 3, 4, 64, 672):
        assert (noise[:-distance] * noise[distance:]).mean().abs() < 5 / count**0.5
    below = torch.tensor([(noise < level).double().mean() for level in (-2.0, -1.0, 0.0, 1.0, 2.0)])
    expected = torch.special.ndtr(torch.tensor([-2.0, -1.0, 0.0, 1.0, 2.0]))
    torch.testing.assert_close(below, expected, rtol=0, atol=2.5 / count**0.5, check_dtype=False)


def test_noise_of_bytes_is_rounded_and_clipped():
    images, mask = torch.zeros(1, 64, 64, 3, dtype=torch.uint8), torch.ones(1, 64, 64, dtype=torch.bool)
    found = corrupt_groups(images, mask, "noise", None, SEED, IDS[:1], **SCALING)
    noise = corrupt_groups(images.double(), mask, "noise", None, SEED, IDS[:1])
    wanted = ((noise * torch.tensor(SCALING["std"]) + torch.tensor(SCALING["mean"])) * 255).round().clamp(0, 255)
    apart = (found.double() - wanted).abs()
    assert apart.max() <= 1
    assert apart.mean() < 1e-3
    assert {0, 255} <= set(found.unique().tolist())


def test_zeros_are_black_only_once_normalised():
    images, bitmap, mask = sample((32, 48))
    out = corrupt_groups(images, bitmap, "zeros", **SCALING)[mask]
    assert (out == torch.tensor([124, 116, 104], dtype=torch.uint8)).all()
    assert not corrupt_groups(images.float(), bitmap, "zeros")[mask].any()


def test_a_partner_shows_what_it_has_there_before_corruption():
    images, bitmap, mask = sample((32, 48))
    out = corrupt_groups(images, bitmap, "zeros", torch.tensor([1, 2, -1]), **SCALING)
    for image, partner in ((0, 1), (1, 2)):
        assert torch.equal(out[image][mask[image]], images[partner][mask[image]])
    assert (out[2][mask[2]] == torch.tensor([124, 116, 104], dtype=torch.uint8)).all()


def test_an_image_that_is_its_own_partner_stays():
    images, bitmap, _ = sample((32, 48))
    assert torch.equal(corrupt_groups(images, bitmap, "noise", torch.arange(3), SEED, IDS, **SCALING), images)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_permuting_the_batch_permutes_what_is_shown(dtype):
    images, bitmap, _ = sample((32, 48), dtype)
    order = torch.tensor([2, 0, 1])
    whole = corrupt_groups(images, bitmap, "noise", None, SEED, IDS, **SCALING)
    assert torch.equal(
        corrupt_groups(images[order], bitmap[order], "noise", None, SEED, IDS[order], **SCALING), whole[order]
    )


def test_threads_do_not_change_anything():
    images, bitmap, _ = sample((32, 48))
    prediction, before, found = predicted((32, 48), 16), torch.get_num_threads(), []
    for threads in (1, 3):
        torch.set_num_threads(threads)
        out = corrupt_groups(images, bitmap, "noise", None, SEED, IDS, **SCALING)
        found.append((out, masked_l1(prediction, images, bitmap, **SCALING)))
    torch.set_num_threads(before)
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


def test_strides_do_not_matter():
    images, bitmap, mask = sample((32, 48))
    turned = [tensor.transpose(1, 2).contiguous().transpose(1, 2) for tensor in (images, bitmap, mask)]
    for which in (bitmap, mask):
        other = turned[1] if which is bitmap else turned[2]
        expected = corrupt_groups(images, which, "noise", None, SEED, IDS, **SCALING)
        assert torch.equal(corrupt_groups(turned[0], other, "noise", None, SEED, IDS, **SCALING), expected)
        prediction = predicted((32, 48), 8)
        swapped = prediction.detach().mT.contiguous().mT
        assert torch.equal(masked_l1(swapped, turned[0], other), masked_l1(prediction, images, which))


@pytest.mark.parametrize("bitmap", [True, False])
@pytest.mark.parametrize("pixel", [torch.uint8, torch.float32, torch.float64])
@pytest.mark.parametrize(("size", "side"), [((32, 48), 16), ((32, 48), 4), ((5, 7), 1), ((42, 28), 14)])
@pytest.mark.parametrize("implementation", ["best", "torch"])
def test_loss_and_gradient_are_those_of_float64(bitmap, pixel, size, side, implementation, gradients, close):
    images, which, _ = sample(size, pixel, bitmap)
    prediction = predicted(size, side)
    call = masked_l1 if implementation == "best" else lambda *a, **s: forced(implementation, masked_l1, *a, **s)
    found = gradients(call, prediction, images, which, **SCALING)
    wide = prediction.detach().double().requires_grad_()
    wanted = gradients(lambda *a, **s: forced("reference", masked_l1, *a, **s), wide, images, which, **SCALING)
    for actual, expected in zip(found, wanted, strict=True):
        close(actual, expected, torch.float32)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_narrow_predictions_are_compared_in_fp32(dtype, gradients, close):
    images, bitmap, _ = sample((32, 48))
    prediction = predicted((32, 48), 16, dtype)
    found = gradients(masked_l1, prediction, images, bitmap, **SCALING)
    wanted = gradients(masked_l1, prediction.detach().double().requires_grad_(), images, bitmap, **SCALING)
    assert (found[0].dtype, found[1].dtype) == (torch.float32, dtype)
    close(found[0], wanted[0], torch.float32)
    close(found[1], wanted[1], dtype)


def test_gradcheck_away_from_the_corner():
    images, bitmap, _ = sample((4, 6), torch.float64)
    prediction = predicted((4, 6), 2, torch.float64)
    assert torch.autograd.gradcheck(lambda p: masked_l1(p, images, bitmap, **SCALING), prediction)


@pytest.mark.parametrize("implementation", ["best", "torch"])
def test_a_prediction_that_is_right_costs_nothing_and_has_no_slope(implementation):
    images, bitmap, _ = sample((32, 48), torch.float32)
    prediction = reference.patches(images, 16).clone().requires_grad_()
    call = masked_l1 if implementation == "best" else lambda *a: forced(implementation, masked_l1, *a)
    value = call(prediction, images, bitmap)
    value.backward()
    assert value == 0
    assert not prediction.grad.any()


@pytest.mark.parametrize("implementation", ["best", "torch"])
@pytest.mark.parametrize("other", [1e9, math.nan, math.inf])
def test_what_is_predicted_outside_of_the_mask_does_not_matter(implementation, other):
    images, bitmap, mask = sample((32, 48))
    covered = reference.patches(mask[..., None].expand(images.shape), 16)
    call = masked_l1 if implementation == "best" else lambda *a: forced(implementation, masked_l1, *a)
    first = predicted((32, 48), 16)
    second = torch.where(covered, first.detach(), other).requires_grad_()
    values = [call(prediction, images, bitmap) for prediction in (first, second)]
    sum(values).backward()
    assert torch.equal(*values)
    assert torch.equal(first.grad, second.grad)


def test_the_mean_is_over_the_covered_pixels_of_the_whole_batch():
    images = torch.zeros(2, 2, 2, 3)
    mask = torch.tensor([[[True, True], [True, False]], [[True, False], [False, False]]])
    prediction = torch.tensor([1.0, 5.0])[:, None, None].expand(2, 1, 12)
    assert masked_l1(prediction, images, mask).item() == (3 * 1 + 1 * 5) / 4


@pytest.mark.parametrize("implementation", ["best", "torch", "reference"])
def test_no_covered_pixel_gives_zero(implementation):
    images, bitmap, _ = sample((32, 48))
    prediction = predicted((32, 48), 16)
    call = masked_l1 if implementation == "best" else lambda *a: forced(implementation, masked_l1, *a)
    value = call(prediction, images, torch.zeros_like(bitmap))
    value.backward()
    assert value == 0
    assert not prediction.grad.any()


def test_an_empty_batch_gives_nothing():
    images, bitmap, _ = (tensor[:0] for tensor in sample((32, 48)))
    assert corrupt_groups(images, bitmap, "noise", None, SEED, IDS[:0], **SCALING).shape == (0, 32, 48, 3)
    prediction = predicted((32, 48), 16).detach()[:0].requires_grad_()
    value = masked_l1(prediction, images, bitmap)
    value.backward()
    assert value == 0


def test_targets_exist_for_some_images_at_a_time(called, monkeypatch):
    images, bitmap, _ = sample((32, 48))
    prediction = predicted((32, 48), 16)
    whole = forced("torch", masked_l1, prediction, images, bitmap)
    monkeypatch.setattr(loss, "VALUES_AT_ONCE", 1)
    assert torch.allclose(forced("torch", masked_l1, prediction, images, bitmap), whole, rtol=1e-6)


def test_autocast_computes_in_fp32(close):
    images, bitmap, _ = sample((32, 48))
    prediction = predicted((32, 48), 16)
    with torch.autocast("cpu", torch.bfloat16):
        value = masked_l1(prediction, images, bitmap, **SCALING)
    assert torch.equal(value, masked_l1(prediction, images, bitmap, **SCALING))


@pytest.mark.parametrize("implementation", ["torch", "native"])
def test_registration(implementation):
    images, bitmap, mask = sample((8, 12))
    numbers = [[0.5, 0.4, 0.3], [0.2, 0.3, 0.4]]
    operators = torch.ops.vitkiln
    given = (images, bitmap, "noise", None, torch.tensor([-1, 0, 1]), SEED, IDS, *numbers, implementation)
    torch.library.opcheck(operators.corrupt_groups.default, given)
    prediction = predicted((8, 12), 4)
    for which in (bitmap, mask):
        torch.library.opcheck(operators.masked_l1.default, (prediction, images, which, *numbers, implementation))
    factor = torch.tensor(0.5)
    given = (factor, prediction.detach(), images, bitmap, *numbers, implementation)
    torch.library.opcheck(operators.masked_l1_backward.default, given)


def test_compiles_without_a_break(gradients, close):
    images, _, _ = sample((8, 12))
    prediction = predicted((8, 12), 4)

    def step(prediction: Tensor) -> Tensor:
        bitmap, mask = group_mask(SEED, IDS, (8, 12), 0.4)
        corrupted = corrupt_groups(images, bitmap, "noise", None, SEED, IDS, **SCALING)
        return masked_l1(prediction, corrupted, mask, **SCALING)

    compiled = torch.compile(step, backend="aot_eager", fullgraph=True)
    for actual, expected in zip(gradients(compiled, prediction), gradients(step, prediction), strict=True):
        close(actual, expected, torch.float32)


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("images", {"images": torch.zeros(3, 8, 12, 1)}),
        ("images", {"images": torch.zeros(3, 8, 12, 3, dtype=torch.int64)}),
        ("mask", {"mask": torch.zeros(3, 8, 12)}),
        ("mask", {"mask": torch.zeros(3, 12, 8, dtype=torch.bool)}),
        ("mask", {"mask": torch.zeros(3, 8, 2, dtype=torch.int32)}),
        ("source", {"source": "black"}),
        ("source", {"source": torch.zeros(3, 8, 12, 3)}),
        ("seed", {"seed": None}),
        ("sample_ids", {"sample_ids": None}),
        ("sample_ids", {"sample_ids": IDS[:2]}),
        ("partner", {"partner": torch.zeros(2, dtype=torch.int64)}),
        ("partner", {"partner": torch.zeros(3)}),
        ("mean", {"mean": None}),
        ("std", {"std": None}),
        ("std", {"std": (1.0, 1.0)}),
        ("std", {"std": (1.0, 1.0, 0.0)}),
    ],
)
def test_bad_corruption_is_named(name, changes):
    images, bitmap, _ = sample((8, 12))
    right = {"images": images, "mask": bitmap, "seed": SEED, "sample_ids": IDS, **SCALING}
    with pytest.raises(ValueError, match=f"^{name}: "):
        corrupt_groups(**{**right, **changes})


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("prediction", {"prediction": torch.zeros(3, 6, 47)}),
        ("prediction", {"prediction": torch.zeros(3, 5, 48)}),
        ("prediction", {"prediction": torch.zeros(3, 6, 48, dtype=torch.int64)}),
        ("images", {"prediction": torch.zeros(2, 6, 48)}),
        ("images", {"prediction": torch.zeros(3, 6, 75)}),
        ("mask", {"mask": torch.zeros(3, 6)}),
        ("mean", {"std": (1.0, 1.0, 1.0)}),
    ],
)
def test_bad_losses_are_named(name, changes):
    images, bitmap, _ = sample((8, 12))
    right = {"prediction": torch.zeros(3, 6, 48), "images": images, "mask": bitmap}
    with pytest.raises(ValueError, match=f"^{name}: "):
        masked_l1(**{**right, **changes})


@pytest.mark.gpu
@pytest.mark.parametrize("bitmap", [True, False])
@pytest.mark.parametrize("dtype", [torch.uint8, torch.bfloat16, torch.float32])
@pytest.mark.parametrize("implementation", ["triton", "torch"])
def test_a_gpu_shows_and_costs_the_same(bitmap, dtype, implementation):
    images, which, _ = sample((224, 224), dtype, bitmap)
    arguments = (images, which, "noise", torch.tensor([-1, -1, 0]), SEED, IDS)
    expected = corrupt_groups(*arguments, **SCALING).double()
    moved = [value.cuda() if isinstance(value, Tensor) else value for value in arguments]
    found = forced(implementation, corrupt_groups, *moved, **SCALING).cpu().double()
    apart = (found - expected).abs()
    assert apart.max() <= (1 if dtype == torch.uint8 else 2e-2)
    assert apart.mean() < 1e-3
    prediction = predicted((224, 224), 16)
    there = prediction.detach().cuda().requires_grad_()
    here = masked_l1(prediction, images, which, **SCALING)
    value = forced(implementation, masked_l1, there, images.cuda(), which.cuda(), **SCALING)
    assert value.item() == pytest.approx(here.item(), rel=1e-5)
    here.backward()
    value.backward()
    different = (there.grad.cpu() - prediction.grad).abs() > 1e-6 * prediction.grad.abs().max()
    assert different.double().mean() < 1e-4  # where an error is 0 but for rounding

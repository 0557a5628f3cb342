"""On a GPU every operator says what it says on a CPU, in float64, without waiting for the device."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
from torch import Tensor

from vitkiln.kernels import detection_loss, info_nce, patch_embed, place_tokens, sample_tokens, uniform, use
from vitkiln.kernels.place_tokens import reference

pytestmark = pytest.mark.gpu
SEED, IDS = torch.tensor([7, 3]), torch.arange(64) * 2**33 + 5
KEEP, PLACE, WRONG, _ = sample_tokens(SEED, IDS, 196, 49, 0.2)


@contextmanager
def no_waiting() -> Iterator[None]:
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


def tokens_and_table(dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    return torch.randn(64, 196, 384, dtype=dtype).requires_grad_(), torch.randn(196, 384).requires_grad_()


def moved(*tensors: Tensor, dtype: torch.dtype | None = None) -> list[Tensor]:
    """On the device, floating point tensors in another type if one is given."""
    cast = [t.detach().to(dtype if t.is_floating_point() else None) for t in tensors]
    return [c.cuda().requires_grad_(t.requires_grad) for c, t in zip(cast, tensors, strict=True)]


@pytest.mark.parametrize("implementation", ["triton", "torch"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_place_tokens_agrees_with_float64(dtype, implementation, gradients, close):
    arguments = (*tokens_and_table(dtype), KEEP, PLACE)
    theirs = gradients(reference.place_tokens, *moved(*arguments, dtype=torch.float64))
    with use(implementation, "place_tokens"):
        ours = gradients(place_tokens, *moved(*arguments))
    for actual, expected in zip(ours, theirs, strict=True):
        close(actual, expected, dtype)


@pytest.mark.parametrize("implementation", ["triton", "torch"])
def test_place_tokens_repeats_itself_to_the_bit(implementation, gradients):
    arguments = moved(*tokens_and_table(torch.bfloat16), KEEP, PLACE)
    with use(implementation, "place_tokens"):
        first, second = gradients(place_tokens, *arguments), gradients(place_tokens, *arguments)
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def test_random_numbers_are_those_of_the_cpu():
    assert torch.equal(uniform(SEED.cuda(), IDS.cuda(), 50).cpu(), uniform(SEED, IDS, 50))


@pytest.mark.parametrize("implementation", ["triton", "torch"])
@pytest.mark.parametrize(("patches", "kept"), [(196, 49), (256, 256), (256, 200), (1024, 300), (1500, 300), (1, 1)])
def test_plans_are_those_of_the_cpu(patches, kept, implementation):
    arguments = (patches, kept, 0.2 if patches > 1 else 0.0)
    with use(implementation, "sample_tokens"):
        ours = sample_tokens(SEED.cuda(), IDS.cuda(), *arguments)
    for actual, expected in zip(ours, sample_tokens(SEED, IDS, *arguments), strict=True):
        assert torch.equal(actual.cpu(), expected)


def test_sampling_does_not_wait_and_follows_the_step_in_a_graph():
    seed, ids = moved(SEED, IDS)
    with no_waiting():
        sample_tokens(seed, ids, 196, 49, 0.2)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        keep = sample_tokens(seed, ids, 196, 49, 0.2)[0]
    seed[1] += 1
    graph.replay()
    assert torch.equal(keep, sample_tokens(seed, ids, 196, 49, 0.2)[0])


def patches_and_tables(dtype: torch.dtype, pixel: torch.dtype, layout: str, size: int) -> tuple[Tensor, ...]:
    """224 px images, weight, bias, positions, a class token, and which patches are kept and told to be where."""
    count = (224 // size) ** 2
    images = torch.randint(0, 256, (64, 224, 224, 3), dtype=torch.uint8)
    images = images if pixel == torch.uint8 else (images / 255).to(pixel)
    images = images if layout == "last" else images.permute(0, 3, 1, 2).contiguous()
    shapes = [(384, 3, size, size), (384,), (count, 384), (1, 384)]
    tables = [torch.randn(shape, dtype=torch.float64).mul(0.1).to(dtype).requires_grad_() for shape in shapes]
    return images, *tables, *sample_tokens(SEED, IDS, count, count // 4, 0.2)[:2]


@pytest.mark.parametrize("implementation", ["triton", "torch"])
@pytest.mark.parametrize(
    ("dtype", "pixel", "layout", "size"),
    [
        (torch.float32, torch.uint8, "last", 16),
        (torch.bfloat16, torch.uint8, "last", 16),
        (torch.bfloat16, torch.uint8, "first", 16),
        (torch.bfloat16, torch.float32, "first", 16),
        (torch.float16, torch.uint8, "last", 14),
        (torch.bfloat16, torch.uint8, "last", 32),
        (torch.float32, torch.bfloat16, "first", 8),
    ],
)
def test_patch_embed_agrees_with_float64(dtype, pixel, layout, size, implementation, gradients, close):
    arguments = patches_and_tables(dtype, pixel, layout, size)
    settings = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
    wide = [a.to("cuda") if not a.is_floating_point() else a.detach().double().cuda() for a in arguments]
    wide[1:5] = [table.requires_grad_() for table in wide[1:5]]
    with use("reference", "patch_embed"):
        theirs = gradients(patch_embed, *wide, **settings)
    with use(implementation, "patch_embed"):
        ours = gradients(patch_embed, *moved(*arguments), **settings)
    for actual, expected in zip(ours, theirs, strict=True):
        close(actual, expected, dtype)


@pytest.mark.parametrize("implementation", ["triton", "torch"])
def test_patch_embed_repeats_itself_to_the_bit(implementation, gradients):
    arguments = moved(*patches_and_tables(torch.bfloat16, torch.uint8, "last", 16))
    with use(implementation, "patch_embed"):
        first, second = gradients(patch_embed, *arguments), gradients(patch_embed, *arguments)
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def test_info_nce_agrees_with_the_cpu(gradients, close):
    query, key = (torch.randn(n, 256, dtype=torch.float64, requires_grad=True) for n in (64, 256))
    theirs = gradients(info_nce, query, key, 0.2, 128)
    ours = gradients(info_nce, *moved(query, key, dtype=torch.float32), 0.2, 128)
    for actual, expected in zip(ours, theirs, strict=True):
        close(actual.cpu(), expected)


def test_detection_loss_agrees_with_the_cpu(gradients, close):
    shapes = [(64, 49, 384), (384,), ()]
    arguments = [torch.randn(shape, dtype=torch.float64, requires_grad=True) for shape in shapes]
    theirs = gradients(detection_loss, *arguments, WRONG)
    ours = gradients(detection_loss, *moved(*arguments, WRONG, dtype=torch.float32))
    for actual, expected in zip(ours, theirs, strict=True):
        close(actual.cpu(), expected)


def test_a_step_through_every_operator_does_not_wait():
    images = torch.zeros(64, 224, 224, 3, dtype=torch.uint8).cuda()
    shapes = [(384, 3, 16, 16), (384,), (196, 384), (1, 384)]
    weight, bias, position, cls_token = (torch.zeros(shape).cuda().requires_grad_() for shape in shapes)
    seed, ids = moved(SEED, IDS)
    with no_waiting(), torch.autocast("cuda", torch.bfloat16):
        keep, place, wrong, _ = sample_tokens(seed, ids, 196, 49, 0.2)
        tokens = patch_embed(images, weight, bias, position, cls_token, keep, place, (0.5,) * 3, (0.5,) * 3)
        placed = place_tokens(tokens[:, 1:], position, keep % 49, place)
        loss = info_nce(tokens[:, 0], tokens[:, 1].detach(), 0.2).mean()
        loss = loss + detection_loss(placed, bias, bias[:1], wrong)[0]
        loss.backward()

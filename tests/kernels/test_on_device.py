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
    for ours, theirs in zip(
        sample_tokens(SEED.cuda(), IDS.cuda(), 196, 49, 0.2), sample_tokens(SEED, IDS, 196, 49, 0.2), strict=True
    ):
        assert torch.equal(ours.cpu(), theirs)


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


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_patch_embed_agrees_with_the_cpu(dtype, gradients, close):
    images = torch.randint(0, 256, (64, 224, 224, 3), dtype=torch.uint8)
    shapes = [(384, 3, 16, 16), (384,), (196, 384), (1, 384)]
    tables = [torch.randn(shape, dtype=torch.float64).mul(0.1).to(dtype).requires_grad_() for shape in shapes]
    wide = [t.detach().double().requires_grad_() for t in tables]
    settings = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
    theirs = gradients(patch_embed, images, *wide, KEEP, PLACE, **settings)
    ours = gradients(patch_embed, *moved(images, *tables, KEEP, PLACE), **settings)
    for actual, expected in zip(ours, theirs, strict=True):
        close(actual.cpu(), expected, dtype)


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

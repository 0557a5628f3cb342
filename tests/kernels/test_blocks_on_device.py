"""On a GPU the operators of a transformer block say what they say in float64, in every kernel that carries them."""

import pytest
import torch
from torch import Tensor

from vitkiln.kernels import add_layer_norm, attention, class_attention, linear_gelu, use
from vitkiln.kernels.add_layer_norm import reference as norm_reference
from vitkiln.kernels.attention import backends, reference
from vitkiln.kernels.linear_gelu import reference as mlp_reference

pytestmark = pytest.mark.gpu
NARROW = [torch.float16, torch.bfloat16]
LENGTHS = [1, 10, 37, 50, 63, 64, 65, 98, 128, 197, 256]
EPS = 1e-6


def drawn(*shapes: tuple[int, ...], dtype: torch.dtype) -> list[Tensor]:
    return [torch.randn(shape, device="cuda", dtype=dtype, requires_grad=True) for shape in shapes]


def widened(tensors: list) -> list:
    return [t.detach().double().requires_grad_(t.requires_grad) if isinstance(t, Tensor) else t for t in tensors]


def repeats_itself(gradients, function, *arguments) -> bool:
    pairs = zip(*(gradients(function, *arguments) for _ in range(2)), strict=True)
    return all(torch.equal(first, second) for first, second in pairs)


@pytest.mark.parametrize("width", [16, 32, 64])
@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("dtype", NARROW)
def test_attention_agrees_with_float64(dtype, length, width, gradients, close):
    (qkv,) = drawn((4, length, 3 * 6 * width), dtype=dtype)
    theirs = gradients(reference.attention, *widened([qkv]), 6)
    with use("triton", "attention"):
        ours = gradients(attention, qkv, 6)
    for actual, expected in zip(ours, theirs, strict=True):
        close(actual, expected, dtype)


@pytest.mark.parametrize("width", [16, 32, 64])
@pytest.mark.parametrize("length", [length for length in LENGTHS if length <= 64])
def test_attention_in_fp32_agrees_with_float64_where_it_is_asked_for(length, width, gradients, close):
    (qkv,) = drawn((4, length, 3 * 6 * width), dtype=torch.float32)
    theirs = gradients(reference.attention, *widened([qkv]), 6)
    with use("triton", "attention"):
        ours = gradients(attention, qkv, 6)
    for actual, expected in zip(ours, theirs, strict=True):
        close(actual, expected)


@pytest.mark.parametrize("name", ["torch", "cudnn", "flash", "flash3", "flash4"])
@pytest.mark.parametrize("lengths", [[(4, 50)], [(2, 197), (3, 37)]])
def test_attention_by_the_kernels_of_others_agrees_with_float64(name, lengths, gradients, close):
    if name != "torch" and (found := backends.obstacle(name, "cuda", torch.bfloat16)):
        pytest.skip(found)
    (qkv,) = drawn((sum(count * length for count, length in lengths), 3 * 384), dtype=torch.bfloat16)
    theirs = gradients(reference.attention, *widened([qkv]), 6, lengths=lengths)
    with use(name, "attention"):
        ours = gradients(attention, qkv, 6, lengths=lengths)
    for actual, expected in zip(ours, theirs, strict=True):
        close(actual, expected, torch.bfloat16)


def test_groups_of_attention_agree_with_float64(gradients, close):
    lengths = [(4, 197), (16, 37), (8, 50)]
    (qkv,) = drawn((sum(count * length for count, length in lengths), 3 * 384), dtype=torch.bfloat16)
    theirs = gradients(reference.attention, *widened([qkv]), 6, lengths=lengths)
    with use("triton", "attention"):
        ours = gradients(attention, qkv, 6, lengths=lengths)
    for actual, expected in zip(ours, theirs, strict=True):
        close(actual, expected, torch.bfloat16)


def test_the_class_token_attends_as_among_all(close):
    (qkv,) = drawn((4, 197, 3 * 384), dtype=torch.bfloat16)
    close(class_attention(qkv[:, :1, :384], qkv[..., 384:], 6), attention(qkv, 6)[:, :1])


@pytest.mark.parametrize("length", [50, 197])
def test_attention_repeats_itself_to_the_bit(length, gradients):
    (qkv,) = drawn((64, length, 3 * 384), dtype=torch.bfloat16)
    with use("triton", "attention"):
        assert repeats_itself(gradients, attention, qkv, 6)


def both(function):
    return lambda *arguments: torch.cat([out.double() for out in function(*arguments)], -1)


@pytest.mark.parametrize("factors", [False, True])
@pytest.mark.parametrize("types", [(torch.float32, torch.bfloat16), *((t, t) for t in (torch.float32, *NARROW))])
@pytest.mark.parametrize("implementation", ["triton", "torch"])
@pytest.mark.parametrize("width", [37, 384, 768])
def test_add_layer_norm_agrees_with_float64(width, implementation, types, factors, gradients, close):
    x, branch = (drawn((64, 50, width), dtype=dtype)[0] for dtype in types)
    weight, bias, scale = drawn(*[(width,)] * 3, dtype=torch.float32)
    drop_path = torch.randint(0, 2, (64,), device="cuda") / 0.7
    arguments = [x, branch, weight, bias, EPS, *((scale, drop_path) if factors else ())]
    theirs = gradients(both(norm_reference.add_layer_norm), *widened(arguments))
    with use(implementation, "add_layer_norm"):
        ours = gradients(both(add_layer_norm), *arguments)
    for actual, expected in zip(ours, theirs, strict=True):
        close(actual, expected, types[1])


def test_add_layer_norm_repeats_itself_to_the_bit(gradients):
    x, branch = drawn(*[(1024, 50, 384)] * 2, dtype=torch.bfloat16)
    vectors = drawn((384,), (384,), dtype=torch.float32)
    with use("triton", "add_layer_norm"):
        assert repeats_itself(gradients, both(add_layer_norm), x, branch, *vectors, EPS)


@pytest.mark.parametrize("shape", [(64, 50, 384), (3, 197, 768), (7, 1, 40)])
@pytest.mark.parametrize("implementation", ["triton", "torch"])
@pytest.mark.parametrize("dtype", NARROW)
def test_linear_gelu_agrees_with_float64(dtype, implementation, shape, gradients, close):
    x, weight, bias = drawn(shape, (4 * shape[2], shape[2]), (4 * shape[2],), dtype=dtype)
    weight = (weight.detach() * shape[2] ** -0.5).requires_grad_()
    theirs = gradients(mlp_reference.linear_gelu, *widened([x, weight, bias]))
    with use(implementation, "linear_gelu"):
        ours = gradients(linear_gelu, x, weight, bias)
    for actual, expected in zip(ours, theirs, strict=True):
        close(actual, expected, dtype)


def test_linear_gelu_repeats_itself_to_the_bit(gradients):
    arguments = drawn((256, 50, 384), (1536, 384), (1536,), dtype=torch.bfloat16)
    with use("triton", "linear_gelu"):
        assert repeats_itself(gradients, linear_gelu, *arguments)


def test_a_block_does_not_wait_for_the_device():
    (x,) = drawn((64, 50, 384), dtype=torch.float32)
    vectors, weight = drawn((384,), (384,), dtype=torch.float32), drawn((1152, 384), dtype=torch.float32)[0]
    torch.cuda.set_sync_debug_mode("error")
    try:
        with torch.autocast("cuda", torch.bfloat16):
            _, normal = add_layer_norm(x, None, *vectors, EPS)
            attended = attention(torch.nn.functional.linear(normal, weight), 6)
            _, normal = add_layer_norm(x, attended, *vectors, EPS, drop_path=x.new_ones(64))
            linear_gelu(normal, weight, weight[:, 0]).float().sum().backward()
    finally:
        torch.cuda.set_sync_debug_mode("default")

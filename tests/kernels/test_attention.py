"""attention: every sequence attends to itself alone, whatever kernel carries it."""

import logging
import math
import sys
from types import ModuleType

import pytest
import torch
from torch import Tensor

from vitkiln.kernels import attention, class_attention, use
from vitkiln.kernels._shared import choice
from vitkiln.kernels.attention import backends, op, reference

LENGTHS = [1, 37, 50, 63, 64, 65, 197, 256]
GROUPS = [(2, 5), (3, 1), (0, 4), (1, 7)]


def sample(*shape: int, dtype=torch.float64) -> Tensor:
    return torch.randn(*shape, dtype=dtype, requires_grad=True)


def loop(qkv: Tensor, num_heads: int) -> Tensor:
    batch, length, width = qkv.shape[0], qkv.shape[1], qkv.shape[2] // 3
    out, step = torch.zeros(batch, length, width, dtype=qkv.dtype), width // num_heads
    for b in range(batch):
        for start in range(0, width, step):
            part = qkv[b, :, start : start + step], qkv[b, :, width + start : width + start + step]
            value = qkv[b, :, 2 * width + start : 2 * width + start + step]
            for n in range(length):
                weights = [math.exp(part[0][n] @ part[1][m] / math.sqrt(step)) for m in range(length)]
                mean = sum(w * v for w, v in zip(weights, value, strict=True)) / sum(weights)
                out[b, n, start : start + step] = mean
    return out


@pytest.mark.parametrize("implementation", ["reference", "torch"])
def test_means_what_a_loop_says(implementation, close):
    qkv = sample(2, 5, 3 * 6).detach()
    with use(implementation):
        close(attention(qkv, 2), loop(qkv, 2))


@pytest.mark.parametrize("length", LENGTHS)
def test_pytorchs_kernels_equal_the_reference_forward_and_backward(length, gradients, close):
    qkv = sample(2, length, 3 * 16)
    for actual, expected in zip(gradients(attention, qkv, 2), gradients(reference.attention, qkv, 2), strict=True):
        close(actual, expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_narrow_types_agree_with_float64(dtype, gradients, close):
    qkv = sample(2, 50, 3 * 32, dtype=dtype)
    wide = qkv.detach().double().requires_grad_()
    for name in ("reference", "torch"):
        with use(name):
            ours = gradients(attention, qkv, 2)
        for actual, expected in zip(ours, gradients(reference.attention, wide, 2), strict=True):
            close(actual, expected, dtype)


@pytest.mark.parametrize("implementation", ["reference", "torch"])
def test_groups_in_one_buffer_attend_as_apart(implementation, gradients, close):
    qkv = sample(sum(count * length for count, length in GROUPS), 3 * 8)

    def apart(qkv: Tensor) -> Tensor:
        parts = qkv.split([count * length for count, length in GROUPS])
        groups = [part.view(*shape, 24) for part, shape in zip(parts, GROUPS, strict=True)]
        return torch.cat([reference.attention(group, 2).flatten(0, 1) for group in groups])

    with use(implementation):
        ours = gradients(attention, qkv, 2, lengths=GROUPS)
    for actual, expected in zip(ours, gradients(apart, qkv), strict=True):
        close(actual, expected)


def test_gradients_are_the_derivatives():
    assert torch.autograd.gradcheck(lambda qkv: attention(qkv, 2, [(1, 3), (1, 2)]), (sample(5, 3 * 4),))


def test_a_shift_of_all_scores_changes_nothing(close):
    qkv = sample(1, 9, 3 * 4).detach()
    shifted = qkv.clone()
    shifted[..., 4:8] += 100.0  # of every key: each query's scores move together
    close(attention(shifted, 1), attention(qkv, 1))


@pytest.mark.parametrize("shape", [(0, 5, 24), (2, 0, 24)])
@pytest.mark.parametrize("implementation", ["reference", "torch"])
def test_nothing_gives_nothing(shape, implementation, gradients):
    with use(implementation):
        out, grad = gradients(attention, sample(*shape), 2)
    assert (out.shape, grad.shape) == ((*shape[:2], 8), shape)


def test_strides_and_expanded_gradients_do_not_matter(close):
    qkv = sample(2, 5, 24)
    turned = qkv.detach().permute(2, 1, 0).contiguous().permute(2, 1, 0).requires_grad_()
    attention(turned, 2).sum().backward()
    reference.attention(qkv, 2).sum().backward()
    close(turned.grad, qkv.grad)


def test_autocast_decides_the_type(close):
    qkv = sample(2, 5, 24, dtype=torch.float32).detach()
    with torch.autocast("cpu", torch.bfloat16):
        for name in ("reference", "torch"):
            with use(name):
                out = attention(qkv, 2)
                assert out.dtype == torch.bfloat16
                close(out, reference.attention(qkv.double(), 2))


@pytest.mark.parametrize("implementation", ["reference", "torch"])
def test_the_class_token_attends_as_among_all(implementation, gradients, close):
    qkv = sample(2, 50, 3 * 8)
    with use(implementation):
        ours = gradients(lambda qkv: class_attention(qkv[:, :1, :8], qkv[..., 8:], 2), qkv)
    for actual, expected in zip(ours, gradients(lambda qkv: attention(qkv, 2)[:, :1], qkv), strict=True):
        close(actual, expected)


@pytest.mark.parametrize("arguments", [((2, 5, 24), None), ((13, 24), [(2, 5), (1, 3)])])
def test_compiles_without_a_break(arguments, gradients, close):
    shape, lengths = arguments
    qkv = sample(*shape)
    compiled = torch.compile(attention, backend="aot_eager", fullgraph=True)
    for actual, expected in zip(
        gradients(compiled, qkv, 2, lengths=lengths), gradients(attention, qkv, 2, lengths=lengths), strict=True
    ):
        close(actual, expected)


def test_an_order_of_kernels_compiles_without_a_break(close):
    query = sample(2, 3, 5, 8)

    def ordered(query: Tensor) -> Tensor:
        return backends.product_by(backends.order((9, 0)), query, query, query)

    close(torch.compile(ordered, backend="aot_eager", fullgraph=True)(query), reference.weighted(query, query, query))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"qkv": torch.zeros(2, 24)}, r"qkv: float32 \[2, 24\] on cpu; must be .* \[B, N, 3\*D\]"),
        ({"qkv": torch.zeros(2, 5, 24, dtype=torch.int64)}, "qkv: int64"),
        ({"qkv": torch.zeros(2, 5, 25)}, r"qkv: .*\[2, 5, 25\].* as wide as 3 \* 2 heads, or a multiple"),
        ({"num_heads": 0}, "num_heads: 0; must be at least 1"),
        ({"lengths": [(1, 10)]}, r"qkv: .*\[2, 5, 24\].*\[T, 3\*D\]"),
        ({"qkv": torch.zeros(10, 24), "lengths": [(1, 9)]}, r"lengths: \[\(1, 9\)\]; must be groups of 10 tokens"),
        ({"qkv": torch.zeros(10, 24), "lengths": []}, r"lengths: \[\]; must be \(count, length\)"),
        ({"qkv": torch.zeros(10, 24), "lengths": [(-2, -5)]}, r"lengths: \[\(-2, -5\)\]; must be \(count, length\)"),
    ],
)
def test_bad_arguments_are_named(changes, message):
    with pytest.raises(ValueError, match=message):
        attention(**{"qkv": torch.zeros(2, 5, 24), "num_heads": 2} | changes)


@pytest.mark.parametrize(
    ("query", "key_value", "message"),
    [
        (torch.zeros(2, 1, 7), torch.zeros(2, 5, 14), r"query: .*as wide as 1 \* 2 heads"),
        (torch.zeros(2, 1, 8), torch.zeros(2, 5, 8), r"key_value: .*must be \[2, N, 16\]"),
        (torch.zeros(2, 1, 8), torch.zeros(3, 5, 16), r"key_value: .*must be \[2, N, 16\]"),
        (torch.zeros(2, 1, 8), torch.zeros(2, 5, 16, device="meta"), "key_value: .*must be on cpu, as query is"),
    ],
)
def test_bad_arguments_of_class_attention_are_named(query, key_value, message):
    with pytest.raises(ValueError, match=message):
        class_attention(query, key_value, 2)


@pytest.mark.parametrize(
    ("dtype", "head_width", "longest", "unavailable", "obstacle"),
    [
        (torch.bfloat16, 64, 256, None, None),
        (torch.float16, 16, 1, None, None),
        (torch.bfloat16, 64, 50, "Triton is not installed", "Triton is not installed"),
        (torch.float32, 64, 50, None, "the kernel multiplies 16-bit numbers, and qkv is float32"),
        (torch.bfloat16, 42, 50, None, "the kernel takes heads 16, 32 or 64 wide, not 42"),
        (torch.bfloat16, 64, 257, None, "the kernel takes up to 256 tokens, not 257"),
    ],
)
def test_the_rule_of_choice(dtype, head_width, longest, unavailable, obstacle):
    assert op.obstacle(dtype, head_width, longest, unavailable) == obstacle


@pytest.mark.parametrize(
    ("name", "device", "dtype", "obstacle"),
    [
        ("cudnn", "cpu", torch.bfloat16, "cudnn needs a CUDA device, not cpu"),
        ("cudnn", "cuda", torch.float32, "cudnn multiplies 16-bit numbers, and qkv is float32"),
        ("cudnn", "cuda", torch.bfloat16, None),
        ("flash", "cuda", torch.bfloat16, "the package flash_attn is not installed"),
    ],
)
def test_the_rule_for_kernels_of_others(name, device, dtype, obstacle, monkeypatch):
    monkeypatch.setattr(backends, "flash_installed", lambda: False)
    assert backends.obstacle(name, device, dtype) == obstacle


@pytest.mark.parametrize(
    ("wish", "dtype", "chosen"),
    [
        (None, torch.bfloat16, "triton"),
        (None, torch.float32, "torch"),
        ("torch", torch.bfloat16, "torch"),
        ("reference", torch.bfloat16, "reference"),
        ("cudnn", torch.bfloat16, "cudnn"),
        ("cudnn", torch.float32, "torch"),
    ],
)
def test_the_choice_on_a_gpu(wish, dtype, chosen, monkeypatch):
    monkeypatch.setattr(op, "triton_obstacle", lambda device: None)
    if wish is None:
        assert op.chosen("cuda", dtype, 64, 197) == chosen
        return
    with use(wish, "attention"):
        assert op.chosen("cuda", dtype, 64, 197) == chosen


def test_long_sequences_on_a_gpu_take_pytorchs_kernels_in_silence(monkeypatch, caplog):
    monkeypatch.setattr(op, "triton_obstacle", lambda device: None)
    choice._note_once.cache_clear()
    assert op.chosen("cuda", torch.bfloat16, 64, 577) == "torch"
    assert not caplog.records


@pytest.mark.parametrize("wish", ["triton", "cudnn", "flash"])
def test_a_kernel_asked_for_in_vain_is_logged_with_its_reason(wish, caplog):
    choice._note_once.cache_clear()
    with caplog.at_level(logging.WARNING), use(wish, "attention"):
        for _ in range(2):
            attention(torch.zeros(2, 5, 24), 2)
    name = wish.replace("triton", "Triton")
    said = [record.getMessage() for record in caplog.records]
    assert said == [f"attention: runs in plain PyTorch, because {name} needs a CUDA device, not cpu"]


def test_a_hopper_asks_cudnn_first_and_an_ampere_flash():
    assert [order[0].name for order in map(backends.order, [(9, 0), (8, 0), (8, 9)])] == [
        "CUDNN_ATTENTION",
        "FLASH_ATTENTION",
        "FLASH_ATTENTION",
    ]


def test_flash_attention_is_handed_the_packed_projections(monkeypatch, close):
    module = ModuleType("flash_attn")

    def qkvpacked(qkv: Tensor, deterministic: bool) -> Tensor:
        assert qkv.shape == (2, 5, 3, 2, 4)
        query, key, value = qkv.permute(2, 0, 3, 1, 4)
        return reference.weighted(query, key, value).transpose(1, 2)

    module.flash_attn_qkvpacked_func = qkvpacked
    monkeypatch.setitem(sys.modules, "flash_attn", module)
    monkeypatch.setattr(backends, "obstacle", lambda *_: None)
    qkv = sample(10, 24)
    with use("flash", "attention"):
        close(attention(qkv, 2, [(2, 5)]).view(2, 5, 8), reference.attention(qkv.view(2, 5, 24), 2))

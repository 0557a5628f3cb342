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
    ("dtype", "head_width", "longest", "unavailable", "asked", "obstacle"),
    [
        (torch.bfloat16, 64, 256, None, False, None),
        (torch.float16, 16, 1, None, False, None),
        (torch.bfloat16, 64, 50, "Triton is not installed", True, "Triton is not installed"),
        (torch.float32, 64, 50, None, False, "in fp32 PyTorch's kernels are taken unless ours is asked for"),
        (torch.float32, 64, 64, None, True, None),
        (torch.float32, 64, 65, None, True, "the kernel takes up to 64 tokens in float32, not 65"),
        (torch.float64, 64, 50, None, True, "the kernel adds in fp32, and qkv is float64"),
        (torch.bfloat16, 42, 50, None, False, "the kernel takes heads 16, 32 or 64 wide, not 42"),
        (torch.bfloat16, 64, 257, None, False, "the kernel takes up to 256 tokens in bfloat16, not 257"),
    ],
)
def test_the_rule_of_choice(dtype, head_width, longest, unavailable, asked, obstacle):
    assert op.obstacle(dtype, head_width, longest, unavailable, asked) == obstacle


@pytest.mark.parametrize(
    ("name", "device", "dtype", "width", "capability", "obstacle"),
    [
        ("cudnn", "cpu", torch.bfloat16, 64, (9, 0), "cudnn needs a CUDA device, not cpu"),
        ("cudnn", "cuda", torch.float32, 64, (9, 0), "cudnn multiplies 16-bit numbers, and qkv is float32"),
        ("cudnn", "cuda", torch.bfloat16, 42, (8, 0), None),
        ("flash", "cuda", torch.bfloat16, 64, (8, 0), None),
        ("flash3", "cuda", torch.float16, 256, (9, 0), None),
        ("flash3", "cuda", torch.float16, 264, (9, 0), "flash3 takes heads of a multiple of 8 up to 256, not 264"),
        ("flash3", "cuda", torch.float16, 64, (8, 0), "flash3 needs a GPU of compute capability 9.0, not 8.0"),
        ("flash4", "cuda", torch.float16, 128, (10, 0), None),
        ("flash4", "cuda", torch.float16, 42, (9, 0), "flash4 takes heads of a multiple of 8 up to 128, not 42"),
        ("flash4", "cuda", torch.float16, 64, (8, 0), "flash4 needs a GPU of compute capability 9.0 or 10.0, not 8.0"),
    ],
)
def test_the_rule_for_kernels_of_others(name, device, dtype, width, capability, obstacle, monkeypatch):
    monkeypatch.setattr(backends, "installed", lambda module: True)
    monkeypatch.setattr(backends, "capability", lambda: capability)
    assert backends.obstacle(name, device, dtype, width) == obstacle


@pytest.mark.parametrize(
    ("name", "module", "how"),
    [
        ("flash", "flash_attn.flash_attn_interface", "pip install flash-attn --no-build-isolation"),
        ("flash3", "flash_attn_interface", "built from the folder hopper of flash-attention"),
        ("flash4", "flash_attn.cute.interface", "pip install --pre flash-attn-4"),
    ],
)
def test_what_is_not_installed_is_named_with_how_to_install_it(name, module, how, monkeypatch):
    monkeypatch.setattr(backends, "installed", lambda wanted: wanted != module)
    said = f"{name} needs the module {module}, which is not installed ({how})"
    assert backends.obstacle(name, "cuda", torch.bfloat16) == said


@pytest.mark.parametrize(
    ("files", "found"),
    [
        ([], []),
        (["flash_attn/__init__.py", "flash_attn/flash_attn_interface.py"], ["flash"]),
        (["flash_attn/cute/interface.py"], ["flash4"]),
        (["flash_attn_interface.py"], ["flash3"]),
    ],
)
def test_generations_are_told_apart_without_importing_any(files, found, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(tmp_path))
    for file in files:
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).write_text("raise RuntimeError('imported')")
    others = {name: needs.module for name, needs in backends.OTHERS.items() if needs.module}
    assert [name for name, module in others.items() if backends.installed(module)] == found


@pytest.mark.parametrize(
    ("wish", "dtype", "chosen"),
    [
        (None, torch.bfloat16, "triton"),
        (None, torch.float32, "torch"),
        ("triton", torch.float32, "torch"),  # 197 tokens are too many for it in fp32
        ("torch", torch.bfloat16, "torch"),
        ("reference", torch.bfloat16, "reference"),
        ("cudnn", torch.bfloat16, "cudnn"),
        ("cudnn", torch.float32, "torch"),
        ("flash3", torch.bfloat16, "flash3"),
        ("flash4", torch.bfloat16, "flash4"),
        ("flash4", torch.float32, "torch"),
    ],
)
def test_the_choice_on_a_gpu(wish, dtype, chosen, monkeypatch):
    monkeypatch.setattr(op, "triton_obstacle", lambda device: None)
    monkeypatch.setattr(backends, "installed", lambda module: True)
    monkeypatch.setattr(backends, "capability", lambda: (9, 0))
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


@pytest.mark.parametrize("wish", ["triton", "cudnn", "flash", "flash3", "flash4"])
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


@pytest.mark.parametrize(("name", "holder"), [("flash", "flash_attn"), ("flash3", "flash_attn_interface")])
def test_flash_attention_is_handed_the_packed_projections(name, holder, monkeypatch, gradients, close):
    module = ModuleType(holder)

    def qkvpacked(qkv: Tensor, deterministic: bool) -> Tensor:
        assert qkv.shape[2:] == (3, 2, 4)
        query, key, value = qkv.permute(2, 0, 3, 1, 4)
        return reference.weighted(query, key, value).transpose(1, 2)

    module.flash_attn_qkvpacked_func = qkvpacked
    monkeypatch.setitem(sys.modules, holder, module)
    agrees(name, attention, monkeypatch, gradients, close)


@pytest.fixture
def cute(monkeypatch):
    """Functions with the signatures of flash_attn.cute.interface, for [B, N, H, d]; returns what they were told."""
    told: list[dict[str, object]] = []

    def _flash_attn_fwd(q, k, v, *, softmax_scale, causal, return_lse):
        told.append({"scale": softmax_scale, "causal": causal, "lse": return_lse, "strides": q.stride()})
        q, k, v = (t.transpose(1, 2) for t in (q, k, v))
        score = q @ k.mT * softmax_scale
        return (score.softmax(-1) @ v).transpose(1, 2), score.logsumexp(-1).float()

    def _flash_attn_bwd(q, k, v, out, dout, lse, *, softmax_scale, causal, deterministic):
        told.append({"scale": softmax_scale, "causal": causal, "deterministic": deterministic, "lse": lse.shape})
        q, k, v, out, dout = (t.transpose(1, 2) for t in (q, k, v, out, dout))
        weight = (q @ k.mT * softmax_scale - lse[..., None]).exp()
        score_grad = weight * (dout @ v.mT - (dout * out).sum(-1, keepdim=True)) * softmax_scale
        return tuple(t.transpose(1, 2) for t in (score_grad @ k, score_grad.mT @ q, weight.mT @ dout))

    for name in ("flash_attn", "flash_attn.cute", "flash_attn.cute.interface"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    sys.modules[name]._flash_attn_fwd = _flash_attn_fwd
    sys.modules[name]._flash_attn_bwd = _flash_attn_bwd
    return told


@pytest.mark.parametrize("function", [attention, torch.compile(attention, backend="aot_eager", fullgraph=True)])
def test_flash_attention_4_is_handed_the_parts_and_gives_a_packed_gradient(
    function, cute, monkeypatch, gradients, close
):
    agrees("flash4", function, monkeypatch, gradients, close)
    assert cute == [  # the rows of a packed projection are as far apart as they lie
        {"scale": 0.5, "causal": False, "lse": True, "strides": (72, 24, 4, 1)},
        {"scale": 0.5, "causal": False, "lse": True, "strides": (96, 24, 4, 1)},
        {"scale": 0.5, "causal": False, "deterministic": False, "lse": (1, 2, 4)},
        {"scale": 0.5, "causal": False, "deterministic": False, "lse": (2, 2, 3)},
    ]


def agrees(name, function, monkeypatch, gradients, close):
    """With two groups of sequences in one buffer, in fp32, forward and backward."""
    monkeypatch.setattr(backends, "obstacle", lambda *_: None)
    qkv = sample(10, 24, dtype=torch.float32)
    with use(name, "attention"):
        ours = gradients(function, qkv, 2, lengths=[(2, 3), (1, 4)])
    for actual, expected in zip(ours, gradients(reference.attention, qkv, 2, lengths=[(2, 3), (1, 4)]), strict=True):
        close(actual, expected)


def test_flash_attention_4_is_told_to_be_deterministic_where_everything_is(cute, monkeypatch, gradients, close):
    torch.use_deterministic_algorithms(True)
    try:
        agrees("flash4", attention, monkeypatch, gradients, close)
    finally:
        torch.use_deterministic_algorithms(False)
    assert [said["deterministic"] for said in cute[2:]] == [True, True]

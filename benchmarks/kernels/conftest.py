"""What every benchmark of an operator shares: shapes of real recipes, who computes, and what is timed.

pytest benchmarks/kernels [--benchmark-json FILE]. On a GPU: the reference, the reference compiled, and ours; on a CPU
the two references, at a small batch. An operator whose tests fail is not measured.
"""

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from vitkiln.kernels import sample_tokens, use

ROOT = Path(__file__).parents[2]
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
BATCH, DTYPE = (1024, torch.bfloat16) if DEVICE == "cuda" else (16, torch.float32)
WIDTHS = {"vit_small": 384, "vit_base": 768}
PROVIDERS = ["reference", "compiled reference", *(["ours"] if DEVICE == "cuda" else [])]


@pytest.fixture(scope="module", autouse=True)
def _tests_pass(request: pytest.FixtureRequest) -> None:
    test = ROOT / "tests" / "kernels" / request.path.name
    ran = subprocess.run([sys.executable, "-m", "pytest", "-q", "-x", str(test)], cwd=ROOT, capture_output=True)
    if ran.returncode:
        pytest.fail(f"{test.name} is red: no speed is worth measuring")


@pytest.fixture(params=WIDTHS)
def setup(request: pytest.FixtureRequest) -> SimpleNamespace:
    """Everything one step of DILEMMA hands to the operators: 224 px, patches of 16, a quarter of them kept."""
    width, seed, ids = WIDTHS[request.param], torch.tensor([0, 0], device=DEVICE), torch.arange(BATCH, device=DEVICE)
    keep, place, wrong, _ = sample_tokens(seed, ids, 196, 49, 0.2)
    parameter = {"device": DEVICE, "dtype": torch.float32, "requires_grad": True}
    return SimpleNamespace(
        seed=seed,
        ids=ids,
        keep=keep,
        place=place,
        wrong=wrong,
        images=torch.randint(0, 256, (BATCH, 224, 224, 3), dtype=torch.uint8, device=DEVICE),
        weight=torch.randn(width, 3, 16, 16, **parameter),
        bias=torch.randn(width, **parameter),
        position=torch.randn(196, width, **parameter),
        cls_token=torch.randn(1, width, **parameter),
        dense=torch.randn(BATCH, 196, width, device=DEVICE, dtype=DTYPE, requires_grad=True),
        tokens=torch.randn(BATCH, 49, width, device=DEVICE, dtype=DTYPE, requires_grad=True),
        query=torch.randn(BATCH, 256, device=DEVICE, dtype=DTYPE, requires_grad=True),
        key=torch.randn(8 * BATCH, 256, device=DEVICE, dtype=DTYPE),
    )


@pytest.fixture(params=PROVIDERS)
def provider(request: pytest.FixtureRequest) -> Iterator[Callable[[Callable], Callable]]:
    """Turns a function that calls an operator into what is timed."""
    if request.param == "ours":
        yield lambda function: function
        return
    with use("reference"):
        yield torch.compile if request.param.startswith("compiled") else lambda function: function
    torch.compiler.reset()


@pytest.fixture
def timed(request: pytest.FixtureRequest, benchmark: Any, provider: Callable) -> Callable[..., None]:
    """Time a function of tensors, forward and, where its result has a gradient, backward too; bytes as extra info."""

    def measure(function: Callable[..., Tensor], *arguments: Tensor, moved: int = 0) -> None:
        function = provider(function)
        leaves = [a for a in arguments if isinstance(a, Tensor) and a.requires_grad]
        upstream = torch.randn_like(function(*arguments)) if leaves else None

        def once() -> None:
            out = function(*arguments)
            if leaves:
                torch.autograd.grad(out, leaves, upstream)
            if DEVICE == "cuda":
                torch.cuda.synchronize()

        benchmark.group = f"{request.path.stem} {request.node.originalname}"
        benchmark.extra_info.update(device=device_name(), torch=torch.__version__, bytes=moved, batch=BATCH)
        benchmark.pedantic(once, rounds=20, warmup_rounds=10 if DEVICE == "cuda" else 2)

    return measure


def device_name() -> str:
    """What the numbers belong to."""
    return torch.cuda.get_device_name() if DEVICE == "cuda" else "cpu"

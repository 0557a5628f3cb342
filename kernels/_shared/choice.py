"""Which implementation an operator runs: the best that can, unless somebody asked for another."""

import logging
import os
import pkgutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from difflib import get_close_matches
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeVar

import torch

Function = TypeVar("Function", bound=Callable[..., Any])
IMPLEMENTATIONS = ("reference", "torch", "triton", "cudnn", "flash", "flash3", "flash4")
log = logging.getLogger(__name__)
_forced: ContextVar[MappingProxyType[str, str]] = ContextVar("forced", default=MappingProxyType({}))


@contextmanager
def use(implementation: str, *operators: str) -> Iterator[None]:
    """Force an implementation while the block runs, for every operator or for those that are named.

    `reference` is plain PyTorch under autograd, the meaning of the operator; `torch` the same with a backward
    pass written by hand, what a CPU runs; `triton` the fused kernel. `attention` has kernels of others too:
    PyTorch's own behind `torch`, those of `cudnn` alone, and `flash`, `flash3` and `flash4`, FlashAttention 2,
    3 and 4 where they are installed. An operator that has not got what is asked for, or cannot use it for its
    arguments, takes the next best and logs the reason once. Operators are named by their room. The wish belongs
    to this thread or task; a backward pass does what its forward pass did, and compiled code what was asked for
    while it was traced. ValueError for a name that does not exist.

    >>> with use("reference", "place_tokens"):
    ...     forced("place_tokens")
    'reference'
    """
    wishes = dict.fromkeys([_known("operators", name, rooms()) for name in operators] or rooms())
    name = _known("implementation", implementation, IMPLEMENTATIONS)
    token = _forced.set(MappingProxyType({**_forced.get(), **dict.fromkeys(wishes, name)}))
    try:
        yield
    finally:
        _forced.reset(token)


def constant(function: Function) -> Function:
    """Let Dynamo call this once while it traces, which it cannot do for context variables by itself.

    It is what torch.compiler.assume_constant_result does, without importing the compiler to say so.
    """
    function._dynamo_marked_constant = True  # type: ignore[attr-defined]
    return function


@constant
def forced(operator: str) -> str | None:
    """What `use` asks for here, or None."""
    return _forced.get().get(operator)


def choose(operator: str, obstacle: str | None, expected: bool) -> str:
    """What to run, given what keeps the Triton kernel from running and whether it was to be expected."""
    wish = forced(operator)
    if wish in ("reference", "torch"):
        return wish
    if obstacle is None:
        return "triton"
    if wish == "triton" or expected:
        note(operator, obstacle)
    return "torch"


@constant
def triton_obstacle(device_type: str) -> str | None:
    """Why no Triton kernel can run on this kind of device, or None. TRITON_INTERPRET=1 lets a CPU run them.

    >>> triton_obstacle("meta")
    'Triton needs a CUDA device, not meta'
    """
    interpreted = os.environ.get("TRITON_INTERPRET") == "1"
    if device_type != "cuda" and not (interpreted and device_type == "cpu"):
        return f"Triton needs a CUDA device, not {device_type}"
    if find_spec("triton") is None:
        return "Triton is not installed"
    if not interpreted and torch.cuda.get_device_capability() < (8, 0):
        return "the GPU is older than compute capability 8.0"
    return None


@constant
def note(operator: str, obstacle: str) -> bool:
    _note_once(operator, obstacle)
    return True


@cache
def _note_once(operator: str, obstacle: str) -> None:
    log.warning("%s: runs in plain PyTorch, because %s", operator, obstacle)


@cache
def rooms() -> tuple[str, ...]:
    found = pkgutil.iter_modules([str(Path(__file__).parents[1])])
    return tuple(sorted(module.name for module in found if module.ispkg and not module.name.startswith("_")))


def _known(argument: str, name: str, names: tuple[str, ...]) -> str:
    if name in names:
        return name
    nearest = get_close_matches(name, names, 1, 0.4)
    hint = f"; did you mean {nearest[0]!r}?" if nearest else ""
    raise ValueError(f"{argument}: {name!r}; must be one of {', '.join(names)}{hint}")

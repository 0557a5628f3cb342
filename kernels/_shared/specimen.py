"""A Triton kernel with the types and sizes of a real launch, to be compiled and judged without a GPU."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Specimen:
    """One kernel, ready to compile; a room lists its own in `specimens()`, in `kernel.py` or in `specimens.py`."""

    name: str
    kernel: Any  # what triton.jit made
    arguments: Mapping[str, str]  # the types of those that are no constants, as "*bf16" or "i32"
    constants: Mapping[str, Any]
    options: Mapping[str, int]  # num_warps, num_stages
    odd: tuple[str, ...] = ()  # arguments that are not multiples of 16
    tensor_cores: bool = False  # must use them
    wide_loads: bool = True  # must read 128 bits at once

"""What is compiled ahead of time: each use of the kernels, for rows of 128 and of 256."""

from typing import Any

import torch

from .._shared.specimen import Specimen
from . import kernel
from .launch import forward_tile, gradient_tile, merge_tile

TYPES = {"bf16": torch.bfloat16, "fp32": torch.float32}
UNIT_LENGTH = ("query_scale_ptr", "key_scale_ptr", "row_scale_ptr", "other_scale_ptr", "weight_ptr", "raw_scale_ptr")
ODD = ("positive", "without", "scale", "segments", "inverse_temperature", "shortest")


def specimens() -> list[Specimen]:
    """InfoNCE with and without a gradient of keys, a side of NT-Xent, SupCon, and n-pair, whose rows are plain."""
    found = []
    for kind in TYPES:
        for width in (128, 256) if kind == "bf16" else (128,):
            found += [_forward(kind, width, *form) for form in FORMS]
            found += [_gradient(kind, width, *form) for form in GRADIENTS]
        found += [_merge(kind, *form) for form in FORMS[:3]]
        found += [_gradient_merge(kind), _lengths(kind)]
    return found


FORMS: list[tuple[str, bool, tuple[str, ...]]] = [
    ("detached keys", True, ("without",)),
    ("two views", False, ()),
    ("classes", False, ("positive",)),
    ("plain rows", False, ("without", *UNIT_LENGTH)),
]
GRADIENTS: list[tuple[str, bool, tuple[str, ...]]] = [
    ("queries of two views", False, ()),
    ("keys of two views", True, ()),
    ("queries of plain rows", False, ("without", *UNIT_LENGTH)),
]


def _specimen(
    name: str,
    function: Any,
    kind: str,
    tile: dict[str, Any],
    absent: tuple[str, ...],
    products: bool,
    wide: bool = True,
) -> Specimen:
    """Pointers to rows are of the kind, all others fp32; what is absent is compiled away."""
    tile = {size: number for size, number in tile.items() if size != "enable_fp_fusion"}
    options: dict[str, int] = {option: tile.pop(option) for option in ("num_warps", "num_stages") if option in tile}
    names = [argument for argument in function.arg_names if argument not in tile]
    arguments = {argument: _type(argument, kind) for argument in names if argument not in absent}
    constants = {**tile, **{argument: None for argument in names if argument in absent}}
    odd = tuple(argument for argument in ODD if argument in arguments)
    return Specimen(f"contrastive {name}", function, arguments, constants, options, odd, products, wide)


def _type(argument: str, kind: str) -> str:
    if argument in ("query_ptr", "key_ptr", "row_ptr", "other_ptr", "raw_ptr"):
        return f"*{kind}"
    if argument.endswith("_ptr"):
        return "*fp32"
    return "fp32" if argument in ("scale", "inverse_temperature", "shortest") else "i32"


def _forward(kind: str, width: int, name: str, ready: bool, absent: tuple[str, ...]) -> Specimen:
    tile = {**forward_tile(TYPES[kind], width, ready), "WIDEN": False}
    absent = absent if ready else (*absent, "value_ptr")
    return _specimen(f"forward {name} {kind} {width}", kernel.contrastive_forward, kind, tile, absent, True)


def _gradient(kind: str, width: int, name: str, of_keys: bool, absent: tuple[str, ...]) -> Specimen:
    tile = {**gradient_tile(TYPES[kind], width), "WIDEN": False, "OF_KEYS": of_keys}
    return _specimen(f"gradient {name} {kind} {width}", kernel.contrastive_gradient, kind, tile, absent, True)


def _merge(kind: str, name: str, ready: bool, absent: tuple[str, ...]) -> Specimen:
    absent = absent if ready else (*absent, "value_ptr", "to_query_ptr")
    rows_are_read = name != "classes"
    return _specimen(
        f"merge {name} {kind}", kernel.contrastive_merge, kind, merge_tile(256), absent, False, rows_are_read
    )


def _gradient_merge(kind: str) -> Specimen:
    return _specimen(f"merge gradient {kind}", kernel.contrastive_gradient_merge, kind, merge_tile(256), (), False)


def _lengths(kind: str) -> Specimen:
    return _specimen(f"lengths {kind}", kernel.inverse_lengths, kind, merge_tile(256), (), False)

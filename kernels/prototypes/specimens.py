"""The Triton kernels as they are launched for a head of DINO, to be compiled and judged without a GPU."""

from typing import Any

import torch
import triton

from .._shared.partial_sums import specimen as specimen_of_sum
from .._shared.specimen import Specimen
from .kernel import prototypes_join, prototypes_softmax, prototypes_to_weight
from .launch import join_tile, softmax_tile, to_weight_tile


def specimens() -> list[Specimen]:
    """256 features: a student, a teacher with prototypes of its own, and the gradient of the student's prototypes."""
    found = [specimen_of_sum("prototypes sum_parts")]
    for kind, dtype in (("bf16", torch.bfloat16), ("fp32", torch.float32)):
        tile = softmax_tile(dtype, 256)
        alone = {"value_ptr": None, "center_ptr": None}
        found += [specimen("softmax student", prototypes_softmax, kind, tile, alone)]
        found += [specimen("softmax teacher", prototypes_softmax, kind, tile, {})]
        found += [specimen("to_weight", prototypes_to_weight, kind, to_weight_tile(dtype, 256), {})]
        found += [specimen("join student", prototypes_join, kind, join_tile(256), {})]
    absent = dict.fromkeys(("rows_ptr", "targets_ptr", "losses_ptr"))
    return [*found, specimen("join teacher", prototypes_join, "fp32", join_tile(256), absent)]


def specimen(
    name: str, kernel: triton.JITFunction, kind: str, tile: dict[str, Any], absent: dict[str, None]
) -> Specimen:
    """Features and prototypes are of the kind, all else is fp32."""
    tile = {**tile, "FEATURES": 256} | ({} if kernel is prototypes_join else {"WIDEN": False})
    options: dict[str, int] = {name: tile.pop(name) for name in ("num_warps", "num_stages") if name in tile}
    features = ("rows_ptr", "key_ptr", "value_ptr", "student_ptr", "teacher_ptr", "weight_ptr", "teacher_weight_ptr")
    types = dict.fromkeys(features, f"*{kind}")
    given = [argument for argument in kernel.arg_names if argument not in tile and argument not in absent]
    arguments = {a: types.get(a, "*fp32" if a.endswith("_ptr") else "i32") for a in given}
    odd = tuple(argument for argument in given if not argument.endswith("_ptr") and argument != "per_segment")
    cores = kernel is not prototypes_join
    return Specimen(
        f"prototypes {name} {kind}", kernel, arguments, {**tile, **absent}, options, odd=odd, tensor_cores=cores
    )

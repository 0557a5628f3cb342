"""What is compiled ahead of time: the kernels for every kind of image, and for patches of other sizes than 16."""

import torch
import triton

from .._shared.specimen import Specimen
from .kernel import embed_patches, fold_weight, forward_tile, multiply_patches, unfold_weight, weight_tile

TYPES = {"bf16": torch.bfloat16, "fp32": torch.float32}
SCALARS = dict.fromkeys(("factor", "centre"), "fp32")
SCALES = dict.fromkeys(("s0", "s1", "s2", "r0", "r1", "r2"), "fp32")
OFFSETS = dict.fromkeys(("o0", "o1", "o2"), "fp32")


def specimens() -> list[Specimen]:
    """Images of a width that is a multiple of 16 patches, and any D that is a multiple of 16; mostly patches of 16."""
    forms = [
        ("bf16 of u8 pixels", "bf16", "u8", 16, 1),
        ("bf16 of u8 planes", "bf16", "u8", 16, 3),
        ("bf16 of fp32 planes", "bf16", "fp32", 16, 3),
        ("fp32 of u8 pixels", "fp32", "u8", 16, 1),
        ("fp32 of u8 planes", "fp32", "u8", 16, 3),
        ("fp32 of fp32 planes", "fp32", "fp32", 16, 3),
        *((f"bf16 of u8 pixels, patches of {size}", "bf16", "u8", size, 1) for size in (4, 8, 14, 32)),
        *((f"bf16 of u8 planes, patches of {size}", "bf16", "u8", size, 3) for size in (14,)),
    ]
    found = [make(*form) for form in forms for make in (forward_specimen, weight_specimen)]
    return [*found, *(make(size) for size in (16, 32) for make in (fold_specimen, unfold_specimen))]


def fold_specimen(size: int) -> Specimen:
    """A weight in fp32 for patches of so many pixels a side."""
    values = 3 * size**2
    form = {"SIZE": size, "PLANES": 1, "STRIDE": values, "VALUES": triton.next_power_of_2(values)}
    pointers = {"weight_ptr": "*fp32", "bias_ptr": "*fp32", "matrix_ptr": "*bf16", "shift_ptr": "*fp32"}
    return Specimen(
        f"patch_embed fold_weight {size}",
        fold_weight,
        {**pointers, **SCALES, **OFFSETS},
        form,
        {"num_warps": 4},
        odd=(*SCALES, *OFFSETS),
        wide_loads=False,
    )


def unfold_specimen(size: int) -> Specimen:
    """As fold_specimen."""
    pointers = {"parts_ptr": "*fp32", "sums_ptr": "*fp32", "out_ptr": "*fp32", "parts": "i32", "width": "i32"}
    return Specimen(
        f"patch_embed unfold_weight {size}",
        unfold_weight,
        {**pointers, **SCALES},
        {"SIZE": size, "PLANES": 1, "VALUES": triton.next_power_of_2(3 * size**2)},
        {"num_warps": 4},
        odd=("parts", *SCALES),
    )


def forward_specimen(name: str, kind: str, pixel: str, size: int, planes: int) -> Specimen:
    """`kind` is the type of the product, `pixel` that of the images."""
    tile = forward_tile(384, TYPES[kind])
    options = {option: tile.pop(option) for option in ("num_warps", "num_stages")}
    stride = triton.cdiv(3 * size**2, tile["DEPTH"]) * tile["DEPTH"]
    pointers = {"pixels_ptr": f"*{pixel}", "matrix_ptr": f"*{kind}", "out_ptr": f"*{kind}"}
    pointers |= dict.fromkeys(("shift_ptr", "position_ptr", "prefix_ptr"), "*fp32")
    pointers |= dict.fromkeys(("keep_ptr", "place_ptr"), "*i64")
    sizes = dict.fromkeys(("batch", "kept", "prefix", "patches", "columns", "width"), "i32")
    return Specimen(
        f"patch_embed forward {name}",
        embed_patches,
        {**pointers, **sizes, **SCALARS},
        {"SIZE": size, "PLANES": planes, **tile, "STRIDE": stride, "WIDEN": False},
        options,
        odd=("batch", "kept", "prefix", "patches", "columns", *SCALARS),
        tensor_cores=True,
    )


def weight_specimen(name: str, kind: str, pixel: str, size: int, planes: int) -> Specimen:
    """As forward."""
    tile = weight_tile(384, TYPES[kind])
    options = {option: tile.pop(option) for option in ("num_warps", "num_stages")}
    pointers = {"tokens_ptr": f"*{kind}", "pixels_ptr": f"*{pixel}", "keep_ptr": "*i64", "out_ptr": "*fp32"}
    sizes = dict.fromkeys(("rows", "kept", "image_stride", "patches", "columns", "width", "rows_per_part"), "i32")
    return Specimen(
        f"patch_embed to_weight {name}",
        multiply_patches,
        {**pointers, **sizes, **SCALARS},
        {"SIZE": size, "PLANES": planes, **tile, "WIDEN": False},
        options,
        odd=("rows", "kept", "patches", "columns", "rows_per_part", *SCALARS),
        tensor_cores=True,
    )

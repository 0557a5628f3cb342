"""What the GPU can do at best: the rate of a copy, and of matrix products at the shapes of ViT-S and ViT-B."""

from collections.abc import Iterator

import torch

from .work import Place, Work, plain

SHAPES = [(384, 1152), (384, 384), (384, 1536), (1536, 384), (768, 2304), (768, 768), (768, 3072), (3072, 768)]
TOKENS = [12_800, 51_200, 201_728]  # 256 and 1,024 images at 50 tokens, 1,024 at 197


def works(place: Place) -> Iterator[Work]:
    """The two ceilings, then the products of a linear layer forward, to its input and to its weight."""
    yield copy(place)
    side = place.size(8192, 16)
    yield product(place, "matmul", side, side, side)
    for width, out in SHAPES[: place.size(8, 1)]:
        for tokens in TOKENS:
            rows = place.size(tokens, 24)
            yield product(place, "linear forward", rows, width, out)
            yield product(place, "linear to input", rows, out, width)
            yield product(place, "linear to weight", out, rows, width)


def copy(place: Place) -> Work:
    """Read and written bytes count."""
    size = place.size(1 << 31, 1 << 10)

    def buffers() -> tuple[torch.Tensor, ...]:
        made = torch.randint(0, 256, (size,), dtype=torch.uint8, device=place.device)
        return made, torch.empty_like(made)

    provider = plain(lambda source, target: target.copy_(source))
    return Work("copy", "forward", {"bytes": size}, buffers, {"torch": provider}, moved=2 * size)


def product(place: Place, name: str, rows: int, inner: int, columns: int) -> Work:
    """[rows, inner] by [inner, columns]; to the weight, both factors are read along their rows."""

    def factors() -> tuple[torch.Tensor, ...]:
        if name == "linear to weight":
            return place.random(inner, rows).T, place.random(inner, columns)
        transposed = name == "linear forward"
        return place.random(rows, inner), place.random(columns, inner).T if transposed else place.random(inner, columns)

    moved = 2 * (rows * inner + inner * columns + rows * columns)
    shape = {"M": rows, "K": inner, "N": columns}
    flops = 2 * rows * inner * columns
    return Work(name, "forward", shape, factors, {"torch": plain(torch.matmul)}, moved=moved, flops=flops)

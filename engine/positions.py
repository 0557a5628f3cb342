"""Tables that tell a patch where it is: the fixed sin-cos table, and any table on another grid."""

import torch
import torch.nn.functional as F
from torch import Tensor

Grid = tuple[int, int]


def sincos(grid: Grid, width: int) -> Tensor:
    """Four blocks of width/4: sin and cos of the row, then of the column, at 10000^(-4j/width).

    The fixed table of MoCo v3 (arXiv:2104.02057), row axis first. grid (rows, columns) -> [rows * columns, width];
    every row has squared norm width/2.

    >>> sincos((2, 2), 4).round(decimals=2).tolist()[3]
    [0.8399999737739563, 0.5400000214576721, 0.8399999737739563, 0.5400000214576721]
    """
    if width % 4:
        raise ValueError(f"width: {width}; a sin-cos table needs a multiple of 4")
    quarter = width // 4
    omega = 10000.0 ** (-torch.arange(quarter, dtype=torch.float64) / quarter)
    rows, columns = torch.meshgrid(*(torch.arange(n, dtype=torch.float64) for n in grid), indexing="ij")
    angles = [axis.flatten()[:, None] * omega for axis in (rows, columns)]
    return torch.cat([f(angle) for angle in angles for f in (torch.sin, torch.cos)], 1).float()


def resample(table: Tensor, old: Grid, new: Grid, kind: str = "learned", method: str = "timm") -> Tensor:
    """A position table [P, D] for another grid: a sin-cos table is made anew, a learned one is interpolated.

    Methods are the three in official use, all bicubic: `timm` with antialias, `mae` without, `dino` with its scale
    computed from new + 0.1.
    """
    if kind == "sincos":
        return sincos(new, table.shape[1]).to(table)
    image = table.view(1, *old, -1).permute(0, 3, 1, 2).float()
    if method == "dino":
        scale = tuple((n + 0.1) / o for n, o in zip(new, old, strict=True))
        image = F.interpolate(image, scale_factor=scale, mode="bicubic")
    else:
        image = F.interpolate(image, size=new, mode="bicubic", antialias=method == "timm")
    return image.flatten(2)[0].T.to(table.dtype)

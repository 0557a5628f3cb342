"""The fractal operators: what may be asked, and whether C++, CUDA or the reference answers."""

from collections.abc import Sequence
from functools import cache
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from .._shared.checks import refusal
from .._shared.choice import forced
from .._shared.native import native
from .._shared.registration import NAMESPACE
from . import reference, search
from .arguments import check_bits, check_formulas, check_look, check_seeds, check_state

TRAJECTORY = 100  # the published seed of every picture's path


class Support(NamedTuple):
    """Where the points of formulas lie: what pictures are drawn from again and again."""

    bits: Tensor
    lit: Tensor
    finite: Tensor


class Candidates(NamedTuple):
    """Formulas that a search went through, in order, and the state of the generator behind them."""

    maps: Tensor
    probabilities: Tensor
    counts: Tensor
    lit: Tensor
    finite: Tensor
    state: Tensor


def stacked(formulas: Sequence[tuple[ArrayLike, ArrayLike]]) -> tuple[Tensor, Tensor]:
    """Formulas of different lengths as maps float64 [N, K, 6] and probabilities float64 [N, K], filled up with zeros.

    >>> maps, probabilities = stacked([([[0.5, 0, 0, 0.5, 0, 0]], [1.0]), ([[1, 0, 0, 1, 0, 0]] * 2, [0.25, 0.75])])
    >>> tuple(maps.shape), probabilities.tolist()
    ((2, 2, 6), [[1.0, 0.0], [0.25, 0.75]])
    """
    pairs = [(np.asarray(maps, np.float64), np.asarray(chances, np.float64)) for maps, chances in formulas]
    most = max((len(maps) for maps, _ in pairs), default=1)
    maps, probabilities = np.zeros((len(pairs), most, 6)), np.zeros((len(pairs), most))
    for row, (table, chances) in enumerate(pairs):
        maps[row, : len(table)] = table
        probabilities[row, : len(chances)] = chances
    return torch.from_numpy(maps), torch.from_numpy(probabilities)


def fractal_support(
    maps: Tensor,
    probabilities: Tensor,
    weights: Tensor,
    size: int = 362,
    points: int = 200_000,
    style: str = "patch_gray",
) -> Support:
    """p_0 = 0, p_{i+1} = M_j p_i with j the first map whose running sum of probabilities reaches u_i

    maps float64 [N, K, 6] of (a, b, c, d, e, f) for (x, y) -> (a x + b y + e, c x + d y + f), multiplied by weights
    float64 [N, 6]; probabilities float64 [N, K]; u the published numbers (the legacy generator seeded with 100), the
    same for every picture. Either axis is stretched to size - 12 pixels behind a margin of 6, truncated, and the
    picture turned upside down. Points from 100 before the first that is not a number on are left out, as published.

    bits uint8 [N, B]: for gray styles a bit for each pixel, bit i % 8 of byte i // 8 for pixel i in rows, 1 where a
    point (or for patches the 3 x 3 pixels right of and, before turning, below it) lies; for colour a byte, 0 or 1 +
    the last such point modulo 128. lit int64 [N]: pixels that hold a point. finite bool [N]: whether all points are.
    Source: Kataoka et al., Pre-training without natural images (arXiv:2101.08515). ValueError for what does not fit.

    >>> half = torch.tensor([[[0.5, 0, 0, 0.5, 0, 0], [0.5, 0, 0, 0.5, 1, 1]]], dtype=torch.float64)
    >>> found = fractal_support(half, torch.full((1, 2), 0.5, dtype=torch.float64), torch.ones(1, 6).double(), 16, 99)
    >>> tuple(found.bits.shape), found.lit.tolist(), found.finite.tolist()
    ((1, 32), [5], [True])
    """
    check_formulas(maps, probabilities, weights)
    kind = check_look(size, points, style)
    arguments = (maps.contiguous(), probabilities.contiguous(), weights.contiguous(), uniforms(points, maps.device))
    if runs_native(maps):
        return Support(*implementation("fractal_support")(*arguments, size, kind, torch.get_num_threads()))
    return Support(*on_cpu(reference.support, arguments, size, style))


def render_fractals(
    maps: Tensor,
    probabilities: Tensor,
    weights: Tensor,
    seeds: Tensor,
    size: int = 362,
    points: int = 200_000,
    style: str = "patch_gray",
) -> Tensor:
    """The published picture: a random patch of 3 x 3 bits at every point, later ones over earlier

    Points as in fractal_support. The mask of point i is 1 + floor(511 * word / 2^32), nine bits row by row, with
    word = Philox(seeds[n]; i // 4, 0, 0, 0)[i % 4]; seeds int64 [N]. Lit is 127, and a mask's 0 puts out what was lit.
    Result uint8 [N, size, size], for colours [N, size, size, 3]; styles of points ignore the seeds. ValueError for
    what does not fit.
    """
    check_formulas(maps, probabilities, weights)
    kind = check_look(size, points, style)
    check_seeds(seeds, len(maps), "maps", maps)
    arguments = (maps.contiguous(), probabilities.contiguous(), weights.contiguous(), uniforms(points, maps.device))
    if runs_native(maps):
        colours, threads = palette(maps.device), torch.get_num_threads()
        run = implementation("fractal_render")
        return run(*arguments, seeds.contiguous(), colours, size, kind, threads)
    return on_cpu(reference.render, (*arguments, seeds), size, style)


def draw_fractals(bits: Tensor, seeds: Tensor, size: int = 362, style: str = "patch_gray") -> Tensor:
    """Every pixel that a patch covers is lit with probability 1/2 + 2^-10, by itself

    bits of fractal_support with the same size and style, uint8 [N, B]; seeds int64 [N]. In render_fractals a covered
    pixel is one bit of the mask that was written last, which is 1 with probability 256/511 whatever lies below: the
    marginals here miss that by 2e-6, and only pixels of one patch, whose covariance is -5e-4, are independent instead.
    Word g of ten comes from Philox(seed; g // 4, 1, n, 0)[g % 4] for pixels 32 g and on: word 0 | (1 & 2 & .. & 9).
    Result as of render_fractals; styles of points ignore the seeds. ValueError for what does not fit.

    >>> draw_fractals(torch.full((1, 32), 255, dtype=torch.uint8), torch.tensor([0]), 16)[0, 0].tolist()[:6]
    [0, 0, 127, 127, 0, 127]
    """
    kind = check_look(size, 2, style)
    check_bits(bits, size, style)
    check_seeds(seeds, len(bits), "bits", bits)
    if runs_native(bits):
        colours, threads = palette(bits.device), torch.get_num_threads()
        run = implementation("fractal_draw")
        return run(bits.contiguous(), seeds.contiguous(), colours, size, kind, threads)
    return on_cpu(reference.draw, (bits, seeds), size, style)


def fill_rate(
    maps: Tensor, probabilities: Tensor, weights: Tensor, size: int = 512, points: int = 100_000
) -> tuple[Tensor, Tensor]:
    """pixels that hold a point / size^2, float64 [N], whether all points are finite, bool [N]; as fractal_support."""
    found = fractal_support(maps, probabilities, weights, size, points, "point_gray")
    return found.lit.double() / size**2, found.finite


def search_state(seed: int = 1) -> Tensor:
    """The generator at the beginning of a search: 624 words and the position among them, int64 [625].

    >>> search_state(1)[[0, 1, 624]].tolist()
    [1, 1812433254, 624]
    """
    if not 0 <= seed < 1 << 32:
        raise refusal("seed", seed, "from 0 to 2^32 - 1")
    return search.seeded(seed)


def search_fractals(state: Tensor, count: int, size: int = 512, points: int = 100_000) -> Candidates:
    """The next `count` candidates of the published search: maps ~ U(-1, 1), p_j ~ |a_j d_j - b_j c_j|

    One legacy generator draws for each candidate 2 to 7 maps, then the numbers of its trajectory. maps float64
    [C, 7, 6] and probabilities float64 [C, 7], zeros behind the first counts int64 [C]; lit int64 [C] pixels of
    size x size that hold a point, finite bool [C]; the search takes those of lit / size^2 >= 0.2. `state` int64 [625]
    in and out: a search that goes on from it finds the same, however many threads share the work. Seed 1 gives
    FractalDB's own categories. ValueError for what does not fit.
    """
    check_state(state)
    if count < 1:
        raise refusal("count", count, "1 or more")
    check_look(size, points, "point_gray")
    if runs_native(state):
        run = implementation("fractal_search")
        return Candidates(*run(state.contiguous(), count, size, points, torch.get_num_threads()))
    return Candidates(*search.search(state, count, size, points))


def runs_native(tensor: Tensor) -> bool:
    """Whether csrc answers for such arguments."""
    return forced("fractals") not in ("reference", "torch") and native("fractals", tensor.device.type)


def implementation(name: str) -> Any:
    """Of csrc."""
    return getattr(getattr(torch.ops, NAMESPACE), name)


def on_cpu(function: Any, tensors: tuple[Tensor, ...], size: int, style: str) -> Any:
    """The reference computes on the CPU, wherever the arguments are."""
    device = tensors[0].device
    out = function(*(tensor.cpu() for tensor in tensors), size, style)
    return out.to(device) if isinstance(out, Tensor) else tuple(tensor.to(device) for tensor in out)


@cache
def uniforms(points: int, device: torch.device) -> Tensor:
    """What chooses the maps, the same for every picture."""
    generator = np.random.RandomState(TRAJECTORY)
    return torch.from_numpy(generator.random_sample(points)).to(device)


@cache
def palette(device: torch.device) -> Tensor:
    """Where it is needed."""
    return reference.palette().to(device)

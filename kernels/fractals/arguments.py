"""What the fractal operators may be asked; here values are read, since a formula is checked once and drawn often."""

import torch
from torch import Tensor

from .._shared.checks import beside, refusal
from .reference import STYLES
from .search import WORDS

SMALLEST, LARGEST = 16, 16_384  # pixels along a side
MOST_POINTS = 1 << 27
SUM = 1e-6  # by which probabilities may miss 1
MOST_MAPS = 255


def check_formulas(maps: Tensor, probabilities: Tensor, weights: Tensor) -> None:
    """ValueError unless they are formulas and weights of as many, with numbers that can be followed."""
    if maps.dtype != torch.float64 or maps.dim() != 3 or maps.shape[2] != 6 or not 1 <= maps.shape[1] <= MOST_MAPS:
        raise refusal("maps", maps, f"float64 [N, K, 6], K from 1 to {MOST_MAPS}")
    if len(maps) == 0:
        raise refusal("maps", maps, "of one formula or more")
    if probabilities.dtype != torch.float64 or probabilities.shape != maps.shape[:2]:
        raise refusal("probabilities", probabilities, f"float64 {list(maps.shape[:2])}")
    if weights.dtype != torch.float64 or weights.shape != (len(maps), 6):
        raise refusal("weights", weights, f"float64 [{len(maps)}, 6]")
    for name, tensor in (("probabilities", probabilities), ("weights", weights)):
        beside(name, tensor, "maps", maps)
    for name, tensor in (("maps", maps), ("weights", weights)):
        wrong = ~tensor.isfinite()
        if wrong.any():
            raise refusal(name, tensor[wrong][0].item(), "finite")
    check_probabilities(probabilities)


def check_probabilities(probabilities: Tensor) -> None:
    """ValueError unless each row is a distribution."""
    total = probabilities.sum(1)
    missed = ~((total - 1).abs() <= SUM)
    if missed.any():
        raise refusal("probabilities", total[missed][0].item(), "1 in sum for each formula")
    if (probabilities < 0).any():
        raise refusal("probabilities", probabilities.min().item(), "0 or more")


def check_look(size: int, points: int, style: str) -> int:
    """The number of the style; ValueError where nothing can be drawn so."""
    if not SMALLEST <= size <= LARGEST:
        raise refusal("size", size, f"from {SMALLEST} to {LARGEST} pixels")
    if not 2 <= points <= MOST_POINTS:
        raise refusal("points", points, "from 2 to 2^27")
    if style not in STYLES:
        raise refusal("style", style, f"one of {', '.join(STYLES)}")
    return STYLES.index(style)


def check_seeds(seeds: Tensor, count: int, other_name: str, other: Tensor) -> None:
    """ValueError unless there is a seed for each picture."""
    if seeds.dtype != torch.int64 or seeds.shape != (count,):
        raise refusal("seeds", seeds, f"int64 [{count}]")
    beside("seeds", seeds, other_name, other)


def check_bits(bits: Tensor, size: int, style: str) -> None:
    """ValueError unless they can be of this size and style."""
    expected = (size * size + 7) // 8 if style.endswith("gray") else size * size
    if bits.dtype != torch.uint8 or bits.dim() != 2 or bits.shape[1] != expected:
        raise refusal("bits", bits, f"uint8 [N, {expected}] as fractal_support makes them for size {size} and {style}")


def check_state(state: Tensor) -> None:
    """ValueError unless a generator can have it."""
    words = torch.int64, (WORDS + 1,)
    if (state.dtype, tuple(state.shape)) != words or state.device.type != "cpu":
        raise refusal("state", state, "int64 [625] on the CPU, as search_state makes it")
    if not (int(state.min()) >= 0 and int(state.max()) < 1 << 32 and 0 <= int(state[-1]) <= WORDS):
        raise refusal("state", state, "624 words of 32 bits and a position among them")

"""What the name of a RandAugment policy says, for whoever checks a recipe and whoever carries it out."""

from __future__ import annotations

import re
from typing import NamedTuple

GRAMMAR = re.compile(
    r"rand-m(?P<magnitude>\d+(\.\d+)?)(-n(?P<layers>\d+))?(-p(?P<probability>\d+(\.\d+)?))?"
    r"(-mstd(?P<std>\d+(\.\d+)?))?-inc1"
)
HIGHEST = 10.0  # magnitude


class Policy(NamedTuple):
    """`layers` operations of one image, each done with `probability` at magnitude ~ normal(magnitude, std)."""

    magnitude: float
    std: float = 0.0
    layers: int = 2
    probability: float = 0.5


def policy(name: str) -> Policy:
    """`rand-m9-mstd0.5-inc1` and its like: m magnitude, n layers, p probability, mstd spread, in this order.

    inc1 says that every operation grows with the magnitude, and is the only set there is. ValueError where the name
    is another.

    >>> policy("rand-m9-mstd0.5-inc1")
    Policy(magnitude=9.0, std=0.5, layers=2, probability=0.5)
    """
    found = GRAMMAR.fullmatch(name)
    if found is None:
        raise ValueError("must be rand-mM[-nN][-pP][-mstdS]-inc1, such as rand-m9-mstd0.5-inc1")
    given = {key: value for key, value in found.groupdict().items() if value}
    said = Policy(**{key: int(value) if key == "layers" else float(value) for key, value in given.items()})  # type: ignore[arg-type]
    if said.magnitude > HIGHEST:
        raise ValueError(f"its magnitude, m{said.magnitude:g}, must be at most {HIGHEST:g}")
    if said.probability > 1:
        raise ValueError(f"its probability, p{said.probability:g}, must be at most 1")
    return said

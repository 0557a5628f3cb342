"""Settings of DILEMMA (arXiv:2204.04788): those of the method under it, and its own."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from importlib import import_module
from math import ceil
from typing import Any, Literal

from .sections import Encoder, MethodSettings, kept
from .strict import MISSING, NotNegative, Problem, Share, choice

BASES = ("mocov3", "dino", "simclr", "mae")
DEFAULT: Literal["mocov3"] = "mocov3"


class Detection(MethodSettings):
    """What DILEMMA adds; see methods/dilemma.py."""

    name: Literal["dilemma"] = "dilemma"
    base: Literal["mocov3", "dino", "simclr", "mae"] = DEFAULT
    keep: Share = 0.25  # share of the patches that the student sees
    wrong_probability: Share = 0.2
    weight: NotNegative = 1.0  # of the detection term

    def misfits(self, encoder: Encoder) -> Iterator[Problem]:
        """A student that sees nothing, or a wrong place where there is no other."""
        yield from super().misfits(encoder)
        if self.wrong_probability and encoder.position == "none":
            text = "patches that are told no place cannot be told a wrong one; must be 0 where encoder.position=none"
            yield Problem("wrong_probability", self.wrong_probability, text)
        if self.base != "mae":
            yield from self.needs_plain(encoder)
        if kept(encoder.patches, self.keep) == 0:
            least = ceil(1e4 / encoder.patches) / 1e4
            yield Problem("keep", self.keep, f"keeps none of {encoder.patches} patches; must be at least {least:g}")
        if self.wrong_probability and encoder.patches == 1:
            yield Problem(
                "wrong_probability", self.wrong_probability, "an image of one patch has no other place; must be 0"
            )


@cache
def over(base: str) -> type[Detection]:
    """Settings of DILEMMA over a base: the base's own, under the name and with the keys of DILEMMA."""
    theirs = import_module(f".{base}", __package__).Settings
    own = {"base": Literal[base]}
    return type("Settings", (Detection, theirs), {"__module__": __name__, "__annotations__": own, "base": base})


Settings = over(DEFAULT)


def settings_for(values: dict[str, Any]) -> tuple[type[MethodSettings] | None, list[Problem]]:
    """The class for a `method:` section, which depends on its base."""
    base = values.get("base", DEFAULT)
    if base in BASES:
        return over(base), []
    return None, [Problem("method.base", values.get("base", MISSING), choice(str(base), list(BASES)))]

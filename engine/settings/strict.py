"""The strictness that all sections share: no unknown key, no silent conversion, no two keys that contradict."""

from collections.abc import Iterator
from decimal import Decimal
from difflib import get_close_matches
from typing import Annotated, Any, NamedTuple, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator
from pydantic_core import PydanticCustomError


class Problem(NamedTuple):
    """A key, its value and what is wrong with it."""

    key: str
    value: Any
    text: str

    def told(self, place: str = "") -> str:
        """`place` says where the key was written."""
        value = "" if self.value is MISSING else f"={shown(self.value)}"
        return f"{place}{self.key}{value}: {self.text}"


MISSING = object()  # the value of a key that was not given
Self = TypeVar("Self", bound="Section")


class Section(BaseModel):
    """A frozen section: unknown keys, wrong types and values that contradict each other are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False, protected_namespaces=())

    def conflicts(self) -> Iterator[Problem]:
        """What is wrong although each key by itself is right."""
        yield from ()

    @model_validator(mode="after")
    def _refuse_conflicts(self: Self) -> Self:
        found = list(self.conflicts())
        if found:
            told = "; ".join(problem.told() for problem in found)
            raise PydanticCustomError("conflict", "{told}", {"told": told, "found": found})
        return self


def shown(value: Any) -> str:
    """A value as a recipe would write it, shortened.

    >>> shown(None), shown(True), shown((1, "x")), shown({"a": 300.0}), shown(0.00015)
    ('null', 'true', '[1, x]', '{a: 300}', '1.5e-4')
    """
    if isinstance(value, list | tuple):
        text = f"[{', '.join(map(shown, value))}]"
    elif isinstance(value, dict):
        text = f"{{{', '.join(f'{key}: {shown(part)}' for key, part in value.items())}}}"
    elif value is None or isinstance(value, bool):
        text = "null" if value is None else str(value).lower()
    elif isinstance(value, float):
        number = Decimal(repr(value)).normalize()  # of nan and inf too
        text = f"{number:e}" if 0 < abs(value) < 1e-3 else f"{number:f}"
    else:
        text = str(value)
    return text if len(text) <= 60 else text[:57] + "..."


def choice(given: str, names: list[str]) -> str:
    """One of a few words, and the one that was probably meant.

    >>> choice("fp16", ["bf16", "fp32"])
    'must be bf16 or fp32; did you mean bf16?'
    """
    near = get_close_matches(given.lower(), names, 1, 0.4)
    hint = f"; did you mean {near[0]}?" if near and len(names) > 1 else ""
    return f"must be {' or '.join(names)}{hint}" if len(names) < 3 else f"must be one of {', '.join(names)}{hint}"


def nearest_multiple(value: int, unit: int) -> int:
    """Never nought.

    >>> nearest_multiple(225, 16), nearest_multiple(3, 16)
    (224, 16)
    """
    return max(1, round(value / unit)) * unit


def _tuple(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


Count = Annotated[int, Field(ge=1)]
Share = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0)]
NotNegative = Annotated[float, Field(ge=0)]
Decay = Annotated[float, Field(ge=0, lt=1)]
Decays = Annotated[tuple[Decay, Decay], BeforeValidator(_tuple)]
Shares = Annotated[tuple[Share, Share], BeforeValidator(_tuple)]
Triple = Annotated[tuple[float, float, float], BeforeValidator(_tuple)]
Scales = Annotated[tuple[Positive, Positive, Positive], BeforeValidator(_tuple)]
Quadruple = Annotated[tuple[NotNegative, NotNegative, NotNegative, NotNegative], BeforeValidator(_tuple)]

"""The strictness that all sections share: no unknown key, no silent conversion, no two keys that contradict."""

from collections.abc import Iterator
from typing import Annotated, Any, NamedTuple, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator
from pydantic_core import PydanticCustomError


class Conflict(NamedTuple):
    """A key whose value does not go with another one's, and which value would."""

    key: str
    text: str


Self = TypeVar("Self", bound="Section")


class Section(BaseModel):
    """A frozen section: unknown keys, wrong types and values that contradict each other are errors."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, strict=True, allow_inf_nan=False, protected_namespaces=()
    )

    def conflicts(self) -> Iterator[Conflict]:
        """What is wrong although each key by itself is right."""
        yield from ()

    @model_validator(mode="after")
    def _refuse_conflicts(self: Self) -> Self:
        found = list(self.conflicts())
        if found:
            told = "; ".join(f"{key}={shown(value_of(self, key))}: {text}" for key, text in found)
            raise PydanticCustomError("conflict", "{told}", {"told": told, "found": found})
        return self


def value_of(section: BaseModel, key: str) -> Any:
    """The value under a dotted key."""
    value: Any = section
    for part in key.split("."):
        value = getattr(value, part)
    return value


def shown(value: Any) -> str:
    """A value as a recipe would write it, shortened.

    >>> shown(None), shown(True), shown((1, "x")), shown({"a": 0.5})
    ('null', 'true', '[1, x]', '{a: 0.5}')
    """
    if isinstance(value, list | tuple):
        text = f"[{', '.join(map(shown, value))}]"
    elif isinstance(value, dict):
        text = f"{{{', '.join(f'{key}: {shown(part)}' for key, part in value.items())}}}"
    elif value is None or isinstance(value, bool):
        text = "null" if value is None else str(value).lower()
    else:
        text = str(value)
    return text if len(text) <= 60 else text[:57] + "..."


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

"""The strictness that all sections share: no unknown key, no silent conversion."""

from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict


class Section(BaseModel):
    """A frozen section: unknown keys and wrong types are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, protected_namespaces=())


def _number(value: Any) -> Any:
    """YAML 1.1 reads `1e-3` as text; a number is what was meant."""
    if isinstance(value, str):
        try:
            return float(value)
        except ValueError:
            return value
    return float(value) if isinstance(value, int) and not isinstance(value, bool) else value


def _tuple(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


Float = Annotated[float, BeforeValidator(_number)]
Pair = Annotated[tuple[Float, Float], BeforeValidator(_tuple)]
Triple = Annotated[tuple[Float, Float, Float], BeforeValidator(_tuple)]
Quadruple = Annotated[tuple[Float, Float, Float, Float], BeforeValidator(_tuple)]

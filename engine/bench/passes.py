"""Where a method passes its encoders, watched from outside: no method says a word about being measured."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from torch import nn

from ..backbone import Backbone
from ..methods.method import Method

Call = Callable[..., Any]
ENTRANCES = ("forward", "class_token", "layers", "stream")  # of an encoder, some of which lead through others
NONE = object()


@contextmanager
def replaced(owner: Any, name: str, make: Callable[[Any], Any]) -> Iterator[None]:
    """While the block runs, an attribute of a module or of an object is what `make` makes of it."""
    before = vars(owner).get(name, NONE)
    setattr(owner, name, make(getattr(owner, name)))
    try:
        yield
    finally:
        if before is NONE:
            delattr(owner, name)
        else:
            setattr(owner, name, before)


def encoders(method: Method) -> list[Backbone]:
    """Student's, teacher's, or whatever else it holds."""
    return [module for module in method.modules() if isinstance(module, Backbone)]


def role(method: Method, encoder: Backbone) -> str:
    """student, which learns or would if it were not frozen, or teacher, which follows."""
    learns = encoder is method.learner() or any(parameter.requires_grad for parameter in encoder.parameters())
    return "student" if learns else "teacher"


@contextmanager
def watched(encoder: Backbone, whole: Callable[[Call], Call], embedding: Callable[[Call], Call]) -> Iterator[None]:
    """Every way into the encoder is what `whole` makes of it, and what makes tokens of pixels what `embedding` does."""
    with ExitStack() as stack:
        for name in ENTRANCES:
            found = getattr(encoder, name, None)
            if callable(found) and not isinstance(found, nn.Module):  # Swin's `layers` are its stages
                stack.enter_context(replaced(encoder, name, whole))
        place, name = (encoder, "embed") if hasattr(encoder, "embed") else (encoder.patch_embed, "forward")
        stack.enter_context(replaced(place, name, embedding))
        yield

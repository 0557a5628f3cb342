"""What each of our operators gives a training step: they take over from compiled plain blocks one after another."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack
from dataclasses import replace
from functools import partial
from typing import Any

from vitkiln.engine.settings import Encoder
from vitkiln.kernels import use

from .step import TINY, Step, plain_blocks, settings_of, work
from .work import Place, Provider, Work

ORDER = (("add_layer_norm",), ("linear_gelu",), ("attention",), ("patch_embed", "place_tokens", "sample_tokens"))


def works(place: Place) -> Iterator[Work]:
    """ViT-S, then ViT-B: the blocks are compiled throughout, and what is ours is one node in them."""
    for name, batch in (("vit_small", 1024), ("vit_base", 512))[: place.size(2, 1)]:
        encoder = Encoder(name=name, freeze_patch_embed=True, **(TINY if place.tiny else {}))
        whole = work(place, encoder, place.size(batch, 4))
        yield replace(whole, name="dilemma ablation", providers=dict(ladder(place, encoder)))


def ladder(place: Place, encoder: Encoder) -> Iterator[tuple[str, Provider]]:
    """Compiled plain blocks, and the same with more and more of ours."""
    yield "compiled plain blocks", provider(place, encoder, plain_blocks)
    taken: tuple[str, ...] = ()
    for rooms in ORDER:
        taken += rooms
        yield f"+ {rooms[0]}", provider(place, encoder, partial(ours_for, taken))


def ours_for(rooms: tuple[str, ...]) -> ExitStack:
    """Plain blocks, except for the rooms."""
    stack = plain_blocks()
    stack.enter_context(use("triton", *rooms))
    return stack


def provider(place: Place, encoder: Encoder, forced: Callable[[], AbstractContextManager[Any]]) -> Provider:
    """A step that is made when its turn comes."""
    return lambda: Step(place, settings_of(place), encoder, forced, compiled=True)

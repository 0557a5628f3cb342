"""The training step of DILEMMA at batch after batch: images a second and peak memory, until the memory is full."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace

from vitkiln.engine.settings import Encoder

from .step import TINY, Step, settings_of, work
from .work import Place, Work

BATCHES = (64, 128, 256, 512, 1024)


def works(place: Place) -> Iterator[Work]:
    """Our operators alone, whose code does not depend on the batch, so that nothing is compiled anew."""
    for name in ("vit_small", "vit_base")[: place.size(2, 1)]:
        encoder = Encoder(name=name, freeze_patch_embed=True, **(TINY if place.tiny else {}))
        for batch in (2, 4) if place.tiny else BATCHES:
            yield sweep(place, encoder, batch)


def sweep(place: Place, encoder: Encoder, batch: int) -> Work:
    """A batch that does not fit is an error of its own line; those after it say the same, quickly."""
    provider = {"ours": lambda: Step(place, settings_of(place), encoder, ExitStack, compiled=False)}
    return replace(work(place, encoder, batch), providers=provider)

"""A whole training step recorded as a CUDA graph, beside the same launched kernel by kernel, at small batches."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace

import torch
from torch import Tensor

from vitkiln.engine.cuda_tape import CudaTape
from vitkiln.engine.recorder import Recorder
from vitkiln.engine.settings import Encoder
from vitkiln.engine.vocabulary import Batch, Losses

from .step import TINY, Step, settings_of, work
from .work import Place, Work


def works(place: Place) -> Iterator[Work]:
    """ViT-S, where the host may be slower than the device."""
    encoder = Encoder(name="vit_small", freeze_patch_embed=True, **(TINY if place.tiny else {}))

    def step() -> Step:
        return Step(place, settings_of(place), encoder, ExitStack, compiled=False)

    providers = {"launched": step, "CUDA graph": lambda: Recorded(step())}
    for batch in (32, 64, 128)[: place.size(3, 1)]:
        yield replace(work(place, encoder, place.size(batch, 4)), name="dilemma graph", providers=providers)


class Recorded:
    """The step that it is given, taken as a run with `run.cuda_graph` takes it; a CPU takes it as it is.

    The first calls, which are not timed, are steps as they are written and the recording.
    """

    def __init__(self, step: Step):
        self.step, self.take = step, self.update
        device = step.place.device
        if device.type == "cuda":
            tape = CudaTape(step.optimizer, torch.cuda.Stream(device))
            self.take = Recorder(self.update, step.method, tape)

    def __call__(self, *views: Tensor) -> Tensor:
        ids = torch.arange(len(views[0]), device=views[0].device)
        return self.take([Batch(views, ids, self.step.seed)]).total

    def update(self, batches: list[Batch]) -> Losses:
        return Losses({"loss": self.step(*batches[0].views)})

"""A whole training step recorded as a CUDA graph, beside the same launched kernel by kernel, at small batches."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace

import torch
from torch import Tensor

from vitkiln.engine.settings import Encoder

from .step import TINY, Step, settings_of, work
from .work import Place, Work

RATE = 1e-4


def works(place: Place) -> Iterator[Work]:
    """ViT-S, where the host may be slower than the device."""
    encoder = Encoder(name="vit_small", freeze_patch_embed=True, **(TINY if place.tiny else {}))

    def step() -> Step:
        return Step(place, settings_of(place), encoder, ExitStack, compiled=False)

    providers = {"launched": step, "CUDA graph": lambda: Recorded(place, step())}
    for batch in (32, 64, 128)[: place.size(3, 1)]:
        yield replace(work(place, encoder, place.size(batch, 4)), name="dilemma graph", providers=providers)


class Recorded:
    """Records the step that it is given at its first call and replays it from then on; a CPU takes it as it is.

    The momentum of the moving average and the step that is drawn for are constants of the graph: this measures, and
    does not train as a run does.
    """

    def __init__(self, place: Place, step: Step):
        self.place, self.step = place, step
        self.views: tuple[Tensor, ...] = ()
        self.graph: torch.cuda.CUDAGraph | None = None
        self.loss = torch.zeros(())
        self.rate = torch.zeros((), device=place.device)

    def __call__(self, *views: Tensor) -> Tensor:
        self.views = self.views or tuple(map(torch.empty_like, views))
        for mine, view in zip(self.views, views, strict=True):
            mine.copy_(view)
        if self.place.device.type != "cuda":
            return self.step(*self.views)
        self.graph = self.graph or self.record()
        self.graph.replay()
        return self.loss.clone()

    def record(self) -> torch.cuda.CUDAGraph:
        """After steps on another stream, at a rate of zero, so that the first that counts is the first of all."""
        for group in self.step.optimizer.param_groups:
            group.update(capturable=True, lr=self.rate)
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(3):
                self.step(*self.views)
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            self.loss = self.step(*self.views)
        self.rate.fill_(RATE)
        return graph

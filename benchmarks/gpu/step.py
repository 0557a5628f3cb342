"""The whole training step of DILEMMA on synthetic images: forward, backward, optimiser, moving average."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack
from typing import Any

import torch
from torch import Tensor

from vitkiln.engine import methods, optim
from vitkiln.engine.settings import Encoder, Optim, dilemma
from vitkiln.engine.settings.sections import kept
from vitkiln.engine.vocabulary import Batch
from vitkiln.kernels import use

from .work import Place, Provider, Work

BATCHES = [("vit_small", 1024), ("vit_base", 512), ("vit_base", 1024), ("vit_small", 256)]
TINY = {"width": 32, "depth": 2, "heads": 2, "image_size": 32, "patch_size": 8}
IN_BLOCKS = ("add_layer_norm", "linear_gelu")  # what a compiled plain block fuses by itself


def works(place: Place) -> Iterator[Work]:
    """224 px, patches of 16, a quarter of them kept, a fifth of those misplaced."""
    for name, batch in BATCHES[: place.size(4, 1)]:
        encoder = Encoder(name=name, freeze_patch_embed=True, **(TINY if place.tiny else {}))
        yield work(place, encoder, place.size(batch, 4))


def work(place: Place, encoder: Encoder, batch: int) -> Work:
    """The loss of the first step is what providers must agree on; operations as in `flops`."""
    settings = settings_of(place)
    width, depth, _ = encoder.shape

    def inputs() -> tuple[Tensor, ...]:
        size = (batch, encoder.image_size, encoder.image_size, 3)
        return tuple(torch.randint(0, 256, size, dtype=torch.uint8, device=place.device) for _ in range(2))

    def provider(forced: Callable[[], AbstractContextManager[Any]], compiled: bool) -> Provider:
        return lambda: Step(place, settings, encoder, forced, compiled)

    return Work(
        "dilemma step",
        "train",
        {"B": batch, "D": width, "depth": depth, "px": encoder.image_size},
        inputs,
        {
            "eager": provider(lambda: use("reference"), compiled=False),
            "compiled plain blocks": provider(plain_blocks, compiled=True),
            "ours": provider(ExitStack, compiled=False),
            "ours, blocks compiled": provider(ExitStack, compiled=True),
        },
        flops=batch * flops(encoder, settings),
        enqueued=False,
        fewest=10,
        images=batch,
    )


def settings_of(place: Place) -> dilemma.Settings:
    """A quarter of the patches kept."""
    return dilemma.Settings(keep=0.25, **({"hidden": 32, "output": 16} if place.tiny else {}))


def plain_blocks() -> ExitStack:
    """The best that is there without our kernels: PyTorch's fused attention, the rest of a block left to the compiler.

    Outside of blocks our operators run as written in PyTorch, which reads less than embedding all patches would.
    """
    stack = ExitStack()
    stack.enter_context(use("torch"))
    stack.enter_context(use("reference", *IN_BLOCKS))
    return stack


class Step:
    """A method with its optimiser; calling it trains one step and returns the loss."""

    def __init__(
        self,
        place: Place,
        settings: dilemma.Settings,
        encoder: Encoder,
        forced: Callable[[], AbstractContextManager[Any]],
        compiled: bool,
    ):
        torch.manual_seed(0)
        self.place, self.forced = place, forced
        self.method = methods.find("dilemma")(settings, encoder).to(place.device)
        self.optimizer = optim.build(Optim(), self.method, 1e-4, place.device)
        self.teachers, self.pull = self.method.teachers(), torch.tensor(0.005, device=place.device)
        self.seed = torch.tensor([0, 1], device=place.device)
        if compiled:
            for vit in (self.method.backbone(), self.method.base.teacher[0]):
                for block in vit.blocks:
                    block.compile(dynamic=False, backend="eager" if place.tiny else "inductor")

    def __call__(self, *views: Tensor) -> Tensor:
        batch = Batch(views, torch.arange(len(views[0]), device=self.place.device), self.seed)
        with self.forced():
            with torch.autocast(self.place.device.type, torch.bfloat16, enabled=not self.place.tiny):
                loss = self.method(batch).total
            loss.backward()
            optim.step(self.optimizer, Optim(), self.teachers, self.pull)
        return loss.detach()


def flops(encoder: Encoder, settings: dilemma.Settings) -> int:
    """Of one image: two dense teacher passes, thrice two sparse student passes, and the heads, as if all was computed.

    A token of a block costs 24 D^2 + 4 N D, a projected patch 2 * 3 p^2 D. The frozen projection counts as learnt.

    >>> [round(flops(Encoder(name=name), dilemma.Settings(keep=0.25)) / 1e9, 1) for name in ("vit_small", "vit_base")]
    [31.9, 122.5]
    """
    width, depth, _ = encoder.shape
    patches = encoder.patches
    seen = kept(patches, settings.keep)

    def passed(tokens: int) -> int:
        embedding = (tokens - 1) * 2 * 3 * encoder.patch_size**2 * width
        return depth * tokens * (24 * width**2 + 4 * tokens * width) + embedding

    hidden, output = settings.hidden, settings.output
    projector = 2 * (width * hidden + hidden * hidden + hidden * output)
    predictor = 2 * (output * hidden + hidden * output)
    return 2 * (passed(1 + patches) + projector) + 6 * (passed(1 + seen) + projector + predictor)

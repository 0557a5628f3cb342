"""The same recipe by several hands: plain PyTorch, what torch.compile makes of it, and vitkiln's operators."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import asdict
from functools import partial
from typing import Any

from vitkiln.kernels import use

from ..recipe import Recipe
from ..train import Trainer, train_step
from ..vocabulary import Batch
from .clock import Spread, Stamp, between, stamp, wait
from .measurement import Figures, Request, trainer_of
from .memory import is_lack, release
from .synthetic import steps

IN_BLOCKS = ("add_layer_norm", "linear_gelu")  # what a compiled plain block fuses by itself
TOLERANCE = {"fp32": 1e-4, "bf16": 2e-2}  # of the first step's loss, relative


def compare(recipe: Recipe, names: Sequence[str], request: Request) -> list[Figures]:
    """A row for each, from rounds in which each takes a step in turn; ratios are to the first that worked.

    All begin with the same weights and see the same batches, so the loss of the first step says whether they compute
    the same. Who fails is a row that says so.
    """
    found = {name: hand_or_reason(name, recipe, request) for name in names}
    hands = [hand for hand in found.values() if isinstance(hand, Hand)]
    request.say(f"steps in turn: {request.patience.told(len(hands))}")
    for _ in range(min((hand.count for hand in hands), default=0)):
        for hand in hands:
            hand.timed()
    return [
        hand.row(hands[0]) if isinstance(hand, Hand) else {"by": name, "error": hand} for name, hand in found.items()
    ]


def hand_or_reason(name: str, recipe: Recipe, request: Request) -> Hand | str:
    """Ready to be timed, or why it cannot be."""
    request.say(f"{name}: first steps")
    try:
        return Hand(name, recipe, request)
    except (MemoryError, RuntimeError) as error:
        reason = "out of memory" if is_lack(error) else f"{type(error).__name__}: {error}".split("\n")[0]
    release()
    return reason


class Hand:
    """A trainer, and who computes its operators."""

    def __init__(self, name: str, recipe: Recipe, request: Request):
        self.name, self.forced = name, FORCED[name]
        with self.forced():
            self.trainer: Trainer = trainer_of(recipe if name == "vitkiln" else plain(recipe, name == "compile"))
            self.batches: Iterator[list[Batch]] = steps(self.trainer)
            self.loss = float(train_step(self.trainer, next(self.batches)).total)
            self.count = request.patience.warm(self.step, self.trainer.device)
        self.stamps: list[tuple[Stamp, Stamp]] = []

    def step(self) -> None:
        with self.forced():
            train_step(self.trainer, next(self.batches))

    def timed(self) -> None:
        began = stamp(self.trainer.device)
        self.step()
        self.stamps.append((began, stamp(self.trainer.device)))

    def row(self, first: Hand) -> Figures:
        """Figures, beside those of another."""
        wait(self.trainer.device)
        whole, images = self.spent(), self.trainer.recipe.data.batch_size
        apart = abs(self.loss - first.loss) / max(abs(first.loss), 1e-12)
        return {
            "by": self.name,
            "step_ms": asdict(whole),
            "images_per_second": asdict(whole.rate(images)),
            "ratio": first.spent().median / whole.median,
            "loss": self.loss,
            "loss_apart": apart,
            "parity": apart <= TOLERANCE[self.trainer.recipe.run.precision],
        }

    def spent(self) -> Spread:
        """Milliseconds of its steps; the device must be done."""
        return Spread.of([between(*pair) for pair in self.stamps])


def plain(recipe: Recipe, compiled: bool) -> Recipe:
    """The recipe with PyTorch's own optimiser, and its blocks compiled or not."""
    run = recipe.run.model_copy(update={"compile": compiled, "cuda_graph": False})
    return recipe.model_copy(update={"run": run, "optim": recipe.optim.model_copy(update={"backend": "torch"})})


def plain_blocks() -> ExitStack:
    """The best without our kernels: PyTorch's fused attention, the rest of a block left to the compiler."""
    stack = ExitStack()
    stack.enter_context(use("torch"))
    stack.enter_context(use("reference", *IN_BLOCKS))
    return stack


FORCED: dict[str, Callable[[], AbstractContextManager[Any]]] = {
    "eager": partial(use, "reference"),
    "compile": plain_blocks,
    "vitkiln": ExitStack,
}

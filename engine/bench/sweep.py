"""Batch after batch, and the largest that fits: how fast a recipe is at each."""

from __future__ import annotations

from collections.abc import Iterable

from ..device import pick_device
from ..errors import DataError, MissingBackend
from ..recipe import Recipe
from ..train import Trainer, train_step
from .clock import Spread, wait
from .measurement import Figures, Request, measure, rate, reset_peak, trainer_of
from .memory import fits, is_lack, release
from .model import durations
from .patience import Patience
from .synthetic import steps

ON_A_CPU = (
    "--find-batch: needs a GPU; on a CPU memory is the machine's, and a batch too large would end other programs. "
    "--batch N,N,... measures sizes that you know to fit"
)
FINE = 32  # the search ends when the next batch would be larger by less than one part in so many
LARGEST = 2**20


def sweep(recipes: Iterable[Recipe], request: Request) -> list[Figures]:
    """A row for each batch, the smallest first; what does not fit, and what is larger than that, says so."""
    rows: list[Figures] = []
    too_large: int | None = None
    for recipe in sorted(recipes, key=lambda recipe: recipe.data.batch_size):
        size = recipe.data.batch_size
        if too_large is not None:
            rows.append({"batch": size, "error": f"not tried: {too_large} does not fit"})
            continue
        request.say(f"batch {size}")
        try:
            rows.append({"batch": size, **measure(trainer_of(recipe), request)})
        except DataError as error:
            rows.append({"batch": size, "error": str(error)})
        except (MemoryError, RuntimeError) as error:
            if not is_lack(error):
                raise
            too_large = size
            rows.append({"batch": size, "error": "out of memory"})
        release()
    return rows


def refuse(recipe: Recipe) -> None:
    """MissingBackend where no batch can be searched for."""
    if pick_device(recipe.run.device).type == "cpu":
        raise MissingBackend(ON_A_CPU)


def find_batch(recipe: Recipe, request: Request) -> Figures:
    """The largest batch whose steps fit on the GPU, by doubling and halving, and how fast it is."""
    plain = recipe.model_copy(update={"run": recipe.run.model_copy(update={"cuda_graph": False})})
    trainer = trainer_of(plain)
    unit = recipe.data.classes_per_batch or 1
    part = largest(trainer, max(unit, trainer.order.part // unit * unit), unit, request)
    if part is None:
        return {"batch": None, "why": f"no micro-batch fits, not even one of {unit}"}
    return {"batch": part * recipe.run.accumulate, **at(trainer, part, request.patience)}


def largest(trainer: Trainer, start: int, unit: int, request: Request) -> int | None:
    """Images of a micro-batch, a multiple of `unit`; None where not even one unit fits."""
    low, high = 0, start
    while high <= LARGEST and tried(trainer, high, request):
        low, high = high, 2 * high
    while high - low > max(unit, low // FINE):
        between = (low + high) // 2 // unit * unit
        if between in (low, high):
            break
        low, high = (between, high) if tried(trainer, between, request) else (low, between)
    return low or None


def tried(trainer: Trainer, part: int, request: Request) -> bool:
    """Whether two steps go through: the first makes the optimiser's state."""
    request.say(f"{part * trainer.recipe.run.accumulate} images a step: does it fit?")

    def twice() -> None:
        batches = steps(trainer, part)
        for _ in range(2):
            train_step(trainer, next(batches))
        wait(trainer.device)

    enough = fits(twice)
    release(trainer)
    return enough


def at(trainer: Trainer, part: int, patience: Patience) -> Figures:
    """Rate and memory of steps with so many images in a micro-batch."""
    reset_peak(trainer.device)
    batches = steps(trainer, part)
    count = patience.warm(lambda: train_step(trainer, next(batches)), trainer.device)

    def step() -> float:
        train_step(trainer, next(batches))
        return 1.0

    whole = Spread.of(durations(trainer, step, count))
    return rate(whole, part * trainer.recipe.run.accumulate, trainer.device)

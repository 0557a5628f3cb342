"""One recipe measured at one size: rates, parts, memory and utilisation, as figures that go into JSON as they are."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any

import torch

from .. import graph
from ..allocator import keep_freed_pages
from ..data.stages import TOO_LONG
from ..device import pick_device
from ..flops import model_flops
from ..measure import peak_memory
from ..recipe import Recipe
from ..train import Trainer
from . import RATES, ceiling, data, model
from .clock import Spread
from .patience import Patience
from .synthetic import synthetic

SLOWED = 0.9  # of its rate alone, below which the model suffers from the data though it does not wait
ADDS_UP = 0.1  # of the whole step, by which the sum of the parts may miss it
Figures = dict[str, Any]
Say = Callable[[str], None]


@dataclass(frozen=True)
class Request:
    """What is to be measured, for how long, and who is told how far it is."""

    parts: tuple[str, ...] = (*RATES,)
    patience: Patience = field(default_factory=Patience)
    say: Say = lambda text: None


def trainer_of(recipe: Recipe) -> Trainer:
    """The recipe made real, on the device of the run."""
    device = pick_device(recipe.run.device)
    graph.refuse(recipe, device)
    if device.type == "cpu":
        keep_freed_pages()
    return Trainer(recipe, device)


def measure(trainer: Trainer, request: Request) -> Figures:
    """All that is asked for, in an order in which a resident set that only grows still tells what each part needs."""
    found: Figures = {"rates": {}}
    for part in RATES:
        if part in request.parts:
            request.say(f"{RATES[part]}: {request.patience.told()}")
            reset_peak(trainer.device)
            MEASURED[part](trainer, request.patience, found)
    found["input"] = moved(trainer, found["rates"])
    if {"model", "all"} & {*request.parts}:
        request.say("products of the recipe's shapes")
        found["utilisation"] = utilisation(trainer, found["rates"])
    found["limit"] = limit(found)
    return found


def of_data(trainer: Trainer, patience: Patience, found: Figures) -> None:
    """Add what the loader reaches by itself."""
    got = data.data(trainer, patience)
    found["rates"]["data"] = rate(got.whole, trainer.recipe.data.batch_size, trainer.device)
    found["data_ms"] = got.stages


def of_model(trainer: Trainer, patience: Patience, found: Figures) -> None:
    """Add what the training step reaches by itself, and its parts."""
    got = model.model(trainer, patience)
    found["rates"]["model"] = rate(got.steps, trainer.recipe.data.batch_size, trainer.device)
    total = sum(got.parts.values())
    found["parts_ms"], found["sum_ms"] = got.parts, total
    found["step_ms"], found["unwatched_step_ms"] = got.whole, got.unwatched
    found["adds_up"] = abs(total - got.whole) <= ADDS_UP * got.whole


def of_both(trainer: Trainer, patience: Patience, found: Figures) -> None:
    """Add what a run reaches, and how long it waits for data."""
    got = data.both(trainer, patience)
    found["rates"]["all"] = {
        **rate(got.whole, trainer.recipe.data.batch_size, trainer.device),
        "data_wait": got.waiting,
    }
    found["advice"] = got.advice if got.waiting > TOO_LONG else None


MEASURED = {"data": of_data, "model": of_model, "all": of_both}


def rate(whole: Spread, images: int, device: torch.device) -> Figures:
    """Milliseconds of a step of so many images, images a second, and the most memory so far."""
    return {
        "step_ms": asdict(whole),
        "images_per_second": asdict(whole.rate(images)),
        "peak_memory_bytes": peak_memory(device),
    }


def reset_peak(device: torch.device) -> None:
    """Where memory can be counted anew; the resident set of a process only tells its highest so far."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)


def moved(trainer: Trainer, rates: Figures) -> Figures:
    """Bytes of an image, and megabytes a second at the highest rate that training reached."""
    sizes = data.input_bytes(trainer)
    reached = fastest(rates)
    return {
        "bytes_per_image": sizes,
        "megabytes_per_second": {name: None if size is None else size * reached / 1e6 for name, size in sizes.items()},
        "images_per_second": reached,
    }


def fastest(rates: Figures) -> float:
    """Images a second of the model, else of both, else of the data."""
    first = next(rates[part] for part in ("model", "all", "data") if part in rates)
    return float(first["images_per_second"]["median"])


def utilisation(trainer: Trainer, rates: Figures) -> Figures:
    """Of the device, by operations of the model."""
    recipe, device = trainer.recipe, trainer.device
    flops = model_flops(trainer.method, synthetic(trainer, max(2, recipe.method.smallest_batch)))
    measured = ceiling.matmul_tflops(trainer)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"
    peak = ceiling.peak_tflops(name, recipe.run.precision)
    found: Figures = {"flops_per_image": flops, "matmul_tflops": measured, "peak_tflops": peak}
    for part in ("model", "all"):
        if part in rates:
            reached = flops["total"] * rates[part]["images_per_second"]["median"] / 1e12
            found[part] = {
                "tflops": reached,
                "mfu": None if peak is None else reached / peak,
                "of_matmul": reached / measured,
            }
    return found


def limit(found: Figures) -> str:
    """What a faster run would have to change first, in one line."""
    if found.get("advice"):
        return str(found["advice"])
    if "parts_ms" in found:
        return f"{largest(found['parts_ms'], 'the model')}{beside(found['rates'])}"
    return largest(found["data_ms"], "data") if "data_ms" in found else "the model: steps do not wait for data"


def beside(rates: Figures) -> str:
    """How much the data could bring, and whether bringing them takes cores or copies away from the model."""
    told = ""
    if "data" in rates:
        told += f"; data alone are {ratio(rates['data'], rates['model']):.1f} times as fast"
    if "all" in rates and ratio(rates["all"], rates["model"]) < SLOWED:
        told += (
            f"; with them the model keeps {ratio(rates['all'], rates['model']):.0%} of its rate: they share the machine"
        )
    return told


def largest(spent: dict[str, float], whose: str) -> str:
    """The part that takes most."""
    name = max(spent, key=spent.__getitem__)
    return f"{whose}, most of all {name}, {spent[name] / max(1e-9, sum(spent.values())):.0%}"


def ratio(first: Figures, second: Figures) -> float:
    """How many times as many images a second."""
    return float(first["images_per_second"]["median"] / second["images_per_second"]["median"])

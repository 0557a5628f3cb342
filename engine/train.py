"""The training step and the loop around it: every method is trained by these lines."""

from __future__ import annotations

import logging
import time
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import torch

from . import checkpoint, distributed, graph, methods, optim
from .allocator import keep_freed_pages
from .data.bad_files import BadFiles
from .data.balanced import order_of
from .data.feed import Feed
from .data.hands import choice
from .data.loader import Loader
from .data.order import Order
from .data.source import Source, open_source
from .device import pick_device
from .divergence import explain, finite
from .errors import Diverged, RecipeError, Stopped
from .finish import finish
from .measure import StepClock, environment, peak_memory
from .pace import Pace, budget
from .pictures import draw
from .recipe import Recipe
from .report import Reporter, log_file
from .run_folder import RunFolder, choose
from .signals import Signals
from .step import dial, update
from .validation import validate
from .vit import blocks_of
from .vocabulary import Batch, Losses

log = logging.getLogger("vitkiln")


class Trainer:
    """A recipe made real: method, optimiser, data and the place on the schedule."""

    def __init__(self, recipe: Recipe, device: torch.device):
        source = open_source(recipe.data, recipe.run.seed)
        assert source is not None  # only a second split may be absent
        self.source, self.device, self.bad = source, device, BadFiles()
        self.recipe = recipe = fitted(recipe, source, device)
        self.order = in_steps(recipe, source)
        torch.manual_seed(recipe.run.seed)
        self.method = methods.find(recipe.method.name)(recipe.method, recipe.encoder).to(device)
        self.lr = optim.effective_lr(recipe.optim, recipe.data.batch_size)
        self.optimizer = optim.build(recipe.optim, self.method, self.lr, device, self.method.learner())
        self.teachers = self.method.teachers()
        self.pace = Pace(recipe.run, self.order.steps_per_epoch)
        if recipe.run.compile:  # block by block and before wrapping, so that no graph breaks at a bucket
            for block in blocks_of(self.method):
                block.compile()
        self.skipped = torch.zeros((), device=device)  # steps whose gradient was not finite
        self.pull = torch.zeros((), device=device)  # how far teachers go with the step under way
        stream = graph.stream_for(recipe, device)
        with torch.cuda.stream(stream) if stream else nullcontext():
            self.model = distributed.parallel(self.method, device)
        self.recorder = graph.recorder(self, stream) if stream else None

    def loader(self) -> Loader:
        data, run = self.recipe.data, self.recipe.run
        return Loader(
            self.source,
            self.method.views(),
            batch_size=data.batch_size,
            repeats=data.repeats,
            accumulate=run.accumulate,
            leftover=run.leftover == "step",
            classes=data.classes_per_batch,
            seed=run.seed,
            step=self.pace.step,
            workers=data.workers,
            rank=distributed.rank(),
            world=distributed.world(),
            device=self.device,
            max_bad=data.max_bad,
            loader=data.loader,
            hardware_decoding=data.hardware_decoding,
            bad=self.bad,
        )

    def precision(self) -> AbstractContextManager[object]:
        return torch.autocast(self.device.type, torch.bfloat16, self.recipe.run.precision == "bf16")

    def unsynchronised(self, wait: bool) -> AbstractContextManager[object]:
        """Gradients travel between ranks with the last micro-batch only."""
        return self.model.no_sync() if wait and distributed.world() > 1 else nullcontext()  # type: ignore[operator]


def fitted(recipe: Recipe, source: Source, device: torch.device) -> Recipe:
    """The recipe with what only data and machine could say: how many classes there are, and who decodes."""
    try:
        method = recipe.method.with_data(len(source.classes) if source.classes else None)
    except ValueError as error:
        raise RecipeError(str(error)) from None
    name, why = choice(recipe.data.loader, source, device)
    log.info("loader %s: %s", name, why)
    data = recipe.data.model_copy(update={"loader": name})  # pixels depend on it: kept with the run
    return recipe.model_copy(update={"method": method, "data": data})


def in_steps(recipe: Recipe, source: Source) -> Order:
    """How the images fill steps; refused before anything is written."""
    data, accumulate, world = recipe.data, recipe.run.accumulate, distributed.world()
    classes = data.classes_per_batch
    if data.batch_size % (accumulate * world):
        least = accumulate * world
        nearest = max(1, round(data.batch_size / least)) * least
        raise RecipeError(
            f"data.batch_size={data.batch_size}: does not divide into {world} ranks x {accumulate} micro-batches; "
            f"the nearest is {nearest}"
        )
    if classes is not None and classes % world:
        raise RecipeError(f"data.classes_per_batch={classes}: must be a multiple of the {world} ranks")
    seed, repeats, leftover = recipe.run.seed, data.repeats, recipe.run.leftover == "step"
    how = {"seed": seed, "repeats": repeats, "accumulate": accumulate, "leftover": leftover, "world": world}
    return order_of(source, data.batch_size, classes, **how)


def train_step(trainer: Trainer, batches: list[Batch]) -> Losses:
    """One update from the micro-batches of one step; returns the mean of what they lost."""
    coming = dial(trainer)
    losses = trainer.recorder(batches) if trainer.recorder else update(trainer, batches)
    trainer.pace.step += 1
    trainer.method.after_step(coming)
    return losses


def train(trainer: Trainer, folder: RunFolder, reporter: Reporter, signals: Signals) -> None:
    """Step until the budget is used, reporting, saving and watching on the way."""
    pace, run = trainer.pace, trainer.recipe.run
    clock = StepClock()
    feed = Feed(trainer.loader(), trainer.device)
    try:
        while not pace.done:
            began = time.perf_counter()
            micro = feed.step(trainer.order.parts(pace.step))
            rate = pace.rate(trainer.recipe.optim, trainer.lr)
            losses = train_step(trainer, micro)
            clock.count(len(micro) * trainer.order.part)
            pace.seconds = shared_seconds(trainer, pace.seconds + time.perf_counter() - began)
            reporter.step(pace.position)
            last, reporting = pace.done, pace.step % run.log_every == 0
            stopping = last or signals.stopping(trainer.device, pace.step, run.log_every)
            saving = pace.step % run.checkpoint_every == 0 or stopping
            if trainer.device.type == "cpu" or reporting or saving:  # on a GPU this waits for the step
                refuse_divergence(trainer, folder, losses, micro[-1])
            if reporting or last:
                report(trainer, reporter, clock, feed, losses, rate)
            if saving:
                clock.pause(save(trainer, folder, reporter))
            clock.pause(validate(trainer, reporter))
            if stopping and not last:
                raise Stopped(f"stopped at step {pace.step} and saved; the same command goes on from {folder.path}")
    finally:
        feed.close()


def run(recipe: Recipe, out: Path | None = None, resume: str = "auto") -> Path:
    """Train a recipe to the end of its budget, evaluate and export the encoder; returns the run folder."""
    device = pick_device(recipe.run.device)
    graph.refuse(recipe, device)
    if device.type == "cpu":
        keep_freed_pages()
    with Signals() as signals:
        with distributed.ranks(device):
            trainer = Trainer(recipe, device)
            folder = distributed.from_first_rank(
                choose(trainer.recipe, out, resume) if distributed.is_first() else None
            )
            assert isinstance(folder, RunFolder)
            train_in(trainer, folder, signals)
        if distributed.is_first():
            with log_file(folder.path / "train.log"):
                finish(trainer, folder)
    return folder.path


def train_in(trainer: Trainer, folder: RunFolder, signals: Signals) -> None:
    """Open the folder, go back to where it stands, train, and say in status.json how it ended."""
    first = distributed.is_first()
    if first:
        folder.hold().write(trainer.recipe, environment(trainer.device))
    with log_file(folder.path / "train.log" if first else None):
        if folder.resumed:
            resume_from(trainer, folder)
        elif first:
            folder.cut_metrics(0)  # of a run that was killed before its first checkpoint
        trainer.bad.keep(folder.path / "bad_files.txt")
        announce(trainer, folder)
        reporter = Reporter(folder if first else None, trainer.pace, trainer.recipe.run.tensorboard)
        with folder.standing(first, trainer.pace), reporter.running():
            if first and not folder.resumed:
                draw(trainer, folder.path / "samples", reporter)
            train(trainer, folder, reporter, signals)


def resume_from(trainer: Trainer, folder: RunFolder) -> None:
    """Go back to the checkpoint: weights, optimiser, step, and no metrics of later steps."""
    assert folder.resumed is not None
    state = checkpoint.restore(folder.resumed, trainer.method, trainer.optimizer)
    trainer.pace.step, trainer.pace.seconds = state["step"], state["seconds"]
    if distributed.is_first():
        folder.cut_metrics(trainer.pace.step)
    log.info("resumed from %s", folder.resumed)


def announce(trainer: Trainer, folder: RunFolder) -> None:
    """What is about to happen, in the lines that people look for first."""
    recipe, pace = trainer.recipe, trainer.pace
    learned = sum(parameter.numel() for parameter in trainer.method.parameters() if parameter.requires_grad)
    size = recipe.data.batch_size
    log.info("%s", recipe.to_yaml().rstrip())
    log.info("run folder %s", folder.path)
    log.info(
        "%s on %s, %s; %.1f M parameters learn; %d images, %d steps an epoch, %s",
        recipe.method.name, trainer.device, recipe.run.precision, learned / 1e6, len(trainer.source),
        pace.steps_per_epoch, f"{pace.steps:.0f} steps" if pace.steps else budget(recipe.run),
    )  # fmt: skip
    log.info(
        "batch %d = %d ranks x %d micro-batches x %d images; lr %.3g; negatives per anchor: %s",
        size, distributed.world(), recipe.run.accumulate, size // distributed.world() // recipe.run.accumulate,
        trainer.lr, trainer.method.negatives(size // recipe.run.accumulate),
    )  # fmt: skip


def report(trainer: Trainer, reporter: Reporter, clock: StepClock, feed: Feed, losses: Losses, rate: float) -> None:
    """The numbers of this step, the same on all ranks."""
    pace = trainer.pace
    named = {"loss": losses.total, **losses.terms, **losses.metrics}
    values = distributed.mean_over_ranks(torch.stack([value.detach().float() for value in named.values()])).tolist()
    timing = clock.report(feed.waited())
    reporter.metrics(
        {
            "step": pace.step,
            "epoch": pace.epoch,
            **dict(zip(named, values, strict=True)),
            "lr": rate,
            **timing,
            "peak_memory_bytes": peak_memory(trainer.device),
            "seconds": pace.seconds,
        },
        pace.remaining(clock.seconds_per_step),
    )
    if distributed.is_first():
        feed.watch(timing["step_ms"], timing["data_ms"])


def save(trainer: Trainer, folder: RunFolder, reporter: Reporter) -> float:
    """Write a checkpoint and pictures from the first rank; returns the seconds that it took."""
    began = time.perf_counter()
    if distributed.is_first():
        pace, state = trainer.pace, {"seconds": trainer.pace.seconds}
        checkpoint.save(
            folder.checkpoints, pace.step, trainer.method, trainer.optimizer, state, trainer.recipe.to_yaml()
        )
        checkpoint.prune(folder.checkpoints, trainer.recipe.run.keep_checkpoints)
        draw(trainer, folder.path / "samples", reporter)
    return time.perf_counter() - began


def refuse_divergence(trainer: Trainer, folder: RunFolder, losses: Losses, batch: Batch) -> None:
    """Diverged, with its cause, where the loss of any rank is not finite."""
    if not distributed.any_rank(not finite(losses) or trainer.skipped.item() > 0, trainer.device):
        return
    good = checkpoint.newest(folder.checkpoints)
    cause = explain(trainer.method, batch)
    raise Diverged(f"step {trainer.pace.step}: the loss is not finite; {cause}; last good checkpoint: {good or 'none'}")


def shared_seconds(trainer: Trainer, seconds: float) -> float:
    """With a budget of minutes every rank follows the first one's clock; otherwise its own will do."""
    if trainer.recipe.run.minutes is None:
        return seconds
    shared = distributed.from_first_rank(seconds)
    assert isinstance(shared, float)
    return shared

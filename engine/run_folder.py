"""The folder of a run: which one a command means, what lies in it, and that only one process writes there."""

from __future__ import annotations

import fcntl
import json
import logging
import os
import socket
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import IO, Any

from . import checkpoint
from .errors import Diverged, RecipeError, Stopped
from .pace import Pace
from .recipe import Recipe, difference, load

log = logging.getLogger("vitkiln")
ENDED = ("finished", "diverged")


class RunFolder:
    """A run folder that this process holds. `resumed` is the checkpoint to go on from, or None."""

    def __init__(self, path: Path, resumed: Path | None = None):
        self.path = path
        self.resumed = resumed
        self.lock: IO[str] | None = None

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    def hold(self) -> RunFolder:
        """Make the folder and take its lock, which the system gives back however this process ends."""
        self.checkpoints.mkdir(parents=True, exist_ok=True)
        self.lock = (self.path / ".lock").open("w")
        try:
            fcntl.flock(self.lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise RecipeError(f"{self.path}: another process is training here; choose another --out") from None
        ours_alone(self.lock)
        return self

    def status(self, state: str, **more: Any) -> None:
        """Say in status.json how the run stands."""
        content = {"state": state, "pid": os.getpid(), "host": socket.gethostname(), **more}
        draft = self.path / ".status.json"
        draft.write_text(json.dumps(content, indent=1) + "\n")
        draft.replace(self.path / "status.json")

    @contextmanager
    def standing(self, first: bool, pace: Pace) -> Iterator[None]:
        """Keep status.json true while the run goes on, and say how it ended. Only the first rank writes."""
        say = self.status if first else lambda *_, **__: None
        say("running", step=pace.step)
        try:
            yield
        except Stopped:
            say("preempted", step=pace.step)
            raise
        except Diverged as error:
            say("diverged", step=pace.step, reason=str(error))
            raise
        except BaseException as error:
            say("failed", step=pace.step, reason=f"{type(error).__name__}: {error}")
            raise
        say("trained", step=pace.step)

    def write(self, recipe: Recipe, environment: dict[str, Any]) -> None:
        (self.path / "recipe.yaml").write_text(recipe.to_yaml())
        (self.path / "environment.json").write_text(json.dumps(environment, indent=1) + "\n")

    def cut_metrics(self, step: int) -> None:
        """Forget what was reported after the checkpoint, so that no step stands twice."""
        file = self.path / "metrics.jsonl"
        if file.exists():
            lines = [line for line in file.read_text().splitlines() if is_before(line, step)]
            file.write_text("".join(line + "\n" for line in lines))


def is_before(line: str, step: int) -> bool:
    """Whether a line of metrics belongs to a step up to this one."""
    try:
        return bool(json.loads(line)["step"] <= step)
    except (ValueError, KeyError):  # the line that a kill cut in two
        return False


def choose(recipe: Recipe, out: Path | None, resume: str) -> RunFolder:
    """The folder that this command trains in, checked, not yet made."""
    if resume not in ("auto", "never"):
        found = checkpoint.named(Path(resume))
        home = found.parent.parent
        refuse_change(home, recipe)
        return RunFolder(out or home, found)
    if out is None:
        return (resume == "auto" and unfinished(recipe)) or RunFolder(fresh(recipe))
    if not out.exists() or not any(out.iterdir()):
        return RunFolder(out)
    if not (out / "recipe.yaml").exists():
        raise RecipeError(f"--out {out}: the folder is not empty and holds no run; choose another")
    return again(recipe, out, resume)


def again(recipe: Recipe, out: Path, resume: str) -> RunFolder:
    """A folder that holds a run already: gone on with, or refused with the reason."""
    found = checkpoint.newest(out / "checkpoints")
    if found is None:  # nothing to lose
        return RunFolder(out)
    if resume == "never":
        raise RecipeError(f"--out {out}: holds a run with checkpoints and --resume is never; choose another --out")
    refuse_change(out, recipe)
    if state(out) == "finished":
        raise RecipeError(f"--out {out}: this run is finished; choose another --out, or a longer budget and --out")
    return RunFolder(out, found)


def unfinished(recipe: Recipe) -> RunFolder | None:
    """The newest run of this very recipe that was interrupted and that nobody is training now."""
    for folder in sorted(home(recipe).glob("*"), reverse=True):
        if state(folder) in ENDED or not (folder / "recipe.yaml").exists() or is_held(folder):
            continue
        if not changes(folder, recipe) and (found := checkpoint.newest(folder / "checkpoints")):
            return RunFolder(folder, found)
    return None


def fresh(recipe: Recipe) -> Path:
    """A folder that does not exist yet, named by the time."""
    stamp = datetime.now().strftime("%Y%m%d-%H%M%S")
    names = (home(recipe) / f"{stamp}{suffix}" for suffix in suffixes())
    return next(name for name in names if not name.exists())


def suffixes() -> Iterator[str]:
    """For runs that begin within the same second."""
    yield ""
    yield from (f"-{number}" for number in range(2, 1000))


def home(recipe: Recipe) -> Path:
    """Where the runs of a recipe lie."""
    return Path("runs") / recipe.name


def state(folder: Path) -> str | None:
    """What status.json says, or None."""
    try:
        return str(json.loads((folder / "status.json").read_text())["state"])
    except (OSError, ValueError, KeyError):
        return None


def ours_alone(file: IO[str]) -> None:
    """No process that is forked from here has it open: a worker outlives a run that was killed by some seconds, and
    would keep the lock from the run that goes on."""
    known = weakref.ref(file)

    def close() -> None:
        if (file := known()) is not None:
            file.close()

    os.register_at_fork(after_in_child=close)


def is_held(folder: Path) -> bool:
    """Whether another process trains there now."""
    try:
        with (folder / ".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except OSError:
        return True
    return False


def changes(folder: Path, recipe: Recipe) -> list[str]:
    """What differs between a run's recipe and this one, key by key."""
    try:
        return difference(load(folder / "recipe.yaml", short=False), recipe)
    except RecipeError as error:  # written by another version
        return [str(error)]


def refuse_change(folder: Path, recipe: Recipe) -> None:
    """RecipeError where a run's recipe is not this one."""
    changed = changes(folder, recipe)
    if changed:
        raise RecipeError(
            f"{folder}: the recipe has changed since this run began, so it cannot go on: " + "; ".join(changed)
        )

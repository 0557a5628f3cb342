"""Which formulas a run draws: those of a folder, the shipped ones, or more that are searched for once and kept."""

import fcntl
import logging
import os
from pathlib import Path

from ..errors import DataError
from ..settings.formulas import Formulas
from .cores import cores
from .ifs import Formula, read_formulas, shipped

SEED = 1  # of FractalDB's own categories
log = logging.getLogger("vitkiln")


def formulas(data: Formulas) -> list[Formula]:
    """As many as `categories`, by the published rule with seed 1 unless they come from a folder."""
    if data.categories_root is not None:
        return read_formulas(data.categories_root, data.categories)
    found = shipped()
    return found[: data.categories] if data.categories <= len(found) else searched(data.categories)


def searched(count: int) -> list[Formula]:
    """From the cache, after a search of some minutes that one process makes and others wait for."""
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "vitkiln"
    folder = base / f"categories-seed-{SEED}"
    try:
        base.mkdir(parents=True, exist_ok=True)
        with (base / f"{folder.name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not (folder / f"{count - 1:05d}.csv").exists():
                search(folder, count)
    except OSError as error:
        text = f"cannot keep {count} categories ({error.strerror}); set XDG_CACHE_HOME, or data.categories_root to the"
        raise DataError(f"{folder}: {text} folder of an `engine fractal search`") from None
    return read_formulas(str(folder), count)


def search(folder: Path, count: int) -> None:
    """Told in the log."""
    from .fractal_search import Search

    began = Search(folder, count, SEED)
    log.info("searching for %d categories by FractalDB's rule, once; they are kept in %s", count, folder)
    done, told = began.accepted, began.accepted * 10 // count

    def advance(more: int) -> None:
        nonlocal done, told
        done += more
        if done * 10 // count > told:
            told = done * 10 // count
            log.info("%d of %d categories", done, count)

    began.run(cores(), advance)
    log.info(began.told())

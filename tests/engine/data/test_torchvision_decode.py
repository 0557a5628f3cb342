"""torchvision's decoder where it fits this PyTorch, and a clear word where it does not."""

import sys
from collections.abc import Callable
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch

from vitkiln.engine.data.crops import Task
from vitkiln.engine.data.decode import picture as by_pillow
from vitkiln.engine.data.hands import Pillow, Torchvision, choice
from vitkiln.engine.data.jpeg import plain
from vitkiln.engine.data.loader import Loader
from vitkiln.engine.data.source import Files, open_source
from vitkiln.engine.data.torchvision_decode import by_torchvision, trouble
from vitkiln.engine.errors import MissingBackend
from vitkiln.engine.settings import Data
from vitkiln.engine.vocabulary import View

from .damage import FILES, written
from .test_loader import equal

CPU = torch.device("cpu")
VIEWS = (View(size=24), View(size=16, interpolation="bicubic"))
usable = pytest.mark.skipif(trouble() is not None, reason=str(trouble()))
Write = Callable[..., Path]


@pytest.fixture
def source(pictures: Write) -> Files:
    found = open_source(Data(root=str(pictures())), 0)
    assert isinstance(found, Files)
    return found


@pytest.mark.skipif(trouble() is None, reason="torchvision fits this PyTorch")
def test_a_torchvision_that_cannot_be_used_is_told_and_leaves_no_halves(source: Files) -> None:
    before = halves()
    with pytest.raises(MissingBackend, match=r"data\.loader=torchvision: torchvision .*set data\.loader=pillow"):
        choice("torchvision", source, CPU)
    assert halves() == before


def halves() -> set[str]:
    """What there is of torchvision in this process; other tests may have brought some."""
    return {name for name in sys.modules if name.partition(".")[0] == "torchvision"}


@usable
def test_pictures_are_those_of_pillow(source: Files) -> None:
    for index in range(len(source)):
        data, name = source.read(index), source.name(index)
        assert plain(data) is not None  # else Pillow would be compared with itself
        levels = np.abs(np.asarray(by_torchvision(data, name)).astype(int) - np.asarray(by_pillow(data, name)))
        assert levels.mean() < 1


@usable
@pytest.mark.parametrize("seed", [0, 1])
def test_every_damaged_file_is_judged_as_pillow_judges_it(tmp_path: Path, seed: int) -> None:
    source, task = written(tmp_path, seed), Task(0, np.arange(FILES))
    ours, theirs = (next(hand(source, VIEWS, 0).carry(iter([task]), 0, CPU)) for hand in (Torchvision, Pillow))
    assert dict(ours.bad) == dict(theirs.bad)
    assert ours.labels.tolist() == theirs.labels.tolist()
    assert (ours.views[0].float() - theirs.views[0].float()).abs().mean((1, 2, 3)).max() < 2


@usable
def test_workers_and_restarts_change_nothing(source: Files) -> None:
    def batches(**settings: int) -> list[object]:
        chosen = {"batch_size": 8, "seed": 0, "workers": 0, **settings}
        loader = Loader(source, VIEWS, device=CPU, max_bad=0.1, loader="torchvision", **chosen)  # type: ignore[arg-type]
        found = list(islice(loader, 3))
        loader.close()
        return found

    assert all(map(equal, batches(), batches(workers=2)))
    assert all(map(equal, batches()[1:], batches(step=1)))

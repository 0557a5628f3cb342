"""JPEGs damaged at random: DALI's hand uses those that Pillow's uses, names the others, and never falls over."""

from pathlib import Path

import numpy as np
import pytest
import torch

from vitkiln.engine.data.crops import Task
from vitkiln.engine.data.dali import Dali
from vitkiln.engine.data.hands import Pillow
from vitkiln.engine.vocabulary import View

from .damage import FILES, written

pytest.importorskip("nvidia.dali")

VIEWS = (View(size=16),)


@pytest.mark.parametrize("seed", [0, 1])
def test_every_damaged_file_is_judged_as_pillow_judges_it(tmp_path: Path, seed: int) -> None:
    source = written(tmp_path, seed)
    tasks = [Task(0, np.arange(start, start + 50)) for start in range(0, FILES, 50)]
    hands = Dali(source, VIEWS, 0, 0.65), Pillow(source, VIEWS, 0)
    works = [hand.carry(iter(tasks), 0, torch.device("cpu")) for hand in hands]
    seen = set()
    for _ in tasks:
        ours, theirs = map(next, works)
        assert dict(ours.bad) == dict(theirs.bad)
        assert ours.labels.tolist() == theirs.labels.tolist()
        assert (ours.views[0].float() - theirs.views[0].float()).abs().mean((1, 2, 3)).max() < 2
        seen |= {path for path, _ in ours.bad}
    works[0].close()
    assert FILES // 8 < len(seen) < FILES * 3 // 4

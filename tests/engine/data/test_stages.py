"""A run that waits for data is told once what limits it and which key to turn."""

import logging

import pytest

from vitkiln.engine.data.crops import Spent
from vitkiln.engine.data.feed import Feed
from vitkiln.engine.data.stages import Stages


def stages(spent: Spent, workers: int = 2, files: bool = True, **behind: float) -> Stages:
    found = Stages(files, workers)
    found.worked(spent, 100)
    for name, seconds in behind.items():
        found.add(name, seconds)
    return found


@pytest.mark.parametrize(
    ("found", "limit", "knob"),
    [
        (stages(Spent(3.0, 1.0, 0.5)), "read", "engine shards build"),
        (stages(Spent(0.1, 2.0, 0.5)), "decode", "data.loader=dali"),
        (stages(Spent(0.0, 2.0, 0.5), files=False), "draw", "data.fractal_size"),
        (stages(Spent(0.1, 0.5, 2.0)), "cut", "--short-side 256"),
        (stages(Spent(0.1, 0.5, 0.5), colour=5.0), "colour", "engine doctor"),
        (stages(Spent(0.1, 0.5, 0.5), copy=5.0, colour=1.0), "copy", "run.accumulate"),
    ],
)
def test_the_slowest_stage_is_named_with_what_to_turn(found: Stages, limit: str, knob: str) -> None:
    assert found.limiting() == limit
    assert knob in found.advice(0.2)
    assert "\n" not in found.advice(0.2)


def test_work_of_many_workers_is_shared_among_them() -> None:
    assert stages(Spent(0.0, 4.0, 0.0), workers=8, colour=1.0).limiting() == "colour"
    assert stages(Spent(0.0, 4.0, 0.0), workers=1, colour=1.0).limiting() == "decode"


def test_a_system_that_does_not_count_free_cores_is_advised_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr("os.sched_getaffinity")  # macOS has none
    assert "steps wait" in stages(Spent(0.1, 2.0, 0.5)).advice(0.2)


class Nothing:
    stages = stages(Spent(0.0, 4.0, 0.0))

    def __iter__(self):
        return iter(())


def test_it_is_said_once_and_not_of_the_first_steps(caplog: pytest.LogCaptureFixture) -> None:
    import torch

    feed = Feed(Nothing(), torch.device("cpu"))  # type: ignore[arg-type]
    with caplog.at_level(logging.WARNING, "vitkiln"):
        feed.watch(100.0, 90.0)
        assert not caplog.records
        for waiting in (4.9, 5.1, 50.0):
            feed.watch(100.0, waiting)
    (told,) = caplog.records
    assert "steps wait 5.1% of their time for data; the limit is decode" in told.getMessage()

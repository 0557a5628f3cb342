"""Processes that read: in order, deaf to signals for the group, and an error when one of them dies."""

import os
import resource
import signal
import subprocess
import sys
import time
from itertools import count, islice
from pathlib import Path

import pytest
import torch
from torch.utils.data import get_worker_info

from vitkiln.engine.data.workers import Stream
from vitkiln.engine.errors import DataError


def twice(task: int) -> int:
    return 2 * task


def dies(task: int) -> int:
    if task == 5:
        os.kill(os.getpid(), signal.SIGKILL)
    return task


def dies_late(task: int) -> torch.Tensor:
    return torch.zeros(1 << 20) + dies(task)


def overflows(task: int) -> torch.Tensor:
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))  # of files in /dev/shm too
    return torch.zeros(1 << 20)


def hears(task: int) -> int:
    assert get_worker_info() is not None
    os.kill(os.getpid(), signal.SIGTERM)
    os.kill(os.getpid(), signal.SIGINT)
    return task


def fails(task: int) -> int:
    raise RuntimeError("what the function says")


@pytest.mark.parametrize("workers", [0, 1, 3])
def test_results_come_in_the_order_of_the_tasks(workers: int) -> None:
    results = Stream(twice, count(), workers)
    assert list(islice(results, 50)) == list(range(0, 100, 2))
    results.close()


def test_results_end_with_the_tasks() -> None:
    assert list(Stream(twice, range(3), 2)) == [0, 2, 4]


def test_a_worker_that_is_killed_is_an_error_that_says_so() -> None:
    results, started = Stream(dies, count(), 2), time.monotonic()
    with pytest.raises(DataError, match=r"died .*memory ran out.*shared memory.*data.workers"):
        list(islice(results, 50))
    assert time.monotonic() - started < 30


@pytest.mark.gpu
def test_a_worker_that_is_killed_before_its_result_is_pinned_is_an_error_too() -> None:
    with pytest.raises(DataError, match="died"):
        list(islice(Stream(dies_late, count(), 2, pin=True), 50))


def test_too_little_shared_memory_is_an_error_and_not_a_wait() -> None:
    with pytest.raises(DataError, match="/dev/shm"):
        next(Stream(overflows, count(), 1))


def test_a_signal_for_the_whole_group_leaves_the_workers_to_their_master() -> None:
    results = Stream(hears, count(), 2)
    assert list(islice(results, 6)) == list(range(6))
    results.close()


def test_an_error_of_the_function_is_told_as_it_is() -> None:
    with pytest.raises(RuntimeError, match="what the function says"):
        next(Stream(fails, count(), 1))


def test_the_handler_of_dying_children_is_left_as_it_was() -> None:
    before = signal.getsignal(signal.SIGCHLD)
    Stream(twice, range(2), 1).close()
    assert signal.getsignal(signal.SIGCHLD) == before


def test_closing_ends_the_processes() -> None:
    results = Stream(pid, count(), 2)
    pids = set(islice(results, 8))
    results.close()
    assert len(pids) == 2
    assert not any(alive(number) for number in pids)


def hangs(task: int) -> int:
    if task >= 8:
        time.sleep(1e6)
    return os.getpid()


def test_closing_ends_processes_that_hang_all_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vitkiln.engine.data.workers.GRACE", 0.5)
    results = Stream(hangs, count(), 4)
    pids, started = set(islice(results, 8)), time.monotonic()
    results.close()
    assert time.monotonic() - started < 5
    assert len(pids) == 4
    assert not any(alive(number) for number in pids)


def test_a_program_ends_though_a_process_hangs() -> None:
    code = (
        "from itertools import count; from torch.utils.data import _utils\n"
        "from test_workers import hangs; from vitkiln.engine.data.workers import Stream\n"
        "_utils.MP_STATUS_CHECK_INTERVAL = 0.2\n"
        "if __name__ == '__main__':\n    s = Stream(hangs, count(), 1)\n    [next(s) for _ in range(8)]"
    )
    subprocess.run([sys.executable, "-c", code], timeout=60, check=True, cwd=Path(__file__).parent)


def pid(task: int) -> int:
    return os.getpid()


def alive(number: int) -> bool:
    try:
        os.kill(number, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.mark.parametrize("ending", ["pass", "raise SystemExit(3)", "1 / 0"])
def test_a_program_that_forgets_to_close_still_ends(ending: str) -> None:
    code = (
        "from itertools import count; from operator import neg; from vitkiln.engine.data.workers import Stream\n"
        f"if __name__ == '__main__':\n    s = Stream(neg, count(), 2)\n    next(s)\n    {ending}"
    )
    done = subprocess.run([sys.executable, "-c", code], timeout=60, capture_output=True, check=False)
    assert done.returncode == {"pass": 0, "raise SystemExit(3)": 3, "1 / 0": 1}[ending]


def lost(task: int) -> int:
    raise FileNotFoundError(2, "No such file or directory", "categories.csv")


@pytest.mark.parametrize("workers", [0, 1])
def test_a_file_that_a_task_misses_is_told_as_such(workers: int) -> None:
    stream: Stream[int] = Stream(lost, [1], workers)
    with pytest.raises(FileNotFoundError, match=r"categories\.csv"):
        next(stream)
    stream.close()

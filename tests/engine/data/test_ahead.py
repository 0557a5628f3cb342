"""Batches made ahead are the same batches, and what goes wrong with them is told where they are taken."""

import threading
import time
from collections.abc import Iterator

import pytest
import torch

from vitkiln.engine.data.ahead import DEPTH, Ahead, HandOver, hand_over
from vitkiln.engine.errors import DataError
from vitkiln.engine.vocabulary import Batch

CPU = torch.device("cpu")


def batch(number: int) -> Batch:
    return Batch((torch.full((1, 2, 2, 3), number, dtype=torch.uint8),), torch.tensor([number]), torch.tensor([0, 0]))


def counted(made: list[int], count: int = 10**6, slowly: float = 0.0) -> Iterator[Batch]:
    for number in range(count):
        time.sleep(slowly)
        made.append(number)
        yield batch(number)


def soon(true: object, seconds: float = 10.0) -> bool:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if true():  # type: ignore[operator]
            return True
        time.sleep(0.01)
    return False


def test_batches_come_in_their_order_and_no_further_than_asked_ahead() -> None:
    made: list[int] = []
    ahead = Ahead(counted(made), CPU)
    assert [next(ahead).ids.item() for _ in range(3)] == [0, 1, 2]
    assert soon(lambda: len(made) == 3 + DEPTH)
    time.sleep(0.1)
    assert len(made) == 3 + DEPTH
    ahead.close()


def test_what_goes_wrong_is_raised_where_the_batch_is_missed_and_again() -> None:
    def failing() -> Iterator[Batch]:
        yield batch(0)
        raise DataError("the disk is gone")

    ahead = Ahead(failing(), CPU)
    assert next(ahead).ids.item() == 0
    for _ in range(2):
        with pytest.raises(DataError, match="the disk is gone"):
            next(ahead)
    ahead.close()


def test_the_end_of_the_batches_is_the_end() -> None:
    ahead = Ahead(counted([], 3), CPU)
    assert [item.ids.item() for item in ahead] == [0, 1, 2]
    ahead.close()


def test_the_thread_ends_when_nobody_wants_more() -> None:
    ahead = Ahead(counted([]), CPU)
    next(ahead)
    ahead.close()
    assert not ahead.thread.is_alive()
    assert "hand-over" not in {thread.name for thread in threading.enumerate()}


def test_after_the_close_there_is_no_batch_and_no_wait() -> None:
    ahead = Ahead(counted([]), CPU)
    ahead.close()
    with pytest.raises(StopIteration):
        [next(ahead) for _ in range(2)]


def test_batches_that_never_come_keep_no_run_from_its_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vitkiln.engine.data.ahead.GRACE", 0.1)
    closed = threading.Event()

    def hanging() -> Iterator[Batch]:
        yield batch(0)
        closed.wait()  # a worker on a disk that hangs, ended when the loader is closed

    ahead = Ahead(hanging(), CPU)
    next(ahead)
    ahead.close()
    assert ahead.thread.is_alive()
    closed.set()
    assert soon(lambda: not ahead.thread.is_alive())


@pytest.mark.parametrize("kind", [HandOver, lambda batches: Ahead(batches, CPU)])
def test_waiting_is_counted_once(kind) -> None:
    over = kind(counted([], slowly=0.05))
    for _ in range(4):
        next(over)
    assert 0.1 < over.waited() < 2.0
    assert over.waited() == 0.0
    over.close()


def test_a_step_longer_than_the_making_does_not_wait() -> None:
    ahead = Ahead(counted([], slowly=0.02), CPU)
    next(ahead)
    ahead.waited()
    for _ in range(4):
        assert soon(lambda: not ahead.ready.empty())
        next(ahead)
    assert ahead.waited() < 0.02
    ahead.close()


def test_a_cpu_makes_batches_when_they_are_wanted() -> None:
    made: list[int] = []
    over = hand_over(counted(made), CPU)
    next(over)
    assert made == [0]


@pytest.mark.gpu
def test_a_gpu_gets_whole_batches_and_counts_its_own_waiting() -> None:
    device = torch.device("cuda")

    def slow() -> Iterator[Batch]:
        for number in range(8):
            torch.cuda._sleep(20_000_000)
            whole, seed = torch.full((1 << 20,), number, device=device), torch.zeros(2, device=device)
            yield Batch((whole,), seed[:1], seed)

    ahead = Ahead(slow(), device)
    for number in range(8):
        assert (next(ahead).views[0] == number).all()
    torch.cuda.synchronize()
    assert ahead.waited() > 0.0
    ahead.close()

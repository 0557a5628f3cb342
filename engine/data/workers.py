"""Work done in other processes, in order, of which a dead one is an error that says so and never a wait."""

import signal
import threading
import warnings
import weakref
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, get_worker_info

from ..errors import DataError

Task = TypeVar("Task")
Result = TypeVar("Result")
DIED = "DataLoader worker (pid", "Pin memory thread exited"  # in its words, the latter of what a dead worker left
SHARED_MEMORY = "shared memory", "</torch_"  # in PyTorch's errors about it
GONE = ConnectionError, FileNotFoundError, EOFError  # whose images were still to be fetched
GRACE = 5.0  # seconds that processes have to end
AHEAD = 2  # tasks that each worker has before it
AT_ONCE = 32  # images of one task: shared memory holds a few such for each worker, however large the batch


class Work(Dataset[Any]):
    """A function of a task as the dataset that PyTorch's loader wants."""

    def __init__(self, function: Callable[[Any], Any]):
        self.function = function

    def __getitem__(self, task: Any) -> Any:
        result = self.function(task)
        return result if get_worker_info() is None else _shared(result)


class Stream(Iterator[Result]):
    """The results of `function` for each of the tasks, which may be endless, in their order.

    With workers > 0 in so many processes, else here when they are asked for. DataError where a process dies.
    """

    def __init__(self, function: Callable[[Task], Result], tasks: Iterable[Task], workers: int, pin: bool = False):
        with own_child_handler(), warnings.catch_warnings():
            warnings.filterwarnings("ignore", "This DataLoader will create")  # more workers than cores: as asked for
            loader: DataLoader[Result] = DataLoader(
                Work(function),
                batch_size=None,
                sampler=tasks,
                num_workers=workers,
                collate_fn=_same,
                pin_memory=pin,
                prefetch_factor=AHEAD if workers else None,
                multiprocessing_context=start_method() if workers else None,
                worker_init_fn=leave_signals,
                generator=torch.Generator(),  # else a number would be drawn from the run's own
            )
            self.results = iter(loader)
        self.workers = workers
        self.end = weakref.finalize(self, shut_down, self.results)

    def __next__(self) -> Result:
        try:
            return next(self.results)
        except (RuntimeError, *GONE) as error:
            self.close()
            reason = str(error).strip() or type(error).__name__
            died = reason.startswith(DIED) or any(word in reason for word in SHARED_MEMORY)
            gone = self.workers and isinstance(error, GONE) and not reason.startswith("Caught ")
            if not died and not gone:
                raise
            raise DataError(
                f"A process that reads images died ({reason.splitlines()[-1]}). Either memory ran out, shared memory "
                "(/dev/shm) is too small for so many processes, or somebody ended it; fewer data.workers need less "
                "of both."
            ) from None

    def close(self) -> None:
        """End the processes: those that hang, on a disk that does, after a while."""
        impatience = threading.Timer(GRACE, kill, [self.results])
        impatience.start()
        try:
            self.end()
        finally:
            impatience.cancel()


def _shared(result: Any) -> Any:
    """Tensors into shared memory here, where too little of it is an error; the queue would lose them and wait."""
    if isinstance(result, Tensor):
        return result.share_memory_()
    if isinstance(result, tuple):
        parts = map(_shared, result)
        return type(result)(*parts) if hasattr(result, "_fields") else tuple(parts)
    return result


def _same(result: Result) -> Result:
    return result


def start_method() -> str:
    """fork starts at once and shares what is loaded; a CUDA context does not survive it."""
    return "forkserver" if torch.cuda.is_initialized() else "fork"


def leave_signals(worker: int) -> None:
    """The main process decides when to end: a signal for the whole group must not take the images away from it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)


class own_child_handler:  # noqa: N801  a context manager
    """Undo PyTorch's handler of SIGCHLD, which raises in whatever line the main thread is at; the death of a worker
    is found all the same, when the next result is asked for."""

    def __enter__(self) -> None:
        self.main = threading.current_thread() is threading.main_thread()
        self.before = signal.getsignal(signal.SIGCHLD)

    def __exit__(self, *_: object) -> None:
        if self.main and self.before is not None:
            signal.signal(signal.SIGCHLD, self.before)


def shut_down(results: Any) -> None:
    """Also run at exit: workers that do not hear SIGTERM would be waited for, and those that hang for ever."""
    end = getattr(results, "_shutdown_workers", None)
    if end is not None:
        try:
            end()
        finally:
            kill(results)


def kill(results: Any) -> None:
    """Whichever processes are left."""
    for worker in getattr(results, "_workers", ()):
        if worker.is_alive():  # an error where it is no child of this process
            worker.kill()

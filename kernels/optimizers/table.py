"""Where the numbers of many tensors lie: the table that native code and kernels walk through."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

COLUMNS = ("parameter", "grad", "first", "second", "teacher", "copy", "teacher copy", "size", "group", "matrix")


def table(parameters: Sequence[Tensor], others: Sequence[Sequence[Tensor]], groups: Sequence[int]) -> Tensor:
    """int64 [tensors, COLUMNS]: addresses, 0 where there is none, then size, row of hyper, whether it is a matrix.

    `others` are gradients, first and second moments, teachers, copies, and copies of teachers; any may be empty.
    """
    none = [0] * len(parameters)
    columns = [[tensor.data_ptr() for tensor in tensors] or none for tensors in (parameters, *others)]
    sizes = [parameter.numel() for parameter in parameters]
    matrix = [int(parameter.ndim > 1) for parameter in parameters]
    return torch.tensor([*columns, sizes, list(groups) or none, matrix]).T.contiguous()


class Recording:
    """Tables of the steps in one CUDA graph: where they will lie, what will lie there, what else launches read."""

    def __init__(self, tensors: int, device: torch.device):
        self.room = torch.zeros(tensors, len(COLUMNS), dtype=torch.int64, device=device)
        self.used = 0
        self.tables, self.beside = list[tuple[Tensor, Tensor]](), list[Tensor]()

    def take(self, rows: Tensor) -> Tensor:
        """Room for a table. A graph's own memory would not do: its other launches write there in every replay."""
        start, self.used = self.used, self.used + len(rows)
        if self.used > len(self.room):
            raise RuntimeError(f"recording: tensors={len(self.room)}; must be at least {self.used} for this graph")
        there = self.room[start : self.used]
        self.tables.append((there, rows))
        return there

    def send(self) -> None:
        """Fill the room."""
        for there, rows in self.tables:
            there.copy_(rows)


_recordings: list[Recording] = []


@contextmanager
def recording(tensors: int, device: torch.device) -> Iterator[Recording]:
    """Around the capture of a CUDA graph that steps so many tensors at most, of all calls together.

    Tables of addresses are sent to the device when the capture has ended, as it can send nothing. What is given must
    live as long as the graph.
    """
    found = Recording(tensors, device)
    _recordings.append(found)
    try:
        yield found
        found.send()
    finally:
        _recordings.pop()


def sent(rows: Tensor, device: torch.device, *beside: Tensor) -> Tensor:
    """A table on the device, without waiting; while a CUDA graph is captured, once it is: see `recording`.

    `beside` are other tensors that the launch reads.
    """
    if device.type != "cuda" or not torch.cuda.is_current_stream_capturing():
        return rows.to(device, non_blocking=True)
    if not _recordings:
        raise RuntimeError("adamw_ema_ and lars_ema_ are captured inside of kernels.optimizers.recording() only")
    _recordings[-1].beside += beside
    return _recordings[-1].take(rows)

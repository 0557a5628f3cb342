"""A signal only raises a flag; the loop saves between two steps and ends."""

from __future__ import annotations

import logging
import signal
import threading
from types import FrameType, TracebackType

import torch

from . import distributed

log = logging.getLogger("vitkiln")


class Signals:
    """While it is entered, SIGTERM and SIGINT ask for an end. A second SIGINT ends at once, without saving."""

    def __init__(self) -> None:
        self.asked = False
        self.before: dict[int, object] = {}

    def __enter__(self) -> Signals:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGTERM, signal.SIGINT):
                self.before[number] = signal.signal(number, self.ask)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)  # type: ignore[arg-type]

    def ask(self, number: int, frame: FrameType | None) -> None:
        if self.asked and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.asked = True
        log.warning("%s: saving after this step, then stopping", signal.Signals(number).name)

    def stopping(self, device: torch.device, step: int, every: int) -> bool:
        """Whether to stop now. Several ranks agree every so many steps, alone one answers at once."""
        if distributed.world() == 1:
            return self.asked
        return step % every == 0 and distributed.any_rank(self.asked, device)

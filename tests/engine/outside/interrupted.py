"""A method outside the package: MoCo v3 that is interrupted, or poisoned, at the step named in the environment."""

import os
import signal
from typing import Literal

import torch

from vitkiln.engine.methods.mocov3 import MoCoV3
from vitkiln.engine.settings import mocov3


class Settings(mocov3.Settings):
    """Those of MoCo v3."""

    name: Literal["outside.interrupted"] = "outside.interrupted"  # type: ignore[assignment]


class Interrupted(MoCoV3):
    """Sends itself a signal, or puts a NaN into its weights, when the step comes."""

    def forward(self, batch):
        step = int(batch.seed[1])
        if step == int(os.environ.get("SIGNAL_AT", "-1")):
            os.kill(os.getpid(), int(os.environ.get("SIGNAL", signal.SIGTERM)))
        if step == int(os.environ.get("POISON_AT", "-1")):
            with torch.no_grad():
                self.encoder.blocks[1].mlp.fc1.weight[0, 0] = float("nan")
        return super().forward(batch)

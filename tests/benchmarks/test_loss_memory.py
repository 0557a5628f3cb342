"""Losses whose memory is compared are the same function in both implementations, or are not compared."""

import subprocess
import sys
from pathlib import Path

SMALL = """
from functools import partial
import torch
from benchmarks.methods import loss_memory
for made in (partial(loss_memory.moco, 8), partial(loss_memory.clip, 8), partial(loss_memory.simclr, 4),
             partial(loss_memory.lacvit, 120), partial(loss_memory.dino, 2, 64)):
    loss_memory.LOSSES = {"small": made}
    seconds = loss_memory.interleaved("small", 2)
    assert {kind: len(values) for kind, values in seconds.items()} == {"operator": 2, "plain": 2}
right, wrong = torch.tensor(1.0), torch.tensor(1.0002)
loss_memory.check([right, right], [right, right])
for pair in ([right, wrong], [wrong, right]):
    try:
        loss_memory.check(pair, [right, right])
    except AssertionError as error:
        print(error)
"""


def test_small_losses_agree_and_a_difference_is_found():
    ran = subprocess.run([sys.executable, "-c", SMALL], cwd=Path(__file__).parents[2], capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr[-2000:]
    assert ran.stdout.splitlines() == [f"result {n} differs by 2.0e-04 of its norm" for n in (1, 0)]

"""The step of an optimiser inside of a CUDA graph, with new numbers at every replay."""

import pytest
import torch

from vitkiln.kernels import adamw_ema_, lars_ema_
from vitkiln.kernels.optimizers import recording

pytestmark = pytest.mark.gpu
SHAPES = [(37, 5), (1024,), (40_000,), (129, 257), ()]
DEVICE = torch.device("cuda")


def tensors(seed):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=generator).to(DEVICE) for shape in SHAPES]


def adamw(step, state, rows):
    grads = [torch.sin(gradient * step) for gradient in state[4]]  # made in the step, as a backward pass does
    adamw_ema_(state[0], grads, state[1], state[2], rows, teachers=state[3])


def lars(step, state, rows):
    grads = [torch.sin(gradient * step) for gradient in state[4]]
    lars_ema_(state[0], grads, state[1], rows, teachers=state[3])


ROWS = {
    adamw: lambda step: [0.01 / step, 0.05, 0.1, 0.001, 1e-8, 1 - 0.9**step, 1 - 0.999**step, 1.0, 0.1 / step, 0.0],
    lars: lambda step: [0.1 / step, 0.05, 0.9, 0.01, 1.0, 0.1 / step, 0.0],
}


def take(update, steps, captured):
    """State after some steps; the second and all after it in a graph."""
    state = [[x.abs() for x in tensors(seed)] if seed == 2 else tensors(seed) for seed in range(5)]
    step, rows = torch.ones((), device=DEVICE), torch.tensor([ROWS[update](1)], device=DEVICE)
    update(step, state, rows)
    graph, stream = torch.cuda.CUDAGraph(), torch.cuda.Stream()
    if captured:
        with torch.cuda.stream(stream), recording(len(SHAPES), DEVICE) as kept, torch.cuda.graph(graph, stream=stream):
            for size in (10, 100_000):  # memory that is free again when tables are made
                torch.ones(size, device=DEVICE, dtype=torch.int64).mul_(-1)
            update(step, state, rows)
        assert kept.used == len(SHAPES)
    for number in range(2, steps + 1):
        step.fill_(number)
        rows.copy_(torch.tensor([ROWS[update](number)]))
        graph.replay() if captured else update(step, state, rows)
    return [tensor for part in state for tensor in part]


@pytest.mark.parametrize("update", [adamw, lars])
def test_replays_equal_launches(update):
    for replayed, launched in zip(take(update, 6, True), take(update, 6, False), strict=True):
        assert torch.equal(replayed, launched)


def test_a_capture_outside_of_a_recording_is_refused():
    state, rows = [tensors(seed) for seed in range(5)], torch.tensor([ROWS[adamw](1)], device=DEVICE)
    step = torch.ones((), device=DEVICE)
    adamw(step, state, rows)
    inside = pytest.raises(RuntimeError, match=r"inside of kernels\.optimizers\.recording")
    with inside, torch.cuda.graph(torch.cuda.CUDAGraph()):
        adamw(step, state, rows)

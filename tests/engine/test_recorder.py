"""What a recorder does with a method that cannot be recorded, and that a tape on the CPU notices what a graph would."""

import importlib.util
import logging
import re
from pathlib import Path

import pytest
import torch
from torch import nn

from vitkiln.engine.methods.method import Method
from vitkiln.engine.recorder import Recorder
from vitkiln.engine.vocabulary import Batch, Losses


def beside(name):
    """A file of this folder, which is no package."""
    spec = importlib.util.spec_from_file_location(name, Path(__file__).with_name(f"{name}.py"))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


CpuTape = beside("cpu_tape").CpuTape


class Line(Method):
    """One weight; its loss is `formula` of itself and the batch."""

    def __init__(self, formula):
        nn.Module.__init__(self)
        self.weight, self.formula = nn.Parameter(torch.ones(3)), formula
        self.hidden, self.filled = [1.0], torch.ones(())
        self.factor, self.doubled, self.left = 1.0, False, []


def batch(step):
    return Batch((torch.full((3,), float(step)),), torch.arange(3), torch.tensor([0, step]))


def steps(method, tape=None, count=8, before=lambda step: None):
    """Weights after each of some steps of gradient descent."""

    def update(batches):
        (method.formula(method, batches[0]) * method.weight).sum().backward()
        with torch.no_grad():
            method.weight -= 0.1 * method.weight.grad
        method.weight.grad = None
        return Losses({"loss": method.weight.detach().sum()})

    taking = update if tape is None else Recorder(update, method, tape, again=method.left.clear)
    found = []
    for step in range(count):
        before(step)
        taking([batch(step)])
        found.append(method.weight.detach().clone())
    return torch.stack(found), taking


def test_inputs_of_every_step_reach_a_replay():
    def formula(method, batch):
        return batch.views[0] + batch.seed[1]

    tape = CpuTape()
    assert torch.equal(steps(Line(formula), tape)[0], steps(Line(formula))[0])
    assert tape.replays == 4


def test_losses_of_a_step_stay_when_the_next_is_replayed():
    method = Line(lambda method, batch: batch.views[0])
    taking = steps(method, CpuTape(), 5)[1]
    first = taking([batch(5)])
    kept = first.total.clone()
    taking([batch(6)])
    assert first.total == kept


def test_a_number_that_changes_out_of_sight_shows_on_the_tape():
    """What the tests of recipes would see if a number reached an operator and not a tensor."""
    found = []
    for tape in (None, CpuTape()):
        method = Line(lambda method, batch: batch.views[0] * method.hidden[0])
        found.append(steps(method, tape, before=lambda step, to=method.hidden: to.__setitem__(0, float(step)))[0])
    assert torch.equal(found[0][:4], found[1][:4])
    assert not torch.equal(found[0], found[1])


def test_a_number_in_a_tensor_reaches_replays():
    found = []
    for tape in (None, CpuTape()):
        method = Line(lambda method, batch: batch.views[0] * method.filled)
        found.append(steps(method, tape, before=lambda step, to=method.filled: to.fill_(step))[0])
    assert torch.equal(*found)


def test_a_number_of_the_method_that_changes_with_every_step_is_named_and_nothing_recorded(caplog):
    found = []
    for tape in (None, CpuTape()):
        method = Line(lambda method, batch: batch.views[0] * method.factor)
        with caplog.at_level(logging.WARNING, "vitkiln"):
            found.append(steps(method, tape, before=lambda step, to=method: setattr(to, "factor", float(step)))[0])
    assert torch.equal(*found)
    assert [record.message for record in caplog.records] == [
        "run.cuda_graph: method.factor changes from step to step; as a number a graph would keep it, in a tensor not; "
        "steps are launched kernel by kernel"
    ]


def test_a_flag_that_changes_once_makes_another_recording():
    tape, found = CpuTape(), []
    for on in (None, tape):
        method = Line(lambda method, batch: batch.views[0] * (2 if method.doubled else 1))
        found.append(steps(method, on, 12, before=lambda step, to=method: setattr(to, "doubled", step > 5))[0])
    assert torch.equal(*found)
    assert (tape.recordings, tape.replays) == (2, 4)


def test_parameters_that_stop_learning_make_another_recording():
    tape, method = CpuTape(), Line(lambda method, batch: batch.views[0])
    method.other = nn.Parameter(torch.ones(()))
    steps(method, tape, 10, before=lambda step: method.other.requires_grad_(step < 5))
    assert tape.recordings == 2


REFUSED = {
    "item sends": lambda method, batch: batch.views[0] * batch.seed[1].item(),
    "tensor sends": lambda method, batch: batch.views[0] * torch.tensor([1.0, 2.0, 3.0], device="cpu"),
    "new_tensor sends": lambda method, batch: batch.views[0] * batch.views[0].new_tensor([1.0, 2.0, 3.0]),
    "__bool__ sends": lambda method, batch: batch.views[0] if batch.seed[1] > 2 else -batch.views[0],
    "arange without a device": lambda method, batch: batch.views[0] * torch.arange(3),
    "nonzero.*waits": lambda method, batch: batch.views[0] + batch.views[0].nonzero().sum(),
    "index.*mask": lambda method, batch: batch.views[0] + batch.views[0][batch.ids > 0].sum(),
    "_local_scalar_dense.*waits": lambda method, batch: batch.views[0] + batch.views[0][batch.seed[0]],
    "rand.*random numbers": lambda method, batch: torch.rand_like(batch.views[0]),
}


@pytest.mark.parametrize("text", REFUSED)
def test_a_step_that_a_graph_cannot_hold_is_told_once_and_taken_as_written(text, caplog):
    formula, tape = REFUSED[text], CpuTape()
    torch.manual_seed(0)
    expected = steps(Line(formula))[0]
    torch.manual_seed(0)
    with caplog.at_level(logging.WARNING, "vitkiln"):
        found, taking = steps(Line(formula), tape)
    (record,) = caplog.records
    assert taking.reason is not None
    assert re.search(f"could not be recorded.*{text}", record.message)
    assert tape.replays == 0
    assert "rand" in text or torch.equal(found, expected)


def test_what_a_failed_recording_leaves_behind_is_undone():
    """The formula keeps what it has seen, as methods do between forward and backward; a second time would count."""

    def formula(method, batch):
        method.left.append(batch.views[0])
        seen = torch.stack(method.left).sum(0)
        method.left[:] = [] if batch.views[0][0].item() < 0 else method.left
        return seen

    found = [steps(method := Line(formula), tape, before=lambda step, to=method: to.left.clear())[0]
             for tape in (None, CpuTape())]  # fmt: skip
    assert torch.equal(*found)

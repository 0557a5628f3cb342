"""Many heads at once are each what a plain loop of PyTorch makes of one."""

import pytest
import torch
import torch.nn.functional as F

from vitkiln.engine.evaluate import heads as module
from vitkiln.engine.evaluate.heads import Heads
from vitkiln.engine.optim import LARS

RATES, DECAYS = (0.003, 0.1, 2.0), (0.0, 0.01, 0.1)


def points(count=40, width=6, classes=3, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return (
        torch.randn(count, width, generator=generator, dtype=torch.float64),
        torch.randint(classes, (count,), generator=generator),
        0.1 * torch.randn(width, classes, generator=generator, dtype=torch.float64),
    )


def trained(rates, decays, lars=False, steps=25):
    x, labels, start = points()
    heads = Heads(torch.tensor(rates), torch.tensor(decays), start, lars=lars)
    for step in range(steps):
        heads.step(x[step % 3 :: 3], labels[step % 3 :: 3], 1 - step / steps)
    return heads


def by_torch(rate, decay, lars=False, steps=25):
    """The same with autograd and an optimiser."""
    x, labels, start = points()
    weight, bias = start.clone().requires_grad_(), torch.zeros(start.shape[1], dtype=torch.float64).requires_grad_()
    if lars:
        optimizer = LARS([weight, bias], rate, decay, 0.9, 0.001)
    else:
        groups = [{"params": [weight], "weight_decay": decay}, {"params": [bias], "weight_decay": 0.0}]
        optimizer = torch.optim.SGD(groups, lr=rate, momentum=0.9)
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = rate * (1 - step / steps)
        optimizer.zero_grad()
        F.cross_entropy(x[step % 3 :: 3] @ weight + bias, labels[step % 3 :: 3]).backward()
        optimizer.step()
    return weight.detach(), bias.detach()


@pytest.mark.parametrize("lars", [False, True], ids=["sgd", "lars"])
def test_each_head_is_what_a_loop_of_torch_makes(lars):
    heads = trained(RATES, DECAYS, lars)
    for number, (rate, decay) in enumerate(zip(RATES, DECAYS, strict=True)):
        weight, bias = by_torch(rate, decay, lars)
        torch.testing.assert_close(heads.weight[number], weight, rtol=1e-5, atol=1e-7)
        torch.testing.assert_close(heads.bias[number, 0], bias, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("lars", [False, True], ids=["sgd", "lars"])
def test_heads_at_once_equal_each_alone(lars):
    together = trained(RATES, DECAYS, lars)
    for number in range(len(RATES)):
        alone = trained(RATES[number : number + 1], DECAYS[number : number + 1], lars)
        torch.testing.assert_close(together.weight[number], alone.weight[0], rtol=1e-12, atol=1e-12)


def test_a_small_memory_changes_nothing(monkeypatch):
    whole = trained(RATES, DECAYS)
    monkeypatch.setattr(module, "AT_ONCE", 50)
    assert len(list(whole.parts(14))) == 3
    torch.testing.assert_close(trained(RATES, DECAYS).weight, whole.weight)


def test_a_head_that_diverges_takes_no_other_with_it():
    heads = trained((0.1, 1e300), (0.0, 0.0))
    assert not heads.weight[1].isfinite().all()
    torch.testing.assert_close(heads.weight[0], trained((0.1,), (0.0,)).weight[0])


def test_hits_are_counted_for_every_head():
    heads = trained(RATES, DECAYS)
    x, labels, _ = points(seed=1)
    expected = [int(((x @ w + b).argmax(1) == labels).sum()) for w, b in zip(heads.weight, heads.bias, strict=True)]
    assert heads.hits(x, labels).tolist() == expected

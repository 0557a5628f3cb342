import math

import pytest

from vitkiln.engine.pace import Pace
from vitkiln.engine.schedule import cosine, cosine_absolute, cosine_inclusive, quarter_cosine
from vitkiln.engine.settings import Optim, Run


@pytest.mark.parametrize("step", [0, 1, 39, 40, 41, 170, 299, 300])
def test_cosine_is_mocos(step):
    epochs, warmup, base = 300, 40, 6e-4
    expected = (
        base * step / warmup
        if step < warmup
        else base * 0.5 * (1 + math.cos(math.pi * (step - warmup) / (epochs - warmup)))
    )
    assert cosine(step, epochs, warmup, base) == pytest.approx(expected, abs=1e-18)


def test_cosine_inclusive_is_the_published_array():
    steps, warmup, base, final = 50, 10, 1.0, 0.1
    array = [base * i / (warmup - 1) for i in range(warmup)]
    array += [final + 0.5 * (base - final) * (1 + math.cos(math.pi * i / 40)) for i in range(40)]
    assert [cosine_inclusive(i, steps, warmup, base, final) for i in range(steps)] == pytest.approx(array)


def test_cosine_absolute_is_not_shifted_by_the_warm_up():
    assert cosine_absolute(50, 100, 10, 1.0, 1e-5) == pytest.approx(1e-5 + 0.5 * (1 - 1e-5))


def test_quarter_cosine_values():
    shares = [quarter_cosine(t, 1000, 100, 5e-4) / 5e-4 for t in (100, 500, 900)]
    assert shares == pytest.approx([0.9877, 0.708, 0.159], abs=6e-4)


def test_a_budget_of_steps_compresses_the_whole_schedule():
    optim = Optim(lr=1.0, warmup_epochs=40.0)
    pace = Pace(Run(epochs=300.0, steps=30), steps_per_epoch=7)
    rates = []
    while not pace.done:
        rates.append(pace.rate(optim, 1.0))
        pace.step += 1
    assert len(rates) == 30
    assert rates[0] == 0
    assert max(rates) == rates[4]  # 40 of 300 epochs are 4 of 30 steps


def test_epochs_are_the_budget_by_default():
    pace = Pace(Run(epochs=2.0), steps_per_epoch=5, step=9)
    assert not pace.done
    pace.step += 1
    assert pace.done


def test_a_budget_of_minutes_follows_the_clock():
    optim = Optim(lr=1.0, warmup_epochs=10.0)
    pace = Pace(Run(epochs=100.0, minutes=2.0), steps_per_epoch=1000, seconds=6.0)
    assert pace.rate(optim, 1.0) == pytest.approx(0.5)
    pace.seconds = 120.0
    assert pace.done
    assert pace.rate(optim, 1.0) == 0


@pytest.mark.parametrize("steps", [None, 30])
def test_a_rate_that_moves_once_an_epoch_stays_for_the_whole_of_it(steps):
    """LaCViT's: eta + (base - eta) (1 + cos(pi e / E)) / 2 with e the number of the epoch."""
    optim = Optim(lr=1.0, rate_per="epoch", min_lr=0.1)
    pace = Pace(Run(epochs=10.0, steps=steps), steps_per_epoch=7)
    each = round(pace.planned / 10)
    rates = []
    while not pace.done:
        rates.append(pace.rate(optim, 1.0))
        pace.step += 1
    expected = [0.1 + 0.9 * (1 + math.cos(math.pi * epoch / 10)) / 2 for epoch in range(10) for _ in range(each)]
    assert rates == pytest.approx(expected)

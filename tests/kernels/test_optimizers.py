"""One pass of AdamW and LARS with the teacher's average, against PyTorch's optimisers and float64."""

import pytest
import torch
from torch import Tensor

from vitkiln.kernels import adamw_ema_, lars_ema_, use
from vitkiln.kernels._shared.native import native
from vitkiln.kernels.optimizers.table import Recording

SHAPES = [(37, 5), (1024,), (40_000,), (1,), (129, 257), (2, 3, 4, 5), ()]
GROUPS = [0, 1, 0, 1, 0, 0, 1]
IMPLEMENTATIONS = ["reference", "torch"]  # the latter is C++ where there is a compiler


def tensors(seed: int, dtype: torch.dtype = torch.float32) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=generator).to(dtype) for shape in SHAPES]


def adamw_row(step: int = 1, scale: float = 1.0, pull: float = 0.01, skip: float = 0.0, decay: float = 0.05) -> list:
    return [0.01, decay, 0.1, 0.001, 1e-8, 1 - 0.9**step, 1 - 0.999**step, scale, pull, skip]


def after_adamw(implementation: str, rows: list, dtype: torch.dtype = torch.float32) -> dict[str, list[Tensor]]:
    state = {name: tensors(seed, dtype) for seed, name in enumerate(("p", "g", "m", "v", "t"))}
    state["v"] = [v.abs() for v in state["v"]]
    with use(implementation, "optimizers"):
        adamw_ema_(*[state[name] for name in "pgmv"], torch.tensor(rows), GROUPS, state["t"])
    return state


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_adamw_agrees_with_float64(implementation, close):
    rows = [adamw_row(7, scale=0.3), adamw_row(7, decay=0.0)]
    expected = after_adamw("reference", rows, torch.float64)
    for name, actual in after_adamw(implementation, rows).items():
        for one, other in zip(actual, expected[name], strict=True):
            close(one, other, torch.float32)


def row_of(optimizer: torch.optim.Optimizer, step: int) -> Tensor:
    group = optimizer.param_groups[0]
    beta1, beta2 = group["betas"]
    row = [group["lr"], group["weight_decay"], 1 - beta1, 1 - beta2, group["eps"], 1 - beta1**step, 1 - beta2**step]
    return torch.tensor([[*row, 1.0, 0.0, 0.0]])


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_many_steps_drift_no_further_than_torchs_own(implementation):
    ours, theirs = ([p.clone().requires_grad_() for p in tensors(0)[:2]] for _ in range(2))
    exact = [p.detach().double().requires_grad_() for p in ours]
    state = [[torch.zeros_like(p) for p in ours] for _ in range(2)]
    optimizers = [torch.optim.AdamW(x, lr=1e-3, weight_decay=0.1) for x in (theirs, exact)]
    for step in range(1, 301):
        grads = [torch.randn(p.shape, generator=torch.Generator().manual_seed(step)) for p in ours]
        for parameters, optimizer in zip((theirs, exact), optimizers, strict=True):
            for parameter, grad in zip(parameters, grads, strict=True):
                parameter.grad = grad.to(parameter.dtype)
            optimizer.step()
        with use(implementation, "optimizers"):
            adamw_ema_(ours, grads, *state, row_of(optimizers[0], step))
    drift = [max((p - e).abs().max().item() for p, e in zip(x, exact, strict=True)) for x in (ours, theirs)]
    assert drift[0] <= 1.5 * drift[1]


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_lars_agrees_with_float64(implementation, close):
    hyper = torch.tensor([[0.1, 0.05, 0.9, 0.001, 0.7, 0.01, 0.0], [0.2, 0.0, 0.8, 0.002, 1.0, 0.5, 0.0]])

    def moved(implementation, dtype):
        p, g, m, t = (tensors(seed, dtype) for seed in range(4))
        with use(implementation, "optimizers"):
            lars_ema_(p, g, m, hyper, GROUPS, t)
        return [*p, *m, *t]

    for one, other in zip(moved(implementation, torch.float32), moved("reference", torch.float64), strict=True):
        close(one, other, torch.float32)


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_lars_leaves_vectors_unadapted_and_takes_a_factor_of_1_where_a_norm_is_0(implementation):
    hyper = torch.tensor([[0.1, 0.5, 0.9, 0.001, 1.0, 0.0, 0.0]])
    vector, zero, still = torch.ones(4), torch.zeros(2, 2), torch.ones(2, 2)
    grads = [torch.full((4,), 2.0), torch.full((2, 2), 3.0), torch.full((2, 2), -0.5)]  # the last cancels its decay
    with use(implementation, "optimizers"):
        lars_ema_([vector, zero, still], grads, [torch.zeros_like(g) for g in grads], hyper)
    assert torch.allclose(vector, torch.full((4,), 0.8))
    assert torch.allclose(zero, torch.full((2, 2), -0.3))
    assert torch.equal(still, torch.ones(2, 2))


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_a_row_that_skips_moves_nothing_though_gradients_are_no_numbers(implementation):
    before = {name: tensors(seed) for seed, name in enumerate(("p", "g", "m", "v", "t"))}
    grads = [torch.full_like(g, torch.nan) for g in before["g"]]
    now = {name: [x.clone() for x in before[name]] for name in "pmvt"}
    with use(implementation, "optimizers"):
        adamw_ema_(now["p"], grads, now["m"], now["v"], torch.tensor([adamw_row(skip=1.0)]), (), now["t"])
        lars_ema_(now["p"], grads, now["m"], torch.tensor([[0.1, 0.1, 0.9, 0.001, 1, 0.5, 1]]), (), now["t"])
    assert all(torch.equal(one, other) for name in "pmvt" for one, other in zip(now[name], before[name], strict=True))


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_a_teacher_equal_to_a_student_that_stands_still_stays_equal(implementation):
    p = tensors(0)
    teacher, zeros = [x.clone() for x in p], [torch.zeros_like(x) for x in p]
    row = adamw_row(decay=0.0, pull=0.004)
    with use(implementation, "optimizers"):
        for _ in range(50):
            state = [[torch.zeros_like(x) for x in p] for _ in range(2)]
            adamw_ema_(p, zeros, *state, torch.tensor([row]), (), teacher)
    assert all(torch.equal(one, other) for one, other in zip(p, teacher, strict=True))


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_copies_are_what_was_computed_rounded(implementation):
    p, g, m, v, teacher = (tensors(seed) for seed in range(5))
    p[2][:4] = torch.tensor([torch.inf, -torch.inf, torch.nan, 3.3e38])
    copies, theirs = ([torch.zeros_like(x, dtype=torch.bfloat16) for x in p] for _ in range(2))
    with use(implementation, "optimizers"):
        hyper = torch.tensor([adamw_row()])
        adamw_ema_(p, g, m, [x.abs() for x in v], hyper, (), teacher, copies, theirs)
    for exact, copy in zip([*p, *teacher], [*copies, *theirs], strict=True):
        assert torch.equal(copy.nan_to_num(nan=7.0), exact.bfloat16().nan_to_num(nan=7.0))


@pytest.mark.skipif(not native("optimizers"), reason="no C++ compiler")
@pytest.mark.parametrize("threads", [1, 3])
def test_threads_change_nothing(threads):
    def moved(threads):
        before = torch.get_num_threads()
        torch.set_num_threads(threads)
        try:
            rows = [adamw_row(3), adamw_row(3)]
            return [x for tensors in after_adamw("torch", rows).values() for x in tensors]
        finally:
            torch.set_num_threads(before)

    assert all(torch.equal(one, other) for one, other in zip(moved(threads), moved(2), strict=True))


def test_what_is_not_contiguous_or_fp32_is_moved_all_the_same(close):
    p, g = torch.randn(6, 4).T, torch.randn(4, 6)
    state = [torch.zeros(4, 6) for _ in range(2)]
    wanted = [x.contiguous().double() for x in (p, g, *state)]
    hyper = torch.tensor([adamw_row()])
    adamw_ema_([p], [g], *[[x] for x in state], hyper)
    adamw_ema_(*[[x] for x in wanted], hyper)
    close(p, wanted[0], torch.float32)


def test_nothing_to_move_is_no_mistake():
    adamw_ema_([], [], [], [], torch.tensor([adamw_row()]))


BAD = {
    "grads": ({"grads": [torch.zeros(3)]}, r"grads\[0\]: float32 \[3\] on cpu; must be \[2\] on cpu"),
    "as many": ({"exp_avgs": []}, "exp_avgs: 0; must be as many tensors as parameters, 1"),
    "hyper": ({"hyper": torch.zeros(1, 9)}, r"hyper: float32 \[1, 9\] on cpu; must be contiguous fp32 \[groups, 10\]"),
    "groups": ({"groups": [1]}, r"groups: \[1\]; must be a row of hyper, below 1, for each of 1"),
    "copies": ({"teacher_copies": [torch.zeros(2)]}, "teacher_copies: None; must be given only beside teachers"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_arguments_are_named(case):
    changed, complaint = BAD[case]
    given = {name: [torch.zeros(2)] for name in ("parameters", "grads", "exp_avgs", "exp_avg_sqs")}
    with pytest.raises(ValueError, match=complaint):
        adamw_ema_(**{**given, "hyper": torch.tensor([adamw_row()]), **changed})


@pytest.mark.gpu
@pytest.mark.parametrize("copies", [False, True])
def test_the_kernel_moves_as_float64_does(copies, close):
    rows = [adamw_row(7, scale=0.3), adamw_row(7, decay=0.0)]
    expected = after_adamw("reference", rows, torch.float64)
    state = {name: [x.cuda() for x in tensors(seed)] for seed, name in enumerate(("p", "g", "m", "v", "t"))}
    state["v"] = [v.abs() for v in state["v"]]
    lists = [[torch.zeros_like(x, dtype=torch.bfloat16) for x in state["p"]] for _ in range(2)] if copies else ([], [])
    with use("triton", "optimizers"):
        adamw_ema_(*[state[name] for name in "pgmv"], torch.tensor(rows).cuda(), GROUPS, state["t"], *lists)
    for name, actual in state.items():
        for one, other in zip(actual, expected[name], strict=True):
            close(one.cpu(), other, torch.float32)
    assert all(torch.equal(copy, exact.bfloat16()) for copy, exact in zip(lists[0], state["p"], strict=False))


def test_tables_of_a_recording_have_places_of_their_own_and_come_when_it_ends():
    first, second = torch.arange(30).view(3, 10), torch.arange(20).view(2, 10) + 100
    recording = Recording(6, torch.device("cpu"))
    places = [recording.take(rows) for rows in (first, second)]
    assert all((place == 0).all() for place in places)
    recording.send()
    assert torch.equal(places[0], first)
    assert torch.equal(places[1], second)
    assert recording.room[5].eq(0).all()


def test_a_recording_of_more_tensors_than_it_has_room_for_is_refused():
    recording = Recording(2, torch.device("cpu"))
    recording.take(torch.zeros(1, 10, dtype=torch.int64))
    with pytest.raises(RuntimeError, match=r"recording: tensors=2; must be at least 3 for this graph"):
        recording.take(torch.zeros(2, 10, dtype=torch.int64))

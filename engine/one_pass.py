"""AdamW and LARS whose step also scales gradients and moves the teacher, in one pass over memory."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import accumulate, pairwise
from typing import Any, ClassVar

import torch
from torch import Tensor

from vitkiln import kernels
from vitkiln.kernels.optimizers import ADAMW, LARS, ready
from vitkiln.kernels.optimizers import recording as sending

from .settings import Optim


class OnePass(torch.optim.Optimizer):
    """PyTorch's interface and state around `kernels.adamw_ema_` and `kernels.lars_ema_`, a row of numbers a parameter.

    Before a step: `found_inf`, other than 0 where nothing shall move; `factors` of the gradients that there are; `pull`
    and `following`, how far which teachers go towards which parameters.
    """

    columns: ClassVar[tuple[str, ...]]
    moments: ClassVar[tuple[str, ...]]

    def __init__(self, groups: list[dict[str, Any]], settings: Optim):
        super().__init__(groups, {})
        self.parameters = [parameter for group in self.param_groups for parameter in group["params"]]
        self.place = {parameter: index for index, parameter in enumerate(self.parameters)}
        device = self.parameters[0].device
        ends = [*accumulate(len(group["params"]) for group in self.param_groups)]
        self.spans = [slice(start, end) for start, end in pairwise([0, *ends])]  # the rows of each group
        self.steps = torch.zeros(len(self.parameters), device=device)
        self.rows = torch.zeros(len(self.parameters), len(self.columns), device=device)
        self.found_inf, self.factors = torch.zeros((), device=device), None
        self.pull, self.following = 0.0, dict[Tensor, Tensor]()
        self.places = dict[tuple[int, ...], Tensor]()  # those of some parameters, on the device
        for index, parameter in enumerate(self.parameters):
            self.state[parameter] = {name: torch.zeros_like(parameter) for name in self.moments}
            self.state[parameter]["step"] = self.steps[index]
        self.write(settings)

    found_inf: Tensor
    factors: Tensor | None
    pull: Tensor | float
    following: Mapping[Tensor, Tensor]

    def write(self, settings: Optim) -> None:
        """The numbers that stay."""
        raise NotImplementedError

    def correct(self) -> None:
        """The numbers that follow from how many steps have been taken."""

    def move(self, parameters: Sequence[Tensor], rows: list[int], teachers: Sequence[Tensor]) -> None:
        """The operator on some of the parameters, by their places."""
        raise NotImplementedError

    def fill(self, name: str, value: Tensor | float, where: Tensor | slice = slice(None)) -> None:
        """A column of the rows."""
        column = self.rows[:, self.columns.index(name)]
        if isinstance(where, slice):
            column[where].copy_(value) if isinstance(value, Tensor) else column[where].fill_(value)
        else:
            column[where] = value if isinstance(value, Tensor) else self.rows.new_full((), value)

    def rows_of(self, moving: list[int]) -> Tensor | slice:
        """Where the numbers of these parameters are; sent to the device once, as a recorded graph can send nothing."""
        if len(moving) == len(self.parameters):
            return slice(None)
        if tuple(moving) not in self.places:
            self.places[tuple(moving)] = torch.tensor(moving, device=self.steps.device)
        return self.places[tuple(moving)]

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """Move what has a gradient, and every teacher."""
        moving = [index for index, parameter in enumerate(self.parameters) if parameter.grad is not None]
        where = self.rows_of(moving)
        self.steps[where] += (self.found_inf == 0).to(self.steps)
        for group, span in zip(self.param_groups, self.spans, strict=True):
            self.fill("lr", group["lr"], span)
            self.fill("weight_decay", group["weight_decay"], span)
        self.correct()
        self.fill("scale", 1.0 if self.factors is None else self.factors, where)
        self.fill("pull", self.pull)
        self.fill("skip", self.found_inf)
        led = [index for index in moving if self.parameters[index] in self.following]
        alone = [index for index in moving if self.parameters[index] not in self.following]
        self.move([self.parameters[i] for i in alone], alone, [])
        self.move([self.parameters[i] for i in led], led, [self.following[self.parameters[i]] for i in led])
        self.follow_the_still({self.parameters[index] for index in moving})

    def follow_the_still(self, moved: set[Tensor]) -> None:
        """Teachers of parameters that have no gradient, or that learn nothing at all."""
        follow({student: teacher for student, teacher in self.following.items() if student not in moved}, self.pull)

    def of(self, name: str, parameters: Sequence[Tensor]) -> list[Tensor]:
        """One of the moments."""
        return [self.state[parameter][name] for parameter in parameters]

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """As PyTorch does, but into the tensors that are there: a loaded one may lie where no kernel can read it."""
        mine = [dict(self.state[parameter]) for parameter in self.parameters]
        super().load_state_dict(state_dict)
        for parameter, tensors in zip(self.parameters, mine, strict=True):
            for name, tensor in tensors.items():
                tensor.copy_(self.state[parameter][name])
            self.state[parameter] = tensors


class AdamW(OnePass):
    """`kernels.adamw_ema_`"""

    columns, moments = ADAMW, ("exp_avg", "exp_avg_sq")

    def write(self, settings: Optim) -> None:
        self.betas = settings.betas
        for name, value in zip(("weight1", "weight2"), self.betas, strict=True):
            self.fill(name, 1 - value)
        self.fill("eps", 1e-8)

    def correct(self) -> None:
        for name, beta in zip(("correction1", "correction2"), self.betas, strict=True):
            self.fill(name, (1 - beta ** self.steps.double()).float())

    def move(self, parameters: Sequence[Tensor], rows: list[int], teachers: Sequence[Tensor]) -> None:
        grads = [parameter.grad for parameter in parameters if parameter.grad is not None]
        first, second = (self.of(name, parameters) for name in self.moments)
        kernels.adamw_ema_(parameters, grads, first, second, self.rows, rows, teachers)


class Lars(OnePass):
    """`kernels.lars_ema_`"""

    columns, moments = LARS, ("momentum_buffer",)

    def write(self, settings: Optim) -> None:
        self.fill("momentum", settings.momentum)
        self.fill("trust", settings.trust)

    def move(self, parameters: Sequence[Tensor], rows: list[int], teachers: Sequence[Tensor]) -> None:
        grads = [parameter.grad for parameter in parameters if parameter.grad is not None]
        kernels.lars_ema_(parameters, grads, self.of("momentum_buffer", parameters), self.rows, rows, teachers)


ONE_PASS = {"adamw": AdamW, "lars": Lars}


@torch.no_grad()
def follow(following: Mapping[Tensor, Tensor], pull: Tensor | float) -> None:
    """teacher += pull * (weight - teacher): where the two are equal they stay equal, bit for bit."""
    for student, teacher in following.items():
        teacher.lerp_(student, pull)


def usable(name: str, device: torch.device) -> bool:
    """Whether this optimiser has one, and code that makes it worth while can run on the device."""
    return name in ONE_PASS and ready(device.type)


@contextmanager
def recording(optimizer: torch.optim.Optimizer) -> Iterator[object]:
    """Around the capture of a CUDA graph that steps; what is given must live as long as the graph."""
    groups = [group for group in optimizer.param_groups if "capturable" in group]  # PyTorch's AdamW
    for group in groups:
        group["capturable"] = True
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    try:
        with sending(len(parameters), parameters[0].device) as kept:
            yield kept
    finally:
        for group in groups:
            group["capturable"] = False  # else it warns of every step that is not recorded

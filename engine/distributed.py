"""Ranks: how many there are, which one this is, and the few collectives that the methods need."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn


def rank() -> int:
    """Of this process; 0 where there is but one."""
    return dist.get_rank() if dist.is_initialized() else 0


def world() -> int:
    """How many processes train together."""
    return dist.get_world_size() if dist.is_initialized() else 1


def local_rank() -> int:
    """Of this process on its machine."""
    return int(os.environ.get("LOCAL_RANK", "0"))


def is_first() -> bool:
    """Whether this is the first rank, also after the group has been left."""
    return os.environ.get("RANK", "0") == "0"


@contextmanager
def ranks(device: torch.device) -> Iterator[None]:
    """Join the group that torchrun announces in the environment, and leave it at the end; alone, do nothing."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1 or dist.is_initialized():
        yield
        return
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    try:
        yield
    finally:
        dist.destroy_process_group()


def gather(tensor: Tensor) -> Tensor:
    """The rows of all ranks, in rank order, without gradient: [B, ...] -> [world * B, ...]"""
    if world() == 1:
        return tensor.detach()
    parts = [torch.empty_like(tensor) for _ in range(world())]
    dist.all_gather(parts, tensor.detach().contiguous())
    return torch.cat(parts)


class Gather(torch.autograd.Function):
    """The rows of all ranks; each rank's rows have the sum of the gradients that all ranks have for them."""

    @staticmethod
    def forward(ctx: Any, tensor: Tensor) -> Tensor:
        return gather(tensor)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        own = grad.new_empty(len(grad) // world(), *grad.shape[1:])
        dist.reduce_scatter(own, [*grad.contiguous().chunk(world())])
        return own


def gather_with_gradient(tensor: Tensor) -> Tensor:
    """The rows of all ranks, in rank order, with the gradient flowing back to each: [B, ...] -> [world * B, ...]"""
    return tensor if world() == 1 else Gather.apply(tensor)


class Sum(torch.autograd.Function):
    """The sum over ranks; each rank's part of it has the sum of all ranks' gradients."""

    @staticmethod
    def forward(ctx: Any, tensor: Tensor) -> Tensor:
        total = tensor.detach().clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return Sum.forward(ctx, grad)


def sum_over_ranks(tensor: Tensor) -> Tensor:
    """The sum over all ranks, with the gradient flowing back to each of them."""
    return tensor if world() == 1 else Sum.apply(tensor)


def mean_over_ranks(tensor: Tensor) -> Tensor:
    """The mean over all ranks, without gradient: for what is reported."""
    if world() > 1:
        tensor = tensor.detach().clone()
        dist.all_reduce(tensor)
        tensor /= world()
    return tensor


def any_rank(flag: bool, device: torch.device) -> bool:
    """Whether any rank says yes: all ranks then do the same thing at the same step."""
    if world() == 1:
        return flag
    votes = torch.tensor(int(flag), device=device)
    dist.all_reduce(votes, dist.ReduceOp.MAX)
    return bool(votes.item())


def from_first_rank(value: object) -> object:
    """What the first rank holds, on every rank."""
    if world() == 1:
        return value
    box = [value]
    dist.broadcast_object_list(box)
    return box[0]


def parallel(method: nn.Module, device: torch.device) -> nn.Module:
    """The method as every rank trains it: gradients averaged where there are several ranks."""
    if world() == 1:
        return method
    return nn.parallel.DistributedDataParallel(
        method,
        device_ids=[device.index] if device.type == "cuda" else None,
        gradient_as_bucket_view=True,
    )

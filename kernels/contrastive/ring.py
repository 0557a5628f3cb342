"""`ring_info_nce`: keys travel from rank to rank, for batches whose keys no rank should hold all at once."""

from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor

from .chunks import LOG2_E, NONE
from .op import backward_rows, check, common_dtype, forward_rows, implementation


def ring_info_nce(
    query: Tensor, key: Tensor, temperature: float, normalize: bool = True, group: dist.ProcessGroup | None = None
) -> Tensor:
    """`info_nce` of this rank's queries against the keys of all ranks of the group, of which none holds all

    query and key [N, D], N the same on every rank, the positive of each query in its row of this rank's keys:
    loss [N] and gradients are those of info_nce with gathered keys and offset rank * N. Blocks of keys go around
    the ring while the one before is worked on, log-sum-exps are merged by their maximum, and in the backward pass
    the gradient of a block goes around with it, in fp32. A gather is faster until keys fill the memory. All ranks
    must call it, and all run its backward pass or none. ValueError as info_nce.
    """
    check(query, key, temperature, 0)
    dtype = common_dtype(query, key)
    wide = torch.promote_types(dtype, torch.float32)
    query, key = query.to(dtype), key.to(dtype)
    with torch.autocast(query.device.type, enabled=False):
        others = _Others.apply(query, key, float(temperature), normalize, group)
        rows, own = query.to(wide), key[: len(query)].to(wide)
        if normalize:
            rows, own = F.normalize(rows, dim=1), F.normalize(own, dim=1)
        return -F.logsigmoid((rows * own).sum(1) / temperature - others)


class _Others(torch.autograd.Function):
    """The log-sum-exp of each row's logits but that of its positive."""

    @staticmethod
    def forward(
        ctx: Any, query: Tensor, key: Tensor, temperature: float, normalize: bool, group: dist.ProcessGroup | None
    ) -> Tensor:
        triton = implementation(query, key) == "triton"
        lse: Tensor | None = None
        block, (before, after, world) = key.detach().contiguous(), _neighbours(group)
        for step in range(world):
            coming = _send(block, before, after, group) if step + 1 < world else None
            without = NONE if step else 0
            found = forward_rows(query.detach(), block, temperature, NONE, without, normalize, False, triton)[0]
            lse = found if lse is None else torch.logaddexp(lse, found)
            block = _received(coming) if coming else block
        assert lse is not None
        ctx.save_for_backward(query, key, lse)
        ctx.settings = temperature, normalize, group, triton
        return lse

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        query, key, lse = ctx.saved_tensors
        temperature, normalize, group, triton = ctx.settings
        base = lse * LOG2_E if triton else lse
        block, (before, after, world) = key.contiguous(), _neighbours(group)
        query_grad, block_grad = (torch.zeros_like(x, dtype=lse.dtype) for x in (query, key))
        for step in range(world):
            coming = _send(block, before, after, group) if step + 1 < world else None
            settings = temperature, NONE, NONE if step else 0, normalize
            to_query, to_key = backward_rows(grad, query, block, lse, base, *settings, True, triton)
            query_grad += to_query
            block_grad += to_key
            if world > 1:  # after the last step it is where it belongs
                block_grad = _received(_send(block_grad, before, after, group))
            block = _received(coming) if coming else block
        return query_grad.to(query.dtype), block_grad.to(key.dtype), None, None, None


Transfer = tuple[list[dist.Work], Tensor]


def _neighbours(group: dist.ProcessGroup | None) -> tuple[int, int, int]:
    """Whom this rank receives from and sends to, as numbers of all processes, and how many go around."""
    if not dist.is_initialized():
        return 0, 0, 1
    rank, world = dist.get_rank(group), dist.get_world_size(group)
    members = dist.get_process_group_ranks(group if group is not None else dist.group.WORLD)
    return members[(rank - 1) % world], members[(rank + 1) % world], world


def _send(block: Tensor, before: int, after: int, group: dist.ProcessGroup | None) -> Transfer:
    """Start passing a block on and taking the one that comes."""
    coming = torch.empty_like(block)
    both = [dist.P2POp(dist.isend, block, after, group), dist.P2POp(dist.irecv, coming, before, group)]
    return dist.batch_isend_irecv(both), coming


def _received(transfer: Transfer) -> Tensor:
    for work in transfer[0]:
        work.wait()
    return transfer[1]

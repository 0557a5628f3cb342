"""A softmax over columns that come some at a time, and how many come at once."""

from collections.abc import Iterator

import torch
from torch import Tensor

LOGITS_AT_ONCE = 1 << 20  # 4 MB in fp32: the prototypes of a chunk and its logits are as many as fit, but no fewer than
PROTOTYPES_AT_ONCE = 64  # which for features wider than that is no more than the features


class Softmax:
    """Of each row, over the columns so far; with values, also their mean under it."""

    def __init__(self, rows: Tensor):
        self.largest = rows.new_full((len(rows), 1), -torch.inf)
        self.total = rows.new_zeros(len(rows), 1)
        self.value = torch.zeros_like(rows)

    def add(self, logits: Tensor, values: Tensor | None = None) -> None:
        """logits [R, c], which are overwritten, and values [c, d] of the columns."""
        largest = torch.maximum(self.largest, logits.amax(1, keepdim=True))
        shrink = (self.largest - largest).exp_()
        share = logits.sub_(largest).exp_()
        self.total.mul_(shrink).add_(share.sum(1, keepdim=True))
        if values is not None:
            self.value.mul_(shrink).addmm_(share, values)
        self.largest = largest

    def mean(self) -> Tensor:
        """[R, d]"""
        return self.value / self.total

    def sums(self) -> Tensor:
        """[R, 2]: the largest logit, and the sum of exp(logit - largest), which no large logit rounds."""
        return torch.cat([self.largest, self.total], 1)

    def lse(self) -> Tensor:
        """log of the sum of exp, [R, 1]"""
        return self.largest + self.total.log()


def shares(logits: Tensor, sums: Tensor, factor: Tensor | float) -> Tensor:
    """factor * softmax of logits [R, c], which are overwritten, among all columns that the sums are of."""
    return logits.sub_(sums[:, :1]).exp_().mul_(factor / sums[:, 1:])


def chunks(prototypes: int, rows: int, width: int = 1) -> Iterator[slice]:
    """Of all prototypes, for that many rows of logits, and prototypes of a width where they are copied."""
    size = max(PROTOTYPES_AT_ONCE, LOGITS_AT_ONCE // max(1, rows, width))
    for start in range(0, prototypes, size):
        yield slice(start, min(start + size, prototypes))

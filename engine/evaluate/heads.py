"""Many linear classifiers trained at once on the same features, each as if it were alone."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

AT_ONCE = 1 << 27  # logits


class Heads:
    """W_r [D, C] and b_r [C] for each of R rates; a batch costs them one batched product, [B, D] x [R, D, C].

    Momentum SGD: v = 0.9 v + g + decay W, W -= share * rate * v. With `lars` the gradient of W, decay included, is
    first scaled by 0.001 |W| / |g| (You et al., arXiv:1708.03888; 1 where either norm is 0), that of b is not. Biases
    do not decay. The gradients are those of the mean cross-entropy, written out: a rate for each head is no optimiser
    of PyTorch's. All heads start alike.
    """

    momentum, trust = 0.9, 0.001

    def __init__(self, rates: Tensor, decays: Tensor, start: Tensor, *, lars: bool = False):
        count, (width, classes) = len(rates), start.shape
        self.lars = lars
        self.rates, self.decays = (values.to(start)[:, None, None] for values in (rates, decays))
        self.weight = start.expand(count, width, classes).clone()
        self.bias = start.new_zeros(count, 1, classes)
        self.moved = torch.zeros_like(self.weight), torch.zeros_like(self.bias)

    def parts(self, rows: int) -> Iterator[slice]:
        """Heads whose logits for so many rows fit into memory together."""
        many = max(1, AT_ONCE // (rows * self.weight.shape[2]))
        yield from (slice(start, start + many) for start in range(0, len(self.weight), many))

    def logits(self, x: Tensor, part: slice) -> Tensor:
        """[B, D] -> [heads of the part, B, C]"""
        weight = self.weight[part]
        return torch.baddbmm(self.bias[part], x.expand(len(weight), *x.shape), weight)

    def step(self, x: Tensor, labels: Tensor, share: float) -> None:
        """Learn from features [B, D] and labels [B], at `share` of the rates."""
        rows = torch.arange(len(x), device=x.device)
        for part in self.parts(len(x)):
            error = self.logits(x, part).softmax(-1)
            error[:, rows, labels] -= 1
            error /= len(x)
            weight, bias = self.weight[part], self.bias[part]
            gradient = x.T.expand(len(weight), *x.T.shape) @ error + self.decays[part] * weight
            if self.lars:
                gradient *= trusted(weight, gradient, self.trust)
            for value, change, moved in zip((weight, bias), (gradient, error.sum(1, True)), self.moved, strict=True):
                value -= share * self.rates[part] * moved[part].mul_(self.momentum).add_(change)

    def hits(self, x: Tensor, labels: Tensor) -> Tensor:
        """How many of the rows each head puts in the right class: int64 [R]"""
        found = [(self.logits(x, part).argmax(-1) == labels).sum(1) for part in self.parts(len(x))]
        return torch.cat(found)


def trusted(weight: Tensor, gradient: Tensor, trust: float) -> Tensor:
    """LARS's factor for each head: [R, 1, 1]"""
    own, change = weight.flatten(1).norm(dim=1), gradient.flatten(1).norm(dim=1)
    ratio = trust * own / change
    return torch.where((own > 0) & (change > 0), ratio, torch.ones_like(ratio))[:, None, None]

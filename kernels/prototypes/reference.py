"""What the losses over prototypes mean, in plain PyTorch: all products at once."""

from functools import reduce

import torch
from torch import Tensor

Temperature = float | Tensor


def prototype_cross_entropy(
    student: Tensor,
    teacher: Tensor,
    weight: Tensor | None,
    center: Tensor,
    student_temperature: Temperature,
    teacher_temperature: Temperature,
    teacher_weight: Tensor | None = None,
) -> Tensor:
    """mean over b, g, v != g of -sum_k softmax((W_t teacher[g, b] - center) / t)_k log softmax(W student[v, b] / s)_k

    >>> same = torch.zeros(2, 1, 4)
    >>> round(prototype_cross_entropy(same, same, None, torch.zeros(4), 0.1, 0.04).item(), 4)  # ln 4
    1.3863
    """
    wide = widest(student, teacher, weight, center, teacher_weight)
    theirs = weight if teacher_weight is None else teacher_weight
    answers, guesses = products(teacher, theirs, wide), products(student, weight, wide)
    target = ((answers - center) / teacher_temperature).softmax(-1).detach()  # [G, B, K]
    guess = (guesses / student_temperature).log_softmax(-1)  # [V, B, K]
    pairs = [-(target[g] * guess[v]).sum(-1) for g in range(len(target)) for v in range(len(guess)) if v != g]
    return torch.stack(pairs).sum() / (len(pairs) * max(1, student.shape[1]))


def sinkhorn_center(teacher: Tensor, weight: Tensor | None, temperature: Temperature, iterations: int = 3) -> Tensor:
    """-temperature * log of the factor that Sinkhorn-Knopp finds for each prototype

    >>> center = sinkhorn_center(torch.tensor([[2.0, 0.0]]), None, 1.0)
    >>> (center[0] - center[1]).item()
    2.0
    """
    logits = products(teacher, weight, widest(teacher, weight)).detach() / temperature  # [N, K]
    rows, columns = logits.new_zeros(len(logits), 1), logits.new_zeros(logits.shape[1])
    for _ in range(iterations):
        columns = -(logits + rows).logsumexp(0)
        rows = -(logits + columns).logsumexp(1, keepdim=True)
    return -columns * temperature


def products(features: Tensor, weight: Tensor | None, wide: torch.dtype) -> Tensor:
    """Logits; features are logits where there is no weight."""
    return features.to(wide) if weight is None else features.to(wide) @ weight.to(wide).T


def widest(*tensors: Tensor | None) -> torch.dtype:
    """At least fp32."""
    return reduce(torch.promote_types, [x.dtype for x in tensors if x is not None], torch.float32)

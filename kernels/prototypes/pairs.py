"""Which views of a student learn from which of a teacher: from every one but their own."""

import torch
from torch import Tensor


def taught(views: int, teachers: int, like: Tensor) -> Tensor:
    """1 where view v learns from teacher g, else 0: [V, G], of the type and on the device of another tensor

    >>> taught(3, 2, torch.zeros(1)).tolist()
    [[0.0, 1.0], [1.0, 0.0], [1.0, 1.0]]
    """
    return 1 - torch.eye(views, teachers, dtype=like.dtype, device=like.device)


def losses_in_mean(student: Tensor, teacher: Tensor) -> int:
    """Of [V, B, ..] and [G, B, ..]: pairs times images; 1 where there are none, for the sum is 0 then."""
    return max(1, teacher.shape[0] * (student.shape[0] - 1) * student.shape[1])

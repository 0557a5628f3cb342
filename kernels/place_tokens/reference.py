"""What placing tokens means, in plain PyTorch."""

import torch
from torch import Tensor


def place_tokens(tokens: Tensor, position: Tensor, keep: Tensor, place: Tensor) -> Tensor:
    """out[b, k] = tokens[b, keep[b, k]] + position[place[b, k]], the sum in fp32 and rounded once

    >>> tokens, position = torch.tensor([[[1.0], [2.0], [3.0]]]), torch.tensor([[10.0], [20.0], [30.0]])
    >>> place_tokens(tokens, position, torch.tensor([[2, 0]]), torch.tensor([[0, 0]])).flatten().tolist()
    [13.0, 11.0]
    """
    wide = torch.promote_types(torch.promote_types(tokens.dtype, position.dtype), torch.float32)
    kept = tokens.gather(1, keep[..., None].expand(-1, -1, tokens.shape[2]))  # [B, K, D]
    return (kept.to(wide) + position[place].to(wide)).to(tokens.dtype)

"""What guesses the pixels that an encoder was not shown, and is thrown away afterwards."""

from collections.abc import Sequence
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vitkiln import kernels

from .initialise import xavier
from .positions import sincos
from .vit import Block, add_norm


class Decoder(nn.Module):
    """A Vision Transformer over what the encoder said of visible patches and one learned token for every hidden one.

    The decoder of MAE (arXiv:2111.06377, section 3): a narrower width, every patch told its true place by a fixed
    sin-cos table, blocks as the encoder's, a linear layer to pixels. The prefix (class token, registers) goes through
    it without a place. Initialised as published: Xavier-uniform, biases 0, the mask token normal 0.02.
    """

    position: Tensor  # [P, width]

    def __init__(
        self, encoder_width: int, prefix: int, grid: int, patch_size: int, *, width: int, depth: int, heads: int
    ):
        super().__init__()
        self.prefix = prefix
        self.embed = nn.Linear(encoder_width, width)
        self.mask_token = nn.Parameter(torch.zeros(1, 1, width))
        self.blocks = nn.ModuleList(Block(width, heads, 4.0, None) for _ in range(depth))
        self.norm = nn.LayerNorm(width, eps=1e-6)
        self.pixels = nn.Linear(width, 3 * patch_size**2)
        self.register_buffer("position", sincos((grid, grid), width), persistent=False)
        xavier(self)
        nn.init.normal_(self.mask_token, std=0.02)

    def forward(self, tokens: Tensor, restore: Tensor) -> Tensor:
        """Pixels of every patch, in the image's order, each patch's as (row, column, channel).

        tokens [B, prefix + K, D] in the order of the plan, restore int64 [B, P] -> [B, P, 3 * p * p]
        """
        x = self.enter(tokens, restore)
        blocks = cast("list[Block]", [*self.blocks])
        x, y = add_norm(x, None, blocks[0].norm1, nn.Identity(), None)
        for block, after in zip(blocks, [*(block.norm1 for block in blocks[1:]), self.norm], strict=True):
            x, y = block(x, y, after)
        return self.pixels(y[:, self.prefix :])

    def enter(self, tokens: Tensor, restore: Tensor) -> Tensor:
        """Prefix, then patch p: the token of rank restore[p] if it was kept, else the mask token, and its place.

        [B, prefix + P, width], in fp32 under autocast
        """
        x = self.embed(tokens)
        x = x.to(torch.promote_types(x.dtype, torch.float32))
        prefix, visible = x[:, : self.prefix], x[:, self.prefix :]
        either = torch.cat([visible, self.mask_token.to(x.dtype).expand(len(x), 1, -1)], 1)  # [B, K + 1, width]
        row = restore.clamp(max=visible.shape[1])  # every hidden patch reads the last row
        place = torch.arange(restore.shape[1], device=restore.device).expand_as(restore)
        return torch.cat([prefix, kernels.place_tokens(either, self.position, row, place)], 1)


class PixelHead(nn.Module):
    """Pixels from each token by itself: three linear layers with GELU, then one to p * p pixels of three channels.

    The head of GMML (arXiv:2205.14986). Its last layer, there a transposed convolution, has one bias a channel.
    Initialised as published: truncated normal 0.02 and biases 0, the last layer at PyTorch's default for a transposed
    convolution. x [B, P, D] -> [B, P, p * p * 3], each patch's as (row, column, channel)
    """

    def __init__(self, width: int, patch_size: int):
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(width, width) for _ in range(3))
        self.weight = nn.Parameter(torch.empty(3 * patch_size**2, width))
        self.bias = nn.Parameter(torch.empty(3))
        for layer in cast("list[nn.Linear]", [*self.layers]):
            nn.init.trunc_normal_(layer.weight, std=0.02)
            nn.init.zeros_(layer.bias)
        for parameter in (self.weight, self.bias):
            nn.init.uniform_(parameter, -(len(self.weight) ** -0.5), len(self.weight) ** -0.5)

    def forward(self, x: Tensor) -> Tensor:
        for layer in cast("list[nn.Linear]", [*self.layers]):
            x = kernels.linear_gelu(x, layer.weight, layer.bias)
        return F.linear(x, self.weight, self.bias.repeat(len(self.weight) // 3))


def painted(prediction: Tensor, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """What is said of normalised pixels [B, P, p * p * 3] as uint8 patches, cut at black and white."""
    center, scale = (prediction.new_tensor(values, dtype=torch.float32) for values in (mean, std))
    pixels = prediction.float().unflatten(-1, (-1, 3)) * scale + center
    return (pixels * 255).round().clamp(0, 255).to(torch.uint8).flatten(-2)


def patches_of(images: Tensor, size: int) -> Tensor:
    """Images [B, H, W, C] as patches, row by row, each (row, column, channel): [B, P, size * size * C]"""
    batch, height, width, channels = images.shape
    tiles = images.view(batch, height // size, size, width // size, size, channels).transpose(2, 3)
    return tiles.reshape(batch, -1, size * size * channels)


def image_of(patches: Tensor, rows: int, size: int) -> Tensor:
    """The inverse of `patches_of`: [B, P, size * size * C] in so many rows of patches -> [B, H, W, C]"""
    batch, count, _ = patches.shape
    tiles = patches.view(batch, rows, count // rows, size, size, -1).transpose(2, 3)
    return tiles.reshape(batch, rows * size, count // rows * size, -1)

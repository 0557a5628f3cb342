"""Swin-T as timm has it, inside of the interface of our encoders; timm is imported when one is built, not before."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import Any, cast

from torch import Tensor, nn

from .backbone import EVERYTHING, Backbone, refuse_parts
from .errors import MissingBackend
from .settings import Encoder
from .vocabulary import Plan

MODEL = "swin_tiny_patch4_window7_224"


class Factor(nn.Module):
    """In the place of timm's drop path: a branch times a factor for each image, which `Swin` fills in."""

    factor: Tensor | None = None  # [B]

    def forward(self, x: Tensor) -> Tensor:
        return x if self.factor is None else x * self.factor.to(x.dtype).view(-1, *[1] * (x.ndim - 1))


class Swin(Backbone):
    """Swin Transformer (Liu et al., arXiv:2103.14030) without a head; its names are timm's.

    There is no class token: the mean of the last tokens after the norm stands for the image.
    """

    prefix = 0

    def __init__(self, settings: Encoder):
        super().__init__()
        self.settings = settings
        self.grid = settings.image_size // settings.patch_size
        model = timm_model(settings.image_size)
        self.width = model.num_features
        self.patch_embed, self.layers, self.norm = model.patch_embed, model.layers, model.norm
        self.patch_embed.strict_img_size = False
        for block in cast("list[Any]", self.blocks):
            block.drop_path1, block.drop_path2 = Factor(), Factor()
        self.patch_embed.requires_grad_(not settings.freeze_patch_embed)

    @property
    def blocks(self) -> list[nn.Module]:
        """Of all stages."""
        stages = cast("list[Any]", [*self.layers])
        return [block for stage in stages for block in stage.blocks]

    def forward(self, images: Tensor, plan: Plan = EVERYTHING, branches: Tensor | None = None) -> Tensor:
        refuse_parts(plan, self.settings.name)
        return self.norm(self.stream(images, branches))

    def class_token(self, images: Tensor, plan: Plan = EVERYTHING, branches: Tensor | None = None) -> Tensor:
        return self(images, plan, branches).mean(1)

    def stream(self, images: Tensor, branches: Tensor | None = None) -> Tensor:
        grid = self.grid_of(images)
        with self.prepared(grid, branches):
            x = self.layers(self.patch_embed(self.normalised(images)))
        return x.flatten(1, 2)

    def adapt(self, state: dict[str, Tensor]) -> str | None:
        """Windows are smaller where the image is: their tables of relative positions are resampled, as timm does."""
        for name, module in self.named_modules():
            key, wanted = f"{name}.relative_position_bias_table", getattr(module, "relative_position_bias_table", None)
            if wanted is not None and key in state and state[key].shape != wanted.shape:
                resized = import_module("timm.layers").resize_rel_pos_bias_table
                state[key] = resized(state[key], cast("Any", module).window_size, wanted.shape)
        return None

    @contextmanager
    def prepared(self, grid: tuple[int, int], branches: Tensor | None) -> Iterator[None]:
        """Blocks that know the factors of their branches, and whether windows are to be cut anew for this size."""
        parts = [None] * len(self.blocks) if branches is None else branches.unbind(1)
        blocks = cast("list[Any]", self.blocks)
        for block, part in zip(blocks, parts, strict=True):
            first, second = (None, None) if part is None else part.unbind(1)
            block.drop_path1.factor, block.drop_path2.factor = first, second
            block.dynamic_mask = grid != (self.grid, self.grid)
        try:
            yield
        finally:
            for block in blocks:
                block.drop_path1.factor = block.drop_path2.factor = None


def timm_model(size: int) -> Any:
    """timm's model for square images of so many pixels. MissingBackend where timm is not there or does not import."""
    try:
        create = import_module("timm").create_model
    except ModuleNotFoundError as error:
        raise missing(f"{error.name} is not installed") from None
    except Exception as error:  # another package's code, which fails in ways of its own
        raise missing(f"timm does not import ({str(error).splitlines()[0]})") from error
    return create(MODEL, img_size=size, num_classes=0, drop_path_rate=0.0)


def missing(why: str) -> MissingBackend:
    """What is wrong, and the line that mends it."""
    return MissingBackend(
        f"encoder.name=swin_tiny: {why}; pip install 'vitkiln[timm]', with a torchvision that fits torch"
    )

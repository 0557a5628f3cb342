"""What an encoder says of still images, on the CPU: of its tokens which, read once, in full precision."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from difflib import get_close_matches

import torch
from torch import Tensor

from ..backbone import Backbone
from ..data.source import Source
from ..errors import RecipeError
from ..vit import EVERYTHING, ViT
from .images import Still, pictures, subset
from .subject import Advance, Options

KINDS = ("class", "mean", "class+mean", "mean_norm", "last-4")  # and last-N for any number of blocks


def checked(kind: str, encoder: Backbone) -> str:
    """A kind of features that this encoder has; RecipeError, naming the nearest."""
    blocks = re.fullmatch(r"last-([1-9]\d*)", kind)
    if blocks and not encoder.prefix:
        raise RecipeError(f"--features {kind}: {encoder.settings.name} has no class token in its blocks")
    if kind in KINDS[:-1] or (blocks and int(blocks[1]) <= len(encoder.parts())):
        return kind
    if blocks:
        raise RecipeError(f"--features {kind}: the encoder has {len(encoder.parts())} blocks")
    near = get_close_matches(kind, KINDS, 1)
    hint = f"did you mean {near[0]}?" if near else f"must be one of {', '.join(KINDS[:-1])}, last-N"
    raise RecipeError(f"--features {kind}: unknown; {hint}")


@torch.inference_mode()
def tokens(encoder: Backbone, images: Tensor, kinds: tuple[str, ...]) -> dict[str, Tensor]:
    """Each kind of features of uint8 images [B, H, W, 3], from one pass.

    class: the class token after the last norm, or `mean` where there is none, [B, D]. mean: the mean of the patch
    tokens after it, [B, D].
    class+mean: both side by side, [B, 2 D]. mean_norm: the last norm of the patch tokens' mean before it, [B, D].
    last-N: the class tokens of the last N blocks, the first of them first, each through the last norm, [B, N D].
    """
    if kinds == ("class",):
        return {"class": encoder.class_token(images)}
    if not isinstance(encoder, ViT):
        return without_class(encoder, images, kinds)
    x, y = encoder.enter(images, EVERYTHING)
    classes: list[Tensor] = []
    for block, after, part in encoder.steps(None):
        x, y = block(x, y, after, part)
        classes.append(x[:, 0])
    seen = {"class": y[:, 0], "mean": y[:, encoder.prefix :].mean(1)}
    seen["mean_norm"] = encoder.norm(x[:, encoder.prefix :].mean(1))
    seen["class+mean"] = torch.cat([seen["class"], seen["mean"]], 1)
    for kind in set(kinds) - set(seen):
        last = classes[-int(kind.removeprefix("last-")) :]
        seen[kind] = torch.cat([encoder.norm(token) for token in last], 1)
    return {kind: seen[kind] for kind in kinds}


def without_class(encoder: Backbone, images: Tensor, kinds: tuple[str, ...]) -> dict[str, Tensor]:
    """The same of an encoder without a class token: class and mean are one, and there is no last-N."""
    stream = encoder.stream(images)
    mean = encoder.norm(stream).mean(1)
    seen = {"class": mean, "mean": mean, "class+mean": torch.cat([mean, mean], 1)}
    seen["mean_norm"] = encoder.norm(stream.mean(1))
    return {kind: seen[kind] for kind in kinds}


def rows_of(
    encoder: Backbone, images: Iterable[tuple[Tensor, Tensor]], kinds: tuple[str, ...], advance: Advance
) -> Iterator[tuple[dict[str, Tensor], Tensor]]:
    """Features of each batch of (pixels, numbers), on the CPU, and the numbers."""
    was_training, device = encoder.training, next(encoder.parameters()).device
    encoder.eval()
    try:
        for pixels, numbers in images:
            found = tokens(encoder, pixels.to(device), kinds)
            yield {kind: rows.float().cpu() for kind, rows in found.items()}, numbers
            advance(len(numbers))
    finally:
        encoder.train(was_training)


def gathered(
    batches: Iterable[tuple[dict[str, Tensor], Tensor]], half: bool = False
) -> tuple[dict[str, Tensor], Tensor]:
    """All of them: rows [N, D] of each kind, in half precision if asked for, and the images' numbers [N]."""
    parts: dict[str, list[Tensor]] = {}
    numbers = []
    for found, which in batches:
        for kind, rows in found.items():
            parts.setdefault(kind, []).append(rows.half() if half else rows)
        numbers.append(which)
    return {kind: torch.cat(rows) for kind, rows in parts.items()}, torch.cat(numbers)


def several(
    encoder: Backbone, source: Source, kinds: tuple[str, ...], options: Options, advance: Advance = lambda count: None
) -> tuple[dict[str, Tensor], Tensor]:
    """Features [N, D] of each kind, on the CPU, and the numbers [N] of the images, which are at most
    `options.limit`, one from each of so many equal stretches of the source. The encoder runs where it is."""
    chosen = subset(len(source), options.limit, 0)
    still = Still(encoder.settings.image_size)
    images = pictures(source, still, chosen, batch_size=options.batch_size, workers=options.workers)
    return gathered(rows_of(encoder, images, kinds, advance))

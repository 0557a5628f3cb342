"""A contact sheet: what some categories look like, a row for each."""

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from ..errors import DataError
from .fractal import Fractals
from .source import BadImage

GAP = 4
MARGIN = 46  # for the number of the category
PAPER, INK = (40, 40, 40), (230, 230, 230)


def sheet(source: Fractals, categories: Sequence[int], columns: int) -> Image.Image:
    """The first `columns` instances of each category, from left to right; a cross where one cannot be drawn."""
    size = source.size
    whole = Image.new("RGB", (MARGIN + columns * (size + GAP), GAP + len(categories) * (size + GAP)), PAPER)
    pen, font = ImageDraw.Draw(whole), ImageFont.load_default(12)
    for row, category in enumerate(categories):
        top = GAP + row * (size + GAP)
        pen.text((6, top + size // 2 - 6), f"{category:05d}", INK, font)
        for column in range(columns):
            left = MARGIN + column * (size + GAP)
            try:
                pixels = source.pixels(category * source.instances + column)
                whole.paste(Image.fromarray(np.ascontiguousarray(pixels)), (left, top))
            except BadImage:
                pen.line((left, top, left + size, top + size), INK)
                pen.line((left, top + size, left + size, top), INK)
    return whole


def save(source: Fractals, categories: Sequence[int], columns: int, out: Path) -> None:
    """As PNG, whole or not at all. DataError where it cannot be written."""
    file, draft = io.BytesIO(), out.with_name(f".{out.name}.draft")
    sheet(source, categories, columns).save(file, "PNG")
    try:
        draft.write_bytes(file.getvalue())
        draft.replace(out)
    except OSError as error:
        draft.unlink(missing_ok=True)
        raise DataError(f"{out}: {error.strerror or error}") from None

"""What can be named in a recipe or called: read from the files themselves, so that listing waits for no import."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from . import methods as methods_room
from .recipe import SHIPPED, shipped
from .settings.backbones import PARAMETERS, SIZES

Rows = list[dict[str, Any]]
HERE = Path(__file__).resolve().parent
KERNELS = HERE.parent / "kernels"
SIZE, PATCH = 224, 16  # of the models that are listed
APART = {"reference.py", "kernel.py"}  # same names, not the public functions


def recipes() -> Rows:
    """Shipped recipes, and the title line of each."""
    return [{"recipe": name, "title": title(SHIPPED / f"{name}.yaml")} for name in shipped()]


def title(file: Path) -> str:
    """The first comment of a recipe."""
    first = file.read_text(encoding="utf-8").partition("\n")[0]
    return first.removeprefix("#").strip()


def methods() -> Rows:
    """Methods, and the first line of each one's docstring."""
    return [{"method": name, "about": about(HERE / "methods" / f"{name}.py")} for name in methods_room.names()]


def about(file: Path) -> str:
    """The first line of a module's docstring."""
    return first_line(ast.parse(file.read_text(encoding="utf-8")))


def first_line(node: ast.Module | ast.FunctionDef) -> str:
    """Of a docstring."""
    return (ast.get_docstring(node) or "").partition("\n")[0]


def models() -> Rows:
    """Named sizes, and their parameters for images of 224 x 224 and patches of 16 x 16."""
    return [
        {
            "model": name,
            "width": width,
            "depth": depth,
            "heads": heads,
            "parameters": PARAMETERS.get(name) or parameters(width, depth),
        }
        for name, (width, depth, heads) in SIZES.items()
    ]


def parameters(width: int, depth: int, mlp_ratio: int = 4) -> int:
    """Of an encoder: projection of patches, class token, positions, blocks and the last norm."""
    embedding = 3 * PATCH**2 * width + width + width + (1 + (SIZE // PATCH) ** 2) * width
    attention = 4 * width * width + 4 * width
    mlp = 2 * mlp_ratio * width * width + (mlp_ratio + 1) * width
    norms = 4 * width
    return embedding + depth * (attention + mlp + norms) + 2 * width


def kernels() -> Rows:
    """Public functions of vitkiln.kernels, and the first line of each one's docstring."""
    public = exported(KERNELS / "__init__.py")
    found = {node.name: first_line(node) for node in functions() if node.name in public}
    return [{"kernel": name, "about": found[name]} for name in public]


def exported(door: Path) -> list[str]:
    """The names in `__all__`."""
    for node in ast.parse(door.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Assign) and [ast.unparse(target) for target in node.targets] == ["__all__"]:
            return list(ast.literal_eval(node.value))
    raise LookupError(f"{door} has no __all__")


def functions() -> Iterator[ast.FunctionDef]:
    """Top-level functions of every room of kernels."""
    for file in sorted(KERNELS.glob("*/*.py")):
        if file.name not in APART:
            body = ast.parse(file.read_text(encoding="utf-8")).body
            yield from (node for node in body if isinstance(node, ast.FunctionDef))

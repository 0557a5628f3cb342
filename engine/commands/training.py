"""`engine run` and `engine validate`: what is done with a recipe."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any

import typer

from ..errors import OutOfMemory, RecipeError
from ..recipe import Recipe, load
from .output import Json, as_json, note

RECIPE = typer.Argument(metavar="RECIPE", help="Path of a recipe, or the name of a shipped one.")
OVERRIDES = typer.Argument(metavar="KEY.SUB=VALUE", help="Overrides, as YAML; ~KEY.SUB resets a key to its default.")
SHORT = typer.Option("--short", help="Apply the recipe's short: section, whatever the data.")


def run(
    context: typer.Context,
    recipe: Annotated[str, RECIPE],
    overrides: Annotated[list[str] | None, OVERRIDES] = None,
    out: Annotated[Path | None, typer.Option(help="The run folder. [default: runs/RECIPE/DATE-TIME]")] = None,
    short: Annotated[bool, SHORT] = False,
    resume: Annotated[str, typer.Option(metavar="auto|never|PATH", help="Which checkpoint to go on from.")] = "auto",
) -> None:
    """Train a recipe. The same command goes on with an interrupted run."""
    refuse_options(context, overrides or [])
    read = load(recipe, overrides or [], short or None)
    tell_which(read, "run", "trains")
    with out_of_memory(f"{read.name}: {less_memory(read)}"):
        from ..distributed import is_first
        from ..report import set_up_logging
        from ..train import run as train

        set_up_logging()
        folder = train(read, out, resume)
    if is_first():
        typer.echo(folder)


def tell_which(read: Recipe, form: str, does: str) -> None:
    """Whether it is the short one, and images that were named in vain."""
    if read.short_reason:
        whole = "" if read.short_reason.startswith("--") else f"; data.root=DIR {does} the recipe itself"
        note(f"short {form} of {read.name}, because {read.short_reason}{whole}")
    if read.data.source == "fractal" and read.data.root is not None:
        note(f"data.root={read.data.root}: not used, as data.source is fractal; data.source=folder or shards reads it")


def validate(
    recipes: Annotated[list[str], typer.Argument(metavar="RECIPE...", help="Recipes, and overrides for all of them.")],
    short: Annotated[bool, SHORT] = False,
    json: Json = False,
) -> None:
    """Check recipes and print what they amount to. Trains nothing."""
    overrides = [text for text in recipes if "=" in text or text.startswith("~")]
    named = [text for text in recipes if text not in overrides]
    if not named:
        raise RecipeError("validate: no recipe is named; the shipped ones are shown by `engine list recipes`")
    read = all_of(named, overrides, short)
    from ..plan_report import report

    if json:
        as_json([{**recipe.model_dump(mode="json"), "report": report(recipe)} for recipe in read])
        return
    for number, recipe in enumerate(read):
        lines = [f"# {key}: {value}" for key, value in told(report(recipe)).items()]
        typer.echo("\n".join([*(["---"] if number else []), recipe.to_yaml(), *lines]))
        if recipe.data.source != "fractal" and recipe.data.root is None:
            note(f"{recipe.name}: data.root is not set, so `engine run` would apply short:; validate --short shows it")


def all_of(named: list[str], overrides: list[str], short: bool) -> list[Recipe]:
    """Every recipe, or the mistakes of all of them."""
    read, faults = [], []
    for name in named:
        try:
            read.append(load(name, overrides, short))
        except RecipeError as error:  # noqa: PERF203  all mistakes are told at once
            faults += str(error).splitlines()
    if faults:
        raise RecipeError("\n".join(dict.fromkeys(faults)))
    return read


def told(figures: dict[str, Any]) -> dict[str, str]:
    """Figures as people read them."""
    return {
        key: f"{value / 2**30:.2f} GiB" if key.endswith("_bytes") else f"{value:,}" if isinstance(value, int)
        else f"{value:.4g}" if isinstance(value, float) else str(value)
        for key, value in figures.items()
    }  # fmt: skip


def refuse_options(context: typer.Context, overrides: list[str]) -> None:
    """`--key.sub=value` is an override; any other unknown option is a mistake."""
    for text in overrides:
        name = text.partition("=")[0]
        if text.startswith("-") and not (text.startswith("--") and "." in name):
            known = [option for parameter in context.command.params for option in parameter.opts if option[0] == "-"]
            near = get_close_matches(name, known, 1)
            hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(known)}, and overrides key.sub=value"
            raise RecipeError(f"no such option {name}; {hint}")


@contextmanager
def out_of_memory(advice: str) -> Iterator[None]:
    """Tell a lack of memory, of the GPU or of the machine, with what would need less."""
    try:
        yield
    except MemoryError as error:
        raise OutOfMemory(f"out of memory; {advice}") from error
    except RuntimeError as error:
        import torch

        first = str(error).split("\n")[0]
        if not isinstance(error, torch.OutOfMemoryError) and "can't allocate memory" not in first:
            raise
        raise OutOfMemory(f"out of memory ({first}); {advice}") from error


def less_memory(recipe: Recipe) -> str:
    """Three ways, the one that changes least first."""
    size, parts, encoder = recipe.data.batch_size, recipe.run.accumulate, recipe.encoder
    keep = getattr(recipe.method, "keep", None)
    patches = max(1, encoder.image_size * 3 // 4 // encoder.patch_size)
    smaller = f"encoder.image_size={patches * encoder.patch_size}" if keep is None else f"method.keep={keep / 2:g}"
    return (
        f"try run.accumulate={2 * parts} (the same step in {2 * parts} parts, each with its own negatives), "
        f"data.batch_size={max(1, size // 2)}, or {smaller}"
    )

"""The command `engine`: parses, calls, and turns whatever goes wrong into one paragraph and an exit code."""

from __future__ import annotations

import sys
import traceback
from difflib import get_close_matches
from importlib.metadata import version as version_of
from typing import Annotated, Any

import typer

from .commands import bench, fractal, looking, results, shards, training
from .errors import EngineError, RecipeError

UsageError: type[Exception] = typer.BadParameter.__bases__[0]  # typer brings its own click, or takes the installed one
INTERRUPTED = 130  # exit code
EPILOG = "Overrides: engine run dilemma data.root=/imagenet optim.lr=1e-4. Add --debug to any command for tracebacks."

app = typer.Typer(
    name="engine",
    help="Pre-train Vision Transformers without labels: recipes in, weights out.",
    epilog=EPILOG,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
app.command("run", context_settings={"ignore_unknown_options": True})(training.run)
app.command("validate")(training.validate)
app.command("bench", cls=bench.Command, context_settings={"ignore_unknown_options": True})(bench.bench)
app.command("eval")(results.evaluate)
app.command("embed")(results.embed)
app.command("export")(results.export)
app.command("doctor")(looking.doctor)
app.command("list")(looking.list_)
app.command("show")(looking.show)
app.command("copy")(looking.copy)
app.command("check-data")(looking.check_data)
app.add_typer(fractal.app, name="fractal")
app.add_typer(shards.app, name="shards")


@app.callback(invoke_without_command=True)
def engine(
    context: typer.Context, version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False
) -> None:
    """Without a command, the version or the help."""
    if version:
        typer.echo(version_of("vitkiln"))
    elif context.invoked_subcommand is None:
        typer.echo(context.get_help())


def call(arguments: list[str]) -> int:
    """Run the command with these arguments and return its exit code."""
    debug = "--debug" in arguments
    try:
        refuse_unknown([text for text in arguments if text != "--debug"])
        code = app([text for text in arguments if text != "--debug"], prog_name="engine", standalone_mode=False)
        if code == INTERRUPTED:  # typer's word for it, without a word to the user
            return complain("interrupted", INTERRUPTED, debug)
        return code if isinstance(code, int) else 0
    except (KeyboardInterrupt, typer.Abort):
        return complain("interrupted", INTERRUPTED, debug)
    except UsageError as error:
        return complain(usage(error), 2, debug)
    except EngineError as error:
        return complain(str(error), error.code, debug)
    except Exception as error:
        return complain(
            f"{type(error).__name__}: {error}\nThis is a bug in vitkiln, or in a method of yours. "
            f"`engine {' '.join(arguments[:1])} ... --debug` shows where it happened.",
            1,
            debug,
        )


def refuse_unknown(arguments: list[str]) -> None:
    """Name the nearest command."""
    names = [known.name or "" for known in app.registered_commands]
    names += [group.name or "" for group in app.registered_groups]
    first = next((text for text in arguments if not text.startswith("-")), None)
    if first is not None and first not in names:
        near = get_close_matches(first, names, 1)
        hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(names)}"
        raise RecipeError(f"no such command {first}; {hint}")


def usage(error: Any) -> str:
    """What is wrong with the command line, in one line."""
    name, near = getattr(error, "option_name", None), getattr(error, "possibilities", None)
    if name and near:
        return f"no such option {name}; did you mean {sorted(near)[0]}?"
    text = f"no such option {name}" if name else error.format_message().rstrip(".")
    return f"{text}; see `{error.ctx.command_path} --help`" if error.ctx else text


def complain(text: str, code: int, debug: bool) -> int:
    """One paragraph on stderr, and before it the traceback if it was asked for."""
    if debug:
        traceback.print_exc()
    typer.echo(text, err=True)
    return code


def main() -> None:
    """The console script."""
    sys.exit(call(sys.argv[1:]))


if __name__ == "__main__":
    main()

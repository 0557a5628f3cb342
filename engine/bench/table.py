"""Figures as people read them: a few narrow tables, which fit on a terminal and in a file."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import typer

from . import RATES

Figures = Mapping[str, Any]
WIDE = 10_000  # columns of a pipe or a file, where no line is wrapped
BUSY = 1.1  # watched steps over those that nobody watched, beyond which something else runs


def shown(found: Figures) -> None:
    """Everything, to stdout."""
    from rich.console import Console

    console = Console(width=None if sys.stdout.isatty() else WIDE, highlight=False)
    for line in head(found):
        console.print(line, markup=False)
    for rows in tables(found):
        with console.capture() as captured:
            console.print(table(rows))
        lines = [line.rstrip() for line in captured.get().splitlines()]
        typer.echo("\n".join(["", *lines]))
        for line in rows.below:
            console.print(line, markup=False)
    if "limit" in found:
        console.print(f"\nlimit: {found['limit']}", markup=False)


class Rows:
    """A table: titles, lines of cells, and what is said below it."""

    def __init__(self, titles: Sequence[str], lines: Iterable[Sequence[str]], below: Iterable[str] = ()):
        self.titles, self.lines, self.below = titles, list(lines), list(below)


def table(rows: Rows) -> Any:
    """The first column to the left, figures to the right, what went wrong to the left again."""
    from rich.table import Table
    from rich.text import Text

    made = Table(box=None, pad_edge=False, header_style="bold")
    for number, title in enumerate(rows.titles):
        made.add_column(title, justify="right" if number and title else "left", no_wrap=bool(title))
    for line in rows.lines:
        made.add_row(*map(Text, line))
    return made


def head(found: Figures) -> Iterator[str]:
    """Which recipe, on what."""
    environment = found["environment"]
    graph = ", CUDA graph" if found["cuda_graph"] else ""
    compiled = ", blocks compiled" if found["compile"] else ""
    yield f"{found['name']}{', short form' if found['short'] else ''}: {found['precision']}{compiled}{graph}"
    if "views" in found:
        sizes = {size: found["views"].count(size) for size in found["views"]}
        views = " and ".join(f"{count} of {size} px" for size, count in sizes.items())
        yield f"batch {batch(found)}, views: {views}; loader {found['loader']}, {found['workers']} workers"
    name = environment["cpu"] if environment["device"] == "cpu" else environment["device"]
    yield f"{name}; {environment['cores']} cores, {environment['threads']} threads, load {found['load']:.1f}"


def batch(found: Figures) -> str:
    """As in 64, or 64 in 2 parts."""
    parts = found["accumulate"]
    return f"{found['batch_size']}" if parts == 1 else f"{found['batch_size']} in {parts} parts"


def tables(found: Figures) -> Iterator[Rows]:
    """Those for which there are figures."""
    for name, make in SECTIONS.items():
        if name in found:
            yield make(found)


def rates(found: Figures) -> Rows:
    """Data, model, and both."""
    titles = ("rate", "images/s", "20 to 80 %", "ms a step", "data wait", "peak memory")
    lines = [(RATES[name], *speed(row), wait(row), memory(row)) for name, row in found["rates"].items()]
    return Rows(titles, lines)


def speed(row: Figures) -> tuple[str, str, str]:
    """Images a second, between what, and milliseconds."""
    rate, step = row["images_per_second"], row["step_ms"]
    spread = f"{number(rate['p20'])} to {number(rate['p80'])}"
    return number(rate["median"]), spread, number(step["median"])


def wait(row: Figures) -> str:
    """The share of a step, where there is anybody who waits."""
    return f"{row['data_wait']:.1%}" if "data_wait" in row else "-"


def memory(row: Figures) -> str:
    """The most that was allocated, or resident."""
    return f"{row['peak_memory_bytes'] / 2**30:.2f} GiB"


def stages(found: Figures) -> Rows:
    """The data path's; workers do theirs side by side."""
    spent, workers = found["data_ms"], found["workers"]
    behind = {name: spent[name] for name in ("copy", "colour") if name in spent}
    before = [(name, number(ms)) for name, ms in spent.items() if name not in behind]
    who = f"of {workers} workers side by side" if workers else "of no worker, between steps"
    lines = [(*line, who if line == before[0] else "") for line in before]
    lines += [(name, number(ms), "behind them" if name == "copy" else "") for name, ms in behind.items()]
    return Rows(("data of a step", "ms", ""), lines)


def parts(found: Figures) -> Rows:
    """The model's, with their sum beside the whole."""
    total, whole, unwatched = found["sum_ms"], found["step_ms"], found["unwatched_step_ms"]
    lines = [(name, number(ms), f"{ms / total:.1%}") for name, ms in found["parts_ms"].items()]
    says = "" if found["adds_up"] else ": THE PARTS DO NOT ADD UP"
    below = [f"sum {number(total)} ms, whole step {number(whole)} ms ({total / whole:.1%}){says}"]
    if not 1 / BUSY <= whole / unwatched <= BUSY:
        why = "steps as a CUDA graph" if found["cuda_graph"] else "is the machine busy? unwatched steps in between"
        below.append(f"{why}: {number(unwatched)} ms")
    return Rows(("part of a step", "ms", "share"), lines, below)


def figures(found: Figures) -> Rows:
    """Operations and bytes."""
    return Rows(("figure", ""), [*(work(found) if "utilisation" in found else ()), *moved(found)])


def work(found: Figures) -> Iterator[tuple[str, str]]:
    """Operations, and how many of them a second beside what there could be."""
    used = found["utilisation"]
    shares = {name: count for name, count in used["flops_per_image"].items() if name != "total"}
    yield "GFLOP an image", f"{used['flops_per_image']['total'] / 1e9:.4g}"
    yield "of which", ", ".join(f"{name} {count / 1e9:.3g}" for name, count in shares.items())
    yield "TFLOP/s, products alone", f"{used['matmul_tflops']:.3g} at this recipe's shapes and precision"
    peak = used["peak_tflops"]
    for name in ("model", "all"):
        if name in used:
            reached = used[name]
            mfu = "MFU n/a" if peak is None else f"MFU {reached['mfu']:.1%} of {peak:g}"
            share = f"{reached['of_matmul']:.1%} of products alone"
            yield f"TFLOP/s, {RATES[name]}", f"{reached['tflops']:.3g}: {share}; {mfu}"


def moved(found: Figures) -> Iterator[tuple[str, str]]:
    """Bytes of input, and what that makes at the rate that training reaches."""
    sizes, speeds = found["input"]["bytes_per_image"], found["input"]["megabytes_per_second"]
    at = f"MB/s at {number(found['input']['images_per_second'])} images/s"
    yield "bytes of an image's views", f"{sizes['views']:,}: {number(speeds['views'])} {at}"
    if sizes["file"] is not None:
        yield "bytes of an image's file", f"{sizes['file']:,}: {number(speeds['file'])} {at}"


def batches(found: Figures) -> Rows:
    """A line for each, of what was asked for."""
    rows = found["batches"]
    there = [name for name in RATES if any(name in row.get("rates", {}) for row in rows)]
    titles = ("batch", *there, "ms a step", "peak memory", "")
    told = ", ".join(f"{name}: {RATES[name]}" for name in there)
    return Rows(titles, [batch_line(row, there) for row in rows], [f"images/s of {told}"] if there else [])


def batch_line(row: Figures, there: Sequence[str]) -> Sequence[str]:
    """Of one batch; milliseconds and memory of the last thing that was measured."""
    if "error" in row:
        return (number(row["batch"]), *("-" for _ in there), "-", "-", str(row["error"]))
    found = row["rates"]
    last = found[there[-1]]
    speeds = (speed(found[name])[0] for name in there)
    return (number(row["batch"]), *speeds, speed(last)[2], memory(last), "")


def comparison(found: Figures) -> Rows:
    """Ratios are to the first."""
    rows = found["compare"]
    titles = ("by", "images/s", "20 to 80 %", "ms a step", "times", "first loss", "")
    return Rows(titles, [comparison_line(row) for row in rows])


def comparison_line(row: Figures) -> Sequence[str]:
    """Of one hand; a loss that differs takes its ratio away."""
    if "error" in row:
        return (row["by"], "-", "-", "-", "-", "-", str(row["error"]))
    ratio, differs = f"{row['ratio']:.2f}", ""
    if not row["parity"]:
        ratio, differs = "-", f"DIFFERS by {row['loss_apart']:.1g}"
    return (row["by"], *speed(row), ratio, f"{row['loss']:.5g}", differs)


def largest(found: Figures) -> Rows:
    """The batch that a search found, or why there was none."""
    row = found["largest_batch"]
    if row["batch"] is None:
        return Rows(("largest batch", ""), [("-", row["why"])])
    titles = ("largest batch", "images/s", "20 to 80 %", "ms a step", "peak memory")
    return Rows(titles, [(number(row["batch"]), *speed(row), memory(row))])


SECTIONS: dict[str, Callable[[Figures], Rows]] = {
    "rates": rates,
    "data_ms": stages,
    "parts_ms": parts,
    "input": figures,
    "batches": batches,
    "compare": comparison,
    "largest_batch": largest,
}


def number(value: float) -> str:
    """Three digits that say something, and no more.

    >>> number(1234.5), number(999.7), number(56.78), number(0.01234), number(0)
    ('1,234', '1,000', '56.8', '0.0123', '0')
    """
    return f"{value:,.0f}" if abs(value) >= 999.5 else f"{value:.3g}"

"""python -m benchmarks.document: writes docs/benchmarks.md from the records and what compiled kernels need."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from benchmarks.gpu.goals import GOALS, Goal, Lines, newest

ROOT = Path(__file__).parents[1]
RECORDS = ROOT / "benchmarks" / "records"
RESOURCES = ROOT / "benchmarks" / "kernels" / "resources.json"
DOCUMENT = ROOT / "docs" / "benchmarks.md"
NOT_MEASURED = "not measured"
HEAD = """# Benchmarks

Written by `python -m benchmarks.document` from `benchmarks/records/*.jsonl` and `benchmarks/kernels/resources.json`;
a test holds it to them. `benchmarks/gpu.sh` measures on a GPU and appends to `benchmarks/records/gpu.jsonl`.
"""
LABELS = {
    "seconds": "seconds a step (quartiles)",
    "peak_bytes": "peak memory, bytes",
    "speedup": "speed-up",
}
AROUND = ("suite", "name", "environment", "schema")  # what is said beside the figures


def main() -> None:
    """Write the document."""
    DOCUMENT.write_text(document(RECORDS, RESOURCES))


def document(records: Path, resources: Path) -> str:
    """All of it."""
    gpu = lines_of(records / "gpu.jsonl")
    others = [file for file in sorted(records.glob("*.jsonl")) if file.name != "gpu.jsonl"]
    parts = [HEAD, *goals(gpu), *measured(gpu), "## Measured on CPUs\n"]
    parts += [section for file in others for section in plain_records(file)] or [f"Nothing: {NOT_MEASURED}.\n"]
    return "\n".join([*parts, *compiled(json.loads(resources.read_text()))])


def lines_of(file: Path) -> Lines:
    """Records; none where there is no file."""
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


def by_gpu(lines: Lines) -> dict[str, Lines]:
    """The newest line of each measurement of each GPU."""
    names = sorted({line["gpu"] for line in lines})
    return {name: newest([line for line in lines if line["gpu"] == name]) for name in names}


def goals(lines: Lines) -> Iterator[str]:
    """Beside what each GPU reached: worst case over shapes where a goal speaks of several."""
    gpus = by_gpu(lines)
    yield "## Goals on GPUs\n"
    yield "Of several shapes the worst counts. The ratio is 1 or more where the goal is reached. Beside it: how many"
    yield "times as fast as what torch.compile makes of plain PyTorch (attention: as the fastest kernel it would call),"
    yield "and the share of what the GPU's measured rates of copies and products allow.\n"
    rows = [
        [*row, *reached(goal, gpus[gpu])] for gpu in gpus for goal in GOALS for row in [[gpu, goal.item, goal.text]]
    ]
    rows = rows or [["any", goal.item, goal.text, *reached(goal, [])] for goal in GOALS]
    yield table(["GPU", "what", "goal", "measured", "ratio to the goal", "to compiled", "of the limit"], rows)


def reached(goal: Goal, lines: Lines) -> tuple[str, ...]:
    """Measured, and its ratios to the goal, to compiled code and to the limit."""
    found, compiled, limit = goal.measured(lines), goal.over_compiled(lines), goal.of_limit(lines)
    return (
        NOT_MEASURED if found is None else f"{number(found)} {goal.unit}",
        "" if found is None else f"{goal.ratio(found):.2f}",
        "" if compiled is None else f"{compiled:.2f}",
        "" if limit is None else f"{limit:.0f}%",
    )


def measured(lines: Lines) -> Iterator[str]:
    """Every measurement of every GPU, and the failures that nothing has replaced."""
    yield "## Measured on GPUs\n"
    if not lines:
        yield f"Nothing yet: on a GPU, every operator is {NOT_MEASURED}.\n"
    for gpu, kept in by_gpu(lines).items():
        yield f"### {gpu}\n"
        versions = {(line["driver"], line["torch"], line["triton"], line["commit"]) for line in kept}
        for driver, torch, triton, commit in sorted(versions, key=str):
            yield f"Driver {driver}, torch {torch}, Triton {triton}, commit {commit}.\n"
        yield table(
            ["what", "mode", "shape", "by", "ms (p20 to p80)", "images/s", "of the limit", "MiB", "differs by"],
            [row(line) for line in kept],
        )
        yield from failures([line for line in lines if line["gpu"] == gpu], kept)


def row(line: dict[str, Any]) -> list[str]:
    """One measurement."""
    return [
        line["name"],
        line["mode"],
        shape(line),
        line["provider"],
        f"{number(line['median'])} ({number(line['p20'])} to {number(line['p80'])})",
        f"{line['images_per_second']:.0f}" if "images_per_second" in line else "",
        "" if line["roofline"] is None else f"{line['roofline']:.0%}",
        f"{line.get('peak_mem_bytes', 0) / 2**20:.0f}",
        "" if line.get("difference") is None else f"{line['difference']:g}",
    ]


def failures(lines: Lines, kept: Lines) -> Iterator[str]:
    """What was tried and did not work, unless it has been measured since."""

    def key(line: dict[str, Any]) -> tuple[Any, ...]:
        return line["name"], line.get("mode"), shape(line), line["provider"]

    known = set(map(key, kept))
    failed = {key(line): line["error"] for line in lines if "error" in line and key(line) not in known}
    if failed:
        yield table(["failed", "mode", "shape", "by", "error"], [[*map(str, k), error] for k, error in failed.items()])


def shape(line: dict[str, Any]) -> str:
    """As in B=1024 N=50."""
    return " ".join(f"{name}={size}" for name, size in line.get("shape", {}).items())


def plain_records(file: Path) -> Iterator[str]:
    """Records of any other form: figures, and tables where there are several of a kind."""
    for record in lines_of(file):
        yield f"### {record.get('name', file.stem)}\n"
        yield where(record.get("environment", {}), file.name)
        figures = {LABELS.get(key, key): value for key, value in record.items() if key not in AROUND}
        lists = {key: value for key, value in figures.items() if isinstance(value, list) and value}
        tables = {key: value for key, value in lists.items() if all(isinstance(item, dict) for item in value)}
        yield table(["what", "figure"], [[k, v] for key in figures if key not in tables for k, v in flat(key, figures)])
        for items in tables.values():
            yield table(list(items[0]), [[number(item.get(column)) for column in items[0]] for item in items])


def where(environment: dict[str, Any], file: str) -> str:
    """On what, in a sentence."""
    packages = environment.get("packages") or {}
    about = [environment.get("device"), environment.get("cpu"), f"{environment.get('threads')} threads"]
    about += [f"{name} {packages[name]}" for name in ("torch", "numpy") if packages.get(name)]
    about += [f"commit {environment.get('commit')}", environment.get("time")]
    said = ", ".join(str(part) for part in about if part and "None" not in str(part))
    return f"`{file}`{': ' if said else ''}{said}.\n"


def flat(key: str, record: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Names and values of a figure and of those inside it."""
    value = record[key]
    if isinstance(value, dict):
        for inner in value:
            for name, figure in flat(inner, value):
                yield f"{key}: {name}", figure
    else:
        yield key, ", ".join(map(number, value)) if isinstance(value, list) else number(value)


def compiled(recorded: dict[str, dict[str, dict[str, int]]]) -> Iterator[str]:
    """What the newest Triton on record makes of every kernel, for either generation of GPUs."""
    version = max(recorded, key=lambda text: tuple(map(int, text.split("."))))
    kernels = recorded[version]
    yield f"## Compiled by Triton {version}, ahead of time\n"
    yield "The last column is empty where a kernel neither spills nor has a stack or atomic operations.\n"
    names = sorted({key.rpartition(" sm_")[0] for key in kernels})
    header = ["kernel", *(f"{what} {arch}" for arch in ("sm_80", "sm_90") for what in ("registers", "shared KiB"))]
    header += ["tensor core instructions sm_80", "sm_90 (warp group)", "spills, stack, atomics"]
    yield table(header, [needs(name, *(kernels.get(f"{name} sm_{arch}", {}) for arch in (80, 90))) for name in names])


def needs(name: str, *usages: dict[str, int]) -> list[str]:
    """One kernel."""
    sizes = [text for use in usages for text in (str(use["registers"]), f"{use['shared'] / 1024:.1f}")]
    older, newer = usages
    faults = [sum(use[key] for use in usages) for key in ("spills", "stack", "atomics")]
    products = f"{newer['products']} ({newer['warpgroup_products']})"
    return [name, *sizes, str(older["products"]), products, ", ".join(map(str, faults)) if any(faults) else ""]


def number(value: Any) -> str:
    """Four digits of a fraction, all of a whole number.

    >>> number(0.123456), number(12345.678), number(4096), number("as it is")
    ('0.1235', '12346', '4096', 'as it is')
    """
    if not isinstance(value, float):
        return str(value)
    return f"{value:.0f}" if abs(value) >= 1e4 else f"{value:.4g}"


def table(header: list[str], rows: Iterable[list[str]]) -> str:
    """In Markdown."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines) + "\n"


if __name__ == "__main__":
    main()

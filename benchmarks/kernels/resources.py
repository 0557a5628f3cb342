"""Compile every Triton kernel for A100 and H100 without a GPU, and refuse what would spill or fall off the fast path.

python -m benchmarks.kernels.resources [--update] [--only TEXT] [--arch 80|90]
"""

import argparse
import importlib
import importlib.util
import json
import pkgutil
import re
import shutil
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path

import triton
from rich.console import Console
from rich.table import Table
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

import vitkiln.kernels
from vitkiln.kernels._shared.specimen import Specimen

RECORD = Path(__file__).with_name("resources.json")
SHARED_BYTES = {80: 166_912, 90: 232_448}  # what one block may ask for; the compiler does not check
GROWTH = 1.10
VERSION = ".".join(triton.__version__.split(".")[:2])  # counts of registers belong to a compiler


@dataclass(frozen=True)
class Usage:
    """What the machine code of a kernel needs and contains."""

    registers: int
    stack: int
    shared: int
    spills: int  # loads and stores of local memory
    products: int  # instructions of tensor cores
    warpgroup_products: int  # those of Hopper's warp groups among them
    wide_loads: int  # of 128 bits
    atomics: int


def specimens() -> list[Specimen]:
    """Those of every room that has a kernel, which lists them, or has a file for them."""
    rooms = [module.name for module in pkgutil.iter_modules(vitkiln.kernels.__path__, "vitkiln.kernels.")]
    places = [[f"{room}.{file}" for file in ("specimens", "kernel")] for room in rooms]
    found = [next(filter(importlib.util.find_spec, each), None) for each in places]
    return [specimen for name in found if name for specimen in importlib.import_module(name).specimens()]


def measure(specimen: Specimen, arch: int) -> Usage:
    """Compile for sm_{arch} and read the machine code."""
    names = specimen.kernel.arg_names
    signature = {name: specimen.arguments.get(name, "constexpr") for name in names}
    aligned = [name for name in specimen.arguments if name not in specimen.odd]
    source = ASTSource(
        specimen.kernel,
        signature,
        {name: specimen.constants[name] for name in names if name in specimen.constants},
        {(names.index(name),): [["tt.divisibility", 16]] for name in aligned},
    )
    options = {**specimen.options, "enable_fp_fusion": True}
    compiled = triton.compile(source, target=GPUTarget("cuda", arch, 32), options=options)
    return read(compiled.asm["cubin"], compiled.metadata.shared)


def read(cubin: bytes, shared: int) -> Usage:
    """What the disassembly says."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        usage, code = (dump(option, file.name) for option in ("--dump-resource-usage", "--dump-sass"))
    registers, stack = (int(re.search(rf"{key}:(\d+)", usage)[1]) for key in ("REG", "STACK"))
    return Usage(
        registers,
        stack,
        shared,
        spills=found(r"LDL|STL", code),
        products=found(r"HG?MMA", code),
        warpgroup_products=found(r"HGMMA", code),
        wide_loads=found(r"(?:LDG|LDGSTS)\.\S*128", code),
        atomics=found(r"(?:ATOM|ATOMG|RED|REDG)\b", code),
    )


def dump(option: str, file: str) -> str:
    """The output of cuobjdump: the installed one, else the one that Triton brings."""
    bundled = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    tool = shutil.which("cuobjdump") or str(bundled)
    return subprocess.run([tool, option, file], capture_output=True, text=True, check=True).stdout


def found(pattern: str, code: str) -> int:
    """How many instructions begin with the pattern."""
    return len(re.findall(rf"\s(?:{pattern})", code))


def faults(specimen: Specimen, arch: int, usage: Usage, recorded: dict[str, int] | None) -> list[str]:
    """What speaks against this kernel, in words."""
    products = usage.warpgroup_products if arch >= 90 else usage.products
    checks = {
        f"uses {usage.stack} B of stack": usage.stack > 0,
        f"spills registers {usage.spills} times": usage.spills > 0,
        f"needs {usage.shared} B of shared memory, {SHARED_BYTES[arch]} are there": usage.shared > SHARED_BYTES[arch],
        "multiplies without tensor cores": specimen.tensor_cores and products == 0,
        "never reads 128 bits at once": specimen.wide_loads and usage.wide_loads == 0,
        f"has {usage.atomics} atomic operations": usage.atomics > 0,
    }
    for key in ("registers", "shared"):
        before, now = (recorded or {}).get(key), getattr(usage, key)
        checks[f"{key}: {before} before, {now} now"] = before is not None and now > before * GROWTH
    return [text for text, failed in checks.items() if failed]


def main() -> int:
    """Print the table; 1 where a kernel fails a gate."""
    options = arguments()
    record = json.loads(RECORD.read_text()) if RECORD.exists() else {}
    known = {} if options.update and not options.only else record.get(VERSION, {})
    table = Table("kernel", "sm", *Usage.__dataclass_fields__, "verdict", title=f"Triton {VERSION}")
    failed = 0
    for specimen in specimens():
        if options.only not in specimen.name:
            continue
        for arch in [options.arch] if options.arch else SHARED_BYTES:
            usage, key = measure(specimen, arch), f"{specimen.name} sm_{arch}"
            wrong = faults(specimen, arch, usage, None if options.update else known.get(key))
            known[key] = asdict(usage)
            failed += bool(wrong)
            verdict = f"[red]{'; '.join(wrong)}[/]" if wrong else "ok"
            table.add_row(specimen.name, str(arch), *(str(n) for n in asdict(usage).values()), verdict)
    Console(width=200 if not sys.stdout.isatty() else None).print(table)
    if options.update:
        record[VERSION] = known
        RECORD.write_text(json.dumps(record, indent=1, sort_keys=True) + "\n")
    return 1 if failed else 0


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--update", action="store_true", help="record what is measured as the new standard")
    parser.add_argument("--only", default="", help="kernels whose name contains this")
    parser.add_argument("--arch", type=int, choices=SHARED_BYTES, help="one compute capability instead of all")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())

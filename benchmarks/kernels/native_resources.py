"""python -m benchmarks.kernels.native_resources: registers, stack and spills of the kernels of csrc/, by nvcc."""

import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

from vitkiln.kernels._shared.native import NotBuilt, cuda_compiler, sources

MOST_REGISTERS = 96  # of 256; more would leave too few threads to hide latency
ENTRY = re.compile(r"Compiling entry function '(\w+)' for '(sm_\d+)'")
MEMORY = re.compile(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads")
REGISTERS = re.compile(r"Used (\d+) registers")


class Kernel(NamedTuple):
    """What one kernel takes on one architecture."""

    name: str
    architecture: str
    registers: int
    stack: int
    spilled: int


def obstacle() -> str | None:
    """Why nothing can be compiled here."""
    try:
        cuda_compiler()
    except NotBuilt as error:
        return str(error)
    return None


def resources() -> list[Kernel]:
    """Of every kernel on every architecture."""
    found = []
    for source in sources(cuda=True):
        with tempfile.TemporaryDirectory() as folder:
            command = [*cuda_compiler(), "-Xptxas=-v", "-c", str(source), "-o", str(Path(folder) / "out.o")]
            ran = subprocess.run(command, capture_output=True, text=True)
        if ran.returncode:
            sys.exit(f"{source}: {ran.stderr}")
        found += parsed(ran.stdout + ran.stderr)
    return found


def parsed(text: str) -> list[Kernel]:
    """What ptxas said; names without their mangling."""
    kernels = []
    for part in text.split("Compiling entry function")[1:]:
        entry = ENTRY.search("Compiling entry function" + part)
        memory, registers = MEMORY.search(part), REGISTERS.search(part)
        if entry and memory and registers:
            stack, stores, loads = map(int, memory.groups())
            kernels.append(Kernel(plain(entry[1]), entry[2], int(registers[1]), stack, stores + loads))
    return kernels


def plain(mangled: str) -> str:
    """The last name in a mangled one."""
    name, rest = mangled, mangled.removeprefix("_ZN")
    while match := re.match(r"(\d+)", rest):
        end = match.end() + int(match[1])
        name, rest = rest[match.end() : end], rest[end:]
    return name


if __name__ == "__main__":
    if reason := obstacle():
        sys.exit(f"not compiled: {reason}")
    table = resources()
    for kernel in table:
        print(f"{kernel.architecture} {kernel.name:12} {kernel.registers:3} registers, {kernel.spilled} bytes spilled")
    sys.exit(any(kernel.spilled or kernel.stack or kernel.registers > MOST_REGISTERS for kernel in table))

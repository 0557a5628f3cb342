"""Operators in C++ and CUDA: a room's are built once where there is a compiler, when the first is called, and kept.

VITKILN_NATIVE=0 switches them off; VITKILN_CACHE names the folder that keeps them, otherwise ~/.cache/vitkiln;
CXX and NVCC name compilers. A build is found again by its sources, flags, compiler, torch and processor.
"""

import fcntl
import hashlib
import logging
import os
import platform
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import NamedTuple

import torch

from .registration import NAMESPACE

ROOT = Path(__file__).resolve().parents[2]
SOURCES = ROOT / "csrc"
ABI = "0x020a000000000000"  # torch's stable ABI as of 2.10
VECTORS = ("-march=native", "-fno-math-errno", "-fno-trapping-math")  # of roots and choices too; values stay
FLAGS = ("-std=c++17", "-O3", "-g0", "-fPIC", "-pthread", "-ffp-contract=off", *VECTORS)
CUDA_FLAGS = ("-std=c++17", "-O3", "-Xcompiler=-fPIC", "--fmad=false", "--threads=0", "-DUSE_CUDA")
ARCHITECTURES = ("80", "90")
TIMEOUT = 600  # seconds for a compiler
log = logging.getLogger(__name__)


class NativeState(NamedTuple):
    """What became of the native operators: built, missing, off, or not tried."""

    status: str
    detail: str
    path: str | None = None


class NotBuilt(RuntimeError):
    """There is no library, and why."""


UNTRIED = NativeState("not tried", "built when the first native operator is called")
_states: dict[str, NativeState] = {}


def native_state(room: str) -> NativeState:
    """What is known of a room's operators by now; nothing is built to find out."""
    return NativeState("off", "VITKILN_NATIVE=0") if switched_off() else _states.get(room, UNTRIED)


def switched_off() -> bool:
    return os.environ.get("VITKILN_NATIVE") == "0"


def native(room: str, device_type: str = "cpu") -> bool:
    """Whether the operators of csrc/<room> can run on this kind of device; builds them if need be."""
    if switched_off() or device_type not in ("cpu", "cuda"):
        return False
    return _load(room, False).status == "built" and (device_type == "cpu" or _load(room, True).status == "built")


@cache
def _load(room: str, cuda: bool) -> NativeState:
    """Build or find a library, and load it; once for a process. The CPU's also says what the operators are called."""
    kind = "CUDA" if cuda else "C++"
    try:
        path = library(room, cuda)
        torch.ops.load_library(str(path))
        found = NativeState("built", f"{_states[room].detail} and {kind}" if cuda else kind, str(path))
    except (NotBuilt, OSError) as error:
        found = NativeState("missing", str(error))
        log.warning("%s: operators in %s are missing, slower ones in Python answer: %s", room, kind, error)
    if not cuda or found.status == "built":
        _states[room] = found
    return found


def library(room: str, cuda: bool = False) -> Path:
    """A room's operators for CPUs or for GPUs, built if they are not in the cache; NotBuilt says why there are none."""
    if not SOURCES.is_dir():
        raise NotBuilt(f"{SOURCES} does not exist")
    files = sources(cuda, room)
    if not files:
        raise NotBuilt(f"csrc/{room} has no {'CUDA' if cuda else 'C++'}")
    command = cuda_compiler() if cuda else compiler()
    folder = cache_folder()
    target = folder / f"{room}-{'cuda' if cuda else 'cpu'}-{fingerprint(files, command)}.so"
    if not target.exists():
        with locked(folder / f"{room}.lock"):
            if not target.exists():
                build(command, files, target)
    return target


def sources(cuda: bool, room: str = "*") -> list[Path]:
    """Of a room, or of all."""
    return sorted(SOURCES.glob(f"{room}/*.cu" if cuda else f"{room}/*.cpp"))


def compiler() -> list[str]:
    """The C++ compiler and its flags."""
    found = shutil.which(os.environ.get("CXX", "g++"))
    if found is None:
        raise NotBuilt(f"no C++ compiler: {os.environ.get('CXX', 'g++')} is not found")
    return [found, *FLAGS, *against_torch()]


def cuda_compiler() -> list[str]:
    """nvcc and its flags."""
    found = shutil.which(os.environ.get("NVCC", "nvcc")) or shutil.which("/usr/local/cuda/bin/nvcc")
    if found is None:
        raise NotBuilt(f"no CUDA compiler: {os.environ.get('NVCC', 'nvcc')} is not found")
    targets = [f"-gencode=arch=compute_{cc},code=[sm_{cc},compute_{cc}]" for cc in ARCHITECTURES]
    return [found, *CUDA_FLAGS, *targets, *against_torch()]


def against_torch() -> list[str]:
    include = Path(torch.__file__).parent / "include"
    return [f"-DVITKILN_NAMESPACE={NAMESPACE}", f"-DTORCH_TARGET_VERSION={ABI}", f"-I{include}"]


def fingerprint(files: list[Path], command: list[str]) -> str:
    """Of everything the library depends on, headers included."""
    digest = hashlib.sha256(repr((command, torch.__version__, processor(), version(command[0]))).encode())
    for file in sorted({*files, *headers(files)}):
        digest.update(file.relative_to(SOURCES).as_posix().encode() + file.read_bytes())
    return digest.hexdigest()[:24]


def headers(files: list[Path]) -> Iterator[Path]:
    """Those beside the sources, and those that every room may use."""
    for folder in {SOURCES, *(file.parent for file in files)}:
        yield from folder.glob("*.h")


def processor() -> str:
    """What -march=native depends on."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.machine() + platform.processor()
    return platform.machine() + "".join(sorted({line for line in lines if line.startswith(("flags", "Features"))}))


def version(program: str) -> str:
    return subprocess.run([program, "--version"], capture_output=True, text=True, timeout=60).stdout


def cache_folder() -> Path:
    """Made if need be, for this user alone."""
    caches = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    folder = Path(os.environ.get("VITKILN_CACHE") or Path(caches) / "vitkiln") / "native"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    return folder


@contextmanager
def locked(file: Path) -> Iterator[None]:
    """One process at a time builds; the others wait and find what it built."""
    with file.open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def build(command: list[str], files: list[Path], target: Path) -> None:
    """Compile beside the name and rename, so that what bears the name is whole."""
    started = time.monotonic()
    link = ["-shared", f"-L{Path(torch.__file__).parent / 'lib'}", "-ltorch_cpu"]
    link += ["-ltorch_cuda"] if "-cuda-" in target.name else []
    with tempfile.TemporaryDirectory(dir=target.parent) as scratch:
        draft = Path(scratch) / target.name
        ran = run([*command, *map(str, files), "-o", str(draft), *link])
        if ran.returncode:
            raise NotBuilt(f"{command[0]} failed: {complaint(ran.stderr)}")
        draft.replace(target)
    names = ", ".join(file.relative_to(SOURCES).as_posix() for file in files)
    log.warning("built %s in %.0f s, kept in %s", names, time.monotonic() - started, target.parent)


def run(command: list[str]) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT)
    except subprocess.TimeoutExpired:
        raise NotBuilt(f"{command[0]} took longer than {TIMEOUT} s") from None


def complaint(text: str) -> str:
    """The first error of a compiler, or its last words."""
    lines = [line for line in text.splitlines() if line.strip()] or ["without a word"]
    return next((line for line in lines if "error" in line), lines[-1]).strip()

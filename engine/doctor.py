"""What this machine offers a run, what would be chosen, and why not the rest: looked up, never imported in hope."""

from __future__ import annotations

import os
import platform
import resource
import shutil
import subprocess
import sys
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal, NamedTuple

from .data.cores import cores

SMALL_SHM = 1 << 30  # bytes: workers hand their images over through it
FEW_FILES = 1024  # descriptors: every worker and every tensor in shared memory holds some
NEEDED = {
    "timm": "needed by encoder.name=swin_tiny only",
    "torchvision": "needed by data.loader=torchvision only",
}
PATIENCE = 60  # seconds for another process to import a package
DECODE = """
import torch
from vitkiln.engine.data.dali import trouble
raise SystemExit(trouble(torch.device("cuda", 0) if torch.cuda.is_available() else torch.device("cpu")))
"""  # as a run would try it


class Row(NamedTuple):
    """One thing that was looked for."""

    what: str
    state: Literal["ok", "absent", "warning"]
    found: str
    note: str = ""


def examine() -> list[Row]:
    """Every row, in the order in which a reader needs them."""
    probes = {name: probe(name) for name in ("torchvision", "timm")}  # they import while the rest is looked up
    decoding = started(DECODE) if has_dali() else None
    torch, rows = torch_rows()
    rows = [python(), *rows, triton(torch), *flash_attention(), apex(), dali(decoding)]
    rows.append(csrc(torch))
    rows += [imported(name, process) for name, process in probes.items()]
    rows += [tensorboard(), shared_memory(), file_descriptors()]
    return [*rows, *chosen(torch, {row.what: row for row in rows})]


def csrc(torch: Any) -> Row:
    """C++ and CUDA operators: whether they can be built, which their first use does."""
    if os.environ.get("VITKILN_NATIVE") == "0":
        return Row("csrc", "absent", "switched off", "by VITKILN_NATIVE=0; slower operators in Python answer")
    tools = {"C++": os.environ.get("CXX", "g++"), "CUDA": os.environ.get("NVCC", "nvcc")}
    found = {kind: shutil.which(tool) for kind, tool in tools.items()}
    if torch is None or found["C++"] is None:
        why = "PyTorch is missing" if torch is None else f"{tools['C++']} is not found; slower operators answer"
        return Row("csrc", "absent", "cannot be built", why)
    return Row("csrc", "ok", "C++ and CUDA" if found["CUDA"] else "C++", "built at the first use, then kept")


def python() -> Row:
    """The interpreter, and the cores that it may use."""
    return Row("Python", "ok", platform.python_version(), f"{cores()} cores")


def torch_rows() -> tuple[Any, list[Row]]:
    """PyTorch, the module or None, with what it sees of GPUs and of ways to talk between ranks."""
    try:
        import torch
        import torch.distributed as dist
    except (ImportError, OSError) as error:
        return None, [Row("torch", "warning", "does not import", f"{type(error).__name__}: {error}")]
    backends = {
        "nccl": dist.is_available() and dist.is_nccl_available(),
        "gloo": dist.is_available() and dist.is_gloo_available(),
    }
    usable = [name for name, there in backends.items() if there]
    return torch, [
        Row("torch", "ok", torch.__version__, f"{torch.get_num_threads()} threads"),
        gpus(torch),
        Row("ranks", "ok" if usable else "warning", ", ".join(usable) or "none", "gloo on CPUs, nccl on GPUs"),
    ]


def gpus(torch: Any) -> Row:
    """The GPUs, or why there are none."""
    if torch.cuda.is_available():
        names = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
        return Row("CUDA", "ok", f"CUDA {torch.version.cuda}, driver {driver() or 'unknown'}", ", ".join(names))
    if torch.version.cuda is None:
        return Row("CUDA", "absent", "no GPU used", "this PyTorch is built for CPUs")
    why = f"the driver is {driver()}" if driver() else "no NVIDIA driver is loaded"
    return Row("CUDA", "absent", "no GPU usable", f"PyTorch is built for CUDA {torch.version.cuda}; {why}")


def driver() -> str | None:
    """The version of NVIDIA's driver, from the kernel."""
    try:
        return Path("/sys/module/nvidia/version").read_text().strip()
    except OSError:
        return None


def triton(torch: Any) -> Row:
    """The compiler of the fused kernels."""
    version = version_of("triton", "pytorch-triton")
    if find_spec("triton") is None or version is None:
        return Row(
            "Triton", "absent", "not installed", "operators run in plain PyTorch; pip install 'triton>=3.6,<3.10'"
        )
    if torch is None or not torch.cuda.is_available():
        return Row("Triton", "ok", version, "unused without a GPU; TRITON_INTERPRET=1 interprets kernels for tests")
    capability = torch.cuda.get_device_capability()
    if capability < (8, 0):
        return Row("Triton", "warning", version, f"unused: compute capability {capability} is below (8, 0)")
    return Row("Triton", "ok", version, "runs the fused kernels")


def flash_attention() -> list[Row]:
    """FlashAttention's three generations, told apart by their modules. 4 lives inside the package of 2."""
    places = locations("flash_attn")
    second = any((place / "__init__.py").is_file() for place in places)
    fourth = any((place / "cute").is_dir() for place in places)
    third = find_spec("flash_attn_interface") is not None
    kinds = {
        "FlashAttention 2": (second, ("flash-attn", "flash_attn"), "pip install flash-attn --no-build-isolation"),
        "FlashAttention 3": (third, ("flash-attn-3", "flash_attn_3"), "built from source"),
        "FlashAttention 4": (fourth, ("flash-attn-4",), "pip install --pre flash-attn-4"),
    }
    return [
        Row(name, "ok", version_of(*names) or "version unknown", "see attention below")
        if there
        else Row(name, "absent", "not installed", install)
        for name, (there, names, install) in kinds.items()
    ]


def apex() -> Row:
    """NVIDIA's, which the package index does not carry; another package there has its name."""
    places = locations("apex")
    if not places:
        return Row("apex", "absent", "not installed", "not needed: PyTorch's fused optimisers are used")
    if any((place / "multi_tensor_apply").is_dir() for place in places):
        kernels = "with" if find_spec("amp_C") else "without"
        return Row("apex", "ok", f"NVIDIA's, {kernels} its CUDA kernels", "for optim.backend=apex; auto does without")
    return Row("apex", "warning", "not NVIDIA's", "the apex of PyPI is another package: pip uninstall apex")


def has_dali() -> bool:
    """Whether it is installed; its package shares the folder `nvidia` with others."""
    return any((place / "dali").is_dir() for place in locations("nvidia"))


def dali(process: subprocess.Popen[str] | None) -> Row:
    """What decodes on the GPU, after one picture there, or on the CPU where there is no GPU."""
    if process is None:
        return Row("DALI", "absent", "not installed", "pip install 'vitkiln[dali]' brings it")
    version = version_of("nvidia-dali-cuda130", "nvidia-dali-cuda120", "nvidia-dali-cuda110") or "version unknown"
    complaint = outcome(process)
    if complaint is None:
        return Row("DALI", "ok", version, "decodes; see loader below")
    return Row("DALI", "absent", f"{version}, unusable", complaint)


def probe(name: str) -> subprocess.Popen[str] | None:
    """Begin to import an installed package in another process, where it can do no harm."""
    return None if find_spec(name) is None else started(f"import {name}")


def started(code: str) -> subprocess.Popen[str]:
    """Another interpreter that runs the code."""
    command = [sys.executable, "-c", code]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)


def outcome(process: subprocess.Popen[str]) -> str | None:
    """The last line of its complaint, None where it has none."""
    try:
        _, complaint = process.communicate(timeout=PATIENCE)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
        return f"does not import within {PATIENCE} s"
    if process.returncode == 0:
        return None
    return (complaint.strip().splitlines() or [f"exit status {process.returncode}"])[-1]


def imported(name: str, process: subprocess.Popen[str] | None) -> Row:
    """Whether that went well, and what went wrong if not. The core needs neither package."""
    need = NEEDED.get(name, "not needed")
    if process is None:
        return Row(name, "absent", "not installed", need)
    version = version_of(name) or "version unknown"
    complaint = outcome(process)
    if complaint is None:
        return Row(name, "ok", version, f"imports; {need}")
    return Row(name, "absent", f"{version}, unusable", f"{complaint}; {need}")


def tensorboard() -> Row:
    """Where metrics go besides metrics.jsonl."""
    version = version_of("tensorboard")
    if find_spec("tensorboard") is None:
        return Row("TensorBoard", "absent", "not installed", "metrics.jsonl is written all the same")
    return Row("TensorBoard", "ok", version or "version unknown", "used by run.tensorboard=true")


def shared_memory() -> Row:
    """What data.workers hand over images through."""
    try:
        usage = shutil.disk_usage("/dev/shm")
    except OSError:
        return Row("/dev/shm", "warning", "not there", "set data.workers=0, or mount it")
    size = f"{usage.free / 2**30:.1f} of {usage.total / 2**30:.1f} GiB free"
    if usage.total < SMALL_SHM:
        return Row("/dev/shm", "warning", size, "small: in a container give --shm-size=8g, or use fewer data.workers")
    return Row("/dev/shm", "ok", size)


def file_descriptors() -> Row:
    """How many files a process may hold open."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < FEW_FILES:
        return Row("open files", "warning", f"{soft} of at most {hard}", f"few for many data.workers: ulimit -n {hard}")
    return Row("open files", "ok", f"{soft}")


def chosen(torch: Any, rows: dict[str, Row]) -> list[Row]:
    """What a run would use, and why not the others."""
    return [loader(torch, rows), attention(torch, rows)]


def loader(torch: Any, rows: dict[str, Row]) -> Row:
    """As engine/data/hands.py chooses for images that are files."""
    usable = {name: rows[row].state == "ok" for name, row in (("dali", "DALI"), ("torchvision", "torchvision"))}
    why = "there is no GPU"
    chosen = "pillow"
    if torch is not None and torch.cuda.is_available():
        chosen = "dali" if usable["dali"] else "pillow"
        why = "DALI decodes on the GPU" if usable["dali"] else f"DALI: {rows['DALI'].found}"
    asked = [f"data.loader={name}" for name, there in usable.items() if there and name != chosen]
    notes = [f"data.loader=auto: {why}", *([f"when asked for: {', '.join(asked)}"] if asked else [])]
    return Row("loader", "ok", chosen, "; ".join(notes))


def attention(torch: Any, rows: dict[str, Row]) -> Row:
    """As kernels/attention chooses."""
    others = {
        "FlashAttention 2": "when asked for: vitkiln.kernels.use('flash', 'attention')",
        "FlashAttention 3": "when asked for: vitkiln.kernels.use('flash3', 'attention'), on compute capability 9.0",
        "FlashAttention 4": "when asked for: vitkiln.kernels.use('flash4', 'attention'), on 9.0 and 10.0",
    }
    notes = [f"{name} {why}" for name, why in others.items() if rows[name].state == "ok"]
    if torch is None or not torch.cuda.is_available():
        return Row("attention", "ok", "PyTorch", "; ".join(["there is no GPU", *notes]))
    if rows["Triton"].state != "ok":
        return Row("attention", "ok", "PyTorch", "; ".join([sdpa(torch), *notes]))
    return Row(
        "attention", "ok", "Triton, PyTorch", "; ".join(["Triton for short 16-bit sequences", sdpa(torch), *notes])
    )


def sdpa(torch: Any) -> str:
    """The backends among which PyTorch picks by shape and type."""
    backends = torch.backends.cuda
    enabled = {
        "flash": backends.flash_sdp_enabled(),
        "memory-efficient": backends.mem_efficient_sdp_enabled(),
        "cudnn": backends.cudnn_sdp_enabled(),
        "math": backends.math_sdp_enabled(),
    }
    return f"PyTorch picks among {', '.join(name for name, on in enabled.items() if on)}"


def locations(package: str) -> list[Path]:
    """Folders of a package, found without importing it."""
    spec = find_spec(package)
    return [Path(place) for place in spec.submodule_search_locations or ()] if spec else []


def version_of(*distributions: str) -> str | None:
    """Of the first that is installed."""
    found = (found.version for name in distributions for found in metadata.distributions(name=name))
    return next(found, None)

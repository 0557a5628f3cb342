"""Everything that a run needs to go on as if it had never stopped, in a form that survives being cut off.

A checkpoint is a folder `step-NNNNNNN`: weights and optimiser state as safetensors, the rest as JSON, and a manifest
with the sha256 of each file. It is written under another name, flushed to the disk, and only then renamed.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from .errors import RecipeError

log = logging.getLogger("vitkiln")
WEIGHTS, OPTIMIZER, STATE = "method.safetensors", "optimizer.safetensors", "state.json"
RECIPE, MANIFEST = "recipe.yaml", "manifest.json"


def save(
    folder: Path,
    step: int,
    method: nn.Module,
    optimizer: torch.optim.Optimizer,
    state: dict[str, Any],
    recipe: str,
) -> Path:
    """Write `folder/step-NNNNNNN` whole or not at all, and point LATEST at it."""
    target = folder / f"step-{step:07d}"
    draft = folder / f".{target.name}.{os.getpid()}"
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir(parents=True)
    tensors, groups = flatten(optimizer)
    save_file(contiguous(method.state_dict()), draft / WEIGHTS)
    save_file({**contiguous(tensors), "random_state": torch.get_rng_state()}, draft / OPTIMIZER)
    (draft / STATE).write_text(json.dumps({**state, "step": step, "groups": groups}, indent=1))
    (draft / RECIPE).write_text(recipe)
    seal(draft)
    shutil.rmtree(target, ignore_errors=True)
    draft.rename(target)
    flush(folder)
    point(folder / "LATEST", target.name)
    return target


def restore(checkpoint: Path, method: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """Load into both, in place, and return the rest of what was saved."""
    method.load_state_dict(load_file(checkpoint / WEIGHTS))
    state = json.loads((checkpoint / STATE).read_text())
    tensors = load_file(checkpoint / OPTIMIZER)
    torch.set_rng_state(tensors.pop("random_state"))
    unflatten(optimizer, tensors, state.pop("groups"))
    return state


def newest(folder: Path) -> Path | None:
    """The newest checkpoint whose files are all as they were written; torn ones are named and passed over."""
    for checkpoint in sorted(folder.glob("step-*"), reverse=True):
        fault = damage(checkpoint)
        if fault is None:
            return checkpoint
        log.warning("%s is damaged (%s): the one before it is used", checkpoint, fault)
    return None


def named(path: Path) -> Path:
    """The checkpoint meant by a checkpoint folder, a run folder, or the folder of its checkpoints."""
    if (path / MANIFEST).exists():
        fault = damage(path)
        if fault:
            raise RecipeError(f"{path}: damaged checkpoint ({fault})")
        return path
    for folder in (path / "checkpoints", path):
        if found := newest(folder):
            return found
    raise RecipeError(f"{path}: no checkpoint here; expected a run folder or a folder step-NNNNNNN with {MANIFEST}")


def prune(folder: Path, keep: int) -> None:
    """Leave the newest `keep` checkpoints, and no draft of a run that was cut off."""
    for old in sorted(folder.glob("step-*"))[:-keep]:
        shutil.rmtree(old, ignore_errors=True)
    for draft in folder.glob(".step-*"):
        shutil.rmtree(draft, ignore_errors=True)


def damage(checkpoint: Path) -> str | None:
    """What is wrong with a checkpoint, or None."""
    try:
        sums = json.loads((checkpoint / MANIFEST).read_text())["sha256"]
        for name, expected in sums.items():
            if sha256(checkpoint / name) != expected:
                return f"{name} is not what was written"
    except (OSError, ValueError, KeyError, TypeError) as error:
        return f"{type(error).__name__}: {error}"
    return None


def seal(draft: Path) -> None:
    """Write the manifest last, and flush every file and the folder itself."""
    sums = {file.name: sha256(file) for file in sorted(draft.iterdir())}
    (draft / MANIFEST).write_text(json.dumps({"format": 1, "sha256": sums}, indent=1))
    for file in [*draft.iterdir(), draft]:
        flush(file)


def sha256(file: Path) -> str:
    """Of a file, read in pieces."""
    with file.open("rb") as stream:
        digest = hashlib.sha256()
        while chunk := stream.read(1 << 22):
            digest.update(chunk)
    return digest.hexdigest()


def flush(path: Path) -> None:
    """To the disk, not only to the system: a file or a folder."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def point(pointer: Path, name: str) -> None:
    """Replace the pointer in one go."""
    draft = pointer.with_name(f".{pointer.name}.{os.getpid()}")
    draft.write_text(name + "\n")
    flush(draft)
    draft.replace(pointer)
    flush(pointer.parent)


def contiguous(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """As safetensors wants them."""
    return {name: tensor.detach().contiguous() for name, tensor in tensors.items()}


def flatten(optimizer: torch.optim.Optimizer) -> tuple[dict[str, Tensor], list[dict[str, Any]]]:
    """Tensors by "index/name", and the groups as plain values; what follows from the step is not kept."""
    state = optimizer.state_dict()
    tensors = {f"{i}/{name}": value for i, values in state["state"].items() for name, value in values.items()
        if isinstance(value, Tensor)}  # fmt: skip
    groups = [{k: v for k, v in group.items() if k not in following(group)} for group in state["param_groups"]]
    return tensors, groups


def following(group: dict[str, Any]) -> dict[str, Tensor]:
    """What is filled into tensors before every step: rates, and decays where they are no plain numbers."""
    return {name: group[name] for name in ("lr", "weight_decay") if isinstance(group[name], Tensor)}


def unflatten(optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor], groups: list[dict[str, Any]]) -> None:
    """The inverse of `flatten`, into an optimiser whose rates and decays stay its own tensors."""
    own = [following(group) for group in optimizer.param_groups]
    state: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        index, name = key.split("/")
        state.setdefault(int(index), {})[name] = value
    here = [{**group, **saved, **kept} for group, saved, kept in zip(optimizer.param_groups, groups, own, strict=True)]
    optimizer.load_state_dict({"state": state, "param_groups": here})
    for group, kept in zip(optimizer.param_groups, own, strict=True):
        group.update(kept)

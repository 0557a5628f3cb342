"""TEMPORARY: replaced by the real one."""
from __future__ import annotations
from importlib import import_module
from pathlib import Path
from typing import Any
import yaml
from .errors import RecipeError
from .settings import Data, Encoder, Optim, Run, Section


class Recipe(Section):
    name: str
    method: Any
    encoder: Encoder
    data: Data
    optim: Optim
    run: Run

    def to_yaml(self) -> str:
        d = {"method": self.method.model_dump(mode="json"), **{k: getattr(self, k).model_dump(mode="json") for k in ("encoder", "data", "optim", "run")}}
        return yaml.safe_dump(d, sort_keys=False)


def load(path: Any, overrides: Any = (), short: bool | None = None) -> Recipe:
    raw = yaml.safe_load(Path(path).read_text())
    s = raw.pop("short", {})
    if short:
        for k, v in s.items():
            raw.setdefault(k, {}).update(v)
    for o in overrides:
        k, v = o.split("=", 1)
        a, b = k.split(".")
        raw.setdefault(a, {})[b] = yaml.safe_load(v)
    name = raw["method"]["name"]
    module = import_module(name if "." in name else f"vitkiln.engine.settings.{name}")
    return Recipe(name=Path(path).stem, method=module.Settings(**raw["method"]), encoder=Encoder(**raw.get("encoder", {})), data=Data(**raw.get("data", {})), optim=Optim(**raw.get("optim", {})), run=Run(**raw.get("run", {})))


FREE = {"data.workers", "run.knn", "run.log_every", "run.tensorboard"}


def difference(a: Recipe, b: Recipe) -> list[str]:
    out = []
    x, y = yaml.safe_load(a.to_yaml()), yaml.safe_load(b.to_yaml())
    for s in x:
        for k in x[s]:
            if x[s][k] != y[s].get(k) and f"{s}.{k}" not in FREE:
                out.append(f"{s}.{k}: {x[s][k]} then, {y[s].get(k)} now")
    return out

"""What was set out to be reached on a GPU, and what the records say of it. It needs no GPU, and no torch."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

Lines = list[dict[str, Any]]
SMALL, BASE = {"D": 384}, {"D": 768}


@dataclass(frozen=True)
class Goal:
    """`measured` finds the figure in the lines of one GPU; the ratio is 1 or more where the goal is reached."""

    item: str
    text: str
    value: float = 0.0
    unit: str = ""
    measured: Callable[[Lines], float | None] = lambda lines: None
    at_most: bool = False

    def ratio(self, found: float) -> float:
        """Measured over goal, or goal over measured where less is better."""
        return self.value / found if self.at_most else found / self.value

    def over_compiled(self, lines: Lines) -> float | None:
        """The least speed-up over what torch.compile makes of it, or over PyTorch's own kernels that it calls."""
        return speedup(lines, others=COMPILED, **self.about()) if self.about() else None

    def of_limit(self, lines: Lines) -> float | None:
        """The least share of the roofline, in percent."""
        return share(lines, **self.about()) if self.about() else None

    def about(self) -> dict[str, Any]:
        """Which measurements the goal speaks of."""
        if not isinstance(self.measured, partial):
            return {}
        named = {key: value for key, value in self.measured.keywords.items() if key != "others"}
        return {"name": "dilemma step", **named}


def newest(lines: Lines) -> Lines:
    """The last line of each measurement that did not fail."""
    kept = {}
    for line in lines:
        if "median" in line:
            kept[(line["name"], line["mode"], str(line["shape"]), line["provider"])] = line
    return list(kept.values())


def found(lines: Lines, name: str, mode: str | None = None, **shape: int) -> Iterator[dict[str, dict[str, Any]]]:
    """Of every work that fits: its lines by provider, where ours is among them."""
    works: dict[Any, dict[str, Any]] = defaultdict(dict)
    for line in lines:
        fits = line["name"] == name and mode in (None, line["mode"]) and shape.items() <= line["shape"].items()
        if fits:
            works[(line["mode"], str(line["shape"]))][line["provider"]] = line
    return (work for work in works.values() if "ours" in work)


def share(lines: Lines, name: str, mode: str | None = None, **shape: int) -> float | None:
    """The least share of the roofline, in percent."""
    shares = [work["ours"]["roofline"] for work in found(lines, name, mode, **shape)]
    return min((100 * s for s in shares if s is not None), default=None)


def microseconds(lines: Lines, name: str, mode: str | None = None, **shape: int) -> float | None:
    """The longest median."""
    return max((1e3 * work["ours"]["median"] for work in found(lines, name, mode, **shape)), default=None)


def speedup(lines: Lines, name: str, others: tuple[str, ...], mode: str | None = None, **shape: int) -> float | None:
    """The least speed-up over the fastest of the others."""
    ratios = []
    for work in found(lines, name, mode, **shape):
        times = [work[other]["median"] for other in others if other in work]
        ratios += [min(times) / work["ours"]["median"]] if times else []
    return min(ratios, default=None)


def points(lines: Lines) -> float | None:
    """Points of orbits a second, the least."""
    works = [work["ours"] for work in found(lines, "fractal_support")]
    return min((1e3 * w["shape"]["B"] * w["shape"]["points"] / w["median"] for w in works), default=None)


def images(lines: Lines, **shape: int) -> float | None:
    """Images a second of our fastest step."""
    works = found(lines, "dilemma step", **shape)
    rates = [
        1e3 * line["shape"]["B"] / line["median"] for work in works for name, line in work.items() if "ours" in name
    ]
    return max(rates, default=None)


def step_speedup(lines: Lines, **shape: int) -> float | None:
    """Of our faster step over compiled plain blocks, the least over batch sizes."""
    ratios = []
    for work in found(lines, "dilemma step", **shape):
        ours = min(line["median"] for name, line in work.items() if "ours" in name)
        ratios += [work["compiled plain blocks"]["median"] / ours] if "compiled plain blocks" in work else []
    return min(ratios, default=None)


COMPILED = ("compiled", "compiled plain blocks", "torch flash", "torch cudnn", "torch efficient")
FLASH = ("torch flash", "flash-attn")
NEWER = tuple(f"{by}{n}" for by in ("flash-attn ", "torch flash as FA") for n in (3, 4))
OTHERS = (*FLASH, *NEWER, "torch cudnn", "torch efficient", "torch math")
LOSS = {"N": 8192, "M": 65_536}
GOALS = [
    Goal("attention, 50 tokens", "at least 75 % of the roofline", 75, "%", partial(share, name="attention", N=50)),
    Goal(
        "attention, 50 tokens",
        "at least 2 times FlashAttention 2",
        2,
        "x",
        partial(speedup, name="attention", others=FLASH, N=50),
    ),
    Goal(
        "attention, 50 tokens",
        "at least 1.3 times the best of others",
        1.3,
        "x",
        partial(speedup, name="attention", others=OTHERS, N=50),
    ),
    Goal("attention, 197 tokens", "at least 75 % of the roofline", 75, "%", partial(share, name="attention", N=197)),
    Goal(
        "attention, 197 tokens",
        "at least 1.2 times the best of others",
        1.2,
        "x",
        partial(speedup, name="attention", others=OTHERS, N=197),
    ),
    Goal("add_layer_norm", "at least 85 % of the rate of a copy", 85, "%", partial(share, name="add_layer_norm")),
    Goal(
        "linear_gelu, forward",
        "at most 1.05 times the bare product",
        1 / 1.05,
        "x",
        partial(speedup, name="linear_gelu", others=("bare product",), mode="forward"),
    ),
    Goal(
        "linear_gelu",
        "never slower than product and GELU apart",
        1,
        "x",
        partial(speedup, name="linear_gelu", others=("eager", "compiled")),
    ),
    Goal(
        "patch_embed, a quarter kept, forward",
        "at least 60 % of the roofline",
        60,
        "%",
        partial(share, name="patch_embed", mode="forward", K=49),
    ),
    Goal(
        "patch_embed, 1,024 views of ViT-S, a quarter kept",
        "at most 90 us",
        90,
        "us",
        partial(microseconds, name="patch_embed", mode="forward", K=49, **SMALL),
        at_most=True,
    ),
    Goal(
        "sample_tokens, 1,024 images",
        "at most 8 us",
        8,
        "us",
        partial(microseconds, name="sample_tokens", B=1024),
        at_most=True,
    ),
    Goal(
        "info_nce, 8,192 by 65,536",
        "at least 60 % of the rate of products",
        60,
        "%",
        partial(share, name="info_nce", **LOSS),
    ),
    Goal(
        "info_nce, 1,024 by 1,024",
        "at most 15 us",
        15,
        "us",
        partial(microseconds, name="info_nce", N=1024, M=1024),
        at_most=True,
    ),
    Goal("symmetric contrastive losses", "at most 6 N^2 D operations, no N^2 memory"),
    Goal(
        "DINO head, 64 images, 65,536 prototypes",
        "at most 0.35 ms with the gradient of the prototypes",
        350,
        "us",
        partial(microseconds, name="prototype_cross_entropy", B=64),
        at_most=True,
    ),
    Goal(
        "RelViT heads, 256 images",
        "at most 0.2 ms, nothing N^2 in memory",
        200,
        "us",
        partial(microseconds, name="relation_loss", mode="forward+backward", N=196, d=42),
        at_most=True,
    ),
    Goal("GMML masks, corruption and loss", "at most 3 % of a step of ViT-S"),
    Goal("adamw_ema_", "at least 85 % of the rate of a copy", 85, "%", partial(share, name="adamw_ema_")),
    Goal(
        "adamw_ema_, 110 M weights",
        "at most 1.25 ms on an H200",
        1250,
        "us",
        partial(microseconds, name="adamw_ema_", tensors=366),
        at_most=True,
    ),
    Goal("fractals", "at least 2e11 points a second on an H200", 2e11, "points/s", points),
    Goal(
        "augment_views",
        "two views in at most 0.5 us an image",
        512,
        "us",
        partial(microseconds, name="augment_views, two of each photograph", B=1024),
        at_most=True,
    ),
    Goal("DILEMMA ViT-S/16, one H200", "floor: 11,000 images/s", 11_000, "images/s", partial(images, **SMALL)),
    Goal("DILEMMA ViT-S/16, one H200", "target: 13,000 images/s", 13_000, "images/s", partial(images, **SMALL)),
    Goal("DILEMMA ViT-B/16, one H200", "floor: 4,000 images/s", 4_000, "images/s", partial(images, **BASE)),
    Goal("DILEMMA ViT-B/16, one H200", "target: 4,600 images/s", 4_600, "images/s", partial(images, **BASE)),
    Goal("DILEMMA ViT-S/16", "at least 1.45 times compiled plain blocks", 1.45, "x", partial(step_speedup, **SMALL)),
    Goal("DILEMMA ViT-B/16", "at least 1.3 times compiled plain blocks", 1.3, "x", partial(step_speedup, **BASE)),
    Goal("dense supervised ViT-S / ViT-B, one H200", "14,000 / 4,900 images/s"),
]

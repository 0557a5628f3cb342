"""Encoder, data, optimiser and run: the sections that every method shares."""

from collections.abc import Iterator
from math import lcm
from typing import Annotated, Any, ClassVar, Literal, TypeVar

from pydantic import Field, model_validator

from .backbones import BROUGHT, CHOICES, SIZES, ModelName
from .formulas import Formulas
from .strict import (
    Count,
    Decays,
    NotNegative,
    Positive,
    Problem,
    Scales,
    Section,
    Share,
    Triple,
    nearest_multiple,
    shown,
)


class Encoder(Section):
    """A Vision Transformer: a named size, any part of which may be set by itself; or another kind, by its name."""

    name: ModelName = "vit_small"
    image_size: Count = 224
    patch_size: Count = 16
    width: Count | None = None
    depth: Count | None = None
    heads: Count | None = None
    mlp_ratio: Positive = 4.0
    position: Literal["sincos", "learned", "none"] = "sincos"  # none: patches are told no place
    class_position: bool = True  # whether the class token has a row of its own in a learned position table
    registers: Annotated[int, Field(ge=0)] = 0
    layer_scale: Positive | None = None
    drop_path: Share = 0.0
    freeze_patch_embed: bool = False
    init: Literal["mocov3", "mae", "truncated_normal"] = "mocov3"
    mean: Triple = (0.485, 0.456, 0.406)
    std: Scales = (0.229, 0.224, 0.225)
    weights: str | None = None

    @model_validator(mode="before")
    @classmethod
    def _brought(cls, given: Any) -> Any:
        """What a named kind of encoder brings along, under what the recipe says."""
        name = given.get("name") if isinstance(given, dict) else None
        return {**BROUGHT[name], **given} if isinstance(name, str) and name in BROUGHT else given

    @property
    def plain(self) -> bool:
        """Whether it is a Vision Transformer that can see some of its patches only."""
        return self.name not in CHOICES

    @property
    def shape(self) -> tuple[int, int, int]:
        """Width, depth and heads, the named size's where they are not set."""
        width, depth, heads = SIZES[self.name]
        return self.width or width, self.depth or depth, self.heads or heads

    @property
    def patches(self) -> int:
        return (self.image_size // self.patch_size) ** 2

    def conflicts(self) -> Iterator[Problem]:
        """What the named kind leaves no choice of, and sizes that do not divide."""
        wrong = [key for key, allowed in CHOICES.get(self.name, {}).items() if getattr(self, key) not in allowed]
        for key in wrong:
            allowed = " or ".join(map(shown, CHOICES[self.name][key]))
            yield Problem(key, getattr(self, key), f"must be {allowed} for {self.name}")
        if not wrong:
            yield from self.divisions()

    def divisions(self) -> Iterator[Problem]:
        """Sizes that do not divide."""
        if self.image_size % self.patch_size:
            nearest = nearest_multiple(self.image_size, self.patch_size)
            yield Problem(
                "image_size",
                self.image_size,
                f"must be a multiple of encoder.patch_size={self.patch_size}; the nearest is {nearest}",
            )
        width, _, heads = self.shape
        unit = lcm(heads, 4) if self.position == "sincos" else heads
        if width % unit == 0:
            return
        if self.width is None:  # the named size's: only the heads were chosen
            fitting = [n for n in range(1, width + 1) if width % n == 0]
            nearest = min(fitting, key=lambda n: abs(n - heads))
            yield Problem("heads", heads, f"must divide the width of {self.name}, {width}; the nearest is {nearest}")
        else:
            units = f"encoder.heads={heads}" + (", and of 4 for sin-cos positions" if unit != heads else "")
            yield Problem(
                "width", width, f"must be a multiple of {units}; the nearest is {nearest_multiple(width, unit)}"
            )


Own = TypeVar("Own", bound="MethodSettings")
Taught = TypeVar("Taught", bound="Labelled")


class MethodSettings(Section):
    """What the engine asks of any method's settings."""

    smallest_batch: ClassVar[int] = 1  # images in a micro-batch

    name: str

    @property
    def of_each_class(self) -> int | None:
        """Images that a micro-batch must have of each of its classes, side by side; None: whatever there is."""
        return None

    def conflicts(self) -> Iterator[Problem]:
        """Crops and colours that would only fail in a worker, in the middle of a run."""
        yield from super().conflicts()
        for key in ("crop_scale", "global_scale", "local_scale"):
            low, high = getattr(self, key, (1.0, 1.0))
            if not 0 < low <= high:
                yield Problem(key, (low, high), "must be two shares of the area, the smaller first and more than 0")
        jitter = getattr(self, "jitter", None)
        if jitter and jitter[3] > 0.5:
            yield Problem("jitter", jitter, "the last, hue, must be at most 0.5")

    def with_data(self: Own, classes: int | None) -> Own:
        """These settings for data of so many classes (None: no labels); ValueError where they do not do."""
        return self

    def needs_plain(self, encoder: Encoder) -> Iterator[Problem]:
        """An encoder that cannot see some of the patches only, or whose blocks differ."""
        if not encoder.plain:
            plain = ", ".join(name for name in SIZES if name not in CHOICES)
            text = f"needs a plain Vision Transformer, not encoder.name={encoder.name}; that must be one of {plain}"
            yield Problem("name", self.name, text)

    def misfits(self, encoder: Encoder) -> Iterator[Problem]:
        """What is wrong only with this encoder; small crops that are not small, or not of whole patches."""
        if not getattr(self, "local_crops", 0):
            return
        size, patch, largest = getattr(self, "local_size", 0), encoder.patch_size, encoder.image_size
        if size > largest:
            yield Problem("local_size", size, f"must be at most encoder.image_size={largest}")
        elif size % patch:
            nearest = nearest_multiple(size, patch)
            yield Problem(
                "local_size", size, f"must be a multiple of encoder.patch_size={patch}; the nearest is {nearest}"
            )


class Labelled(MethodSettings):
    """Settings of a method that learns from labels."""

    classes: Count | None = None  # as many as the data have

    def with_data(self: Taught, classes: int | None) -> Taught:
        """The number of classes filled in."""
        if classes is None:
            raise ValueError(f"{self.name} needs labels; the data must be a folder for each class")
        if self.classes is not None and self.classes < classes:
            raise ValueError(f"method.classes={self.classes}: the data have {classes}; must be at least as many")
        return self.model_copy(update={"classes": self.classes or classes})


class Reading(Section):
    """Where the images come from. `batch_size` counts images of one step over all ranks."""

    source: Literal["folder", "shards", "fractal"] = "folder"
    root: str | None = None
    val: str | None = None  # labelled images to evaluate on; root/val and root/test are found by themselves
    batch_size: Count = 1024
    workers: Annotated[int, Field(ge=0)] = 8
    loader: Literal["auto", "pillow", "dali", "torchvision"] = "auto"
    hardware_decoding: Share = 0.65  # dali on a GPU: how much of a batch its JPEG engine decodes, the rest its cores
    repeats: Count = 1  # repeated augmentation (Hoffer et al., arXiv:1901.09335): crops of an image in one batch
    classes_per_batch: Count | None = None  # each micro-batch is so many classes in equal numbers; null: as they come
    max_bad: Share = 0.1  # the run stops when more than this share of the images cannot be read


class Data(Formulas, Reading):
    """Images, and what is said of those that formulas draw."""


class Optim(Section):
    """The optimiser and its schedule. The rate used is lr * batch_size / lr_scale, or lr where lr_scale is null."""

    name: Literal["adamw", "lars", "sgd"] = "adamw"
    backend: Literal["auto", "one_pass", "torch", "apex"] = "auto"  # one_pass: teachers move with the step
    lr: Positive = 1.5e-4
    lr_scale: Count | None = 256
    min_lr: NotNegative = 0.0
    schedule: Literal["cosine", "cosine_inclusive", "cosine_absolute", "quarter_cosine", "constant"] = "cosine"
    rate_per: Literal["step", "epoch"] = "step"  # how often the rate moves along its schedule
    warmup_epochs: NotNegative = 0.0
    weight_decay: NotNegative = 0.1
    final_weight_decay: NotNegative | None = None  # reached along a cosine; null: constant
    decay_1d: bool = True  # whether biases, norms and other vectors decay too
    betas: Decays = (0.9, 0.999)
    layer_decay: Annotated[float, Field(gt=0, le=1)] = 1.0  # factor of the rate for each block further from the head
    momentum: Share = 0.9  # lars, sgd
    trust: Positive = 0.001  # lars
    clip: Positive | None = None
    clip_per: Literal["model", "tensor"] = "model"

    def conflicts(self) -> Iterator[Problem]:
        """Who cannot take such a step."""
        able = {"one_pass": ("adamw", "lars"), "apex": ("adamw",)}
        if self.name not in able.get(self.backend, (self.name,)):
            others = "auto, one_pass or torch" if self.name == "lars" else "auto or torch"
            yield Problem("backend", self.backend, f"must be {others} for {self.name}")


class Run(Section):
    """How long, on what, and what is written. `epochs` gives the schedule its shape; `steps` or `minutes`, where
    set, is the budget into which the whole schedule is compressed."""

    epochs: Positive = 300.0
    steps: Count | None = None
    minutes: Positive | None = None
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0
    device: Literal["auto", "cpu", "cuda"] = "auto"
    precision: Literal["bf16", "fp32"] = "bf16"
    compile: bool = False
    cuda_graph: bool = False  # a step is recorded once and launched as a whole; changes no weight
    accumulate: Count = 1
    leftover: Literal["drop", "step"] = "drop"  # micro-batches that fill no step at the end of an epoch
    checkpoint_every: Count = 1000
    keep_checkpoints: Count = 2
    log_every: Count = 10
    tensorboard: bool = True
    evaluate_every: Positive | None = None  # epochs between accuracies of a classifier; null: at the end only
    knn: bool = True  # evaluate at the end where there are labels
    knn_images: Count = 50_000  # at most so many of either split


def kept(patches: int, keep: float) -> int:
    """int(patches * (1 - drop)), truncated in floating point as the papers' code does; drop = 1 - keep.

    >>> kept(196, 0.25), kept(196, 0.4), kept(100, 0.1)
    (49, 78, 9)
    """
    return int(patches * (1 - round(1 - keep, 12)))

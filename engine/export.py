"""An encoder as others load it: safetensors under timm's names, no prefix, no head."""

from __future__ import annotations

import json
from pathlib import Path

from safetensors import safe_open
from safetensors.torch import save_file

from .backbone import Backbone
from .errors import RecipeError
from .evaluate.subject import open_method
from .recipe import Recipe
from .settings import Encoder
from .vit import ViT, build

MODELS = {"swin_tiny": "swin_tiny_patch4_window7_224"}  # what timm.create_model calls them
OWN_NAMES = {"t2t_vit_14"}  # encoders that timm does not have


def export(source: Path, out: Path, format: str = "timm") -> Path:
    """Write the encoder of a checkpoint (or of a run folder's newest one) to `out`."""
    if format != "timm":
        raise RecipeError(f"--format {format}: unknown; the format written is timm")
    recipe, method_step, encoder = open_encoder(source)
    return write(encoder, out, recipe, method_step)


def write(encoder: ViT, out: Path, recipe: Recipe, step: int) -> Path:
    """safetensors with timm's keys; the metadata says what the weights expect and where they come from."""
    target = out / "encoder.safetensors" if out.is_dir() or not out.suffix else out
    target.parent.mkdir(parents=True, exist_ok=True)
    metadata = {
        "encoder": recipe.encoder.model_dump_json(),
        **({} if recipe.encoder.name in OWN_NAMES else {"timm": json.dumps(timm_arguments(recipe.encoder))}),
        "mean": json.dumps(recipe.encoder.mean),
        "std": json.dumps(recipe.encoder.std),
        "method": recipe.method.name,
        "step": str(step),
    }
    draft = target.with_name(f".{target.name}.tmp")
    save_file(
        {name: tensor.detach().cpu().contiguous() for name, tensor in encoder.state_dict().items()},
        draft,
        metadata,
    )
    draft.replace(target)
    return target


def timm_arguments(settings: Encoder) -> dict[str, object]:
    """What timm.models.vision_transformer.VisionTransformer, or timm.create_model, takes to be this encoder."""
    if settings.name in MODELS:
        return {"model_name": MODELS[settings.name], "img_size": settings.image_size, "num_classes": 0}
    width, depth, heads = settings.shape
    return {
        "img_size": settings.image_size,
        "patch_size": settings.patch_size,
        "embed_dim": width,
        "depth": depth,
        "num_heads": heads,
        "mlp_ratio": settings.mlp_ratio,
        "init_values": settings.layer_scale,
        "reg_tokens": settings.registers,
        "no_embed_class": not settings.class_position,
        "num_classes": 0,
        **({"pos_embed": "none"} if settings.position == "none" else {}),
    }


def snippet(path: Path, settings: Encoder) -> str:
    """The lines that load the file: into timm, or into this package where timm has no such encoder."""
    if settings.name in OWN_NAMES:
        return (
            "from vitkiln.engine.export import opened\n"
            f"model = opened({str(path)!r})  # timm has no {settings.name}: the names are ours"
        )
    arguments = ", ".join(f"{key}={value!r}" for key, value in timm_arguments(settings).items())
    if settings.name in MODELS:
        return (
            "from timm import create_model; from safetensors.torch import load_file\n"
            f"model = create_model({arguments})\n"
            f"model.load_state_dict(load_file({str(path)!r}))"
        )
    return (
        "from timm.models.vision_transformer import VisionTransformer; from safetensors.torch import load_file\n"
        f"model = VisionTransformer({arguments})\n"
        f"model.load_state_dict(load_file({str(path)!r}))"
    )


def opened(path: Path | str) -> Backbone:
    """The encoder of an exported file, with its weights."""
    settings = Encoder.model_validate_json(metadata(Path(path))["encoder"])
    return build(settings.model_copy(update={"weights": str(path)}))


def open_encoder(source: Path) -> tuple[Recipe, int, ViT]:
    """The recipe, the step and the encoder of a checkpoint folder or run folder."""
    subject = open_method(source)
    return subject.recipe, subject.step, subject.method.backbone()


def metadata(path: Path) -> dict[str, str]:
    """What an exported file says of itself."""
    with safe_open(path, "pt") as file:
        return dict(file.metadata() or {})

"""An encoder as others load it: safetensors under timm's names, no prefix, no head."""

from __future__ import annotations

import json
from pathlib import Path

from safetensors import safe_open
from safetensors.torch import save_file

from .errors import RecipeError
from .evaluate.subject import open_method
from .recipe import Recipe
from .settings import Encoder
from .vit import ViT


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
        "timm": json.dumps(timm_arguments(recipe.encoder)),
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
    """What timm.models.vision_transformer.VisionTransformer takes to be this encoder."""
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
    }


def snippet(path: Path, settings: Encoder) -> str:
    """Three lines that load the file into timm."""
    arguments = ", ".join(f"{key}={value!r}" for key, value in timm_arguments(settings).items())
    return (
        "from timm.models.vision_transformer import VisionTransformer; from safetensors.torch import load_file\n"
        f"model = VisionTransformer({arguments})\n"
        f"model.load_state_dict(load_file({str(path)!r}))"
    )


def open_encoder(source: Path) -> tuple[Recipe, int, ViT]:
    """The recipe, the step and the encoder of a checkpoint folder or run folder."""
    subject = open_method(source)
    return subject.recipe, subject.step, subject.method.backbone()


def metadata(path: Path) -> dict[str, str]:
    """What an exported file says of itself."""
    with safe_open(path, "pt") as file:
        return dict(file.metadata() or {})

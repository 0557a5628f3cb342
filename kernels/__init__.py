"""Operators on images, patches and tokens, usable alone: they know torch and Triton, not the engine."""

from ._shared.choice import use
from ._shared.philox import uniform
from .add_layer_norm import add_layer_norm
from .attention import attention, class_attention
from .augment_views import augment_views
from .contrastive import info_nce
from .detection_loss import detection_loss
from .linear_gelu import linear_gelu
from .patch_embed import patch_embed
from .patch_timm import patch_timm
from .place_tokens import place_tokens
from .sample_tokens import sample_tokens

__all__ = [
    "add_layer_norm",
    "attention",
    "augment_views",
    "class_attention",
    "detection_loss",
    "info_nce",
    "linear_gelu",
    "patch_embed",
    "patch_timm",
    "place_tokens",
    "sample_tokens",
    "uniform",
    "use",
]

"""Operators on images, patches and tokens, usable alone: they know torch and Triton, not the engine."""

from ._shared.choice import use
from ._shared.philox import uniform
from .add_layer_norm import add_layer_norm
from .attention import attention, class_attention
from .augment_views import augment_views
from .contrastive import info_nce, n_pair, nt_xent, sup_con
from .crop_views import crop_views
from .detection_loss import detection_loss
from .fractals import draw_fractals, fill_rate, fractal_support, render_fractals, search_fractals
from .groups import corrupt_groups, group_mask, masked_l1
from .linear_gelu import linear_gelu
from .optimizers import adamw_ema_, lars_ema_
from .patch_embed import patch_embed
from .patch_timm import patch_timm
from .pixel_mse import normalized_pixel_mse
from .place_tokens import place_tokens
from .prototypes import prototype_cross_entropy, sinkhorn_center
from .rand_augment import rand_augment
from .relation_loss import relation_loss
from .sample_tokens import sample_tokens

__all__ = [
    "adamw_ema_",
    "add_layer_norm",
    "attention",
    "augment_views",
    "class_attention",
    "corrupt_groups",
    "crop_views",
    "detection_loss",
    "draw_fractals",
    "fill_rate",
    "fractal_support",
    "group_mask",
    "info_nce",
    "lars_ema_",
    "linear_gelu",
    "masked_l1",
    "n_pair",
    "normalized_pixel_mse",
    "nt_xent",
    "patch_embed",
    "patch_timm",
    "place_tokens",
    "prototype_cross_entropy",
    "rand_augment",
    "relation_loss",
    "render_fractals",
    "sample_tokens",
    "search_fractals",
    "sinkhorn_center",
    "sup_con",
    "uniform",
    "use",
]

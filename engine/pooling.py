"""One feature for each image: what methods stand on and protocols measure must be the same."""

from torch import Tensor

from .backbone import Backbone


def pooled(encoder: Backbone, images: Tensor, pool: str, branches: Tensor | None = None) -> Tensor:
    """class: the class token after the last norm. mean_norm: the mean of the patch tokens, then the last norm, which
    is timm's fc_norm where it pools by averages. images [B, H, W, 3] -> [B, D]"""
    if pool == "class":
        return encoder.class_token(images, branches=branches)
    return encoder.norm(encoder.stream(images, branches).mean(1))

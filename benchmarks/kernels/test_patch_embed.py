"""patch_embed: student (a quarter of the patches, with gradients) and teacher (all of them, without)."""

import pytest
import torch
from torch import Tensor

from vitkiln.kernels import patch_embed

from .conftest import DEVICE

SETTINGS = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}


def embed(images: Tensor, *arguments: Tensor) -> Tensor:
    """In bf16 on a GPU, in fp32 on a CPU."""
    with torch.autocast(DEVICE, torch.bfloat16, enabled=DEVICE == "cuda"):
        return patch_embed(images, *arguments, **SETTINGS)


@pytest.mark.parametrize("layout", ["last", "first"])
def test_sparse_forward_and_backward(setup, timed, layout):
    """A student: channels last or first in memory."""
    images = setup.images if layout == "last" else setup.images.permute(0, 3, 1, 2).contiguous()
    tables = (setup.weight, setup.bias, setup.position, setup.cls_token)
    timed(embed, images, *tables, setup.keep, setup.place)


def test_dense_forward(setup, timed):
    """A teacher."""
    tables = [t.detach() for t in (setup.weight, setup.bias, setup.position, setup.cls_token)]
    timed(embed, setup.images, *tables, moved=setup.images.numel() + 196 * len(setup.ids) * tables[0].shape[0] * 2)

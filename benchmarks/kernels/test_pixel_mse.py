"""normalized_pixel_mse: three quarters of 196 patches of 16 x 16."""

import torch
from torch import Tensor

from benchmarks.kernels.conftest import BATCH, DEVICE, DTYPE
from vitkiln.kernels.pixel_mse import normalized_pixel_mse

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def loss(prediction: Tensor, images: Tensor, mask: Tensor) -> Tensor:
    """As MAE's recipe."""
    return normalized_pixel_mse(prediction, images, mask, MEAN, STD)


def test_forward_and_backward(setup, timed):
    """The gradient of the prediction."""
    prediction = torch.randn(BATCH, 196, 768, device=DEVICE, dtype=DTYPE, requires_grad=True)
    mask = torch.rand(BATCH, 196, device=DEVICE) < 0.75
    timed(loss, prediction, setup.images, mask, moved=3 * prediction.numel() * prediction.element_size())

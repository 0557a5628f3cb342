"""timm where it is installed, also beside a torchvision whose binaries do not fit this build of torch."""

import sys

import pytest
import torch

LIBRARIES: list[torch.library.Library] = []


def vision_transformer():
    """timm's module, or skip the test."""
    try:
        import torchvision  # noqa: F401
    except RuntimeError:  # a CUDA wheel beside a CPU torch: two operators are undeclared
        declare()
    except ModuleNotFoundError:
        pass
    return pytest.importorskip("timm.models.vision_transformer")


def declare() -> None:
    for name in [name for name in sys.modules if name.startswith("torchvision")]:
        del sys.modules[name]
    library = torch.library.Library("torchvision", "FRAGMENT")
    library.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    library.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    LIBRARIES.append(library)

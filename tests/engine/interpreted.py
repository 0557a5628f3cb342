"""Run under TRITON_INTERPRET=1: DILEMMA's loss and gradients with every kernel interpreted, against the references."""

import sys
from collections import defaultdict

import torch
from triton.runtime.interpreter import InterpretedFunction

from vitkiln import kernels
from vitkiln.engine import methods
from vitkiln.engine.settings import Encoder, dilemma
from vitkiln.engine.vocabulary import Batch

ENCODER = Encoder(
    image_size=32, patch_size=8, width=32, depth=2, heads=2, position="learned", layer_scale=0.5, drop_path=0.3
)
SETTINGS = dilemma.Settings(hidden=32, output=16, keep=0.5)
OF_ENCODERS = {
    "draw_plan",
    "fold_weight",
    "embed_patches",
    "multiply_patches",
    "unfold_weight",
    "one_hot_sum",
    "attention_forward",
    "attention_backward",
    "add_layer_norm_forward",
    "add_layer_norm_backward",
    "linear_gelu_forward",
    "linear_gelu_backward",
    "sum_parts_kernel",
}


def found(implementation: str) -> dict[str, torch.Tensor]:
    """The loss, and the gradient of every parameter that learns."""
    torch.manual_seed(0)
    method = methods.find("dilemma")(SETTINGS, ENCODER)
    torch.nn.init.normal_(method.backbone().cls_token, std=0.5)  # at 1e-6 its norm would magnify every rounding
    views = torch.randint(0, 256, (2, 6, 32, 32, 3), dtype=torch.uint8)
    with kernels.use(implementation):
        total = method(Batch(tuple(views), torch.arange(6), torch.tensor([0, 5]))).total
        total.backward()
    gradients = {name: p.grad for name, p in method.named_parameters() if p.grad is not None}
    return {"loss": total.detach(), **gradients}


def noted() -> dict[str, set[torch.dtype]]:
    """From here on, every kernel that is launched, with the floating point types it is given."""
    launched: dict[str, set[torch.dtype]] = defaultdict(set)
    run = InterpretedFunction.run

    def noting(self, *arguments, **settings):
        types = {a.dtype for a in arguments if isinstance(a, torch.Tensor) and a.is_floating_point()}
        launched[self.fn.__name__] |= types
        return run(self, *arguments, **settings)

    InterpretedFunction.run = noting
    return launched


if __name__ == "__main__":
    meant = found("reference")
    launched = noted()
    fused = found("triton")
    if absent := OF_ENCODERS - set(launched):
        sys.exit(f"{sorted(absent)} did not run, but only {sorted(launched)}")
    if other := {name: types for name, types in launched.items() if types - {torch.float32}}:
        sys.exit(f"not in fp32 alone: {other}")
    scale = max(value.abs().max() for value in meant.values())
    for name, value in meant.items():
        error = (fused[name] - value).norm() / value.norm().clamp(min=1e-4 * scale)
        if not error <= 1e-5:
            sys.exit(f"{name}: relative error {error:.2e}")
    assert len(meant) > 40

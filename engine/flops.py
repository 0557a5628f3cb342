"""How many operations an image costs, by the model and not by the implementation: what utilisation is reckoned from."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from vitkiln.kernels import use

from .backbone import Backbone
from .bench.passes import Call, encoders, role, watched
from .decoder import Decoder
from .methods.method import Method
from .vit import ViT
from .vocabulary import Batch

HEADS = "heads"  # and decoders: whatever learns or follows beside the encoders
TRAINED = 3  # forward once, backward twice


def model_flops(method: Method, batch: Batch) -> dict[str, int]:
    """Operations of one training step for one image: of the student, of the teacher, of heads and decoder, in all.

    A multiplication and an addition are two. Counted are products of layers, patch embedding included, and of
    attention over the tokens that each encoder really sees, forward once and, where something learns, backward twice.
    What is saved by computing the class token alone in a last block, by a frozen patch projection, or by embedding
    kept patches only is no less of a model; what is computed again, and the products inside of losses (prototypes
    among them), are no more of one. Found by one forward pass of this batch in plain PyTorch: two images will do.
    """
    counter = Counting(method)
    with use("reference"), counter.inside(), counter:
        method(batch)
    found = {name: count // len(batch.ids) for name, count in counter.found.items()}
    return {**found, "total": sum(found.values())}


class Counting(TorchDispatchMode):
    """Adds up products as they happen, by whose they are."""

    def __init__(self, method: Method):
        super().__init__()
        self.method = method
        self.found: Counter[str] = Counter()
        self.whose: list[tuple[str, int]] = []  # encoder or decoder under way, and how often its products count
        self.paused = False
        self.weights = {parameter.untyped_storage()._cdata for parameter in method.parameters()}

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        count = flop_registry.get(func.overloadpacket)
        if count is not None and not self.paused and (self.whose or self.uses_a_weight(args)):
            name, times = self.whose[-1] if self.whose else (HEADS, TRAINED if torch.is_grad_enabled() else 1)
            self.found[name] += times * int(count(*args, **(kwargs or {}), out_val=out))
        return out

    def uses_a_weight(self, args: tuple[Any, ...]) -> bool:
        """A layer does, as it is or transposed; a product inside of a loss does not."""
        return any(isinstance(arg, Tensor) and arg.untyped_storage()._cdata in self.weights for arg in args)

    @contextmanager
    def inside(self) -> Iterator[None]:
        """Encoders and decoders say when they are under way."""
        with ExitStack() as stack:
            for encoder in encoders(self.method):
                name, learns = role(self.method, encoder), any(p.requires_grad for p in encoder.parameters())
                stack.enter_context(watched(encoder, self.counted(encoder, name, learns), self.embedding(encoder)))
            for module in self.method.modules():
                if isinstance(module, Decoder):
                    stack.callback(module.register_forward_pre_hook(lambda *_: self.enter(HEADS, True)).remove)
                    stack.callback(module.register_forward_hook(lambda *_: self.leave()).remove)
            yield

    def enter(self, name: str, learns: bool) -> None:
        self.whose.append((name, TRAINED if learns and torch.is_grad_enabled() else 1))

    def leave(self) -> None:
        self.whose.pop()

    def counted(self, encoder: Backbone, name: str, learns: bool) -> Callable[[Call], Call]:
        """An entrance that says whose products follow; the class token's is the one that computes all tokens."""

        def make(entrance: Call) -> Call:
            alone = isinstance(encoder, ViT) and entrance.__name__ == "class_token"

            def call(*given: Any, **named: Any) -> Any:
                self.enter(name, learns)
                try:
                    return encoder(*given, **named)[:, 0] if alone else entrance(*given, **named)
                finally:
                    self.leave()

            return call

        return make

    def embedding(self, encoder: Backbone) -> Callable[[Call], Call]:
        """Of a plain Vision Transformer, the projection of the patches that are kept, whoever projects more."""

        def make(embed: Call) -> Call:
            weight = getattr(getattr(encoder.patch_embed, "proj", None), "weight", None)
            if not isinstance(encoder, ViT) or weight is None:
                return embed

            def call(*given: Any, **named: Any) -> Any:
                self.paused = True
                tokens = embed(*given, **named)
                self.paused = False
                name, times = self.whose[-1]
                self.found[name] += times * 2 * len(tokens) * (tokens.shape[1] - encoder.prefix) * weight.numel()
                return tokens

            return call

        return make

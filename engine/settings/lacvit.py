"""Settings of LaCViT, contrastive training with labels, and of the two baselines that it is compared with."""

from __future__ import annotations

from typing import ClassVar, Literal

from .sections import MethodSettings
from .strict import Count, NotNegative, Positive, Quadruple, Share, Shares


class Settings(MethodSettings):
    """Published values; see methods/lacvit.py for what they mean."""

    smallest_batch: ClassVar[int] = 2  # one image has no negative

    name: Literal["lacvit"] = "lacvit"
    loss: Literal["sup_con", "nt_xent", "n_pair"] = "sup_con"
    pool: Literal["mean_norm", "class"] = "mean_norm"
    temperature: Positive = 0.1
    base_temperature: Positive | None = 0.07  # the loss is multiplied by temperature / base_temperature; null: by 1
    hidden: Count | None = None  # of the projection head; null: the encoder's width
    output: Count = 128
    l2: NotNegative = 0.02  # n_pair
    gather: bool = False  # candidates of all ranks, not of the anchor's alone
    chunk: Count | None = None  # views encoded at a time, and again in the backward pass; null: all at once
    crop_scale: Shares = (0.2, 1.0)
    jitter: Quadruple = (0.4, 0.4, 0.4, 0.1)
    jitter_probability: Share = 0.8
    gray: Share = 0.2

    @property
    def of_each_class(self) -> int | None:
        """An anchor and a positive."""
        return 2 if self.loss == "n_pair" else None

    def with_data(self, classes: int | None) -> Settings:
        """These, where the loss finds what it needs."""
        if self.loss != "nt_xent" and classes is None:
            raise ValueError(f"method.loss={self.loss} needs labels; the data must be a folder for each class")
        if self.loss != "nt_xent" and classes is not None and classes < 2:
            raise ValueError(f"method.loss={self.loss} needs two classes or more; the data have {classes}")
        return self

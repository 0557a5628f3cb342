"""The sections of a recipe as frozen, strictly typed classes. Nothing here imports torch: a typo answers at once."""

from .sections import Data, Encoder, Labelled, MethodSettings, Optim, Run
from .strict import Section

__all__ = ["Data", "Encoder", "Labelled", "MethodSettings", "Optim", "Run", "Section"]

"""AdamW and LARS with the teacher's moving average, each number read and written once."""

from .op import ADAMW, LARS, adamw_ema_, lars_ema_, ready
from .table import recording

__all__ = ["ADAMW", "LARS", "adamw_ema_", "lars_ema_", "ready", "recording"]

"""Learning rates and momenta as functions of where a run is: `step` of `total`, of which `warmup` are warm-up.

All three are counted in steps, not necessarily whole ones.
"""

import math


def cosine(step: float, total: float, warmup: float, base: float, final: float = 0.0) -> float:
    """MoCo v3, DILEMMA, MAE: linear from exactly 0, then half a cosine over what is left.

    >>> [round(cosine(step, 100, 10, 1.0), 3) for step in (0, 5, 10, 55, 100)]
    [0.0, 0.5, 1.0, 0.5, 0.0]
    """
    if step < warmup:
        return base * step / warmup
    return final + (base - final) * 0.5 * (1 + math.cos(math.pi * (step - warmup) / (total - warmup)))


def cosine_inclusive(step: float, total: float, warmup: float, base: float, final: float = 0.0) -> float:
    """DINO, GMML: the warm-up includes both of its ends, and the cosine never quite reaches its final value.

    >>> [round(cosine_inclusive(step, 100, 11, 1.0), 3) for step in (0, 5, 10, 11)]
    [0.0, 0.5, 1.0, 1.0]
    """
    if step < warmup:
        return base * step / (warmup - 1) if warmup > 1 else 0.0
    return final + 0.5 * (base - final) * (1 + math.cos(math.pi * (step - warmup) / (total - warmup)))


def cosine_absolute(
    step: float, total: float, warmup: float, base: float, final: float = 0.0, start: float = 1e-6
) -> float:
    """timm, DeiT, FDSL: the cosine runs over the whole time, the warm-up only covers its beginning.

    >>> [round(cosine_absolute(step, 100, 10, 1.0), 3) for step in (0, 10, 50, 100)]
    [0.0, 0.976, 0.5, 0.0]
    """
    if step < warmup:
        return start + step * (base - start) / warmup
    return final + 0.5 * (base - final) * (1 + math.cos(math.pi * min(step / total, 1.0)))


def quarter_cosine(step: float, total: float, warmup: float, base: float, final: float = 1.25e-6) -> float:
    """RelViT: a quarter of a wave over the whole time, so the rate is still 0.708 of its base at half time.

    >>> [round(quarter_cosine(step, 100, 10, 1.0), 3) for step in (5, 10, 50, 90)]
    [0.5, 0.988, 0.707, 0.156]
    """
    if step < warmup:
        return base * step / warmup
    share = 1 - math.cos(step / total * math.pi / 2)
    return share * final + (1 - share) * base


def constant(step: float, total: float, warmup: float, base: float, final: float = 0.0) -> float:
    """Linear warm-up, then the base rate for good."""
    return base * step / warmup if step < warmup else base


SCHEDULES = {
    "cosine": cosine,
    "cosine_inclusive": cosine_inclusive,
    "cosine_absolute": cosine_absolute,
    "quarter_cosine": quarter_cosine,
    "constant": constant,
}

"""InfoNCE against the keys of one rank, of eight, and of a large batch."""

from collections.abc import Iterator

from torch import Tensor

from vitkiln.kernels import info_nce
from vitkiln.kernels.contrastive import reference

from .work import Place, Work, plain

SHAPES = [(1024, 1024), (1024, 8192), (8192, 65_536)]
WIDTH, TEMPERATURE = 256, 0.2


def works(place: Place) -> Iterator[Work]:
    """Gradients to the queries alone: the keys are a teacher's."""
    for queries, keys in SHAPES[: place.size(3, 1)]:
        yield work(place, place.size(queries, 6), place.size(keys, 10))


def work(place: Place, queries: int, keys: int) -> Work:
    """Operations: similarities and the sum of keys that is the gradient."""
    providers = {
        "eager": plain(lambda query, key: reference.info_nce(query, key, TEMPERATURE)),
        "compiled": place.compiled(lambda query, key: reference.info_nce(query, key, TEMPERATURE)),
        "ours": plain(lambda query, key: info_nce(query, key, TEMPERATURE)),
    }

    def inputs() -> tuple[Tensor, ...]:
        return place.random(queries, WIDTH, gradient=True), place.random(keys, WIDTH)

    return Work(
        "info_nce",
        "forward+backward",
        {"N": queries, "M": keys, "D": WIDTH},
        inputs,
        providers,
        moved=2 * WIDTH * (3 * queries + keys),
        flops=4 * queries * keys * WIDTH,
    )

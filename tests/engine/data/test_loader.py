"""The same pictures for any number of workers, ranks, micro-batches and restarts."""

import random
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from vitkiln.engine.data import workers as workers_of_the_loader
from vitkiln.engine.data.loader import Loader
from vitkiln.engine.data.source import Source, open_source
from vitkiln.engine.errors import DataError
from vitkiln.engine.settings import Data
from vitkiln.engine.vocabulary import Batch, View

VIEWS = (View(size=24, blur=1.0), View(size=16, blur=0.1, solarize=0.2, interpolation="bicubic"))
CPU = torch.device("cpu")


@pytest.fixture
def source(pictures: Callable[..., Path]) -> Source:
    found = open_source(Data(root=str(pictures(each=25))), 0)
    assert found is not None
    return found


def batches(source: Source, count: int, **settings: Any) -> list[Batch]:
    chosen = {"batch_size": 16, "seed": 0, "workers": 0, "device": CPU, "max_bad": 0.1, **settings}
    loader = Loader(source, VIEWS, **chosen)
    found = list(islice(loader, count))
    loader.close()
    return found


def equal(first: Batch, second: Batch) -> bool:
    pairs = zip((*first.views, first.ids, first.seed), (*second.views, second.ids, second.seed), strict=True)
    return all(torch.equal(*pair) for pair in pairs) and torch.equal(first.labels, second.labels)


def joined(parts: list[Batch]) -> Batch:
    views = tuple(torch.cat(views) for views in zip(*(part.views for part in parts), strict=True))
    labels = torch.cat([part.labels for part in parts])
    return Batch(views, torch.cat([part.ids for part in parts]), parts[0].seed, labels)


def test_a_batch_holds_what_the_vocabulary_says(source: Source) -> None:
    (batch,) = batches(source, 1, batch_size=40, seed=7, step=3)
    assert [view.shape for view in batch.views] == [(40, 24, 24, 3), (40, 16, 16, 3)]
    assert {view.dtype for view in batch.views} == {torch.uint8}
    assert (batch.ids.dtype, batch.labels.dtype) == (torch.int64, torch.int64)
    assert batch.seed.tolist() == [7, 3]
    assert batch.labels.tolist() == [source.label(index) for index in batch.ids.tolist()]


@pytest.mark.parametrize("settings", [{"workers": 2}, {"step": 2}])
def test_repeated_images_come_alike_from_workers_and_after_a_restart(source: Source, settings: dict[str, int]) -> None:
    through = batches(source, 5, repeats=3)
    assert sorted((through[0].ids % 50).tolist()) != sorted(set((through[0].ids % 50).tolist()))
    assert all(map(equal, through[settings.get("step", 0) :], batches(source, 3, repeats=3, **settings)))


def test_no_labels_where_there_are_no_classes(pictures: Callable[..., Path]) -> None:
    flat = open_source(Data(root=str(pictures(("",)))), 0)
    assert flat is not None
    assert batches(flat, 1, batch_size=4)[0].labels is None


@pytest.mark.parametrize("workers", [2, 4])
def test_the_number_of_workers_changes_nothing(source: Source, workers: int) -> None:
    alone = batches(source, 7, batch_size=40, accumulate=2)
    assert all(map(equal, alone, batches(source, 7, batch_size=40, accumulate=2, workers=workers)))


def test_workers_that_start_afresh_beside_a_gpu_change_nothing(source: Source, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers_of_the_loader, "start_method", lambda: "forkserver")
    assert all(map(equal, batches(source, 2), batches(source, 2, workers=1)))


@pytest.mark.parametrize("accumulate", [1, 2])
def test_ranks_together_see_what_one_sees(source: Source, accumulate: int) -> None:
    settings = {"accumulate": accumulate, "batch_size": 16}
    whole = batches(source, 4 * accumulate, **settings)
    ranks = [batches(source, 4 * accumulate, rank=rank, world=2, **settings) for rank in range(2)]
    assert all(equal(batch, joined(list(parts))) for batch, *parts in zip(whole, *ranks, strict=True))


def test_micro_batches_of_a_step_are_the_step(source: Source) -> None:
    whole, parts = batches(source, 3), batches(source, 12, accumulate=4)
    assert all(equal(batch, joined(parts[4 * step : 4 * step + 4])) for step, batch in enumerate(whole))


@pytest.mark.parametrize("settings", [{"workers": 2}, {"step": 3}, {"classes": 2}, {"classes": 2, "step": 4}])
def test_a_shorter_step_at_the_end_of_an_epoch_comes_alike_every_time(source: Source, settings: dict[str, int]) -> None:
    """50 images in micro-batches of 8, four to a step: six, so every second step has two."""
    how = {"batch_size": 32, "accumulate": 4, "leftover": True, "classes": settings.get("classes")}
    through = batches(source, 18, **how)
    step = settings.get("step", 0)
    assert [batch.seed[1].item() for batch in through[:12]] == [0, 0, 0, 0, 1, 1, 2, 2, 2, 2, 3, 3]
    again = batches(source, 4, **{**how, **settings})
    first = next(index for index, batch in enumerate(through) if batch.seed[1].item() == step)
    assert all(map(equal, through[first:], again))


@pytest.mark.parametrize("world", [1, 2])
def test_balanced_batches_hold_as_many_of_each_class_on_every_rank(source: Source, world: int) -> None:
    ranks = [batches(source, 4, classes=2, rank=rank, world=world) for rank in range(world)]
    whole = batches(source, 4, classes=2)
    assert all(batch.labels.bincount().tolist() == [8, 8] for batch in whole)
    assert all(equal(batch, joined(list(parts))) for batch, *parts in zip(whole, *ranks, strict=True))


@pytest.mark.parametrize("step", [1, 3, 10])
def test_a_run_goes_on_as_if_it_had_never_stopped(source: Source, step: int) -> None:
    through = batches(source, step + 3)
    assert all(map(equal, through[step:], batches(source, 3, step=step)))


def test_an_image_looks_different_in_every_epoch_and_view(source: Source) -> None:
    first, second = batches(source, 2, batch_size=50)
    where = second.ids.argsort()[first.ids.argsort().argsort()]
    assert torch.equal(first.ids, second.ids[where])
    same = (first.views[0] == second.views[0][where]).flatten(1).all(1)
    assert not same.any()


def test_iterating_again_begins_again(source: Source) -> None:
    loader = Loader(source, VIEWS, batch_size=8, seed=0, workers=0, device=CPU, max_bad=0.1)
    assert equal(next(iter(loader)), next(iter(loader)))
    loader.close()


@pytest.mark.parametrize("workers", [0, 2])
def test_the_random_states_of_the_run_are_left_alone(source: Source, workers: int) -> None:
    before = torch.get_rng_state(), random.getstate(), str(np.random.get_state())  # noqa: NPY002
    batches(source, 2, workers=workers)
    assert torch.equal(before[0], torch.get_rng_state())
    assert before[1:] == (random.getstate(), str(np.random.get_state()))  # noqa: NPY002


def test_every_view_without_colours_shows_a_part_of_its_image(source: Source) -> None:
    plain = View(size=12, scale=(1.0, 1.0), ratio=(48 / 36, 48 / 36), jitter_probability=0, gray=0, flip=0)
    loader = Loader(source, (plain,), batch_size=4, seed=0, workers=0, device=CPU, max_bad=0.1)
    batch = next(iter(loader))
    for pixels, index in zip(batch.views[0], batch.ids.tolist(), strict=True):
        assert (pixels.numpy() == np.asarray(source.image(index).resize((12, 12), 2))).all()


def test_a_source_smaller_than_a_batch_names_the_largest_possible(source: Source) -> None:
    with pytest.raises(DataError, match=r"data\.batch_size: 51 .* at most 50"):
        batches(source, 1, batch_size=51)


def test_steps_per_epoch_counts_whole_steps(source: Source) -> None:
    loader = Loader(source, VIEWS, batch_size=16, seed=0, workers=0, device=CPU, max_bad=0.1)
    assert loader.steps_per_epoch == 3


@pytest.mark.gpu
@pytest.mark.parametrize("workers", [0, 2])
def test_a_gpu_receives_the_pictures_of_the_cpu(source: Source, workers: int) -> None:
    device = torch.device("cuda")
    for here, there in zip(batches(source, 4), batches(source, 4, device=device, workers=workers), strict=True):
        assert there.views[0].device.type == "cuda"
        moved = Batch(tuple(view.cpu() for view in there.views), there.ids.cpu(), there.seed.cpu(), there.labels.cpu())
        assert equal(here, moved)

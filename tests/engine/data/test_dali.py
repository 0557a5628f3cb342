"""DALI as a hand: the samples, boxes and colours of Pillow's, and whatever DALI cannot decode is no loss."""

import gc
import os
import pickle
import signal
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from PIL import Image

from vitkiln.engine.data.crops import Crops, Task
from vitkiln.engine.data.dali import Dali
from vitkiln.engine.data.dali_pipeline import Machine
from vitkiln.engine.data.hands import Hand, Pillow
from vitkiln.engine.data.loader import Loader
from vitkiln.engine.data.prepare import Preparer
from vitkiln.engine.data.source import Files, open_source
from vitkiln.engine.errors import DataError
from vitkiln.engine.settings import Data
from vitkiln.engine.vocabulary import Batch, View

from .conftest import picture
from .test_hostile import BROKEN
from .test_loader import equal, joined

pytest.importorskip("nvidia.dali")

CPU = torch.device("cpu")
TWO = (View(size=24, blur=1.0), View(size=16, blur=0.1, solarize=0.2, interpolation="bicubic"))
Write = Callable[..., Path]


def opened(root: Path) -> Files:
    source = open_source(Data(root=str(root)), 0)
    assert isinstance(source, Files)
    return source


@pytest.fixture
def source(pictures: Write) -> Files:
    return opened(pictures(each=25))


def carried(hand: Hand, ids: int, at_once: int = 20) -> list[Crops]:
    """Crops of the first so many images."""
    tasks = [Task(0, np.arange(start, min(start + at_once, ids))) for start in range(0, ids, at_once)]
    work = hand.carry(iter(tasks), 0, CPU)
    found = [next(work) for _ in tasks]
    work.close()
    return found


def both(source: Files, views: tuple[View, ...]) -> tuple[list[Crops], list[Crops]]:
    hands = Dali(source, views, 3, 0.65), Pillow(source, views, 3)
    return carried(hands[0], len(source)), carried(hands[1], len(source))


def distance(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    """Mean levels of the image that differs most."""
    assert ours.shape == theirs.shape
    return (ours.float() - theirs.float()).abs().mean((1, 2, 3)).max().item()


def batches(source: Files, count: int, **settings: Any) -> list[Batch]:
    chosen = {"batch_size": 16, "seed": 0, "workers": 0, "device": CPU, "max_bad": 1.0, "loader": "dali", **settings}
    loader = Loader(source, TWO, **chosen)
    try:
        return list(islice(loader, count))
    finally:
        loader.close()


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize(("size", "padding"), [(8, 0), (24, 0), (90, 0), (24, 4), (60, 9)])
def test_views_are_those_of_pillow_within_two_levels(
    source: Files, interpolation: str, size: int, padding: int
) -> None:
    view = View(size=size, padding=padding, interpolation=interpolation, vertical_flip=0.5)
    for ours, theirs in zip(*both(source, (view,)), strict=True):
        assert distance(ours.views[0], theirs.views[0]) < 2


def test_labels_colours_and_operations_are_those_of_pillow(source: Files) -> None:
    views = (*TWO, View(size=16, randaugment="rand-m9-mstd0.5-inc1"))
    for ours, theirs in zip(*both(source, views), strict=True):
        assert ours.labels.tolist() == theirs.labels.tolist()
        drawn = (*ours.parameters, *ours.operations), (*theirs.parameters, *theirs.operations)
        for one, other in zip(*drawn, strict=True):
            np.testing.assert_array_equal(one, other)


def test_coloured_batches_are_those_of_pillow_within_two_levels(source: Files) -> None:
    for ours, theirs in zip(batches(source, 3), batches(source, 3, loader="pillow"), strict=True):
        assert torch.equal(ours.ids, theirs.ids)
        assert torch.equal(ours.labels, theirs.labels)
        assert max(map(distance, ours.views, theirs.views)) < 2


def test_rand_augment_does_the_same_to_the_same_crops(pictures: Write) -> None:
    """Crops that nothing is cut from: then both hands start from the same pixels."""
    root = pictures(("",), each=0)
    for number in range(12):
        picture(number, 32, 32).save(root / f"{number}.png")
    view = View(size=32, scale=(1.0, 1.0), ratio=(1.0, 1.0), randaugment="rand-m9-mstd0.5-inc1", vertical_flip=0.5)
    ((ours,), (theirs,)) = both(opened(root), (view,))
    assert torch.equal(ours.views[0], theirs.views[0])
    assert ours.operations[0].shape == (12, 4, 7)
    np.testing.assert_array_equal(ours.operations[0], theirs.operations[0])


MODES = ["1", "L", "LA", "P", "RGBA", "CMYK", "YCbCr", "I;16"]
SETTINGS = {"progressive": {"progressive": True}, "restarts": {"restart_marker_rows": 1}, "own": {"keep_rgb": True}}


@pytest.mark.parametrize("kind", [*MODES, *SETTINGS, "grey", "thin", "tall", "pixel", "turned", "tail"])
def test_odd_files_look_as_pillow_shows_them(tmp_path: Path, kind: str) -> None:
    write_odd(tmp_path / "odd.jpg", kind)
    views = (View(size=20), View(size=20, padding=2, interpolation="bicubic"))
    ((ours,), (theirs,)) = both(opened(tmp_path), views)
    assert ours.bad == theirs.bad == ()
    assert max(map(distance, ours.views, theirs.views)) < 2


def write_odd(file: Path, kind: str) -> None:
    sizes = {"thin": (1, 90), "tall": (700, 2), "pixel": (1, 1)}
    whole = picture(1, *sizes.get(kind, (48, 36)))
    if kind == "I;16":
        Image.fromarray(np.asarray(whole.convert("L")).astype(np.uint16) * 257).save(file, "png")
    elif kind in MODES:
        whole.convert(kind).save(file, "jpeg" if kind in ("CMYK", "YCbCr", "L") else "png")
    elif kind == "turned":
        exif = Image.Exif()
        exif[0x0112] = 6
        whole.save(file, exif=exif)
    else:
        whole.convert("L" if kind == "grey" else "RGB").save(file, "jpeg", quality=95, **SETTINGS.get(kind, {}))
    if kind == "tail":
        file.write_bytes(file.read_bytes() + b"\0" * 9)


@pytest.mark.parametrize("settings", [{"workers": 2}, {"step": 2}, {"step": 2, "workers": 1}])
def test_workers_and_restarts_change_nothing(source: Files, settings: dict[str, int]) -> None:
    through = batches(source, 5)
    assert all(map(equal, through[settings.get("step", 0) :], batches(source, 3, **settings)))


def test_a_preparer_that_travels_to_a_fresh_process_draws_the_same(source: Files) -> None:
    preparer = Preparer(source, TWO, 5)
    one, other = (each(Task(2, np.arange(7))) for each in (preparer, pickle.loads(pickle.dumps(preparer))))
    assert torch.equal(one.data, other.data)
    np.testing.assert_array_equal(one.places, other.places)


def test_ranks_together_see_what_one_sees(source: Files) -> None:
    whole = batches(source, 4)
    ranks = [batches(source, 4, rank=rank, world=2) for rank in range(2)]
    assert all(equal(batch, joined(list(parts))) for batch, *parts in zip(whole, *ranks, strict=True))


def test_micro_batches_of_a_step_are_the_step(source: Files) -> None:
    whole, parts = batches(source, 3), batches(source, 6, accumulate=2)
    assert all(equal(batch, joined(parts[2 * step : 2 * step + 2])) for step, batch in enumerate(whole))


def test_batches_of_several_tasks_of_unequal_size_are_whole(pictures: Write) -> None:
    large = opened(pictures(each=100))
    (ours,), (theirs,) = (batches(large, 1, batch_size=200, loader=loader) for loader in ("dali", "pillow"))
    assert torch.equal(ours.ids, theirs.ids)
    assert max(map(distance, ours.views, theirs.views)) < 2


def flipped(path: Path) -> None:
    """A JPEG whose header is sound, and whose pixels lose their Huffman tables' meaning."""
    picture(0, 64, 64).save(path, quality=95)
    data = bytearray(path.read_bytes())
    tables = data.find(b"\xff\xc4")
    data[tables + 5 : tables + 9] = b"\xff" * 4  # more codes of so few bits than there are
    path.write_bytes(data)


def cut_apart(path: Path) -> None:
    """Half of a JPEG, and its end marker."""
    picture(0, 200, 200).save(path, quality=95)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2].rstrip(b"\xff") + b"\xff\xd9")


def spoilt(pictures: Write) -> Path:
    root = pictures(each=25)
    broken = {**{name: make for name, (make, _) in BROKEN.items()}, "flipped": flipped, "cut apart": cut_apart}
    for number, name in enumerate(sorted(broken)):
        path = root / "a" / f"{number:03d}.jpg"
        path.unlink()
        broken[name](path)
    return root


@pytest.mark.parametrize("workers", [0, 2])
def test_broken_files_are_replaced_by_those_that_pillow_takes(pictures: Write, workers: int) -> None:
    source = opened(spoilt(pictures))
    hands = Dali(source, TWO, 3, 0.65), Pillow(source, TWO, 3)
    tasks = [Task(epoch, np.arange(start, start + 25)) for epoch in range(2) for start in (0, 25)]
    works = [hand.carry(iter(tasks), workers, CPU) for hand in hands]
    for _ in tasks:
        ours, theirs = map(next, works)
        assert ours.labels.tolist() == theirs.labels.tolist()
        assert max(map(distance, ours.views, theirs.views)) < 2
        assert dict(ours.bad) == dict(theirs.bad)
    for work in works:
        work.close()


def test_images_that_fail_in_dali_are_the_same_after_a_restart(pictures: Write) -> None:
    source = opened(spoilt(pictures))
    through = batches(source, 6)
    assert all(map(equal, through[4:], batches(source, 2, step=4, workers=1)))


class Failing(Machine):
    """Gives up on its third batch, whatever is in it."""

    runs: ClassVar[int] = 0

    def run(self, pipeline: object) -> list[torch.Tensor]:
        Failing.runs += 1
        if Failing.runs == 3:
            raise RuntimeError("Critical error in pipeline: encountered: out of memory")
        return super().run(pipeline)


def test_a_pipeline_that_gives_up_loses_nothing(
    source: Files, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was in work is decoded by Pillow, which on a CPU is the same to the bit."""
    undisturbed = batches(source, 8)
    monkeypatch.setattr("vitkiln.engine.data.dali.Machine", Failing)
    assert all(map(equal, undisturbed, batches(source, 8)))
    assert Failing.runs > 8
    assert "it is left to Pillow" in caplog.text


def test_a_pipeline_that_fails_for_good_is_an_error_that_names_the_way_out(
    source: Files, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vitkiln.engine.data.dali.Machine", Failing)
    monkeypatch.setattr(Failing, "runs", 2)
    monkeypatch.setattr(Failing, "trouble", lambda self: "no driver")
    with pytest.raises(DataError, match=r"DALI gave up \(out of memory\); data\.loader=pillow"):
        batches(source, 1)


def test_bytes_between_the_segments_of_a_header_never_reach_dali(pictures: Write) -> None:
    """Its parser would refuse them, and take the process down from within a larger batch; Pillow passes over them."""
    root = pictures(each=30)
    for odd in sorted(root.rglob("*.jpg"))[::3]:
        before, tables, after = odd.read_bytes().partition(b"\xff\xdb")
        odd.write_bytes(before + b"\x01\x02" + tables + after)
    for ours, theirs in zip(*both(opened(root), TWO), strict=True):
        assert ours.bad == theirs.bad == ()
        assert max(map(distance, ours.views, theirs.views)) < 2


def test_a_file_that_vanishes_while_training_is_replaced(pictures: Write) -> None:
    source = opened(pictures())
    (Path(source.name(13))).unlink()
    ((ours,), (theirs,)) = both(source, TWO)
    assert dict(ours.bad) == {source.name(13): "No such file or directory"}
    assert ours.labels.tolist() == theirs.labels.tolist()


@pytest.mark.parametrize("make", [flipped, lambda path: path.write_bytes(b"")], ids=["in DALI", "in a worker"])
def test_nothing_but_broken_images_is_told_and_ends(pictures: Write, make: Callable[[Path], object]) -> None:
    root = pictures(("a",), each=12)
    for path in root.rglob("*.jpg"):
        make(path)
    with pytest.raises(DataError, match="of 12 images cannot be read"):
        batches(opened(root), 1, batch_size=4)


def threads() -> int:
    """Those of DALI that run in this process."""
    return sum("DALI" in place.read_text() for place in Path("/proc/self/task").glob("*/comm"))


def test_closing_ends_threads_and_processes(source: Files) -> None:
    gc.collect()  # what failing tests left behind
    before = threads()
    loader = Loader(source, TWO, batch_size=16, seed=0, workers=2, device=CPU, max_bad=0.1, loader="dali")
    next(iter(loader))
    processes = loader.streams[0].stream.results._workers  # type: ignore[attr-defined]
    assert threads() > before
    loader.close()
    assert threads() == before
    assert not any(process.is_alive() for process in processes)


def test_a_worker_that_is_killed_is_an_error_and_no_wait(source: Files) -> None:
    loader = Loader(source, TWO, batch_size=16, seed=0, workers=1, device=CPU, max_bad=0.1, loader="dali")
    found = iter(loader)
    next(found)
    os.kill(loader.streams[0].stream.results._workers[0].pid, signal.SIGKILL)  # type: ignore[attr-defined]
    with pytest.raises(DataError, match="died"):
        list(islice(found, 20))
    loader.close()


@pytest.mark.gpu
@pytest.mark.parametrize("workers", [0, 2])
def test_a_gpu_decodes_the_pictures_of_the_cpu(pictures: Write, workers: int) -> None:
    source = opened(spoilt(pictures))
    device = torch.device("cuda", 0)
    for here, there in zip(batches(source, 6), batches(source, 6, device=device, workers=workers), strict=True):
        assert torch.equal(here.ids, there.ids.cpu())
        assert torch.equal(here.labels, there.labels.cpu())
        assert max(distance(one, other.cpu()) for one, other in zip(here.views, there.views, strict=True)) < 2

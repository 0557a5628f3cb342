"""Shards are the images of their folder, the same however often a build was interrupted, and told if not."""

import io
import json
import os
import resource
import subprocess
import tarfile
import time
from collections.abc import Callable, Iterator
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer
from PIL import Image

from vitkiln.engine.commands.shards import app
from vitkiln.engine.data.folder import open_folder
from vitkiln.engine.data.fractal_build import Build as Fractals
from vitkiln.engine.data.fractal_build import write as write_fractals
from vitkiln.engine.data.parts import Build
from vitkiln.engine.data.shard_build import Settings, ShardBuild, write
from vitkiln.engine.data.shards import ShardSource, open_shards
from vitkiln.engine.data.source import Split
from vitkiln.engine.data.verify import faults
from vitkiln.engine.errors import DataError, EngineError
from vitkiln.engine.settings.formulas import Formulas

from .conftest import picture

Write = Callable[..., Path]
Engine = Callable[..., tuple[int, str, str]]


@pytest.fixture
def engine(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Engine:
    """Calls `engine shards` in an empty folder: exit code, stdout, stderr."""
    monkeypatch.chdir(tmp_path)

    def call(*arguments: Any) -> tuple[int, str, str]:
        capsys.readouterr()
        try:
            code = app([str(text) for text in arguments], standalone_mode=False) or 0
        except EngineError as error:
            typer.echo(str(error), err=True)
            code = error.code
        return (code, *capsys.readouterr())

    return call


def quiet(count: int) -> None:
    pass


def built(root: Path, out: Path, jobs: int = 1, **settings: Any) -> dict[str, Any]:
    return write(ShardBuild(root, out, Settings(**settings)), jobs, quiet)


def opened(root: Path, split: Split = "train") -> ShardSource:
    source = open_shards(str(root), None, split)
    assert source is not None
    return source


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def stems(source: ShardSource) -> list[str]:
    return [source.name(index).rpartition(":")[2] for index in range(len(source))]


# what is written


def test_shards_hold_the_files_of_the_folder_byte_for_byte(pictures: Write, tmp_path: Path) -> None:
    root = pictures(("b", "a", "c/deep"), each=8)
    picture(99).save(root / "a" / "Odd.Name.PNG")
    built(root, tmp_path / "out", samples=10)
    source, files = opened(tmp_path / "out"), open_folder(str(root), None, "train")
    assert files is not None
    assert [path.name for path in sorted((tmp_path / "out").glob("*.tar"))] == [f"shard-{n:06d}.tar" for n in range(3)]
    assert source.classes == files.classes == ("a", "b", "c")
    known = {os.path.relpath(files.name(index), root): index for index in range(len(files))}
    names = [name.replace("Odd_Name", "Odd.Name") for name in stems(source)]
    assert sorted(names) == sorted(known)
    for index, name in enumerate(names):
        assert source.read(index) == files.read(known[name])
        assert source.label(index) == files.label(known[name])


def test_classes_mix_and_the_seed_decides_how(pictures: Write, tmp_path: Path) -> None:
    root = pictures(("a", "b"), each=20)
    orders = []
    for name, seed in (("0", 0), ("again", 0), ("1", 1), ("none", None)):
        built(root, tmp_path / name, samples=20, seed=seed)
        orders.append(stems(opened(tmp_path / name)))
    assert orders[0] == orders[1] != orders[2]
    assert orders[3] == sorted(orders[3])
    assert 4 < sum(name.startswith("a/") for name in orders[0][:20]) < 16


def test_a_shard_ends_before_it_has_more_bytes_than_asked(pictures: Write, tmp_path: Path) -> None:
    root = pictures(("a",), each=12)
    (root / "a" / "000.jpg").write_bytes((root / "a" / "000.jpg").read_bytes() + bytes(50_000))
    built(root, tmp_path / "out", samples=None, bytes=5000, seed=None)
    source = opened(tmp_path / "out")
    sizes = [0] * len(source.index.files)
    for index in range(len(source)):
        sizes[int(source.name(index).partition("shard-")[2][:6])] += len(source.read(index))
    assert sizes[0] > 50_000  # an image by itself
    assert all(size <= 5000 for size in sizes[1:])
    assert all(one + len(source.read(source.index.firsts[n + 2])) > 5000 for n, one in enumerate(sizes[1:-1]))


def test_larger_images_are_made_smaller_and_others_copied(tmp_path: Path) -> None:
    (tmp_path / "images" / "a").mkdir(parents=True)
    for name, width, height in (("wide.png", 300, 100), ("tall.jpg", 90, 180), ("small.png", 64, 200)):
        picture(3, width, height).save(tmp_path / "images" / "a" / name)
    built(tmp_path / "images", tmp_path / "out", short_side=64, quality=80, seed=None)
    source = opened(tmp_path / "out")
    assert stems(source) == ["a/small.png", "a/tall.jpg", "a/wide.jpg"]
    assert [source.image(index).size for index in range(3)] == [(64, 200), (64, 128), (192, 64)]
    assert source.read(0) == (tmp_path / "images" / "a" / "small.png").read_bytes()
    file = io.BytesIO()
    picture(3, 300, 100).resize((192, 64), Image.Resampling.BICUBIC).save(file, "JPEG", quality=80)
    assert source.read(2) == file.getvalue()


def test_an_image_too_long_for_a_jpeg_is_copied(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    Image.new("L", (70_000, 2)).save(tmp_path / "images" / "long.png")
    Image.new("L", (140_000, 4)).save(tmp_path / "images" / "longer.png")
    built(tmp_path / "images", tmp_path / "out", short_side=3, quality=90)
    assert sorted(stems(opened(tmp_path / "out"))) == ["long.png", "longer.png"]


def test_names_of_bad_files_need_not_be_text(pictures: Write, tmp_path: Path) -> None:
    root = pictures(("a",))
    os.truncate(root / "a" / "004.jpg", 0)
    os.rename(root / "a" / "004.jpg", os.fsencode(root / "a") + b"/\xff.jpg")  # noqa: PTH104
    assert built(root, tmp_path / "out")["bad"] == 1
    assert (tmp_path / "out" / "bad_files.txt").read_bytes() == b"a/\xff.jpg\tthe file is empty\n"


def test_images_that_cannot_be_read_are_left_out_and_listed(pictures: Write, tmp_path: Path) -> None:
    root = pictures(("train/a", "val/a"), each=5)
    (root / "train" / "a" / "001.jpg").write_text("<html>")
    (root / "val" / "a" / "003.jpg").write_bytes(b"")
    manifest = built(root, tmp_path / "out")
    assert (manifest["images"], manifest["bad"]) == (8, 2)
    assert manifest["splits"] == {"train": {"images": 4, "shards": 1}, "val": {"images": 4, "shards": 1}}
    assert (tmp_path / "out" / "bad_files.txt").read_text() == (
        "train/a/001.jpg\tnot an image that Pillow can read\nval/a/003.jpg\tthe file is empty\n"
    )
    assert len(opened(tmp_path / "out")) == 4


def test_splits_stay_apart_with_the_classes_of_the_training_images(pictures: Write, tmp_path: Path) -> None:
    root = pictures(("train/a", "train/b", "train/c", "validation/c"), each=3)
    built(root, tmp_path / "out")
    train, val = opened(tmp_path / "out"), opened(tmp_path / "out", "val")
    assert sorted(path.name for path in (tmp_path / "out").iterdir() if path.is_dir()) == ["checksums", "train", "val"]
    assert (len(train), len(val), val.classes) == (9, 3, ("a", "b", "c"))
    assert [val.label(index) for index in range(3)] == [2, 2, 2]


def test_without_classes_there_are_no_labels(pictures: Write, tmp_path: Path) -> None:
    manifest = built(pictures(("",)), tmp_path / "out")
    with tarfile.open(tmp_path / "out" / "shard-000000.tar") as archive:
        assert {name[-4:] for name in archive.getnames()} == {".jpg"}
    assert manifest["classes"] is opened(tmp_path / "out").classes is None


def test_names_that_would_be_one_sample_are_kept_apart(tmp_path: Path) -> None:
    names = [
        b"x.jpg",
        b"x.png",
        b"x.y.jpg",
        b"x_y.jpg",
        b"x.y.z.jpg",
        b"\xff.jpg",
        "é\n.jpg".encode(),
        b"n" * 180 + b".jpg",
    ]
    (tmp_path / "images" / "a").mkdir(parents=True)
    for number, name in enumerate(names):
        file = io.BytesIO()
        picture(number).save(file, "PNG")
        with open(os.fsencode(tmp_path) + b"/images/a/" + name, "wb") as image:  # noqa: PTH123  bytes
            image.write(file.getvalue())
    built(tmp_path / "images", tmp_path / "out")
    source = opened(tmp_path / "out")
    found = {np.asarray(source.image(index)).tobytes() for index in range(len(source))}
    assert found == {np.asarray(picture(number)).tobytes() for number in range(len(names))}


def test_ours_are_read_by_the_webdataset_package(pictures: Write, tmp_path: Path) -> None:
    wds = pytest.importorskip("webdataset")
    root = pictures(("a", "b"), each=6)
    built(root, tmp_path / "out", samples=5)
    urls = sorted(map(str, (tmp_path / "out").glob("*.tar")))
    read = list(wds.WebDataset(urls, shardshuffle=False).decode("pil").to_tuple("jpg", "cls", "__key__"))
    source = opened(tmp_path / "out")
    assert len(read) == len(source) == 12
    for index, (image, label, key) in enumerate(read):
        assert (np.asarray(image) == np.asarray(source.image(index))).all()
        assert (label, f"{key}.jpg") == (source.label(index), stems(source)[index])


# again


@pytest.mark.parametrize("options", [(), ("--short-side", 24), ("--bytes", 4000)])
def test_the_number_of_jobs_changes_no_file(
    engine: Engine, pictures: Write, tmp_path: Path, options: tuple[object, ...]
) -> None:
    root = pictures()
    for jobs in (1, 2):
        code, out, err = engine("build", root, f"jobs{jobs}", *options, "--jobs", jobs)
        assert (code, out) == (0, f"jobs{jobs}\n")
        assert "20 images in " in err
    assert contents(tmp_path / "jobs1") == contents(tmp_path / "jobs2")


def test_a_shard_that_was_removed_is_written_again(pictures: Write, tmp_path: Path) -> None:
    root, out = pictures(), tmp_path / "out"
    built(root, out, samples=8)
    before = contents(out)
    (out / "shard-000001.tar").unlink()
    built(root, out, samples=8)
    assert contents(out) == before


def test_a_part_that_was_never_counted_is_written_again(pictures: Write, tmp_path: Path) -> None:
    root = pictures()
    built(root, tmp_path / "whole", samples=6)
    built(root, tmp_path / "out", samples=6)
    build: Build = ShardBuild(root, tmp_path / "out", Settings(samples=6))
    build.checksums(2).unlink()
    (build.out / "shard-000002.tar").write_bytes(b"torn")
    (build.out / ".draft-shard-000002.tar").write_bytes(b"torn too")
    assert build.done == 14
    built(root, tmp_path / "out", samples=6)
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


def test_a_build_that_was_killed_goes_on_to_the_same_bytes(tmp_path: Path) -> None:
    (tmp_path / "images" / "a").mkdir(parents=True)
    for number in range(40):
        picture(number, 400, 300).save(tmp_path / "images" / "a" / f"{number}.png")
    how = {"samples": 8, "short_side": 200, "quality": 90}
    out = tmp_path / "out"
    process = get_context("fork").Process(target=built, args=(tmp_path / "images", out), kwargs=how)
    process.start()
    while not any((out / "checksums").glob("*.sha256")) or not any(out.glob(".draft-*")):
        assert process.is_alive()
        time.sleep(0.001)
    process.kill()
    process.join()
    assert not (out / "manifest.json").exists()
    before = {path: path.stat().st_mtime_ns for path in (out / "checksums").iterdir()}
    built(tmp_path / "images", out, **how)
    assert {path: path.stat().st_mtime_ns for path in before} == before
    built(tmp_path / "images", tmp_path / "whole", **how)
    assert contents(out) == contents(tmp_path / "whole")


def test_another_plan_is_refused_with_the_difference(engine: Engine, pictures: Write) -> None:
    root = pictures()
    engine("build", root, "out", "--samples", 7)
    code, _, err = engine("build", root, "out", "--samples", 8, "--seed", 3)
    assert (code, err) == (
        2,
        "out: holds another build (samples: 7 then, 8 now; seed: 0 then, 3 now); choose another folder\n",
    )


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda root: picture(7).save(root / "a" / "new.jpg"), "images: 20 then, 21 now; image_bytes: "),
        (lambda root: (root / "a" / "000.jpg").unlink(), "images: 20 then, 19 now; "),
        (lambda root: (root / "a" / "000.jpg").write_bytes(b"other"), "image_bytes: "),
        (lambda root: os.utime(root / "a" / "000.jpg", (1, 1)), "files: "),
        (lambda root: (root / "a" / "000.jpg").rename(root / "a" / "zzz.jpg"), "files: "),
    ],
)
def test_a_changed_folder_is_refused_with_the_difference(
    engine: Engine, pictures: Write, change: Callable[[Path], object], told: str
) -> None:
    root = pictures()
    engine("build", root, "out")
    change(root)
    code, _, err = engine("build", root, "out")
    assert code == 2
    assert err.startswith(f"out: holds another build ({told}")


def limited(root: Path, out: Path, told: Path) -> None:
    """A build on a disk that takes no large file."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (12_000, 12_000))
    try:
        built(root, out)
    except DataError as error:
        told.write_text(str(error))


def test_a_full_disk_is_one_line_and_leaves_nothing_that_looks_whole(pictures: Write, tmp_path: Path) -> None:
    out = tmp_path / "out"
    process = get_context("fork").Process(target=limited, args=(pictures(), out, tmp_path / "told"))
    process.start()
    process.join()
    assert (tmp_path / "told").read_text() == (
        f"{out}/shard-000000.tar: File too large; the same command goes on from the parts that are complete"
    )
    assert sorted(contents(out)) == [".build.json"]


# check


def test_a_build_is_as_it_was_written(engine: Engine, pictures: Write) -> None:
    engine("build", pictures(("train/a", "val/a")), "out", "--samples", 4)
    code, out, err = engine("check", "out")
    assert (code, out) == (0, "")
    assert err.endswith("20 images in 6 parts, as they were written\n")
    done = subprocess.run("sha256sum --check --quiet checksums/*.sha256", shell=True, cwd="out")
    assert done.returncode == 0


@pytest.fixture
def out(pictures: Write, tmp_path: Path) -> Iterator[Path]:
    """A build of three parts."""
    built(pictures(), tmp_path / "out", samples=8)
    return tmp_path / "out"


def flip(path: Path, place: int) -> None:
    data = bytearray(path.read_bytes())
    data[place] ^= 1
    path.write_bytes(data)


def recount(out: Path) -> None:
    told = json.loads((out / "manifest.json").read_text())
    (out / "manifest.json").write_text(json.dumps({**told, "images": 21}))


@pytest.mark.parametrize(
    ("harm", "told"),
    [
        (lambda out: flip(out / "shard-000001.tar", 600), ["shard-000001.tar: not the bytes that were written"]),
        (
            lambda out: os.truncate(out / "shard-000001.tar", 5000),
            ["shard-000001.tar: not the bytes that were written (cut short: at least "],
        ),
        (lambda out: (out / "shard-000002.tar").unlink(), ["shard-000002.tar: No such file or directory"]),
        (
            lambda out: (out / "more.tar").write_bytes((out / "shard-000000.tar").read_bytes()),
            ["more.tar: not a part of this build"],
        ),
        (
            lambda out: (out / "checksums" / "shard-000000.tar.sha256").unlink(),
            ["shard-000000.tar: not a part of this build", "manifest.json: 3 parts, and there are checksums of 2"],
        ),
        (lambda out: (out / "manifest.json").unlink(), ["manifest.json: missing; the build was not finished; "]),
        (lambda out: (out / "manifest.json").write_text("{"), ["manifest.json: Expecting property name"]),
        (recount, ["manifest.json: 21 images, and 20 were counted in the parts"]),
        (
            lambda out: (out / "checksums" / "shard-000000.tar.sha256").write_text("junk"),
            ["checksums/shard-000000.tar.sha256: ", "manifest.json: 20 images, and 12 were counted"],
        ),
    ],
)
def test_what_is_wrong_is_told(out: Path, harm: Callable[[Path], object], told: list[str]) -> None:
    harm(out)
    found = faults(out, 1, quiet)
    assert len(found) == len(told)
    assert all(line.startswith(f"{out}/{start}") for line, start in zip(found, told, strict=True))


def test_faults_are_lines_and_exit_code_3(engine: Engine, out: Path) -> None:
    flip(out / "shard-000001.tar", 600)
    (out / "shard-000002.tar").unlink()
    code, told, err = engine("check", out, "--jobs", 2)
    assert (code, len(told.splitlines())) == (3, 2)
    assert f"{out}: not what was written, in 2 respects; remove such parts" in err


def test_parts_that_were_removed_are_written_again_to_the_same_bytes(
    engine: Engine, pictures: Write, tmp_path: Path
) -> None:
    root = pictures()
    engine("build", root, "out", "--samples", 8)
    before, part = contents(tmp_path / "out"), tmp_path / "out" / "shard-000001.tar"
    flip(part, 600)
    (tmp_path / "out" / "checksums" / f"{part.name}.sha256").unlink()
    part.unlink()
    assert engine("build", root, "out", "--samples", 8)[0] == 0
    assert contents(tmp_path / "out") == before


def test_a_folder_that_is_no_build_is_told(engine: Engine, tmp_path: Path) -> None:
    code, _, err = engine("check", tmp_path)
    assert (code, err) == (3, f"{tmp_path}: no checksums/*.sha256; must be the folder that a build wrote\n")


@pytest.mark.parametrize("as_tar", [False, True])
def test_builds_of_fractals_are_checked_alike(tmp_path: Path, as_tar: bool) -> None:
    data = Formulas(categories=12, instances=2, fractal_size=32, fractal_points=500)
    write_fractals(Fractals(tmp_path / "out", data, 0, as_tar), 1, quiet)
    assert faults(tmp_path / "out", 1, quiet) == []
    file = next(path for path in (tmp_path / "out").rglob("*") if path.suffix in (".png", ".tar"))
    flip(file, 600 if as_tar else 60)
    assert faults(tmp_path / "out", 1, quiet) == [f"{file}: not the bytes that were written"]


# the command line


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (("--quality", 80), "--quality=80: files are copied as they are; needs --short-side"),
        (("--samples", 9, "--bytes", 9), "--samples=9: a shard ends at --bytes=9; give one of the two"),
        (("--seed", 1, "--no-shuffle"), "--seed=1: nothing is random with --no-shuffle; give one of the two"),
    ],
)
def test_options_that_would_do_nothing_are_refused(
    engine: Engine, tmp_path: Path, arguments: tuple[object, ...], complaint: str
) -> None:
    assert engine("build", "in", "out", *arguments) == (2, "", f"{complaint}\n")
    assert not [*tmp_path.iterdir()]


def test_a_folder_without_images_and_a_folder_in_use_are_refused(
    engine: Engine, pictures: Write, tmp_path: Path
) -> None:
    code, _, err = engine("build", tmp_path / "none", "out")
    assert (code, err) == (3, f"DIR: '{tmp_path / 'none'}' does not exist; must be the folder of the images\n")
    engine("build", pictures(), "shards")
    code, _, err = engine("build", "shards", "out")
    assert (code, err) == (3, "DIR: 'shards' holds shards already; must be a folder of images as files\n")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("years of work")
    code, _, err = engine("build", pictures(), "mine")
    assert (code, err) == (2, "mine: exists and holds no build of ours; choose an empty folder\n")


def test_a_vanished_image_is_a_bad_one(pictures: Write, tmp_path: Path) -> None:
    root = pictures()
    build = ShardBuild(root, tmp_path / "out", Settings())
    (root / "a" / "004.jpg").unlink()
    assert write(build, 1, quiet)["bad"] == 1
    assert "No such file" in (tmp_path / "out" / "bad_files.txt").read_text()


def test_a_manifest_that_cannot_be_written_is_told(pictures: Write, tmp_path: Path) -> None:
    root = pictures()
    built(root, tmp_path / "out")
    (tmp_path / "out" / "manifest.json").unlink()
    (tmp_path / "out" / "manifest.json").mkdir()
    with pytest.raises(DataError, match=r"manifest\.json: Is a directory"):
        built(root, tmp_path / "out")

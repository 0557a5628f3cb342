"""`engine fractal`: what is found and written is the same however often it was interrupted, or it is not there."""

import json
import os
import resource
import signal
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vitkiln.engine import cli
from vitkiln.engine.commands.bar import Tenths
from vitkiln.engine.commands.fractal import numbered
from vitkiln.engine.data.folder import open_folder
from vitkiln.engine.data.fractal import Fractals
from vitkiln.engine.data.fractal_build import Build, Writer, write
from vitkiln.engine.data.fractal_instances import SHOWN, Instances
from vitkiln.engine.data.ifs import SHIPPED, read_formulas, shipped
from vitkiln.engine.errors import DataError, RecipeError
from vitkiln.engine.settings.formulas import Formulas

TINY = Formulas(categories=5, instances=8, fractal_size=48, fractal_points=1000)
OPTIONS = ["--categories", 5, "--instances", 8, "--size", 48, "--points", 1000]


@pytest.fixture
def engine(capsys, monkeypatch, tmp_path):
    """Calls `engine fractal` in an empty folder: (exit code, stdout, stderr)."""
    monkeypatch.chdir(tmp_path)

    def call(*arguments):
        code = cli.call(["fractal", *map(str, arguments)])
        return code, *capsys.readouterr()

    return call


def contents(folder):
    """Every file below a folder, by its name."""
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def quiet(count):
    pass


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A build that nothing interrupted."""
    out = tmp_path_factory.mktemp("build") / "whole"
    write(Build(out, TINY, 0, False), 1, quiet)
    return out


# search


def test_the_first_categories_of_seed_1_are_the_published_ones(engine, tmp_path):
    code, out, err = engine("search", "--categories", 6, "--seed", 1, "--out", tmp_path / "found")
    assert code == 0
    found = read_formulas(str(tmp_path / "found"), 6)
    assert all((a.maps == b.maps).all() for a, b in zip(found, shipped(), strict=False))
    assert all((a.probabilities == b.probabilities).all() for a, b in zip(found, shipped(), strict=False))
    sizes = [len(formula.maps) for formula in found]
    told = ", ".join(f"{sizes.count(k)} of {k}" for k in range(2, 8))
    assert out.startswith("6 categories in ")
    assert out.endswith(f"maps: {told}\n")
    assert "6 of 6 categories" in err


def test_a_category_is_written_with_all_its_digits(engine, tmp_path):
    engine("search", "--categories", 1, "--out", tmp_path / "found")
    rows = [line.split(",", 1)[1] for line in SHIPPED.read_text().splitlines() if line.startswith("0,")]
    assert (tmp_path / "found" / "00000.csv").read_text().splitlines() == rows


def test_the_number_of_jobs_changes_no_category(engine, tmp_path):
    answers = [engine("search", "--categories", 4, "--out", tmp_path / f"{jobs}", "--jobs", jobs) for jobs in (1, 2)]
    assert answers[0][1] == answers[1][1]
    assert contents(tmp_path / "1") == contents(tmp_path / "2")


def test_a_search_goes_on_to_more_categories(engine, tmp_path):
    engine("search", "--categories", 3, "--out", tmp_path / "twice")
    second = engine("search", "--categories", 6, "--out", tmp_path / "twice")
    once = engine("search", "--categories", 6, "--out", tmp_path / "once")
    assert second[1] == once[1]
    assert contents(tmp_path / "twice") == contents(tmp_path / "once")


def test_a_search_that_was_killed_goes_on(engine, tmp_path):
    out = tmp_path / "killed"
    command = [sys.executable, "-m", "vitkiln.engine.cli", "fractal", "search", "--categories", "40", "--out", str(out)]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    wait_for(lambda: (out / "00001.csv").exists(), process)
    process.kill()
    process.wait()
    assert not (out / "00019.csv").exists()
    assert engine("search", "--categories", 20, "--out", out)[0] == 0
    assert all((a.maps == b.maps).all() for a, b in zip(read_formulas(str(out), 20), shipped(), strict=False))


@pytest.mark.slow
def test_seed_1_gives_the_thousand_of_fractaldb(engine, tmp_path):
    code, out, _ = engine("search", "--categories", 1000, "--seed", 1, "--out", tmp_path / "found")
    assert code == 0
    assert out == (
        "1,000 categories in 42,655 candidates (2.344% accepted, 1,612 diverged); "
        "maps: 231 of 2, 294 of 3, 218 of 4, 146 of 5, 77 of 6, 34 of 7\n"
    )


def test_a_search_does_not_write_into_something_else(engine, tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")
    code, _, err = engine("search", "--out", tmp_path)
    assert (code, err) == (2, f"{tmp_path}: exists and holds no search of ours; choose an empty folder\n")


def test_a_search_of_another_seed_or_of_less_is_refused(engine, tmp_path):
    engine("search", "--categories", 4, "--out", "found")
    assert engine("search", "--categories", 9, "--seed", 2, "--out", "found")[0] == 2
    code, _, err = engine("search", "--categories", 1, "--out", "found")
    assert (code, err) == (2, "--categories=1: found holds more already, of which the first 1 are these\n")


# build


def test_a_build_is_what_training_would_see(whole):
    source, files = Fractals(TINY, 0), open_folder(str(whole), None, "train")
    assert files is not None
    assert (len(files), files.classes) == (40, source.classes)
    for index in range(0, 40, 7):
        assert (np.asarray(files.image(index)) == np.asarray(source.image(index))).all()
        assert files.label(index) == source.label(index)


def test_checksums_are_those_of_the_files(whole):
    done = subprocess.run("sha256sum --check --quiet checksums/*.sha256", shell=True, cwd=whole)
    assert done.returncode == 0
    manifest = json.loads((whole / "manifest.json").read_text())
    assert (manifest["images"], manifest["parts"], manifest["categories"]) == (40, 5, 5)


@pytest.mark.parametrize("format", ["folder", "tar"])
def test_the_number_of_jobs_changes_no_file(engine, tmp_path, format):
    for jobs in (1, 2):
        code, out, _ = engine("build", f"jobs{jobs}", *OPTIONS, "--format", format, "--jobs", jobs)
        assert (code, out) == (0, f"jobs{jobs}\n")
    assert contents(tmp_path / "jobs1") == contents(tmp_path / "jobs2")


def test_shards_hold_png_and_class_of_every_image_in_turns(tmp_path):
    write(Build(tmp_path / "out", TINY, 0, True), 1, quiet)
    (shard,) = (tmp_path / "out").glob("*.tar")
    source = Fractals(TINY, 0)
    with tarfile.open(shard) as archive:
        names = archive.getnames()
        assert names[:4] == ["00000_00000.cls", "00000_00000.png", "00001_00000.cls", "00001_00000.png"]
        assert len(names) == 80
        for name in names[1::14]:
            category, instance = map(int, name[:-4].split("_"))
            with Image.open(archive.extractfile(name)) as image:  # type: ignore[arg-type]
                assert (np.asarray(image.convert("RGB")) == np.asarray(source.image(category * 8 + instance))).all()
            label = archive.extractfile(name.replace("png", "cls"))
            assert label is not None
            assert int(label.read()) == category


def test_a_shard_mixes_as_many_categories_as_fill_it():
    build = Build(Path("x"), Formulas(categories=25, instances=1000), 0, True)
    assert (build.group, build.parts, build.images(2)) == (10, 3, 5000)
    assert [*build.members(2)][:6] == [(20, 0), (21, 0), (22, 0), (23, 0), (24, 0), (20, 1)]


def wait_for(found, process):
    """Until something is there; the process must still be at work."""
    for _ in range(6000):  # operators may have to be compiled first
        if found():
            return
        assert process.poll() is None
        time.sleep(0.02)
    raise AssertionError("never happened")


def test_a_build_that_was_killed_goes_on(engine, tmp_path):
    options = ["--categories", 8, "--instances", 250, "--size", 32, "--points", 500, "--style", "point_gray"]
    out = tmp_path / "killed"
    command = [sys.executable, "-m", "vitkiln.engine.cli", "fractal", "build", str(out), *map(str, options)]
    process = subprocess.Popen([*command, "--jobs", "1"], stderr=subprocess.DEVNULL)
    wait_for(lambda: any((out / "checksums").glob("*.sha256")), process)
    wait_for(lambda: any(out.glob(".draft-*")), process)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (out / "manifest.json").exists()
    first = {path: path.stat().st_mtime_ns for path in (out / "checksums").glob("*.sha256")}
    assert engine("build", out, *options)[0] == 0
    assert {path: path.stat().st_mtime_ns for path in first} == first
    assert engine("build", tmp_path / "whole", *options)[0] == 0
    assert contents(out) == contents(tmp_path / "whole")


def test_a_part_that_was_never_counted_is_written_again(whole, tmp_path):
    build = Build(tmp_path / "out", TINY, 0, False)
    write(build, 1, quiet)
    build.checksums(2).unlink()
    (build.out / "00002" / "00002_00003.png").write_bytes(b"torn")
    (build.out / ".draft-00002").mkdir()
    write(build, 1, quiet)
    assert contents(build.out) == contents(whole)


def test_a_full_disk_is_one_line_and_leaves_nothing_that_looks_whole(tmp_path):
    program = (
        "import resource, sys; from vitkiln.engine import cli; "
        "resource.setrlimit(resource.RLIMIT_FSIZE, (8000, 8000)); sys.exit(cli.call(sys.argv[1:]))"
    )
    arguments = ["fractal", "build", tmp_path / "out", *OPTIONS, "--format", "tar", "--jobs", 1]
    done = subprocess.run([sys.executable, "-c", program, *map(str, arguments)], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (3, "")
    assert done.stderr == (
        f"{tmp_path}/out/shard-000000.tar: File too large; the same command goes on from the parts that are complete\n"
    )
    assert sorted(contents(tmp_path / "out")) == [".build.json"]
    assert resource.RLIMIT_FSIZE  # of that process alone: this one still writes
    write(Build(tmp_path / "out", TINY, 0, True), 1, quiet)


def test_a_disk_that_fills_up_half_way_keeps_the_parts_that_are_whole(tmp_path, whole, monkeypatch):
    written = Path.write_bytes

    def full(path, data):
        if path.name == "00003_00004.png":
            raise OSError(28, os.strerror(28))
        return written(path, data)

    monkeypatch.setattr(Path, "write_bytes", full)
    build = Build(tmp_path / "out", TINY, 0, False)
    with pytest.raises(DataError, match=r"out/00003: No space left on device; the same command goes on"):
        write(build, 1, quiet)
    assert sorted(path.name for path in build.out.glob("[0-9]*")) == ["00000", "00001", "00002"]
    assert not [*build.out.glob(".draft*")]
    monkeypatch.undo()
    write(build, 1, quiet)
    assert contents(build.out) == contents(whole)


def test_a_build_of_something_else_is_refused(engine, tmp_path, whole):
    code, _, err = engine("build", whole, *OPTIONS, "--style", "point_gray")
    assert code == 2
    assert err == f"{whole}: holds another build (style: patch_gray then, point_gray now); choose another folder\n"
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("years of work")
    code, _, err = engine("build", "mine", *OPTIONS)
    assert (code, err) == (2, "mine: exists and holds no build of ours; choose an empty folder\n")


def test_images_that_cannot_be_drawn_are_told(tmp_path):
    root = tmp_path / "root"
    root.mkdir()
    (root / "00000.csv").write_text("0.5,0,0,0.5,0.3,0.1,0.5\n99.0,0,0,99.0,0.2,0.1,0.5\n")
    data = TINY.model_copy(update={"categories": 1, "instances": 2, "categories_root": str(root)})
    manifest = write(Build(tmp_path / "out", data, 0, False), 1, quiet)
    assert (manifest["images"], manifest["not_drawn"]) == (0, ["00000_00000", "00000_00001"])


def test_a_writer_counts_what_it_replaces(tmp_path):
    data = TINY.model_copy(update={"categories": 3, "instances": 25, "fractal_points": 4000})
    writer = Writer(Build(tmp_path / "out", data, 0, False))
    manifest = write(writer.build, 1, quiet)
    artist = writer.source.artist  # of this process, which wrote nothing
    assert isinstance(artist, Instances)
    lost = sum(artist.state(category, variation) != SHOWN for category in range(3) for variation in range(25))
    assert manifest["replaced"] == lost > 0


# show


@pytest.mark.parametrize("style", ["patch_gray", "point_color", "contour_atom"])
def test_a_sheet_shows_a_row_for_each_category(engine, tmp_path, style):
    code, out, _ = engine(
        "show", "sheet.png", "--categories", "2,0", "--instances", 3, "--size", 32, "--points", 500, "--style", style
    )
    assert (code, out) == (0, "sheet.png\n")
    pixels = np.asarray(Image.open(tmp_path / "sheet.png"))
    assert pixels.shape == (4 + 2 * 36, 46 + 3 * 36, 3)
    data = Formulas(categories=3, instances=3, fractal_size=32, fractal_points=500, style=style)
    source = Fractals(data, 0)
    assert (pixels[4:36, 46:78] == np.asarray(source.image(6))).all()
    assert (pixels[40:72, 118:150] == np.asarray(source.image(2))).all()


def test_categories_are_counted_ranged_or_listed():
    assert (numbered("2"), numbered("4-6"), numbered("7,2")) == ([0, 1], [4, 5, 6], [7, 2])


@pytest.mark.parametrize("text", ["x", "0", "3-1", "-2", "1,x", ""])
def test_other_categories_are_refused(text):
    with pytest.raises(RecipeError, match="must be a number of categories, a range A-B or a list"):
        numbered(text)


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (("show", "x.jpg"), "x.jpg: must be named *.png"),
        (("show", "no/x.png"), "no/x.png: there is no folder no"),
        (("show", "x.png", "--size", 0), "--size=0: must be at least 16"),
        (("build", "x", "--points", 0), "--points=0: must be at least 100"),
        (("build", "x", "--categories", 0), "--categories=0: must be at least 1"),
        (("build", "x", "--format", "zip"), "--format=zip: must be folder or tar"),
        (("build", "x", "--variation", 0.7), "--variation=0.7: must be at most 0.5"),
        (("build", "x", "--style", "contour_atom", "--root", "y"), "--root=y: style=contour_atom makes its own"),
        (("show", "x.png", "--style", "gray"), "--style=gray: must be one of patch_gray, "),
    ],
)
def test_bad_input_is_one_line(engine, tmp_path, arguments, complaint):
    code, out, err = engine(*arguments)
    assert (code, out) == (2, "")
    assert err.startswith(complaint)
    assert err.count("\n") == 1
    assert not [*tmp_path.iterdir()]


def test_progress_in_a_log_is_a_line_at_each_tenth(capsys):
    line = Tenths("images", 1000, 500)
    for _ in range(500):
        line.advance(1)
    told = capsys.readouterr().err.splitlines()
    assert [text.split(" images, ")[0] for text in told] == [f"{n:,} of 1,000" for n in range(600, 1001, 100)]
    assert told[-1].endswith("0:00:00 to go")

"""The wheel holds every file of the rooms under one import name, and touches nobody else's."""

import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
pytestmark = pytest.mark.slow


def pip(*arguments: object) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "pip", "--disable-pip-version-check", *map(str, arguments)],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr


def build(source: Path, target: Path) -> Path:
    """The wheel of a project, built with what is installed here."""
    pip("wheel", source, "--no-deps", "--no-build-isolation", "--no-index", "--wheel-dir", target)
    (wheel,) = target.glob("*.whl")
    return wheel


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    return build(ROOT, tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="module")
def contents(wheel):
    return set(zipfile.ZipFile(wheel).namelist())


def test_the_wheel_is_pure_and_owns_one_import_name(wheel, contents):
    assert wheel.name.endswith("-py3-none-any.whl")
    tops = {name.split("/")[0] for name in contents}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"vitkiln"}
    assert "vitkiln/__init__.py" not in contents  # a namespace, which others may share


ROOMS = {"engine": ("py",), "kernels": ("py", "md"), "recipes": ("yaml",), "csrc": ("cpp", "cu", "h")}


def test_the_wheel_holds_every_file_of_the_rooms(contents):
    wanted = {
        f"vitkiln/{file.relative_to(ROOT).as_posix()}"
        for room, suffixes in ROOMS.items()
        for suffix in suffixes
        for file in (ROOT / room).rglob(f"*.{suffix}")
    }
    assert wanted <= contents
    assert {"vitkiln/engine/py.typed", "vitkiln/kernels/py.typed"} <= contents


def test_the_wheel_holds_nothing_else(contents):
    kept = ("vitkiln/engine/", "vitkiln/kernels/", "vitkiln/recipes/", "vitkiln/csrc/")
    stray = {name for name in contents if not name.startswith(kept) and ".dist-info/" not in name}
    assert not stray
    assert not {name for name in contents if name.endswith((".pyc", ".so"))}


@pytest.fixture
def python(tmp_path):
    """An empty environment's interpreter."""
    venv.create(tmp_path / "venv", with_pip=False)
    return tmp_path / "venv" / "bin" / "python"


@pytest.fixture
def stranger(tmp_path):
    """A wheel of somebody else that owns the top-level names `kernels` and `engine`."""
    project = tmp_path / "stranger"
    for name in ("kernels", "engine"):
        (project / name).mkdir(parents=True)
        (project / name / "__init__.py").write_text("OWNER = 'somebody else'\n")
    (project / "pyproject.toml").write_text(
        '[build-system]\nrequires = ["hatchling"]\nbuild-backend = "hatchling.build"\n'
        '[project]\nname = "kernels"\nversion = "1"\n'
        '[tool.hatch.build.targets.wheel]\npackages = ["kernels", "engine"]\n'
    )
    return build(project, tmp_path / "stranger_wheel")


@pytest.mark.parametrize("ours_first", [True, False])
def test_a_package_of_somebody_else_stays_intact(wheel, stranger, python, tmp_path, ours_first):
    for file in (wheel, stranger) if ours_first else (stranger, wheel):
        pip("--python", python, "install", "--no-deps", "--no-index", file)
    check = "import engine, kernels; assert {engine.OWNER, kernels.OWNER} == {'somebody else'}"
    subprocess.run([python, "-c", check], cwd=tmp_path, check=True)
    pip("--python", python, "uninstall", "--yes", "vitkiln")
    subprocess.run([python, "-c", check], cwd=tmp_path, check=True)


def test_an_installed_wheel_finds_its_recipes(wheel, tmp_path):
    """Unpacked beside the dependencies that are installed here, away from the checkout."""
    pip("install", "--no-deps", "--no-index", "--target", tmp_path / "site", wheel)
    program = (
        "import vitkiln.engine.recipe as recipe; assert str(recipe.SHIPPED).startswith(__import__('os').getcwd()); "
        "print(recipe.load('dilemma').name)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=tmp_path,
        env={"PYTHONPATH": str(tmp_path / "site")},
        capture_output=True,
        text=True,
    )
    assert done.stdout == "dilemma\n", done.stderr


def test_the_source_distribution_builds_the_same_wheel(tmp_path, contents):
    command = [sys.executable, "-m", "hatchling", "build", "-t", "sdist", "-d", str(tmp_path)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    (archive,) = tmp_path.glob("*.tar.gz")
    again = build(archive, tmp_path / "wheel")
    assert set(zipfile.ZipFile(again).namelist()) == contents

"""The command: what it answers, where it says it, and with which exit code."""

import importlib.util
import json
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

import vitkiln.kernels
from vitkiln.engine import cli, methods
from vitkiln.engine.commands.training import less_memory, out_of_memory
from vitkiln.engine.errors import DataError, EngineError, OutOfMemory
from vitkiln.engine.recipe import load, shipped
from vitkiln.engine.settings import Encoder
from vitkiln.engine.settings.sections import SIZES
from vitkiln.engine.vit import build

SURFACE = {  # agreed with everybody who types it: change it with the documentation and on purpose
    "fractal": [],
    "run": ["RECIPE", "KEY.SUB=VALUE", "--out", "--short", "--resume"],
    "validate": ["RECIPE...", "--short", "--json"],
    "eval": [
        "CHECKPOINT",
        "KEY.SUB=VALUE",
        "--data",
        "--protocol",
        "--features",
        "--variant",
        "--views",
        "--epochs",
        "--half",
        "--seed",
        "--out",
        "--batch-size",
        "--workers",
        "--device",
        "--limit",
        "--json",
    ],
    "bench": [
        "RECIPE",
        "KEY.SUB=VALUE",
        "--short",
        "--parts",
        "--batch",
        "--compare",
        "--find-batch",
        "--seconds",
        "--steps",
        "--record",
        "--trace",
        "--json",
    ],
    "shards": [],
    "embed": [
        "CHECKPOINT",
        "OUT",
        "--data",
        "--features",
        "--split",
        "--format",
        "--half",
        "--batch-size",
        "--workers",
        "--device",
        "--limit",
        "--json",
    ],
    "export": ["CHECKPOINT", "OUT", "--format"],
    "doctor": ["--json"],
    "list": ["recipes|methods|models|kernels", "--json"],
    "show": ["RECIPE", "--json"],
    "copy": ["RECIPE", "FILE", "--force"],
    "check-data": ["DIR", "--workers", "--json"],
}
TINY = """\
method: {name: dilemma, keep: 0.5, hidden: 32, output: 16}
encoder: {image_size: 32, patch_size: 8, width: 32, depth: 1, heads: 2}
data: {source: fractal, categories: 4, instances: 4, fractal_size: 32, fractal_points: 300, batch_size: 8, workers: 0}
run: {steps: 2, precision: fp32, device: cpu, tensorboard: false, log_every: 1}
"""


@pytest.fixture
def engine(capsys, monkeypatch, tmp_path):
    """Calls the command in an empty folder: (exit code, stdout, stderr)."""
    monkeypatch.chdir(tmp_path)

    def call(*arguments):
        code = cli.call([str(argument) for argument in arguments])
        return code, *capsys.readouterr()

    return call


def refused(answer, text, code=2):
    """Whether the answer is one line on stderr."""
    assert answer == (code, "", text + "\n")


def test_the_surface_is_the_one_that_was_agreed():
    import typer

    group = typer.main.get_command(cli.app)
    found = {
        name: [
            parameter.opts[0] if parameter.opts[0].startswith("-") else parameter.metavar
            for parameter in command.params
            if parameter.name != "help"
        ]
        for name, command in group.commands.items()
    }
    assert found == SURFACE
    assert [parameter.opts[0] for parameter in group.params] == ["--version"]


@pytest.mark.parametrize("name", SURFACE)
def test_every_command_has_help(engine, name):
    code, out, err = engine(name, "--help")
    assert (code, err) == (0, "")
    assert all(part.split("|")[0].split()[0].rstrip(".") in out for part in SURFACE[name])


@pytest.mark.parametrize("arguments", [[], ["--help"]])
def test_help_lists_the_commands(engine, arguments):
    code, out, err = engine(*arguments)
    assert (code, err) == (0, "")
    assert all(f"\n  {name} " in out for name in SURFACE)


def test_version(engine):
    from importlib.metadata import version

    assert engine("--version") == (0, version("vitkiln") + "\n", "")


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["rnu", "dilemma"], "no such command rnu; did you mean run?"),
        (
            ["zzz"],
            "no such command zzz; there are run, validate, bench, eval, embed, export, doctor, list, show, copy, "
            "check-data, fractal, shards",
        ),
        (["run"], "Missing argument 'RECIPE'; see `engine run --help`"),
        (["run", "dilemma", "--shrot"], "no such option --shrot; did you mean --short?"),
        (["run", "dilemma", "--epochs=3"], None),
        (["eval", "x", "--limt", "3"], "no such option --limt; did you mean --limit?"),
        (["run", "dilema"], "dilema: no such recipe; did you mean dilemma?"),
        (["run", "dilemma", "--optim.lr=x"], "override optim.lr=x: not a number; for example 1.5e-4"),
        (
            ["validate", "run.steps=3"],
            "validate: no recipe is named; the shipped ones are shown by `engine list recipes`",
        ),
        (["list", "model"], "list model: must be one of recipes, methods, models, kernels; did you mean models?"),
        (["show", "mocov"], "mocov: no such recipe; did you mean mocov3?"),
        (["export", "nowhere", "out"], None),
        (["eval", "nowhere"], None),
    ],
)
def test_a_mistake_in_the_command_line_exits_with_2(engine, arguments, expected):
    code, out, err = engine(*arguments)
    assert (code, out) == (2, "")
    assert err.count("\n") == 1
    assert expected is None or err == expected + "\n"


def test_two_bad_recipes_are_told_together(engine):
    refused(
        engine("validate", "dilema", "mocov"),
        "dilema: no such recipe; did you mean dilemma?\nmocov: no such recipe; did you mean mocov3?",
    )


def test_a_missing_folder_is_a_data_error(engine):
    code, out, err = engine("run", "dilemma", "data.root=/nowhere/at/all")
    assert (code, out) == (3, "")
    assert "data.root: '/nowhere/at/all'" in err
    assert not Path("runs").exists()


@pytest.mark.parametrize(("error", "code"), [(kind, kind.code) for kind in EngineError.__subclasses__()])
def test_every_error_ends_with_its_code(engine, monkeypatch, error, code):
    def fail(*_):
        raise error("what and where")

    monkeypatch.setattr("vitkiln.engine.catalogue.models", fail)
    refused(engine("list", "models"), "what and where", code)


def test_an_unexpected_error_exits_with_1_and_names_its_type(engine, monkeypatch):
    monkeypatch.setattr("vitkiln.engine.catalogue.models", lambda: {}["lost"])
    code, out, err = engine("list", "models")
    assert (code, out) == (1, "")
    assert err.startswith("KeyError: 'lost'\n")
    assert "`engine list ... --debug`" in err
    assert "Traceback" not in err


def test_debug_shows_the_traceback(engine, monkeypatch):
    monkeypatch.setattr("vitkiln.engine.catalogue.models", lambda: {}["lost"])
    code, _, err = engine("list", "models", "--debug")
    assert code == 1
    assert "Traceback" in err


def test_an_interrupt_says_so_and_exits_with_130(engine, monkeypatch):
    def interrupted():
        raise KeyboardInterrupt

    monkeypatch.setattr("vitkiln.engine.catalogue.models", interrupted)
    assert engine("list", "models") == (130, "", "interrupted\n")


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB\nmore"),
        RuntimeError("[enforce fail at alloc_cpu.cpp:1] DefaultCPUAllocator: can't allocate memory: you tried"),
        MemoryError(),
    ],
)
def test_a_lack_of_memory_is_told_with_three_ways_out(error):
    advice = less_memory(load("dilemma", ["data.root=/x"]))
    with pytest.raises(OutOfMemory) as caught, out_of_memory(advice):
        raise error
    assert "run.accumulate=2 " in str(caught.value)
    assert "data.batch_size=512, or method.keep=0.125" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_other_errors_are_not_taken_for_a_lack_of_memory():
    with pytest.raises(RuntimeError, match="shape"), out_of_memory(""):
        raise RuntimeError("shape '[3]' is invalid")


def test_without_a_share_to_keep_smaller_images_are_advised():
    assert less_memory(load("mocov3", ["data.root=/x"])).endswith("or encoder.image_size=160")


def test_show_prints_the_file_as_it_is(engine):
    _, out, _ = engine("show", "dilemma")
    assert out == (Path(__file__).parents[2] / "recipes" / "dilemma.yaml").read_text()
    assert json.loads(engine("show", "dilemma", "--json")[1])["short"]["data"]["source"] == "fractal"


def test_copy_does_not_replace_a_file_unless_forced(engine):
    assert engine("copy", "dilemma", "mine.yaml")[0] == 0
    Path("mine.yaml").write_text("precious")
    refused(
        engine("copy", "dilemma", "mine.yaml"),
        "mine.yaml: exists already; choose another name, or replace it with --force",
    )
    assert Path("mine.yaml").read_text() == "precious"
    assert engine("copy", "dilemma", "mine.yaml", "--force")[0] == 0
    assert load("mine.yaml").name == "mine"


@pytest.mark.parametrize("kind", ["recipes", "methods", "models", "kernels"])
def test_lists_say_the_same_to_people_and_to_programs(engine, kind):
    table, found = engine("list", kind)[1], json.loads(engine("list", kind, "--json")[1])
    assert [line.split()[0] for line in table.splitlines()[1:]] == [next(iter(row.values())) for row in found]
    assert all(list(row.values())[-1] for row in found)


def test_lists_are_complete(engine):
    names = {kind: [next(iter(row.values())) for row in json.loads(engine("list", kind, "--json")[1])]
             for kind in ("recipes", "methods", "models", "kernels")}  # fmt: skip
    assert names["recipes"] == shipped()
    assert names["methods"] == methods.names()
    assert names["models"] == list(SIZES)
    assert names["kernels"] == vitkiln.kernels.__all__


def test_listed_parameters_are_those_of_the_encoder(engine):
    spec = importlib.util.spec_from_file_location("with_timm", Path(__file__).with_name("with_timm.py"))
    shim = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(shim)
    shim.vision_transformer()  # or skip: Swin is timm's
    for row in json.loads(engine("list", "models", "--json")[1]):
        with torch.device("meta"):
            encoder = build(Encoder(name=row["model"]))
        assert row["parameters"] == sum(parameter.numel() for parameter in encoder.parameters())


def test_validate_prints_a_recipe_that_loads_again(engine, tmp_path):
    code, out, _ = engine("validate", "dilemma", "data.root=/imagenet")
    assert code == 0
    (tmp_path / "dilemma.yaml").write_text(out)
    assert load("dilemma.yaml") == load("dilemma", ["data.root=/imagenet"])
    assert "# effective_lr: 0.0006\n" in out
    assert "# negatives_per_anchor: 1,023\n" in out
    assert "# patches_seen: 49\n" in out


def test_validate_answers_programs(engine):
    _, out, err = engine("validate", "dilemma", "mocov3", "--json")
    assert [recipe["report"]["method"] for recipe in json.loads(out)] == ["dilemma", "mocov3"]
    assert err == ""


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run made by the console command, with what it wrote where."""
    folder = tmp_path_factory.mktemp("trained")
    (folder / "tiny.yaml").write_text(TINY)
    command = [sys.executable, "-m", "vitkiln.engine.cli", "run", "tiny.yaml", "--out", "run", "--run.seed=3"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return folder, done


def test_a_run_says_its_folder_on_stdout_and_the_rest_on_stderr(trained):
    folder, done = trained
    assert done.stdout == "run\n"
    assert "step 2/2" in done.stderr
    assert load(folder / "run" / "recipe.yaml", short=False).run.seed == 3


def test_nothing_is_coloured_where_there_is_no_terminal(trained):
    assert "\x1b" not in trained[1].stdout + trained[1].stderr


def test_a_checkpoint_is_evaluated_and_exported(trained, engine):
    folder, _ = trained
    code, out, _ = engine("eval", folder / "run", "--json", "--workers", "0")
    result = json.loads(out)
    assert (code, result["step"], result["classes"]) == (0, 2, 4)
    table = engine("eval", folder / "run", "--workers", "0")[1]
    assert any(line.split() == ["classes", "4"] for line in table.splitlines())
    code, out, err = engine("export", folder / "run", "weights")
    assert (code, out) == (0, "weights/encoder.safetensors\n")
    assert "img_size=32" in err
    assert Path("weights/encoder.safetensors").stat().st_size > 0


def test_a_finished_run_is_not_trained_again(trained, engine):
    folder, _ = trained
    code, out, err = engine("run", folder / "tiny.yaml", "--out", folder / "run", "run.seed=3")
    assert (code, out) == (2, "")
    assert "finished" in err


def test_the_first_line_says_why_a_run_is_short(engine, monkeypatch):
    monkeypatch.setattr("vitkiln.engine.train.run", lambda recipe, out, resume: out)
    code, out, err = engine("run", "dilemma", "--out", "here")
    assert (code, out) == (0, "here\n")
    expected = "short run of dilemma, because data.root is not set; data.root=DIR trains the recipe itself\n"
    assert err.startswith(expected)


def test_images_that_a_run_does_not_read_are_told(engine, monkeypatch):
    monkeypatch.setattr("vitkiln.engine.train.run", lambda recipe, out, resume: out)
    _, _, err = engine("run", "dilemma", "--short", "data.root=/imagenet", "--out", "here")
    assert err.splitlines() == [
        "short run of dilemma, because --short was given",
        "data.root=/imagenet: not used, as data.source is fractal; data.source=folder or shards reads it",
    ]
    assert engine("run", "dilemma", "data.root=/imagenet", "--out", "here")[2] == ""


def test_a_folder_given_in_place_of_data_root_is_named_as_it_was_given(engine):
    code, out, err = engine("check-data", "nowhere")
    assert (code, out, err) == (3, "", "DIR: 'nowhere' does not exist; must be the folder of the images\n")


@pytest.fixture
def photos(tmp_path):
    """Two classes of two images, one of them broken."""
    from PIL import Image

    for name in ("cat/1.png", "cat/2.png", "dog/1.png"):
        (tmp_path / "photos" / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 6), "red").save(tmp_path / "photos" / name)
    (tmp_path / "photos" / "dog" / "2.png").write_bytes(b"no image")
    return tmp_path / "photos"


def test_check_data_lists_the_broken_images(engine, photos):
    code, out, err = engine("check-data", photos, "--workers", "0")
    assert code == DataError.code
    assert f"{photos}/dog/2.png: " in out
    *progress, told = err.splitlines()
    assert told == f"{photos}: 1 of 4 images cannot be used"
    assert progress[-1].startswith("4 of 4 images, ")
    (report,) = json.loads(engine("check-data", photos, "--workers", "0", "--json")[1])
    assert (report["images"], report["readable"], len(report["bad"])) == (4, 3, 1)


@pytest.mark.parametrize(
    ("arguments", "code", "seconds"),
    [(["--help"], 0, 4.0), (["list", "kernels"], 0, 4.0), (["run", "dilemma", "data.batchsize=3"], 2, 6.0)],
)
def test_quick_answers_do_not_wait_for_torch(tmp_path, arguments, code, seconds):
    """Ten times what benchmarks/cli measures, for a busy machine; torch alone would take half of it."""
    program = f"""import sys
from vitkiln.engine import cli
code = cli.call({arguments})
sys.exit(code + 100 * ("torch" in sys.modules))"""
    began = time.perf_counter()
    done = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True)
    assert done.returncode == code
    assert time.perf_counter() - began < seconds

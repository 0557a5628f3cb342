"""Recipes: every mistake is told at once, in one line each, with its place and the nearest right thing."""

import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from vitkiln.engine import methods
from vitkiln.engine.errors import RecipeError
from vitkiln.engine.recipe import WITHOUT_INFLUENCE, difference, load, shipped
from vitkiln.engine.settings import Encoder
from vitkiln.engine.settings.sections import kept

TEXT = """\
# a title
method:
  name: dilemma
  keep: 0.5
encoder:
  image_size: 32
  patch_size: 8
  width: 32
  heads: 2
data:
  root: /images
  batch_size: 64
optim:
  lr: 1e-3
run:
  epochs: 10
short:
  data: {source: fractal, batch_size: 8}
  run:
    steps: 3
"""


@pytest.fixture
def written(tmp_path, monkeypatch):
    """Writes a recipe into the working directory, with some text replaced, and gives its name."""
    monkeypatch.chdir(tmp_path)

    def write(*changes):
        text = TEXT
        for old, new in changes:
            assert old in text
            text = text.replace(old, new, 1)
        Path("x.yaml").write_text(text)
        return "x.yaml"

    return write


def message(file, *overrides, **options):
    with pytest.raises(RecipeError) as caught:
        load(file, overrides, **options)
    return str(caught.value)


IN_FILE = [
    (("batch_size: 64", "batchsize: 64"), "x.yaml:12: data.batchsize=64: no such key; did you mean batch_size?"),
    (("lr: 1e-3", "lr: fast"), "x.yaml:14: optim.lr=fast: not a number; for example 1.5e-4"),
    (("lr: 1e-3", "lr: -1"), "x.yaml:14: optim.lr=-1: must be more than 0"),
    (("lr: 1e-3", "lr: .nan"), "x.yaml:14: optim.lr=NaN: must be finite; for example 1.5e-4"),
    (("epochs: 10", "precision: fp16"), "x.yaml:16: run.precision=fp16: must be bf16 or fp32; did you mean bf16?"),
    (("epochs: 10", "compile: on"), "x.yaml:16: run.compile=on: must be true or false; did you mean true?"),
    (("epochs: 10", "compile: No"), "x.yaml:16: run.compile=No: must be true or false; did you mean false?"),
    (("epochs: 10", "compile: 1"), "x.yaml:16: run.compile=1: must be true or false"),
    (("size: 64", "size: 064"), "x.yaml:12: data.batch_size=064: not a whole number; for example 1024"),
    (
        ("size: 64", "size: 1e2"),
        "x.yaml:12: data.batch_size=100: must be written as a whole number, 100; for example 1024",
    ),
    (("/images", "7"), "x.yaml:11: data.root=7: must be text; quote it: '7'"),
    (("lr: 1e-3", "betas: [1, 0.9]"), "x.yaml:14: optim.betas=[1, 0.9]: item 1 must be less than 1"),
    (
        ("lr: 1e-3", "betas: [0.9]"),
        "x.yaml:14: optim.betas=[0.9]: must be a list of 2 numbers; for example [0.9, 0.999]",
    ),
    (
        ("lr: 1e-3", "betas: 0.9"),
        "x.yaml:14: optim.betas=0.9: must be a list of 2 numbers; for example [0.9, 0.999]",
    ),
    (("epochs: 10", "lr: 3"), "x.yaml:16: run.lr=3: no such key; did you mean optim.lr?"),
    (("encoder:", "encodr:"), "x.yaml:5: encodr: no such section; did you mean encoder?"),
    (("keep: 0.5", "keep: 1.5"), "x.yaml:4: method.keep=1.5: must be at most 1"),
    (("keep: 0.5", "keep: 0.01"), "x.yaml:4: method.keep=0.01: keeps none of 16 patches; must be at least 0.0625"),
    (
        ("dilemma", "dilema"),
        f"x.yaml:3: method.name=dilema: must be one of {', '.join(methods.names())}; did you mean dilemma?",
    ),
    (("name: dilemma\n", "\n"), f"x.yaml: method.name: missing; must be one of {', '.join(methods.names())}"),
    (
        ("size: 32", "size: 36"),
        "x.yaml:6: encoder.image_size=36: must be a multiple of encoder.patch_size=8; the nearest is 32",
    ),
    (
        ("width: 32", "width: 33"),
        "x.yaml:8: encoder.width=33: must be a multiple of encoder.heads=2, and of 4 for sin-cos positions; "
        "the nearest is 32",
    ),
    (
        ("width: 32\n  heads: 2", "heads: 5"),
        "x.yaml:8: encoder.heads=5: must divide the width of vit_small, 384; the nearest is 4",
    ),
    (
        ("epochs: 10", "epochs: 10\n  accumulate: 3"),
        "x.yaml:12: data.batch_size=64: must be a multiple of run.accumulate=3; the nearest is 63\n"
        "x.yaml:19: short.data.batch_size=8: must be a multiple of run.accumulate=3; the nearest is 9",
    ),
    (("epochs: 10", "warmup: 5"), "x.yaml:16: run.warmup=5: no such key; there are epochs, steps, minutes, seed, "),
    (("lr: 1e-3", "warmup_epochs: 10"), "x.yaml:14: optim.warmup_epochs=10: must be less than run.epochs=10"),
    (("batch_size: 8", "batchsize: 8"), "x.yaml:18: short.data.batchsize=8: no such key; did you mean batch_size?"),
    (("    steps: 3", "    steps: 0"), "x.yaml:20: short.run.steps=0: must be at least 1"),
    (("  run:\n    steps: 3", "  rum:\n    steps: 3"), "x.yaml:19: short.rum: no such section; did you mean run?"),
    (("optim:\n  lr: 1e-3", "optim: adamw"), "x.yaml:13: optim=adamw: must be a section with some of the keys name, "),
    (
        ("method:\n  name: dilemma\n  keep: 0.5", "method: dilemma"),
        "x.yaml:2: method=dilemma: must be a section; write method: {name: dilemma}",
    ),
    (("/images\n", "/images\n  root: /b\n"), "x.yaml:12: data.root: given a second time; keep one of the two"),
    (("data:\n", "data: [\n"), "x.yaml:12: not YAML: "),
    (("/images", "!!python/name:os.system x"), "x.yaml:11: data.root: could not determine a constructor for the tag"),
    (("run:\n", "name: a/b\nrun:\n"), "x.yaml:15: name=a/b: must match the pattern ^[^/]+$"),
]


@pytest.mark.parametrize(("change", "expected"), IN_FILE, ids=lambda value: str(value)[:40])
def test_a_mistake_in_the_file_is_told_with_its_line(written, change, expected):
    told = message(written(change))
    assert told.startswith(expected) if expected.endswith((" ", "tag")) else told == expected
    assert len(told.splitlines()) == len(expected.splitlines())


OVERRIDES = [
    ("optim.lr=abc", "override optim.lr=abc: not a number; for example 1.5e-4"),
    ("--optim.lr=abc", "override optim.lr=abc: not a number; for example 1.5e-4"),
    ("data.batchsize=3", "override data.batchsize=3: no such key; did you mean batch_size?"),
    ("lr=3", "override lr=3: no such section; did you mean optim.lr?"),
    ("runn.steps=3", "override runn: no such section; did you mean run?"),
    ("run.precision=fp23", "override run.precision=fp23: must be bf16 or fp32; did you mean fp32?"),
    ("run.steps=1.5", "override run.steps=1.5: not a whole number"),
    ("data.max_bad=2", "override data.max_bad=2: must be at most 1"),
    ("~data.rot", "override ~data.rot: no such key; did you mean root?"),
    ("~dada.root", "override ~dada.root: no such section; did you mean data?"),
    ("steps", "override steps: must be key.sub=value, or ~key.sub for the default"),
    ("~run.steps=3", "override ~run.steps=3: must be key.sub=value, or ~key.sub for the default"),
    ("run.steps=[3", "override run.steps=[3: not YAML: expected ',' or ']', but got '<stream end>'; quote the value"),
    ("data.batch_size=1", "override data.batch_size=1: must be at least 2 for dilemma"),
    (
        "run.accumulate=64",
        "override run.accumulate=64: leaves dilemma fewer than 2 images of data.batch_size=64 at a time; "
        "must be at most 32",
    ),
    ("optim.lr=1e999", "override optim.lr=Infinity: must be finite; for example 1.5e-4"),
    ("optim={nme: lars}", "override optim.nme=lars: no such key; did you mean name?"),
    (
        "method.name=nobody.here",
        "override method.name=nobody.here: no module nobody; install it, or set PYTHONPATH to the folder that holds it",
    ),
    (
        "method.name=os.path",
        "override method.name=os.path: the module must hold a class Settings(vitkiln.engine.settings.MethodSettings)",
    ),
    ("method.crop_scale=[0.9, 0.2]", "override method.crop_scale=[0.9, 0.2]: must be two shares of the area, "),
]


@pytest.mark.parametrize(("override", "expected"), OVERRIDES, ids=lambda value: value[:40])
def test_a_mistake_in_an_override_is_told(written, override, expected):
    told = message(written(("    steps: 3", "    epochs: 10"), ("batch_size: 8", "batch_size: 64")), override)
    first = told.splitlines()[0]
    assert first.startswith(expected) if expected.endswith(" ") else first == expected


def test_one_patch_leaves_no_wrong_place(written):
    told = message(written(("image_size: 32", "image_size: 8"), ("keep: 0.5", "keep: 1")))
    assert told == "x.yaml: method.wrong_probability=0.2: an image of one patch has no other place; must be 0"


def test_all_mistakes_are_told_together(written):
    told = message(written(("batch_size: 64", "batchsize: 64"), ("heads: 2", "heads: two")), "optim.lr=abc", "foo")
    assert [line.split(":")[0] for line in told.splitlines()] == [
        "override foo",
        "x.yaml",
        "x.yaml",
        "override optim.lr=abc",
    ]


def test_numbers_may_be_written_as_1e_3(written):
    assert load(written()).optim.lr == 1e-3
    assert load(written(), ["optim.lr=2e-3"]).optim.lr == 2e-3
    assert load(written(), ["optim.lr=2"]).optim.lr == 2.0


def test_no_means_no_in_text_as_well(written):
    assert load(written(("/images", "no"))).data.root == "no"


def test_short_applies_when_no_folder_is_named(written):
    recipe = load(written(("  root: /images\n", "")))
    assert (recipe.data.source, recipe.data.batch_size, recipe.run.steps) == ("fractal", 8, 3)
    assert recipe.short_reason == "data.root is not set"


@pytest.mark.parametrize("override", ["data.root=/images", "data.source=fractal"])
def test_short_does_not_apply_when_the_images_are_known(written, override):
    recipe = load(written(("  root: /images\n", "")), [override])
    assert (recipe.data.batch_size, recipe.run.steps, recipe.short_reason) == (64, None, None)


def test_short_can_be_forced_and_forbidden(written):
    assert load(written(), short=True).run.steps == 3
    assert load(written(("  root: /images\n", "")), short=False).run.steps is None


def test_overrides_win_over_short(written):
    assert load(written(), ["run.steps=9"], short=True).run.steps == 9


def test_a_recipe_without_short_says_what_is_missing(written):
    file = written(("  root: /images\n", ""))
    Path(file).write_text(Path(file).read_text().partition("short:")[0])
    assert message(file) == "x.yaml: data.root is not set, and the recipe has no short: section; set data.root=DIR"


def test_a_tilde_resets_a_key_or_a_section(written):
    assert load(written(), ["~optim.lr"]).optim.lr == 1.5e-4
    assert load(written(), ["~encoder"]).encoder == Encoder()


def test_the_last_override_wins(written):
    assert load(written(), ["run.epochs=3", "run.epochs=4"]).run.epochs == 4


@pytest.mark.parametrize("name", shipped())
@pytest.mark.parametrize("short", [True, False])
def test_a_resolved_recipe_reads_back_equal(tmp_path, name, short):
    recipe = load(name, ["data.root=no"], short)
    (tmp_path / "resolved.yaml").write_text(recipe.to_yaml())
    again = load(tmp_path / "resolved.yaml", short=False)
    assert again == recipe.model_copy(update={"short_reason": None})
    assert difference(recipe, again) == []


@pytest.mark.parametrize("name", shipped())
def test_shipped_recipes_have_their_header_and_a_short_section(name):
    text = (Path(__file__).parents[2] / "recipes" / f"{name}.yaml").read_text()
    header = text.splitlines()[:5]
    starts = ["# ", f"# command: engine run {name}", "# hardware and hours: ", "# expected: ", "# departures: "]
    assert all(line.startswith(start) for line, start in zip(header, starts, strict=True))
    drawn = yaml.safe_load(text)["data"]["source"] == "fractal"  # which needs no folder
    assert load(name).short_reason == (None if drawn else "data.root is not set")
    assert load(name, short=True).short_reason == "--short was given"


def test_the_recipe_of_dilemma_holds_the_published_settings():
    recipe = load("dilemma", ["data.root=/imagenet"])
    assert recipe.encoder.shape == (384, 12, 6)
    assert (recipe.encoder.image_size, recipe.encoder.patch_size, recipe.encoder.position) == (224, 16, "sincos")
    assert recipe.encoder.freeze_patch_embed
    assert (recipe.data.batch_size, recipe.optim.lr, recipe.optim.lr_scale) == (1024, 1.5e-4, 256)
    assert (recipe.optim.weight_decay, recipe.optim.decay_1d, recipe.optim.warmup_epochs) == (0.1, True, 40)
    assert (recipe.run.epochs, recipe.method.temperature, recipe.method.momentum) == (300, 0.2, 0.99)
    assert (recipe.method.keep, recipe.method.wrong_probability, recipe.method.weight) == (0.25, 0.2, 1.0)
    assert kept(recipe.encoder.patches, recipe.method.keep) == 49


@pytest.mark.parametrize("name", methods.names())
def test_every_method_has_a_recipe_of_its_name(name):
    assert load(name).method.name == name


def test_names_that_do_not_exist_are_answered_with_the_nearest(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert message("dilema") == "dilema: no such recipe; did you mean dilemma?"
    assert message("recipes/mocov3.yaml") == "recipes/mocov3.yaml: no such recipe; did you mean mocov3?"
    assert message("zzz") == f"zzz: no such recipe; the shipped ones are {', '.join(shipped())}"
    assert message(".") == ".: a folder; must be a recipe, which is a file of YAML"


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"", "y.yaml: holds no sections; a recipe begins with `method:`"),
        (b"- 1\n", "y.yaml: holds no sections; a recipe begins with `method:`"),
        (b"\xff\xfe\x00", "y.yaml: not YAML: "),
        (b"short: 3\nmethod: {name: dilemma}\n", "y.yaml:1: short: must hold sections, as the recipe does"),
        (b"method: &m\n  name: *m\n", "y.yaml:2: "),
    ],
)
def test_files_that_are_no_recipes_are_refused(tmp_path, monkeypatch, content, expected):
    monkeypatch.chdir(tmp_path)
    Path("y.yaml").write_bytes(content)
    told = message("y.yaml")
    assert told.startswith(expected)
    assert "\n" not in told


def test_differences_name_the_key_and_both_values(written):
    then, now = load(written()), load(written(), ["optim.lr=2e-3", "data.root=null"], short=False)
    assert difference(then, now) == ["data.root: /images then, null now", "optim.lr: 0.001 then, 0.002 now"]


@pytest.mark.parametrize("key", sorted(WITHOUT_INFLUENCE - {"name"}))
def test_keys_without_influence_make_no_difference(written, key):
    section, name = key.split(".")
    value = getattr(getattr(load(written()), section), name)
    other = not value if isinstance(value, bool) else value + 1 if isinstance(value, int) else value / 2
    changed = load(written(), [f"{key}={str(other).lower()}"])
    assert changed != load(written())
    assert difference(load(written()), changed) == []


def test_a_method_of_somebody_else_is_found_by_its_module(written, tmp_path, monkeypatch):
    (tmp_path / "my_lab").mkdir()
    (tmp_path / "my_lab" / "ours.py").write_text(
        "from vitkiln.engine.settings import MethodSettings\n"
        "class Settings(MethodSettings):\n    name: str = 'my_lab.ours'\n    depth: int = 2\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    file = written(("name: dilemma\n  keep: 0.5", "name: my_lab.ours\n  depth: 3"))
    assert load(file).method.depth == 3
    assert message(file, "method.dept=4") == "override method.dept=4: no such key; did you mean depth?"


def test_the_method_section_survives_being_written(written):
    assert yaml.safe_load(load(written()).to_yaml())["method"]["keep"] == 0.5


def test_reading_a_recipe_does_not_load_torch(tmp_path):
    code = "import sys; from vitkiln.engine.recipe import load; load('dilemma'); print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path)
    assert done.stdout == "False\n"

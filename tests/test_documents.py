"""What the documents say is so: commands exist, keys are all there, examples run, links lead somewhere."""

import re
import subprocess
import sys
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import pytest
import typer
import yaml

import vitkiln.kernels
from vitkiln.engine import cli, methods
from vitkiln.engine.errors import EngineError
from vitkiln.engine.recipe import SECTIONS, WITHOUT_INFLUENCE, load, shipped
from vitkiln.engine.settings.strict import shown

ROOT = Path(__file__).parents[1]
DOCUMENTS = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("kernels/*/README.md")])
README, RECIPES = (ROOT / "README.md").read_text(), (ROOT / "docs" / "recipes.md").read_text()


def blocks(document: str, language: str) -> list[str]:
    """Fenced pieces of a document."""
    return re.findall(rf"^```{language}\n(.*?)^```", document, re.MULTILINE | re.DOTALL)


def marked(name: str) -> str:
    """A command as continuous integration extracts it."""
    done = subprocess.run([ROOT / ".ci" / "readme_command", name], capture_output=True, text=True, check=True)
    return done.stdout


@pytest.mark.parametrize("name", ["install", "test", "dali"])
def test_the_two_commands_are_one_line_each(name):
    command = marked(name)
    assert command.count("\n") == 1
    assert f"```bash\n{command}```" in README
    assert subprocess.run(["bash", "-n", "-c", command]).returncode == 0


def test_the_first_command_installs_and_runs():
    parts = marked("install").strip().split(" && ")
    assert parts[0] == "python3 -m venv .venv"
    assert parts[-2:] == ["pip install -e '.[dev]'", "engine run recipes/dilemma.yaml"]
    assert (ROOT / "recipes" / "dilemma.yaml").is_file()


def test_continuous_integration_runs_the_commands_of_the_readme():
    script = (ROOT / ".ci" / "run").read_text()
    assert all(f".ci/readme_command {name}" in script for name in ("install", "test", "dali"))
    assert subprocess.run(["bash", "-n", ROOT / ".ci" / "run"]).returncode == 0


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda file: str(file.relative_to(ROOT)))
def test_engine_commands_in_documents_exist(document):
    group = typer.main.get_command(cli.app)
    for line in "\n".join(blocks(document.read_text(), "bash")).splitlines():
        for verb, rest in re.findall(r"(?:^|&& |engine_ |\d )engine ([a-z-]+)([^#&]*)", line):
            assert verb in group.commands, line
            command = group.commands[verb]
            if hasattr(command, "commands"):
                assert rest.split()[0].split("|")[0] in command.commands, line
                command = command.commands[rest.split()[0].split("|")[0]]
            known = {option for parameter in command.params for option in parameter.opts}
            assert set(re.findall(r"--[a-z-]+", rest)) <= known | {"--debug", "--help"}, line
            for word in rest.split():
                if re.fullmatch(r"\w+\.\w+=\S+", word):
                    load("dilemma", [word])


@pytest.mark.parametrize(
    "document", [README, (ROOT / "docs" / "embedding.md").read_text()], ids=["README", "embedding"]
)
def test_examples_in_python_run_without_the_engine(document, tmp_path):
    examples = blocks(document, "python")
    assert examples
    for example in examples:
        if "import timm" not in example:
            run_example(example, tmp_path)


@pytest.mark.skipif(find_spec("timm") is None, reason="timm is not installed")
def test_the_example_with_timm_runs(tmp_path):
    (example,) = (text for text in blocks((ROOT / "docs" / "embedding.md").read_text(), "python") if "timm" in text)
    prepared = f"import sys; sys.path.append({str(ROOT / 'tests' / 'engine')!r})\n"
    run_example(f"{prepared}import with_timm; with_timm.vision_transformer()\n{example}", tmp_path)


def run_example(example: str, folder: Path) -> None:
    """In a process of its own, without a C++ compiler, and so that nothing of the engine may be loaded."""
    example = example.replace("fullgraph=True", "fullgraph=True, backend='aot_eager'")
    program = f"{example}\nimport sys; assert 'vitkiln.engine' not in sys.modules"
    with_file = folder / "example.py"  # the compiler reads sources
    with_file.write_text(program)
    done = subprocess.run([sys.executable, with_file], cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda file: str(file.relative_to(ROOT)))
def test_links_lead_somewhere(document):
    for target in re.findall(r"\]\(([^)#]+)\)", document.read_text()):
        assert target.startswith("https://") or (document.parent / target).exists(), target


def section_of(title: str) -> str:
    """The text under a heading of docs/recipes.md."""
    return re.split(r"^#{2,3} ", RECIPES.split(f"# {title}\n")[1], maxsplit=1, flags=re.MULTILINE)[0]


def documented(title: str) -> dict[str, str]:
    """Keys and defaults in the table under a heading, none under no heading."""
    if not title:
        return {}
    return dict(re.findall(r"^\| `(\w+)` \| `(.*?)` \|", section_of(title), re.MULTILINE))


@pytest.mark.parametrize("name", SECTIONS)
def test_every_key_of_a_section_is_documented_with_its_default(name):
    fields = SECTIONS[name].model_fields
    assert documented(name) == {key: shown(field.default) for key, field in fields.items()}


@pytest.mark.parametrize("name", methods.names())
def test_every_key_of_a_method_is_documented_with_its_default(name):
    settings = import_module(f"vitkiln.engine.settings.{name}").Settings
    inherited = documented({"dilemma": "mocov3", "fractal": "supervised"}.get(name, ""))
    fields = {key: shown(field.default) for key, field in settings.model_fields.items()}
    assert {**inherited, **documented(name)} == fields


def test_keys_that_may_change_during_a_run_are_documented():
    (line,) = [line for line in RECIPES.splitlines() if line.startswith("A run goes on only")]
    assert set(re.findall(r"`([\w.]+)`", line)) == WITHOUT_INFLUENCE


def test_the_example_of_a_mistake_is_what_the_command_says(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (example,) = re.findall(r"`recipes/dilemma.yaml:\d+: (data.*?)`", RECIPES)
    lines = (ROOT / "recipes" / "dilemma.yaml").read_text().replace("  batch_size: 1024", "  batchsize: 64")
    Path("x.yaml").write_text(lines)
    with pytest.raises(EngineError, match=re.escape(example)):
        load("x.yaml")


def test_every_exit_code_is_in_the_readme():
    codes = {0, 130, EngineError.code, *(error.code for error in EngineError.__subclasses__())}
    assert {int(code) for code in re.findall(r"^\| (\d+) \|", README, re.MULTILINE)} == codes


def test_every_method_recipe_and_kernel_is_in_the_readme():
    assert all(f"recipes/{name}.yaml" in README for name in shipped())
    operators = set(vitkiln.kernels.__all__) - {"use", "uniform"}
    assert (
        operators == set(re.findall(r"`(\w+)`", "".join(re.findall(r"^\| \[.*?\]", README, re.MULTILINE)))) & operators
    )
    assert all(f"`{name}`" in README for name in operators)


def test_the_readme_says_which_operators_have_a_triton_kernel():
    rows = re.findall(r"^\| \[.*\]\((kernels/\w+)/README.md\) \| (yes|no)", README, re.MULTILINE)
    assert rows
    for room, told in rows:
        assert told == ("yes" if (ROOT / room / "kernel.py").exists() else "no"), room


def test_recipes_are_read_alike_by_any_yaml_reader():
    """Ours reads 1e-3 as a number and others may not, so that shipped recipes write 1.0e-3."""
    for name in shipped():
        text = (ROOT / "recipes" / f"{name}.yaml").read_text()
        values = yaml.safe_load(text)
        rates = [values["optim"]["lr"], values["short"].get("optim", {}).get("lr", 1.0)]
        assert all(isinstance(rate, float) for rate in rates), name

"""Who may import whom, and how large things may grow."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FILES = sorted(file.relative_to(ROOT) for room in ("kernels", "engine") for file in (ROOT / room).rglob("*.py"))
NAMES = {file: ".".join(("vitkiln", *file.with_suffix("").parts)).removesuffix(".__init__") for file in FILES}
MODULES = set(NAMES.values())
ENGINE, KERNELS = "vitkiln.engine", "vitkiln.kernels"

# what a place may import of ours besides itself; everything else of ours is forbidden to it
ALLOWED = {
    "engine/vocabulary.py": [],
    "engine/errors.py": [],
    "engine/settings": ["engine.settings", "engine.methods"],  # the latter for names, not for classes
    "engine/recipe.py": ["engine.settings", "engine.errors", "engine.complaints", "engine.recipe_text"],
    "engine/recipe_text.py": ["engine.errors"],
    "engine/complaints.py": ["engine.settings"],
    "engine/schedule.py": [],
    "engine/optim.py": ["engine.settings", "engine.schedule", "engine.errors", "engine.one_pass"],
    "engine/one_pass.py": ["engine.settings", "kernels"],
    "engine/plans.py": ["engine.vocabulary", "kernels"],
    "engine/data": ["engine.data", "engine.vocabulary", "engine.errors", "engine.settings", "kernels"],
}
FORBIDDEN = {
    "kernels": ["engine"],
    "engine/vit.py": ["engine.methods", "engine.data", "engine.train", "engine.recipe"],
    "engine/heads.py": ["engine.methods", "engine.data", "engine.train", "engine.recipe"],
    "engine/methods": ["engine.data", "engine.train", "engine.recipe", "engine.checkpoint", "engine.evaluate"],
    "engine": ["engine.cli"],
}
COMPOSED = {  # rooms that go through the doors of others
    "patch_timm": {"add_layer_norm", "attention"},
    "augment_views": {"crop_views"},  # colours what it may have cut first
}
DECLARED_BASES = {"fractal": {"supervised"}}  # a method that builds on another's class
WITHOUT_TORCH = ["engine/settings", "engine/recipe", "engine/complaints", "engine/catalogue", "engine/errors"]
WITHOUT_TORCH += ["engine/cli.py", "engine/commands", "engine/vocabulary.py", "engine/methods/__init__.py"]
BANNED_NAMES = {"utils", "util", "helpers", "helper", "misc", "common", "base"}


def tree(file: Path) -> ast.Module:
    return ast.parse((ROOT / file).read_text())


def absolute(file: Path, node: ast.ImportFrom) -> str:
    """The module that a `from` names, from the root."""
    if node.level == 0:
        return node.module or ""
    package = NAMES[file].split(".") if file.name == "__init__.py" else NAMES[file].split(".")[:-1]
    return ".".join([*package[: len(package) - node.level + 1], *([node.module] if node.module else [])])


def statements(node: ast.AST, lazily: bool) -> Iterator[ast.AST]:
    """Every statement; without `lazily` only those that run on import, so nothing in functions or for type checkers."""
    for child in ast.iter_child_nodes(node):
        hidden = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef) or (
            isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test)
        )
        yield child
        if lazily or not hidden:
            yield from statements(child, lazily)


def imports(file: Path, lazily: bool = True) -> set[str]:
    """Modules that a file imports; `from package import module` counts as the module."""
    found = set()
    for node in statements(tree(file), lazily):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        if isinstance(node, ast.ImportFrom):
            module = absolute(file, node)
            inner = {f"{module}.{alias.name}" for alias in node.names}
            found |= (inner & MODULES) or {module}
    return found


def within(module: str, place: str) -> bool:
    return module == place or module.startswith(f"{place}.")


def below(file: Path, place: str) -> bool:
    return file.as_posix() == place or file.as_posix().startswith((f"{place}/", f"{place}.", f"{place}_"))


def ours(file: Path) -> set[str]:
    return {module for module in imports(file) if within(module, "vitkiln")}


@pytest.mark.parametrize("place", ALLOWED)
def test_arrows_that_are_drawn(place):
    allowed = [f"vitkiln.{name}" for name in ALLOWED[place]]
    files = [file for file in FILES if file.as_posix() == place or file.as_posix().startswith(f"{place}/")]
    assert files
    wrong = {
        (str(file), module)
        for file in files
        for module in ours(file)
        if not any(within(module, name) for name in allowed)
    }
    assert not wrong


@pytest.mark.parametrize("place", FORBIDDEN)
def test_arrows_that_are_forbidden(place):
    files = [file for file in FILES if file.as_posix() == place or file.as_posix().startswith(f"{place}/")]
    assert files
    wrong = {
        (str(file), module)
        for file in files
        for module in ours(file)
        if any(within(module, f"vitkiln.{name}") for name in FORBIDDEN[place])
    }
    assert not wrong


def is_triton(file: Path) -> bool:
    """A kernel, or what kernels share."""
    return any(within(module, "triton") for module in imports(file))


def reached(start: str) -> dict[str, set[str]]:
    """Modules of ours that run when one is imported, each with what it imports."""
    by_name = {name: file for file, name in NAMES.items()}
    pending, found = [start], {}
    while pending:
        module = pending.pop()
        if module in by_name and module not in found:
            found[module] = imports(by_name[module], lazily=False)
            pending += found[module]
    return found


def test_only_kernels_import_triton():
    theirs = ("kernel.py", "specimens.py", "launch.py")
    wrong = [f for f in FILES if is_triton(f) and not f.name.endswith(theirs) and f.parts[:2] != ("kernels", "_shared")]
    assert not wrong


def test_importing_the_operators_reaches_no_triton():
    modules = reached(KERNELS)
    assert f"{KERNELS}.place_tokens.op" in modules
    assert not {name for name, found in modules.items() if any(within(module, "triton") for module in found)}


def test_a_room_knows_only_the_doors_of_other_rooms():
    """Inside kernels: itself and what rooms share. From outside: the door of kernels or of one room."""
    for file in FILES:
        room = ".".join(("vitkiln", *file.parts[:2]))
        for module in ours(file):
            if not within(module, KERNELS) or module == KERNELS:
                continue
            inside = file.parts[0] == "kernels"
            own = inside and (within(module, room) or within(module, f"{KERNELS}._shared"))
            door = module.count(".") == 2 and not module.endswith("._shared")
            declared = inside and module.split(".")[2] in COMPOSED.get(file.parts[1], set())
            is_the_door_itself = file == Path("kernels/__init__.py")
            assert own or (door and (declared or not inside)) or is_the_door_itself, (str(file), module)


def test_methods_know_no_other_method_but_a_declared_base():
    for file in FILES:
        if file.parent != Path("engine/methods") or file.name == "__init__.py":
            continue
        siblings = {module.split(".")[3] for module in ours(file) if module.count(".") == 3 and ".methods." in module}
        assert siblings <= {"method"} | DECLARED_BASES.get(file.stem, set()), file


def test_core_never_imports_packages_that_may_be_broken():
    for file in FILES:
        assert not {module.split(".")[0] for module in imports(file)} & {"torchvision", "timm", "apex"}, file


def test_optional_packages_are_imported_only_where_they_are_asked_for():
    for file in FILES:
        early = {module.split(".")[0] for module in imports(file, lazily=False)}
        assert not early & {"flash_attn", "flash_attn_interface", "nvidia", "tensorboard", "wandb", "onnx"}, file


def test_whatever_answers_at_once_does_not_import_torch():
    files = [file for file in FILES if any(below(file, place) for place in WITHOUT_TORCH)]
    assert len(files) > len(WITHOUT_TORCH)
    for file in files:
        assert not any(within(module, "torch") for module in imports(file, lazily=False)), file


def test_starting_the_command_reaches_no_torch():
    modules = reached(f"{ENGINE}.cli")
    assert f"{ENGINE}.recipe" in modules
    assert not {name for name, found in modules.items() if any(within(module, "torch") for module in found)}


def functions(file: Path) -> list[ast.FunctionDef]:
    return [node for node in ast.walk(tree(file)) if isinstance(node, ast.FunctionDef)]


def length(node: ast.FunctionDef) -> int:
    """Lines, less those of the docstring: an operator's formula, shapes and example are no reason to cut it up."""
    assert node.end_lineno is not None
    first = node.body[0]
    has_docstring = ast.get_docstring(node) is not None and first.end_lineno is not None
    docstring = first.end_lineno - first.lineno + 1 if has_docstring else 0
    return node.end_lineno - node.lineno + 1 - docstring


@pytest.mark.parametrize("file", FILES, ids=str)
def test_files_stay_short(file):
    assert len((ROOT / file).read_text().splitlines()) <= 400
    assert file.stem not in BANNED_NAMES


@pytest.mark.parametrize("file", FILES, ids=str)
def test_functions_stay_short(file):
    ceiling = 120 if is_triton(file) else 40
    assert {node.name: length(node) for node in functions(file) if length(node) > ceiling} == {}


MANY_PARAMETERS = {
    "engine/data/order.py": {"__init__"},
    "engine/decoder.py": {"__init__"},
    "engine/data/loader.py": {"__init__"},  # keyword-only, each a key of the recipe or of the rank
    "kernels/groups/corrupt.py": {"_corrupt", "_", "corrupt_groups", "in_torch", "in_cpp"},  # an operator's schema
}


@pytest.mark.parametrize("file", FILES, ids=str)
def test_functions_take_few_parameters(file):
    """Seven. Launches of kernels, options of the command line and the schemas of operators are what they must be."""
    if is_triton(file) or file.name in ("op.py", "reference.py") or file.parts[:2] == ("engine", "commands"):
        return
    taken = {
        node.name: len([*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]) for node in functions(file)
    }
    allowed = MANY_PARAMETERS.get(file.as_posix(), set())
    assert {name: count for name, count in taken.items() if count > 7 and name not in allowed} == {}


def test_the_training_step_fits_on_a_screen():
    (step,) = [node for node in functions(Path("engine/train.py")) if node.name == "train_step"]
    assert length(step) <= 25


@pytest.mark.parametrize("file", FILES, ids=str)
def test_every_file_says_why_it_exists(file):
    assert ast.get_docstring(tree(file))


def test_references_stay_as_short_as_their_formula():
    for file in FILES:
        if file.name == "reference.py":
            assert max(length(node) for node in functions(file)) <= 40, file

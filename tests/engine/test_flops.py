"""Operations of an image are those of the model: the figures that papers and data sheets are compared by."""

import pytest
import torch

from vitkiln.engine import methods
from vitkiln.engine.flops import model_flops
from vitkiln.engine.recipe import load
from vitkiln.engine.vocabulary import Batch


def counted(name, *overrides, images=2):
    """By part, in GFLOP, of a recipe at full size but for its depth."""
    recipe = load(name, ["encoder.depth=1", *overrides], short=False)
    method = methods.find(recipe.method.name)(recipe.method.with_data(1000), recipe.encoder)
    views = tuple(torch.zeros(images, view.size, view.size, 3, dtype=torch.uint8) for view in method.views())
    rows = torch.arange(images)
    found = model_flops(method, Batch(views, rows, torch.zeros(2, dtype=torch.int64), rows // 2))
    return {part: flops / 1e9 for part, flops in found.items()}


def at_full_depth(name, *overrides, images=2):
    """Of twelve blocks, each of which costs what the second does."""
    one, two = (counted(name, *overrides, f"encoder.depth={depth}", images=images) for depth in (1, 2))
    return {part: one[part] + 11 * (two[part] - one[part]) for part in one}


@pytest.mark.parametrize(
    ("name", "size", "images", "expected"),
    [
        ("dilemma", "vit_small", 2, 31.92),
        ("dilemma", "vit_base", 2, 122.47),
        ("lacvit", "vit_small", 1, 2 * 27.6),  # two views, dense
        ("lacvit", "vit_base", 1, 2 * 105.4),
        ("dino", "vit_small", 1, 112),  # heads without their prototypes
        ("dino", "vit_base", 1, 434),
        ("mae", "vit_base", 1, 58.2),
    ],
)
def test_a_step_costs_what_arithmetic_says(name, size, images, expected):
    found = at_full_depth(name, f"encoder.name={size}", images=images)
    assert found["total"] == pytest.approx(expected, rel=0.01)


def test_student_sees_a_quarter_and_learns_and_teacher_sees_all_and_does_not():
    found = at_full_depth("dilemma", "encoder.name=vit_small")
    assert found["student"] == pytest.approx(13.190, rel=1e-3)
    assert found["teacher"] == pytest.approx(18.394, rel=1e-3)
    assert found["heads"] == pytest.approx(0.336, rel=2e-3)
    assert found["total"] == pytest.approx(found["student"] + found["teacher"] + found["heads"])


def test_a_class_token_computed_alone_is_no_smaller_model():
    whole, dense = counted("mocov3"), counted("dilemma", "method.keep=1.0")
    assert whole["student"] == pytest.approx(dense["student"], rel=1e-6)


def test_an_image_costs_the_same_in_any_batch():
    assert counted("relvit", images=4) == pytest.approx(counted("relvit", images=2))


def test_what_is_frozen_goes_forward_only():
    frozen, trained = (counted("lacvit_head", f"method.frozen={frozen}") for frozen in ("true", "false"))
    assert trained["student"] == pytest.approx(3 * frozen["student"])
    assert trained["heads"] == frozen["heads"]


def test_what_is_computed_again_counts_once():
    assert counted("lacvit", "method.chunk=2", images=4) == pytest.approx(counted("lacvit", images=4))


def test_counting_leaves_the_method_as_it_was():
    recipe = load("dilemma", ["encoder.depth=1"], short=True)
    method = methods.find("dilemma")(recipe.method, recipe.encoder)
    batch = Batch(
        tuple(torch.zeros(2, view.size, view.size, 3, dtype=torch.uint8) for view in method.views()),
        torch.arange(2),
        torch.zeros(2, dtype=torch.int64),
    )
    before = [{*vars(module)} for module in method.modules()]
    first = model_flops(method, batch)
    assert [{*vars(module)} for module in method.modules()] == before
    assert model_flops(method, batch) == first

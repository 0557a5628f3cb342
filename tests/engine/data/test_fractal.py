"""Pictures of formulas are functions of (seed, index), labelled by their formula."""

import pickle

import numpy as np
import pytest
import torch

from vitkiln.engine.data.fractal import Fractals
from vitkiln.engine.data.fractal_instances import Instances, Shelf, flipped
from vitkiln.engine.data.fractal_points import Points
from vitkiln.engine.data.ifs import HELD_OUT, Formula, read_formulas, shipped, weight_rows, write_formula
from vitkiln.engine.data.loader import Loader
from vitkiln.engine.data.source import BadImage, open_source
from vitkiln.engine.errors import DataError
from vitkiln.engine.settings import Data
from vitkiln.engine.settings.formulas import Formulas
from vitkiln.engine.vocabulary import View

SMALL = Formulas(categories=4, instances=30, fractal_size=64, fractal_points=2000)
STYLES = ["patch_gray", "patch_color", "point_gray", "point_color", "contour_rcdb", "contour_atom"]


@pytest.fixture(scope="module", autouse=True)
def _compiled() -> None:
    """Before a test has a cache of its own, in which there is no compiled operator."""
    opened()


def opened(seed: int = 0, split: str = "train", **changes) -> Fractals:
    return Fractals(SMALL.model_copy(update=changes), seed, split)  # type: ignore[arg-type]


def array(source: Fractals, index: int) -> np.ndarray:
    return np.asarray(source.image(index))


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("render", ["fast", "exact"])
def test_a_picture_is_a_function_of_seed_and_index(style: str, render: str) -> None:
    first = opened(style=style, render=render)
    second = pickle.loads(pickle.dumps(opened(style=style, render=render)))
    backwards = {index: array(second, index) for index in (95, 31, 7)}
    assert all((array(first, index) == backwards[index]).all() for index in (7, 31, 95))
    if not style.startswith("point"):  # points are the formula's alone
        assert (array(opened(seed=1, style=style), 7) != array(first, 7)).any()


@pytest.mark.parametrize("style", STYLES)
def test_a_picture_has_the_colours_of_its_style(style: str) -> None:
    source = opened(style=style)
    image = source.image(31)
    pixels = np.asarray(image)
    assert (image.mode, image.size) == ("RGB", (64, 64))
    grey = bool((pixels == pixels[..., :1]).all())
    assert grey == (not style.endswith("color"))
    if style.endswith("gray"):
        assert set(np.unique(pixels)) == {0, 127}
    if style.endswith("color"):
        assert set(np.unique(pixels)) <= {0, *range(47, 192)}


def test_there_are_instances_of_every_category_and_no_two_alike() -> None:
    source = opened()
    assert len(source) == 120
    assert source.classes == ("00000", "00001", "00002", "00003")
    assert [source.label(index) for index in (0, 29, 30, 119)] == [0, 0, 1, 3]
    assert source.name(33) == "fractal 1/3"
    assert len({array(source, index).tobytes() for index in range(120)}) == 120


def test_labels_are_balanced() -> None:
    source = opened()
    assert np.bincount([source.label(index) for index in range(len(source))]).tolist() == [30] * 4


def test_val_holds_a_quarter_as_many_others_of_variations_that_training_never_sees() -> None:
    train, val = opened(), opened(split="val")
    assert len(val) == 4 * 7
    assert (val.classes, val.name(8), val.label(8)) == (train.classes, "fractal 1/31", 1)
    assert isinstance(train.artist, Instances)
    assert isinstance(val.artist, Instances)
    seen = {row.tobytes() for row in train.artist.weights}
    assert not seen & {row.tobytes() for row in val.artist.weights}


def test_the_source_of_a_recipe_is_this_one() -> None:
    source = open_source(Data(source="fractal", categories=2, instances=3), 0)
    assert isinstance(source, Fractals)
    assert (len(source), source.size) == (6, 96)


def test_the_weights_are_the_published_ones() -> None:
    weights = weight_rows()
    changed = (weights != 1).sum(1)
    assert weights.shape == (25, 6)
    assert sorted(changed) == [0] + [1] * 24
    assert (weights[2] == 1).all()
    assert all(sorted(set(column) - {1.0}) == [0.2, 0.6, 1.4, 1.8] for column in weights.T)
    assert weights[:7, :2].tolist() == [[0.2, 1], [0.6, 1], [1, 1], [1.4, 1], [1.8, 1], [1, 0.2], [1, 0.6]]


def test_held_out_weights_lie_half_way() -> None:
    assert sorted(set(weight_rows(0.4, HELD_OUT)[:, 0])) == [0.4, 0.8, 1.0, 1.2, 1.6]
    assert ((weight_rows(0.4, HELD_OUT) != 1).sum(1) == 1).all()


def test_the_first_instance_is_the_formula_itself() -> None:
    source = opened(instances=1)
    assert isinstance(source.artist, Instances)
    assert (source.artist.weights[source.artist.place(0)[0]] == 1).all()


def test_instances_run_through_variations_then_flips_then_patches() -> None:
    artist = opened().artist
    assert isinstance(artist, Instances)
    assert [artist.place(instance) for instance in (0, 24, 25, 99, 100)] == [
        (0, 0, 0),
        (24, 0, 0),
        (0, 1, 0),
        (24, 3, 0),
        (0, 0, 1),
    ]
    assert len({artist.place(instance) for instance in range(1000)}) == 1000


def test_the_fourth_flip_is_the_picture_turned_by_half() -> None:
    source = opened(instances=100)
    plain, upside_down, mirrored, turned = (array(source, 25 * flip)[..., 0] for flip in range(4))
    assert (turned == np.rot90(plain, 2)).all()
    assert (upside_down == plain[::-1]).all()
    assert (mirrored == plain[:, ::-1]).all()
    assert (plain != turned).any()


def test_flips_undo_themselves() -> None:
    picture = np.arange(9, dtype=np.uint8).reshape(3, 3)
    assert len({flipped(picture, flip).tobytes() for flip in range(4)}) == 4
    assert all((flipped(flipped(picture, flip), flip) == picture).all() for flip in range(4))


def test_fast_pictures_light_about_half_of_what_patches_cover() -> None:
    source = opened(fractal_points=20_000, fractal_size=128)
    artist = source.artist
    assert isinstance(artist, Instances)
    points = artist.points(0, 0)
    covered = np.unpackbits(points.bits).sum()
    lit = np.mean([(artist.picture(0, 0, key) > 0).sum() for key in range(20)])
    assert lit / covered == pytest.approx(256 / 511, abs=0.005)


def test_fast_and_exact_pictures_light_as_much() -> None:
    fast, exact = (opened(fractal_points=20_000, fractal_size=128, render=render) for render in ("fast", "exact"))
    shares = [np.mean([(array(source, 30 * c) > 0).mean() for c in range(4)]) for source in (fast, exact)]
    assert shares[0] == pytest.approx(shares[1], rel=0.05)


# what cannot be shown


HOPELESS = Formula(np.array([[0.5, 0, 0, 0.5, 0.3, 0.1], [99.0, 0, 0, 99.0, 0.2, 0.1]]), np.array([0.5, 0.5]))


def with_formula(formula: Formula, **changes) -> Instances:
    data = SMALL.model_copy(update={"categories": 1, "fractal_points": 4000, **changes})
    return Instances(data, [formula], 0, "train")


def wild(**changes) -> Instances:
    """A formula of which variation 4, a times 1.8, goes to infinity, and variation 16 is nearly blank."""
    return with_formula(shipped()[2], **changes)


def test_variations_that_cannot_be_shown_are_replaced_by_others_and_counted() -> None:
    artist = wild()
    shown = [artist.usable(0, variation, 0) for variation in range(25)]
    assert [variation for variation in range(25) if shown[variation] != variation] == [4, 16]
    assert not {4, 16} & set(shown)
    for instance in range(50):
        artist.draw(0, instance)
    assert artist.replaced == 4
    assert artist.told() == (
        "1 of 25 variations of formulas diverge and 1 are nearly blank: others were drawn in their place"
    )


def test_official_keeps_what_cannot_be_shown() -> None:
    artist = wild(official=True)
    shares = [(artist.draw(0, instance) > 0).mean() for instance in (0, 4, 16)]
    assert artist.replaced == 0
    assert shares[0] > 0.2
    assert max(shares[1:]) < 0.05


def test_a_formula_of_which_nothing_can_be_shown_is_a_bad_image() -> None:
    with pytest.raises(BadImage, match="every variation"):
        with_formula(HOPELESS).draw(0, 0)


def test_another_is_chosen_the_same_whatever_was_drawn_before() -> None:
    first, second = wild(), wild()
    forwards = [first.draw(0, instance) for instance in range(50)]
    backwards = [second.draw(0, instance) for instance in reversed(range(50))][::-1]
    assert all((a == b).all() for a, b in zip(forwards, backwards, strict=True))


# memory


def test_the_shelf_forgets_what_was_used_longest_ago() -> None:
    shelf, made = Shelf(250), []

    def points(key: int) -> Points:
        made.append(key)
        return Points(np.zeros(100, np.uint8), 0, True)

    for key in (1, 2, 1, 3, 1, 2):
        shelf.get((0, key), lambda key=key: points(key))
    assert made == [1, 2, 3, 2]
    assert shelf.used == 200


def test_a_small_cache_changes_no_picture() -> None:
    large, small = opened(), opened()
    assert isinstance(small.artist, Instances)
    small.artist.known.limit = 1
    order = np.random.default_rng(0).permutation(120)[:40].tolist()
    assert all((array(large, index) == array(small, index)).all() for index in order)
    assert len(small.artist.known.kept) == 1


@pytest.mark.parametrize("workers", [0, 2])
def test_workers_change_no_batch_and_tell_what_they_found(workers: int) -> None:
    source = opened()
    view = View(size=32, jitter_probability=0.0, gray=0.0)
    options = {"batch_size": 24, "seed": 3, "device": torch.device("cpu"), "max_bad": 0.0}
    alone, loader = (Loader(s, (view,), workers=w, **options) for s, w in ((opened(), 0), (source, workers)))  # type: ignore[arg-type]
    for _, first, second in zip(range(3), alone, loader, strict=False):
        assert (first.views[0] == second.views[0]).all()
        assert first.labels is not None
        assert (first.labels == second.labels).all()
    loader.close()
    assert isinstance(source.artist, Instances)
    assert source.artist.states.count_nonzero() > 0  # also of what other processes drew


# files


def test_the_shipped_categories_are_those_of_seed_1() -> None:
    found = shipped()
    assert len(found) == 64
    assert len(found[0].maps) == 5
    assert found[0].maps[0, :2].tolist() == [0.17242232431712345, -0.731175606078728]
    assert found[0].probabilities[0] == 0.14141343070134194


def test_a_formula_is_read_as_it_was_written(tmp_path) -> None:
    write_formula(tmp_path / "00000.csv", shipped()[3])
    (found,) = read_formulas(str(tmp_path), 1)
    assert (found.maps == shipped()[3].maps).all()
    assert (found.probabilities == shipped()[3].probabilities).all()


def test_categories_may_come_from_a_folder(tmp_path) -> None:
    for place, formula in enumerate(shipped()[:4]):
        write_formula(tmp_path / f"{3 - place:05d}.csv", formula)
    there, shipped_ones = opened(categories_root=str(tmp_path)), opened(style="point_gray")
    other = opened(categories_root=str(tmp_path), style="point_gray")
    assert len(there) == 120
    assert (array(other, 0) == array(shipped_ones, 90)).all()


GOOD = "0.5,0,0,0.5,0,0,"


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "00000.csv: no map; must hold a row a,b,c,d,e,f,p for each"),
        (f"{GOOD}0.5\n{GOOD}0.4\n", "00000.csv: probabilities 0.4 and more, 0.9 together; the last column must not"),
        (f"{GOOD}1.5\n{GOOD}-0.5\n", "00000.csv: probabilities -0.5 and more, 1 together"),
        ("0.5,0,0,0.5,0,1\n", "00000.csv line 1: 6 columns; must be the seven a,b,c,d,e,f,p"),
        (f"{GOOD}0.5\n0.5,0,nan,0.5,0,0,0.5\n", "00000.csv line 2: 'nan'; must be a finite number"),
        (f"{GOOD}x\n", "00000.csv line 1: 'x'; must be a finite number"),
    ],
)
def test_a_file_that_holds_no_formula_is_refused(tmp_path, text, complaint) -> None:
    (tmp_path / "00000.csv").write_text(text)
    with pytest.raises(DataError) as error:
        opened(categories=1, categories_root=str(tmp_path))
    assert complaint in str(error.value)
    assert "\n" not in str(error.value)


def test_a_folder_with_too_few_formulas_is_refused(tmp_path) -> None:
    write_formula(tmp_path / "00000.csv", shipped()[0])
    with pytest.raises(DataError, match=r"data\.categories: 4; .* holds 1 files"):
        opened(categories_root=str(tmp_path))
    with pytest.raises(DataError, match=r"does not exist; must be a folder of 00000\.csv"):
        opened(categories_root=str(tmp_path / "nowhere"))


@pytest.mark.parametrize(
    ("values", "complaint"),
    [
        ({"style": "contour_atom", "categories_root": "/x"}, "categories_root=/x: style=contour_atom makes its own"),
        ({"fractal_size": 0}, "greater than or equal to 16"),
        ({"fractal_points": 0}, "greater than or equal to 100"),
        ({"variation": 0.6}, "less than or equal to 0.5"),
    ],
)
def test_settings_that_cannot_be_are_refused(values, complaint) -> None:
    with pytest.raises(ValueError, match=complaint):
        Formulas(**values)

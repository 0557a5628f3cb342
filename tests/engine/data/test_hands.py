"""Which hand a run takes, and the word for it."""

from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

from vitkiln.engine.data.dali import Dali
from vitkiln.engine.data.hands import Pillow, Torchvision, choice, hand
from vitkiln.engine.data.source import Source, open_source
from vitkiln.engine.errors import MissingBackend, RecipeError
from vitkiln.engine.settings import Data
from vitkiln.engine.vocabulary import View

from .conftest import picture

CPU, GPU = torch.device("cpu"), torch.device("cuda", 0)
VIEWS = (View(size=8),)
installed = find_spec("nvidia") is not None and find_spec("nvidia.dali") is not None


@pytest.fixture
def files(pictures: Callable[..., Path]) -> Source:
    found = open_source(Data(root=str(pictures())), 0)
    assert found is not None
    return found


@pytest.fixture
def drawn() -> Source:
    found = open_source(Data(source="fractal", categories=2, instances=2), 0)
    assert found is not None
    return found


def test_auto_is_pillow_without_a_gpu(files: Source) -> None:
    assert choice("auto", files, CPU) == ("pillow", "auto: there is no GPU")


def test_auto_is_pillow_for_pictures_that_are_drawn(drawn: Source) -> None:
    assert choice("auto", drawn, GPU) == ("pillow", "auto: pictures are drawn, not decoded")


def test_auto_is_pillow_where_dali_would_leave_most_images_to_it(tmp_path: Path) -> None:
    for number in range(5):
        picture(number).save(tmp_path / f"{number}.{'jpg' if number < 2 else 'png'}")
    source = open_source(Data(root=str(tmp_path)), 0)
    assert source is not None
    assert choice("auto", source, GPU)[1] == "auto: most images are no JPEGs, which is all that DALI would decode"


@pytest.mark.skipif(installed, reason="DALI is installed")
def test_auto_is_pillow_without_dali(files: Source) -> None:
    assert choice("auto", files, GPU) == ("pillow", "auto: nvidia-dali is not installed; pip install 'vitkiln[dali]'")


@pytest.mark.skipif(installed, reason="DALI is installed")
def test_dali_that_is_missing_is_told_with_what_to_install(files: Source) -> None:
    with pytest.raises(MissingBackend, match=r"data\.loader=dali: .*pip install 'vitkiln\[dali\]'"):
        choice("dali", files, CPU)


@pytest.mark.skipif(not installed or torch.cuda.is_available(), reason="needs DALI and no GPU")
def test_a_gpu_on_which_dali_fails_is_left_to_pillow_with_the_reason(files: Source) -> None:
    name, why = choice("auto", files, GPU)
    assert name == "pillow"
    assert why.startswith("auto: DALI does not work here: ")
    assert "\n" not in why
    with pytest.raises(MissingBackend, match=r"data\.loader=dali: DALI does not work here: .*; see `engine doctor`"):
        choice("dali", files, GPU)


@pytest.mark.skipif(not installed, reason="DALI is not installed")
def test_dali_is_taken_on_a_cpu_where_it_is_asked_for(files: Source) -> None:
    assert choice("dali", files, CPU) == ("dali", "asked for")


@pytest.mark.gpu
@pytest.mark.skipif(not installed, reason="DALI is not installed")
def test_auto_is_dali_on_a_gpu(files: Source) -> None:
    assert choice("auto", files, GPU) == ("dali", "auto: DALI decodes on the GPU")


@pytest.mark.parametrize("wish", ["dali", "torchvision"])
def test_a_decoder_for_pictures_that_are_drawn_is_refused(drawn: Source, wish: str) -> None:
    with pytest.raises(RecipeError, match=rf"data\.loader={wish}: .* must be auto or pillow"):
        choice(wish, drawn, CPU)


@pytest.mark.parametrize(("name", "kind"), [("pillow", Pillow), ("torchvision", Torchvision), ("dali", Dali)])
def test_a_hand_is_found_by_its_name(files: Source, name: str, kind: type) -> None:
    assert type(hand(name, files, VIEWS, 0)) is kind

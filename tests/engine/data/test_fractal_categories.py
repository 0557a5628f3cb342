"""Categories beyond the shipped ones: searched for once, kept, and the same for everyone who asks."""

import subprocess
import sys

import pytest

from vitkiln.engine.data import fractal_categories
from vitkiln.engine.data.fractal_categories import formulas, searched
from vitkiln.engine.data.ifs import shipped
from vitkiln.engine.errors import DataError
from vitkiln.engine.settings.formulas import Formulas

MORE = len(shipped()) + 2


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    """What two processes at once found, and the cache that they share."""
    home = tmp_path_factory.mktemp("home")
    program = f"from vitkiln.engine.data.fractal_categories import searched; print(len(searched({MORE})))"
    command = ["env", f"XDG_CACHE_HOME={home}", sys.executable, "-c", program]
    runs = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    assert [(run.communicate()[0], run.returncode) for run in runs] == [(f"{MORE}\n", 0)] * 2
    return home


def test_more_than_the_shipped_are_found_by_the_same_search(kept, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(kept))
    found = formulas(Formulas(categories=MORE))
    assert len(found) == MORE
    for one, other in zip(found, shipped(), strict=False):
        assert (one.maps == other.maps).all()
        assert (one.probabilities == other.probabilities).all()


def test_what_is_kept_is_not_searched_for_again(kept, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(kept))
    monkeypatch.setattr(fractal_categories, "search", lambda *_: pytest.fail("searched again"))
    assert len(searched(MORE)) == MORE
    assert len(searched(MORE - 1)) == MORE - 1


def test_a_cache_that_cannot_be_written_is_one_line_that_names_the_way_out(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    with pytest.raises(DataError, match=r"cannot keep 66 categories .*XDG_CACHE_HOME, or data\.categories_root"):
        searched(MORE)

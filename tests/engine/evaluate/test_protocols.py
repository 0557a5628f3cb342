"""The command over all protocols: what it prints, what it keeps, and what it refuses."""

import json
import shutil

import pytest

from vitkiln.engine import cli
from vitkiln.engine.evaluate import READ, evaluate

QUIET = ("--workers", "0", "--device", "cpu")


@pytest.fixture
def engine(capsys):
    def call(*arguments):
        code = cli.call([str(argument) for argument in arguments])
        return code, *capsys.readouterr()

    return call


@pytest.fixture
def mine(checkpoint, tmp_path):
    """A copy of the run folder to write into."""
    shutil.copytree(checkpoint, tmp_path / "run")
    return tmp_path / "run"


@pytest.mark.parametrize("protocol", ["knn", "linear", "isotropy"])
def test_figures_are_printed_for_programs_and_kept_in_the_run_folder(engine, mine, photos, protocol):
    more = ("--epochs", "2") if protocol == "linear" else ()
    arguments = ("eval", mine, "--data", photos, "--protocol", protocol, "--json", *more, *QUIET)
    for times in (1, 2):
        code, out, _ = engine(*arguments)
        kept = json.loads((mine / f"evaluation-{protocol}.json").read_text())
        assert (code, len(kept)) == (0, times)
        assert {key: value for key, value in kept[-1].items() if key != "date"} == json.loads(out)


def test_the_result_of_the_end_of_a_run_is_kept(engine, mine, photos):
    (mine / "evaluation.json").write_text('{"top1": 1}')
    (mine / "evaluation-knn.json").write_text('{"top1": 2}')
    assert engine("eval", mine / "checkpoints" / "step-0000001", "--data", photos, *QUIET)[0] == 0
    assert json.loads((mine / "evaluation.json").read_text()) == {"top1": 1}
    assert json.loads((mine / "evaluation-knn.json").read_text())[0] == {"top1": 2}


def test_a_file_that_is_not_ours_is_not_replaced(engine, mine, photos):
    (mine / "evaluation-knn.json").write_text("my notes")
    code, _, err = engine("eval", mine, "--data", photos, *QUIET)
    assert code == 0
    assert "the result is not kept in the run folder: " in err
    assert (mine / "evaluation-knn.json").read_text() == "my notes"


def test_a_checkpoint_outside_a_run_folder_is_evaluated_all_the_same(engine, mine, photos, tmp_path):
    shutil.move(mine / "checkpoints" / "step-0000001", tmp_path / "alone")
    assert engine("eval", tmp_path / "alone", "--data", photos, *QUIET)[0] == 0
    assert not list(tmp_path.glob("evaluation*"))


def test_people_see_a_table_of_figures_and_one_of_rates(engine, mine, photos):
    _, out, err = engine("eval", mine, "--data", photos, "--protocol", "linear", "--epochs", "2", *QUIET)
    lines = [line.split() for line in out.splitlines()]
    assert ["variant", "mocov3"] in lines
    assert ["factor", "rate", "weight_decay", "held_best", "held_last", "best", "best_epoch", "last"] in lines
    assert "4 of 4 epochs" in err


def test_nearest_neighbours_of_a_masked_autoencoder_are_told_by_the_patches_too(patchwise, photos):
    found = evaluate(patchwise, photos, "knn", workers=0, device="cpu")
    assert set(found["top1"]) == set(found["top1_mean"]) == {"k10", "k20"}
    assert found["top1"]["k10"] == 100.0


def test_embed_writes_the_file_that_it_says(engine, mine, photos, tmp_path):
    code, out, _ = engine("embed", mine, tmp_path / "a.npy", "--data", photos, "--features", "mean", *QUIET)
    assert (code, out) == (0, f"{tmp_path / 'a.npy'}\n")
    told = json.loads(engine("embed", mine, tmp_path / "b.npy", "--data", photos, "--json", *QUIET)[1])
    assert told == {"file": str(tmp_path / "b.npy"), "bytes": (tmp_path / "b.npy").stat().st_size}


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["--protocol", "liner"], "--protocol liner: unknown; did you mean linear?"),
        (["--protocol", "zzz"], "--protocol zzz: unknown; must be one of knn, linear, isotropy, top1, finetune"),
        (["--variant", "mae"], "--variant: --protocol knn does not read it, only linear"),
        (["optim.lr=1"], "KEY=VALUE: --protocol knn does not read it, only finetune"),
        (["--protocol", "isotropy", "--half"], "--half: --protocol isotropy does not read it, only linear"),
        (
            ["--protocol", "finetune", "--batch-size", "3"],
            "--batch-size: --protocol finetune does not read it, only knn, linear, isotropy, top1",
        ),
    ],
)
def test_what_would_do_nothing_is_refused_in_one_line(engine, checkpoint, photos, arguments, text):
    assert engine("eval", checkpoint, "--data", photos, *arguments) == (2, "", text + "\n")


@pytest.mark.parametrize("protocol", ["knn", "linear", "top1"])
def test_labels_are_needed_and_more_than_one(engine, checkpoint, photos, tmp_path, protocol):
    flat = photos / "train" / "red"
    code, out, err = engine("eval", checkpoint, "--data", flat, "--protocol", protocol)
    assert (code, out) == (3, "")
    assert err == f"--data {flat}: no classes here; --protocol {protocol} needs a folder for each class\n"
    shutil.copytree(flat, tmp_path / "one" / "red")
    code, _, err = engine("eval", checkpoint, "--data", tmp_path / "one", "--protocol", protocol)
    assert code == 3
    assert err == f"--data {tmp_path / 'one'}: one class, red; --protocol {protocol} needs two or more\n"


def test_an_option_that_no_protocol_knows_is_our_own_mistake(checkpoint):
    with pytest.raises(TypeError, match="colour: no option of a protocol"):
        evaluate(checkpoint, None, colour="red")


def test_finetune_is_handed_its_overrides_and_folder(checkpoint, photos, monkeypatch, tmp_path):
    from vitkiln.engine.evaluate import finetune

    given = []
    monkeypatch.setattr(finetune, "evaluate", lambda *arguments: given.append(arguments) or {"protocol": "finetune"})
    evaluate(checkpoint, photos, "finetune", overrides=["run.steps=2"], out=tmp_path)
    assert given == [(checkpoint, photos, ("run.steps=2",), tmp_path)]


def test_every_protocol_has_a_module():
    from importlib import import_module

    for protocol in READ:
        assert callable(import_module(f"vitkiln.engine.evaluate.{protocol}").evaluate)

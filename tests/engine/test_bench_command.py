"""`engine bench` on the command line: what it prints, where it says it, and with which exit code."""

import json

import pytest
from PIL import Image
from rich.console import Console

from vitkiln.engine import cli
from vitkiln.engine.bench import measurement, table
from vitkiln.engine.bench.table import number
from vitkiln.engine.commands import bench as command

TINY = """\
method: {name: dilemma, keep: 0.5, hidden: 32, output: 16}
encoder: {image_size: 32, patch_size: 8, width: 32, depth: 1, heads: 2}
data: {source: fractal, categories: 4, instances: 4, fractal_size: 32, fractal_points: 300, batch_size: 8, workers: 0}
run: {precision: fp32, device: cpu}
short: {run: {steps: 2}}
"""
QUICK = ("--steps", "1", "--seconds", "0.1")


@pytest.fixture
def engine(capsys, monkeypatch, tmp_path):
    """Calls the command in a folder that holds a recipe: (exit code, stdout, stderr)."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tiny.yaml").write_text(TINY)

    def call(*arguments):
        code = cli.call(["bench", *map(str, arguments)])
        return code, *capsys.readouterr()

    return call


def test_a_table_is_narrow_enough_for_any_terminal_and_says_what_limits(engine):
    code, out, err = engine("tiny.yaml", *QUICK)
    assert code == 0, err
    *table_lines, limit = out.splitlines()
    assert max(map(len, table_lines)) <= 80
    assert limit.startswith("limit: ")
    for row in (
        "data alone",
        "model alone",
        "both together",
        "draw",
        "colour",
        "student",
        "teacher",
        "backward",
        "sum",
    ):
        assert any(line.startswith(row) for line in table_lines), row
    assert "MFU n/a" in out


def test_json_holds_the_same_and_progress_goes_elsewhere(engine):
    code, out, err = engine("tiny.yaml", *QUICK, "--json")
    found = json.loads(out)
    assert code == 0
    assert [*found["rates"]] == ["data", "model", "all"]
    assert found["sum_ms"] == pytest.approx(sum(found["parts_ms"].values()))
    assert (found["name"], found["short"], found["batch_size"]) == ("tiny", None, 8)
    assert "model alone" in err


def test_nothing_is_written_unless_it_is_asked_for(engine, tmp_path):
    assert engine("tiny.yaml", *QUICK, "--parts", "model")[0] == 0
    assert [file.name for file in tmp_path.iterdir()] == ["tiny.yaml"]


def test_a_record_is_a_line_more_in_the_file_that_is_named(engine, tmp_path):
    for size in (4, 8):
        code, _, err = engine("tiny.yaml", f"data.batch_size={size}", *QUICK, "--parts", "model", "--record", "r.jsonl")
        assert code == 0
        assert "appended to r.jsonl" in err
    lines = [json.loads(line) for line in (tmp_path / "r.jsonl").read_text().splitlines()]
    assert [line["batch_size"] for line in lines] == [4, 8]
    assert lines[0]["config_sha"] != lines[1]["config_sha"]
    assert {"environment", "command", "load", "rates"} <= {*lines[0]}


def test_a_record_without_a_name_goes_where_records_are_kept(engine, monkeypatch, tmp_path):
    monkeypatch.setattr(command, "ROOT", tmp_path)
    assert engine("--record", "tiny.yaml", *QUICK, "--parts", "model")[0] == 0
    assert (tmp_path / "bench.jsonl").read_text().count("\n") == 1
    (tmp_path / "benchmarks" / "records").mkdir(parents=True)
    assert engine("tiny.yaml", *QUICK, "--parts", "model", "--record")[0] == 0
    assert (tmp_path / "benchmarks" / "records" / "bench.jsonl").read_text().count("\n") == 1


def test_a_trace_is_one_of_the_training_step(engine, tmp_path):
    code, _, err = engine("tiny.yaml", *QUICK, "--parts", "model", "--trace", "trace.json")
    assert code == 0, err
    events = json.loads((tmp_path / "trace.json").read_text())["traceEvents"]
    assert any("Backward" in event.get("name", "") for event in events)


def test_batches_are_rows(engine):
    code, out, _ = engine("tiny.yaml", *QUICK, "--batch", "8,4,64", "--parts", "model")
    assert code == 0
    rows = [line.split() for line in out.splitlines()[-4:-1]]
    assert [row[0] for row in rows] == ["4", "8", "64"]
    assert "more than the 16 images" in out
    assert "part of a step" not in out


def test_hands_are_rows_with_their_ratio(engine):
    code, out, _ = engine("tiny.yaml", *QUICK, "--compare", "vitkiln,eager")
    assert code == 0
    eager, ours = (line.split() for line in out.splitlines()[-2:])
    assert (eager[0], ours[0]) == ("eager", "vitkiln")
    assert "1.00" in eager
    assert "DIFFERS" not in out


def test_a_ratio_is_not_shown_where_the_loss_differs():
    speed = {"median": 1.0, "p20": 1.0, "p80": 1.0}
    row = {"by": "x", "images_per_second": speed, "step_ms": speed, "ratio": 9.75, "loss": 1.0, "loss_apart": 0.5}
    assert "9.75" in table.comparison_line({**row, "parity": True})
    marked = table.comparison_line({**row, "parity": False})
    assert "9.75" not in marked
    assert "DIFFERS by 0.5" in marked


def test_a_cpu_is_not_searched_for_the_largest_batch(engine):
    code, out, err = engine("tiny.yaml", "--find-batch", "--batch", "8")
    assert (code, out) == (4, "")
    assert err.startswith("--find-batch: needs a GPU; ")  # at once, before anything is measured


def test_why_no_batch_fits_is_never_cut_short(capsys):
    rows = table.largest({"largest_batch": {"batch": None, "why": "no micro-batch fits, not even one of 64"}})
    Console(width=40).print(table.table(rows))
    assert " ".join(capsys.readouterr().out.split()).endswith("- no micro-batch fits, not even one of 64")


def test_without_data_it_is_the_short_form_and_that_is_said(engine, tmp_path):
    (tmp_path / "whole.yaml").write_text(
        TINY.replace("source: fractal", "source: folder").replace("{steps: 2}}", "{steps: 2}, data: {source: fractal}}")
    )
    code, out, err = engine("whole.yaml", *QUICK, "--parts", "model")
    assert code == 0
    assert "short form of whole, because data.root is not set" in err
    assert "whole, short form" in out


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("--parts", "modl"), "--parts modl: 'modl' must be one of data, model, all; did you mean model?"),
        (("--compare", "eager"), "--compare eager: must be two or three of eager, compile, vitkiln"),
        (("--compare", "eager,compiled"), "'compiled' must be one of eager, compile, vitkiln; did you mean compile?"),
        (("--batch", "64,many"), "--batch 64,many: 'many' must be a number of images, as in --batch 64,128,256"),
        (("--batch", "0"), "--batch 0: '0' must be a number of images"),
        (("--batch", "7", "run.accumulate=2"), "data.batch_size=7: must be a multiple of run.accumulate=2"),
        (("--steps", "0"), "--steps"),
        (("--trase", "t.json"), "no such option --trase; did you mean --trace?"),
        (("--record", "r.txt"), "r.txt: must be key.sub=value; the file of --record is named *.jsonl"),
        (("--parts", "data", "--compare", "eager,vitkiln"), "--parts data: would do nothing, as --compare"),
        (("--parts", "data", "--find-batch"), "--parts data: would do nothing, as --compare and --find-batch"),
        (("--trace", "nowhere/t.json"), "--trace nowhere/t.json: there is no folder nowhere"),
        (("--record", "nowhere/r.jsonl"), "--record nowhere/r.jsonl: there is no folder nowhere"),
        (("data.batchsize=4",), "did you mean batch_size?"),
    ],
)
def test_a_mistake_is_one_line_and_two(engine, arguments, told):
    code, out, err = engine("tiny.yaml", *arguments)
    assert (code, out) == (2, "")
    assert told in err
    assert len(err.splitlines()) == 1


def test_several_ranks_are_refused(engine, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    code, _, err = engine("tiny.yaml")
    assert code == 2
    assert "one process" in err


def test_images_that_are_not_there_are_three(engine):
    assert engine("tiny.yaml", "data.source=folder", "data.root=nowhere")[0] == 3


def test_too_little_memory_is_six_with_what_needs_less(engine, monkeypatch):
    def crowded(subject, patience):
        raise MemoryError

    monkeypatch.setattr("vitkiln.engine.bench.model.model", crowded)
    code, _, err = engine("tiny.yaml", *QUICK, "--parts", "model")
    assert code == 6
    assert "run.accumulate=2" in err


def test_pictures_of_a_folder_are_decoded_and_their_files_counted(engine, tmp_path):
    for n in range(8):
        (tmp_path / "pictures" / str(n % 2)).mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (40, 40), (n, 90, 0)).save(tmp_path / "pictures" / str(n % 2) / f"{n}.jpg")
    code, out, err = engine("tiny.yaml", "data.source=folder", "data.root=pictures", *QUICK)
    assert code == 0, err
    assert "\ndecode " in out
    assert "bytes of an image's file" in out


def test_a_limit_names_the_data_when_steps_wait_for_them():
    rates = {"all": {"data_wait": 0.5}}
    assert measurement.limit({"rates": rates, "advice": "steps wait"}) == "steps wait"


def test_a_limit_tells_the_largest_part_and_how_data_compare():
    reached = {"data": 300, "model": 100, "all": 60}
    rates = {name: {"images_per_second": {"median": rate}} for name, rate in reached.items()}
    told = measurement.limit({"rates": rates, "advice": None, "parts_ms": {"student": 1.0, "backward": 3.0}})
    assert told.startswith("the model, most of all backward, 75%; data alone are 3.0 times as fast; with them")
    assert "60%" in told


@pytest.mark.parametrize(
    ("value", "text"), [(0.0, "0"), (0.123456, "0.123"), (999.4, "999"), (999.7, "1,000"), (12345.6, "12,346")]
)
def test_figures_have_three_digits(value, text):
    assert number(value) == text

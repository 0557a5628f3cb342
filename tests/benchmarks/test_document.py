"""docs/benchmarks.md says what the records say, and of what nobody measured that nobody did."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PROGRAM = "import sys; from pathlib import Path; from benchmarks.document import document; "
LINE = {
    "schema": 1,
    "mode": "forward",
    "unit": "ms",
    "n": 20,
    "dtype": "bfloat16",
    "difference": 0.001,
    "gpu": "NVIDIA X",
}
LINE |= {"driver": "1", "torch": "2", "triton": "3", "commit": "abc", "time": "now", "peak_mem_bytes": 2**21}


def made(records):
    """The document of a folder of records."""
    code = f"{PROGRAM}sys.stdout.write(document(Path(sys.argv[1]), Path(sys.argv[2])))"
    command = [sys.executable, "-c", code, records, ROOT / "benchmarks" / "kernels" / "resources.json"]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout


def measured(name, provider, median, shape, **more):
    times = {"median": median, "p20": median, "p80": median, "roofline": 0.5}
    return {**LINE, "suite": name, "name": name, "provider": provider, "shape": shape, **times, **more}


@pytest.fixture
def records(tmp_path):
    """Writes lines, and gives the rows of the document by their first cells."""

    def write(*lines, name="gpu.jsonl"):
        (tmp_path / name).write_text("".join(json.dumps(line) + "\n" for line in lines))
        return [
            [cell.strip() for cell in row.split("|")[1:-1]] for row in made(tmp_path).splitlines() if row[:1] == "|"
        ]

    return write


def test_the_committed_file_is_what_the_generator_gives():
    written = (ROOT / "docs" / "benchmarks.md").read_text()
    assert written == made(ROOT / "benchmarks" / "records"), "run python -m benchmarks.document"


def test_without_a_record_every_goal_is_not_measured(tmp_path):
    rows = [row for row in made(tmp_path).splitlines() if row.startswith("| any ")]
    assert len(rows) > 20
    assert all(row.endswith("| not measured |  |  |  |") for row in rows)


def test_a_goal_is_judged_by_the_worst_shape_and_the_newest_line(records):
    sizes = {"N": 50, "H": 6}, {"N": 50, "H": 12}
    lines = [measured("attention", "torch flash", 3.0, shape) for shape in sizes]
    lines += [measured("attention", "ours", 9.0, sizes[0]), measured("attention", "ours", 1.0, sizes[0])]
    lines += [measured("attention", "ours", 2.0, sizes[1])]
    rows = records(*lines)
    assert [
        "NVIDIA X",
        "attention, 50 tokens",
        "at least 2 times FlashAttention 2",
        "1.5 x",
        "0.75",
        "1.50",
        "50%",
    ] in rows
    assert ["NVIDIA X", "sample_tokens, 1,024 images", "at most 8 us", "not measured", "", "", ""] in rows


def test_a_time_below_its_goal_is_a_ratio_above_one(records):
    rows = records(measured("sample_tokens", "ours", 0.004, {"B": 1024}))
    assert ["NVIDIA X", "sample_tokens, 1,024 images", "at most 8 us", "4 us", "2.00", "", "50%"] in rows


def test_images_a_second_come_from_the_faster_of_our_steps(records):
    shape = {"B": 1024, "D": 384}
    medians = {"compiled plain blocks": 150.0, "ours": 120.0, "ours, blocks compiled": 100.0}
    rows = records(*(measured("dilemma step", name, median, shape) for name, median in medians.items()))
    assert [
        "NVIDIA X",
        "DILEMMA ViT-S/16, one H200",
        "floor: 11,000 images/s",
        "10240 images/s",
        "0.93",
        "1.25",
        "50%",
    ] in rows
    assert [
        "NVIDIA X",
        "DILEMMA ViT-S/16",
        "at least 1.45 times compiled plain blocks",
        "1.5 x",
        "1.03",
        "1.25",
        "50%",
    ] in rows


def test_a_goal_stands_beside_compiled_code_and_the_limit(records):
    shape = {"T": 51_200, "D": 384, "F": 1536}
    medians = {"eager": 4.0, "compiled": 3.0, "ours": 2.0, "bare product": 2.2}
    rows = records(*(measured("linear_gelu", name, median, shape) for name, median in medians.items()))
    wanted = ["NVIDIA X", "linear_gelu, forward", "at most 1.05 times the bare product"]
    assert [*wanted, "1.1 x", "1.16", "1.50", "50%"] in rows


def test_images_a_second_are_in_the_table_of_measurements(records):
    rows = records(measured("decode", "pillow", 2.0, {"B": 256}, images_per_second=128_000.0))
    assert ["decode", "forward", "B=256", "pillow", "2 (2 to 2)", "128000", "50%", "2", "0.001"] in rows


def test_a_failure_is_told_until_it_is_measured(records):
    failed = {**LINE, "suite": "a", "name": "copy", "provider": "torch", "shape": {"bytes": 1}, "error": "no more"}
    told = ["copy", "forward", "bytes=1", "torch", "no more"]
    assert told in records(failed)
    assert told not in records(failed, measured("copy", "torch", 1.0, {"bytes": 1}))


def test_records_of_a_cpu_are_shown_with_what_they_ran_on(records):
    environment = {"device": "cpu", "cpu": "Any 1", "threads": 2, "commit": "abc", "packages": {"torch": "2.13"}}
    record = {"suite": "x", "name": "loading", "rate": 12.5, "parts": {"a": [1, 2]}, "epochs": [{"loss": 1.5}]}
    rows = records({**record, "environment": environment}, name="loader.jsonl")
    assert ["rate", "12.5"] in rows
    assert ["parts: a", "1, 2"] in rows
    assert ["1.5"] in rows


def test_every_compiled_kernel_has_a_row(tmp_path):
    recorded = json.loads((ROOT / "benchmarks" / "kernels" / "resources.json").read_text())
    kernels = {key.rpartition(" sm_")[0] for key in recorded[max(recorded)]}
    text = made(tmp_path)
    assert all(f"\n| {name} | " in text for name in kernels)

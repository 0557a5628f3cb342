"""The doctor tells packages apart by what lies in them, and never imports one in hope."""

import json
import subprocess
import sys

import pytest

from vitkiln.engine import cli, doctor


@pytest.fixture
def packages(tmp_path, monkeypatch):
    """Lays files of packages that fail when they are imported where they are found first."""
    monkeypatch.syspath_prepend(str(tmp_path))

    def lay(*files):
        for name in files:
            file = tmp_path / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text("raise RuntimeError('imported')")

    return lay


def states():
    return {row.what: row.state for row in doctor.flash_attention()}


def test_the_apex_of_the_package_index_is_not_nvidias(packages):
    packages("apex/__init__.py")
    assert doctor.apex().state == "warning"
    assert "pip uninstall apex" in doctor.apex().note


def test_nvidias_apex_is_known_by_its_modules(packages):
    packages("apex/__init__.py", "apex/multi_tensor_apply/__init__.py")
    assert doctor.apex().found == "NVIDIA's, without its CUDA kernels"
    packages("amp_C.py")
    assert doctor.apex().found == "NVIDIA's, with its CUDA kernels"


@pytest.mark.parametrize(
    ("files", "found"),
    [
        (["flash_attn/__init__.py"], "2"),
        (["flash_attn_interface.py"], "3"),
        (["flash_attn/cute/__init__.py"], "4"),
        (["flash_attn/__init__.py", "flash_attn/cute/__init__.py", "flash_attn_interface.py"], "234"),
    ],
)
def test_generations_of_flash_attention_are_told_apart(packages, files, found):
    packages(*files)
    assert states() == {f"FlashAttention {n}": "ok" if n in found else "absent" for n in "234"}


def test_a_package_that_does_not_import_is_named_with_its_complaint(packages):
    packages("broken/__init__.py")
    command = [sys.executable, "-c", "raise RuntimeError('no such operator')"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    row = doctor.imported("broken", process)
    assert (row.state, row.note) == ("absent", "RuntimeError: no such operator; not needed")


def test_a_package_that_is_not_there_is_not_probed():
    assert doctor.probe("no_such_package_at_all") is None
    assert doctor.imported("no_such_package_at_all", None).found == "not installed"


def test_every_question_has_a_row_and_programs_can_read_it(capsys):
    assert cli.call(["doctor", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [row["what"] for row in rows] == [
        "Python",
        "torch",
        "CUDA",
        "ranks",
        "Triton",
        "FlashAttention 2",
        "FlashAttention 3",
        "FlashAttention 4",
        "apex",
        "DALI",
        "csrc",
        "torchvision",
        "timm",
        "TensorBoard",
        "/dev/shm",
        "open files",
        "loader",
        "attention",
    ]
    assert {row["state"] for row in rows} <= {"ok", "absent", "warning"}
    assert all(row["found"] for row in rows)


@pytest.mark.parametrize(
    ("file", "told"),
    [
        ("flash_attn/__init__.py", "FlashAttention 2 when asked for: "),
        (
            "flash_attn_interface.py",
            "FlashAttention 3 when asked for: vitkiln.kernels.use('flash3', 'attention'), on compute capability 9.0",
        ),
        (
            "flash_attn/cute/__init__.py",
            "FlashAttention 4 when asked for: vitkiln.kernels.use('flash4', 'attention'), on 9.0 and 10.0",
        ),
    ],
)
def test_what_is_installed_and_not_chosen_is_explained(packages, file, told):
    packages(file)
    row = doctor.attention(None, {row.what: row for row in doctor.flash_attention()})
    assert row.found == "PyTorch"
    assert told in row.note


class Torch:
    """What the doctor asks of PyTorch, on a machine with GPUs or without."""

    def __init__(self, gpus):
        self.cuda = self
        self.is_available = lambda: gpus


def rows_of(dali, torchvision="absent"):
    found = {"ok": "2.4.0", "absent": "not installed"}
    states = {"DALI": dali, "torchvision": torchvision}
    return {name: doctor.Row(name, state, found[state]) for name, state in states.items()}


@pytest.mark.parametrize(
    ("gpus", "dali", "torchvision", "chosen", "why"),
    [
        (
            True,
            "ok",
            "ok",
            "dali",
            "data.loader=auto: DALI decodes on the GPU; when asked for: data.loader=torchvision",
        ),
        (True, "absent", "absent", "pillow", "data.loader=auto: DALI: not installed"),
        (False, "ok", "absent", "pillow", "data.loader=auto: there is no GPU; when asked for: data.loader=dali"),
        (False, "absent", "absent", "pillow", "data.loader=auto: there is no GPU"),
    ],
)
def test_the_loader_that_auto_takes_is_told_with_the_reason(gpus, dali, torchvision, chosen, why):
    row = doctor.loader(Torch(gpus), rows_of(dali, torchvision))
    assert (row.found, row.note) == (chosen, why)


def test_a_dali_that_cannot_decode_is_told_with_its_complaint():
    row = doctor.dali(doctor.started("raise SystemExit('DALI does not work here: no driver')"))
    assert (row.state, row.note) == ("absent", "DALI does not work here: no driver")


def test_a_dali_that_is_not_there_is_told_how_to_get():
    assert "pip install 'vitkiln[dali]'" in doctor.dali(None).note


@pytest.mark.skipif(not doctor.has_dali(), reason="DALI is not installed")
def test_a_dali_that_decodes_is_told_with_its_version():
    row = doctor.dali(doctor.started(doctor.DECODE))
    assert (row.state, row.note) == ("ok", "decodes; see loader below")

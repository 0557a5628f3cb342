"""Contrastive losses over ranks: by gathered keys and by keys that travel, equal to those of the joined batch."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from vitkiln.kernels import info_nce, use
from vitkiln.kernels.contrastive import ring_info_nce

SCRIPT = Path(__file__).with_name("contrastive_ranks.py")
NAMES = ["ring", "ring of plain rows", "info_nce", "nt_xent", "sup_con"]


@pytest.fixture(scope="module")
def joined(tmp_path_factory):
    """What one rank finds that has the whole batch."""
    return run(tmp_path_factory.mktemp("joined"), [sys.executable], 1)[0]


@pytest.fixture(scope="module", params=[2, 4])
def found(request, tmp_path_factory):
    """What each of the ranks finds."""
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={request.param}"]
    return run(tmp_path_factory.mktemp("ranks"), launch, request.param)


def run(folder, command, ranks):
    ran = subprocess.run([*command, SCRIPT, folder], capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr[-2000:]
    return [torch.load(folder / f"{rank}.pt") for rank in range(ranks)]


@pytest.mark.multi
@pytest.mark.parametrize("name", NAMES)
def test_ranks_equal_the_joined_batch(found, joined, name, close):
    loss, *grads = joined[name]
    for each in found:
        close(each[name][0], loss)
    for index, grad in enumerate(grads, 1):
        close(torch.cat([each[name][index] for each in found]), grad)


@pytest.mark.multi
def test_keys_that_travel_give_what_gathered_keys_give(found, close):
    for each in found:
        for ours, gathered in zip(each["ring"], each["info_nce"], strict=True):
            close(ours, gathered)


@pytest.mark.parametrize("normalize", [True, False])
def test_a_ring_of_one_is_info_nce(normalize, gradients, close):
    query, key = (torch.randn(9, 5, dtype=torch.float64, requires_grad=True) for _ in range(2))
    ours = gradients(ring_info_nce, query, key, 0.3, normalize)
    for actual, expected in zip(ours, gradients(info_nce, query, key, 0.3, 0, normalize), strict=True):
        close(actual, expected)


def test_a_ring_names_bad_arguments():
    with pytest.raises(ValueError, match=r"temperature: 0\.0; must be greater than 0"):
        ring_info_nce(torch.zeros(2, 3), torch.zeros(2, 3), 0.0)


def test_a_ring_under_reference_says_the_same(close):
    query, key = (torch.randn(9, 5, dtype=torch.float64) for _ in range(2))
    with use("reference"):
        close(ring_info_nce(query, key, 0.3), info_nce(query, key, 0.3))

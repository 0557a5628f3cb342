import subprocess
import sys
from pathlib import Path

import pytest
import torch

from vitkiln.engine import distributed

SCRIPT = Path(__file__).with_name("two_ranks.py")


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    """Losses and gradients of one rank with the whole batch, and of two with half of it each."""
    folder = tmp_path_factory.mktemp("ranks")
    subprocess.run([sys.executable, SCRIPT, folder / "one.pt"], check=True)
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    subprocess.run([*launch, SCRIPT, folder / "two.pt"], check=True, capture_output=True)
    return torch.load(folder / "one.pt"), torch.load(folder / "two.pt")


@pytest.mark.multi
@pytest.mark.parametrize("method", ["dilemma", "simclr", "mae"])
def test_ranks_equal_one_rank_with_the_joined_batch(both, method):
    one, two = ({key: x for key, x in found.items() if key.startswith(f"{method} ")} for found in both)
    assert one.keys() == two.keys()
    assert len(one) > 20
    for name, value in one.items():
        torch.testing.assert_close(
            two[name], value, atol=1e-9, rtol=1e-6, msg=lambda text, name=name: f"{name}: {text}"
        )


def test_one_rank_alone_gathers_its_own_rows_with_their_gradient():
    rows = torch.randn(3, 2, requires_grad=True)
    distributed.gather_with_gradient(rows).sum().backward()
    assert torch.equal(rows.grad, torch.ones(3, 2))
    assert not distributed.gather(rows).requires_grad

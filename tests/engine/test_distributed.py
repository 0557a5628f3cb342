import subprocess
import sys
from pathlib import Path

import pytest
import torch

SCRIPT = Path(__file__).with_name("two_ranks.py")


@pytest.mark.multi
@pytest.mark.parametrize("ranks", [2])
def test_ranks_equal_one_rank_with_the_joined_batch(tmp_path, ranks):
    subprocess.run([sys.executable, SCRIPT, tmp_path / "one.pt"], check=True)
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}"]
    subprocess.run([*launch, SCRIPT, tmp_path / "many.pt"], check=True, capture_output=True)
    one, many = torch.load(tmp_path / "one.pt"), torch.load(tmp_path / "many.pt")
    assert one.keys() == many.keys()
    for name, value in one.items():
        torch.testing.assert_close(
            many[name], value, atol=1e-9, rtol=1e-6, msg=lambda text, name=name: f"{name}: {text}"
        )

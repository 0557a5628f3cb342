"""The operators can be used, or copied, without the rest."""

import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
HEAVY = ("triton", "yaml", "pydantic", "typer", "rich", "PIL", "vitkiln.engine")


def run(code: str, folder: Path) -> str:
    command = [sys.executable, "-c", code]
    return subprocess.run(command, capture_output=True, text=True, check=True, cwd=folder).stdout.strip()


def test_importing_the_operators_loads_torch_and_nothing_of_ours_or_heavy(tmp_path):
    listed = f"[name for name in sys.modules if name.startswith({HEAVY!r})]"
    code = f"import sys, torch; old = {listed}; import vitkiln.kernels; print(len({listed}) - len(old))"
    assert run(code, tmp_path) == "0"


def test_a_copy_of_the_folder_works_under_another_name_beside_the_original(tmp_path):
    shutil.copytree(ROOT / "kernels", tmp_path / "borrowed")
    code = """
import torch, borrowed, vitkiln.kernels
x, p, i = torch.randn(1, 4, 3, requires_grad=True), torch.randn(4, 3), torch.tensor([[2, 1]])
ours, theirs = borrowed.place_tokens(x, p, i, i), vitkiln.kernels.place_tokens(x, p, i, i)
ours.sum().backward()
same = borrowed.place_tokens is vitkiln.kernels.place_tokens
print(torch.equal(ours, theirs), same, x.grad.sum().item())
"""
    assert run(code, tmp_path) == "True False 6.0"


def test_one_room_can_be_copied_with_what_rooms_share(tmp_path):
    for room in ("_shared", "contrastive"):
        shutil.copytree(ROOT / "kernels" / room, tmp_path / "mine" / room)
    use = "import torch; from mine.contrastive import info_nce as f"
    code = f"{use}; print(f(torch.eye(2), torch.eye(2), 1.0).shape)"
    assert run(code, tmp_path) == "torch.Size([2])"

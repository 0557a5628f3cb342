import json

import pytest
import torch
from torch import nn

from vitkiln.engine import checkpoint, optim
from vitkiln.engine.errors import RecipeError
from vitkiln.engine.settings import Optim


def pair(seed=0, name="adamw"):
    torch.manual_seed(seed)
    module = nn.Linear(3, 2)
    return module, optim.build(Optim(name=name), module, 0.1, torch.device("cpu"))


def stepped(module, optimizer, times=2):
    for _ in range(times):
        module(torch.ones(1, 3)).sum().backward()
        optimizer.step()
        optimizer.zero_grad()
    return module, optimizer


def save(folder, step, module, optimizer):
    return checkpoint.save(folder, step, module, optimizer, {"seconds": 1.5}, "name: x\n")


@pytest.mark.parametrize("name", ["adamw", "lars"])
def test_what_is_restored_goes_on_as_if_never_stopped(tmp_path, name):
    module, optimizer = stepped(*pair(name=name))
    saved = save(tmp_path, 7, module, optimizer)
    stepped(module, optimizer)
    again, its_optimizer = pair(seed=1, name=name)
    state = checkpoint.restore(saved, again, its_optimizer)
    stepped(again, its_optimizer)
    assert (state["step"], state["seconds"]) == (7, 1.5)
    assert torch.equal(module.weight, again.weight)


def test_random_state_is_restored(tmp_path):
    module, optimizer = pair()
    saved = save(tmp_path, 1, module, optimizer)
    expected = torch.rand(3)
    checkpoint.restore(saved, module, optimizer)
    assert torch.equal(torch.rand(3), expected)


def test_newest_is_the_last_one_and_latest_points_at_it(tmp_path):
    for step in (5, 10, 100):
        save(tmp_path, step, *stepped(*pair()))
    assert checkpoint.newest(tmp_path).name == "step-0000100"
    assert (tmp_path / "LATEST").read_text().strip() == "step-0000100"


@pytest.mark.parametrize("file", [checkpoint.WEIGHTS, checkpoint.OPTIMIZER, checkpoint.STATE, checkpoint.MANIFEST])
@pytest.mark.parametrize("harm", ["truncate", "flip", "remove"])
def test_a_torn_checkpoint_is_named_and_the_one_before_is_used(tmp_path, caplog, file, harm):
    save(tmp_path, 1, *stepped(*pair()))
    torn = save(tmp_path, 2, *stepped(*pair())) / file
    content = torn.read_bytes()
    if harm == "remove":
        torn.unlink()
    else:
        torn.write_bytes(content[: len(content) // 2] if harm == "truncate" else content[:-9] + b"#" + content[-8:])
    checkpoint.log.propagate = True
    assert checkpoint.newest(tmp_path).name == "step-0000001"
    assert "step-0000002 is damaged" in caplog.text


def test_a_draft_that_a_kill_left_behind_is_not_a_checkpoint(tmp_path):
    (tmp_path / ".step-0000009.123").mkdir()
    assert checkpoint.newest(tmp_path) is None
    save(tmp_path, 1, *stepped(*pair()))
    checkpoint.prune(tmp_path, 2)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["LATEST", "step-0000001"]


def test_prune_keeps_the_newest(tmp_path):
    for step in (1, 2, 3):
        save(tmp_path, step, *stepped(*pair()))
    checkpoint.prune(tmp_path, 2)
    assert sorted(p.name for p in tmp_path.glob("step-*")) == ["step-0000002", "step-0000003"]


def test_saving_the_same_step_again_replaces_it(tmp_path):
    module, optimizer = stepped(*pair())
    save(tmp_path, 1, module, optimizer)
    stepped(module, optimizer)
    saved = save(tmp_path, 1, module, optimizer)
    again, other = pair(1)
    checkpoint.restore(saved, again, other)
    assert torch.equal(again.weight, module.weight)


def test_no_pickle_is_written(tmp_path):
    saved = save(tmp_path, 1, *stepped(*pair()))
    assert {file.suffix for file in saved.iterdir()} == {".safetensors", ".json", ".yaml"}
    json.loads((saved / checkpoint.MANIFEST).read_text())


def test_a_path_without_a_checkpoint_is_refused(tmp_path):
    with pytest.raises(RecipeError, match="no checkpoint here"):
        checkpoint.named(tmp_path)


def test_a_run_folder_names_its_newest_checkpoint(tmp_path):
    saved = save(tmp_path / "checkpoints", 3, *stepped(*pair()))
    assert checkpoint.named(tmp_path) == checkpoint.named(tmp_path / "checkpoints") == checkpoint.named(saved) == saved

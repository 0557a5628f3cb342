"""Steps that are recorded and replayed equal steps as they are written, to the bit, for every shipped recipe."""

import importlib.util
from functools import partial
from pathlib import Path

import pytest
import torch

from vitkiln.engine import checkpoint, graph
from vitkiln.engine.errors import MissingBackend, RecipeError
from vitkiln.engine.recipe import difference, load, shipped
from vitkiln.engine.recorder import Recorder
from vitkiln.engine.step import dial, update
from vitkiln.engine.train import Trainer, run, train_step


def beside(name):
    """A file of this folder, which is no package."""
    spec = importlib.util.spec_from_file_location(name, Path(__file__).with_name(f"{name}.py"))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


CpuTape, SHIPPED = beside("cpu_tape").CpuTape, beside("test_shipped_recipes")
CPU = torch.device("cpu")
STEPS = 7  # three as written, one that is recorded, three that are replayed


def recipe(name, *overrides):
    """Where rates, decays and momenta differ from each step to the next."""
    method = load(name, short=True).method
    sizes = [f"method.{key}={value}" for key, value in SHIPPED.SMALLER.items() if key in type(method).model_fields]
    moving = ["run.epochs=3", "run.steps=24", "optim.warmup_epochs=0.5", "run.knn=false"]
    return load(name, [*SHIPPED.TINY, *sizes, *moving, *overrides], short=True)


def trainer(name, *overrides):
    return Trainer(recipe(name, *overrides), CPU)


def recording(name, *overrides):
    """The same, whose steps are recorded on a tape, and the tape."""
    found, tape = trainer(name, *overrides), CpuTape()
    parts = found.recipe.run.accumulate
    found.recorder = Recorder(partial(update, found), found.method, tape, parts=parts, again=partial(dial, found))
    return found, tape


def taken(of, count=STEPS):
    """What the next steps lose and report."""
    loader = of.loader()
    batches, told = iter(loader), []
    for _ in range(count):
        losses = train_step(of, [next(batches) for _ in range(of.order.parts(of.pace.step))])
        told.append({name: value.clone() for name, value in {**losses.terms, **losses.metrics}.items()})
    loader.close()
    return told


def numbers(of):
    """All that a step may change."""
    state = of.optimizer.state_dict()["state"]
    moments = {f"{index}/{name}": value for index, values in state.items() for name, value in values.items()}
    return {**of.method.state_dict(), **moments, "skipped": of.skipped}


def equal(one, other):
    """To the bit; what is no number equals itself."""
    assert one.keys() == other.keys()
    return [name for name in one if not torch.equal(one[name].nan_to_num(-7.0), other[name].nan_to_num(-7.0))] == []


def agree(plain, recorded, count=STEPS):
    for one, other in zip(taken(plain, count), taken(recorded, count), strict=True):
        assert equal(one, other)
    assert equal(numbers(plain), numbers(recorded))


@pytest.mark.parametrize("name", shipped())
def test_replayed_steps_of_a_shipped_recipe_equal_written_ones(name):
    recorded, tape = recording(name)
    agree(trainer(name), recorded)
    assert recorded.recorder.reason is None
    assert (tape.recordings, tape.replays) == (1, 3)


OTHERWISE = {
    "dino": ["method.centering=sinkhorn", "method.koleo=0.1", "method.warmup_teacher_epochs=2",
             "method.warmup_teacher_temperature=0.02", "encoder.drop_path=0.2"],
    "dilemma_dino": ["method.norm_last_layer=false", "method.freeze_last_layer=0"],
    "dilemma": ["run.accumulate=2", "optim.clip=0.1", "optim.clip_per=tensor", "encoder.registers=2"],
    "mocov3": ["optim.name=lars", "optim.backend=torch", "optim.final_weight_decay=0.3"],
    "simclr": ["run.precision=bf16", "optim.name=lars", "optim.final_weight_decay=0.3", "encoder.layer_scale=0.1"],
    "mae": ["optim.backend=torch", "optim.final_weight_decay=null", "method.norm_pix=false", "encoder.drop_path=0.1"],
    "supervised": ["optim.name=sgd", "method.pool=mean", "method.erase=0.5", "optim.layer_decay=0.7"],
    "finetune": ["method.frozen=true", "method.pool=class", "method.mixup=0.4", "method.cutmix=1.0"],
    "lacvit": ["method.loss=nt_xent", "method.chunk=5"],
    "gmml": ["method.drop=zeros", "method.only_corrupted=false", "method.eight_bit=false"],
    "relvit": ["method.official_order=true", "method.mega_patches=2", "method.distances=1", "method.angles=1"],
    "relvit_cifar10": ["method.shuffle=true", "method.patch_noise=0.3", "method.patch_crop=center"],
}  # fmt: skip


@pytest.mark.parametrize("name", OTHERWISE)
def test_replayed_steps_equal_written_ones_otherwise_too(name):
    recorded, tape = recording(name, *OTHERWISE[name])
    agree(trainer(name, *OTHERWISE[name]), recorded)
    assert recorded.recorder.reason is None
    assert (tape.recordings, tape.replays) == (1, 3)


def test_a_method_that_changes_its_structure_is_recorded_anew():
    """DINO's prototypes stay as they are for half of the twelve steps."""
    changing = ["method.freeze_last_layer=1.5", "run.steps=12"]
    recorded, tape = recording("dino", *changing)
    agree(trainer("dino", *changing), recorded, 12)
    assert tape.recordings == 2
    assert recorded.recorder.reason is None


def test_a_step_of_fewer_micro_batches_is_taken_as_written():
    few = ["run.accumulate=2", "run.leftover=step", "data.instances=9", "data.batch_size=8"]
    recorded, tape = recording("mocov3", *few)
    parts = [recorded.order.parts(step) for step in range(11)]
    assert {*parts} == {1, 2}
    agree(trainer("mocov3", *few), recorded, 11)
    assert (tape.recordings, tape.replays) == (1, parts.count(2) - 4)


def test_a_gradient_that_is_not_finite_is_skipped_and_counted_by_a_replay():
    plain, (recorded, _) = trainer("mocov3"), recording("mocov3")
    for one in (plain, recorded):
        taken(one, 5)
        before = one.method.predictor[0].weight.detach().clone()
        with torch.no_grad():
            one.method.encoder.norm.bias[0] = float("nan")
        taken(one, 1)
        assert one.skipped == 1
        assert torch.equal(one.method.predictor[0].weight, before)
    assert equal(numbers(plain), numbers(recorded))


def test_a_run_goes_on_from_a_checkpoint_of_replayed_steps(tmp_path):
    whole, (first, _), (second, _) = trainer("dilemma_dino"), recording("dilemma_dino"), recording("dilemma_dino")
    expected = taken(whole, 12)
    seen = taken(first, 6)
    saved = checkpoint.save(tmp_path, 6, first.method, first.optimizer, {}, "")
    second.pace.step = checkpoint.restore(saved, second.method, second.optimizer)["step"]
    seen += taken(second, 6)
    assert all(equal(one, other) for one, other in zip(expected, seen, strict=True))
    assert equal(numbers(whole), numbers(second))


def test_it_is_no_reason_to_refuse_a_resume():
    assert difference(recipe("mae"), recipe("mae", "run.cuda_graph=true")) == []


def test_a_cpu_is_refused_in_one_line(tmp_path):
    with pytest.raises(MissingBackend, match=r"^run\.cuda_graph: needs a CUDA device; this run is on the CPU$"):
        run(recipe("mae", "run.cuda_graph=true"), tmp_path)
    assert [*tmp_path.iterdir()] == []


def test_ranks_that_meet_over_gloo_are_refused():
    torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)
    try:
        with pytest.raises(MissingBackend, match=r"^run\.cuda_graph: collectives of gloo cannot be recorded; .*NCCL$"):
            graph.recorder(None, "any stream")
    finally:
        torch.distributed.destroy_process_group()


@pytest.mark.parametrize("backend", ["torch", "apex"])
def test_a_decay_that_a_graph_would_keep_is_refused(backend):
    wish = recipe("mae", "run.cuda_graph=true", f"optim.backend={backend}", "optim.final_weight_decay=0.4")
    with pytest.raises(RecipeError, match=rf"final_weight_decay=0\.4.*{backend}.*must be null, or .*one_pass"):
        graph.refuse(wish, torch.device("cuda"))
    graph.refuse(recipe("mae", "run.cuda_graph=true", f"optim.backend={backend}"), torch.device("cuda"))

"""What is measured is the step that a run takes, all of it, and nothing is left behind."""

import time

import pytest
import torch

from vitkiln.engine import optim
from vitkiln.engine.bench import ceiling, compare, data, measurement, model, sweep
from vitkiln.engine.bench.clock import END, Spread, Timeline
from vitkiln.engine.bench.measurement import Request, trainer_of
from vitkiln.engine.bench.patience import Patience
from vitkiln.engine.bench.synthetic import TURNS, steps, synthetic
from vitkiln.engine.errors import DataError, MissingBackend
from vitkiln.engine.recipe import load, shipped
from vitkiln.engine.train import Trainer, train_step

CPU = torch.device("cpu")
SMALL = ("run.device=cpu", "run.precision=fp32", "data.workers=0", "encoder.depth=2")
LITTLE = ("data.categories=10", "data.instances=8", "data.fractal_size=32", "data.fractal_points=300")
ONCE = Patience(0.01, 1)


def recipe(name="dilemma", *overrides, batch=8):
    few = (f"data.batch_size={batch}", "optim.warmup_epochs=0", *LITTLE)
    return load(name, [*SMALL, *few, *overrides], short=True)


def trainer(name="dilemma", *overrides, batch=8):
    return Trainer(recipe(name, *overrides, batch=batch), CPU)


@pytest.mark.parametrize("name", shipped())
def test_the_parts_of_every_recipe_add_up_to_its_step(name):
    subject = trainer(name, batch=40 if name == "lacvit" else 8)  # ten classes twice in each of two parts
    found = model.model(subject, ONCE)
    taught = {"teacher"} if subject.teachers else set()
    assert {*found.parts} == {*model.PARTS} - {"teacher"} | taught
    assert all(ms > 0 for ms in found.parts.values())
    assert sum(found.parts.values()) == pytest.approx(found.whole, rel=0.1)


def test_a_step_that_is_watched_is_the_same_step():
    plain, watched = trainer(), trainer()
    for batches in (next(steps(plain)), next(steps(plain))):
        expected = train_step(plain, batches)
        with model.watching(watched, Timeline(CPU, model.REST)):
            found = train_step(watched, batches)
        assert torch.equal(found.total, expected.total)
    for one, other in zip(plain.method.parameters(), watched.method.parameters(), strict=True):
        assert torch.equal(one, other)


def test_watching_leaves_nothing_behind():
    subject, before = trainer(), optim.step
    attributes = [{*vars(module)} for module in subject.method.modules()]
    with model.watching(subject, Timeline(CPU, model.REST)):
        assert optim.step is not before
    assert optim.step is before
    assert [{*vars(module)} for module in subject.method.modules()] == attributes


def test_what_is_computed_again_belongs_to_the_backward_pass():
    subject, timeline = trainer("lacvit", "method.chunk=8", batch=40), Timeline(CPU, model.REST)
    with model.watching(subject, timeline):
        train_step(subject, next(steps(subject)))
    names = [name for name, _ in timeline.marks]
    last = len(names) - 1 - names[::-1].index(model.BACKWARD)
    second = names.index(model.BACKWARD, names.index(model.HEADS, names.index(model.BACKWARD)))
    assert "student" in names[:second]
    assert "student" not in names[second : last + 1]


def test_time_belongs_to_the_innermost_part():
    timeline = Timeline(CPU, "rest")
    timeline.mark()
    for _ in range(2):
        with timeline.part("outer"):
            time.sleep(0.01)
            with timeline.part("inner"):
                time.sleep(0.04)
        timeline.mark(END)
        timeline.mark()
    first, second = timeline.steps()
    assert {*first} == {*second} == {"rest", "outer", "inner"}
    assert first["inner"] >= 40
    assert 10 <= first["outer"] < first["inner"]


def test_rates_are_images_over_time_with_the_slow_fifth_first():
    rate = Spread(median=100.0, p20=50.0, p80=200.0, n=9).rate(10)
    assert rate == Spread(median=100.0, p20=50.0, p80=200.0, n=9)


def test_made_up_batches_are_random_and_differ():
    subject = trainer("supervised")
    first, second = synthetic(subject, 8, 0), synthetic(subject, 8, 1)
    assert [view.shape for view in first.views] == [(8, view.size, view.size, 3) for view in subject.method.views()]
    assert all(view.float().std() > 70 for view in first.views)  # evenly spread: 73.9
    assert not torch.equal(first.views[0], second.views[0])
    assert not {*first.ids.tolist()} & {*second.ids.tolist()}
    assert first.labels.tolist() == [0, 0, 1, 1, 2, 2, 3, 3]


def test_a_step_is_as_many_micro_batches_as_the_recipe_says():
    subject = trainer("lacvit", batch=40)
    taken = steps(subject)
    first, second = next(taken), next(taken)
    assert [len(batch.ids) for batch in first] == [20, 20]
    assert len({id(batch) for batch in [*first, *second]}) == TURNS


def test_data_are_measured_by_the_recipes_own_loader_in_stages():
    found = data.data(trainer(), Patience(0.1, 3))
    assert found.whole.n == 3
    assert {*found.stages} == {"read", "draw", "cut", "copy", "colour"}
    assert all(ms > 0 for name, ms in found.stages.items() if name != "read")  # pictures are drawn, not read
    assert sum(found.stages.values()) <= 1.5 * found.whole.p80


def test_steps_on_data_wait_for_them():
    found = data.both(trainer(), Patience(0.1, 3))
    assert 0 < found.waiting < 1


def test_an_input_is_its_views_and_its_file(jpegs):
    files = trainer("dilemma", "data.source=folder", f"data.root={jpegs}")
    sizes = [file.stat().st_size for file in jpegs.rglob("*.jpg")]
    assert data.input_bytes(files) == {"views": 2 * 3 * 48 * 48, "file": sum(sizes) // len(sizes)}
    assert data.input_bytes(trainer())["file"] is None


@pytest.fixture
def jpegs(tmp_path):
    from PIL import Image

    for number in range(16):
        folder = tmp_path / "images" / str(number % 2)
        folder.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (40 + 10 * number, 40), (number, 99, 0)).save(folder / f"{number}.jpg")
    return tmp_path / "images"


def test_figures_agree_with_each_other():
    found = measurement.measure(trainer(), Request(patience=Patience(0.1, 2)))
    assert [*found["rates"]] == ["data", "model", "all"]
    step, rate = (found["rates"]["model"][key]["median"] for key in ("step_ms", "images_per_second"))
    assert step * rate == pytest.approx(8 * 1000)
    used = found["utilisation"]
    assert used["model"]["tflops"] == pytest.approx(used["flops_per_image"]["total"] * rate / 1e12)
    assert used["model"]["of_matmul"] == pytest.approx(used["model"]["tflops"] / used["matmul_tflops"])
    assert used["peak_tflops"] is used["model"]["mfu"] is None  # of a CPU nobody knows it
    assert found["input"]["megabytes_per_second"]["views"] == pytest.approx(2 * 3 * 48**2 * rate / 1e6)
    assert found["adds_up"]


@pytest.mark.parametrize(("part", "absent"), [("data", "parts_ms"), ("model", "data_ms"), ("all", "parts_ms")])
def test_only_what_is_asked_for_is_measured(part, absent):
    found = measurement.measure(trainer(), Request((part,), ONCE))
    assert [*found["rates"]] == [part]
    assert absent not in found
    assert found["limit"]


def test_hands_take_the_same_steps_and_the_first_is_what_others_are_compared_with():
    eager, ours = compare.compare(recipe(), ("eager", "vitkiln"), Request(patience=Patience(0.1, 2)))
    assert (eager["by"], eager["ratio"], eager["loss_apart"]) == ("eager", 1.0, 0.0)
    assert ours["parity"]
    assert ours["loss"] == pytest.approx(eager["loss"], rel=1e-4)
    assert ours["ratio"] == pytest.approx(eager["step_ms"]["median"] / ours["step_ms"]["median"])


def test_a_hand_that_computes_something_else_is_marked(monkeypatch):
    def another(recipe, compiled):
        return recipe.model_copy(update={"method": recipe.method.model_copy(update={"weight": 3.0})})

    monkeypatch.setattr(compare, "plain", another)
    found = compare.compare(recipe(), ("eager", "vitkiln"), Request(patience=ONCE))
    assert [row["parity"] for row in found] == [True, False]


def test_a_hand_that_fails_is_a_row_that_says_so(monkeypatch):
    def fails(recipe, compiled):
        raise RuntimeError("no compiler\nand a long story")

    monkeypatch.setattr(compare, "plain", fails)
    eager, ours = compare.compare(recipe(), ("eager", "vitkiln"), Request(patience=ONCE))
    assert eager == {"by": "eager", "error": "RuntimeError: no compiler"}
    assert ours["ratio"] == 1.0


def test_batches_are_measured_from_the_smallest_up_to_the_first_that_does_not_fit(monkeypatch):
    def crowded(subject, request):
        if subject.recipe.data.batch_size >= 16:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes")
        return measurement.measure(subject, request)

    monkeypatch.setattr(sweep, "measure", crowded)
    sizes = [recipe(batch=size) for size in (32, 8, 16)]
    small, medium, large = sweep.sweep(sizes, Request(("model",), ONCE))
    assert (small["batch"], small["rates"]["model"]["step_ms"]["n"]) == (8, 1)
    assert medium == {"batch": 16, "error": "out of memory"}
    assert large == {"batch": 32, "error": "not tried: 16 does not fit"}


def test_a_batch_for_which_there_are_too_few_images_is_a_row_that_says_so():
    many, few = sweep.sweep([recipe(batch=200), recipe(batch=8)], Request(("model",), ONCE))[::-1]
    assert "more than the 80 images there are" in many["error"]
    assert "rates" in few


def test_what_is_no_lack_of_memory_is_not_hidden(monkeypatch):
    def broken(subject, request):
        raise RuntimeError("shapes do not match")

    monkeypatch.setattr(sweep, "measure", broken)
    with pytest.raises(RuntimeError, match="shapes"):
        sweep.sweep([recipe()], Request())


@pytest.mark.parametrize(("room", "start", "unit"), [(1000, 64, 1), (7, 64, 1), (100, 64, 20), (64, 64, 1), (1, 8, 1)])
def test_the_largest_batch_is_found_to_a_part_in_thirty_two(monkeypatch, room, start, unit):
    asked = []
    monkeypatch.setattr(sweep, "tried", lambda subject, part, request: asked.append(part) or part <= room)
    found = sweep.largest(None, start, unit, Request())
    assert found % unit == 0
    assert found <= room < found + max(unit, found // sweep.FINE) + unit
    assert len(asked) < 20


def test_where_nothing_fits_no_batch_is_found(monkeypatch):
    monkeypatch.setattr(sweep, "tried", lambda *_: False)
    assert sweep.largest(None, 64, 1, Request()) is None


def test_a_step_that_fits_is_tried_for_real_and_leaves_no_gradients():
    subject = trainer()
    assert sweep.tried(subject, 4, Request())
    assert all(parameter.grad is None for parameter in subject.method.parameters())


def test_on_a_cpu_no_batch_is_searched():
    with pytest.raises(MissingBackend, match="--find-batch: needs a GPU"):
        sweep.refuse(recipe())


@pytest.mark.parametrize(("steps", "times", "told"), [(None, 2, "about 16 s"), (3, 2, "6 steps"), (1, 1, "1 step")])
def test_what_is_waited_for_is_told_as_it_was_asked_for(steps, times, told):
    assert Patience(8.0, steps).told(times) == told


def test_missing_data_are_a_data_error(tmp_path):
    with pytest.raises(DataError):
        trainer_of(recipe("dilemma", "data.source=folder", f"data.root={tmp_path}"))


@pytest.mark.parametrize(("patience", "count"), [(Patience(10.0, 7), 7), (Patience(1e-9), 4), (Patience(1e6), 1000)])
def test_steps_are_as_many_as_are_asked_for_or_as_time_allows(patience, count):
    taken = []
    assert patience.warm(lambda: taken.append(time.sleep(0.001)), CPU) == count
    assert len(taken) in (2, 6)  # the first, the rest of the first if there is time, and one to go by


@pytest.mark.parametrize(
    ("name", "peak"),
    [
        ("NVIDIA A100-SXM4-80GB", 312),
        ("NVIDIA A100 80GB PCIe", 312),
        ("NVIDIA A100-PCIE-40GB", 312),
        ("NVIDIA H100 80GB HBM3", 989),
        ("NVIDIA H200", 989),
        ("NVIDIA H100 PCIe", 756),
        ("NVIDIA H100 NVL", None),
        ("NVIDIA A100-SXM4-40GB MIG 1g.5gb", None),
        ("NVIDIA GeForce RTX 4090", None),
    ],
)
def test_a_data_sheet_is_quoted_for_the_very_device_or_not_at_all(name, peak):
    assert ceiling.peak_tflops(name, "bf16") == peak
    assert ceiling.peak_tflops(name, "fp32") is None

"""LaCViT: its three losses against their formulas, chunks, candidates of all ranks, and what the data must be."""

import math
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from vitkiln.engine.errors import RecipeError
from vitkiln.engine.methods import find
from vitkiln.engine.plan_report import report
from vitkiln.engine.pooling import pooled
from vitkiln.engine.recipe import load
from vitkiln.engine.settings import Encoder
from vitkiln.engine.settings.lacvit import Settings
from vitkiln.engine.vocabulary import Batch

ENCODER = Encoder(image_size=32, patch_size=8, width=32, depth=2, heads=2, position="learned", drop_path=0.1)
LABELS = torch.tensor([0, 0, 1, 1, 2, 2])


def method(encoder=ENCODER, **more):
    torch.manual_seed(0)
    return find("lacvit")(Settings(output=16, **more), encoder)


def batch(size=6, views=2, labels=LABELS):
    torch.manual_seed(1)
    crops = tuple(torch.randint(0, 256, (size, 32, 32, 3), dtype=torch.uint8) for _ in range(views))
    return Batch(crops, torch.arange(size), torch.tensor([0, 5]), labels)


def fed(given, features, labels=None):
    """The loss of features [V N, D], view by view."""
    given.encode, given.projector = lambda images, branches: features, torch.nn.Identity()
    count = len(features) // len(given.views())
    return given(batch(1, len(given.views()), torch.arange(count) if labels is None else labels)).total


def formula(features, labels, temperature=0.1):
    """Equation 2 of supervised contrastive learning, word for word, times temperature / 0.07."""
    z, labels = F.normalize(features, dim=1), torch.cat([labels, labels])
    lost = []
    for i in range(len(z)):
        others = [k for k in range(len(z)) if k != i]
        everyone = torch.stack([z[i] @ z[k] / temperature for k in others]).logsumexp(0)
        positives = [p for p in others if labels[p] == labels[i]]
        lost.append(torch.stack([everyone - z[i] @ z[p] / temperature for p in positives]).mean())
    return temperature / 0.07 * torch.stack(lost).mean()


def test_loss_and_gradients_are_those_of_the_formula():
    plain = ENCODER.model_copy(update={"drop_path": 0.0})
    ours, theirs, b = method(plain).double(), method(plain).double(), batch()
    tokens = theirs.encoder
    expected = formula(theirs.projector(pooled(tokens, torch.cat(b.views), "mean_norm")), b.labels)
    expected.backward()
    found = ours(b).total
    found.backward()
    torch.testing.assert_close(found, expected)
    for name, parameter in theirs.named_parameters():
        if parameter.requires_grad:
            torch.testing.assert_close(ours.get_parameter(name).grad, parameter.grad, atol=1e-10, rtol=1e-6)


def test_equal_features_give_the_tabled_loss():
    assert fed(method(), torch.ones(256, 16)).item() == pytest.approx(7.9161, abs=1e-4)


def test_collapsed_classes_lose_their_floor_and_not_nothing():
    labels = torch.arange(10).repeat_interleave(10)
    features = torch.eye(10)[torch.cat([labels, labels])]
    expected = 0.1 / 0.07 * math.log(19 + 180 * math.exp(-10))
    assert fed(method(), features, labels).item() == pytest.approx(expected, abs=1e-5)
    assert expected == pytest.approx(4.20696, abs=1e-5)


@pytest.mark.parametrize("base", [None, 0.07])
def test_labels_that_all_differ_make_it_simclr(base):
    features = torch.randn(12, 16)
    both = [fed(method(loss=loss, base_temperature=base), features) for loss in ("sup_con", "nt_xent")]
    torch.testing.assert_close(*both)


def test_without_a_base_temperature_the_loss_is_the_papers():
    features, labels = torch.randn(12, 16), LABELS
    published, plain = (fed(method(base_temperature=base), features, labels) for base in (0.07, None))
    torch.testing.assert_close(published, plain * (0.1 / 0.07))


def test_the_order_of_images_and_of_views_is_nothing_to_it():
    features, labels, order = torch.randn(2, 6, 16), LABELS, torch.tensor([3, 1, 5, 0, 4, 2])
    expected = fed(method(), features.flatten(0, 1), labels)
    torch.testing.assert_close(fed(method(), features.flip(0).flatten(0, 1), labels), expected)
    torch.testing.assert_close(fed(method(), features[:, order].flatten(0, 1), labels[order]), expected)


def test_n_pair_of_equal_features_loses_the_logarithm_of_the_classes():
    labels = torch.arange(10).repeat_interleave(2)
    loss = fed(method(loss="n_pair", l2=0.0), torch.ones(20, 16), labels)
    assert loss.item() == pytest.approx(math.log(10), abs=1e-5)


def test_n_pair_takes_raw_features_of_one_view_and_its_penalty():
    features, labels = torch.randn(6, 16), LABELS
    anchor, positive = features[::2], features[1::2]
    expected = F.cross_entropy(anchor @ positive.T, torch.arange(3)) + 0.02 * features.square().sum() / 3
    torch.testing.assert_close(fed(method(loss="n_pair"), features, labels), expected)
    assert len(method(loss="n_pair").views()) == 1
    assert not list(method(loss="n_pair").projector.parameters())


def test_an_anchor_whose_positive_could_not_be_read_is_its_own():
    features, labels = torch.randn(6, 16), torch.tensor([0, 0, 1, 2, 3, 3])
    mended = features.clone()
    mended[3] = features[2]
    found = fed(method(loss="n_pair"), features, labels)
    torch.testing.assert_close(found, fed(method(loss="n_pair"), mended, LABELS))


@pytest.mark.parametrize("chunk", [1, 5, 12, 100])
@pytest.mark.parametrize("loss", ["sup_con", "nt_xent"])
def test_chunks_give_the_loss_and_gradient_of_the_whole_batch(chunk, loss):
    whole, parts, b = method(loss=loss), method(loss=loss, chunk=chunk), batch()
    expected, found = whole(b).total, parts(b).total
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-6)
    expected.backward()
    found.backward()
    for name, parameter in whole.named_parameters():
        if parameter.requires_grad:
            torch.testing.assert_close(parts.get_parameter(name).grad, parameter.grad, atol=1e-5, rtol=1e-4)


def test_in_chunks_little_is_kept_for_the_backward_pass():
    def kept(chunk):
        seen, given = {}, method(chunk=chunk)

        def save(tensor):
            seen[tensor.data_ptr()] = tensor.nbytes
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(save, lambda tensor: tensor):
            given(batch())
        return sum(seen.values()) - sum(p.nbytes for p in given.parameters() if p.data_ptr() in seen)

    assert kept(4) < 0.1 * kept(None)


def test_everything_learns():
    for loss in ("sup_con", "nt_xent", "n_pair"):
        for pool in ("mean_norm", "class"):
            lacvit = method(loss=loss, pool=pool)
            lacvit(batch(views=len(lacvit.views()))).total.backward()
            assert [name for name, p in lacvit.named_parameters() if p.requires_grad and p.grad is None] == []


def test_the_head_is_one_hidden_layer_of_the_encoders_width():
    assert [tuple(p.shape) for p in method().projector.parameters()] == [(32, 32), (32,), (16, 32), (16,)]
    assert Settings().output == 128


def test_drop_path_is_drawn_anew_in_every_step():
    lacvit, b = method(), batch()
    later = Batch(b.views, b.ids, torch.tensor([0, 6]), b.labels)
    assert lacvit(b).total == lacvit(b).total
    assert lacvit(b).total != lacvit(later).total


def test_views_are_the_published_two():
    first, second = find("lacvit")(Settings(), ENCODER).views()
    assert first == second
    assert (first.scale, first.interpolation, first.flip) == ((0.2, 1.0), "bilinear", 0.5)
    assert (first.jitter, first.jitter_probability, first.gray) == ((0.4, 0.4, 0.4, 0.1), 0.8, 0.2)
    assert (first.blur, first.solarize) == (0.0, 0.0)


def test_bf16_loss_is_close_to_fp32():
    lacvit, b = method(), batch()
    with torch.autocast("cpu", torch.bfloat16):
        low = lacvit(b).total
    assert low.dtype == torch.float32
    torch.testing.assert_close(low, lacvit(b).total, rtol=1e-2, atol=1e-2)


def test_it_learns_to_tell_classes_apart():
    lacvit, b = method(), batch()
    optimizer = torch.optim.AdamW(lacvit.parameters(), lr=1e-3)
    seen = []
    for _ in range(40):
        losses = lacvit(b)
        losses.total.backward()
        optimizer.step()
        optimizer.zero_grad()
        seen.append(losses.total.item())
    floor = 0.1 / 0.07 * math.log(3)
    assert seen[-1] - floor < 0.25 * (seen[0] - floor)


def test_candidates_are_counted():
    assert method().negatives(128) == 254
    assert method(loss="n_pair").negatives(128) == 63


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    """What one rank with the whole batch finds, and two with half of it each."""
    folder, script = tmp_path_factory.mktemp("ranks"), Path(__file__).with_name("lacvit_ranks.py")
    subprocess.run([sys.executable, script, folder / "one.pt"], check=True)
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    subprocess.run([*launch, script, folder / "two.pt"], check=True, capture_output=True)
    return torch.load(folder / "one.pt"), torch.load(folder / "two.pt")


@pytest.mark.multi
@pytest.mark.parametrize("way", ["sup_con", "nt_xent", "n_pair", "chunked", "alone"])
def test_two_ranks_equal_one(both, way):
    """With gathered candidates, the joined batch; alone, the mean of two micro-batches."""
    one, two = ({key: x for key, x in found.items() if key.startswith(f"{way} ")} for found in both)
    assert one.keys() == two.keys()
    assert len(one) > 20
    for name, value in one.items():
        torch.testing.assert_close(
            two[name], value, atol=1e-9, rtol=1e-6, msg=lambda text, name=name: f"{name}: {text}"
        )


@pytest.mark.parametrize("loss", ["sup_con", "n_pair"])
@pytest.mark.parametrize(("classes", "text"), [(None, "needs labels"), (1, "needs two classes or more")])
def test_data_without_classes_are_refused_by_losses_that_need_them(loss, classes, text):
    with pytest.raises(ValueError, match=f"method.loss={loss} {text}"):
        Settings(loss=loss).with_data(classes)
    assert Settings(loss="nt_xent").with_data(classes) == Settings(loss="nt_xent")


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["method.loss=supcon"], "method.loss=supcon: must be one of sup_con, nt_xent, n_pair; did you mean sup_con?"),
        (["method.temperature=0"], "method.temperature=0: must be more than 0"),
        (["method.chunk=0"], "method.chunk=0"),
        (["method.l2=-1"], "method.l2=-1"),
        (["data.batch_size=32"], "run.accumulate=32: leaves lacvit fewer than 2 images of data.batch_size=32"),
        (["data.classes_per_batch=7"], "data.classes_per_batch=7: must divide a micro-batch, which is 128 images"),
        (["data.classes_per_batch=8", "data.repeats=2"], "data.repeats=2: must be 1 where data.classes_per_batch is"),
        (["method.loss=n_pair"], "data.classes_per_batch=null: must be 64, so that a micro-batch of 128 images has 2"),
        (["method.loss=n_pair", "data.classes_per_batch=32"], "data.classes_per_batch=32: must be 64, so that"),
        (["run.leftover=keep"], "run.leftover=keep: must be drop or step"),
        (["optim.rate_per=batch"], "optim.rate_per=batch: must be step or epoch"),
    ],
)
def test_settings_that_cannot_be_are_refused(overrides, message):
    with pytest.raises(RecipeError) as refused:
        load("lacvit", ["data.root=x", *overrides])
    assert message in str(refused.value)


def test_the_estimate_of_memory_knows_chunks_and_frozen_encoders():
    def estimated(name, *overrides):
        return report(load(name, ["data.root=x", *overrides]))["memory_bytes"]

    assert estimated("lacvit", "method.chunk=16") < 0.2 * estimated("lacvit")
    assert estimated("lacvit", "method.chunk=1000") == estimated("lacvit")
    assert estimated("lacvit_head") < 0.5e9 < 4e9 < estimated("lacvit_cross_entropy")

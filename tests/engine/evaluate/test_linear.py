"""The linear probe: what it can tell apart, what it never trains on, and that it repeats itself."""

import pytest
import torch

from vitkiln.engine.errors import DataError, RecipeError
from vitkiln.engine.evaluate import evaluate, linear
from vitkiln.engine.evaluate.linear import DECAYS, FACTORS, VARIANTS, Probe, Rows, batch_of, probed, train
from vitkiln.engine.evaluate.subject import silently
from vitkiln.engine.optim import LARS
from vitkiln.engine.recipe import load

CPU = torch.device("cpu")
QUIET = {"workers": 0, "device": "cpu"}


def clusters(count=120, width=8, classes=3, noise=0.1, copies=2, seed=0):
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % classes
    return Rows(torch.eye(width)[labels] + noise * torch.randn(copies, count, width, generator=generator), labels)


def probe(name="mocov3", epochs=20, classes=3, batch=64, seed=0):
    return Probe(VARIANTS[name], batch, epochs, classes, seed, CPU)


def nothing(count):
    pass


@pytest.mark.parametrize("name", VARIANTS)
def test_what_is_separable_is_separated(name):
    fit, test = clusters(noise=0.01), clusters(noise=0.01, seed=1)
    assert probed(fit, test, probe(name, epochs=50), nothing)["top1"] == 100.0


def test_random_labels_are_guessed_by_chance():
    fit, test = clusters(600, classes=2, noise=1.0), clusters(600, classes=2, noise=1.0, seed=1)
    mixed = torch.Generator().manual_seed(7)
    fit, test = (Rows(rows.copies, torch.randint(2, (600,), generator=mixed)) for rows in (fit, test))
    assert abs(probed(fit, test, probe(classes=2, epochs=5), nothing)["top1"] - 50) < 8


def test_the_headline_is_chosen_on_held_out_images_and_not_on_the_test():
    """The test's labels are wrong, all of them, so its best head is the worst."""
    fit, test = clusters(), clusters(seed=1)
    found = probed(fit, Rows(test.copies, (test.labels + 1) % 3), probe(), nothing)
    assert found["chosen_on_held_out"]["held_last"] == max(row["held_last"] for row in found["rates"]) == 100.0
    assert found["top1"] == found["chosen_on_held_out"]["last"] == 0.0
    assert found["best_on_test"]["best"] > 0


def test_every_rate_and_decay_of_the_grid_is_reported():
    found = probed(clusters(), clusters(seed=1), probe(epochs=2), nothing)
    assert [(row["factor"], row["weight_decay"]) for row in found["rates"]] == [(f, d) for f in FACTORS for d in DECAYS]
    assert found["published_rate"]["rate"] == 3.0 * 64 / 256
    assert all(row["best"] >= row["last"] for row in found["rates"])


def test_held_out_images_take_no_part_in_the_choice():
    """Whatever they look like, and in whichever copy, the heads before the choice stay the same."""
    fit, seen = clusters(), []
    held = torch.arange(120) % 10 == 9
    for other in (fit.copies, torch.where(held[None, :, None], torch.nan, fit.copies)):
        rows = Rows(other, fit.labels)
        seen.append(train(rows.part(~held), [clusters(seed=1)], probe(epochs=3), nothing)[0])
    assert torch.equal(*seen)


def test_the_choice_is_trained_without_what_it_is_made_on(monkeypatch):
    """The labels of held-out images are others than all of those trained on."""
    trained = []

    def watched(rows, tests, *rest):
        trained.append((rows, tests))
        return train(rows, tests, *rest)

    monkeypatch.setattr(linear, "train", watched)
    fit = clusters()
    numbered = Rows(fit.copies + 100 * torch.arange(120.0)[None, :, None], fit.labels)
    test = Rows(clusters(seed=1).copies - 1e6, fit.labels)
    probed(numbered, test, probe(epochs=1), nothing)
    (chosen, (held,)), (final, (last,)) = trained
    images = [{round(value.item() / 100) for value in rows.copies[:, :, 4].flatten()} for rows in (chosen, held, final)]
    assert len(images[1]) == 12
    assert images[0].isdisjoint(images[1])
    assert images[0] | images[1] == images[2] == set(range(120))
    assert last is test


def test_an_epoch_shows_each_image_once_as_one_of_its_copies():
    generator = torch.Generator().manual_seed(0)
    batches = list(linear.epoch_of(clusters(count=50, copies=4), 16, generator))
    images = torch.cat([which for which, _ in batches])
    assert sorted(images.tolist()) == list(range(50))
    assert {len(which) for which, _ in batches} == {12, 13}
    assert set(torch.cat([copy for _, copy in batches]).tolist()) == {0, 1, 2, 3}


@pytest.mark.parametrize("name", VARIANTS)
def test_one_head_of_the_probe_is_a_plain_loop_of_torch(name):
    """MAE's with LARS and batch normalisation, the others with SGD; rates fall as published."""
    fit, test, setting = clusters(copies=1, noise=0.8), clusters(seed=1, noise=0.8), probe(name, epochs=12)
    (figures,) = train(fit, [test], setting, nothing)
    head = setting.grid.index((1.0, 0.0))
    layer = torch.nn.Linear(8, 3)
    layer.weight.data = setting.heads(8).weight[head].T.contiguous()
    torch.nn.init.zeros_(layer.bias)
    variant = VARIANTS[name]
    norm = torch.nn.BatchNorm1d(8, eps=1e-6, affine=False) if name == "mae" else torch.nn.Identity()
    rate = variant.rate * 64 / 256
    optimizer = (
        LARS(layer.parameters(), rate, 0.0, 0.9, 0.001)
        if name == "mae"
        else torch.optim.SGD(layer.parameters(), lr=rate, momentum=0.9)
    )
    generator, found = torch.Generator().manual_seed(0), []
    for epoch in range(12):
        norm.train()
        for step, (which, copy) in enumerate(linear.epoch_of(fit, 64, generator)):
            optimizer.param_groups[0]["lr"] = rate * setting.share(epoch, step, 2)
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(layer(norm(fit.copies[copy, which])), fit.labels[which]).backward()
            optimizer.step()
        norm.eval()
        right = layer(norm(test.copies[0])).argmax(1) == test.labels
        found.append(100 * right.double().mean())
    torch.testing.assert_close(figures[:, head], torch.stack(found), rtol=0, atol=0.9)


def test_the_rate_falls_by_epoch_or_by_step():
    moco, mae = probe("mocov3", 90), probe("mae", 90)
    assert moco.share(0, 3, 5) == 1.0
    assert moco.share(45, 0, 5) == moco.share(45, 4, 5) == pytest.approx(0.5)
    assert (mae.share(0, 0, 5), mae.share(5, 0, 5), mae.share(10, 0, 5)) == (0.0, 0.5, 1.0)
    assert mae.share(50, 0, 5) == pytest.approx(0.5)
    assert mae.share(50, 4, 5) < 0.5


def test_the_published_batch_is_used_where_there_are_images_enough():
    assert [batch_of(VARIANTS["mae"], images) for images in (1_281_167, 50_000, 300, 20)] == [16384, 5000, 64, 64]


def test_a_checkpoint_is_probed_as_its_method_was(checkpoint, patchwise, photos):
    for folder, variant in ((checkpoint, "mocov3"), (patchwise, "mae")):
        found = evaluate(folder, photos, "linear", epochs=20, **QUIET)
        assert (found["variant"], found["features"], found["top1"]) == (variant, "class", 100.0)
        assert (found["images"], found["queries"], found["held_out"], found["classes"]) == (60, 21, 6, 3)


def test_dilemma_is_probed_as_its_base_was():
    bases = {name: load(name, ["data.root=/x"]) for name in ("dilemma", "dilemma_dino", "dilemma_mae")}
    assert [linear.variant_of(recipe, None) for recipe in bases.values()] == ["mocov3", "dino", "mae"]


def test_dinos_probe_sees_the_last_blocks(checkpoint, photos):
    found = evaluate(checkpoint, photos, "linear", variant="dino", epochs=2, **QUIET)
    assert found["features"] == "last-2"


def test_the_same_seed_gives_the_same_figures(checkpoint, photos):
    keys = {"epochs": 2, "views": 2, **QUIET}
    first, second = (evaluate(checkpoint, photos, "linear", **keys) for _ in range(2))
    assert first == second


def test_half_precision_features_are_good_enough(checkpoint, photos):
    assert evaluate(checkpoint, photos, "linear", epochs=20, half=True, **QUIET)["top1"] == 100.0


def test_without_a_second_split_a_tenth_is_tested_on(checkpoint, photos):
    found = evaluate(checkpoint, photos / "train", "linear", epochs=2, **QUIET)
    assert (found["images"], found["queries"], found["split"]) == (54, 6, "a held-out tenth")


def test_a_broken_image_is_left_out_of_every_copy(checkpoint, photos, tmp_path):
    import shutil

    shutil.copytree(photos, tmp_path / "photos")
    (tmp_path / "photos" / "train" / "red" / "03.png").write_bytes(b"no image")
    assert evaluate(checkpoint, tmp_path / "photos", "linear", epochs=2, **QUIET)["images"] == 59


def test_too_few_images_to_hold_one_out_are_refused():
    with pytest.raises(DataError, match="6 training images; --protocol linear needs ten"):
        probed(clusters(6), clusters(6), probe(), nothing)


def test_an_unknown_variant_is_refused_with_the_nearest(checkpoint, photos):
    with pytest.raises(RecipeError, match="--variant moco: unknown; did you mean mocov3"):
        evaluate(checkpoint, photos, "linear", variant="moco", **QUIET)


def test_progress_is_told(checkpoint, photos):
    from contextlib import contextmanager

    counted = {}

    @contextmanager
    def progress(what, total):
        counted[what] = [0, total]

        def advance(count):
            counted[what][0] += count

        yield advance

    evaluate(checkpoint, photos, "linear", epochs=2, views=2, progress=progress, **QUIET)
    assert counted == {"images": [201, 201], "epochs": [4, 4]}
    with silently("images", 1) as advance:
        assert advance(1) is None

"""The accuracy of a method's own classifier."""

import pytest
import torch

from vitkiln.engine.data.folder import open_folder
from vitkiln.engine.errors import DataError, RecipeError
from vitkiln.engine.evaluate import evaluate
from vitkiln.engine.evaluate.subject import open_method
from vitkiln.engine.evaluate.top1 import top1

CPU = torch.device("cpu")
QUIET = {"workers": 0, "device": "cpu"}


def test_what_a_glance_tells_apart_is_classified(classifier):
    found = evaluate(classifier, None, "top1", **QUIET)
    assert (found["top1"], found["images"], found["classes"], found["split"]) == (100.0, 21, 3, "val")


def test_no_batch_size_changes_the_count(classifier, photos):
    method, source = open_method(classifier).method, open_folder(str(photos), None, "val")
    with torch.no_grad():
        method.head.weight.normal_()
    found = [top1(method, source, device=CPU, batch_size=size, workers=0) for size in (1, 4, 100)]
    assert found[0] == found[1] == found[2]


def test_wrong_answers_are_counted_as_wrong(classifier, photos):
    method, source = open_method(classifier).method, open_folder(str(photos), None, "val")
    with torch.no_grad():
        method.head.weight.zero_()
        method.head.bias.copy_(torch.tensor([0.0, 1.0, 0.0]))
    assert top1(method, source, device=CPU, workers=0)["top1"] == 33.33


def test_a_limit_bounds_what_is_read(classifier, photos):
    method, source = open_method(classifier).method, open_folder(str(photos), None, "val")
    assert top1(method, source, device=CPU, workers=0, limit=4)["images"] == 4


@pytest.mark.parametrize("training", [True, False])
def test_the_method_is_left_as_it_was(classifier, photos, training):
    method = open_method(classifier).method.train(training)
    top1(method, open_folder(str(photos), None, "val"), device=CPU, workers=0)
    assert {module.training for module in method.modules()} == {training}


def test_a_method_without_a_classifier_is_refused(checkpoint, photos):
    with pytest.raises(RecipeError, match="MoCoV3 has no classifier, so no top-1; use --protocol knn, linear"):
        evaluate(checkpoint, photos, "top1", **QUIET)


def test_images_without_labels_are_refused(classifier, photos):
    source = open_folder(str(photos / "train" / "red"), None, "train")
    with pytest.raises(DataError, match="have no classes"):
        top1(open_method(classifier).method, source, device=CPU, workers=0)


def test_data_without_a_second_split_are_refused(classifier, photos):
    with pytest.raises(DataError, match=r"--data .*train: no second split; top-1 is measured on val/ or test/"):
        evaluate(classifier, photos / "train", "top1", **QUIET)


def test_more_classes_than_the_classifier_has_are_refused(classifier, photos, tmp_path):
    import shutil

    shutil.copytree(photos, tmp_path / "photos")
    for split in ("train", "val"):
        shutil.copytree(photos / split / "red", tmp_path / "photos" / split / "scarlet")
    with pytest.raises(DataError, match="the images have 4 classes, the checkpoint's classifier 3"):
        evaluate(classifier, tmp_path / "photos", "top1", **QUIET)

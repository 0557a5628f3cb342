"""How images are cut before they are evaluated on."""

import numpy as np
import pytest
import torch
from PIL import Image

from vitkiln.engine.data.folder import open_folder
from vitkiln.engine.errors import DataError
from vitkiln.engine.evaluate.images import Crop, Still, labels_of, pictures, subset
from vitkiln.engine.vocabulary import View


def noise(width, height, seed=0):
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


def test_pictures_of_the_encoders_own_small_size_are_not_touched():
    image = noise(32, 32)
    assert np.array_equal(Still(32)(image, 0), np.asarray(image))


def test_of_a_small_encoder_the_middle_of_the_whole_height_is_seen():
    image = noise(48, 32)
    assert np.array_equal(Still(32)(image, 0), np.asarray(image)[:, 8:40])


@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
def test_large_ones_are_scaled_to_256_and_224_is_cut_out(interpolation):
    image = noise(300, 300)
    filters = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}
    whole = np.asarray(image.resize((256, 256), filters[interpolation])).astype(int)[16:240, 16:240]
    assert np.abs(Still(224, interpolation)(image, 0).astype(int) - whole).max() <= 1


def test_the_rule_above_64_pixels_is_the_one_of_224():
    image = noise(200, 200)
    whole = np.asarray(image.resize((110, 110), Image.Resampling.BICUBIC)).astype(int)[7:103, 7:103]
    assert np.abs(Still(96)(image, 0).astype(int) - whole).max() <= 1


def test_crops_are_functions_of_seed_copy_and_number():
    image, view = noise(40, 50), View(size=16, scale=(0.08, 1.0))
    first = Crop(view, 0, 0)(image, 3)
    assert np.array_equal(first, Crop(view, 0, 0)(image, 3))
    for other in (Crop(view, 1, 0)(image, 3), Crop(view, 0, 1)(image, 3), Crop(view, 0, 0)(image, 4)):
        assert not np.array_equal(first, other)


def test_half_of_the_crops_are_mirrored():
    image = Image.fromarray(np.tile(np.arange(0, 256, 4, dtype=np.uint8)[None, :, None], (64, 1, 3)))
    crops = [Crop(View(size=16), 0, 0)(image, number) for number in range(200)]
    assert 70 < sum(int(crop[0, 0, 0]) > int(crop[0, -1, 0]) for crop in crops) < 130


@pytest.mark.parametrize("workers", [0, 2])
def test_images_come_in_the_order_asked_for_with_their_numbers(photos, workers):
    source = open_folder(str(photos), None, "train")
    asked = np.array([50, 3, 27, 41, 0])
    batches = list(pictures(source, Still(32), asked, batch_size=2, workers=workers))
    assert torch.cat([numbers for _, numbers in batches]).tolist() == asked.tolist()
    pixels = torch.cat([part for part, _ in batches])
    assert np.array_equal(pixels[1], Still(32)(source.image(3), 3))
    assert labels_of(source, torch.tensor([50, 0])).tolist() == [2, 0]


def test_broken_images_are_left_out_and_others_keep_their_numbers(photos, tmp_path, caplog):
    import shutil

    shutil.copytree(photos / "val", tmp_path / "some")
    (tmp_path / "some" / "blue" / "01.png").write_bytes(b"no image")
    source = open_folder(str(tmp_path / "some"), None, "train")
    ((_, numbers),) = pictures(source, Still(32), np.arange(5), batch_size=8, workers=0)
    assert numbers.tolist() == [0, 2, 3, 4]
    assert "01.png: not an image that Pillow can read; left out" in caplog.text


def test_no_image_at_all_is_an_error(tmp_path):
    (tmp_path / "red").mkdir()
    (tmp_path / "red" / "1.png").write_bytes(b"no image")
    source = open_folder(str(tmp_path), None, "train")
    with pytest.raises(DataError, match=r"none of 1 images can be read; the first is .*1\.png"):
        list(pictures(source, Still(32), np.arange(1), batch_size=8, workers=0))


def test_a_limit_takes_one_image_of_each_stretch() -> None:
    chosen = subset(1000, 100, seed=0)
    assert (chosen // 10 == np.arange(100)).all()
    assert (chosen == subset(1000, 100, seed=0)).all()
    assert (chosen != subset(1000, 100, seed=1)).any()
    assert (subset(10, 20, seed=0) == np.arange(10)).all()

"""Pictures are prepared as the processor of Gemma 3 in HF transformers prepares them."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image as PillowImage

from data.image_processing import PanAndScan, load_picture, resized, views

PHOTOS = Path("tests/assets/photos")
VIEWS = {"wide.jpg": 3, "tall.jpg": 3, "transparent.png": 1}


@pytest.mark.parametrize("name", VIEWS)
def test_pixels_are_within_one_grey_level_of_the_reference(name):
    with np.load(PHOTOS / "expected.npz") as expected:
        wanted = expected[name]
    found = views(load_picture(PHOTOS / name), (896, 896), PanAndScan())
    assert len(found) == len(wanted) == VIEWS[name]
    assert {view.shape for view in found} == {(896, 896, 3)}
    difference = np.stack(found)[:, 3::14, 3::14].astype(int) - wanted
    assert np.abs(difference).max() <= 1
    assert wanted.std() > 20


@pytest.mark.parametrize("i", range(3))
def test_pan_and_scan_cuts_every_size_as_the_reference_does(i):
    with np.load(PHOTOS / "pan_and_scan.npz") as expected:
        settings, sizes, wanted = (expected[f"{name}/{i}"] for name in ("settings", "sizes", "crops"))
    pan_and_scan = PanAndScan(int(settings[0]), int(settings[1]), float(settings[2]))
    counts = set()
    for (height, width), crops in zip(sizes.tolist(), wanted.tolist(), strict=True):
        found = [
            [rows.start, columns.start, rows.stop - rows.start, columns.stop - columns.start]
            for rows, columns in pan_and_scan.crops(height, width)
        ]
        assert found == [crop for crop in crops if crop[2]], (height, width)
        counts.add(len(found))
    assert counts >= {0, 2, 3}


def test_the_defaults_are_those_of_the_first_settings():
    with np.load(PHOTOS / "pan_and_scan.npz") as expected:
        assert PanAndScan() == PanAndScan(*expected["settings/0"].tolist())


@pytest.mark.parametrize("size", [(256, 1024), (1024, 256), (300, 1999), (700, 4000), (5000, 1280)])
def test_crops_are_equal_but_for_the_last_and_cover_the_picture_once(size):
    crops = PanAndScan().crops(*size)
    seen = np.zeros(size, int)
    for rows, columns in crops:
        seen[rows, columns] += 1
    assert (seen == 1).all()
    areas = [(rows.stop - rows.start) * (columns.stop - columns.start) for rows, columns in crops]
    assert len(set(areas[:-1])) == 1
    assert areas[-1] <= areas[0]


def test_a_picture_is_upright_and_one_that_is_no_square_is_squeezed(tmp_path):
    pixels = np.zeros((4, 8, 3), np.uint8)
    pixels[:, :4] = 255
    turned = PillowImage.fromarray(pixels)
    exif = turned.getexif()
    exif[0x0112] = 6  # to be turned by 90 degrees clockwise
    turned.save(tmp_path / "turned.png", exif=exif)
    found = load_picture(tmp_path / "turned.png")
    assert found.shape == (8, 4, 3)
    assert found[:4].min() == 255
    assert found[4:].max() == 0
    squeezed = resized(found, (2, 4))
    assert squeezed.shape == (2, 4, 3)
    assert squeezed[0].min() > 200
    assert squeezed[1].max() < 50


@pytest.mark.parametrize("mode", ["L", "P", "LA", "CMYK", "1"])
def test_every_mode_becomes_rgb(mode, tmp_path):
    pixels = np.full((3, 5, 3), 255, np.uint8)
    name = tmp_path / ("picture.jpg" if mode == "CMYK" else "picture.png")
    PillowImage.fromarray(pixels).convert(mode).save(name)
    np.testing.assert_array_equal(load_picture(name), pixels)


def test_what_is_no_picture_is_refused_by_its_name(tmp_path):
    (tmp_path / "text.jpg").write_text("no picture")
    for name in ("text.jpg", "absent.png"):
        with pytest.raises(ValueError, match=rf"{name} is no picture that can be read .*give a PNG"):
            load_picture(tmp_path / name)
    with pytest.raises(ValueError, match=r"min_crop_size, max_num_crops and min_ratio are \(256, 1, 1\.2\)"):
        PanAndScan(max_num_crops=1)

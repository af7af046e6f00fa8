"""Augmented images: a function of seed, document and epoch; small moves and other light, where they are wanted."""

import numpy as np
import pytest

from configs.schema import parse
from data.augment import AugmentConfig, augmented
from data.elements import Image
from data.layout import RowShape
from data.lerobot import LeRobotDataset
from data.pipeline import Pipeline, one_pass
from data.robots import EmbodimentConfig, EpisodesConfig, transform_of
from data.source import VariedSource
from tests.data.tiny_robots import FRONT, SIZE, write_arm
from tests.data.tiny_words import Words

ROW = RowShape(24, 1, (SIZE, SIZE), vectors=1, chunk=2, width=5)
STILL = {"brightness": 0.0, "contrast": 0.0, "saturation": 0.0}
FIXED = {"crop": 1.0, "rotation": 0.0}


def dot(size=101, at=(50, 50)):
    """A bright disc on grey."""
    y, x = np.mgrid[:size, :size]
    pixels = np.full((size, size, 3), 100, np.uint8)
    pixels[(y - at[0]) ** 2 + (x - at[1]) ** 2 <= 25] = 250
    return pixels


def centre(pixels):
    y, x = np.nonzero(pixels[..., 0] > 200)
    return np.array([y.mean(), x.mean()])


def one(pixels, config, epoch):
    return augmented((pixels,), ("front",), config, (0, "arm", 0, epoch))[0]


def test_without_any_change_asked_for_there_is_none():
    pixels = np.random.default_rng(0).integers(0, 256, (20, 30, 3), np.uint8)
    assert (one(pixels, AugmentConfig(**STILL, **FIXED), 0) == pixels).all()


def test_a_rotation_turns_about_the_middle_by_at_most_the_angle_asked_for():
    config, angles = AugmentConfig(**STILL, crop=1.0, rotation=5.0), []
    for epoch in range(200):
        np.testing.assert_allclose(centre(one(dot(), config, epoch)), (50, 50), atol=0.3)
        y, x = centre(one(dot(at=(50, 90)), config, epoch)) - 50
        np.testing.assert_allclose(np.hypot(y, x), 40, atol=0.5)
        angles.append(np.degrees(np.arctan2(-y, x)))
    assert -5.3 < min(angles) < -4.5
    assert 4.5 < max(angles) < 5.3
    assert abs(np.mean(angles)) < 0.7  # standard error 0.2


def test_a_crop_magnifies_by_its_share_and_lies_anywhere_in_the_image():
    config, places = AugmentConfig(**STILL, crop=0.9, rotation=0.0), []
    left, right = dot(at=(50, 40)), dot(at=(50, 60))
    for epoch in range(200):
        a, b = centre(one(left, config, epoch)), centre(one(right, config, epoch))
        np.testing.assert_allclose(b - a, (0, 20 / 0.9), atol=0.6)
        places.append(centre(one(dot(), config, epoch)))
    # The middle of a crop is 0.45 .. 0.55 of the image, so the disc moves by 0.05 / 0.9 of it at most.
    assert np.abs(np.array(places) - 50).max() < 0.06 / 0.9 * 101
    assert (np.array(places).min(axis=0) < 46).all()
    assert (np.array(places).max(axis=0) > 54).all()


def test_brightness_scales_all_pixels_by_a_factor_within_the_jitter():
    config = AugmentConfig(**FIXED, brightness=0.3, contrast=0.0, saturation=0.0)
    factors = [one(np.full((8, 8, 3), 100, np.uint8), config, epoch).mean() / 100 for epoch in range(300)]
    assert 0.69 <= min(factors) < 0.73
    assert 1.27 < max(factors) <= 1.31


def test_contrast_keeps_the_mean_and_saturation_keeps_grey_grey():
    grey = np.random.default_rng(0).integers(80, 170, (32, 32, 1), np.uint8).repeat(3, axis=2)
    for epoch in range(20):
        changed = one(grey, AugmentConfig(**FIXED, brightness=0.0, contrast=0.4, saturation=0.0), epoch)
        assert abs(changed.mean() - grey.mean()) < 1.5
        assert (one(grey, AugmentConfig(**FIXED, **STILL | {"saturation": 0.5}), epoch) == grey).all()


def test_a_wrist_camera_changes_its_colours_alone_and_no_other_camera():
    pixels = dot()
    both = AugmentConfig(wrist=("wrist",), **STILL)
    front, wrist = augmented((pixels, pixels), ("front", "wrist"), both, (0, 1, 2))
    assert (wrist == pixels).all()
    assert (front != pixels).any()
    coloured = augmented((pixels, pixels), ("front", "wrist"), AugmentConfig(wrist=("wrist",)), (0, 1, 2))
    assert len(np.unique(coloured[1].reshape(-1, 3), axis=0)) == 2  # the disc and the grey, sharp as before
    moving = augmented((pixels, pixels), ("front", "wrist"), AugmentConfig(), (0, 1, 2))
    assert (coloured[0] == moving[0]).all()


@pytest.fixture(scope="module")
def sections(tmp_path_factory):
    root = write_arm(tmp_path_factory.mktemp("sets") / "arm3", 5, 3, (5, 4))
    fields = {"root": root, "embodiment": "arm3", "num_slots": 4, "chunk": 2}
    return EmbodimentConfig(index=0, proprio_width=5, action_width=3), fields


def documents_of(sections, seed=0, **fields):
    robot, shared = sections
    source = parse(EpisodesConfig, shared | {"augment": {"wrist": ()}} | fields)
    transform, _ = transform_of(robot, "arm3", [source])
    return source.build(robot.embodiment("arm3"), transform, Words(64), seed=seed)


def picture(document):
    return next(element.pixels for element in document if isinstance(element, Image))


def test_training_sees_every_epoch_another_picture_of_the_same_document(sections):
    documents, again, other = (documents_of(sections, seed) for seed in (3, 3, 4))
    assert isinstance(documents, VariedSource)
    seen = [picture(documents.visit(2, epoch)) for epoch in range(4)]
    assert len({pixels.tobytes() for pixels in seen}) == 4
    for epoch in (3, 0, 1):
        assert (picture(again.visit(2, epoch)) == seen[epoch]).all()
        assert (picture(other.visit(2, epoch)) != seen[epoch]).any()
    assert (picture(documents_of(sections, seed=3, stride=2).visit(1, 0)) == seen[0]).all()  # the same frame
    for plain, changed in zip(documents[2], documents.visit(2, 0), strict=True):  # nothing else changes
        if not isinstance(plain, Image):
            for name in vars(plain):
                np.testing.assert_array_equal(getattr(plain, name), getattr(changed, name))


def test_a_document_outside_training_is_as_it_was_recorded(sections):
    documents, recorded = documents_of(sections), LeRobotDataset(sections[1]["root"])
    seen = [batch.media["image"][0, 0] for batch in one_pass(documents, ROW, 1)]
    expected = [recorded.frame(e, s)[FRONT] for e, length in enumerate((5, 4)) for s in range(length)]
    assert sorted(pixels.tobytes() for pixels in seen) == sorted(pixels.tobytes() for pixels in expected)


def test_batches_are_augmented_anew_every_epoch_and_alike_after_a_resume(sections):
    def pipeline():
        return Pipeline({"arm": documents_of(sections)}, {"arm": 1.0}, ROW, 3, seed=1, window=9)

    rows = [pipeline().row(r) for r in range(18)]  # 9 documents, one a row
    pictures = [row.media["image"][0].tobytes() for row in rows]
    assert len(set(pictures)) == 18
    assert sorted(row.values["proprio"][0].tobytes() for row in rows[:9]) == sorted(
        row.values["proprio"][0].tobytes() for row in rows[9:]
    )
    resumed = pipeline().iterator(start_row=12)
    assert [pixels.tobytes() for pixels in next(resumed).media["image"][:, 0]] == pictures[12:15]
    resumed.close()


def test_what_an_augmentation_cannot_be_is_refused(sections):
    _, fields = sections
    plan = {"plan": "annotation.plan", "plan_length": 4, "plan_bins": 16}
    for changes, message in (
        ({"augment": {"crop": 0.0}}, "crop is 0.0; it must be a share in (0, 1]"),
        ({"augment": {"rotation": 90.0}}, "rotation is 90.0; it must be 0 .. 45 degrees"),
        ({"augment": {"contrast": 1.0}}, "contrast is 1.0; it must be in [0, 1)"),
        ({"augment": {"wrist": ("hand",)}}, "augment.wrist names ['hand']; cameras are ['observation.images.front']"),
        ({"augment": {}} | plan, "set augment.crop to 1 and augment.rotation to 0"),
    ):
        with pytest.raises(ValueError) as error:
            parse(EpisodesConfig, fields | changes)
        assert message in str(error.value)
    parse(EpisodesConfig, fields | {"augment": {"crop": 1.0, "rotation": 0.0}} | plan)

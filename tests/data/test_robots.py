"""Robot sections of a config: what they refuse, how they hold episodes out, and transforms that can be undone."""

import json

import numpy as np
import pytest

from configs.schema import parse
from data.elements import Chunk, Image, Vector
from data.episodes import Embodiment
from data.lerobot import LeRobotDataset, LeRobotWriter
from data.robots import EmbodimentConfig, EpisodesConfig, PointingConfig, transform_of
from data.statistics import Statistics
from data.transforms import ABSOLUTE, Compose, Normalise, RelativeActions, Transform
from tests.data.tiny_robots import write_arm
from tests.data.tiny_words import Words

ARM = {"index": 0, "proprio_width": 5, "action_width": 3}
EPISODES = {"root": "somewhere", "embodiment": "arm3", "num_slots": 4, "chunk": 4}
POINTING = {"root": "somewhere", "num_slots": 4, "num_points": 2}
LENGTHS = (5, 4, 3, 6, 5, 4, 3, 6, 5, 4)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return write_arm(tmp_path_factory.mktemp("sets") / "arm3", 5, 3, LENGTHS)


@pytest.mark.parametrize(
    ("section", "fields", "message"),
    [
        (EmbodimentConfig, ARM | {"index": -1}, "index is -1; it must be at least 0"),
        (EmbodimentConfig, ARM | {"proprio_width": 0}, "proprio_width is 0; it must be at least 1"),
        (EmbodimentConfig, ARM | {"action_width": 0}, "action_width is 0; it must be at least 1"),
        (EmbodimentConfig, ARM | {"relative": -1}, "relative is -1; it must be 0 .. 3"),
        (EmbodimentConfig, ARM | {"relative": 4}, "relative is 4; it must be 0 .. 3"),
        (EmbodimentConfig, ARM | {"proprio_width": 2, "relative": 3}, "relative is 3; it must be 0 .. 2"),
        (EmbodimentConfig, ARM | {"relative": (0, 1)}, "relative is (0, 1); it must name for each of 3 actions"),
        (EmbodimentConfig, ARM | {"relative": (0, 5, -1)}, "one of 5 dims of proprioception, counted from 0, or -1"),
        (EmbodimentConfig, ARM | {"normalise": "minmax"}, "normalise is 'minmax'; it must be one of"),
        (EpisodesConfig, EPISODES | {"num_slots": 0}, "num_slots is 0; it must be at least 1"),
        (EpisodesConfig, EPISODES | {"chunk": 0}, "chunk is 0; it must be at least 1"),
        (EpisodesConfig, EPISODES | {"stride": 0}, "stride is 0; it must be at least 1"),
        (EpisodesConfig, EPISODES | {"resize": (0, 4)}, "resize is (0, 4); it must be a height and a width in pixels"),
        (EpisodesConfig, EPISODES | {"holdout": 1.0}, "holdout is 1.0; it must be a share in [0, 1)"),
        (EpisodesConfig, EPISODES | {"continuous": False}, "no action is predicted; set continuous or"),
        (EpisodesConfig, EPISODES | {"token_steps": (4,)}, "token_steps (4,) lie outside 0..3"),
        (EpisodesConfig, EPISODES | {"mu_law": True}, "mu_law has no effect without token_steps"),
        (EpisodesConfig, EPISODES | {"token_steps": (0,), "fast": "f"}, "fast codes whole chunks; remove one of them"),
        (EpisodesConfig, EPISODES | {"goal_dropout": 0.5}, "goal_dropout is 0.5, but goal is 'language'"),
        (PointingConfig, POINTING | {"num_slots": 0}, "num_slots is 0; it must be at least 1"),
        (PointingConfig, POINTING | {"num_points": 0}, "num_points is 0; it must be at least 1"),
        (PointingConfig, POINTING | {"num_bins": 1}, "num_bins is 1; it must be at least 2"),
        (PointingConfig, POINTING | {"stride": 0}, "stride is 0; it must be at least 1"),
        (PointingConfig, POINTING | {"holdout": -0.1}, "holdout is -0.1; it must be a share in [0, 1)"),
    ],
)
def test_a_section_refuses_what_cannot_work_by_its_path_in_the_config(section, fields, message):
    with pytest.raises(ValueError) as error:
        parse(section, fields, "config.s")
    assert str(error.value).startswith("config.s")
    assert message in str(error.value)


def test_a_dataset_that_is_not_there_is_refused_with_its_path(tmp_path):
    config = EpisodesConfig(**EPISODES | {"root": str(tmp_path / "nothing")})
    for build in (
        lambda: transform_of(EmbodimentConfig(**ARM), "arm3", [config]),
        lambda: PointingConfig(**POINTING | {"root": config.root}).build(Words(64), seed=0),
    ):
        with pytest.raises(ValueError, match=r"nothing' does not exist; record the dataset first or correct the path"):
            build()


@pytest.mark.parametrize(("holdout", "held_out"), [(0.2, [0, 9]), (0.26, [0, 4, 9]), (0.01, [0])])
def test_evenly_spaced_episodes_are_held_out_and_every_episode_is_in_one_part(root, holdout, held_out):
    episodes = EpisodesConfig(**EPISODES | {"root": root, "holdout": holdout})
    robot = Embodiment("arm3", 0, 5, 3)
    pointing = PointingConfig(**POINTING | {"root": root, "holdout": holdout, "num_bins": 64})
    for build in (
        lambda part: episodes.build(robot, Compose(()), Words(64), part),
        lambda part: pointing.build(Words(64), 0, part),
    ):
        train, validation = build("train"), build("validation")
        assert sorted(set(validation.episode_of.tolist())) == held_out
        assert sorted({*train.episode_of.tolist(), *held_out}) == list(range(len(LENGTHS)))
        assert not set(train.episode_of.tolist()) & set(held_out)
        assert len(train) + len(validation) == sum(LENGTHS)


def test_without_holdout_training_has_every_episode(root):
    source = EpisodesConfig(**EPISODES | {"root": root}).build(Embodiment("arm3", 0, 5, 3), Compose(()), Words(64))
    assert len(source) == sum(LENGTHS)


@pytest.mark.parametrize("normalise", ["mean_std", "quantile"])
def test_the_transform_of_a_robot_can_be_undone(root, normalise):
    config = EmbodimentConfig(**ARM, relative=2, normalise=normalise)
    source = EpisodesConfig(**EPISODES | {"root": root})
    transform, statistics = transform_of(config, "arm3", [source])
    assert statistics.embodiment == "arm3"
    rng = np.random.default_rng(0)
    sample = {"proprio": rng.normal(5, 2, 5).astype("f4"), "actions": rng.normal(-3, 4, (4, 3)).astype("f4")}
    stored = Transform.from_dict(transform.to_dict())
    for undone in (transform.inverse(transform(sample)), stored.inverse(transform(sample))):
        for name, values in sample.items():
            np.testing.assert_allclose(undone[name], values, atol=1e-5)


def test_relative_actions_are_offsets_from_the_state_before_they_are_normalised(root):
    config = EmbodimentConfig(**ARM, relative=2)
    source = EpisodesConfig(**EPISODES | {"root": root})
    transform, statistics = transform_of(config, "arm3", [source])
    relative, normalise = transform.transforms
    assert relative == RelativeActions((0, 1, ABSOLUTE))
    assert normalise == Normalise(statistics, "mean_std")
    dataset = LeRobotDataset(root)
    state, action = (dataset.column(name).astype("f8") for name in ("observation.state", "action"))
    document = source.build(config.embodiment("arm3"), transform, Words(64))[0]
    proprio, chunk = (next(e for e in document if isinstance(e, kind)) for kind in (Vector, Chunk))
    np.testing.assert_allclose(proprio.values, (state[0] - state.mean(0)) / state.std(0), atol=1e-5)
    offsets = np.concatenate([action[:4, :2] - state[0, :2], action[:4, 2:]], axis=1)
    feature = statistics.features["actions"]
    np.testing.assert_allclose(chunk.values, (offsets - feature.mean) / feature.std, atol=1e-5)


def test_statistics_bring_all_training_chunks_to_mean_zero_and_deviation_one(root):
    config, source = EmbodimentConfig(**ARM, relative=3), EpisodesConfig(**EPISODES | {"root": root})
    transform, _ = transform_of(config, "arm3", [source])
    documents = source.build(config.embodiment("arm3"), transform, Words(64))
    chunks = [e for i in range(len(documents)) for e in documents[i] if isinstance(e, Chunk)]
    values = np.concatenate([chunk.values[chunk.mask[:, 0]] for chunk in chunks])
    np.testing.assert_allclose(values.mean(0), 0, atol=1e-5)
    np.testing.assert_allclose(values.std(0), 1, atol=1e-5)


def test_statistics_are_those_of_the_episodes_that_training_sees(root):
    fields = EPISODES | {"root": root, "holdout": 0.2}
    _, statistics = transform_of(EmbodimentConfig(**ARM), "arm3", [EpisodesConfig(**fields)])
    states, starts = LeRobotDataset(root).column("observation.state"), np.cumsum((0, *LENGTHS))
    seen = states[starts[1] : starts[9]].astype("f8")  # the first and the last are held out
    assert statistics.features["proprio"].count == len(seen) == sum(LENGTHS[1:9])
    np.testing.assert_allclose(statistics.features["proprio"].mean, seen.mean(0), rtol=1e-6)
    np.testing.assert_allclose(statistics.features["proprio"].max, seen.max(0))
    chunks = sum(min(4, length - t) for length in LENGTHS[1:9] for t in range(length))
    assert statistics.features["actions"].count == chunks


def test_statistics_of_a_robot_are_those_of_all_its_datasets_together(root, tmp_path):
    other = write_arm(tmp_path / "other", 5, 3, (20, 30))
    sources = [EpisodesConfig(**EPISODES | {"root": path}) for path in (root, other, root)]
    _, statistics = transform_of(EmbodimentConfig(**ARM), "arm3", sources)
    both = np.concatenate([LeRobotDataset(path).column("observation.state") for path in (root, other)]).astype("f8")
    assert statistics.features["proprio"].count == len(both)  # a dataset that two sources name counts once
    np.testing.assert_allclose(statistics.features["proprio"].std, both.std(0), rtol=1e-6)
    np.testing.assert_allclose(statistics.features["proprio"].q01, np.percentile(both, 1, axis=0), rtol=1e-6)
    resized = EpisodesConfig(**EPISODES | {"root": other, "resize": (8, 8)})
    with pytest.raises(ValueError, match=r"resize differs among the sources of embodiment 'arm3'"):
        transform_of(EmbodimentConfig(**ARM), "arm3", [sources[0], resized])


def test_relative_actions_are_declared_dim_by_dim(root):
    """The second action stays absolute, the others are offsets from proprioception 4 and 0."""
    transform, _ = transform_of(
        EmbodimentConfig(**ARM, relative=(4, -1, 0)), "arm3", [EpisodesConfig(**EPISODES | {"root": root})]
    )
    relative = transform.transforms[0]
    assert relative == RelativeActions((4, ABSOLUTE, 0))
    sample = {"proprio": np.array([1, 2, 3, 4, 5], "f4"), "actions": np.array([[10, 20, 30]], "f4")}
    assert relative(sample)["actions"].tolist() == [[5, 20, 29]]
    narrow = EmbodimentConfig(index=0, proprio_width=1, action_width=3, relative=(-1, -1, 0))
    assert narrow.offsets() == (RelativeActions((-1, -1, 0)),)
    assert EmbodimentConfig(**ARM, relative=(-1, -1, -1)).offsets() == EmbodimentConfig(**ARM).offsets() == ()
    assert EmbodimentConfig(**ARM, relative=2).offsets() == EmbodimentConfig(**ARM, relative=(0, 1, -1)).offsets()


def test_absolute_actions_are_only_normalised(root):
    transform, _ = transform_of(EmbodimentConfig(**ARM), "arm3", [EpisodesConfig(**EPISODES | {"root": root})])
    assert [type(part) for part in transform.transforms] == [Normalise]


def test_a_dataset_with_names_and_image_sizes_of_its_own_needs_only_its_section(tmp_path):
    features = {
        "top": {"dtype": "image", "shape": [24, 32, 3], "names": None},
        "wrist": {"dtype": "image", "shape": [16, 16, 3], "names": None},
        "joints": {"dtype": "float32", "shape": [5], "names": None},
        "command": {"dtype": "float32", "shape": [3], "names": None},
    }
    rng = np.random.default_rng(0)
    with LeRobotWriter(tmp_path / "own", 10, features, "own") as writer:
        frames = {name: list(rng.random((6, f["shape"][0])).astype("f4")) for name, f in list(features.items())[2:]}
        frames |= {name: list(np.full((6, *features[name]["shape"]), 7, np.uint8)) for name in ("top", "wrist")}
        writer.add_episode(frames, "do it")
    names = {"cameras": ("top", "wrist"), "proprio": "joints", "action": "command", "resize": (16, 16)}
    source = parse(EpisodesConfig, EPISODES | {"root": str(tmp_path / "own")} | names)
    config = EmbodimentConfig(**ARM)
    transform, _ = transform_of(config, "arm3", [source])
    document = source.build(config.embodiment("arm3"), transform, Words(64))[0]
    images = [element.pixels for element in document if isinstance(element, Image)]
    assert [image.shape for image in images] == [(16, 16, 3)] * 2
    assert all((image == 7).all() for image in images)
    assert transform.to_dict() == Transform.from_dict(transform.to_dict()).to_dict()  # travels in a checkpoint


def test_given_statistics_are_kept_whatever_the_data(root, tmp_path):
    """A run that starts from weights of another run normalises as they were trained to expect."""
    source = EpisodesConfig(root=root, embodiment="arm3", num_slots=4, chunk=4)
    _, own = transform_of(EmbodimentConfig(**ARM), "arm3", [source])
    doubled = own.to_dict()
    doubled["features"]["proprio"]["std"] = [2 * std for std in doubled["features"]["proprio"]["std"]]
    path = tmp_path / "statistics.json"
    path.write_text(json.dumps({"arm3": doubled}))
    transform, kept = transform_of(EmbodimentConfig(**ARM, statistics=str(path)), "arm3", [source])
    assert kept == Statistics.from_dict(doubled)
    sample = {"proprio": np.array(own.features["proprio"].mean) + own.features["proprio"].std}
    np.testing.assert_allclose(transform(sample)["proprio"], 0.5, atol=1e-5)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "statistics is .*statistics.json'; it must be a checkpoint's statistics.json that has 'arm3'"),
        ({"arm9": {}}, "statistics.json that has 'arm3': 'arm3'"),
        ("wider", "which has widths .*'proprio': 6.*; this robot has .*'proprio': 5.*: name another file, or None"),
    ],
)
def test_given_statistics_of_another_robot_are_refused(root, tmp_path, content, message):
    path = tmp_path / "statistics.json"
    if content == "wider":
        values = {"proprio": np.random.default_rng(0).normal(size=(9, 6)), "actions": np.ones((9, 3))}
        path.write_text(json.dumps({"arm3": Statistics.from_values("arm3", **values).to_dict()}))
    elif content is not None:
        path.write_text(json.dumps(content))
    config = EmbodimentConfig(**ARM, statistics=str(path))
    with pytest.raises(ValueError, match=message):
        transform_of(config, "arm3", [EpisodesConfig(root=root, embodiment="arm3", num_slots=4, chunk=4)])

"""Robot episodes as documents: the order of their parts, their costs, their targets, and bad records."""

import pathlib

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data.action_codes import StepCodes
from data.elements import Chunk, CorruptRecord, Image, Tokens, Vector
from data.episodes import (
    Embodiment,
    EpisodeFormat,
    EpisodeSource,
    action_tokens,
    episode_statistics,
    observation_document,
)
from data.goals import Goal
from data.layout import cost_of
from data.lerobot import LeRobotDataset, LeRobotWriter
from data.source import Source
from data.transforms import ABSOLUTE, Bins, Compose, Normalise, RelativeActions, ResizeImage
from tests.data.tiny_words import Words

SHARED = pathlib.Path(__file__).parents[2] / "../shared/data"
V21 = pathlib.Path(__file__).parents[1] / "assets/lerobot_v21"
FRONT = "observation.images.front"
ARM = Embodiment("arm3", 2, proprio_width=5, action_width=3)
LENGTHS = (7, 3)
TASKS = ("reach the red cube", "push it away")
RELATIVE = RelativeActions((1, 2, ABSOLUTE))


def state(episode, step):
    return np.array([episode, 10, 20, 30, step], np.float32)


def action(episode, step):
    return np.array([10 + step, 20 - step, episode], np.float32)


@pytest.fixture
def root(tmp_path):
    features = {
        FRONT: {"dtype": "image", "shape": [4, 6, 3], "names": None},
        "observation.state": {"dtype": "float32", "shape": [5], "names": None},
        "action": {"dtype": "float32", "shape": [3], "names": None},
    }
    with LeRobotWriter(tmp_path / "set", 5, features, "arm3") as writer:
        for episode, length in enumerate(LENGTHS):
            frames = {
                FRONT: [np.full((4, 6, 3), 10 * episode + t, np.uint8) for t in range(length)],
                "observation.state": [state(episode, t) for t in range(length)],
                "action": [action(episode, t) for t in range(length)],
            }
            writer.add_episode(frames, TASKS[episode])
    return tmp_path / "set"


def source_of(root, transform=RELATIVE, embodiment=ARM, episodes=None, **form):
    form = EpisodeFormat(**{"num_slots": 4, "chunk_length": 4} | form)
    return EpisodeSource(LeRobotDataset(root), embodiment, Words(256), transform, form, episodes)


def test_a_document_is_bos_image_instruction_proprioception_action_and_the_chunk(root):
    document = source_of(root)[2]
    assert [type(element) for element in document] == [Tokens, Image, Tokens, Vector, Tokens, Chunk]
    bos, image, text, vector, marker, chunk = document
    assert (bos.ids.tolist(), text.ids.tolist(), marker.ids.tolist()) == ([1], [15, 13, 13, 14], [5])
    assert sum(part.weights.sum() for part in (bos, text, marker)) == 0
    assert (image.pixels == 2).all()
    assert image.num_slots == 4
    assert vector.values.tolist() == state(0, 2).tolist()
    assert (vector.embodiment, chunk.embodiment) == (2, 2)


def test_the_chunk_holds_the_next_actions_relative_to_the_state_now(root):
    chunk = source_of(root)[2][-1]
    assert chunk.values.tolist() == [[12 - 10, 18 - 20, 0], [3, -3, 0], [4, -4, 0], [5, -5, 0]]
    assert chunk.mask.all()


def test_the_chunk_is_masked_past_the_end_of_its_episode(root):
    source = source_of(root)
    index = int(np.flatnonzero((source.episode_of == 0) & (source.step_of == 5))[0])
    chunk = source[index][-1]
    assert chunk.mask.tolist() == [[True] * 3] * 2 + [[False] * 3] * 2
    assert (
        chunk.values[2:].tolist() == [[6, -6, 0]] * 2
    )  # the last action of this episode, not the next episode's first
    assert chunk.mask.shape == chunk.values.shape


def test_action_tokens_are_the_bins_of_the_same_chunk_at_the_chosen_steps(root):
    bins = Bins(101, -10, 10)
    source = source_of(root, codes=StepCodes((0, 3), bins), token_weight=0.5)
    index = int(np.flatnonzero((source.episode_of == 0) & (source.step_of == 5))[0])
    *_, chunk, tokens = source[index]
    assert tokens.kind == "action"
    assert tokens.ids.tolist() == [1000 + int(i) for i in bins.encode(chunk.values[[0, 3]]).ravel()]
    assert tokens.weights.tolist() == [0.5] * 3 + [0] * 3  # step 3 lies past the end
    decoded = source.form.codes.decode((tokens.ids - 1000).tolist(), 3)
    np.testing.assert_allclose(decoded, chunk.values[[0, 3]], atol=10 / 101 + 1e-6)


def test_tokens_can_stand_without_the_chunk(root):
    document = source_of(root, continuous=False, codes=StepCodes((0,), Bins(16)))[0]
    assert not any(isinstance(element, Chunk) for element in document)
    assert document[-1].kind == "action"


@pytest.mark.parametrize("form", [{}, {"stride": 3}, {"codes": StepCodes((0, 2), Bins(16))}])
def test_costs_are_those_of_the_documents(root, form):
    source = source_of(root, **form)
    costs = source.costs()
    assert costs.dtype == np.int32
    assert costs.tolist() == [[c.slots, c.images, c.vectors] for c in (cost_of(source[i]) for i in range(len(source)))]


def test_costs_are_known_without_decoding_a_single_image(root, monkeypatch):
    source = source_of(root)
    assert isinstance(source, Source)
    monkeypatch.setattr(LeRobotDataset, "frame", None)
    assert len(source.costs()) == len(source) == sum(LENGTHS)


def test_a_stride_takes_every_nth_frame_of_each_episode_and_episodes_can_be_chosen(root):
    source = source_of(root, stride=3)
    assert list(zip(source.episode_of.tolist(), source.step_of.tolist(), strict=True)) == [
        (0, 0),
        (0, 3),
        (0, 6),
        (1, 0),
    ]
    assert source_of(root, episodes=[1]).step_of.tolist() == [0, 1, 2]
    with pytest.raises(ValueError, match=r"episodes must lie in 0\.\.1"):
        source_of(root, episodes=[2])


def test_the_prompt_of_training_is_the_prompt_of_serving(root):
    transform = Compose((ResizeImage(2, 3), RELATIVE))
    trained = source_of(root, transform)[4][:-1]
    sample = {"images": (np.full((4, 6, 3), 4, np.uint8),), "instruction": TASKS[0], "proprio": state(0, 4)}
    served = observation_document(transform(sample), vocabulary=Words(256), embodiment=2, num_slots=4)
    assert len(served) == len(trained)
    for a, b in zip(served, trained, strict=True):
        assert type(a) is type(b)
        for name in vars(a):
            assert np.array_equal(getattr(a, name), getattr(b, name)), name


def test_a_plan_is_said_in_codes_and_stands_as_numbers_before_the_proprioception(root):
    sample = {"images": (), "instruction": "go", "proprio": state(0, 4), "plan": np.array([0.0, 990.0, 1000.0])}
    document = observation_document(
        sample, vocabulary=Words(256), embodiment=2, num_slots=4, plan_bins=Bins(10, 0, 1000), plan_weight=0.5
    )
    _, _, prompt, codes, vector, _ = document
    assert prompt.ids.tolist() == [6]
    assert (codes.ids.tolist(), codes.weights.tolist(), codes.kind) == ([1000, 1009, 1009], [0.5] * 3, "point")
    np.testing.assert_allclose(vector.values, [-0.9, 0.9, 0.9, *state(0, 4)], rtol=1e-6)


def test_documents_are_pure_functions_of_their_index(root):
    first, again = source_of(root), source_of(root)
    for index in (3, 0, 3):
        for a, b in zip(first[index], again[index], strict=True):
            assert all(np.array_equal(getattr(a, name), getattr(b, name)) for name in vars(a))


def test_statistics_are_those_of_the_transformed_chunks_inside_the_episodes(root):
    dataset = LeRobotDataset(root)
    form = EpisodeFormat(num_slots=4, chunk_length=4)
    statistics = episode_statistics(dataset, "arm3", form, RELATIVE)
    chunks = [element for i in range(10) for element in source_of(root)[i] if isinstance(element, Chunk)]
    values = np.concatenate([chunk.values[chunk.mask].reshape(-1, 3) for chunk in chunks]).astype(np.float64)
    np.testing.assert_allclose(statistics.features["actions"].mean, values.mean(axis=0), rtol=1e-6)
    np.testing.assert_allclose(statistics.features["actions"].q99, np.percentile(values, 99, axis=0), rtol=1e-6)
    assert statistics.features["actions"].count == len(values)
    assert statistics.features["proprio"].count == sum(LENGTHS)
    assert statistics == episode_statistics(dataset, "arm3", form, RELATIVE)


def test_the_policy_gets_back_absolute_actions(root):
    dataset, form = LeRobotDataset(root), EpisodeFormat(num_slots=4, chunk_length=4)
    transform = Compose((RELATIVE, Normalise(episode_statistics(dataset, "arm3", form, RELATIVE))))
    document = source_of(root, transform)[1]
    predicted = {"proprio": document[3].values, "actions": document[-1].values}
    absolute = transform.inverse(predicted)["actions"]
    np.testing.assert_allclose(absolute, [action(0, t) for t in range(1, 5)], atol=1e-4)


def damaged(root, name, row, value):
    path = root / "data/chunk-000/file-000.parquet"
    table = pq.read_table(path)
    rows = table[name].to_pylist()
    rows[row] = value
    column = pa.array(rows, table.schema.field(name).type)
    pq.write_table(table.set_column(table.schema.get_field_index(name), name, column), path)


@pytest.mark.parametrize("name", ["action", "observation.state"])
def test_nan_spoils_the_documents_that_would_hold_it(root, name):
    width = {"action": 3, "observation.state": 5}[name]
    damaged(root, name, 4, [float("nan")] * width)
    source = source_of(root)
    spoiled = [1, 2, 3, 4] if name == "action" else [4]
    for index in range(len(source)):
        if index in spoiled:
            with pytest.raises(CorruptRecord, match=rf"file-000\.parquet: episode 0 frame {index}: NaN or infinity"):
                source[index]
        else:
            assert np.isfinite(source[index][-1].values).all()
    statistics = episode_statistics(source.dataset, "arm3", source.form, RELATIVE)
    assert np.isfinite(statistics.features["actions"].mean).all()


def test_a_broken_image_is_a_corrupt_record(root):
    damaged(root, FRONT, 3, {"bytes": b"\x89PNG", "path": None})
    source = source_of(root)
    with pytest.raises(CorruptRecord, match=r"episode 0 frame 3, feature 'observation\.images\.front'"):
        source[3]
    assert source[2][1].pixels.shape == (4, 6, 3)


def test_a_task_that_is_not_listed_is_a_corrupt_record(root):
    damaged(root, "task_index", 9, 17)
    source = source_of(root)
    assert len(source.costs()) == 10
    with pytest.raises(CorruptRecord, match="episode 1 frame 2: task_index 17 is not in the task list"):
        source[9]


def test_another_embodiment_is_refused(root):
    with pytest.raises(ValueError, match="'action' has 3 dims, embodiment 'arm7' has 7; choose the embodiment"):
        source_of(root, embodiment=Embodiment("arm7", 0, proprio_width=5, action_width=7))
    form = EpisodeFormat(num_slots=4, chunk_length=4)
    foreign = Normalise(episode_statistics(LeRobotDataset(root), "arm9", form))
    with pytest.raises(ValueError, match="statistics are those of 'arm9', the embodiment is 'arm3'"):
        source_of(root, Compose((RELATIVE, foreign)))


def test_more_bins_than_codes_are_refused(root):
    with pytest.raises(ValueError, match="code 299 is outside"):
        source_of(root, codes=StepCodes((0,), Bins(300)))


@pytest.mark.parametrize(
    ("form", "message"),
    [
        ({"codes": StepCodes((4,), Bins(8))}, r"lie outside 0\.\.3"),
        ({"stride": 0}, "must be at least 1"),
    ],
)
def test_formats_that_cannot_work_are_refused(form, message):
    with pytest.raises(ValueError, match=message):
        EpisodeFormat(num_slots=4, chunk_length=4, **form)


def test_token_weights_follow_validity():
    codes = StepCodes((0, 1), Bins(8))
    tokens = action_tokens(np.zeros((2, 2), np.float32), np.array([True, False]), codes, 0.5, Words(256))
    assert tokens.weights.tolist() == [0.5, 0.5, 0, 0]


def told(document):
    """Ids of the tokens and pixels of the pictures before the vector, in order."""
    before = document[: next(i for i, element in enumerate(document) if isinstance(element, Vector))]
    return [e.ids.tolist() if isinstance(e, Tokens) else int(e.pixels[0, 0, 0]) for e in before]


def test_a_goal_is_a_picture_of_a_later_step_before_or_in_place_of_the_words(root):
    """Pictures are 10 * episode + step everywhere; id 7 stands before a goal."""
    words = [15, 13, 13, 14]
    assert told(source_of(root, goal=Goal("language"))[1]) == [[1], 1, words]
    *start, picture = told(source_of(root, goal=Goal("image"))[1])
    assert start == [[1], 1, [7]]
    assert 1 < picture <= 6
    assert told(source_of(root, goal=Goal("both"))[1]) == [[1], 1, [7], picture, words]


def test_goals_are_drawn_anew_every_epoch_from_all_steps_that_follow(root):
    source = source_of(root, goal=Goal("image"))
    first = int(np.flatnonzero((source.episode_of == 0) & (source.step_of == 3))[0])
    assert {told(source.visit(first, epoch))[-1] for epoch in range(40)} == {4, 5, 6}
    assert told(source.visit(first, 7)) == told(source.visit(first, 7))
    assert {told(source.visit(first + 3, epoch))[-1] for epoch in range(9)} == {6}  # after the last there is none


def test_dropout_leaves_out_words_as_often_as_pictures_and_never_both():
    shown = np.stack(Goal("both", 0.6).shown(np.arange(20_000), seed=3))
    np.testing.assert_allclose(1 - shown.mean(axis=1), 0.3, atol=0.01)
    assert shown.any(axis=0).all()


@pytest.mark.parametrize("goal", [Goal("image"), Goal("both"), Goal("both", 1.0)])
def test_costs_count_what_a_document_shows_of_its_goal(root, goal):
    source = source_of(root, goal=goal)
    costs = [cost_of(source.visit(i, 1)) for i in range(len(source))]
    assert source.costs().tolist() == [[cost.slots, cost.images, cost.vectors] for cost in costs]


def test_goals_are_resized_as_pictures_are(root):
    source = source_of(root, Compose((ResizeImage(2, 3), RELATIVE)), goal=Goal("image"))
    assert [e.pixels.shape for e in source[0] if isinstance(e, Image)] == [(2, 3, 3)] * 2


@pytest.mark.parametrize(("kind", "dropout"), [("both", 1.5), ("language", 0.5), ("image", 0.5)])
def test_a_dropout_that_means_nothing_is_refused(kind, dropout):
    with pytest.raises(ValueError, match=f"goal_dropout is {dropout}"):
        Goal(kind, dropout)


def documents_of_g1(root):
    dataset, form = LeRobotDataset(root), EpisodeFormat(num_slots=4, cameras=("observation.images.cam_high",))
    robot = Embodiment("g1", 0, proprio_width=26, action_width=26)
    relative = RelativeActions((*range(14), *(ABSOLUTE,) * 12))
    normalise = Normalise(episode_statistics(dataset, "g1", form, relative), "quantile")
    return EpisodeSource(dataset, robot, Words(256), Compose((ResizeImage(48, 64), relative, normalise)), form)


def test_a_real_video_dataset_becomes_documents():
    source = documents_of_g1(V21)
    document = source[57]
    assert document[1].pixels.shape == (48, 64, 3)
    assert document[-1].values.shape == (16, 26)
    assert cost_of(document).slots == source.costs()[57, 0]
    values = np.concatenate([source[i][-1].values for i in range(0, 80, 8)])
    assert 0.5 < np.abs(values).max() < 20
    assert (np.abs(values) <= 1.001).mean() > 0.9


@pytest.mark.skipif(not (SHARED / "g1_bottle").is_dir(), reason="the whole dataset is not here")
def test_the_whole_g1_dataset_becomes_documents():
    source = documents_of_g1(SHARED / "g1_bottle")
    assert len(source) == len(source.costs()) == 7182
    assert np.isfinite(source[7181][-1].values).all()

import dataclasses
import multiprocessing
import pathlib

import jax
import numpy as np
import pytest

from benchmarks.data import SyntheticEpisodes
from configs.schema import parse
from data.config import PipelineConfig, TextConfig, VocabularyConfig
from data.elements import CorruptRecord, Tokens, Vector
from data.layout import RowShape
from data.pipeline import Pipeline, one_pass
from data.vocabulary import Vocabulary

CORPUS = pathlib.Path(__file__).parents[1] / "assets/text/shakespeare.txt"
SHAPE = RowShape(128, 3, (64, 64), vectors=3, chunk=8, width=8, image_id=8, vector_id=10)
ROWS = 24
WEIGHTS = {"text": 0.4, "episodes": 0.6}


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    folder = tmp_path_factory.mktemp("text")
    (folder / "plays.txt").write_text(CORPUS.read_text()[:50_000])
    vocabulary = Vocabulary.train([CORPUS.read_text()[:50_000]], 400)
    text = TextConfig((str(folder / "plays.txt"),), separator="\n\n").build(vocabulary, SHAPE.slots, folder / "cache")
    return {"text": text, "episodes": SyntheticEpisodes(50, vocabulary.size)}


def _pipeline(sources, batch_size=4, weights=WEIGHTS, **settings):
    return Pipeline(sources, weights, SHAPE, batch_size, seed=7, window=32, **settings)


def _rows(batch):
    """Each row of a batch as one string of bytes."""
    leaves = jax.tree.leaves(batch)
    return [b"".join(leaf[b].tobytes() for leaf in leaves) for b in range(len(leaves[0]))]


def _read(pipeline, start_row=0, num_rows=ROWS, num_hosts=1):
    """Rows in global order, put together from what every host reads."""
    hosts = [pipeline.iterator(start_row, host, num_hosts) for host in range(num_hosts)]
    rows = []
    while len(rows) < num_rows:
        for host in hosts:
            rows += _rows(next(host))
    for host in hosts:
        host.close()
    return rows[:num_rows]


@pytest.fixture(scope="module")
def reference(sources):
    """Rows one by one, without Grain."""
    pipeline = _pipeline(sources)
    return [_rows(jax.tree.map(lambda x: x[None], pipeline.row(r)))[0] for r in range(2 * ROWS)]


def test_annotated_rows_are_the_same_rows_with_what_is_said_of_them(sources, reference):
    """By their global number, on every host; the pipeline that they come from stays as it is."""
    pipeline = _pipeline(sources)
    noted = pipeline.annotated(lambda r, row: dataclasses.replace(row, tokens=row.tokens + 1000 * r))
    hosts = [noted.iterator(8, host, 2) for host in range(2)]
    batches = [next(host) for host in hosts]
    for host in hosts:
        host.close()
    for r, row in zip(range(8, 12), [row for batch in batches for row in _split(batch)], strict=True):
        plain = dataclasses.replace(row, tokens=row.tokens - 1000 * r)
        assert _rows(jax.tree.map(lambda x: x[None], plain)) == [reference[r]]
    assert _read(pipeline, 8, 4) == reference[8:12]


def _split(batch):
    return [jax.tree.map(lambda x, b=b: x[b], batch) for b in range(len(batch.tokens))]


def test_rows_differ_and_hold_both_sources(sources, reference):
    assert len(set(reference)) == len(reference)
    batch = next(_pipeline(sources, batch_size=ROWS).iterator())
    assert (batch.kinds == 1).any()
    assert (batch.kinds == 2).any()
    assert batch.segment_ids.max() > 2
    assert {leaf.shape[0] for leaf in jax.tree.leaves(batch)} == {ROWS}


@pytest.mark.parametrize("num_hosts", [1, 2, 4])
@pytest.mark.parametrize("num_threads", [0, 1, 4])
def test_hosts_and_threads_give_the_same_rows(sources, reference, num_hosts, num_threads):
    assert _read(_pipeline(sources, num_threads=num_threads), num_hosts=num_hosts) == reference[:ROWS]


def test_the_first_batch_starts_no_worker(sources, reference):
    before = multiprocessing.active_children()
    batch = _pipeline(sources, num_workers=2).first()
    assert multiprocessing.active_children() == before
    assert _rows(batch) == reference[:4]


@pytest.mark.parametrize("num_workers", [1, 2])
def test_worker_processes_give_the_same_rows(sources, reference, num_workers):
    pipeline = _pipeline(sources, num_workers=num_workers, num_threads=1)
    assert _read(pipeline, start_row=3, num_hosts=1) == reference[3 : 3 + ROWS]


@pytest.mark.parametrize("batch_size", [1, 4, 6])
def test_a_restart_from_any_row_with_any_batch_goes_on_with_the_next_row(sources, reference, batch_size):
    iterator = _pipeline(sources, batch_size=2).iterator(start_row=1)
    read = _rows(next(iterator)) + _rows(next(iterator))
    iterator.close()
    assert iterator.next_row == 5
    rest = _read(_pipeline(sources, batch_size=batch_size), start_row=iterator.next_row)
    assert read + rest == reference[1 : 5 + ROWS]


def test_the_seed_changes_the_rows(sources, reference):
    other = Pipeline(sources, WEIGHTS, SHAPE, 4, seed=8, window=32)
    assert not set(_read(other)) & set(reference)


class _Broken:
    """Documents of two tokens and a vector, some of which cannot be read."""

    def __init__(self, broken=(), nan=(), extra=()):
        self.broken, self.nan, self.extra = broken, nan, extra

    def __len__(self):
        return 21

    def costs(self):
        return np.tile(np.array([3, 0, 1], np.int32), (21, 1))

    def __getitem__(self, index):
        if index in self.broken:
            raise CorruptRecord(f"file.bin, record {index}: bad checksum")
        ids = np.full(2 + (index in self.extra), index, np.int32)
        value = np.nan if index in self.nan else 1.0
        return Tokens(ids, np.ones(len(ids), np.float32)), Vector(np.array([value], np.float32), 0)


def test_unreadable_documents_are_named_and_leave_padding():
    pipeline = Pipeline({"arm": _Broken(broken=[3], nan=[5])}, {"arm": 1.0}, SHAPE, 2, max_corrupt=2, window=21)
    iterator = pipeline.iterator()
    batches = [next(iterator) for _ in range(10)]
    iterator.close()
    read = {int(token) for batch in batches for token in batch.tokens[batch.kinds == 1]}
    assert read == set(range(21)) - {3, 5}
    lengths = {int(n) for batch in batches for n in (batch.segment_ids > 0).sum(1)}
    assert lengths == {6, 9}  # rows of three documents, and of two where one is unreadable
    assert pipeline.corrupt == {
        "source 'arm', document 3": "file.bin, record 3: bad checksum",
        "source 'arm', document 5": "a vector holds a value that is not finite",
    }


def test_more_unreadable_documents_than_allowed_are_refused_by_name():
    pipeline = Pipeline({"arm": _Broken(broken=[3, 4])}, {"arm": 1.0}, SHAPE, 2, max_corrupt=1, window=21)
    match = r"2 unreadable documents, max_corrupt is 1(.|\n)*document [34]: file.bin, record [34]: bad checksum"
    with pytest.raises(ValueError, match=match):
        _read(pipeline)


def test_a_document_that_costs_other_than_its_source_said_is_refused():
    pipeline = Pipeline({"arm": _Broken(extra=[6])}, {"arm": 1.0}, SHAPE, 2, window=21)
    with pytest.raises(ValueError, match=r"source 'arm', document 6: takes \(4, 0, 1\) .* said \(3, 0, 1\)"):
        _read(pipeline)


def test_hosts_must_divide_the_batch(sources):
    with pytest.raises(ValueError, match="batch_size 4 does not divide among 3 hosts"):
        _pipeline(sources).iterator(num_hosts=3)
    with pytest.raises(ValueError, match=r"host must be in 0..1, got 2"):
        _pipeline(sources).iterator(host=2, num_hosts=2)


def test_one_pass_reads_every_document_once(sources):
    text = sources["text"]
    batches = list(one_pass(text, SHAPE, batch_size=4))
    assert {batch.tokens.shape for batch in batches} == {(4, 128)}
    targets = sum(np.count_nonzero(batch.loss_weights) for batch in batches)
    assert targets == sum(np.count_nonzero(text[i][0].weights) for i in range(len(text)))
    assert sum(np.count_nonzero(batch.segment_ids) for batch in batches) == text.costs()[:, 0].sum()


def test_config_sections_build_it_all(tmp_path):
    vocabulary_config = parse(
        VocabularyConfig,
        {"path": str(tmp_path / "v.model"), "paths": [str(CORPUS)], "size": 400, "num_codes": 8, "holdout": 0.9},
        "config.vocabulary",
    )
    vocabulary = vocabulary_config.build()
    assert vocabulary_config.build().hash == vocabulary.hash
    assert VocabularyConfig(str(tmp_path / "v.model"), num_codes=8).build().hash == vocabulary.hash
    held_in = CORPUS.read_text()[: int(len(CORPUS.read_text()) * (1 - 0.9))]
    assert Vocabulary.train([held_in], 400, 8).hash == vocabulary.hash
    text = TextConfig((str(CORPUS),), holdout=0.9, sequence_length=64).build(vocabulary, 64, tmp_path / "cache")
    pipeline = PipelineConfig(batch_size=2, slots=64).build({"text": text}, {"text": 1.0}, vocabulary, seed=0)
    assert next(pipeline.iterator()).tokens.shape == (2, 64)


def test_a_vocabulary_sees_the_same_share_of_each_of_its_files(tmp_path):
    """None of two is held out as a whole: both are cut as a source that reads it alone cuts it."""
    texts = [text * 20 for text in CORPUS.read_text()[:20_000].split("\n\n")[:40:2]]
    for number in range(0, len(texts), 2):
        paths = [tmp_path / f"{number}-{part}.txt" for part in (0, 1)]
        held_in = []
        for path, text in zip(paths, texts[number : number + 2], strict=True):
            path.write_text(text)
            held_in.append(text[: int(len(text) * 0.9)])
        config = VocabularyConfig(
            str(tmp_path / f"{number}.model"), paths=tuple(map(str, paths)), size=330, holdout=0.1
        )
        assert config.build().hash == Vocabulary.train(held_in, 330).hash


@pytest.mark.parametrize(
    ("section", "values", "match"),
    [
        (VocabularyConfig, {"path": "v", "size": 400}, "c.size and paths go together"),
        (VocabularyConfig, {"path": "v", "size": 100, "paths": ["a.txt"]}, "c.size must be at least"),
        (VocabularyConfig, {"path": "v", "num_codes": -1}, "c.num_codes must be at least 0, got -1"),
        (VocabularyConfig, {"path": "v", "holdout": 0.1}, "c.holdout has no effect without paths"),
        (TextConfig, {"paths": []}, "c.paths is empty"),
        (TextConfig, {"paths": ["a"], "holdout": 1.0}, r"c.holdout must be a share in \[0, 1\), got 1.0"),
        (TextConfig, {"paths": ["a"], "sequence_length": 1}, "c.sequence_length must be at least 2"),
        (TextConfig, {"paths": ["a"], "weight": 0.0}, "c.weight must be positive"),
        (PipelineConfig, {"batch_size": 0, "slots": 8}, "c.batch_size must be at least 1, got 0"),
        (PipelineConfig, {"batch_size": 1, "slots": 8, "images": 2}, "c.image_size .* does not go with images=2"),
        (PipelineConfig, {"batch_size": 1, "slots": 8, "width": 2}, "c.width 2 does not go with vectors=0"),
        (PipelineConfig, {"batch_size": 1, "slots": 8, "chunk": 2}, "c.chunk 2 has no effect without vectors"),
    ],
)
def test_sections_refuse_what_cannot_work(section, values, match):
    with pytest.raises(ValueError, match=match):
        parse(section, values, "c")


def test_one_pass_refuses_what_fits_no_row(sources):
    with pytest.raises(ValueError, match=r"source 'TextSource': .* a row holds 16 slots"):
        next(one_pass(sources["text"], RowShape(16), batch_size=4))

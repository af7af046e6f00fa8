"""The `vocabulary`, `sources` and `pipeline` sections of a config, checked, and what they build."""

from __future__ import annotations

import dataclasses
import itertools
import pathlib
from collections.abc import Mapping
from typing import Literal

from data.layout import RowShape
from data.pipeline import Pipeline
from data.records import TextFiles
from data.source import Source
from data.text import TextSource
from data.token_cache import split
from data.vocabulary import MINIMUM_SIZE, Vocabulary


@dataclasses.dataclass(frozen=True)
class VocabularyConfig:
    """A vocabulary read from `path`; where there is none yet and `paths` are given, trained on them and written there.

    holdout: share of each of `paths` that training does not see, as in a source of that path that holds it out.
    """

    path: str
    num_codes: int = 0  # discrete codes (action bins, coordinates) after the text ids
    paths: tuple[str, ...] = ()  # text files to train on
    size: int | None = None  # text ids, reserved ones included
    field: str = "text"  # jsonl key or parquet column that holds the text
    holdout: float = 0.0

    def __post_init__(self):
        _at_least(self, num_codes=0)
        if bool(self.paths) != (self.size is not None):
            raise ValueError("size and paths go together: set both to train a vocabulary, neither to read one")
        if self.size is not None and self.size < MINIMUM_SIZE:
            raise ValueError(f"size must be at least {MINIMUM_SIZE} (reserved symbols and bytes), got {self.size}")
        _share(self, "holdout")
        if self.holdout and not self.paths:
            raise ValueError("holdout has no effect without paths to train on; remove it")

    def build(self) -> Vocabulary:
        """Reads or trains it. Raises ValueError where neither can be done."""
        if not self.paths or pathlib.Path(self.path).exists():
            return Vocabulary.load(self.path, self.num_codes)
        assert self.size is not None
        texts = (split(TextFiles((path,), field=self.field).texts(), self.holdout) for path in self.paths)
        seen = (text for text, held_out in itertools.chain.from_iterable(texts) if not held_out)
        vocabulary = Vocabulary.train(seen, self.size, self.num_codes)
        vocabulary.save(self.path)
        return vocabulary


@dataclasses.dataclass(frozen=True)
class TextConfig:
    """A text source; see `TextFiles` and `TextSource`."""

    paths: tuple[str, ...]  # files, globs or URLs
    kind: Literal["text"] = "text"
    format: Literal["auto", "txt", "jsonl", "parquet", "array_record"] = "auto"  # auto: told by the file's name
    field: str = "text"  # jsonl key, parquet column or feature that holds the text; "" = the record itself
    separator: str = ""  # cuts a txt file into documents; "" = one document
    sequence_length: int | None = None  # slots of a piece of a document; None = a whole row
    holdout: float = 0.0  # share of the documents that training does not see
    weight: float = 1.0  # of a token in the loss
    max_corrupt: int = 0  # unreadable records that are left out before the phase is refused

    def __post_init__(self):
        if not self.paths:
            raise ValueError("paths is empty; name at least one file, glob or URL")
        _at_least(self, max_corrupt=0)
        _share(self, "holdout")
        if self.sequence_length is not None:
            _at_least(self, sequence_length=2)
        if self.weight <= 0:
            raise ValueError(f"weight must be positive, got {self.weight}; take the source out of the mixture instead")

    def build(
        self,
        vocabulary: Vocabulary,
        slots: int,
        cache_dir: str | pathlib.Path,
        split: Literal["train", "validation"] = "train",
    ) -> TextSource:
        """`slots`: of a row. `cache_dir`: where tokens are kept."""
        if self.sequence_length is not None and self.sequence_length > slots:
            raise ValueError(f"sequence_length {self.sequence_length} exceeds the {slots} slots of a row")
        files = TextFiles(self.paths, self.format, self.field, self.separator)
        length = self.sequence_length or slots
        return TextSource(
            files, vocabulary, length, cache_dir, split, self.holdout, self.weight, max_corrupt=self.max_corrupt
        )


@dataclasses.dataclass(frozen=True)
class PipelineConfig:
    """Rows and batches; see `RowShape` and `Pipeline`."""

    batch_size: int  # rows, over all hosts
    slots: int  # of a row
    images: int = 0  # a row holds at most
    image_size: tuple[int, int] = (0, 0)  # height, width
    vectors: int = 0  # a row holds at most: proprioceptions, each with the actions that follow
    width: int = 0  # of a vector, the widest of all robots
    chunk: int = 0  # action steps predicted at once; 0 where no phase predicts chunks
    chunk_proprio: bool = False  # what the robot feels at each step of a chunk, as a local decoder needs it
    window: int = 4096  # documents shuffled and packed together
    max_corrupt: int = 0  # unreadable documents that are left out before the run stops
    num_threads: int = 2  # that read and lay out
    num_workers: int = 0  # processes that do; 0 = the training process
    prefetch: int = 4  # batches made ahead

    def __post_init__(self):
        _at_least(self, batch_size=1, slots=2, images=0, vectors=0, width=0, chunk=0, window=1, max_corrupt=0)
        _at_least(self, num_threads=0, num_workers=0, prefetch=1)
        if (self.images > 0) != (min(self.image_size) > 0):
            raise ValueError(
                f"image_size {self.image_size} does not go with images={self.images}: set both, or neither"
            )
        if (self.vectors > 0) != (self.width > 0):
            raise ValueError(f"width {self.width} does not go with vectors={self.vectors}: set both, or neither")
        if self.chunk and not self.vectors:
            raise ValueError(f"chunk {self.chunk} has no effect without vectors; set vectors, or remove chunk")
        if self.chunk_proprio and not self.chunk:
            raise ValueError("chunk_proprio has no effect without chunk; set chunk, or remove chunk_proprio")

    def row_shape(self, vocabulary: Vocabulary) -> RowShape:
        return RowShape(
            self.slots,
            self.images,
            self.image_size,
            self.vectors,
            self.chunk,
            self.width,
            self.chunk_proprio,
            pad_id=vocabulary.pad_id,
            image_id=vocabulary.image_id if self.images else 0,
            vector_id=vocabulary.piece_id("<proprio>") if self.vectors else 0,
        )

    def build(
        self, sources: Mapping[str, Source], weights: Mapping[str, float], vocabulary: Vocabulary, seed: int
    ) -> Pipeline:
        """The pipeline of one mixture: `weights` are shares of slots, by source."""
        chosen = {name: sources[name] for name in weights if name in sources}
        return Pipeline(
            chosen,
            weights,
            self.row_shape(vocabulary),
            self.batch_size,
            seed,
            self.window,
            self.max_corrupt,
            self.num_threads,
            self.num_workers,
            self.prefetch,
        )


def _at_least(section: object, **bounds: int) -> None:
    for name, bound in bounds.items():
        if getattr(section, name) < bound:
            raise ValueError(f"{name} must be at least {bound}, got {getattr(section, name)}")


def _share(section: object, name: str) -> None:
    if not 0 <= getattr(section, name) < 1:
        raise ValueError(f"{name} must be a share in [0, 1), got {getattr(section, name)}")

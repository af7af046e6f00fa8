"""FAST action tokens: a chunk's cosine transform, rounded, in few codes by byte-pair encoding (arXiv 2501.09747).

Train one on the episodes of a config, then name its file in `sources.<name>.fast`:
    python -m data.fast --config C --source NAME [NAME ...] --out fast.json --size 1024
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import json
import math
import pathlib
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import scipy.fft
import tokenizers
from tokenizers import models, trainers

from data.action_codes import UndecodableActions
from data.transforms import Sample, Transform
from data.whole import write_whole

_FIRST = 0xE000  # coefficients are spelled as characters of Unicode's private use area
_MOST = 0xF8FF - _FIRST
MOST_CHUNKS = 50_000  # of a source, for training


@dataclasses.dataclass(frozen=True)
class Fast(Transform):
    """Chunks of `chunk` steps, clipped to [-limit, limit], as codes of a byte-pair encoding.

    Each dim's values over time, scaled to [-1, 1], go through an orthonormal DCT-II; coefficients times `scale`,
    rounded, stand low frequencies first, all dims of one frequency side by side. So one encoding serves robots of any
    width. As a transform it only travels with a checkpoint's others, as what codes mean: samples stay as they are.

    bpe: the encoding as `tokenizers` writes it.
    """

    chunk: int
    limit: float
    scale: float
    bpe: str

    @classmethod
    def train(cls, chunks: Iterable[np.ndarray], chunk: int, size: int, limit: float, scale: float) -> Fast:
        """The encoding with `size` codes of transformed actions [C,A], of any widths A.

        The same chunks give the same encoding. Raises ValueError where `size` does not hold every coefficient, or the
        chunks have nothing more to merge.
        """
        if chunk < 1 or limit <= 0 or scale <= 0:
            raise ValueError(f"chunk is {chunk}, limit {limit} and scale {scale}; all must be positive")
        most = _largest(chunk, scale)
        if 2 * most + 1 > min(size, _MOST):
            raise ValueError(
                f"size is {size}; coefficients of {chunk} steps at scale {scale} take {2 * most + 1} codes by "
                "themselves: give more, or a smaller scale"
            )
        tokenizer = tokenizers.Tokenizer(models.BPE())
        alphabet = [chr(_FIRST + i) for i in range(2 * most + 1)]
        trainer = trainers.BpeTrainer(vocab_size=size, initial_alphabet=alphabet, show_progress=False)  # pyright: ignore
        bare = cls(chunk, limit, scale, "")
        tokenizer.train_from_iterator((bare.spell(actions_CA) for actions_CA in chunks), trainer)
        trained = cls(chunk, limit, scale, tokenizer.to_str())
        if trained.num_codes < size:
            raise ValueError(f"size is {size}, but these chunks only make {trained.num_codes} codes; give that size")
        return trained

    @classmethod
    def load(cls, path: str | pathlib.Path) -> Fast:
        """Raises ValueError where there is none."""
        path = pathlib.Path(path)
        if not path.is_file():
            raise ValueError(f"fast: no action tokens at {path}; make them with `python -m data.fast --out {path}`")
        try:
            found = Transform.from_dict(json.loads(path.read_text()))
        except (ValueError, TypeError, AttributeError):
            raise ValueError(f"fast: {path} is not what `python -m data.fast` writes; make it again") from None
        if not isinstance(found, Fast):
            raise ValueError(f"fast: {path} describes {type(found).__name__}, not Fast; name the right file")
        return found

    def save(self, path: str | pathlib.Path) -> None:
        write_whole(path, json.dumps(self.to_dict()) + "\n")

    @functools.cached_property
    def _tokenizer(self) -> tokenizers.Tokenizer:
        return tokenizers.Tokenizer.from_str(self.bpe)

    @functools.cached_property
    def _pieces(self) -> list[str]:
        by_id: Mapping[str, int] = self._tokenizer.get_vocab()
        return sorted(by_id, key=by_id.__getitem__)

    @property
    def num_codes(self) -> int:
        return len(self._pieces)

    @property
    def sizes(self) -> np.ndarray:
        return np.array([len(piece) for piece in self._pieces], np.int32)

    def length(self, width: int) -> int:
        return self.chunk * width

    def first(self, num_codes: int) -> int:
        """They are the vocabulary's last codes, so that those before may be numbers in order."""
        return num_codes - self.num_codes

    def refuse_other_chunk(self, chunk_length: int) -> None:
        if chunk_length != self.chunk:
            raise ValueError(
                f"fast: its chunks have {self.chunk} steps, those of the source {chunk_length}; make tokens for them "
                "with `python -m data.fast`"
            )

    def counts(self, parts: Iterable[np.ndarray], width: int) -> np.ndarray:
        found: list[int] = []
        for part_nCA in parts:
            spelled = [self.spell(actions_CA) for actions_CA in np.nan_to_num(part_nCA)]
            found += [len(encoding.ids) for encoding in self._tokenizer.encode_batch(spelled)]
        return np.array(found, int)

    def encode(self, actions_CA: np.ndarray, valid_C: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Every code tells of the whole chunk, so all weigh as much as the share of its steps that is valid."""
        ids = np.array(self._tokenizer.encode(self.spell(actions_CA)).ids, np.int32)
        return ids, np.full(len(ids), valid_C.mean(), np.float32)

    def decode(self, codes: Sequence[int], width: int) -> np.ndarray:
        if not all(0 <= code < self.num_codes for code in codes):
            raise UndecodableActions(f"an action code lies outside 0..{self.num_codes - 1}")
        spelled = "".join(self._pieces[code] for code in codes)
        if len(spelled) != self.length(width):
            raise UndecodableActions(
                f"{len(codes)} action codes make {len(spelled)} coefficients; {self.chunk} steps of {width} dims have "
                f"{self.length(width)}"
            )
        rounded = np.array([ord(character) - _FIRST for character in spelled]) - _largest(self.chunk, self.scale)
        values_CA = np.asarray(scipy.fft.idct(rounded.reshape(self.chunk, width) / self.scale, axis=0, norm="ortho"))
        return (values_CA * self.limit).astype(np.float32)

    def spell(self, actions_CA: np.ndarray) -> str:
        """The rounded coefficients of a chunk as characters."""
        if not np.isfinite(actions_CA).all():
            raise ValueError("fast: actions hold NaN or infinity; repair the record")
        values_CA = np.clip(actions_CA.astype(np.float64) / self.limit, -1, 1)
        rounded = np.rint(np.asarray(scipy.fft.dct(values_CA, axis=0, norm="ortho")) * self.scale).astype(int)
        return "".join(chr(_FIRST + c) for c in (rounded + _largest(self.chunk, self.scale)).ravel().tolist())

    def __call__(self, sample: Sample) -> Sample:
        return sample

    def inverse(self, sample: Sample) -> Sample:
        return sample


def _largest(chunk: int, scale: float) -> int:
    """The largest rounded coefficient: that of a chunk which is 1 throughout."""
    return math.ceil(scale * math.sqrt(chunk))


def chunks_of(path: str, names: Sequence[str]) -> tuple[list[np.ndarray], int, float]:
    """Transformed chunks of a config's sources as training sees them, their steps, and what they are clipped to.

    At most `MOST_CHUNKS` of each source, evenly spaced. Raises ValueError naming what is wrong with the config.
    """
    from configs import command
    from configs.schema import parse
    from data.robots import EmbodimentConfig, EpisodesConfig, transform_of

    config = command.load(path).to_dict()
    sections = {name: section for name, section in config["sources"].items() if "embodiment" in section}
    unknown = [name for name in names if name not in sections]
    if unknown:
        raise ValueError(f"--source names {unknown[0]!r}; episodes in {path} are {', '.join(sections) or 'none'}")
    sources = {name: parse(EpisodesConfig, section, f"config.sources.{name}") for name, section in sections.items()}
    chunks: list[np.ndarray] = []
    lengths, normalised = set(), set()
    for name in names:
        source = sources[name]
        section = parse(EmbodimentConfig, config["embodiments"][source.embodiment], f"embodiments.{source.embodiment}")
        own = [other for other in sources.values() if other.embodiment == source.embodiment]
        transform, _ = transform_of(section, source.embodiment, own)
        bare = dataclasses.replace(source, fast=None, continuous=True, token_steps=(), mu_law=False)
        built = bare.build(section.embodiment(source.embodiment), transform, _Wordless())
        found = np.concatenate(list(built.chunks()))[:: max(1, len(built) // MOST_CHUNKS)]
        chunks += list(found[np.isfinite(found).all(axis=(1, 2))])
        lengths.add(source.chunk)
        normalised.add(section.normalise)
    if len(lengths) > 1 or len(normalised) > 1:
        raise ValueError(f"the sources have chunks of {lengths} steps, normalised by {normalised}; take like ones")
    return chunks, lengths.pop(), 1.0 if normalised == {"quantile"} else 3.0


class _Wordless:
    """A vocabulary for documents that nobody reads."""

    bos_id = num_codes = 0

    def code_id(self, code: int) -> int:
        return code

    def code_of(self, token: int) -> int:
        return token

    def encode(self, text: str) -> list[int]:
        return []

    def piece_id(self, piece: str) -> int:
        return 0


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m data.fast", description="Trains FAST action tokens.")
    parser.add_argument("--config", required=True, help="file whose sources and embodiments are read")
    parser.add_argument("--source", nargs="+", required=True, help="names in its `sources`")
    parser.add_argument("--size", type=int, default=1024, help="codes; the vocabulary needs as many")
    parser.add_argument("--scale", type=float, default=10.0, help="of coefficients before they are rounded")
    parser.add_argument("--out", required=True, help="where to write them")
    options = parser.parse_args(argv)
    chunks, steps, limit = chunks_of(options.config, options.source)
    fast = Fast.train(chunks, steps, options.size, limit, options.scale)
    fast.save(options.out)
    some = chunks[:: max(1, len(chunks) // 1000)]
    codes = [fast.encode(chunk_CA, np.ones(steps, bool))[0] for chunk_CA in some]
    errors = [
        fast.decode(ids.tolist(), chunk_CA.shape[1]) - np.clip(chunk_CA, -limit, limit)
        for ids, chunk_CA in zip(codes, some, strict=True)
    ]
    numbers, taken = sum(chunk_CA.size for chunk_CA in some), sum(len(ids) for ids in codes)
    error = np.sqrt(np.mean(np.concatenate([each.ravel() for each in errors]) ** 2))
    print(
        f"{options.out}: {fast.num_codes} codes from {len(chunks)} chunks; {taken / len(some):.1f} codes a chunk for "
        f"{numbers / len(some):.1f} numbers, off by {error:.3f} in normalised units"
    )


if __name__ == "__main__":
    try:
        main()
    except ValueError as error:
        raise SystemExit(f"error: {error}") from None

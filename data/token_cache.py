"""Text tokenised once into flat arrays on disk, found again by what went into them."""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import json
import os
import pathlib
import shutil
import tempfile
from collections.abc import Iterable, Iterator

import numpy as np

from data.elements import CorruptRecord
from data.records import TextFiles
from data.vocabulary import Vocabulary

_VERSION = 1  # raise when the same input would give other arrays
_BLOCK = 1_000_000  # characters encoded at once, which bounds memory; pieces do not cross blocks


@dataclasses.dataclass(frozen=True)
class TokenCache:
    """Tokenised documents of a corpus, memory-mapped.

    tokens: uint16 or int32 [N], all documents end to end, without bos and eos.
    offsets: int64[D+1], where each document begins.
    held_out: bool[D]. num_bytes: int64[D], of the UTF-8 text.
    corrupt: what could not be read, named.
    """

    path: pathlib.Path
    tokens: np.ndarray
    offsets: np.ndarray
    held_out: np.ndarray
    num_bytes: np.ndarray
    corrupt: tuple[str, ...]

    @classmethod
    def open(cls, path: pathlib.Path) -> TokenCache:
        meta = json.loads((path / "meta.json").read_text())
        arrays = {name: np.load(path / f"{name}.npy") for name in ("offsets", "held_out", "num_bytes")}
        tokens = np.memmap(path / "tokens.bin", dtype=meta["dtype"], mode="r", shape=(int(arrays["offsets"][-1]),))
        return cls(path, tokens, corrupt=tuple(meta["corrupt"]), **arrays)

    def __reduce__(self):
        return TokenCache.open, (self.path,)


def tokenised(files: TextFiles, vocabulary: Vocabulary, holdout: float, folder: str | pathlib.Path) -> TokenCache:
    """The tokens of `files`: kept in `folder` and read from there where the same contents were tokenised alike before.

    Several processes may do this at once: each writes aside and renames, and the first to finish wins.
    Raises ValueError where there is no text at all.
    """
    folder = pathlib.Path(folder).expanduser().absolute()
    parts = json.dumps([_VERSION, files.fingerprint(), vocabulary.hash, holdout])
    path = folder / hashlib.sha256(parts.encode()).hexdigest()[:32]
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        aside = pathlib.Path(tempfile.mkdtemp(prefix=f"{path.name}.", dir=folder))
        try:
            _write(aside, files, vocabulary, holdout)
            try:
                aside.rename(path)
            except OSError:
                if not path.exists():  # else another process was first, and its arrays are the same
                    raise
        finally:
            shutil.rmtree(aside, ignore_errors=True)
    return TokenCache.open(path)


def _write(path: pathlib.Path, files: TextFiles, vocabulary: Vocabulary, holdout: float) -> None:
    dtype = np.dtype(np.uint16 if vocabulary.text_size <= 1 << 16 else np.int32)
    corrupt: list[str] = []
    counts, held_out, num_bytes = [0], [], []
    with (path / "tokens.bin").open("wb") as file:
        for text, held in split(_sound(files, corrupt), holdout):
            before = file.tell()
            for start in range(0, len(text), _BLOCK):
                np.array(vocabulary.encode(text[start : start + _BLOCK]), dtype).tofile(file)
            counts.append((file.tell() - before) // dtype.itemsize)
            held_out.append(held)
            num_bytes.append(len(text.encode()))
        file.flush()
        os.fsync(file.fileno())
    if not held_out:
        raise ValueError(f"no text in {', '.join(files.paths)}" + (f": {'; '.join(corrupt[:3])}" if corrupt else ""))
    np.save(path / "offsets.npy", np.cumsum(counts, dtype=np.int64))
    np.save(path / "held_out.npy", np.array(held_out, bool))
    np.save(path / "num_bytes.npy", np.array(num_bytes, np.int64))
    (path / "meta.json").write_text(json.dumps({"dtype": dtype.name, "corrupt": corrupt}))


def _sound(files: Iterable[str | CorruptRecord], corrupt: list[str]) -> Iterator[str]:
    for document in files:
        if isinstance(document, CorruptRecord):
            corrupt.append(str(document))
        else:
            yield document


def split(texts: Iterable[str], holdout: float) -> Iterator[tuple[str, bool]]:
    """(text, held out?) of every document: held out by its own hash, so that copies fall on one side.

    A corpus of a single document is cut in two instead: its last `holdout` of characters is held out.
    """
    texts = iter(texts)
    head = list(itertools.islice(texts, 2))
    if len(head) == 1 and holdout:
        cut = int(len(head[0]) * (1 - holdout))
        yield from ((text, held) for text, held in ((head[0][:cut], False), (head[0][cut:], True)) if text)
        return
    for text in itertools.chain(head, texts):
        yield text, int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little") < holdout * 2**64

"""The bytes of a store: its description, and one record for each row.

A record is, with n the row's taught slots (those that predict a target, in order) and m their entries together:

| bytes | what |
|---|---|
| 4 | CRC-32 of the row's tokens, segments and loss weights: what the record belongs to |
| 4 + 4 | n, m |
| 2 n | entries of each slot |
| 2 m, or 4 m where V > 65,536 | ids: rising in a slot, each less the one before it, the first as it is |
| 2 m | top-k: -log p in steps of 2^-10 nats; sampled: how often the entry was drawn |
| 2 n | top-k: -log of the mass of all other ids; sampled: the teacher's entropy; in steps of 2^-10 nats |
| 4 | CRC-32 of all before it |

Numbers are little-endian and unsigned. Numbers of several bytes lie as planes, all first bytes, then all second bytes,
..., which zstd (of ArrayRecord) makes small. Rounding changes a log-probability by 2^-11 nats at most, a probability by
0.05 %; shares of draws are exact. 65,535 steps stand for a probability of 0, which those below e^-63.99 become.
"""

from __future__ import annotations

import dataclasses
import json
import struct
import zlib
from pathlib import Path
from typing import Any, Literal

import numpy as np

from data.batch import Batch
from data.whole import write_whole
from train.objectives.distill_entries import Entries

VERSION = 1
STEP = 2.0**-10  # nats
ZERO = 0xFFFF  # the code of log 0
MAX_ENTRIES = 0xFFFF

Kind = Literal["sampled", "topk"]


@dataclasses.dataclass(frozen=True)
class Description:
    """`store.json`.

    kind, entries: what is kept of each distribution, see `train.objectives.distill_entries`.
    teacher: {"phase", "step", "config"} of its checkpoint, the last as `config_hash`. seed: of the draws.
    data: the settings that the rows come from; `data_hash` is their `config_hash`.
    """

    kind: Kind
    entries: int
    rows_per_shard: int
    vocab_size: int
    tokenizer_sha256: str
    seed: int
    teacher: dict[str, Any]
    data: dict[str, Any]
    data_hash: str
    version: int = VERSION

    @classmethod
    def read(cls, folder: Path) -> Description:
        """Raises ValueError where the folder holds no store of this version."""
        try:
            content = json.loads((folder / "store.json").read_text())
        except (OSError, ValueError) as error:
            raise ValueError(f"{folder} holds no store ({error}); write one: python -m train.distill_store") from error
        if content.get("version") != VERSION:
            raise ValueError(f"{folder} has format version {content.get('version')}, not {VERSION}; write it again")
        return cls(**content)

    def write(self, folder: Path) -> None:
        write_json(folder / "store.json", dataclasses.asdict(self))

    @property
    def id_dtype(self) -> str:
        return "<u2" if self.vocab_size <= 1 << 16 else "<u4"


def shard_path(folder: Path, shard: int) -> Path:
    return folder / f"{shard:05d}.array_record"


def write_json(path: Path, content: Any) -> None:
    write_whole(path, json.dumps(content, indent=1, sort_keys=True) + "\n")


def taught_slots(row: Batch) -> np.ndarray:
    """int64[n]: the slots of one row that predict a target (`data.batch.targets`), in order."""
    segment_T, weight_T = np.asarray(row.segment_ids), np.asarray(row.loss_weights)
    return np.flatnonzero((segment_T[:-1] == segment_T[1:]) & (segment_T[:-1] > 0) & (weight_T[1:] > 0))


def encode(description: Description, row: Batch, entries: Entries) -> bytes:
    """The record of one row, without its batch axis.

    entries: numpy arrays. Top-k: as they are. Sampled: `id` int[T,K] holds the draws, `log_p` and `rest` are None.
    """
    slots = taught_slots(row)
    id_NK = np.asarray(entries.id)[slots]
    if description.kind == "topk":
        order_NK = np.argsort(id_NK, axis=1)
        id_NK = np.take_along_axis(id_NK, order_NK, axis=1)
        value_M = _to_code(np.take_along_axis(np.asarray(entries.log_p)[slots], order_NK, axis=1)).ravel()
        first_NK, side_N = np.ones(id_NK.shape, bool), _to_code(np.asarray(entries.rest)[slots])
    else:
        first_NK = np.diff(id_NK, axis=1, prepend=-1) > 0  # draws of one id lie together
        value_M = np.diff(np.append(np.flatnonzero(first_NK), first_NK.size))
        side_N = _to_code(-np.asarray(entries.entropy)[slots])
    count_N, id_M = first_NK.sum(1), id_NK[first_NK]
    starts = np.cumsum(count_N) - count_N
    step_M = np.diff(id_M, prepend=0)
    step_M[starts] = id_M[starts]
    numbers = ((count_N, "<u2"), (step_M, description.id_dtype), (value_M, "<u2"), (side_N, "<u2"))
    header = struct.pack("<III", _crc_of(row), len(slots), len(id_M))
    content = header + b"".join(_to_planes(array, dtype) for array, dtype in numbers)
    return content + struct.pack("<I", zlib.crc32(content))


def decode(description: Description, row: Batch, record: bytes) -> Entries:
    """The entries of one row at its T slots, none where nothing is taught; numpy arrays.

    Raises ValueError where the record is damaged or belongs to another row.
    """
    if len(record) < 16 or zlib.crc32(record[:-4]) != struct.unpack("<I", record[-4:])[0]:
        raise ValueError("is damaged: its checksum does not match")
    crc, n, m = struct.unpack("<III", record[:12])
    if crc != _crc_of(row):
        raise ValueError("belongs to a row with other tokens, segments or loss weights: the data has changed")
    count_N, step_M, value_M, side_N = _from_planes(
        record[12:-4], ((n, "<u2"), (m, description.id_dtype), (m, "<u2"), (n, "<u2"))
    )
    starts = np.cumsum(count_N, dtype=np.int64) - count_N
    total_M = np.cumsum(step_M, dtype=np.int64)
    id_M = total_M - np.repeat(total_M[starts] - step_M[starts], count_N)
    slot_M, place_M = np.repeat(taught_slots(row), count_N), np.arange(m) - np.repeat(starts, count_N)
    T, K, sampled = len(row.tokens), description.entries, description.kind == "sampled"
    id_TK, log_p_TK = np.zeros((T, K), np.int32), np.full((T, K), -np.inf, np.float32)
    id_TK[slot_M, place_M] = id_M
    log_p_TK[slot_M, place_M] = np.log(value_M / np.float32(K)) if sampled else _from_code(value_M)
    side_T = np.full(T, 0 if sampled else -np.inf, np.float32)
    side_T[taught_slots(row)] = -_from_code(side_N) if sampled else _from_code(side_N)
    return Entries(id_TK, log_p_TK, None, side_T) if sampled else _normalised(id_TK, log_p_TK, side_T)


def _normalised(id_TK: np.ndarray, log_p_TK: np.ndarray, rest_T: np.ndarray) -> Entries:
    """Top-k entries whose probabilities sum to one again after rounding."""
    all_TK = np.concatenate([log_p_TK, rest_T[:, None]], axis=1)
    p_TK = np.exp(all_TK)
    total_T = p_TK.sum(1)
    with np.errstate(divide="ignore", invalid="ignore"):
        all_TK = np.where(total_T[:, None] > 0, all_TK - np.log(total_T)[:, None], all_TK)
        entropy_T = -np.where(p_TK > 0, np.exp(all_TK) * all_TK, 0).sum(1)
    return Entries(id_TK, all_TK[:, :-1], all_TK[:, -1], entropy_T)


def _to_code(log_p: np.ndarray) -> np.ndarray:
    return np.rint(np.clip(-log_p / STEP, 0, ZERO)).astype(np.uint16)


def _from_code(code: np.ndarray) -> np.ndarray:
    return np.where(code == ZERO, -np.inf, code * -STEP).astype(np.float32)


def _to_planes(array: np.ndarray, dtype: str) -> bytes:
    values = np.ascontiguousarray(array, dtype)
    return values.view(np.uint8).reshape(len(values), values.itemsize).T.tobytes()


def _from_planes(content: bytes, parts: tuple[tuple[int, str], ...]) -> list[np.ndarray]:
    """int64 arrays. Raises ValueError where the content is of another length."""
    found, start = [], 0
    for size, dtype in parts:
        width = np.dtype(dtype).itemsize
        planes = np.frombuffer(content, np.uint8, size * width, start).reshape(width, size)
        found.append(np.ascontiguousarray(planes.T).view(dtype).reshape(size).astype(np.int64))
        start += size * width
    if start != len(content):
        raise ValueError(f"has {len(content)} bytes of numbers, not {start}")
    return found


def _crc_of(row: Batch) -> int:
    crc = 0
    for array, dtype in ((row.tokens, "<i4"), (row.segment_ids, "<i4"), (row.loss_weights, "<f4")):
        crc = zlib.crc32(np.ascontiguousarray(array, dtype), crc)
    return crc

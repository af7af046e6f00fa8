"""Which frames of a dataset may start a training document: a small JSON file beside the dataset, not a copy of it."""

from __future__ import annotations

import dataclasses
import json
import pathlib
from typing import Any

import numpy as np

from data.whole import write_whole


@dataclasses.dataclass(frozen=True)
class FrameRanges:
    """Half-open ranges [start, stop) of frames that are kept, for every episode in stored order.

    lengths: frames of every episode of the dataset it was made for; another dataset is refused.
    """

    lengths: tuple[int, ...]
    kept: tuple[tuple[tuple[int, int], ...], ...]

    def __post_init__(self):
        if len(self.kept) != len(self.lengths):
            raise ValueError(f"ranges of {len(self.kept)} episodes, lengths of {len(self.lengths)}; give one for each")
        for episode, (length, ranges) in enumerate(zip(self.lengths, self.kept, strict=True)):
            edges = [edge for pair in ranges for edge in pair]
            if any(len(pair) != 2 or pair[0] >= pair[1] for pair in ranges) or edges != sorted(edges):
                raise ValueError(f"episode {episode}: ranges {ranges} are not [start, stop) pairs in order")
            if edges and (edges[0] < 0 or edges[-1] > length):
                raise ValueError(f"episode {episode}: ranges {ranges} leave its {length} frames")

    @classmethod
    def of(cls, keep: list[np.ndarray]) -> FrameRanges:
        """From one bool[frames] an episode."""
        kept = []
        for keep_N in keep:
            edges = np.flatnonzero(np.diff(np.concatenate([[0], keep_N.astype(np.int8), [0]])))
            kept.append(tuple((int(start), int(stop)) for start, stop in edges.reshape(-1, 2)))
        return cls(tuple(len(keep_N) for keep_N in keep), tuple(kept))

    @classmethod
    def load(cls, path: str | pathlib.Path) -> FrameRanges:
        """Raises ValueError where there is no such file, or it is none that `save` wrote."""
        try:
            record: Any = json.loads(pathlib.Path(path).read_text(encoding="utf-8"))
            episodes = record["episodes"]
            kept = tuple(tuple((int(a), int(b)) for a, b in episode["keep"]) for episode in episodes)
            return cls(tuple(int(episode["length"]) for episode in episodes), kept)
        except FileNotFoundError:
            raise ValueError(f"ranges {str(path)!r} does not exist; write it with `python -m data.idle`") from None
        except (json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError) as error:
            raise ValueError(f"ranges {str(path)!r} cannot be read ({error!r}); write it again") from None
        except ValueError as error:
            raise ValueError(f"ranges {str(path)!r}: {error}; write it again with `python -m data.idle`") from None

    def save(self, path: str | pathlib.Path, **settings: Any) -> None:
        """Writes the file, whole or not at all; `settings` say in it how the ranges came about."""
        pairs = zip(self.lengths, self.kept, strict=True)
        lines = [json.dumps({"length": length, "keep": ranges}) for length, ranges in pairs]
        text = f'{{"settings": {json.dumps(settings)},\n "episodes": [\n  ' + ",\n  ".join(lines) + "\n]}\n"
        write_whole(path, text)

    def frames(self, episode: int, stride: int = 1) -> np.ndarray:
        """int64[n]: every stride-th kept frame of an episode, counted in each range from its start."""
        steps = [np.arange(start, stop, stride) for start, stop in self.kept[episode]]
        return np.concatenate([*steps, np.zeros(0, int)])

    def refuse_other(self, lengths: np.ndarray, where: str) -> None:
        """Raises ValueError where `lengths`, frames of every episode, are not those the ranges were made for."""
        if tuple(int(n) for n in lengths) != self.lengths:
            raise ValueError(
                f"{where} has {len(lengths)} episodes and {int(sum(lengths))} frames, the ranges were made for "
                f"{len(self.lengths)} and {sum(self.lengths)} of other lengths; write them anew: python -m data.idle"
            )

"""Episodes in one NumPy archive: arrays named EPISODE/FEATURE, such as ep00/observations, ep00/actions."""

from __future__ import annotations

import pathlib
import zipfile

import numpy as np

from data.episode_columns import EpisodeColumns, number_feature, picture_feature

_STANDARD = {"actions": "action", "observations": "observation", "obs": "observation"}


class NpzDataset(EpisodeColumns):
    """An .npz without pickled objects. Features are the arrays that every episode has for each of its actions.

    `observations` is called `observation.state`, `actions` `action`; uint8[T,H,W,3] is a camera. There is neither an
    instruction nor a frame rate. Raises ValueError for a file that cannot be read, or has no actions.
    """

    def __init__(self, root: str | pathlib.Path):
        self._archive = _opened(root)
        self._last: tuple[str, np.ndarray] | None = None  # pictures of one camera and episode
        arrays: dict[str, dict[str, str]] = {}  # key in the archive, by episode and name
        for key in self._archive.files:
            episode, _, name = key.partition("/")
            if name:
                arrays.setdefault(episode, {})[_renamed(name)] = key
        self._arrays = [arrays[episode] for episode in sorted(arrays)]
        if not self._arrays or any("action" not in episode for episode in self._arrays):
            raise ValueError(
                f"{root}: arrays are {self._archive.files[:8]}; every episode needs EPISODE/actions, with any EPISODE"
            )
        names = sorted(set.union(*(set(episode) for episode in self._arrays)))
        lengths = [len(self._read(episode["action"])) for episode in self._arrays]
        features, columns, left_out = {}, {}, {}
        for name in names:
            try:
                values = self._joined(name, lengths)
            except ValueError as error:
                left_out[name] = str(error)
                continue
            if values.ndim == 4:
                features[name] = picture_feature(values[0])
            else:
                columns[name] = values.reshape(len(values), -1)
                features[name] = number_feature(columns[name])
        robot = pathlib.Path(root).stem
        super().__init__(root, features, columns, lengths, [""] * sum(lengths), robot, left_out)

    def __reduce__(self):
        return NpzDataset, (self.root,)

    def _read(self, key: str) -> np.ndarray:
        try:
            return self._archive[key]
        except (ValueError, zipfile.BadZipFile, OSError) as error:
            raise ValueError(f"array {key!r} cannot be read ({error})") from None

    def _joined(self, name: str, lengths: list[int]) -> np.ndarray:
        """The values of all episodes. Raises ValueError where they are not one for each action, or no numbers."""
        parts = []
        for number, (episode, length) in enumerate(zip(self._arrays, lengths, strict=True)):
            if name not in episode:
                raise ValueError(f"episode {number} lacks it")
            values = self._read(episode[name])
            if values.ndim < 1 or len(values) != length:
                raise ValueError(f"{list(values.shape)} in episode {number}, which has {length} actions")
            if values.dtype.kind not in "fiub" or (values.ndim > 2 and (values.dtype != np.uint8 or values.ndim != 4)):
                raise ValueError(f"{values.dtype}{list(values.shape)} is neither vectors nor pictures")
            parts.append(values)
        if len({part.shape[1:] for part in parts}) > 1:
            raise ValueError(f"shapes differ { ({part.shape[1:] for part in parts}) }")
        return np.concatenate(parts)

    def pixels(self, name: str, episode: int, step: int) -> np.ndarray:
        key, last = self._arrays[episode][name], self._last
        if last is None or last[0] != key:
            self._last = last = key, self._read(key)
        return last[1][step]


def _opened(root: str | pathlib.Path) -> np.lib.npyio.NpzFile:
    try:
        found = np.load(root, allow_pickle=False)
    except (ValueError, OSError, zipfile.BadZipFile) as error:
        raise ValueError(f"{root} cannot be read as .npz ({error}); copy the file again") from None
    if not isinstance(found, np.lib.npyio.NpzFile):
        raise ValueError(f"{root} is a single array; save episodes with np.savez as EPISODE/FEATURE")
    return found


def _renamed(name: str) -> str:
    first, *rest = name.split("/")
    first = _STANDARD.get(first, first)
    return ".".join([first, *rest]) if rest or first != "observation" else "observation.state"

"""Action tokens drawn one after the other, with caches: rows of observations in, chunks of actions out."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import jax
import numpy as np

from data.action_codes import ActionCodes, StepCodes, UndecodableActions
from data.batch import Batch
from data.fast import Fast
from data.transforms import Compose, Sample, Transform
from serving.decoder import Decoder
from serving.model import LoadedModel
from serving.observing import Observation, Observer
from serving.prompts import round_up
from serving.sampling import Draws, Sampling
from serving.symbols import Symbols

_CACHE = 128  # the kernels want caches in whole tiles


class TokenActions:
    """Most likely action tokens of the codes that each robot was trained with."""

    def __init__(self, model: LoadedModel, observer: Observer):
        """Raises ValueError where codes do not tell of the next actions, or differ among the robots."""
        self.observer, self.vocabulary = observer, model.vocabulary
        self.codes = {name: _codes_of(observer, name) for name in observer.rows.sources}
        shared = next(iter(self.codes.values()))
        if any(codes != shared for codes in self.codes.values()):
            raise ValueError(
                f"the action tokens of {', '.join(self.codes)} differ: give their sources the same token_steps and "
                "num_bins, or the same file `fast`"
            )
        self.first = shared.first(self.vocabulary.num_codes)
        symbols = Symbols.codes(self.vocabulary, self.first, shared.sizes)
        self._decoder = Decoder(model, symbols=symbols)
        self._widths = {name: robot.action_width for name, robot in observer.embodiments.items()}
        self._most = max(shared.length(self._widths[name]) for name in self.codes)

    def act(self, samples: Sequence[Sample], observations: Sequence[Observation], rows: Batch) -> list[np.ndarray]:
        """float32[C,a] for each observation; `rows` are theirs, with empty ones after them.

        An observation that brings what is left of an earlier chunk gets that back, its last action repeated, where the
        tokens stand for no chunk. Without it only tokens are drawn that make one.
        """
        B, T = rows.tokens.shape
        length_B, fits_B = np.zeros(B, np.int32), np.ones(B, bool)
        for row, observation in enumerate(observations):
            name = observation.embodiment
            length_B[row] = self.codes[name].length(self._widths[name])
            fits_B[row] = _left(observation) is None
        cache = self._decoder.loaded.empty_cache(B, round_up(T + self._most, _CACHE))
        hidden_BD, cache = self._decoder.read(rows, cache)
        state = self._decoder.ready(cache, hidden_BD, rows, length_B)
        _, drawn = self._decoder.decode(state, Draws.of([Sampling(temperature=0)] * B), self._most, fits_B=fits_B)
        ids_BN = jax.device_get(drawn.ids_BN)
        return [self._chunk(*each) for each in zip(samples, observations, ids_BN, strict=False)]

    def _chunk(self, sample: Sample, observation: Observation, id_N: np.ndarray) -> np.ndarray:
        name = observation.embodiment
        codes = [self.vocabulary.code_of(int(token)) - self.first for token in id_N if token >= 0]
        try:
            return self.observer.in_units(sample, observation, self.codes[name].decode(codes, self._widths[name]))
        except UndecodableActions:
            running = _left(observation)
            if running is None:
                raise
            return continued(running, self.observer.rows.sources[name].chunk)


def continued(running: np.ndarray, length: int) -> np.ndarray:
    """A chunk of so many steps: what is left of one, its last action again and again."""
    return running[np.minimum(np.arange(length), len(running) - 1)].astype(np.float32)


def _left(observation: Observation) -> np.ndarray | None:
    """What is left of an earlier chunk, if anything is."""
    running = observation.running
    return None if running is None or not len(running) else running


def _codes_of(observer: Observer, name: str) -> ActionCodes:
    source = observer.rows.sources[name]
    codes = next(_fast_in(observer.transforms[name]), None) if source.fast else source.action_codes()
    if codes is None:
        raise ValueError(f"the sources of {name} have no action tokens; give them token_steps or fast")
    if isinstance(codes, StepCodes) and codes.steps != tuple(range(len(codes.steps))):
        raise ValueError(
            f"token_steps of {name} are {list(codes.steps)}, which is not what it does next; a policy of action tokens "
            "takes 0, 1, .. in order"
        )
    return codes


def _fast_in(transform: Transform) -> Iterator[Fast]:
    if isinstance(transform, Fast):
        yield transform
    for part in transform.transforms if isinstance(transform, Compose) else ():
        yield from _fast_in(part)

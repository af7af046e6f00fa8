"""Continuous batching: requests come and go by themselves, one compiled program draws for all that are there.

A batch has a fixed number of rows. A waiting request is read piece by piece into a cache of its own, between the blocks
of tokens that the others draw, then takes a free row; a row is free again as soon as its request ends. What a request
gets depends on nobody else in the batch.
"""

from __future__ import annotations

import collections
import dataclasses
import functools
import itertools
from collections.abc import Iterable

import jax
import jax.numpy as jnp
import numpy as np

from data.batch import PADDING_SEGMENT, Batch
from data.elements import Document
from data.layout import cost_of
from model.cache import Cache
from serving.completion import Completion
from serving.decoder import Decoder, Drawn, Rows
from serving.image_pieces import image_pieces
from serving.prompts import as_rows, part_of, round_up, text_tokens
from serving.sampling import Draws, Sampling

MAX_TOP = 20  # most likely tokens that can be asked for
_CACHE, _LEAST_PIECE = 128, 32
_IDLE = Sampling(temperature=0)


@dataclasses.dataclass(frozen=True)
class Request:
    """num_tokens: the most that it may draw. num_top: how many of the most likely tokens it wants to see."""

    document: Document
    sampling: Sampling
    num_tokens: int
    stop: tuple[str, ...] = ()
    ends: frozenset[int] = frozenset()
    num_top: int = 0


@dataclasses.dataclass(eq=False)
class Ticket:
    """A request on its way; `completion` grows until it has ended."""

    request: Request
    completion: Completion = dataclasses.field(default_factory=Completion)
    cancelled: bool = False


@dataclasses.dataclass
class _Reading:
    """A prompt that is partly in its cache."""

    ticket: Ticket
    row: int
    prompt: Batch
    pieces: collections.deque[Batch]
    cache: Cache


class Slots:
    """A fixed number of rows over one decoder; to be called from one thread."""

    def __init__(self, decoder: Decoder, *, num_rows: int, max_slots: int, block: int = 8):
        """max_slots: of prompt and completion together. block: tokens that all rows draw between two looks at who came
        and went; twice as many halve the overhead and double the wait of whoever comes."""
        for field, value, least in (("num_rows", num_rows, 1), ("max_slots", max_slots, 2), ("block", block, 1)):
            if value < least:
                raise ValueError(f"{field} is {value}; allowed: {least} or more")
        self.decoder, self.num_rows, self.max_slots, self.block = decoder, num_rows, max_slots, block
        self._room = round_up(self._ends(max_slots)[-1], _CACHE)
        self.waiting: collections.deque[Ticket] = collections.deque()
        self._clear()

    def _clear(self) -> None:
        self._reading: _Reading | None = None
        self._tickets: list[Ticket | None] = [None] * self.num_rows
        self._rows: Rows | None = None  # made when first needed

    @property
    def num_active(self) -> int:
        """Requests that have a row or are being read."""
        return sum(ticket is not None for ticket in self._tickets)

    @property
    def busy(self) -> bool:
        return bool(self.waiting) or self.num_active > 0

    def check(self, request: Request) -> None:
        """Raises ValueError for a request that no turn could serve."""
        slots = cost_of(request.document).slots
        if slots == 0:
            raise ValueError("the prompt is empty; give it at least the token <bos>")
        if request.num_tokens < 1:
            raise ValueError(f"num_tokens is {request.num_tokens}; allowed: 1 or more")
        if not 0 <= request.num_top <= MAX_TOP:
            raise ValueError(f"num_top is {request.num_top}; allowed: 0 to {MAX_TOP}")
        if "" in request.stop:
            raise ValueError("stop holds an empty string, which would end every text at once; leave it out")
        if slots + request.num_tokens > self.max_slots:
            raise ValueError(
                f"the prompt takes {slots} slots and num_tokens is {request.num_tokens}: together more than the "
                f"{self.max_slots} of a row; shorten the prompt or ask for fewer tokens"
            )

    def submit(self, request: Request) -> Ticket:
        """Takes a place at the end of the queue. Raises ValueError as `check` does."""
        self.check(request)
        self.waiting.append(Ticket(request))
        return self.waiting[-1]

    def cancel(self, ticket: Ticket) -> None:
        """The request draws no more and its row is free; nothing happens to one that has ended."""
        ticket.cancelled = True
        if ticket in self.waiting:
            self.waiting.remove(ticket)
        self._free(ticket)

    def abandon(self) -> list[Ticket]:
        """Forgets every request, after an error that left the caches in an unknown state; returns them."""
        lost = [*self.waiting, *(ticket for ticket in self._tickets if ticket is not None)]
        self.waiting.clear()
        self._clear()
        return lost

    def turn(self) -> list[Ticket]:
        """Reads a piece's worth of the prompts that wait, then draws a block; returns the requests that grew."""
        self._read_some()
        active = [(row, t) for row, t in enumerate(self._tickets) if t is not None and not self._is_reading(t)]
        if not active:
            return []
        requests = [None if t is None else t.request for t in self._tickets]
        draws = Draws.of([_IDLE if request is None else request.sampling for request in requests])
        num_top = MAX_TOP if any(t.request.num_top for _, t in active) else 0
        wanted_B = np.zeros(self.num_rows, bool)
        wanted_B[[row for row, _ in active]] = True
        drawn = self._draw(wanted_B, draws, num_top)
        for row, ticket in active:
            request = ticket.request
            new = ((token, logprob, top[: request.num_top]) for token, logprob, top in drawn.row(row))
            options = {"num_tokens": request.num_tokens, "stop": request.stop, "ends": request.ends}
            ticket.completion.extend(new, self.decoder.vocabulary, **options)
            if ticket.completion.ended is not None:
                self._free(ticket)
        return [ticket for _, ticket in active]

    def compile(self, examples: Iterable[Document] = ()) -> None:
        """Runs every program for text once, so that no request waits for a compiler; give examples of all else."""
        lengths = {min(_LEAST_PIECE * 2**i, self.decoder.piece) for i in range(self.decoder.piece.bit_length())}
        bos = self.decoder.vocabulary.bos_id
        texts = [(text_tokens([bos] * min(length, self.max_slots - 1)),) for length in sorted(lengths)]
        for document, num_top in itertools.product((*texts, *examples), (0, 1)):
            self.submit(Request(document, Sampling(temperature=1, top_k=1), 1, num_top=num_top))
            while self.busy:
                self.turn()

    def _draw(self, wanted_B: np.ndarray, draws: Draws, num_top: int) -> Drawn:
        assert self._rows is not None
        rows = dataclasses.replace(self._rows, done_B=self._rows.done_B | ~wanted_B)
        self._rows, drawn = self.decoder.decode(rows, draws, self.block, num_top)
        return jax.device_get(drawn)

    def _is_reading(self, ticket: Ticket) -> bool:
        return self._reading is not None and self._reading.ticket is ticket

    def _free(self, ticket: Ticket) -> None:
        if self._is_reading(ticket):
            self._reading = None
        if ticket in self._tickets:
            self._tickets[self._tickets.index(ticket)] = None

    def _read_some(self) -> None:
        """At least one piece, and more while they are short, so that rows which draw never wait for long."""
        budget = self.decoder.piece
        while budget > 0:
            reading = self._reading or self._begin()
            if reading is None:
                return
            budget -= self._read_piece(reading)

    def _begin(self) -> _Reading | None:
        if not self.waiting or None not in self._tickets:
            return None
        ticket, row = self.waiting.popleft(), self._tickets.index(None)
        prompt, pieces = self._cut(ticket.request.document)
        self._tickets[row] = ticket
        cache = self.decoder.loaded.empty_cache(1, self._room)
        self._reading = _Reading(ticket, row, prompt, collections.deque(pieces), cache)
        return self._reading

    def _cut(self, document: Document) -> tuple[Batch, list[Batch]]:
        """The prompt as a row, and its pieces."""
        slots = cost_of(document).slots
        ends = self._ends(slots)
        whole = as_rows([document], self.decoder.vocabulary, ends[-1])
        if not whole.media:
            return whole, [part_of(whole, slice(*part)) for part in itertools.pairwise([0, *ends])]
        pieces, start = [], 0
        for piece in image_pieces(whole, self.decoder.piece, _LEAST_PIECE):
            pieces.append(part_of(piece, slice(0, self._room - start)))  # padding at the end may not have room
            start += int((piece.segment_ids != PADDING_SEGMENT).sum())
        return whole, pieces

    def _ends(self, slots: int) -> list[int]:
        """Where the pieces of a prompt end: full ones, then a power of two, so that few programs serve any length."""
        full, rest = divmod(slots, self.decoder.piece)
        widths = [self.decoder.piece] * full + ([min(_power_of_two(rest), self.decoder.piece)] if rest else [])
        return list(itertools.accumulate(widths))

    def _read_piece(self, reading: _Reading) -> int:
        """Returns how many slots it read."""
        part = reading.pieces.popleft()
        hidden_BD, reading.cache = self.decoder.read(part, reading.cache)
        if not reading.pieces:
            row = self.decoder.ready(reading.cache, hidden_BD, reading.prompt, reading.ticket.request.num_tokens)
            self._rows = _insert(_nobody(row, self.num_rows) if self._rows is None else self._rows, row, reading.row)
            self._reading = None
        return part.tokens.shape[1]


def _nobody(row: Rows, num_rows: int) -> Rows:
    """Rows like the given one in which nobody is."""
    rows = jax.tree.map(lambda x: jnp.zeros((num_rows, *x.shape[1:]), x.dtype), row)
    return dataclasses.replace(rows, done_B=~rows.done_B)


@functools.partial(jax.jit, donate_argnums=0)
def _insert(rows: Rows, row: Rows, at: int) -> Rows:
    return jax.tree.map(lambda all_, one: jax.lax.dynamic_update_slice_in_dim(all_, one, at, axis=0), rows, row)


def _power_of_two(slots: int) -> int:
    """The least that holds so many slots, and is not so small that it only makes one more program."""
    return max(_LEAST_PIECE, 1 << (slots - 1).bit_length())

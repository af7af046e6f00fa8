"""One call at a time on a thread of its own, for control loops that must not wait."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor


class Background[Asked, Answer]:
    """`ask` begins a call, `answer` fetches its result once it is there. Close it to end its thread."""

    def __init__(self, function: Callable[[Asked], Answer]):
        self._function = function
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="background")
        self._under_way: tuple[int, Future[Answer]] | None = None

    @property
    def busy(self) -> bool:
        return self._under_way is not None

    def ask(self, step: int, asked: Asked) -> None:
        """Begin the call of control step `step`."""
        assert self._under_way is None, "one call at a time"
        self._under_way = step, self._thread.submit(self._function, asked)

    def answer(self, *, wait: bool = False) -> tuple[int, Answer] | None:
        """The step that was asked at, and the result; None while there is none. Raises what the call raised."""
        if self._under_way is None or not (wait or self._under_way[1].done()):
            return None
        (step, future), self._under_way = self._under_way, None
        return step, future.result()

    def close(self) -> None:
        self._thread.shutdown(cancel_futures=True)

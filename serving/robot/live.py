"""What a browser is shown of the clients: cameras, instruction, actions, response times."""

from __future__ import annotations

import base64
import collections
import dataclasses
import io
import time
from typing import Any

import numpy as np
from PIL import Image

from serving.policy import Observation

HISTORY = 512  # response times that the histogram is made of
BIN_MS = (0, 1, 2, 3, 5, 7, 10, 15, 20, 30, 50, 70, 100, 150, 200, 300, 500, 1000)  # lower edges, milliseconds
MAX_SIDE = 320  # pixels of a camera on the page


@dataclasses.dataclass
class Client:
    """One connection as the page shows it."""

    number: int
    address: str
    connected: float = dataclasses.field(default_factory=time.time)
    answers: int = 0
    observation: Observation | None = None
    actions: np.ndarray | None = None
    response_ms: collections.deque = dataclasses.field(default_factory=lambda: collections.deque(maxlen=HISTORY))

    def answered(self, observation: Observation, actions: np.ndarray, milliseconds: float) -> None:
        self.observation, self.actions = observation, actions
        self.answers += 1
        self.response_ms.append(milliseconds)

    def card(self) -> dict[str, Any]:
        """JSON: pictures as JPEG, the chunk as rows of steps, the histogram as counts of `BIN_MS`."""
        card = {"number": self.number, "address": self.address, "answers": self.answers}
        card["seconds"] = round(time.time() - self.connected, 1)
        if self.observation is None or self.actions is None:
            return card
        times = np.array(self.response_ms)
        counts = np.histogram(times, [*BIN_MS, np.inf])[0].tolist()
        return card | {
            "embodiment": self.observation.embodiment,
            "instruction": self.observation.instruction,
            "images": [jpeg_url(pixels) for pixels in self.observation.images],
            "actions": np.round(self.actions.astype(float), 4).tolist(),
            "histogram": counts,
            "p50": round(float(np.quantile(times, 0.5)), 2),
            "p99": round(float(np.quantile(times, 0.99)), 2),
        }


class Board:
    """The clients that are connected now."""

    def __init__(self):
        self.clients: dict[int, Client] = {}
        self._count = 0

    def join(self, address: str) -> Client:
        self._count += 1
        client = self.clients[self._count] = Client(self._count, address)
        return client

    def leave(self, client: Client) -> None:
        self.clients.pop(client.number, None)

    def snapshot(self) -> dict[str, Any]:
        return {"bins": list(BIN_MS), "clients": [client.card() for client in list(self.clients.values())]}


def jpeg_url(pixels: np.ndarray) -> str:
    """uint8[H,W,3] as a picture that a page can hold."""
    picture = Image.fromarray(pixels)
    picture.thumbnail((MAX_SIDE, MAX_SIDE))
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=80)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()

"""openpi's policy protocol over aiohttp: a frame of metadata, then observation and actions in turn.

Anything that a client gets wrong ends its connection as openpi does it: one text frame that says why, then close code
1011. Other clients notice nothing.
"""

from __future__ import annotations

import asyncio
import dataclasses
import hmac
import json
import logging
import time
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from aiohttp import WSCloseCode, WSMessage, WSMsgType, web

from serving.robot.fields import Reader
from serving.robot.live import Board, Client
from serving.robot.wire import pack, unpack
from serving.robot.worker import Worker

_LOG = logging.getLogger(__name__)
_PAGE = Path(__file__).with_name("page.html")
_CLOSING = b"Internal server error. Traceback included in previous frame."  # the reason that openpi gives
_MAX_AHEAD = 4  # frames of a client that does not wait for its answers, before its socket is read no further


@dataclasses.dataclass(frozen=True)
class Limits:
    """token: what clients must send; None lets in anyone. live_seconds: between two pictures of the page."""

    max_clients: int = 256
    frame_bytes: int = 64_000_000
    token: str | None = None
    live_seconds: float = 0.2


class PolicyServer:
    """The application around one worker. `metadata` is what every client gets first."""

    def __init__(self, worker: Worker, reader: Reader, metadata: Mapping[str, Any], limits: Limits = Limits()):
        self.worker, self.reader, self.metadata, self.limits = worker, reader, dict(metadata), limits
        self.board, self.refused = Board(), 0
        self._open: set[web.WebSocketResponse] = set()

    def application(self) -> web.Application:
        app = web.Application()
        app.add_routes(
            [
                web.get("/healthz", self.health),
                web.get("/live", self.live),
                web.get("/{path:.*}", self.robot_or_page),
            ]
        )
        app.cleanup_ctx.append(self._running)
        app.on_shutdown.append(self._close_all)
        return app

    async def _running(self, _: web.Application) -> AsyncIterator[None]:
        self.worker.start()
        yield
        await self.worker.stop()

    async def _close_all(self, _: web.Application) -> None:
        for socket in list(self._open):
            await socket.close(code=WSCloseCode.GOING_AWAY, message=b"the server stops")

    async def health(self, _: web.Request) -> web.Response:
        return web.Response(text="OK\n")

    # ---- robots

    async def robot_or_page(self, request: web.Request) -> web.StreamResponse:
        if request.headers.get("Upgrade", "").lower() == "websocket":
            return await self._robot(request)
        if request.path != "/":
            raise web.HTTPNotFound(text=f"there is no {request.path[:100]}; a robot asks for a websocket\n")
        self._check(request, request.query.get("token", ""))
        return web.FileResponse(_PAGE, headers={"Cache-Control": "no-store", "Referrer-Policy": "no-referrer"})

    async def _robot(self, request: web.Request) -> web.StreamResponse:
        self._check(request, request.headers.get("Authorization", "").removeprefix("Api-Key "))
        if len(self.board.clients) >= self.limits.max_clients:
            raise web.HTTPServiceUnavailable(text=f"{self.limits.max_clients} clients are connected; try later\n")
        client = self.board.join(request.remote or "")
        try:
            return await self._serve(request, client)
        finally:
            self.board.leave(client)

    async def _serve(self, request: web.Request, client: Client) -> web.StreamResponse:
        socket = web.WebSocketResponse(max_msg_size=self.limits.frame_bytes, compress=False)
        await socket.prepare(request)
        self._open.add(socket)
        try:
            await socket.send_bytes(pack(self.metadata))
            await self._take_turns(socket, client)
        except ConnectionError:  # the client went away in the middle of an answer
            pass
        finally:
            self._open.discard(socket)
        return socket

    async def _take_turns(self, socket: web.WebSocketResponse, client: Client) -> None:
        """Frames are read while the policy thinks, as pings are only answered while somebody reads."""
        frames: asyncio.Queue[WSMessage] = asyncio.Queue(_MAX_AHEAD)
        answering = asyncio.get_running_loop().create_task(self._answer_all(socket, client, frames))
        try:
            async for message in socket:
                await frames.put(message)
        finally:
            answering.cancel()
            await asyncio.gather(answering, return_exceptions=True)

    async def _answer_all(
        self, socket: web.WebSocketResponse, client: Client, frames: asyncio.Queue[WSMessage]
    ) -> None:
        refusal = await self._answer_until_refused(socket, client, frames)
        self.refused += 1
        await socket.send_str(refusal)
        await socket.close(code=WSCloseCode.INTERNAL_ERROR, message=_CLOSING)
        while True:  # so that who sent more is not waited for
            await frames.get()

    async def _answer_until_refused(
        self, socket: web.WebSocketResponse, client: Client, frames: asyncio.Queue[WSMessage]
    ) -> str:
        before: float | None = None  # what the answer before took, until it was sent
        while True:
            message = await frames.get()
            start = time.perf_counter()
            try:
                answer = await self._answer(message.type, message.data, client, start, before)
            except ValueError as error:
                return str(error)
            except Exception:
                _LOG.exception("client %d: the policy failed", client.number)
                return "the policy failed; the server's log says more"
            await socket.send_bytes(answer)
            before = time.perf_counter() - start

    async def _answer(self, kind: WSMsgType, frame: Any, client: Client, start: float, before: float | None) -> bytes:
        if kind != WSMsgType.BINARY:
            raise ValueError(f"the frame is {kind.name.lower()}; send one binary frame for each observation")
        observation = self.reader.read(unpack(frame))
        answer = await self.worker.act(observation)
        timing = {"infer_ms": answer.seconds * 1e3}
        content: dict[str, Any] = {"actions": answer.actions, "policy_timing": dict(timing)}
        content["server_timing"] = timing if before is None else timing | {"prev_total_ms": before * 1e3}
        client.answered(observation, answer.actions, (time.perf_counter() - start) * 1e3)
        return pack(content)

    # ---- people

    async def live(self, request: web.Request) -> web.WebSocketResponse:
        """JSON of all clients, several times a second, while somebody looks."""
        self._check(request, request.query.get("token", ""))
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        self._open.add(socket)
        pictures = asyncio.get_running_loop().create_task(self._show(socket))
        try:
            async for _ in socket:
                pass
        finally:
            pictures.cancel()
            await asyncio.gather(pictures, return_exceptions=True)
            self._open.discard(socket)
        return socket

    async def _show(self, socket: web.WebSocketResponse) -> None:
        while not socket.closed:
            await socket.send_str(await asyncio.to_thread(lambda: json.dumps(self.board.snapshot())))
            await asyncio.sleep(self.limits.live_seconds)

    # ---- who may come in

    def _check(self, request: web.Request, given: str) -> None:
        """Browsers say which page asks; another site's page may not look through this robot's cameras."""
        origin = request.headers.get("Origin")
        if origin is not None and urlsplit(origin).netloc != request.host:
            raise web.HTTPForbidden(text="a page of another site may not connect\n")
        token = self.limits.token
        if token is not None and not hmac.compare_digest(given.encode(errors="replace"), token.encode()):
            raise web.HTTPUnauthorized(
                text="the token is missing or wrong: send Authorization: Api-Key TOKEN, or open /?token=TOKEN\n"
            )

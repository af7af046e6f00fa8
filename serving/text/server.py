"""Routes, limits and streaming: what stands between a client and the worker."""

from __future__ import annotations

import asyncio
import dataclasses
import hmac
import json
import logging
import time
from collections.abc import AsyncIterator
from typing import Any

from aiohttp import web

from serving.text.answers import Answer
from serving.text.calls import Call, Kind, Reader
from serving.text.errors import ApiError
from serving.text.fields import parse_object
from serving.text.worker import Update, Worker

_LOG = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Limits:
    """seconds: of a request from its first byte to its last. api_key: what clients must send; None lets in anyone."""

    seconds: float = 600.0
    body_bytes: int = 20_000_000
    api_key: str | None = None


class TextServer:
    """The application around one worker."""

    def __init__(self, worker: Worker, reader: Reader, limits: Limits = Limits()):
        self.worker, self.reader, self.limits = worker, reader, limits
        self.created = int(time.time())
        self.responses: dict[int, int] = {}  # by status

    def application(self) -> web.Application:
        app = web.Application(middlewares=[self._answer_errors], client_max_size=self.limits.body_bytes)
        app.add_routes(
            [
                web.get("/health", self.health),
                web.get("/metrics", self.metrics),
                web.get("/v1/models", self.models),
                web.get("/v1/models/{name:.+}", self.model),
                web.post("/v1/completions", self.completions),
                web.post("/v1/chat/completions", self.chat),
            ]
        )
        app.cleanup_ctx.append(self._running)
        return app

    async def _running(self, _: web.Application) -> AsyncIterator[None]:
        self.worker.start()
        yield
        await self.worker.stop()

    # ---- what is asked of the server itself

    async def health(self, _: web.Request) -> web.Response:
        """200 once requests are served; 503 while programs are compiled, and after the model failed."""
        state = self.worker.state
        return web.json_response(
            {"status": "ok" if state == "ready" else state}, status=200 if state == "ready" else 503
        )

    async def metrics(self, _: web.Request) -> web.Response:
        """Prometheus text."""
        worker, counts = self.worker, self.worker.counts
        gauges = {
            "rows": worker.slots.num_rows,
            "rows_in_use": worker.slots.num_active,
            "completions_under_way": worker.num_jobs,
        }
        totals = {f"{field.name}_total": getattr(counts, field.name) for field in dataclasses.fields(counts)}
        lines = []
        for kind, values in (("gauge", gauges), ("counter", totals)):
            lines += [f"# TYPE kinema_{name} {kind}\nkinema_{name} {value}" for name, value in values.items()]
        lines.append("# TYPE kinema_responses_total counter")
        lines += [f'kinema_responses_total{{status="{s}"}} {n}' for s, n in sorted(self.responses.items())]
        return web.Response(text="\n".join(lines) + "\n")

    async def models(self, _: web.Request) -> web.Response:
        return web.json_response({"object": "list", "data": [self._description()]})

    async def model(self, request: web.Request) -> web.Response:
        name = request.match_info["name"]
        if name != self.reader.name:
            raise ApiError(404, f"the model {name[:100]!r} does not exist", param="model", code="model_not_found")
        return web.json_response(self._description())

    def _description(self) -> dict[str, Any]:
        described = {"id": self.reader.name, "object": "model", "created": self.created, "owned_by": "kinema"}
        return described | {"max_model_len": self.reader.slots.max_slots}

    # ---- completions

    async def completions(self, request: web.Request) -> web.StreamResponse:
        return await self._serve(request, "completion")

    async def chat(self, request: web.Request) -> web.StreamResponse:
        return await self._serve(request, "chat")

    async def _serve(self, request: web.Request, kind: Kind) -> web.StreamResponse:
        """Whatever ends this, also a client that goes away, frees the rows."""
        stream = web.StreamResponse(headers={"Content-Type": "text/event-stream", "Cache-Control": "no-cache"})
        try:
            async with asyncio.timeout(self.limits.seconds):
                body = await request.read()
                call = await asyncio.to_thread(self._read, kind, body)
                return await self._complete(request, call, stream)
        except TimeoutError:
            error = ApiError(408, f"the answer was not finished within {self.limits.seconds:g} s", code="timeout")
            if not stream.prepared:
                raise error from None
            await stream.write(_event(error.as_json()))
            return stream

    def _read(self, kind: Kind, body: bytes) -> Call:
        return self.reader.read(kind, parse_object(body))

    async def _complete(self, request: web.Request, call: Call, stream: web.StreamResponse) -> web.StreamResponse:
        answer = Answer(call, self.reader.name, self.reader.chat.template.vocabulary)
        jobs, updates = self.worker.submit(call.requests)
        try:
            left = len(jobs)
            while left:
                index, update = await updates.get()
                if update.error is not None:
                    if not stream.prepared:
                        raise update.error
                    await stream.write(_event(update.error.as_json()))
                    return stream
                answer.add(index, update)
                left -= update.ended is not None
                if call.stream:
                    await self._stream(request, stream, answer, index, update)
            if not call.stream:
                return web.json_response(answer.whole())
            if call.include_usage:
                await stream.write(_event(answer.last_chunk()))
            await stream.write(b"data: [DONE]\n\n")
            return stream
        finally:
            for job in jobs:
                self.worker.cancel(job)

    async def _stream(
        self, request: web.Request, stream: web.StreamResponse, answer: Answer, index: int, update: Update
    ) -> None:
        if not stream.prepared:
            await stream.prepare(request)
            for chunk in answer.beginning():
                await stream.write(_event(chunk))
        if update.text or update.ended or answer.call.num_logprobs is not None:
            await stream.write(_event(answer.chunk(index, update)))

    # ---- around every request

    @web.middleware
    async def _answer_errors(self, request: web.Request, handler: Any) -> web.StreamResponse:
        try:
            self._check_key(request)
            response = await handler(request)
        except ApiError as error:
            response = _error(error)
        except web.HTTPException as found:
            response = _error(ApiError(found.status, _reason(found, request, self.limits)))
            if "Allow" in found.headers:
                response.headers["Allow"] = found.headers["Allow"]
        except web.RequestPayloadError as error:
            response = _error(ApiError(400, f"the request body cannot be read: {str(error)[:100]}"))
        except ConnectionError:  # nobody is left to be answered
            raise
        except Exception:
            _LOG.exception("%s %s failed", request.method, request.path)
            response = _error(ApiError(500, "the server failed; its log says more"))
        self.responses[response.status] = self.responses.get(response.status, 0) + 1
        return response

    def _check_key(self, request: web.Request) -> None:
        key = self.limits.api_key
        if key is None or not request.path.startswith("/v1/"):
            return
        given = request.headers.get("Authorization", "").encode(errors="replace")
        if not hmac.compare_digest(given, f"Bearer {key}".encode()):
            raise ApiError(
                401, "the API key is missing or wrong: send Authorization: Bearer KEY", code="invalid_api_key"
            )


def _error(error: ApiError) -> web.Response:
    headers = {"Retry-After": str(error.retry_after)} if error.retry_after is not None else None
    return web.json_response(error.as_json(), status=error.status, headers=headers)


def _reason(found: web.HTTPException, request: web.Request, limits: Limits) -> str:
    reasons = {
        404: f"there is no {request.path[:100]}",
        405: f"{request.path[:100]} takes no {request.method[:20]}",
        413: f"the request body is larger than {limits.body_bytes} bytes",
    }
    return reasons.get(found.status, found.reason)


def _event(content: dict[str, Any]) -> bytes:
    return b"data: " + json.dumps(content).encode() + b"\n\n"

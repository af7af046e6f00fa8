"""Completions as the API writes them, whole or in chunks."""

from __future__ import annotations

import time
import uuid
from collections.abc import Sequence
from typing import Any

from data.vocabulary import Vocabulary
from serving.text.calls import Call
from serving.text.tokens import token_bytes, token_name
from serving.text.worker import Update


class Answer:
    """One answer to a call, growing by updates."""

    def __init__(self, call: Call, model: str, vocabulary: Vocabulary):
        self.call, self.vocabulary = call, vocabulary
        self._chat = call.kind == "chat"
        self._head = {
            "id": f"{'chatcmpl' if self._chat else 'cmpl'}-{uuid.uuid4().hex}",
            "created": int(time.time()),
            "model": model,
        }
        self._object = "chat.completion" if self._chat else "text_completion"
        self._choices = [Update() for _ in call.requests]
        self._offsets = [0] * len(call.requests)

    def add(self, index: int, update: Update) -> None:
        self._choices[index] = self._choices[index].then(update)

    def whole(self) -> dict[str, Any]:
        choices = []
        for i, (choice, echo) in enumerate(zip(self._choices, self.call.echoes, strict=True)):
            content = {"text": echo + choice.text}
            if self._chat:
                content = {"message": {"role": "assistant", "content": choice.text, "refusal": None}}
            choices.append(self._choice(i, content, choice))
        return self._head | {"object": self._object, "choices": choices, "usage": self.usage()}

    def beginning(self) -> list[dict[str, Any]]:
        """Chunks before the first token: the role of a chat's answer, what is echoed of a prompt."""
        if self._chat:
            return [self._chunk(i, {"delta": {"role": "assistant", "content": ""}}) for i in range(len(self._choices))]
        return [self._chunk(i, {"text": echo}) for i, echo in enumerate(self.call.echoes) if echo]

    def chunk(self, index: int, update: Update) -> dict[str, Any]:
        content = {"delta": {"content": update.text} if update.text else {}} if self._chat else {"text": update.text}
        return self._chunk(index, content, update)

    def last_chunk(self) -> dict[str, Any]:
        """The chunk of the usage alone."""
        return self._head | {"object": self._chunk_object, "choices": [], "usage": self.usage()}

    def usage(self) -> dict[str, int]:
        written = sum(choice.num_tokens for choice in self._choices)
        prompt = self.call.prompt_tokens
        return {"prompt_tokens": prompt, "completion_tokens": written, "total_tokens": prompt + written}

    @property
    def _chunk_object(self) -> str:
        return f"{self._object}.chunk" if self._chat else self._object

    def _chunk(self, index: int, content: dict[str, Any], update: Update | None = None) -> dict[str, Any]:
        update = update or Update()
        usage = {"usage": None} if self.call.include_usage else {}
        return self._head | {"object": self._chunk_object, "choices": [self._choice(index, content, update)]} | usage

    def _choice(self, index: int, content: dict[str, Any], update: Update) -> dict[str, Any]:
        logprobs = None
        if self.call.num_logprobs is not None and update.ids:
            logprobs = self._chat_logprobs(update) if self._chat else self._logprobs(index, update)
        return {"index": index, **content, "logprobs": logprobs, "finish_reason": update.ended}

    def _logprobs(self, index: int, update: Update) -> dict[str, Any]:
        names = [token_name(self.vocabulary, token) for token in update.ids]
        offsets = []
        for token in update.ids:
            offsets.append(self._offsets[index])
            self._offsets[index] += len(token_bytes(self.vocabulary, token).decode(errors="ignore"))
        tops = [{token_name(self.vocabulary, t): _finite(p) for t, p in top} for top in update.tops]
        if self.call.num_logprobs == 0:
            tops = None
        return {
            "tokens": names,
            "token_logprobs": [_finite(p) for p in update.logprobs],
            "top_logprobs": tops,
            "text_offset": offsets,
        }

    def _chat_logprobs(self, update: Update) -> dict[str, Any]:
        def one(token: int, logprob: float) -> dict[str, Any]:
            content = token_bytes(self.vocabulary, token)
            return {"token": token_name(self.vocabulary, token), "logprob": _finite(logprob), "bytes": list(content)}

        drawn: Sequence[Any] = list(zip(update.ids, update.logprobs, update.tops, strict=True))
        content = [one(token, p) | {"top_logprobs": [one(*pair) for pair in top]} for token, p, top in drawn]
        return {"content": content, "refusal": None}


def _finite(logprob: float) -> float:
    """JSON has no infinity; the API writes this for what cannot be drawn."""
    return max(logprob, -9999.0)

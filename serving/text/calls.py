"""What a request body asks for: prompts and settings for the slots, and the form that the answer is to have."""

from __future__ import annotations

import dataclasses
import secrets
from collections.abc import Sequence
from typing import Any, Literal

from data.elements import Document
from data.layout import cost_of
from serving.prompts import as_document, text_tokens
from serving.sampling import Sampling
from serving.slots import MAX_TOP, Request, Slots
from serving.text.chat import ChatReader
from serving.text.errors import ApiError, bad
from serving.text.fields import Fields, require_text

Kind = Literal["completion", "chat"]
MAX_STOP, DEFAULT_TOKENS = 16, 16
_IGNORED = ("user", "metadata", "store", "service_tier", "safety_identifier", "prompt_cache_key")
_NEUTRAL: dict[str, tuple[Any, ...]] = {"frequency_penalty": (0,), "presence_penalty": (0,), "logit_bias": ({},)}
_NEUTRAL_COMPLETION = _NEUTRAL | {"best_of": (1,), "suffix": ("",)}
_NEUTRAL_CHAT = _NEUTRAL | {
    "tools": ([],),
    "tool_choice": ("none", "auto"),
    "response_format": ({"type": "text"},),
    "modalities": (["text"],),
}


@dataclasses.dataclass(frozen=True)
class Call:
    """requests: all choices, `n` after one another for each prompt. echoes: text that each choice begins with.

    num_logprobs: of the most likely tokens beside the drawn one; None without any log-probabilities.
    """

    kind: Kind
    requests: tuple[Request, ...]
    prompt_tokens: int
    num_logprobs: int | None
    stream: bool
    include_usage: bool
    echoes: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Reader:
    """Reads bodies for one model."""

    name: str
    slots: Slots
    chat: ChatReader
    max_choices: int

    def read(self, kind: Kind, body: dict[str, Any]) -> Call:
        """Raises ApiError for what is wrong in it."""
        fields = Fields(body)
        self._check_model(fields)
        return self._completion(fields) if kind == "completion" else self._chat(fields)

    def _completion(self, fields: Fields) -> Call:
        documents = self._documents(fields.any("prompt"))
        echo, num_logprobs = fields.flag("echo"), fields.integer("logprobs", None, 0, MAX_TOP)
        if echo and num_logprobs is not None:
            raise bad("echo with logprobs is not supported: prompts have no log-probabilities here", "echo")
        num_tokens = fields.integer("max_tokens", DEFAULT_TOKENS, 1)
        fields.neutral(_NEUTRAL_COMPLETION)
        decode = self.chat.template.vocabulary.decode
        echoes = [decode(document[0].ids.tolist()) if echo else "" for document in documents]
        return self._call("completion", fields, documents, num_tokens, num_logprobs, echoes)

    def _chat(self, fields: Fields) -> Call:
        wants = fields.flag("logprobs")
        num_logprobs = fields.integer("top_logprobs", None, 0, MAX_TOP)
        if num_logprobs is not None and not wants:
            raise bad("top_logprobs needs logprobs to be true", "top_logprobs")
        old, new = (fields.integer(name, None, 1) for name in ("max_tokens", "max_completion_tokens"))
        fields.neutral(_NEUTRAL_CHAT)
        fields.ignored("parallel_tool_calls")
        prompt = self.chat.prompt(fields.any("messages"))
        room = max(1, self.slots.max_slots - cost_of(prompt.document).slots)
        num_tokens = next((given for given in (new, old) if given is not None), room)
        options = {"stop": prompt.stop, "ends": prompt.ends}
        number = (num_logprobs or 0) if wants else None
        return self._call("chat", fields, [prompt.document], num_tokens, number, [""], **options)

    def _call(
        self,
        kind: Kind,
        fields: Fields,
        documents: Sequence[Document],
        num_tokens: int,
        num_logprobs: int | None,
        echoes: Sequence[str],
        stop: tuple[str, ...] = (),
        ends: frozenset[int] = frozenset(),
    ) -> Call:
        """The fields that both kinds have; refuses those that neither has."""
        n = fields.integer("n", 1, 1, self.max_choices)
        temperature = fields.number("temperature", 1.0, 0, 2)
        top_p, top_k = fields.number("top_p", 1.0, 0, 1), fields.integer("top_k", 0, 0, 2**31 - 1)
        if top_p == 0:
            raise bad("top_p is 0; allowed: above 0, at most 1", "top_p")
        seed = fields.integer("seed", secrets.randbits(32))
        stop += _stop(fields.any("stop"))
        stream, include_usage = fields.flag("stream"), False
        options = fields.any("stream_options")
        if options is not None:
            if not stream:
                raise bad("stream_options needs stream to be true", "stream_options")
            options = Fields(options, "stream_options")
            include_usage = options.flag("include_usage")
            options.ignored("include_obfuscation")
            options.end()
        fields.ignored(*_IGNORED)
        fields.end()
        if n * len(documents) > self.max_choices:
            raise bad(f"{len(documents)} prompts with n = {n}; allowed: {self.max_choices} choices in all", "n")
        requests = [
            Request(
                document,
                Sampling(temperature, top_k, top_p, (seed + i) & 0xFFFFFFFF),
                num_tokens,
                stop,
                ends,
                num_logprobs or 0,
            )
            for document in documents
            for i in range(n)
        ]
        self._check(kind, requests)
        prompt_tokens = sum(cost_of(document).slots for document in documents)
        return Call(
            kind,
            tuple(requests),
            prompt_tokens,
            num_logprobs,
            stream,
            include_usage,
            tuple(echo for echo in echoes for _ in range(n)),
        )

    def _check(self, kind: Kind, requests: Sequence[Request]) -> None:
        param = "prompt" if kind == "completion" else "messages"
        for request in requests:
            slots = cost_of(request.document).slots
            if slots + request.num_tokens > self.slots.max_slots:
                message = (
                    f"this model's context is {self.slots.max_slots} tokens; the prompt has {slots} and "
                    f"{request.num_tokens} are to be written. Shorten the prompt or ask for fewer"
                )
                raise bad(message, param, "context_length_exceeded")
            try:
                self.slots.check(request)
            except ValueError as error:
                raise bad(str(error), param) from None

    def _check_model(self, fields: Fields) -> None:
        model = fields.text("model")
        if model is None:
            raise bad("model is missing", "model")
        if model != self.name:
            message = f"the model {model[:100]!r} does not exist; this server has {self.name!r}"
            raise ApiError(404, message, param="model", code="model_not_found")

    def _documents(self, prompt: Any) -> list[Document]:
        """A text, ids, or several of either."""
        if isinstance(prompt, str) or _is_ids(prompt):
            return [self._document(prompt, "prompt")]
        if not isinstance(prompt, list) or not prompt:
            raise bad("prompt must be a string, a list of token ids, or a list of those, and not empty", "prompt")
        if len(prompt) > self.max_choices:
            raise bad(f"{len(prompt)} prompts; allowed: {self.max_choices}", "prompt")
        return [self._document(one, f"prompt[{i}]") for i, one in enumerate(prompt)]

    def _document(self, prompt: Any, path: str) -> Document:
        vocabulary = self.chat.template.vocabulary
        if not isinstance(prompt, list):
            return as_document(require_text(prompt, path), vocabulary)
        if not _is_ids(prompt) or not all(0 <= token < vocabulary.text_size for token in prompt):
            raise bad(f"{path} must hold token ids, 0 to {vocabulary.text_size - 1}, and at least one", path)
        return (text_tokens(prompt),)


def _is_ids(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(type(item) is int for item in value)


def _stop(value: Any) -> tuple[str, ...]:
    if value is None:
        return ()
    texts = value if isinstance(value, list) else [value]
    if len(texts) > MAX_STOP:
        raise bad(f"stop holds {len(texts)} strings; allowed: {MAX_STOP}", "stop")
    if "" in texts:
        raise bad("stop holds an empty string, which would end every text at once", "stop")
    return tuple(require_text(text, "stop") for text in texts)

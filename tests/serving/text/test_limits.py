"""Mistakes, full queues, deadlines, clients that go away, and the end."""

import json
import threading
import time
import urllib.error
import urllib.request

import openai
import pytest

from serving.text.__main__ import main, server_of
from serving.text.server import Limits
from tests.serving.text.conftest import MAX_SLOTS, ROWS, WAITING
from tests.serving.text.running import running, wait_until

LONG = {"model": "tiny", "prompt": "We", "max_tokens": 100, "temperature": 0, "extra_body": {}}


def idle(server):
    return server.worker.num_jobs == 0 and not server.worker.slots.busy


def post(address, path, body, headers=None):
    """(status, headers, JSON) of a raw request."""
    request = urllib.request.Request(address + path, data=body, headers=headers or {}, method="POST")
    try:
        with urllib.request.urlopen(request, timeout=120) as answer:
            return answer.status, answer.headers, json.loads(answer.read())
    except urllib.error.HTTPError as error:
        return error.code, error.headers, json.loads(error.read())


def get(url):
    try:
        with urllib.request.urlopen(url, timeout=120) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


GOOD = {"model": "tiny", "prompt": "We"}
GOOD_CHAT = {"model": "tiny", "messages": [{"role": "user", "content": "We"}]}


@pytest.mark.parametrize(
    ("change", "param", "message"),
    [
        ({"temperature": 3}, "temperature", "temperature is 3; allowed: 0 to 2"),
        ({"temperature": "hot"}, "temperature", "temperature is 'hot'"),
        ({"temperature": True}, "temperature", "allowed: 0 to 2"),
        ({"top_p": 0}, "top_p", "above 0"),
        ({"max_tokens": 0}, "max_tokens", "max_tokens is 0; allowed: a whole number from 1"),
        ({"max_tokens": 1.5}, "max_tokens", "allowed: a whole number"),
        ({"n": 10**400}, "n", "allowed"),
        ({"stop": ""}, "stop", "empty string"),
        ({"stop": [1]}, "stop", "must be a string"),
        ({"stop": ["x"] * 17}, "stop", "17 strings; allowed: 16"),
        ({"seed": "x"}, "seed", "whole number"),
        ({"logprobs": 21}, "logprobs", "0 to 20"),
        ({"echo": True, "logprobs": 1}, "echo", "not supported"),
        ({"stream": 1}, "stream", "true or false"),
        ({"stream_options": {"include_usage": True}}, "stream_options", "needs stream"),
        ({"stream": True, "stream_options": {"x": 1}}, "stream_options.x", "unknown parameter"),
        ({"frequency_penalty": 0.5}, "frequency_penalty", "does not support it"),
        ({"logit_bias": {"5": 1}}, "logit_bias", "does not support it"),
        ({"best_of": 2}, "best_of", "does not support it"),
        ({"min_p": 0.1}, "min_p", "unknown parameter 'min_p'"),
        ({"prompt": None}, "prompt", "prompt must be"),
        ({"prompt": []}, "prompt", "prompt must be"),
        ({"prompt": [[]]}, "prompt[0]", "must hold token ids"),
        ({"prompt": [5, 10**6]}, "prompt", "must hold token ids"),
        ({"prompt": "\ud800"}, "prompt", "half a surrogate pair"),
        ({"prompt": ["We"] * (ROWS + WAITING + 1)}, "prompt", "allowed: 8"),
        ({"prompt": ["We"] * 3, "n": 3}, "n", "allowed: 8 choices in all"),
        ({"prompt": "We " * 100}, "prompt", f"context is {MAX_SLOTS} tokens"),
        ({"max_tokens": MAX_SLOTS}, "prompt", f"context is {MAX_SLOTS} tokens"),
        ({"model": None}, "model", "model is missing"),
    ],
    ids=str,
)
def test_mistakes_in_completions_are_named(address, change, param, message):
    status, _, answer = post(address, "/v1/completions", json.dumps(GOOD | change).encode())
    assert status == 400
    assert set(answer) == {"error"}
    assert set(answer["error"]) == {"message", "type", "param", "code"}
    assert (answer["error"]["type"], answer["error"]["param"]) == ("invalid_request_error", param)
    assert message in answer["error"]["message"]


@pytest.mark.parametrize(
    ("change", "param", "message"),
    [
        ({"messages": []}, "messages", "not empty"),
        ({"messages": "We"}, "messages", "must be a list"),
        ({"messages": [3]}, "messages[0]", "must be an object"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "messages[0].role", "allowed: system, developer"),
        ({"messages": [{"role": "user"}]}, "messages[0].content", "a string or a list"),
        ({"messages": [{"role": "user", "content": "x", "name": "y"}]}, "messages[0].name", "unknown parameter"),
        ({"messages": [{"role": "user", "content": [{"type": "audio"}]}]}, "messages[0].content[0].type", "allowed"),
        ({"top_logprobs": 2}, "top_logprobs", "needs logprobs"),
        ({"tools": [{"type": "function"}]}, "tools", "does not support it"),
        ({"response_format": {"type": "json_object"}}, "response_format", "does not support it"),
    ],
    ids=str,
)
def test_mistakes_in_chats_are_named(address, change, param, message):
    status, _, answer = post(address, "/v1/chat/completions", json.dumps(GOOD_CHAT | change).encode())
    assert (status, answer["error"]["param"]) == (400, param)
    assert message in answer["error"]["message"]


@pytest.mark.parametrize(
    "url", ["https://example.com/a.png", "data:image/png;base64,????", "data:image/png;base64,AAAA"]
)
def test_images_that_cannot_be_read_are_named(address, url):
    content = [{"type": "image_url", "image_url": {"url": url}}]
    body = GOOD_CHAT | {"messages": [{"role": "user", "content": content}]}
    status, _, answer = post(address, "/v1/chat/completions", json.dumps(body).encode())
    assert (status, answer["error"]["param"]) == (400, "messages[0].content[0].image_url.url")


def test_harmless_parameters_are_taken(client):
    client.completions.create(
        model="tiny", prompt="We", max_tokens=2, user="me", frequency_penalty=0, presence_penalty=0.0, best_of=1
    )
    client.chat.completions.create(
        **GOOD_CHAT, max_tokens=2, metadata={"a": "b"}, store=False, tools=[], response_format={"type": "text"}
    )


def test_the_client_raises_its_own_exceptions(client):
    with pytest.raises(openai.BadRequestError) as found:
        client.completions.create(model="tiny", prompt="We " * 100)
    assert (found.value.code, found.value.param) == ("context_length_exceeded", "prompt")
    with pytest.raises(openai.NotFoundError) as found:
        client.completions.create(model="other", prompt="We")
    assert found.value.code == "model_not_found"


@pytest.mark.parametrize(
    ("body", "status"),
    [(b"", 400), (b"{", 400), (b"[]", 400), (b"\xff\xfe", 400), (b"[" * 100_000, 400), (b"NaN", 400)],
    ids=lambda value: repr(value)[:12],
)
def test_bodies_that_are_no_object_are_refused(address, body, status):
    found, _, answer = post(address, "/v1/completions", body)
    assert (found, answer["error"]["type"]) == (status, "invalid_request_error")


def test_unknown_paths_and_methods_have_the_apis_errors(address):
    status, _, answer = post(address, "/v1/nothing", b"{}")
    assert (status, answer["error"]["message"]) == (404, "there is no /v1/nothing")
    status, text = get(f"{address}/v1/completions")
    assert (status, json.loads(text)["error"]["message"]) == (405, "/v1/completions takes no GET")


def test_a_full_queue_sends_clients_away_until_there_is_room(client, server, slowly):
    streams = [client.completions.create(**LONG, stream=True) for _ in range(ROWS)]
    others = client.completions.with_raw_response
    waiting = [threading.Thread(target=lambda: client.completions.create(**LONG)) for _ in range(WAITING)]
    for thread in waiting:
        thread.start()
    wait_until(lambda: server.worker.num_jobs == ROWS + WAITING)
    with pytest.raises(openai.RateLimitError) as found:
        others.create(**LONG)
    assert found.value.response.headers["Retry-After"] == "1"
    assert found.value.code == "rate_limit_exceeded"
    for stream in streams:
        stream.close()
    wait_until(lambda: server.worker.num_jobs == WAITING)
    client.completions.create(**(LONG | {"max_tokens": 1}))
    for thread in waiting:
        thread.join(60)
    wait_until(lambda: idle(server))


def test_a_client_that_goes_away_frees_its_row(client, server, slowly):
    before = server.worker.counts.completion_tokens
    stream = client.completions.create(**LONG, stream=True)
    next(iter(stream))
    assert server.worker.slots.num_active == 1
    stream.close()
    wait_until(lambda: idle(server))
    assert server.worker.counts.completion_tokens - before < 60
    with pytest.raises(openai.APITimeoutError):  # before anything was sent
        client.with_options(timeout=0.2).completions.create(**LONG)
    wait_until(lambda: idle(server))


def test_a_request_that_takes_too_long_is_ended(client, server, slowly, monkeypatch):
    monkeypatch.setattr(server, "limits", Limits(seconds=0.3))
    with pytest.raises(openai.APIStatusError) as found:
        client.completions.create(**LONG)
    assert (found.value.status_code, found.value.code) == (408, "timeout")
    with pytest.raises(openai.APIError, match=r"not finished within 0\.3 s"):
        list(client.completions.create(**LONG, stream=True))
    wait_until(lambda: idle(server))


def test_a_turn_that_fails_costs_only_those_who_were_there(client, server, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(server.worker.slots.decoder, "decode", lambda *_: 1 / 0)
        with pytest.raises(openai.InternalServerError, match="the model failed"):
            client.completions.create(**LONG)
    assert client.completions.create(**LONG).usage.completion_tokens
    assert idle(server)


def test_metrics_count(address, client, server):
    before = server.worker.counts.completion_tokens
    client.completions.create(**(LONG | {"max_tokens": 3}))
    status, text = get(f"{address}/metrics")
    assert status == 200
    assert f"kinema_completion_tokens_total {before + 3}" in text.splitlines()
    assert f"kinema_rows {ROWS}" in text.splitlines()


def test_a_server_with_a_key_lets_in_those_who_have_it(loaded):
    """And while it loads it says so; a body that is too large is refused."""
    limits = Limits(api_key="sesame", body_bytes=2000)
    server = server_of(loaded, "tiny", rows=1, max_slots=64, max_waiting=0, piece=32, limits=limits)
    go = threading.Event()
    compile_all = server.worker.slots.compile
    server.worker.slots.compile = lambda examples: (go.wait(120), compile_all(examples))
    with running(server, ready=False) as address:
        assert get(f"{address}/health") == (503, '{"status": "loading"}')
        right = {"Authorization": "Bearer sesame"}
        status, headers, answer = post(address, "/v1/completions", json.dumps(GOOD).encode(), right)
        assert (status, answer["error"]["type"], headers["Retry-After"]) == (503, "server_error", "5")
        go.set()
        wait_until(lambda: get(f"{address}/health")[0] == 200)
        for key in ("", "Bearer", "Bearer other", "sesame"):
            status, _, answer = post(address, "/v1/completions", b"{}", {"Authorization": key})
            assert (status, answer["error"]["code"]) == (401, "invalid_api_key")
        with pytest.raises(openai.AuthenticationError):
            openai.OpenAI(base_url=f"{address}/v1", api_key="x", max_retries=0).models.list()
        assert post(address, "/v1/completions", json.dumps(GOOD).encode(), right)[0] == 200
        body = json.dumps(GOOD | {"prompt": "a" * 3000}).encode()
        status, _, answer = post(address, "/v1/completions", body, right)
        assert (status, answer["error"]["message"]) == (413, "the request body is larger than 2000 bytes")


def test_the_end_waits_for_those_who_are_served(loaded):
    server = server_of(loaded, "tiny", rows=1, max_slots=64, max_waiting=0, piece=32, block=4)
    turn, answers = server.worker.slots.turn, []
    with running(server) as address:
        server.worker.slots.turn = lambda: (time.sleep(0.03), turn())[1]
        client = openai.OpenAI(base_url=f"{address}/v1", api_key="any", max_retries=0)
        options = LONG | {"max_tokens": 40}
        thread = threading.Thread(target=lambda: answers.append(client.completions.create(**options)))
        thread.start()
        wait_until(lambda: server.worker.num_jobs == 1)
    thread.join(120)
    assert answers[0].usage.completion_tokens
    assert server.worker.state == "stopped"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "give --max_slots"),
        ({"max_slots": 64, "rows": 0}, "num_rows is 0"),
        ({"max_slots": 64, "max_waiting": -1}, "max_waiting is -1; allowed: 0 or more"),
        ({"max_slots": 64, "turn": "{role}"}, "turn is '{role}'; allowed: text that holds {content} once"),
    ],
    ids=str,
)
def test_settings_that_cannot_work_are_refused(loaded, options, message):
    with pytest.raises(ValueError) as found:
        server_of(loaded, "tiny", **options)
    assert message in str(found.value)


def test_the_command_says_what_is_wrong(tmp_path):
    with pytest.raises(SystemExit, match=r"error: .*holds no finished checkpoint"):
        main([str(tmp_path)])
    (tmp_path / "key").write_text("\n")
    with pytest.raises(SystemExit, match="is empty; write the secret into it, or leave out --api_key_file"):
        main([str(tmp_path), "--api_key_file", str(tmp_path / "key")])

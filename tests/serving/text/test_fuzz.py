"""A thousand requests that make little sense leave the server as it was."""

import collections
import http.client
import json
import random
import socket
import urllib.parse

from tests.serving.text.running import wait_until

NUM = 1000
COMPLETION = {"model": "tiny", "prompt": "We know", "max_tokens": 3, "temperature": 0}
CHAT = {"model": "tiny", "messages": [{"role": "user", "content": "We"}], "max_tokens": 3, "temperature": 0}
FIELDS = (
    *("model", "prompt", "messages", "max_tokens", "n", "stop", "seed", "stream", "stream_options", "logprobs", "echo"),
    *("top_logprobs", "top_p", "top_k", "temperature", "logit_bias", "tools", "user", "best_of", "response_format"),
)
SCALARS = (
    *(None, True, False, 0, 1, -1, 2, 7, 1e308, -0.5, 10**30, 2**63, "", "a", "tiny", "\u0000", "\ud83d", "☃" * 40),
    *(float("nan"), float("inf"), "user", "text", "image_url", "data:image/png;base64,iVBORw0KGgo="),
)
PATHS = ("/v1/completions", "/v1/chat/completions")


def anything(rng, depth=0):
    """A random JSON value."""
    kind = rng.random()
    if depth == 3 or kind < 0.6:
        return rng.choice(SCALARS)
    if kind < 0.8:
        return [anything(rng, depth + 1) for _ in range(rng.randrange(4))]
    names = (*FIELDS, "role", "content", "type", "text", "url", "image_url", "include_usage")
    return {rng.choice(names): anything(rng, depth + 1) for _ in range(rng.randrange(4))}


def mutated(rng):
    """A good body in which some fields are something else."""
    body = dict(rng.choice((COMPLETION, CHAT)))
    for _ in range(rng.randrange(1, 4)):
        body[rng.choice(FIELDS)] = anything(rng)
    return json.dumps(body).encode()


def damaged(rng):
    """A good body with bytes cut off, changed or put in."""
    content = bytearray(json.dumps(rng.choice((COMPLETION, CHAT))).encode())
    for _ in range(rng.randrange(1, 5)):
        content[rng.randrange(len(content))] = rng.randrange(256)
    return bytes(content[: rng.randrange(1, len(content) + 1)])


def any_bytes(rng):
    return rng.randbytes(rng.randrange(200))


def large(rng):
    return json.dumps(COMPLETION | {"prompt": rng.choice(("a", "☃", " ")) * rng.randrange(10_000, 300_000)}).encode()


def nested(rng):
    return b'{"prompt":' + rng.choice((b"[", b'{"a":')) * rng.randrange(1000, 50_000)


BODIES = {mutated: 60, damaged: 15, any_bytes: 10, large: 2, nested: 3}


def broken_connection(rng, host, port):
    """Bytes that are no request, or only the beginning of one, and then nobody."""
    body = mutated(rng)
    head = f"POST {rng.choice(PATHS)} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n".encode()
    whole = rng.choice((head + body, rng.randbytes(50) + b"\r\n\r\n", head.replace(b"Length: ", b"Length: -") + body))
    with socket.create_connection((host, port), timeout=120) as connection:
        connection.sendall(whole[: rng.randrange(1, len(whole) + 1)])


def test_a_thousand_senseless_requests_leave_the_server_healthy(address, server, client):
    expected = client.completions.create(logprobs=3, **COMPLETION)
    rng, statuses = random.Random(0), collections.Counter()
    parsed = urllib.parse.urlsplit(address)
    connection = http.client.HTTPConnection(parsed.hostname, parsed.port, timeout=120)
    for _ in range(NUM):
        if rng.random() < 0.1:
            broken_connection(rng, parsed.hostname, parsed.port)
            continue
        (make,) = rng.choices(list(BODIES), BODIES.values())
        path = rng.choice(PATHS) if rng.random() < 0.97 else f"/v1/{rng.choice(FIELDS)}"
        body = make(rng)
        connection.request(rng.choices(("POST", "PUT", "GET"), (20, 1, 1))[0], path, body)
        answer = connection.getresponse()
        content = answer.read()
        statuses[answer.status] += 1
        if answer.status != 200:
            error = json.loads(content)["error"]
            assert set(error) == {"message", "type", "param", "code"}, body
            assert error["message"], body
    assert set(statuses) <= {200, 400, 404, 405}
    assert statuses[400] > NUM / 2
    assert statuses[200] > NUM / 100
    wait_until(lambda: server.worker.num_jobs == 0 and not server.worker.slots.busy)
    again = client.completions.create(logprobs=3, **COMPLETION)
    assert again.choices == expected.choices
    assert not [status for status in server.responses if status >= 500]

"""openpi's client is served as by openpi; who sends nonsense harms nobody else."""

import contextlib
import random
import re
import threading
import time
import urllib.error
import urllib.request

import numpy as np
import pytest

from serving.robot.wire import pack, unpack
from tests.serving.robot.machine import CHUNK, METADATA, Echo, echo_server, message
from tests.serving.text.running import running, wait_until

client = pytest.importorskip("websockets.sync.client")
exceptions = pytest.importorskip("websockets.exceptions")
REASON = "Internal server error. Traceback included in previous frame."


@contextlib.contextmanager
def serving(server):
    with running(server, ready=False) as address:
        yield address.removeprefix("http://")


@pytest.fixture(scope="module")
def server():
    return echo_server()


@pytest.fixture(scope="module")
def address(server):
    with serving(server) as address:
        yield address


@pytest.fixture
def connect():
    """address -> (socket, metadata); closed at the end of the test."""
    with contextlib.ExitStack() as stack:

        def connected(address, **options):
            opening = client.connect(f"ws://{address}", compression=None, max_size=None, **options)
            socket = stack.enter_context(opening)
            return socket, unpack(socket.recv())

        yield connected


def ask(socket, content):
    socket.send(content if isinstance(content, bytes | str) else pack(content))
    answer = socket.recv()
    return answer if isinstance(answer, str) else unpack(answer)


def send_while_the_policy_thinks(server, policy, sockets, messages):
    """The first message is with the policy, all others wait for it, when it goes on."""
    policy.gate.clear()
    policy.entered.clear()
    for socket, content in zip(sockets, messages, strict=True):
        socket.send(pack(content))
        assert policy.entered.wait(120)
    wait_until(lambda: server.worker.num_waiting == len(messages) - 1)
    policy.gate.set()


def test_openpis_own_client_is_served(address):
    policy = pytest.importorskip("openpi_client.websocket_client_policy")
    host, port = address.split(":")
    robot = policy.WebsocketClientPolicy(host, int(port))
    assert robot.get_server_metadata() == METADATA
    first, second = robot.infer(message()), robot.infer(message(5.0))
    assert first["actions"].tolist() == [[1 + i, 2 + i] for i in range(CHUNK)]
    assert second["actions"][0].tolist() == [5, 2]
    assert first["actions"].dtype == np.float32
    assert first["policy_timing"]["infer_ms"] >= 0
    assert set(first["server_timing"]) == {"infer_ms"}
    assert second["server_timing"]["prev_total_ms"] >= first["server_timing"]["infer_ms"]
    with pytest.raises(RuntimeError, match="state is missing"):
        robot.infer({"images": message()["images"], "prompt": "push"})


def test_openpis_broker_plays_a_chunk_step_by_step(address):
    broker = pytest.importorskip("openpi_client.action_chunk_broker")
    policy = pytest.importorskip("openpi_client.websocket_client_policy")
    host, port = address.split(":")
    robot = broker.ActionChunkBroker(policy.WebsocketClientPolicy(host, int(port)), action_horizon=2)
    assert [robot.infer(message(x))["actions"][0] for x in (1.0, 50.0, 9.0)] == [1, 2, 9]


def test_health_is_answered_before_any_upgrade(address):
    with urllib.request.urlopen(f"http://{address}/healthz") as answer:
        assert (answer.status, answer.read()) == (200, b"OK\n")


@pytest.mark.parametrize("path", ["/", "/any/other"])
def test_every_other_path_is_a_robots(address, path):
    with client.connect(f"ws://{address}{path}", compression=None) as socket:
        assert unpack(socket.recv()) == METADATA


@pytest.mark.parametrize(
    ("sent", "told"),
    [
        ({"prompt": "push"}, "images/front is missing"),
        (message(-1.0), "proprio is .* this arm has positive angles"),
        (b"\xc1nonsense", "no msgpack message"),
        ("text", "the frame is text; send one binary frame"),
        (message(2000.0), "^the policy failed; the server's log says more$"),
    ],
)
def test_a_mistake_is_told_in_text_and_ends_the_connection_as_openpi_ends_it(connect, address, sent, told):
    socket, _ = connect(address)
    assert ask(socket, message())["actions"].shape == (CHUNK, 2)
    answer = ask(socket, sent)
    assert isinstance(answer, str)
    assert re.search(told, answer)
    with pytest.raises(exceptions.ConnectionClosedError):
        socket.recv()
    assert (socket.close_code, socket.close_reason) == (1011, REASON)


def test_clients_that_come_together_are_answered_together_and_each_by_its_own(connect):
    policy = Echo()
    server = echo_server(policy, max_batch=4)
    with serving(server) as address:
        sockets = [connect(address)[0] for _ in range(6)]
        send_while_the_policy_thinks(server, policy, sockets, [message(float(i)) for i in range(6)])
        assert [unpack(socket.recv())["actions"][0, 0] for socket in sockets] == list(range(6))
        assert policy.batches == [1, 4, 1]


def test_a_bad_observation_among_others_is_refused_alone(connect):
    policy = Echo()
    server = echo_server(policy)
    with serving(server) as address:
        early, good, bad, other = sockets = [connect(address)[0] for _ in range(4)]
        messages = [message(first) for first in (0.0, 1.0, -1.0, 3.0)]
        send_while_the_policy_thinks(server, policy, sockets, messages)
        assert unpack(early.recv())["actions"][0, 0] == 0
        assert unpack(good.recv())["actions"][0, 0] == 1
        assert "positive angles" in bad.recv()
        assert unpack(other.recv())["actions"][0, 0] == 3
        assert ask(good, message(4.0))["actions"][0, 0] == 4


def test_pings_are_answered_while_the_policy_thinks(connect):
    with serving(echo_server(Echo(seconds=4))) as address:
        socket, _ = connect(address, ping_interval=0.1, ping_timeout=2)
        assert ask(socket, message())["actions"].shape == (CHUNK, 2)


def test_a_client_that_leaves_in_the_middle_is_forgotten(connect):
    policy = Echo()
    server = echo_server(policy)
    with serving(server) as address:
        policy.gate.clear()
        socket, _ = connect(address)
        socket.send(pack(message()))
        wait_until(lambda: len(server.board.clients) == 1)
        socket.socket.close()
        policy.gate.set()
        wait_until(lambda: not server.board.clients)
        assert ask(connect(address)[0], message())["actions"].shape == (CHUNK, 2)


def test_the_token_opens_robots_page_and_pictures(connect):
    with serving(echo_server(token="secret")) as address:
        for header in ({}, {"Authorization": "Api-Key wrong"}):
            with pytest.raises(exceptions.InvalidStatus, match="401"):
                connect(address, additional_headers=header)
        assert connect(address, additional_headers={"Authorization": "Api-Key secret"})[1] == METADATA
        with pytest.raises(urllib.error.HTTPError, match="401"):
            urllib.request.urlopen(f"http://{address}/")
        with urllib.request.urlopen(f"http://{address}/?token=secret") as page:
            assert b"<title>Kinema policy server" in page.read()
        with pytest.raises(exceptions.InvalidStatus, match="401"):
            client.connect(f"ws://{address}/live").__enter__()
        with urllib.request.urlopen(f"http://{address}/healthz") as answer:
            assert answer.status == 200


@pytest.mark.parametrize("path", ["/", "/live"])
def test_another_sites_page_may_not_look(address, path):
    with pytest.raises(exceptions.InvalidStatus, match="403"):
        client.connect(f"ws://{address}{path}", origin="http://elsewhere.example").__enter__()
    with client.connect(f"ws://{address}{path}", origin=f"http://{address}") as socket:
        assert socket.recv()


def test_more_clients_than_there_is_room_for_are_asked_to_wait(connect):
    with serving(echo_server(max_clients=1)) as address:
        first, _ = connect(address)
        with pytest.raises(exceptions.InvalidStatus, match="503"):
            connect(address)
        first.close()
        wait_until(lambda: _connects(connect, address))


def _connects(connect, address):
    with contextlib.suppress(exceptions.InvalidStatus):
        return connect(address)[1] == METADATA
    return False


def test_frames_sent_ahead_are_answered_in_order_and_none_after_a_mistake(connect, address):
    socket, _ = connect(address)
    for first in (1.0, 2.0, 3.0, 4.0, 5.0, 6.0, -1.0, *[7.0] * 20):
        socket.send(pack(message(first)))
    assert [unpack(socket.recv())["actions"][0, 0] for _ in range(6)] == [1, 2, 3, 4, 5, 6]
    assert "positive angles" in socket.recv()
    with pytest.raises(exceptions.ConnectionClosed):
        socket.recv()


def test_a_frame_that_is_too_large_ends_only_its_connection(connect):
    with serving(echo_server(frame_bytes=10_000)) as address:
        healthy, _ = connect(address)
        large, _ = connect(address)
        with pytest.raises(exceptions.ConnectionClosed):
            ask(large, b"x" * 20_000)
        assert large.close_code == 1009
        assert ask(healthy, message())["actions"].shape == (CHUNK, 2)


def malformed(rng):
    """A frame that is no observation, or hardly one."""
    frame = bytearray(pack(message()))
    kind = rng.random()
    if kind < 0.3:
        return rng.randbytes(rng.randrange(300))
    if kind < 0.6:
        return bytes(frame[: rng.randrange(len(frame))])
    if kind < 0.8:
        name = rng.choice(("images", "state", "prompt", "embodiment"))
        value = rng.choice((None, 1, [], {}, "☃", b"b", [[1], [2]], np.zeros((0, 2)), {"front": np.zeros(3)}))
        return pack(message(**{name: value}))
    for _ in range(rng.randrange(1, 6)):
        frame[rng.randrange(60)] = rng.randrange(256)
    return bytes(frame)


def test_a_thousand_malformed_frames_drop_no_healthy_client(connect):
    rng, server = random.Random(0), echo_server()
    with serving(server) as address:
        healthy = [connect(address)[0] for _ in range(4)]
        served = [0] * len(healthy)
        end = threading.Event()

        def work(i):
            while not end.is_set():
                served[i] += ask(healthy[i], message(float(i)))["actions"][0, 0] == i
                time.sleep(0.01)

        threads = [threading.Thread(target=work, args=(i,)) for i in range(len(healthy))]
        for thread in threads:
            thread.start()
        refused, socket = 0, None
        for _ in range(1000):
            socket = socket or connect(address)[0]
            with contextlib.suppress(exceptions.ConnectionClosed):
                if isinstance(ask(socket, malformed(rng)), str):
                    socket, refused = None, refused + 1
        end.set()
        for thread in threads:
            thread.join()
        assert refused > 900
        assert server.refused == refused
        before = list(served)
        assert all(count > 10 for count in before)
        assert [ask(s, message(float(i)))["actions"][0, 0] for i, s in enumerate(healthy)] == [0, 1, 2, 3]

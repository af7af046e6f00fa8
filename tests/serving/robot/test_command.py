"""`python -m serving.policy` on a checkpoint of two robots: what a client gets is what the policy does in process."""

import json
import os
import signal
import subprocess
import sys
import time
import urllib.request

import numpy as np
import pytest

from serving.policy import Policy
from serving.robot.__main__ import main, server_of
from serving.robot.wire import pack, unpack
from tests.ports import free_port
from tests.serving.observations import observation
from tests.serving.text.running import running
from tests.train.tiny_config import CHUNK, robot_config
from train.build import build_phase
from train.checkpoint import Checkpoint
from train.phases import run

client = pytest.importorskip("websockets.sync.client")
pytestmark = pytest.mark.usefixtures("quick_compilation")


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("run")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("train.metrics.peak_flops", lambda: (1e9, "given"))
        run(robot_config(tmp_path_factory.mktemp("robots")), workdir, build_phase)
    return workdir


@pytest.fixture(scope="module")
def policy(workdir):
    return Policy(Checkpoint.open(workdir / "act"), batch_size=(1, 3), seed=5)


def sent(seen, **changes):
    content = {"images": {"front": seen.images[0]}, "state": seen.proprio, "prompt": seen.instruction}
    return pack(content | {"embodiment": seen.embodiment} | changes)


def test_robots_get_over_the_wire_what_the_policy_does_in_process(policy, workdir):
    alone = Policy(Checkpoint.open(workdir / "act"), seed=5)
    server = server_of(policy, metadata={"reset_pose": [0.5]})
    already = sum(policy.batch_sizes)  # observations that compiling was done with
    alone._count = already
    with (
        running(server, ready=False) as url,
        client.connect(url.replace("http", "ws")) as socket,
    ):
        metadata = unpack(socket.recv())
        for arm, widths in (("arm2", (4, 2)), ("arm3", (5, 3)), ("arm2", (4, 2))):
            seen = observation(arm)
            socket.send(sent(seen))
            np.testing.assert_allclose(unpack(socket.recv())["actions"], alone.act([seen])[0], rtol=1e-5, atol=1e-5)
            told = metadata["embodiments"][arm]
            assert (told["state_width"], told["action_width"], told["action_horizon"]) == (*widths, CHUNK)
        assert metadata["reset_pose"] == [0.5]
        assert metadata["default_embodiment"] is None
        socket.send(sent(seen, state=np.zeros(3)))
        assert "proprio is" in socket.recv()


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"preset": "arms"}, "fields is 'arms'; allowed: libero, droid, aloha"),
        ({"embodiment": "leg"}, "embodiment is 'leg'; this policy knows arm2, arm3"),
        ({"metadata": {"pose": {1, 2}}}, "set cannot be sent"),
    ],
)
def test_settings_that_cannot_work_are_refused(policy, options, named):
    with pytest.raises((ValueError, TypeError), match=named):
        server_of(policy, **options)


@pytest.mark.parametrize(
    ("more", "named"),
    [
        (["--metadata", "{"], "error: --metadata is '{', which is no JSON"),
        (["--metadata", "[]"], "error: --metadata is '\\[\\]'; give a JSON object"),
        (["--token_file", "absent"], "error: .*absent"),
        (["--batch_size", "0"], "error: batch_size is"),
    ],
)
def test_the_command_says_in_one_line_what_is_wrong(workdir, more, named, monkeypatch):
    monkeypatch.setattr("serving.robot.__main__.prepare_kernels", lambda: None)
    with pytest.raises(SystemExit, match=named):
        main([str(workdir / "act"), *more])


@pytest.mark.slow
def test_the_command_serves_once_it_answers_health_and_stops_on_a_signal(workdir):
    port = free_port()
    command = [sys.executable, "-m", "serving.policy", str(workdir / "act"), "--port", str(port), "--batch_size", "2"]
    with subprocess.Popen([*command, "--embodiment", "arm2"], env=os.environ) as process:
        try:
            for _ in range(1800):
                try:
                    assert urllib.request.urlopen(f"http://127.0.0.1:{port}/healthz").read() == b"OK\n"
                    break
                except OSError:
                    assert process.poll() is None
                    time.sleep(0.1)
            with client.connect(f"ws://127.0.0.1:{port}") as socket:
                assert json.dumps(unpack(socket.recv())["default_embodiment"]) == '"arm2"'
                seen = observation("arm2")
                socket.send(pack({"images": {"front": seen.images[0]}, "state": seen.proprio, "prompt": "push"}))
                assert unpack(socket.recv())["actions"].shape == (CHUNK, 2)
        finally:
            process.send_signal(signal.SIGTERM)
        assert process.wait(120) == 0

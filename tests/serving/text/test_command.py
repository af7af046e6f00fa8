"""The command as a process would run it: up to ready, and down again by SIGTERM."""

import os
import signal
import threading

import openai
import pytest

import serving.text.__main__ as command
from serving.slots import Slots
from tests.ports import free_port
from tests.serving.text.running import wait_until
from tests.serving.text.test_limits import get


@pytest.fixture
def run(loaded, tmp_path, monkeypatch):
    """Runs the command on the tiny model while `meanwhile` gets its address in another thread; returns what that
    does."""
    monkeypatch.setattr(command.Checkpoint, "open", lambda path: path)
    monkeypatch.setattr(command.LoadedModel, "of", lambda _: loaded)
    (tmp_path / "tiny").mkdir()

    def run(meanwhile):
        port = free_port()
        results = []
        thread = threading.Thread(target=lambda: results.append(meanwhile(f"http://127.0.0.1:{port}")))
        thread.start()
        try:
            options = ["--port", str(port), "--max_slots", "64", "--rows", "1", "--piece", "32", "--block", "2"]
            command.main([str(tmp_path / "tiny"), *options])
        finally:
            thread.join(30)
        return results

    return run


def is_up(address):
    try:
        return get(f"{address}/health")[0] == 200
    except OSError:
        return False


def test_sigterm_ends_the_command_when_those_who_are_served_have_their_answers(run):
    def meanwhile(address):
        wait_until(lambda: is_up(address))
        client = openai.OpenAI(base_url=f"{address}/v1", api_key="any", max_retries=0)
        stream = client.completions.create(model="tiny", prompt="We", max_tokens=40, temperature=0, stream=True)
        chunks = [next(iter(stream))]
        os.kill(os.getpid(), signal.SIGTERM)
        return chunks + list(stream)

    (chunks,) = run(meanwhile)
    assert chunks[-1].choices[0].finish_reason in ("length", "stop")


def test_a_model_that_cannot_be_compiled_ends_the_command_with_its_error(run, monkeypatch):
    def no_memory(*_):
        raise MemoryError("too large")

    monkeypatch.setattr(Slots, "compile", no_memory)
    with pytest.raises(SystemExit, match="error: the model cannot be run: too large"):
        run(lambda address: None)

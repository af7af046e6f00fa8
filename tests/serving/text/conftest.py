"""A server of a tiny model that takes images, and clients of it."""

import dataclasses

import openai
import pytest

from configs.schema import parse
from data.vocabulary import Vocabulary
from model.config import ImageConfig, ModelConfig
from serving.model import LoadedModel
from serving.text.__main__ import server_of
from tests.model.weights import random_states
from tests.serving.text.running import running
from tests.train.tiny_config import TEXT, model

MAX_SLOTS, ROWS, WAITING = 128, 3, 5


@pytest.fixture(scope="session")
def vocabulary():
    return Vocabulary.train([TEXT.read_text()[:8000]], 384)


@pytest.fixture(scope="module")
def loaded(quick_compilation, vocabulary):
    image = dataclasses.asdict(ImageConfig(height=16, width=16, patch_size=8, stem_dim=8))
    config = parse(ModelConfig, model(image=image))
    return LoadedModel(config, vocabulary, {}, *random_states(config, vocabulary.size, seed=4, std=0.4))


@pytest.fixture(scope="module")
def server(loaded):
    return server_of(loaded, "tiny", rows=ROWS, max_slots=MAX_SLOTS, max_waiting=WAITING, piece=32, block=4)


@pytest.fixture(scope="module")
def address(server):
    with running(server) as address:
        yield address


@pytest.fixture(scope="module")
def client(address):
    with openai.OpenAI(base_url=f"{address}/v1", api_key="any", max_retries=0, timeout=120) as client:
        yield client


@pytest.fixture
def slowly(server, monkeypatch):
    """Each turn takes a while, so that there is time to do something meanwhile."""
    import time

    turn = server.worker.slots.turn

    def slow():
        time.sleep(0.05)
        return turn()

    monkeypatch.setattr(server.worker.slots, "turn", slow)

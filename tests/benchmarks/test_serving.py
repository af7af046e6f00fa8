"""The load on a text server, with a tiny model behind it."""

import asyncio
import urllib.parse

import pytest

from benchmarks.serving import measure
from configs.schema import parse
from data.vocabulary import Vocabulary
from model.config import ModelConfig
from serving.model import LoadedModel
from serving.text.__main__ import server_of
from tests.model.weights import random_states
from tests.serving.text.running import running
from tests.train.tiny_config import TEXT, model

pytestmark = pytest.mark.usefixtures("quick_compilation")


def test_every_stream_is_counted_and_those_turned_away_are_dropped():
    vocabulary, config = Vocabulary.train([TEXT.read_text()[:8000]], 384), parse(ModelConfig, model())
    loaded = LoadedModel(config, vocabulary, {}, *random_states(config, vocabulary.size, std=0.4))
    server = server_of(loaded, "demo", rows=2, max_slots=64, max_waiting=0, piece=32)
    with running(server) as address:
        port = urllib.parse.urlsplit(address).port
        found = asyncio.run(measure(port, {"many": 2, "one": 1, "too many": 3}, rounds=1, each=2, tokens=5))
    assert {name: len(turns) for name, turns in found.items()} == {"many": 1, "one": 1, "too many": 1}
    assert found["many"][0]["dropped"] == found["one"][0]["dropped"] == 0
    assert found["too many"][0]["dropped"] >= 2
    assert all(turns[0]["tokens_per_second"] > 0 for turns in found.values())

"""A text model of random weights, and rows that hold one text and nothing else."""

import numpy as np

from configs.schema import parse
from data.batch import Batch
from data.vocabulary import Vocabulary
from model.config import ModelConfig
from serving.model import LoadedModel
from tests.model.weights import random_states
from tests.train.tiny_config import TEXT, model


def small_vocabulary() -> Vocabulary:
    return Vocabulary.train([TEXT.read_text()[:8000]], 384, num_codes=8)


def random_model(vocabulary: Vocabulary) -> LoadedModel:
    config = parse(ModelConfig, model())
    return LoadedModel(config, vocabulary, {}, *random_states(config, vocabulary.size, seed=4, std=0.4))


def unpadded(ids: list[int]) -> Batch:
    """One row that holds nothing but these ids."""
    zeros = np.zeros((1, len(ids)), np.int32)
    tokens, positions = np.array([ids], np.int32), np.arange(len(ids), dtype=np.int32)[None]
    return Batch(tokens, zeros + 1, positions, zeros, zeros.astype("f4"), zeros + 1, {}, {})

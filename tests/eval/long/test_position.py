"""Loss against position: known power laws are found again, and a model that learns from its context shows one."""

from pathlib import Path

import numpy as np
import pytest

from data.vocabulary import Vocabulary
from eval.language import Score
from eval.long import position
from eval.suites.items import Passage
from eval.suites.job import run
from tests.eval.language_doubles import Oracle

TEXT = Path("tests/assets/text/shakespeare.txt")


@pytest.mark.parametrize(("a", "b", "c"), [(3.0, -0.3, 2.0), (1.0, -1.2, 0.0), (2.5, -0.05, -0.5)])
def test_a_power_law_is_found_again(a, b, c):
    x = np.geomspace(1, 100_000, 30)
    law = position.fit(x, a * x**b + c)
    assert (law.a, law.b, law.c) == pytest.approx((a, b, c), rel=2e-3, abs=2e-3)
    assert law.r_squared > 0.999999


def test_noise_lowers_r_squared_and_a_line_without_a_trend_has_none():
    rng, x = np.random.default_rng(0), np.geomspace(4, 4096, 24)
    clean = 3 * x**-0.4 + 2
    noisy = position.fit(x, clean + rng.normal(0, 0.05, x.size))
    assert 0.9 < noisy.r_squared < 0.999
    assert noisy.b == pytest.approx(-0.4, abs=0.1)
    assert position.fit(x, rng.normal(2, 0.05, x.size)).r_squared < 0.5


def test_buckets_cover_every_position_once():
    nll_NT = np.random.default_rng(0).normal(size=(3, 1000))
    position_K, loss_K, error_K = position.buckets(nll_NT)
    assert position_K[0] == pytest.approx(8**0.5)
    assert loss_K[0] == pytest.approx(nll_NT[:, :8].mean())
    assert loss_K[-1] == pytest.approx(nll_NT[:, 724:].mean())
    assert len(position_K) == len(loss_K) == 1 + 14
    assert error_K[0] == pytest.approx(nll_NT[:, :8].mean(1).std(ddof=1) / 3**0.5)


class Counter(Oracle):
    """Predicts each token by how often it came before in the document (Laplace's rule)."""

    def score(self, requests):
        scores = []
        for _, ids in requests:
            counts, logprobs = np.ones(self.vocabulary.size), []
            for token in ids:
                logprobs.append(np.log(counts[token] / counts.sum()))
                counts[token] += 1
            scores.append(Score(np.array(logprobs, np.float32), False))
        return scores


def test_a_model_that_learns_from_its_context_follows_a_power_law(tmp_path):
    vocabulary = Vocabulary.train([TEXT.read_text()], 512)
    suite = position.suite(vocabulary, [TEXT], (4096,), samples=12)
    assert len(suite.items) == 12
    assert isinstance(suite.items[0], Passage)
    assert {len(item.ids) for item in suite.items} == {4096}
    found = run(suite, Counter(vocabulary), tmp_path)
    assert found["b"] < 0
    assert found["r_squared"] > 0.9
    loss = dict(zip(found["position"], found["nats_per_token"], strict=True))
    assert loss[min(loss)] - loss[max(loss)] > 0.5
    assert (tmp_path / "position.png").exists()


@pytest.mark.parametrize(
    ("texts", "lengths", "message"),
    [
        ([], (64,), "needs --text FILE"),
        ([TEXT], (8, 16), "ends at 16; suite position needs at least 32"),
        ([TEXT], (10**6,), r"has \d+ tokens, --lengths asks for 1000000"),
    ],
)
def test_what_cannot_be_measured_is_said(texts, lengths, message):
    with pytest.raises(ValueError, match=message):
        position.suite(Vocabulary.train([TEXT.read_text()], 384), texts, lengths, 1)


def test_three_numbers_need_four_points():
    with pytest.raises(ValueError, match="3 points are given"):
        position.fit(np.arange(1, 4.0), np.ones(3))

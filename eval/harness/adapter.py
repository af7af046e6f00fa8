"""A `LanguageModel` as lm-evaluation-harness sees a model; what it computes equals the harness's own HF backend."""

from __future__ import annotations

import collections
import json
from collections.abc import Sequence
from typing import Any

from lm_eval.api.instance import Instance
from lm_eval.api.model import TemplateLM
from lm_eval.models.utils import normalize_gen_kwargs
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window

from eval.language import LanguageModel

NUM_TOKENS = 256  # of a generated answer where the task does not say
GREEDY = {"do_sample": False, "temperature": 0.0}  # the only generation settings that there are


class HarnessModel(TemplateLM):
    """Log-likelihoods and greedy generation. Texts longer than the model's context lose their beginning."""

    def __init__(self, model: LanguageModel):
        super().__init__()
        self.model = model

    @property
    def eot_token_id(self) -> int:
        return self.model.vocabulary.eos_id

    @property
    def prefix_token_id(self) -> int:
        return self.model.vocabulary.bos_id

    @property
    def max_length(self) -> int:
        return self.model.context

    @property
    def tokenizer_name(self) -> str:
        return self.model.vocabulary.hash

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **kwargs: Any) -> list[int]:
        ids = self.model.vocabulary.encode(string)
        return ids if add_special_tokens is False else [self.prefix_token_id, *ids]

    def _loglikelihood_tokens(self, requests: Sequence[Any], disable_tqdm: bool = False, **kwargs: Any) -> list:
        del disable_tqdm, kwargs
        scores = self.model.score([self._cut(context, continuation) for _, context, continuation in requests])
        answers = [(score.logprob, score.greedy) for score in scores]
        for (texts, _, _), answer in zip(requests, answers, strict=True):
            if texts is not None:
                self.cache_hook.add_partial("loglikelihood", texts, answer)
        return answers

    def loglikelihood_rolling(self, requests: list[Instance], disable_tqdm: bool = False) -> list[float]:
        """The log-likelihood of whole texts, each in windows of the context, every token predicted once."""
        windows = []
        for text, *_ in (request.args for request in requests):
            # One token of context before each window but the first, which begins with <bos>.
            ids = self.tok_encode(text, add_special_tokens=False)
            cut = get_rolling_token_windows(ids, self.prefix_token_id, self.max_length, context_len=1)
            windows.append([make_disjoint_window(window) for window in cut])
        scores = iter(self.model.score([window for text in windows for window in text]))
        totals = [sum(next(scores).logprob for _ in text) for text in windows]
        for request, total in zip(requests, totals, strict=True):
            self.cache_hook.add_partial("loglikelihood_rolling", request.args, total)
        return totals

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = False) -> list[str]:
        """Raises ValueError for settings that ask for anything but greedy decoding."""
        del disable_tqdm
        alike: dict[str, list[int]] = collections.defaultdict(list)
        asked: list[tuple[Any, ...]] = [request.args for request in requests]
        for i, (_, settings) in enumerate(asked):
            alike[json.dumps(settings, sort_keys=True)].append(i)
        texts = [""] * len(requests)
        for settings, members in alike.items():
            stop, num_tokens = _generation(json.loads(settings))
            room = self.max_length - num_tokens
            if room < 1:
                raise ValueError(
                    f"a task asks for answers of {num_tokens} tokens (max_gen_toks), and the context is "
                    f"{self.max_length} with its prompt; lower max_gen_toks in the task, or raise --context"
                )
            prompts = [self.tok_encode(asked[i][0])[-room:] for i in members]
            for i, text in zip(members, self.model.generate(prompts, num_tokens, stop), strict=True):
                # The harness decodes an answer as a text of its own; a tokenizer that adds a space then takes one away.
                texts[i] = text.removeprefix(" ") if self.model.vocabulary.adds_space else text
                self.cache_hook.add_partial("generate_until", asked[i], texts[i])
        return texts

    def _cut(self, context: list[int], continuation: list[int]) -> tuple[list[int], list[int]]:
        """The last `max_length` + 1 ids: the model reads all but the last of them."""
        drop = max(0, len(context) + len(continuation) - (self.max_length + 1))
        if drop >= len(context):
            raise ValueError(
                f"a continuation of {len(continuation)} tokens does not fit the context of {self.max_length}; raise "
                "--context"
            )
        return context[drop:], continuation


def _generation(settings: dict[str, Any]) -> tuple[list[str], int]:
    """(stop strings, number of tokens) of a task's generation_kwargs."""
    settings = dict(normalize_gen_kwargs(settings, NUM_TOKENS))
    stop, num_tokens = settings.pop("until"), settings.pop("max_gen_toks")
    other = {name: value for name, value in settings.items() if name not in GREEDY or GREEDY[name] != value}
    if other:
        raise ValueError(f"generation_kwargs holds {other}; decoding is greedy here, leave them out of the task file")
    return stop, num_tokens

"""What is written after a prompt, with vocabularies of other libraries: a space at its beginning belongs to it."""

import pytest

from data.vocabulary import Vocabulary
from serving.completion import Completion
from tests.serving.interchange.folders import foreign_tokenizer
from tests.train.tiny_config import TEXT as SHAKESPEARE

TEXT = "Speak, speak. We know it, we know it."


@pytest.mark.parametrize("adds_space", [True, False])
def test_prompt_and_completion_are_the_text_wherever_the_prompt_ends(adds_space):
    vocabulary = Vocabulary(foreign_tokenizer(300, add_dummy_prefix=adds_space))
    ids = vocabulary.encode(TEXT)
    for cut in range(1, len(ids)):
        completion, text = Completion(), ""
        for token in ids[cut:]:  # as a stream brings them, one at a time
            completion.extend([(token, 0.0, ())], vocabulary, num_tokens=len(ids) - cut)
            assert completion.text.startswith(text)
            text = completion.text
        assert vocabulary.decode(ids[:cut]) + text == TEXT


def test_a_long_text_is_not_decoded_again_for_every_token(monkeypatch):
    vocabulary, lengths = Vocabulary.train([SHAKESPEARE.read_text()[:8000]], 384), []
    ids, decode = vocabulary.encode("Speak ☃ " * 30), vocabulary.decode
    monkeypatch.setattr(vocabulary, "decode", lambda ids, **options: lengths.append(len(ids)) or decode(ids, **options))
    completion = Completion()
    for token in ids:
        completion.extend([(token, 0.0, ())], vocabulary, num_tokens=len(ids), stop=["never"])
    assert completion.text == decode(ids)
    assert len(ids) > 100
    assert max(lengths) <= 4  # the bytes of a snowman and one more

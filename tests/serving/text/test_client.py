"""What the official client of the API gets, against the library."""

import asyncio
import base64
import io

import numpy as np
import openai
import pytest
from PIL import Image as PillowImage

from data.elements import Image
from serving.decoder import Decoder
from serving.generate import complete
from serving.prompts import text_tokens
from serving.sampling import Sampling
from serving.text.tokens import token_bytes, token_name

COMMON = {"model": "tiny", "max_tokens": 9, "temperature": 1.0}


@pytest.fixture(scope="module")
def decoder(loaded):
    return Decoder(loaded, piece=32)


def alone(decoder, prompt, sampling, num_tokens=9, **options):
    (completion,) = complete(decoder, [prompt], [sampling], num_tokens=num_tokens, **options)
    return completion


def named(decoder, ids):
    return [token_name(decoder.vocabulary, token) for token in ids]


@pytest.mark.parametrize(
    "settings",
    [{"temperature": 0}, {"seed": 3}, {"seed": 4, "top_p": 0.5, "temperature": 0.7}, {"seed": 5, "top_k": 3}],
    ids=str,
)
def test_a_completion_is_the_librarys_with_its_log_probabilities(client, decoder, settings):
    top_k = settings.get("top_k", 0)
    options = {name: value for name, value in settings.items() if name != "top_k"}
    answer = client.completions.create(
        prompt="We know", logprobs=2, **(COMMON | options), **({"extra_body": {"top_k": top_k}} if top_k else {})
    )
    expected = alone(decoder, "We know", Sampling(**({"temperature": 1.0} | settings)))
    (choice,) = answer.choices
    assert (choice.text, choice.finish_reason) == (expected.text, expected.ended)
    kept = [token for token in expected.ids if token != decoder.vocabulary.eos_id]
    assert choice.logprobs.tokens == named(decoder, kept)
    np.testing.assert_allclose(choice.logprobs.token_logprobs, expected.logprobs[: len(kept)], atol=2e-4)
    assert all(1 <= len(top) <= 2 for top in choice.logprobs.top_logprobs)
    prompt = 1 + len(decoder.vocabulary.encode("We know"))
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (prompt, len(expected.ids))
    assert answer.usage.total_tokens == prompt + len(expected.ids)


def test_prompts_and_choices_come_in_order(client, decoder):
    """Two prompts, text and ids, with two choices each, are four completions over three rows."""
    vocabulary = decoder.vocabulary
    ids = [vocabulary.bos_id, *vocabulary.encode("Speak")]
    answer = client.completions.create(prompt=[ids, [300, 301]], n=2, seed=7, echo=True, **COMMON)
    expected = [
        prompt_text + alone(decoder, (text_tokens(prompt),), Sampling(temperature=1.0, seed=seed)).text
        for prompt, prompt_text in ((ids, "Speak"), ([300, 301], vocabulary.decode([300, 301])))
        for seed in (7, 8)
    ]
    assert [choice.text for choice in answer.choices] == expected
    assert [choice.index for choice in answer.choices] == [0, 1, 2, 3]


def test_without_a_seed_answers_differ(client):
    texts = {client.completions.create(prompt="We", **COMMON).choices[0].text for _ in range(4)}
    assert len(texts) > 1


@pytest.mark.parametrize("kind", ["completion", "chat"])
def test_a_stream_adds_up_to_the_whole(client, kind):
    if kind == "chat":
        options = {"messages": [{"role": "user", "content": "We know"}], "logprobs": True, "top_logprobs": 2}
        create = client.chat.completions.create
    else:
        options, create = {"prompt": ["We know", "Speak"], "logprobs": 2}, client.completions.create
    options |= COMMON | {"seed": 11, "n": 2, "max_tokens": 21}
    whole = create(**options)
    chunks = list(create(**options, stream=True, stream_options={"include_usage": True}))
    assert chunks[-1].usage == whole.usage
    assert not chunks[-1].choices
    assert all(chunk.usage is None for chunk in chunks[:-1])
    assert len(chunks) > 2 * len(whole.choices)
    for expected in whole.choices:
        mine = [choice for chunk in chunks for choice in chunk.choices if choice.index == expected.index]
        assert [choice.finish_reason for choice in mine if choice.finish_reason] == [expected.finish_reason]
        if kind == "chat":
            assert mine[0].delta.role == "assistant"
            assert "".join(choice.delta.content or "" for choice in mine) == expected.message.content
            content = [one for choice in mine if choice.logprobs for one in choice.logprobs.content]
            assert [one.token for one in content] == [one.token for one in expected.logprobs.content]
        else:
            assert "".join(choice.text for choice in mine) == expected.text
            for field in ("tokens", "text_offset"):
                found = [one for choice in mine if choice.logprobs for one in getattr(choice.logprobs, field)]
                assert found == getattr(expected.logprobs, field)


def test_a_stop_string_ends_the_text_before_it(client, decoder):
    whole = alone(decoder, "We know", Sampling(temperature=0), num_tokens=30)
    stop = whole.text[8:11]
    options = COMMON | {"temperature": 0, "max_tokens": 30, "stop": [stop, "never"], "prompt": "We know"}
    (choice,) = client.completions.create(**options).choices
    assert choice.finish_reason == "stop"
    assert choice.text == whole.text[: whole.text.index(stop)]
    streamed = [chunk.choices[0].text for chunk in client.completions.create(**options, stream=True)]
    assert "".join(streamed) == choice.text


def test_a_chat_is_the_documented_prompt(client, decoder):
    messages = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": [{"type": "text", "text": "We "}, {"type": "text", "text": "know"}]},
        {"role": "assistant", "content": "Speak"},
        {"role": "user", "content": "No more"},
    ]
    options = {"model": "tiny", "temperature": 0, "max_completion_tokens": 9}
    answer = client.chat.completions.create(messages=messages, logprobs=True, top_logprobs=3, **options)
    prompt = "system: Be brief.\nuser: We know\nassistant: Speak\nuser: No more\nassistant:"
    expected = alone(decoder, prompt, Sampling(temperature=0), stop=["\nuser:"])
    (choice,) = answer.choices
    assert (choice.message.role, choice.message.content) == ("assistant", expected.text)
    for token, logprob, content in zip(expected.ids, expected.logprobs, choice.logprobs.content, strict=True):
        assert bytes(content.bytes) == token_bytes(decoder.vocabulary, token)
        assert content.logprob == pytest.approx(logprob, abs=2e-4)
        assert content.top_logprobs[0].token == content.token  # it was greedy
        assert len(content.top_logprobs) == 3


def test_a_chat_without_a_limit_fills_the_row(client):
    answer = client.chat.completions.create(
        model="tiny", messages=[{"role": "user", "content": "We know"}], temperature=0
    )
    if answer.choices[0].finish_reason == "length":
        assert answer.usage.total_tokens == 128
    else:
        assert answer.usage.total_tokens <= 128


def test_an_image_in_a_chat_is_seen(client, decoder):
    pixels = np.random.default_rng(0).integers(0, 256, (16, 16, 3), np.uint8)

    def content(pixels):
        file = io.BytesIO()
        PillowImage.fromarray(pixels).save(file, "PNG")
        url = "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()
        return [{"type": "text", "text": "Look "}, {"type": "image_url", "image_url": {"url": url}}]

    def ask(pixels):
        messages = [{"role": "user", "content": content(pixels)}]
        return client.chat.completions.create(messages=messages, logprobs=True, **(COMMON | {"temperature": 0}))

    answer = ask(pixels)
    vocabulary = decoder.vocabulary
    before = [vocabulary.bos_id, *vocabulary.encode("user: Look ")]
    document = (text_tokens(before), Image(pixels, 4), text_tokens(vocabulary.encode("\nassistant:")))
    expected = alone(decoder, document, Sampling(temperature=0), stop=["\nuser:"])
    assert answer.choices[0].message.content == expected.text
    logprobs = [one.logprob for one in answer.choices[0].logprobs.content]
    np.testing.assert_allclose(logprobs, expected.logprobs, atol=2e-4)
    other = [one.logprob for one in ask(255 - pixels).choices[0].logprobs.content]
    assert not np.allclose(logprobs[:1], other[:1], atol=1e-3)


def test_many_at_once_get_what_each_gets_alone(address, decoder):
    """Eight asynchronous clients over three rows, some of them streaming."""

    async def ask(client, i):
        options = {"prompt": f"We know {i}", "seed": i, "stream": i % 2 == 0} | COMMON
        answer = await client.completions.create(**options)
        if i % 2:
            return answer.choices[0].text
        return "".join([chunk.choices[0].text async for chunk in answer])

    async def everybody():
        async with openai.AsyncOpenAI(base_url=f"{address}/v1", api_key="any", max_retries=0) as client:
            return await asyncio.gather(*(ask(client, i) for i in range(8)))

    expected = [alone(decoder, f"We know {i}", Sampling(temperature=1.0, seed=i)).text for i in range(8)]
    assert asyncio.run(everybody()) == expected


def test_models_are_listed(client):
    assert [model.id for model in client.models.list()] == ["tiny"]
    assert client.models.retrieve("tiny").owned_by == "kinema"
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("other")

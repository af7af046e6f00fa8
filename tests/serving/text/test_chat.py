"""Messages as prompts, against the templates written out."""

import pytest

from data.chat import PLAIN_TURN, ChatTemplate
from serving.text.chat import ChatReader
from serving.text.errors import ApiError

USER, MODEL = {"role": "user", "content": " Hi "}, {"role": "assistant", "content": "Yes?"}
SYSTEM = {"role": "system", "content": "Be brief."}


class Gemma:
    """Text that is its own ids; the pieces that Gemma's vocabulary has for turns."""

    has_symbols, adds_space, bos_id = False, False, 1
    pieces = ("<start_of_turn>", "<end_of_turn>")

    def piece_id(self, piece):
        if piece not in self.pieces:
            raise ValueError(piece)
        return 100 + self.pieces.index(piece)

    def encode(self, text):
        return [ord(letter) for letter in text]


def reader(vocabulary, turn=""):
    return ChatReader(ChatTemplate(vocabulary, turn=turn))


def text_of(prompt):
    ids = prompt.document[0].ids.tolist()
    assert ids[0] == Gemma.bos_id
    return "".join(map(chr, ids[1:]))


def test_gemma_has_turns_of_its_own():
    prompt = reader(Gemma()).prompt([SYSTEM, USER, MODEL, USER])
    assert text_of(prompt) == (
        "<start_of_turn>user\nBe brief.\n\nHi<end_of_turn>\n"
        "<start_of_turn>model\nYes?<end_of_turn>\n"
        "<start_of_turn>user\nHi<end_of_turn>\n"
        "<start_of_turn>model\n"
    )
    assert (prompt.stop, prompt.ends) == ((), frozenset([101]))


@pytest.mark.parametrize(
    ("messages", "message"),
    [
        ([USER, USER], "turn 1 is the user's"),
        ([MODEL], "turn 0 is the assistant's"),
        ([USER, MODEL], "the last message must be the user's"),
        ([SYSTEM], "the last message must be the user's"),
        ([USER, SYSTEM], "turn 1 is the system's"),
    ],
)
def test_gemmas_turns_alternate(messages, message):
    with pytest.raises(ApiError, match=message):
        reader(Gemma()).prompt(messages)


def test_others_follow_a_pattern(vocabulary):
    template = reader(vocabulary, turn="[{role}]\n{content}\n\n")
    prompt = template.prompt([SYSTEM, USER, MODEL, USER])
    text = vocabulary.decode(prompt.document[0].ids.tolist())
    assert text == "[system]\nBe brief.\n\n[user]\n Hi \n\n[assistant]\nYes?\n\n[user]\n Hi \n\n[assistant]\n"
    assert prompt.stop == ("\n\n[user]",)


def test_a_pattern_without_roles_has_no_stop_string_of_its_own(vocabulary):
    assert reader(vocabulary, turn="{content}\n").prompt([USER]).stop == ()


def test_what_a_text_model_cannot_see_is_refused(vocabulary):
    image = {"type": "image_url", "image_url": {"url": "data:image/png;base64,"}}
    with pytest.raises(ApiError, match="is an image, and this model takes none"):
        reader(vocabulary, PLAIN_TURN).prompt([{"role": "user", "content": [image]}])

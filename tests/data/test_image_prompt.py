"""Text with pictures: where they stand, what stands around them, and what is said of crops."""

import json
from pathlib import Path

import numpy as np
import pytest

from data.elements import Image, Tokens
from data.image_processing import PanAndScan
from data.image_prompt import ImageForm, image_prompt
from data.vocabulary import Vocabulary
from tests.serving.interchange.folders import TEXT, foreign_tokenizer

PROMPTS = json.loads(Path("tests/assets/photos/prompts.json").read_text())
FORM = ImageForm((8, 8), 2)
BEGIN, END, SOFT = "<start_of_image>", "<end_of_image>", "<image_soft_token>"
RED, GREEN = (np.full((20, 30, 3), color, np.uint8) for color in ((255, 0, 0), (0, 255, 0)))
CROPS = PanAndScan(min_crop_size=10)  # a picture of 20 x 30 gives two
CUT = {0: None, 2: CROPS}


@pytest.fixture(scope="module")
def own():
    return Vocabulary.train([TEXT], 400)


@pytest.fixture(scope="module")
def gemma():
    """One that spells every text back, with Gemma 3's pieces."""
    settings = {"byte_fallback": True, "remove_extra_whitespaces": False, "normalization_rule_name": "identity"}
    pieces = {"control_symbols": [BEGIN, END], "add_dummy_prefix": False}
    return Vocabulary(foreign_tokenizer(400, **settings, **pieces), num_unused=7)


def spelled(document, vocabulary) -> str:
    """Every element as text, pieces by their names."""
    text = ""
    for element in document:
        if isinstance(element, Image):
            text += SOFT * element.num_slots
            continue
        for token in element.ids.tolist():
            name = vocabulary.piece(token)
            text += name if name in (BEGIN, END, "<s>", "<bos>") else vocabulary.decode([token])
    return text


@pytest.mark.parametrize("num_crops", CUT)
def test_a_picture_is_surrounded_as_in_the_reference(num_crops, gemma):
    document = image_prompt(f"See {BEGIN}now", [RED], gemma, FORM, CUT[num_crops])
    assert spelled(document, gemma) == f"<s>See {PROMPTS[str(num_crops)]}now"


def test_text_around_pictures_is_tokenised_as_one_and_is_never_a_target(gemma):
    document = image_prompt(f"Two\n{BEGIN}{BEGIN}!", [RED, GREEN], gemma, FORM)
    texts = [element for element in document if isinstance(element, Tokens)]
    assert texts[0].ids.tolist() == [gemma.bos_id, *gemma.encode("Two\n\n\n"), gemma.piece_id(BEGIN)]
    assert texts[1].ids.tolist() == [gemma.piece_id(END), *gemma.encode("\n\n\n\n"), gemma.piece_id(BEGIN)]
    assert all((text.weights == 0).all() for text in texts)
    pictures = [element.pixels for element in document if isinstance(element, Image)]
    assert [pixels[0, 0].tolist() for pixels in pictures] == [[255, 0, 0], [0, 255, 0]]
    assert {pixels.shape for pixels in pictures} == {(8, 8, 3)}


def test_our_own_vocabularies_have_nothing_around_a_picture(own):
    document = image_prompt("See <image>now", [RED], own, FORM)
    assert [type(element) for element in document] == [Tokens, Image, Tokens]
    assert document[0].ids.tolist() == [own.bos_id, *own.encode("See ")]
    assert document[2].ids.tolist() == own.encode("now")


def test_pictures_that_the_text_does_not_mention_come_first(own):
    document = image_prompt("now", [RED, GREEN], own, FORM)
    assert [type(element) for element in document] == [Tokens, Image, Image, Tokens]
    assert document[0].ids.tolist() == [own.bos_id]


def test_text_alone_is_text(own):
    (tokens,) = image_prompt("now", [], own, FORM)
    assert tokens.ids.tolist() == [own.bos_id, *own.encode("now")]


def test_every_picture_needs_its_place_and_its_pieces(own):
    with pytest.raises(ValueError, match=r"the prompt has 1 times '<image>' for 2 pictures"):
        image_prompt("See <image>", [RED, GREEN], own, FORM)
    with pytest.raises(ValueError, match="has no piece '<start_of_image>'"):
        image_prompt("See", [RED], Vocabulary(foreign_tokenizer()), FORM)


def test_the_slots_of_a_picture_have_an_id_that_no_text_has(own, gemma):
    assert own.image_id == own.piece_id("<image>")
    assert gemma.image_id == gemma.text_size < gemma.size
    assert Vocabulary(gemma.model).image_id == gemma.pad_id

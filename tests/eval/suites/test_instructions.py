"""The 25 checks of IFEval, each with a text that follows it and texts that do not; and languages by real sentences."""

import pytest

from eval.suites.instructions import CHECKS, count_sentences, count_words, follows
from eval.suites.languages import is_language, language_of

CASES = {
    "keywords:existence": ({"keywords": ["sea", "a.b"]}, ["The SEA and a.b"], ["The sea", "sea and aXb"]),
    "keywords:frequency": (
        {"keyword": "war", "relation": "at least", "frequency": 2},
        ["War and war", "wartime war"],
        ["one war"],
    ),
    "keywords:forbidden_words": ({"forbidden_words": ["sleep"]}, ["asleep"], ["To sleep!", "SLEEP"]),
    "keywords:letter_frequency": (
        {"letter": "o", "let_relation": "less than", "let_frequency": 2},
        ["so", "none here?"],
        ["Oo"],
    ),
    "language:response_language": (
        {"language": "de"},
        ["Das ist nicht der Weg, den wir mit dem Wagen gehen"],
        ["This is not the way that we go with it"],
    ),
    "length_constraints:number_sentences": (
        {"relation": "less than", "num_sentences": 3},
        ["One. Two!", "Dr. Who is here. So it is."],
        ["One. Two! Three?"],
    ),
    "length_constraints:number_paragraphs": (
        {"num_paragraphs": 2},
        ["a\n***\nb", "***\na\n***\nb\n***"],
        ["a", "a *** b *** c", "a *** *** b"],
    ),
    "length_constraints:number_words": ({"relation": "at least", "num_words": 3}, ["a b c"], ["a b", "a, b!"]),
    "length_constraints:nth_paragraph_first_word": (
        {"num_paragraphs": 2, "nth_paragraph": 2, "first_word": "hello"},
        ['x\n\n"Hello, y', "x\n\n\n\nhello y"],
        ["hello\n\nx", "x\n\nhello\n\nz", "x\n\nhelloes"],
    ),
    "detectable_content:number_placeholders": ({"num_placeholders": 2}, ["[name] at [address]"], ["[name]"]),
    "detectable_content:postscript": (
        {"postscript_marker": "P.P.S"},
        ["Bye.\nP.P.S more", "bye p. p. s."],
        ["P.S. more"],
    ),
    "detectable_format:number_bullet_lists": (
        {"num_bullets": 2},
        ["* a\n* b", "- a\n  - b"],
        ["* a", "* a\n* b\n- c", "**a**\n* b"],
    ),
    "detectable_format:constrained_response": ({}, ["My answer is maybe."], ["My answer is", "yes"]),
    "detectable_format:number_highlighted_sections": (
        {"num_highlights": 2},
        ["*a* and **b**", "*a b*\n*c*"],
        ["*a*", "** ** *a*", "*a\nb* *c*"],
    ),
    "detectable_format:multiple_sections": (
        {"section_spliter": "Section", "num_sections": 2},
        ["Section 1\na\nSection 2\nb"],
        ["Section 1\na", "Section one and Section two"],
    ),
    "detectable_format:json_format": ({}, ['{"a": [1]}', '```json\n{"a": 1}\n```'], ["{a: 1}", "Here: {}"]),
    "detectable_format:title": ({}, ["<<Joy>>\ntext", "a <<b c>> d"], ["<Joy>", "<< >>", "<<>>"]),
    "combination:two_responses": ({}, ["a******b", "******\na\n******\nb"], ["a", "a******a", "a******b******c"]),
    "combination:repeat_prompt": (
        {"prompt_to_repeat": "Say it."},
        ["say it. Here: it", "  Say it.\nit"],
        ["It. Say it."],
    ),
    "startend:end_checker": ({"end_phrase": "The end"}, ['It is "the end"', "the end \n"], ["The end."]),
    "startend:quotation": ({}, ['"a"', ' "a b"\n'], ['"a', '"', "'a'"]),
    "change_case:capital_word_frequency": (
        {"capital_relation": "at least", "capital_frequency": 2},
        ["THE END of it", "I AM"],
        ["The END"],
    ),
    "change_case:english_capital": (
        {},
        ["THIS IS THE WAY THAT IT WAS."],
        ["THIS is the way that it was", "DAS IST NICHT DER WEG UND AUCH NICHT DAS ZIEL"],
    ),
    "change_case:english_lowercase": (
        {},
        ["this is the way that it was."],
        ["This is the way that it was", "das ist nicht der weg und auch nicht das ziel"],
    ),
    "punctuation:no_comma": ({}, ["a b"], ["a, b"]),
}


def test_there_are_the_25_of_the_paper():
    assert len(CHECKS) == 25
    assert CHECKS.keys() == CASES.keys()


@pytest.mark.parametrize("name", CASES)
def test_what_follows_an_instruction_and_what_does_not(name):
    settings, good, bad = CASES[name]
    assert [follows(name, settings, text) for text in good] == [True] * len(good)
    assert [follows(name, settings, text) for text in (*bad, "", " \n")] == [False] * (len(bad) + 2)


def test_settings_that_an_instruction_does_not_use_may_be_null():
    assert follows("punctuation:no_comma", {"num_words": None, "relation": None}, "a")


def test_an_unknown_instruction_and_relation_are_named():
    with pytest.raises(ValueError, match="'keywords:rhyme' is not known; known: change_case"):
        follows("keywords:rhyme", {}, "a")
    with pytest.raises(ValueError, match="relation is 'about'"):
        follows("length_constraints:number_words", {"relation": "about", "num_words": 3}, "a")


@pytest.mark.parametrize(
    ("text", "sentences"),
    [
        ("", 0),
        ("No end", 1),
        ("Mr. Smith met Mrs. Jones, e.g. on St. Mary's Street. They spoke!", 2),
        ('He said: "Go!" Then he went... and came back?', 3),
        ("It is 3.14 or 2.71.\n\nBoth are irrational.", 2),
    ],
)
def test_sentences(text, sentences):
    assert count_sentences(text) == sentences


def test_words():
    assert count_words("It's a well-known fact: 3 of 4.") == 9  # as \w+ divides them


# Article 1 of the Universal Declaration of Human Rights.
ARTICLE = {
    "en": "All human beings are born free and equal in dignity and rights. They are endowed with reason.",
    "de": "Alle Menschen sind frei und gleich an Würde und Rechten geboren. Sie sind mit Vernunft und Gewissen begabt.",
    "fr": "Tous les êtres humains naissent libres et égaux en dignité et en droits. Ils sont doués de raison.",
    "es": "Todos los seres humanos nacen libres e iguales en dignidad y derechos y, dotados como están de razón.",
    "pt": "Todos os seres humanos nascem livres e iguais em dignidade e em direitos. Dotados de razão.",
    "it": "Tutti gli esseri umani nascono liberi ed eguali in dignità e diritti. Essi sono dotati di ragione.",
    "fi": "Kaikki ihmiset syntyvät vapaina ja tasavertaisina arvoltaan ja oikeuksiltaan. Heille on annettu järki.",
    "vi": "Tất cả mọi người sinh ra đều được tự do và bình đẳng về nhân phẩm và quyền lợi. Mọi con người đều có.",
    "sw": "Watu wote wamezaliwa huru, hadhi na haki zao ni sawa. Wote wamejaliwa akili na dhamiri.",
    "ru": "Все люди рождаются свободными и равными в своем достоинстве и правах. Они наделены разумом и совестью.",
    "bg": "Всички хора се раждат свободни и равни по достойнство и права. Tе са надарени с разум и съвест и следва.",
    "hi": "सभी मनुष्यों को गौरव और अधिकारों के मामले में जन्मजात स्वतन्त्रता और समानता प्राप्त है।",
    "mr": "सर्व मानवी व्यक्ती जन्मतः स्वतंत्र आहेत व त्यांना समान प्रतिष्ठा व समान अधिकार आहेत.",
    "ko": "모든 인간은 태어날 때부터 자유로우며 그 존엄과 권리에 있어 동등하다.",
    "ja": "すべての人間は、生れながらにして自由であり、かつ、尊厳と権利とについて平等である。",
    "zh": "人人生而自由，在尊严和权利上一律平等。他们赋有理性和良心。",
    "ta": "மனிதப் பிறிவியினர் சகலரும் சுதந்திரமாகவே பிறக்கின்றனர்.",
    "kn": "ಎಲ್ಲಾ ಮಾನವರೂ ಸ್ವತಂತ್ರರಾಗಿಯೇ ಜನಿಸಿದ್ದಾರೆ.",
    "fa": "تمام افراد بشر آزاد به دنیا می‌آیند و از لحاظ حیثیت و حقوق با هم برابرند. همه دارای عقل و وجدان هستند.",
    "ar": "يولد جميع الناس أحرارا متساوين في الكرامة والحقوق. وقد وهبوا عقلا وضميرا وعليهم أن يعامل بعضهم بعضا.",
}


@pytest.mark.parametrize("language", ARTICLE)
def test_the_language_of_a_sentence(language):
    assert language_of(ARTICLE[language]) == language
    other = "de" if language == "en" else "en"
    assert is_language(ARTICLE[language], language)
    assert not is_language(ARTICLE[language], other)


def test_what_cannot_be_told_counts_and_unknown_languages_are_named():
    assert language_of("12 + 3") is None
    assert is_language("12 + 3", "kn")
    with pytest.raises(ValueError, match="language 'tlh' is not known; known: ar, bg"):
        is_language("nuqneH", "tlh")

"""Which language a text is in: by its script and, where several share one, by small words and letters of their own.

Enough to tell whether an answer is in the language that was asked for; it names no language for a few odd words.
"""

from __future__ import annotations

import re
from collections import Counter

# Script (a range of code points) -> the languages written in it that are known here.
_SCRIPTS: tuple[tuple[int, int, tuple[str, ...]], ...] = (
    (0x0900, 0x097F, ("hi", "mr", "ne")),
    (0x0980, 0x09FF, ("bn",)),
    (0x0A00, 0x0A7F, ("pa",)),
    (0x0A80, 0x0AFF, ("gu",)),
    (0x0B80, 0x0BFF, ("ta",)),
    (0x0C00, 0x0C7F, ("te",)),
    (0x0C80, 0x0CFF, ("kn",)),
    (0x0D00, 0x0D7F, ("ml",)),
    (0x0E00, 0x0E7F, ("th",)),
    (0x0590, 0x05FF, ("he",)),
    (0x0370, 0x03FF, ("el",)),
    (0x0400, 0x04FF, ("ru", "bg", "uk")),
    (0x0600, 0x06FF, ("ar", "fa", "ur")),
    (0xAC00, 0xD7AF, ("ko",)),
    (0x3040, 0x30FF, ("ja",)),
    (0x4E00, 0x9FFF, ("zh", "ja")),
)
_LATIN = ("en", "de", "fr", "es", "pt", "it", "nl", "fi", "sv", "pl", "vi", "sw", "tr", "id")
# Words that are frequent in one language and rare in the others of its script.
_WORDS = {
    "en": "the of and to is that was for with you are this be have not it from by",
    "de": "der die das und ist nicht ein eine zu den mit von sich auf für dem im auch",
    "fr": "le les et est une des du dans pour qui que pas sur au avec ne vous ce de la l d en un à il n s",
    "es": "el los y es una las del para que con por su como más en se lo muy de la en un a",
    "pt": "o os e é uma não do da dos das para com em um mais ao você são de a e que se por na no nos",
    "it": "il di che è un non per della sono con gli una del le si più nel questo la e l in a dell alla",
    "nl": "de het een van en is niet dat op te voor met zijn aan er ook maar naar",
    "fi": "ja on ei se että oli hän mutta kun niin olla ovat tai myös voi tämä joka sen",
    "sv": "och att det som är på en av för inte den med till har ett om jag var",
    "pl": "i w nie na się z jest to że do jak po co od przez dla jego są",
    "vi": "và của là có không một được các cho người trong với này những đã khi tôi để",
    "sw": "na ya wa kwa ni za katika la kuwa hii yake watu pia au cha kila haki ana",
    "tr": "ve bir bu için ile da de çok olarak daha gibi ne kadar olan her var değil sonra ise göre etti oldu kadar",
    "id": "yang dan di itu dengan untuk tidak ini dari dalam akan pada juga saya ke adalah atau orang",
    "hi": "है के में की और को से का हैं पर यह नहीं एक कि भी था लिए ने",
    "mr": "आहे आणि च्या ते हे मध्ये आहेत या नाही एक होते होता तर व पण त्या काही मी",
    "ne": "छ र को मा छन् हो पनि यो भएको गर्न छैन थियो लागि तथा एक गरेको भने हुने",
    "ru": "и в не на что с он как это по но из его к я для была ы",
    "bg": "и на да се от за не са като това по които ще при със е беше до",
    "uk": "і в не на що з та як це до у він але які його є для від",
    "ar": "في من على أن إلى هذا التي الذي ما هو كان مع عن لا هذه و بين كل",
    "fa": "و در به از که این را با است برای آن یک خود تا بر هم شد می",
    "ur": "کے کی میں ہے اور سے کا کو پر یہ نے ہیں کہ ایک بھی کر نہیں اس",
}
_WORD_SETS = {language: frozenset(words.split()) for language, words in _WORDS.items()}
_LETTERS = {"ru": "ыэё", "bg": "ъ", "uk": "іїєґ", "fa": "پچژگ", "ur": "ٹڈڑےں"}


def language_of(text: str) -> str | None:
    """The ISO 639-1 code of the language, or None where the text has too little to tell."""
    letters = [character for character in text if character.isalpha()]
    if not letters:
        return None
    scripts = Counter(_script(character) for character in letters)
    candidates, count = scripts.most_common(1)[0]
    if any("ja" in languages and languages == ("ja",) for languages in scripts):
        return "ja"  # kana stand in Japanese alone, beside Chinese characters
    if count < len(letters) / 2:
        return None
    if len(candidates) == 1 or candidates == ("zh", "ja"):
        return candidates[0]
    words = Counter(re.findall(r"[^\W\d_]+(?:[\u0900-\u097f]+[^\W\d_]*)*", text.lower()))
    points = {language: _points(language, words, text) for language in candidates}
    best = max(candidates, key=lambda language: points[language])
    return best if points[best] > 0 else None


def is_language(text: str, language: str) -> bool:
    """Whether the text is in it; a text too short to tell counts, as the published checker has it.

    Raises ValueError for a language that is not known here.
    """
    known = {name for _, _, languages in _SCRIPTS for name in languages} | set(_LATIN)
    if language not in known:
        raise ValueError(f"language {language!r} is not known; known: {', '.join(sorted(known))}")
    found = language_of(text)
    return found is None or found == language


def _script(character: str) -> tuple[str, ...]:
    point = ord(character)
    return next((languages for low, high, languages in _SCRIPTS if low <= point <= high), _LATIN)


def _points(language: str, words: Counter[str], text: str) -> float:
    """Small words, and a little for letters that only this language has."""
    own = sum(text.lower().count(letter) for letter in _LETTERS.get(language, ""))
    return sum(count for word, count in words.items() if word in _WORD_SETS[language]) + 0.5 * own

"""Numbers that answer a question, found in text: so that what a model wrote can be checked."""

from __future__ import annotations

import re
from decimal import Decimal

MARKS = "####"  # what GSM8K's solutions put before their answer
_NUMBER = re.compile(r"-?\$?-?(?:\d[\d,]*(?:\.\d+)?|\.\d+)")
_CALCULATOR = re.compile(r"<<.*?>>")


def without_calculator(solution: str) -> str:
    """A solution of GSM8K without what the data set's calculator was asked, which no model is to write."""
    return _CALCULATOR.sub("", solution)


def number_after_marks(text: str) -> Decimal | None:
    """The first number after the first ####."""
    found = _NUMBER.match(text.partition(MARKS)[2].lstrip())
    return None if found is None else _value(found.group())


def last_number(text: str) -> Decimal | None:
    found = _NUMBER.findall(text)
    return _value(found[-1]) if found else None


def _value(number: str) -> Decimal:
    """1,000 and $1000.00 are the same number."""
    return Decimal(number.replace(",", "").replace("$", "").replace("--", "-"))

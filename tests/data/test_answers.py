from decimal import Decimal

import pytest

from data.answers import last_number, number_after_marks, without_calculator


@pytest.mark.parametrize(
    ("text", "number"),
    [("so 3 + 4 is 7.", "7"), ("it costs $1,000.50", "1000.50"), ("-12", "-12"), ("from -$3 to -$4", "-4"), ("", None)],
)
def test_the_last_number_counts_however_it_is_written(text, number):
    assert last_number(text) == (None if number is None else Decimal(number))


def test_equal_numbers_are_equal_however_they_are_written():
    assert number_after_marks("#### $1,000.00") == number_after_marks("so 7 #### 1000 and 3") == 1000
    assert number_after_marks("1000") is None
    assert number_after_marks("#### about 1000") is None


def test_what_a_calculator_was_asked_is_left_out():
    assert without_calculator("48/2 = <<48/2=24>>24 clips") == "48/2 = 24 clips"

"""What a decoder may draw: text by default, else codes with the sizes that they take of a row's limit."""

import jax.numpy as jnp
import numpy as np

from serving.symbols import Symbols


class Pieces:
    """Four text ids, then three codes."""

    text_size, size = 4, 7

    def code_id(self, code):
        return self.text_size + code


def test_only_rows_that_must_fit_are_kept_from_symbols_that_do_not():
    symbols = Symbols(np.array([0, 1, 3, 2], np.int32))
    allowed = symbols.allowed(jnp.array([2, 2]), jnp.array([True, False]))
    assert allowed.tolist() == [[False, True, False, True], [False, True, True, True]]
    assert symbols.size_of(jnp.array([2, 1])).tolist() == [3, 1]


def test_text_counts_once_and_codes_are_never_text():
    assert Symbols.text(Pieces()).size_V.tolist() == [1, 1, 1, 1, 0, 0, 0]
    symbols = Symbols.codes(Pieces(), 1, np.array([5, 6]))
    assert symbols.size_V.tolist() == [0, 0, 0, 0, 0, 5, 6]


def test_where_every_symbol_counts_once_all_rows_may_draw_the_same():
    allowed = Symbols.text(Pieces()).allowed(jnp.zeros(3, int), jnp.ones(3, bool))
    assert allowed.tolist() == [[True] * 4 + [False] * 3]

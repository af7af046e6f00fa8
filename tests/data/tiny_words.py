"""A vocabulary of one id a word; ids from 1000 on are codes."""


class Words:
    bos_id = 1

    def __init__(self, num_codes: int):
        self.num_codes = num_codes

    def encode(self, text):
        return [10 + len(word) for word in text.split()]

    def piece_id(self, piece):
        return {"<action>": 5, "<point>": 6, "<reserved_0>": 7}[piece]

    def code_id(self, code):
        if not 0 <= code < self.num_codes:
            raise ValueError(f"code {code} is outside 0..{self.num_codes - 1}")
        return 1000 + code

    def code_of(self, token):
        return token - 1000

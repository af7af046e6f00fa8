"""What lm-evaluation-harness with its own HF backend answers, item by item: what the adapter is tested against.

    python tests/eval/harness/make_reference.py tests/assets/transformers/qwen3_moe tests/assets/harness

Needs torch, transformers, lm_eval and sentencepiece. The second folder holds `tokenizer.model`, task files and their
items; the answers go to its `expected.json`, or to the file that a third argument names.
"""

import json
import os
import sys
from pathlib import Path

os.environ |= {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"}

import lm_eval
import sentencepiece
import torch
import transformers
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager

CONTEXT = 60  # less than the longest items: what is cut is compared too


class Tokenizer(transformers.PreTrainedTokenizer):
    """A SentencePiece model as it stands, without what transformers would add to one."""

    def __init__(self, file: str, **kwargs):
        self.pieces = sentencepiece.SentencePieceProcessor(model_file=file)
        special = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "</s>"}
        super().__init__(**special, **kwargs)

    vocab_size = property(lambda self: self.pieces.vocab_size())

    def get_vocab(self):
        return {self.pieces.id_to_piece(i): i for i in range(self.vocab_size)}

    def _tokenize(self, text):
        return self.pieces.encode(text, out_type=str)

    def _convert_token_to_id(self, token):
        return self.pieces.piece_to_id(token)

    def _convert_id_to_token(self, index):
        return self.pieces.id_to_piece(index)

    def convert_tokens_to_string(self, tokens):
        return self.pieces.decode(tokens) or "".join(tokens)  # a lone </s> keeps its name: the harness stops at it

    def build_inputs_with_special_tokens(self, ids, other=None):
        return [self.bos_token_id, *ids]


def answers(folder: Path, model: str, tasks: list[str], *, bos: bool) -> dict:
    """{task: [the answers to the requests of each item]}; bos: whether <s> begins what is encoded."""
    network = transformers.AutoModelForCausalLM.from_pretrained(
        model, dtype=torch.float32, attn_implementation="eager"
    ).eval()
    tokenizer = Tokenizer(str(folder / "tokenizer.model"))
    backend = HFLM(
        pretrained=network, tokenizer=tokenizer, add_bos_token=bos, max_length=CONTEXT, batch_size=4, device="cpu"
    )
    manager = TaskManager(include_path=str(folder), include_defaults=False)
    found = lm_eval.simple_evaluate(model=backend, tasks=tasks, task_manager=manager, bootstrap_iters=0)
    return {
        task: [item["resps"] for item in sorted(items, key=lambda item: item["doc_id"])]
        for task, items in found["samples"].items()
    }


def main(model: str, folder: str, out: str = "") -> None:
    # The harness begins a rolling text with the prefix token itself, so its tokenizer must not do it once more.
    found = answers(Path(folder), model, ["test_choice", "test_answer"], bos=True)
    found |= answers(Path(folder), model, ["test_rolling"], bos=False)
    versions = {name: sys.modules[name].__version__ for name in ("torch", "transformers")}
    Path(out or Path(folder) / "expected.json").write_text(json.dumps({"versions": versions, **found}, indent=1) + "\n")


if __name__ == "__main__":
    main(*sys.argv[1:])

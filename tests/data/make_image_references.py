"""What the image processor of Gemma 3 in HF transformers makes of photographs: what `data.image_processing` must match.

    python tests/data/make_image_references.py tests/assets/photos    # needs transformers and Pillow

`expected.npz` gets, for each photograph, a sample of the pixels of all its views at 896 x 896 in grey levels;
`pan_and_scan.npz` the crops of many sizes of pictures; `prompts.json` what is said around a picture and its crops.
"""

import json
import sys
from pathlib import Path

import numpy as np
import transformers
from PIL import Image
from transformers import PreTrainedTokenizerFast
from transformers.models.gemma3.image_processing_pil_gemma3 import Gemma3ImageProcessorPil

SETTINGS = {
    "do_pan_and_scan": True,
    "pan_and_scan_min_crop_size": 256,
    "pan_and_scan_max_num_crops": 4,
    "pan_and_scan_min_ratio_to_activate": 1.2,
}
OTHERS = ((256, 4, 1.2), (100, 3, 1.0), (448, 8, 1.5))  # settings by which sizes are cut
PER_SETTING, MAX_CROPS = 400, 8


def write_pixels(folder: Path, processor) -> None:
    found = {}
    for file in sorted([*folder.glob("*.jpg"), *folder.glob("*.png")]):
        with Image.open(file) as picture:
            views = processor(picture, **SETTINGS)["pixel_values"]
        levels = (np.stack(views).transpose(0, 2, 3, 1) + 1) * 127.5
        found[file.name] = np.round(levels[:, 3::14, 3::14]).astype(np.uint8)
    np.savez_compressed(folder / "expected.npz", **found)


def write_crops(folder: Path, processor) -> None:
    """For each size the crops as first row, first column, height and width; rows of zeros where there are fewer."""
    rng, found = np.random.default_rng(0), {}
    for i, settings in enumerate(OTHERS):
        sides = np.exp(rng.uniform(np.log(16), np.log(6000), (PER_SETTING, 2))).astype(int)
        edges = [(s, int(s * r) + d) for s in (256, 512, 640) for r in (1.0, 1.2, 1.5, 2.5, 3.5) for d in (-1, 0, 1)]
        sizes = np.concatenate([sides, edges, np.array(edges)[:, ::-1]])
        crops = np.zeros((len(sizes), MAX_CROPS, 4), np.int32)
        for n, (height, width) in enumerate(sizes):
            rows, columns = np.arange(height)[None, :, None], np.arange(width)[None, None]
            both = [processor.pan_and_scan(np.broadcast_to(x, (1, height, width)), *settings) for x in (rows, columns)]
            for k, (row, column) in enumerate(zip(*both, strict=True)):
                if row.size:
                    crops[n, k] = (row.flat[0], column.flat[0], *row.shape[1:])
        found |= {f"settings/{i}": np.array(settings), f"sizes/{i}": sizes, f"crops/{i}": crops}
    np.savez_compressed(folder / "pan_and_scan.npz", **found)


def write_prompts(folder: Path, processor) -> None:
    from tokenizers import Tokenizer, models

    marks = {"boi_token": "<start_of_image>", "eoi_token": "<end_of_image>", "image_token": "<image_soft_token>"}
    words = Tokenizer(models.WordLevel({name: i for i, name in enumerate(("?", *marks.values()))}, unk_token="?"))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, extra_special_tokens=marks)
    both = transformers.Gemma3Processor(processor, tokenizer, image_seq_length=2)
    prompts = {num: both.replace_image_token({"num_crops": [num]}, 0) for num in (0, 2, 3)}
    (folder / "prompts.json").write_text(json.dumps(prompts, indent=1) + "\n")


if __name__ == "__main__":
    out = Path(sys.argv[1])
    square = {"height": 896, "width": 896}
    gemma = Gemma3ImageProcessorPil(size=square, image_mean=[0.5] * 3, image_std=[0.5] * 3)
    write_pixels(out, gemma)
    write_crops(out, gemma)
    write_prompts(out, gemma)
    versions = {name: sys.modules[name].__version__ for name in ("transformers", "PIL")}
    (out / "versions.json").write_text(json.dumps(versions) + "\n")

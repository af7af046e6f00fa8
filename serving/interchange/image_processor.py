"""How pictures are prepared, in the files of HF transformers: read to be sure that it is our way, and written."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from data.image_processing import PanAndScan
from model.config import SiglipConfig
from serving.interchange.fields import Fields

_BILINEAR = 2
_PAN_AND_SCAN = {
    "pan_and_scan_min_crop_size": PanAndScan.min_crop_size,
    "pan_and_scan_max_num_crops": PanAndScan.max_num_crops,
    "pan_and_scan_min_ratio_to_activate": PanAndScan.min_ratio,
}
# Without effect on the pixels.
_FOR_CODE = (
    *("image_processor_type", "processor_class", "feature_extractor_type", "auto_map", "data_format", "device"),
    *("input_data_format", "return_tensors", "disable_grouping", "default_to_square", "do_pan_and_scan"),
)


def processor_documents(image: SiglipConfig) -> dict[str, dict[str, Any]]:
    """`preprocessor_config.json` and `processor_config.json` of a model that sees such pictures."""
    processor = {
        "image_processor_type": "Gemma3ImageProcessor",
        "do_convert_rgb": True,
        "do_resize": True,
        "size": {"height": image.height, "width": image.width},
        "resample": _BILINEAR,
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": [0.5] * 3,
        "image_std": [0.5] * 3,
    }
    named = {"processor_class": "Gemma3Processor"}
    return {
        "preprocessor_config.json": processor | named,
        "processor_config.json": {"image_processor": processor, "image_seq_length": image.num_slots} | named,
    }


def require_known_processor(folder: Path, image: SiglipConfig) -> None:
    """Raises ValueError, by file and field, where a folder's pictures are prepared in another way than ours."""
    for name in ("preprocessor_config.json", "processor_config.json"):
        if not (folder / name).is_file():
            continue
        fields = json.loads((folder / name).read_text())
        if name == "processor_config.json":
            if fields.get("image_seq_length", image.num_slots) != image.num_slots:
                raise ValueError(
                    f"{name}: image_seq_length is {fields['image_seq_length']}, config.json makes {image.num_slots} "
                    "slots of a picture; they do not belong together"
                )
            fields = fields.get("image_processor")
        if fields is not None:
            _require_known(fields, name, processor_documents(image)["preprocessor_config.json"])


def _require_known(given: Mapping[str, Any], name: str, ours: Mapping[str, Any]) -> None:
    fields = Fields(given, "Gemma3ImageProcessor", name)
    for field in _FOR_CODE:
        fields.take(field, None)
    fields.take("image_seq_length", None)  # older writers repeat it here
    fields.require("size", ours["size"], default={"height": 224, "width": 224})
    for field, wanted in {**ours, **_PAN_AND_SCAN}.items():
        if field not in (*_FOR_CODE, "size"):
            # Left out or null is what the processor of Gemma 3 does by itself.
            fields.require(field, wanted, None, default=None)
    fields.finish()

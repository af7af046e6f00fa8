"""Whether a JobSet is one, told without a cluster: by the published schema of batch/v1 and one of the fields around."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

_FIELDS = Path(__file__).with_name("jobset_schema.json")


def can_validate() -> bool:
    """Whether the package with the published schemas is installed."""
    return importlib.util.find_spec("kubernetes_validate") is not None


def validate(manifest: dict[str, Any]) -> str:
    """The version of Kubernetes whose schema the Jobs fit. Raises ValueError naming the field that does not."""
    import jsonschema
    import kubernetes_validate

    def refuse(error: jsonschema.ValidationError, where: str) -> ValueError:
        path = ".".join(str(part) for part in (where, *error.absolute_path) if part != "")
        return ValueError(f"manifest: {path or 'JobSet'}: {error.message}")

    try:
        jsonschema.validate(manifest, json.loads(_FIELDS.read_text()))
    except jsonschema.ValidationError as error:
        raise refuse(error, "") from error
    version = kubernetes_validate.latest_version()
    for index, replicated in enumerate(manifest["spec"]["replicatedJobs"]):
        job = {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": replicated["name"]}}
        try:
            kubernetes_validate.validate(job | replicated["template"], version, strict=True)
        except kubernetes_validate.ValidationError as error:
            raise refuse(error, f"spec.replicatedJobs.{index}.template") from error
    return version

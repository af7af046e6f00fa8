"""Reads every import and refuses one that the folder table does not allow."""

from __future__ import annotations

import ast
import pathlib

import pytest

ROOT = pathlib.Path(__file__).parents[1]

# Folder -> what it may import of this repository, besides itself. A name with a dot allows that module alone.
MAY_IMPORT = {
    "configs": set(),
    "data": {"sharding"},
    "model": {"pallas_kernels", "sharding"},
    "pallas_kernels": set(),
    "sharding": {"train.ahead"},  # the step that `python -m sharding.plan` plans
    # `eval` reaches training only as a hook that a config names; rollouts draw with the code that serves.
    "train": {
        *("data", "model", "sharding"),
        *("serving.decoder", "serving.model", "serving.prompts", "serving.sampling"),
    },
    "eval": {"data", "model", "serving", "train.checkpoint"},
    "serving": {"data", "model", "train.checkpoint"},
}
EVERY_FOLDER_MAY = {"configs.schema", "configs.command"}
MAY_IMPORT_ALL = ("tests", "benchmarks", "docs")
CONFIGS_MAY = {"absl", "ml_collections"}  # absl brings the flags that ml_collections extends; and the standard library


def imports(path: pathlib.Path) -> list[tuple[int, str]]:
    """Line and full module name of every import in a file, also those inside functions."""
    found = []
    for node in ast.walk(ast.parse(path.read_text(), str(path))):
        if isinstance(node, ast.Import):
            found += [(node.lineno, alias.name) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            package = list(path.relative_to(ROOT).parent.parts) if path.is_relative_to(ROOT) else []
            base = ".".join(package[: len(package) - node.level + 1]) if node.level else ""
            module = ".".join(part for part in (base, node.module) if part)
            # `from train import checkpoint` may name a module, `from train.checkpoint import save` does not.
            found += [(node.lineno, f"{module}.{alias.name}") for alias in node.names]
    return found


def allowed(folder: str, module: str) -> bool:
    top = module.split(".")[0]
    if top not in MAY_IMPORT and top not in MAY_IMPORT_ALL:
        return True  # not ours
    if top == folder:
        return True
    names = MAY_IMPORT[folder] | EVERY_FOLDER_MAY
    return any(module == name or module.startswith(name + ".") for name in names)


def violations(folder: str, path: pathlib.Path) -> list[str]:
    return [f"{path}:{line} imports {module}" for line, module in imports(path) if not allowed(folder, module)]


@pytest.mark.parametrize("folder", MAY_IMPORT)
def test_a_folder_imports_only_what_the_table_allows(folder):
    files = sorted((ROOT / folder).rglob("*.py"))
    found = [violation for path in files for violation in violations(folder, path)]
    assert not found, f"{folder} may import {sorted(MAY_IMPORT[folder] | EVERY_FOLDER_MAY)} of ours:\n" + "\n".join(
        found
    )


def test_every_folder_with_code_is_in_the_table():
    folders = {path.parent.name for path in ROOT.glob("*/*.py")} - {".venv"}
    assert folders <= {*MAY_IMPORT, *MAY_IMPORT_ALL}


def test_configs_need_nothing_but_ml_collections():
    import sys

    for path in (ROOT / "configs").glob("*.py"):
        tops = {module.split(".")[0] for _, module in imports(path)}
        assert tops <= {"configs", *CONFIGS_MAY, *sys.stdlib_module_names}, path


@pytest.mark.parametrize(
    ("folder", "source", "bad"),
    [
        ("model", "import sharding.rules\nfrom pallas_kernels.scan import scan\nimport jax", []),
        ("model", "from configs.schema import parse\nfrom configs import schema", []),
        ("model", "from configs import demo", ["configs.demo"]),
        ("model", "from configs.demo import get_config", ["configs.demo.get_config"]),
        ("model", "def f():\n    from data.batch import Batch", ["data.batch.Batch"]),
        ("eval", "from train.checkpoint import open_checkpoint\nfrom train import checkpoint", []),
        ("eval", "from train import step, checkpoint", ["train.step"]),
        ("serving", "import train", ["train"]),
        ("train", "import eval.metrics", ["eval.metrics"]),
        ("sharding", "import tests.tools", ["tests.tools"]),
    ],
)
def test_the_check_itself_sees_what_is_allowed_and_what_is_not(tmp_path, folder, source, bad):
    path = tmp_path / "module.py"
    path.write_text(source)
    assert [line.split(" imports ")[1] for line in violations(folder, path)] == bad

"""Rules that every file of the repository keeps."""

from __future__ import annotations

import ast
import pathlib
import re
import subprocess
import tomllib

import pytest

ROOT = pathlib.Path(__file__).parents[1]
MAX_LINES, MAX_FUNCTION_LINES, MAX_WIDTH = 500, 80, 120
LOCKS = sorted(ROOT.glob("requirements*.lock"))
REGISTRY_HOSTS = ("pypi" + ".org", "pythonhosted" + ".org", "registry.npmjs" + ".org")
MACHINE_PATH = re.compile(r"(?<![\w.~$}-])/(?:home|root|work|Users|mnt|tmp)/\w")


def repository_files() -> list[pathlib.Path]:
    """Files that git tracks or would track; every file outside hidden folders where there is no git."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    try:
        names = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines()
        paths = [ROOT / name for name in names]
    except (OSError, subprocess.CalledProcessError):
        paths = [
            path for path in ROOT.rglob("*") if not any(part.startswith(".") for part in path.relative_to(ROOT).parts)
        ]
    return [path for path in paths if path.is_file()]


FILES = repository_files()
CODE = [path for path in FILES if path.suffix == ".py"]
TEXTS = [path for path in FILES if "assets" not in path.parts and path.suffix not in (".png", ".gif", ".lock", ".json")]
CONFIGS = [path for path in CODE if path.parent.name == "configs" and path.parent.parent == ROOT]
CONFIGS = [path for path in CONFIGS if path.name not in ("__init__.py", "command.py", "schema.py")]


def test_no_file_is_longer_than_a_reader_can_hold():
    long = {str(path.relative_to(ROOT)): n for path in CODE if (n := len(path.read_text().splitlines())) > MAX_LINES}
    assert not long


def test_no_function_is_longer_than_a_screen():
    long = []
    for path in CODE:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
                lines = (node.end_lineno or node.lineno) - node.lineno + 1
                if lines > MAX_FUNCTION_LINES:
                    long.append(f"{path.relative_to(ROOT)}:{node.lineno} {node.name} has {lines} lines")
    assert not long


def test_every_module_says_what_it_is_for():
    silent = [path for path in CODE if path.stat().st_size and ast.get_docstring(ast.parse(path.read_text())) is None]
    assert not [path for path in silent if "tests" not in path.parts]


def test_locks_pin_every_package_by_hash_and_name_no_index():
    assert {path.name for path in LOCKS} >= {"requirements.lock", "requirements-dev.lock"}
    for path in LOCKS:
        entries = re.split(r"\n(?=\w)", path.read_text().strip())
        assert not re.search(r"://|--(extra-)?index|--find-links", path.read_text()), path
        for entry in entries:
            assert re.match(r"[a-z0-9.-]+==\S+", entry), (path, entry)
            assert "--hash=sha256:" in entry, (path, entry)


def test_the_locks_agree_and_hold_every_declared_dependency():
    def pins(name: str) -> dict[str, str]:
        return dict(re.findall(r"^([a-z0-9.-]+)==(\S+)", (ROOT / name).read_text(), re.MULTILINE))

    core, dev, aot = (pins(f"requirements{part}.lock") for part in ("", "-dev", "-aot"))
    assert core.items() <= dev.items()
    assert core.items() <= aot.items()
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    locked = ((project["dependencies"], core), (extras["dev"], dev), (extras["cuda"] + extras["tpu"], aot))
    for declared, lock in locked:
        names = {re.split(r"[^\w.-]", text)[0].lower().replace("_", "-") for text in declared}
        assert names <= set(lock), f"run `make lock`: {sorted(names - set(lock))} not pinned"


def test_every_dependency_has_its_reason_written_down():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    declared = project["dependencies"] + [text for extra in project["optional-dependencies"].values() for text in extra]
    names = {re.split(r"[^\w.-]", text)[0].lower() for text in declared}
    told = set(re.findall(r"^\| `([\w.-]+)`", (ROOT / "docs/dependencies.md").read_text(), re.MULTILINE))
    assert {name.lower() for name in told} == names


def test_the_python_version_is_pinned_to_the_minor_release():
    assert (ROOT / ".python-version").read_text().strip() == "3.12"


@pytest.mark.parametrize("what", ["paths of one machine", "hosts of package indexes"])
def test_no_text_names(what):
    found = []
    for path in TEXTS:
        try:
            lines = path.read_text().splitlines()
        except UnicodeDecodeError:
            continue
        for number, line in enumerate(lines, 1):
            bad = (
                MACHINE_PATH.search(line) if what.startswith("paths") else any(host in line for host in REGISTRY_HOSTS)
            )
            if bad and not line.startswith("MACHINE_PATH"):
                found.append(f"{path.relative_to(ROOT)}:{number}: {line.strip()[:100]}")
    assert not found, "\n".join(found)


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_a_config_opens_with_its_command_and_the_result_to_expect(path):
    tree = ast.parse(path.read_text())
    docstring = ast.get_docstring(tree) or ""
    assert f"configs/{path.name}" in docstring, "the docstring gives the command that runs the config"
    assert re.search(r"(?i)\bexpect", docstring), "the docstring says what result to expect"
    assert "get_config" in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}

"""`python -m docs.reference > docs/configs.md` writes every config section from its dataclass."""

from __future__ import annotations

import ast
import dataclasses
import inspect
import re
import types
import typing
from collections.abc import Iterator
from typing import Any, Literal, Union

from configs.schema import to_plain
from eval.config import EvaluateConfig
from train.objectives import OBJECTIVES
from train.sections import Config

HEAD = """# Config reference

Made by `python -m docs.reference > docs/configs.md` from the dataclasses that check a config.

Every field can be given on the command line, whether the config file spells it or not: `--config.train.steps=50`,
`--config.phases.pretrain.optimizer.freeze="('embed', 'norm')"`, `--config.train.spike_factor=None`. `<name>` stands for
a name that the config chooses. A section that may be None, and is, has to be given in the file as a whole.
"""


def render() -> str:
    """The whole page."""
    sections: dict[type, list[str]] = {}  # in order of appearance, with every path that leads to it
    for path, cls in [("config", Config), ("config.evaluate", EvaluateConfig)]:
        _collect(cls, path, sections)
    for name, module in OBJECTIVES.items():
        if hasattr(module, "Options"):
            _collect(module.Options, f"config.phases.<name>.options (objective {name})", sections)
    return "\n".join([HEAD, *(_section(cls, paths) for cls, paths in sections.items())])


def _collect(cls: type, path: str, sections: dict[type, list[str]]) -> None:
    sections.setdefault(cls, []).append(path)
    hints = typing.get_type_hints(cls)
    for field in dataclasses.fields(typing.cast(Any, cls)):
        for suffix, nested in _nested(hints[field.name]):
            _collect(nested, f"{path}.{field.name}{suffix}", sections)


def _nested(hint: Any) -> Iterator[tuple[str, type]]:
    """The dataclasses inside a type, each with `.<name>` where it is one of several named entries."""
    if dataclasses.is_dataclass(hint):
        yield "", typing.cast(type, hint)
    for argument in typing.get_args(hint):
        if argument is not Literal and not isinstance(argument, str):
            for suffix, nested in _nested(argument):
                yield (f".<name>{suffix}" if typing.get_origin(hint) is dict else suffix), nested


def _section(cls: type, paths: list[str]) -> str:
    fields, hints = dataclasses.fields(typing.cast(Any, cls)), typing.get_type_hints(cls)
    text, meanings = _told(cls, {field.name for field in fields})
    meanings |= {name: comment for name, comment in _comments(cls).items() if comment}
    tags = [typing.get_args(hints[f.name])[0] for f in fields if f.name == "kind" and len(_choices(hints["kind"])) == 1]
    title = ", ".join(f"`{path}`" for path in paths) + (f", kind `{tags[0]}`" if tags else "")
    rows = [
        f"| `{field.name}` | {_type(hints[field.name])} | {_default(field)} | {meanings.get(field.name, '')} |"
        for field in fields
    ]
    return "\n".join(
        [f"## {title}\n", f"{text}\n", "| field | type | default | meaning |", "|---|---|---|---|", *rows, ""]
    )


def _told(cls: type, names: set[str]) -> tuple[str, dict[str, str]]:
    """The docstring without its sentences of the form "field, field: meaning", and what those say of each field."""
    text, meanings = [], {}
    for sentence in re.split(r"(?<=\.) (?=[A-Z`a-z])", " ".join((inspect.getdoc(cls) or "").split())):
        about, colon, meaning = sentence.partition(": ")
        fields = about.replace("`", "").split(", ")
        if colon and names >= set(fields):
            meanings |= dict.fromkeys(fields, meaning.removesuffix("."))
        else:
            text.append(sentence)
    return " ".join(text), meanings


def _choices(hint: Any) -> tuple:
    return typing.get_args(hint) if typing.get_origin(hint) is Literal else ()


def _type(hint: Any) -> str:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is Literal:
        return " or ".join(f"`{argument}`" for argument in arguments)
    if origin in (Union, types.UnionType):
        return " or ".join(dict.fromkeys(_type(argument) for argument in arguments))
    if origin is tuple and arguments[-1] is Ellipsis:
        return f"list of {_type(arguments[0])}"
    if origin is tuple:
        return "(" + ", ".join(_type(argument) for argument in arguments) + ")"
    if origin is dict:
        return f"named: {_type(arguments[1])}"
    if dataclasses.is_dataclass(hint):
        return "section"
    names = {int: "int", float: "number", str: "text", bool: "true or false", type(None): "None", Any: "any value"}
    return names[hint]


def _default(field: dataclasses.Field) -> str:
    if field.default is not dataclasses.MISSING:
        value = field.default
    elif field.default_factory is not dataclasses.MISSING:
        value = field.default_factory()
    else:
        return "required"
    if dataclasses.is_dataclass(value):
        return "its defaults"
    return f"`{to_plain(value)!r}`"


def _comments(cls: type) -> dict[str, str]:
    """Field -> the comment at the end of its line."""
    found = {}
    for parent in reversed([base for base in cls.__mro__ if dataclasses.is_dataclass(base)]):
        source = inspect.getsource(parent)
        lines = source.splitlines()
        body = typing.cast(ast.ClassDef, ast.parse(source).body[0]).body
        for node in body:
            if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
                _, _, comment = lines[(node.end_lineno or node.lineno) - 1][node.end_col_offset or 0 :].partition("# ")
                found[node.target.id] = comment.strip()
    return found


if __name__ == "__main__":
    print(render(), end="")

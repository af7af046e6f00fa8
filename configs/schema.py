"""The boundary between a config file and the code: a mapping becomes frozen dataclasses, or one clear `ValueError`.

A section is a dataclass whose fields are scalars, `Literal`, `X | None`, unions, `tuple[...]`, `dict[str, X]` and other
dataclasses. Ranges and combinations are checked by the dataclass itself in `__post_init__`; its errors get the path.
"""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import difflib
import hashlib
import json
import numbers
import types
import typing
from collections.abc import Mapping
from typing import Any, Literal, Union

from ml_collections import ConfigDict, config_dict


def parse[T](cls: type[T], mapping: Any, where: str = "config") -> T:
    """Builds the dataclass `cls` from a ConfigDict or mapping, recursively.

    `where` is the path that errors name, e.g. "config.model". Lists become tuples and integers become floats where a
    field asks for them; a bool is never a number.

    Raises:
        ValueError: an unknown or missing key, a wrong type, a value outside a `Literal`, or whatever `__post_init__`
            refuses; the message has the full path of the field, the value, what is allowed and the remedy.
    """
    if isinstance(mapping, cls):
        return mapping
    given = _plain_mapping(mapping, where)
    fields = {field.name: field for field in dataclasses.fields(typing.cast(Any, cls)) if field.init}
    hints = typing.get_type_hints(cls)
    for key, value in given.items():
        if key not in fields:
            raise _unknown_field(f"{where}.{key}", key, value, list(fields))
    for name, field in fields.items():
        optional = field.default is not dataclasses.MISSING or field.default_factory is not dataclasses.MISSING
        if name not in given and not optional:
            raise ValueError(
                f"{where}.{name} is missing; it must be {_describe(hints[name])}. Set it in the config file or with "
                f"--{where}.{name}=..."
            )
    values = {name: _convert(hints[name], value, f"{where}.{name}") for name, value in given.items()}
    try:
        return cls(**values)
    except ValueError as error:
        message = str(error)
        names_field = message.split(" ", 1)[0].split(".", 1)[0].strip(":,`'\"") in fields
        raise ValueError(f"{where}.{message}" if names_field else f"{where}: {message}") from error


def complete(cls: type, config: ConfigDict) -> ConfigDict:
    """A copy of `config` with every field of the dataclass `cls` that has a default, recursively.

    So a command line can override each, and a config is the same whether a default was spelled or not. A field that may
    be None becomes a typed reference; a section that may be None stays None unless given. What does not fit its field
    is left for `parse` to refuse.
    """
    config = copy.deepcopy(config)
    with config.unlocked():
        _complete(cls, config)
    return config


def _complete(cls: type, config: ConfigDict) -> None:
    hints, given = typing.get_type_hints(cls), dict(config.items(preserve_field_references=True))
    for field in dataclasses.fields(typing.cast(Any, cls)):
        if field.name in given:
            value = given[field.name]
        elif field.default is not dataclasses.MISSING:
            value = field.default
        elif field.default_factory is not dataclasses.MISSING:
            value = field.default_factory()
        else:
            continue
        _replace(config, field.name, _complete_value(hints[field.name], value))


def _replace(config: ConfigDict, name: str, value: Any) -> None:
    """Sets a field whose type may have changed."""
    if name in config:
        del config[name]
    config[name] = value


def _complete_value(hint: Any, value: Any) -> Any:
    """`value` with the type that `hint` declares, so that the command line knows how to read another one."""
    union = typing.get_origin(hint) in (Union, types.UnionType)
    members = typing.get_args(hint) if union else (hint,)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        value = to_plain(value)
    if isinstance(value, (ConfigDict, dict)):
        value = value if isinstance(value, ConfigDict) else ConfigDict(value)
        fitting = [member for member in members if _same_kind(member, value)]
        if len(fitting) == 1 and dataclasses.is_dataclass(fitting[0]):
            _complete(typing.cast(type, fitting[0]), value)
        elif len(fitting) == 1:
            item_hint = typing.get_args(fitting[0])[1]
            for key, item in dict(value.items(preserve_field_references=True)).items():
                _replace(value, key, _complete_value(item_hint, item))
        return value
    kinds = {_kind(member) for member in members} - {type(None)}
    if isinstance(value, list) and tuple in kinds:
        value = tuple(value)
    if isinstance(value, int) and not isinstance(value, bool) and float in kinds and int not in kinds:
        value = float(value)
    if type(None) in members and len(kinds) == 1 and isinstance(value, (type(None), *kinds)):
        return value if kinds & {ConfigDict, object} else config_dict.FieldReference(value, field_type=kinds.pop())
    return value


def _kind(hint: Any) -> type:
    """The type that a value of `hint` has in a ConfigDict."""
    origin = typing.get_origin(hint)
    if dataclasses.is_dataclass(hint) or origin is dict:
        return ConfigDict
    if origin is Literal:
        return type(typing.get_args(hint)[0])
    return object if hint is Any else origin or hint


def to_plain(value: Any) -> Any:
    """The JSON-able form of a config: dataclasses and mappings become dicts, tuples become lists. Undone by `parse`."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: to_plain(getattr(value, field.name)) for field in dataclasses.fields(value) if field.init}
    if isinstance(value, (ConfigDict, Mapping)):
        return {str(key): to_plain(value[key]) for key in value}
    if isinstance(value, (list, tuple)):
        return [to_plain(item) for item in value]
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    raise ValueError(f"{value!r} ({type(value).__name__}) is no config value; allowed: scalars, text, lists, sections")


def config_hash(config: Any) -> str:
    """16 hex digits that depend on the values alone: equal for a config and its `to_plain` form, in any key order."""
    text = json.dumps(to_plain(config), sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _plain_mapping(mapping: Any, where: str) -> Mapping[str, Any]:
    if isinstance(mapping, ConfigDict):
        try:
            return mapping.to_dict()  # resolves field references
        except config_dict.RequiredValueError as error:
            raise ValueError(
                f"{where} has a required placeholder without a value; set it with --{where}.<field>=..."
            ) from error
    if not isinstance(mapping, Mapping):
        raise ValueError(f"{where} is {_show(mapping)}; it must be a section with named fields")
    return mapping


def _convert(hint: Any, value: Any, where: str) -> Any:
    """`value` as the type `hint`, or a ValueError that names `where`."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if isinstance(value, config_dict.FieldReference):
        value = value.get()
    if hint is Any:
        return value
    if origin is Literal:
        for allowed in arguments:
            if type(value) is type(allowed) and value == allowed:
                return value
        raise _bad_choice(hint, value, where)
    if origin in (Union, types.UnionType):
        return _convert_union(hint, value, where)
    if dataclasses.is_dataclass(hint):
        return parse(typing.cast(type, hint), value, where)
    if origin is tuple:
        return _convert_tuple(hint, value, where)
    if origin is dict:
        items = _plain_mapping(value, where).items()
        return {str(key): _convert(arguments[1], item, f"{where}.{key}") for key, item in items}
    return _convert_scalar(hint, value, where)


def _convert_scalar(hint: Any, value: Any, where: str) -> Any:
    is_bool = isinstance(value, bool)
    if hint is bool and is_bool:
        return value
    if hint is int and isinstance(value, numbers.Integral) and not is_bool:
        return int(value)
    if hint is float and isinstance(value, numbers.Real) and not is_bool:
        return float(value)
    if hint is str and isinstance(value, str):
        return value
    if hint is type(None) and value is None:
        return None
    if hint not in (bool, int, float, str, type(None)):
        raise TypeError(f"{where} is declared as {hint}, which no config can hold")  # the dataclass is at fault
    raise _bad_choice(hint, value, where)


def _convert_tuple(hint: Any, value: Any, where: str) -> tuple:
    if not isinstance(value, (list, tuple)):
        raise _bad_choice(hint, value, where)
    hints = typing.get_args(hint)
    if len(hints) == 2 and hints[1] is Ellipsis:
        hints = (hints[0],) * len(value)
    if len(hints) != len(value):
        raise _bad_choice(hint, value, where)
    return tuple(_convert(h, item, f"{where}[{i}]") for i, (h, item) in enumerate(zip(hints, value, strict=True)))


def _convert_union(hint: Any, value: Any, where: str) -> Any:
    """`value` as the member it fits; sections are told apart by their `Literal` fields, so that errors stay short."""
    members = typing.get_args(hint)
    if type(value) in members:  # None, and an int stays an int in `float | int`
        return value
    nested = [member for member in members if _same_kind(member, value)]
    if len(nested) == 1:
        return _convert(nested[0], value, where)
    for member in nested or members:
        with contextlib.suppress(ValueError):
            return _convert(member, value, where)
    raise _bad_choice(hint, value, where)


def _same_kind(hint: Any, value: Any) -> bool:
    """Whether both are a list, both named entries, or `value` a section whose `Literal` fields `hint` allows.

    A `Literal` field without a default must be there: it is what tells the section from one that has a default.
    """
    if isinstance(value, (list, tuple)):
        return typing.get_origin(hint) is tuple
    if not isinstance(value, (ConfigDict, Mapping)):
        return False
    if not dataclasses.is_dataclass(hint):
        return typing.get_origin(hint) is dict
    required = {field.name for field in dataclasses.fields(hint) if field.default is dataclasses.MISSING}
    return all(
        value[name] in allowed if name in value else name not in required for name, allowed in _tags(hint).items()
    )


def _tags(section: Any) -> dict[str, tuple]:
    hints = typing.get_type_hints(section)
    return {name: typing.get_args(hint) for name, hint in hints.items() if typing.get_origin(hint) is Literal}


def _unknown_field(path: str, key: str, value: Any, allowed: list[str]) -> ValueError:
    near = difflib.get_close_matches(str(key), allowed, n=1)
    remedy = f"Did you mean {near[0]!r}?" if near else "Remove it."
    return ValueError(
        f"{path} = {_show(value)} is not a known field. {remedy} Allowed: {', '.join(allowed) or 'none'}."
    )


def _bad_choice(hint: Any, value: Any, where: str) -> ValueError:
    near = []
    if typing.get_origin(hint) is Literal and isinstance(value, str):
        near = difflib.get_close_matches(value, [str(item) for item in typing.get_args(hint)], n=1)
    remedy = f"Did you mean {near[0]!r}?" if near else f"Change {where} in the config file or on the command line."
    return ValueError(f"{where} is {_show(value)}; it must be {_describe(hint)}. {remedy}")


def _show(value: Any) -> str:
    text = repr(value)
    text = text if len(text) <= 80 else text[:77] + "..."
    return text if value is None or isinstance(value, str) else f"{text} ({type(value).__name__})"


def _describe(hint: Any) -> str:
    """What a field takes, in words: "an int", "one of 'a', 'b'", "a list of float"."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if hint is type(None):
        return "None"
    if origin is Literal:
        return "one of " + ", ".join(repr(item) for item in arguments)
    if origin in (Union, types.UnionType):
        return " or ".join(_describe(member) for member in arguments)
    if origin is tuple and arguments[-1] is Ellipsis:
        return f"a list, each item {_describe(arguments[0])}"
    if origin is tuple:
        return f"a list of {len(arguments)}: " + ", ".join(_describe(item) for item in arguments)
    if origin is dict:
        return f"named entries, each {_describe(arguments[1])}"
    if dataclasses.is_dataclass(hint):
        tags = {name: "=" + " or ".join(map(repr, allowed)) for name, allowed in _tags(hint).items()}
        return "a section (" + ", ".join(f.name + tags.get(f.name, "") for f in dataclasses.fields(hint)) + ")"
    names = {bool: "True or False", int: "an int", float: "a number", str: "a text"}
    return names.get(hint, getattr(hint, "__name__", str(hint)))

"""TOML files into models, with errors that name file, line and key; and models into commented TOML.

A field's description is its documentation: `to_toml` writes it as the comment above the key,
so the files that secfed writes and the models that read them cannot drift apart.
"""

from __future__ import annotations

import difflib
import json
import os
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from secfed.config.models import Section
from secfed.config.refused import refused_option
from secfed.errors import ConfigError

__all__ = ["checked", "load", "to_toml"]

_MAX_FILE_BYTES = 1 << 20
"""No configuration is longer: a bound before it is read."""

_TRAINERS_TABLES = (["training"], ["training", "dpo"], ["training", "kto"], ["privacy"])
"""Tables of `JOB.toml` into which people write the option names of other trainers."""

_Model = TypeVar("_Model", bound=Section)


def load(path: Path, model: type[_Model]) -> _Model:
    """Read a configuration file.

    Args:
        path: A TOML file.
        model: What it must hold.

    Raises:
        ConfigError: `FILE:LINE` and what is wrong there; for an unknown key the nearest known one,
            and for an option that is refused on purpose its reason, with the remedy.
    """
    try:
        with path.open("rb") as file:
            data = file.read(_MAX_FILE_BYTES + 1)
        if len(data) > _MAX_FILE_BYTES:
            raise ConfigError(f"{path} is longer than {_MAX_FILE_BYTES} bytes")
        text = data.decode("utf-8")
        table = tomllib.loads(text)
    except OSError as problem:
        raise ConfigError(f"{path}: {problem.strerror}") from problem
    except UnicodeDecodeError as problem:
        raise ConfigError(f"{path} is not UTF-8") from problem
    except tomllib.TOMLDecodeError as problem:
        found = re.search(r"^(.*) \(at line ([0-9]+)", str(problem))
        place, what = (f"{path}:{found[2]}", found[1]) if found else (f"{path}", str(problem))
        raise ConfigError(f"{place} is no TOML: {what}") from problem
    try:
        return model.model_validate(table, context=os.path.abspath(path.parent))
    except ValidationError as problem:
        raise _explained(path, text, model, problem.errors()) from problem


def _explained(path: Path, text: str, model: type[BaseModel], errors: list[ErrorDetails]) -> ConfigError:
    """The first error in the file's order as one line, and how many there are."""
    lines = dict(_keys(text))
    located = [(_line_of(lines, error), error) for error in errors]
    line, error = min(located, key=lambda each: (each[1]["type"] == "missing", each[0]))
    keys = [str(part) for part in error["loc"] if isinstance(part, str)]
    section = f" in [{'.'.join(keys[:-1])}]" if len(keys) > 1 else ""
    name = keys[-1] if keys else "the file"
    hint = None
    refusal = refused_option(name, error["input"]) if keys[:-1] in _TRAINERS_TABLES else None
    if refusal is not None:
        what, hint = f"{name!r}{section} is refused: {refusal.reason}", f"{refusal.remedy}."
    elif error["type"] == "extra_forbidden":
        what = f"unknown key {name!r}{section}{_suggest(model, tuple(keys))}"
    elif error["type"] == "missing":
        what = f"key {name!r} is missing{section}"
    else:
        message = error["msg"].removeprefix("Value error, ")
        what = f"{name!r}{section}: {message[:1].lower()}{message[1:]}, found {_shown(error['input'])}"
    more = f" (and {len(errors) - 1} more)" if len(errors) > 1 else ""
    return ConfigError(f"{path}:{line} {what}{more}", hint=hint)


def _shown(value: object) -> str:
    """A wrong value, short enough for one line."""
    if isinstance(value, dict):
        return "this table"
    return json.dumps(value, default=str, ensure_ascii=False)[:60]


def _suggest(model: type[BaseModel], keys: tuple[str, ...]) -> str:
    """The nearest known key, in the same table if there is one, else in another."""
    known = dict(_known_keys(model, ()))
    parent, name = keys[:-1], keys[-1]
    near = difflib.get_close_matches(name, known.get(parent, ()), n=1)
    if near:
        return f"; did you mean {near[0]!r}?"
    for section, names in known.items():
        near = difflib.get_close_matches(name, names, n=1, cutoff=0.8)
        if near:
            place = f"in [{'.'.join(section)}]" if section else "above the first table"
            return f"; did you mean {near[0]!r} {place}?"
    return ""


def _known_keys(
    model: type[BaseModel], section: tuple[str, ...]
) -> Iterator[tuple[tuple[str, ...], list[str]]]:
    """Every table of a model with its keys."""
    yield section, list(model.model_fields)
    for name, inner in _tables(model):
        yield from _known_keys(inner, (*section, name))


def _tables(model: type[BaseModel]) -> Iterator[tuple[str, type[BaseModel]]]:
    """The fields that are tables of their own, optional ones included."""
    for name, info in model.model_fields.items():
        for each in (info.annotation, *getattr(info.annotation, "__args__", ())):
            if isinstance(each, type) and issubclass(each, BaseModel):
                yield name, each


def _keys(text: str) -> Iterator[tuple[tuple[str, ...], int]]:
    """Every table and key of a TOML text with its line, from 1; lines inside long strings are skipped."""
    section: tuple[str, ...] = ()
    inside: str | None = None
    for number, line in enumerate(text.splitlines(), start=1):
        if inside is None:
            if header := re.match(r"\s*\[\[?([^\[\]]+)\]", line):
                section = _parts(header[1])
                yield section, number
            elif key := re.match(r"\s*([A-Za-z0-9_\-.\"' ]+?)\s*=", line):
                yield (*section, *_parts(key[1])), number
        for quotes in re.findall(r'"""|\'\'\'', line):
            if inside is None:
                inside = quotes
            elif inside == quotes:
                inside = None


def _parts(dotted: str) -> tuple[str, ...]:
    return tuple(part.strip().strip("\"'") for part in dotted.split("."))


def _line_of(lines: dict[tuple[str, ...], int], error: ErrorDetails) -> int:
    """The line of an error's key, or of the nearest table around it."""
    keys = tuple(part for part in error["loc"] if isinstance(part, str))
    while keys and keys not in lines:
        keys = keys[:-1]
    return lines.get(keys, 1)


def checked(model: type[_Model], directory: Path, **values: object) -> _Model:
    """Build a configuration from a command's options, held to the same rules as a file.

    Args:
        model: What to build.
        directory: Where its file will lie: relative paths are relative to it.
        values: The keys.

    Raises:
        ConfigError: A value is refused; the key is named.
    """
    try:
        return model.model_validate(values, context=str(directory))
    except ValidationError as problem:
        first = problem.errors()[0]
        key = ".".join(map(str, first["loc"])) or model.__name__
        raise ConfigError(f"{key}: {first['msg'].removeprefix('Value error, ')}") from problem


def to_toml(config: BaseModel, directory: Path) -> str:
    """Write a model as TOML with a comment above each key; `load` reads the same model back.

    Args:
        config: A configuration.
        directory: Where the file will lie: paths inside it are written relative to it.

    Raises:
        ConfigError: A path is not UTF-8.
    """
    text = "\n".join(_table_lines(config, os.path.abspath(directory), ())) + "\n"
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as problem:
        raise ConfigError("a path in the configuration is not UTF-8") from problem
    return text


def _table_lines(config: BaseModel, directory: str, section: tuple[str, ...]) -> Iterator[str]:
    tables = dict(_tables(type(config)))
    for name, info in type(config).model_fields.items():
        if name in tables:
            continue
        value = getattr(config, name)
        yield f"# {info.description}"
        yield f"# {name} = (not given)" if value is None else f"{name} = {_value(value, directory)}"
    for name in tables:
        inner = getattr(config, name)
        yield ""
        yield f"# {type(config).model_fields[name].description}"
        if inner is None:
            yield f"# [{'.'.join((*section, name))}]"
        else:
            yield f"[{'.'.join((*section, name))}]"
            yield from _table_lines(inner, directory, (*section, name))


def _value(value: object, directory: str) -> str:
    """One TOML value."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return repr(value)
    if isinstance(value, dict):
        pairs = (f"{_value(key, directory)} = {_value(each, directory)}" for key, each in value.items())
        return f"{{ {', '.join(pairs)} }}"
    if isinstance(value, tuple):
        return f"[{', '.join(_value(each, directory) for each in value)}]"
    if isinstance(value, Path) and value.is_relative_to(directory):
        return _value(str(value.relative_to(directory)), directory)
    # A JSON string is a TOML basic string, but for DEL, which TOML wants escaped.
    return json.dumps(str(value), ensure_ascii=False).replace("\x7f", "\\u007f")

"""Errors in a configuration in one line each: type checks, and the messages of gin and attrs in plain words."""

from __future__ import annotations

import ast
import re
import sys
import tokenize
import types
import typing
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from rlhive.suggest import suggest


class ConfigError(ValueError):
    """A file, binding or value that the user must correct; its text is one line."""


def fits(value: Any, hint: Any) -> bool:
    """Whether `value` has the type `hint`; any value fits a hint that is not made of plain types."""
    origin = typing.get_origin(hint)
    if origin in (types.UnionType, typing.Union):
        return any(fits(value, part) for part in typing.get_args(hint))
    if origin in (tuple, Sequence):
        item = typing.get_args(hint)[0]
        return isinstance(value, tuple | list) and all(fits(part, item) for part in value)
    if origin is Callable:
        return callable(value)
    if hint in (int, float) and isinstance(value, bool):
        return False
    if hint is float:
        return isinstance(value, int | float)
    if isinstance(origin, type):  # such as dict[str, Any], whose contents are not checked
        return isinstance(value, origin)
    return not isinstance(hint, type) or isinstance(value, hint)


def finite(value: Any) -> bool:
    """Whether no number in `value`, such as 1e400, is infinite, NaN or too large for a float."""
    return all(abs(number) <= sys.float_info.max for number in _numbers(value))


def within_64_bits(value: Any) -> bool:
    """Whether torch and numpy can hold every whole number in `value`."""
    return all(-(2**63) <= number < 2**63 for number in _numbers(value) if isinstance(number, int))


def _numbers(value: Any) -> Iterator[int | float]:
    if isinstance(value, int | float):
        yield value
    elif isinstance(value, dict | tuple | list):
        for part in value.values() if isinstance(value, dict) else value:
            yield from _numbers(part)


def place(source: str, error: Exception) -> str:
    """Where gin failed: file, number and text of the line, or else `source`, the binding itself."""
    if isinstance(error, SyntaxError) and error.filename and error.text:
        return f"{error.filename}, line {error.lineno}, `{error.text.strip()}`"
    if match := re.search(r'In file "(.+)", line (\d+)\n\s*(.+)', str(error)):
        return f"{match[1]}, line {match[2]}, `{match[3]}`"
    return source


def _is_tuple(text: str) -> bool:
    """Whether the text is a tuple once it has brackets; parts and macros count as values."""
    try:
        return isinstance(ast.literal_eval(f"({re.sub(r'[@%][^,]+', '0', text)})"), tuple)
    except (ValueError, SyntaxError):
        return False


def explain_gin(error: Exception, names: Sequence[str], parameters_of: Callable[[str], Sequence[str]]) -> str:
    """Explains gin's error in one line, with the names that gin files can use and the parameters of each."""
    text = str(error).strip().split("\n")[0]
    if match := re.search(r"No configurable matching (?:reference )?'@?(?:\w+/)?([\w.]+)", text):
        return f"nothing is called {match[1]!r}: {suggest(match[1], names)}"
    if match := re.search(r"Configurable '([\w.]+)' doesn't have a parameter named '(\w+)'", text):
        return f"{match[1]} has no parameter {match[2]!r}: {suggest(match[2], parameters_of(match[1]))}"
    if match := re.search(r"Configurable '([\w.]+)' has denylisted kwarg '(\w+)'", text):
        depth = match[1].endswith("images") and match[2] == "depth"
        why = "training reads no depth images" if depth else "the run itself gives it"
        return f"{match[1]}.{match[2]} cannot be set: {why}"
    if (match := re.search(r"Failed to parse token '(\w+)'", str(error))) and match[1] in names:
        return f"write @{match[1]} for the part of that name"
    statement = (getattr(error, "text", None) or "").strip()
    if (match := re.fullmatch(r"([\w./]+)\s*=\s*(.+,.*)", statement)) and _is_tuple(match[2]):
        return f"several values need brackets, as in {match[1]}=({match[2]})"
    if isinstance(error, tokenize.TokenError) or "EOF in multi-line" in text:
        return "a bracket or a quote is opened and never closed"
    if "malformed node" in text or "Couldn't parse" in text or isinstance(error, SyntaxError):
        return "expected NAME=VALUE with a Python literal as value; strings need quotes, as in NAME='text'"
    return text


def explain_value(error: Exception) -> str:
    """Explains a factory's error in one line."""
    line = str(error).strip().splitlines()[0]
    # attrs raises with (message, attribute, validator, value), which gin turns into the text of that tuple.
    if match := re.match(r"""\((["'])(.*?)\1, Attribute\(""", line):
        line = match[2]
    line = re.sub(r"<class '(.*?)'>", r"\1", line)
    line = re.sub(r"<function ([\w.<>]+) at 0x[0-9a-f]+>", r"\1", line)
    if match := re.match(r"(\w+)(?:\.__init__)?\(\) missing \d+ required [\w-]+ arguments?: (.*)", line):
        where = "include base.gin or a shipped file that does" if match[1] == "TrainConfig" else "bind them"
        if re.search(r"'(pixels|action_low)'", match[2]):  # which no binding can give
            where = f"the run gives them, write @{match[1]} without ()"
        return f"{match[1].replace('TrainConfig', 'train')} has no value for {match[2]}: {where}"
    calls = re.findall(r"In call to configurable '(\w+)'", str(error))
    return f"wrong value for {calls[0]}: {line}" if calls else f"wrong value: {line}"

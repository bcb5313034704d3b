"""Regular expressions as people write them for Go, checked and spelled for Python."""

from __future__ import annotations

import re
import warnings

from supervisor.config.problems import Mismatch

_POSIX_CLASS = re.compile(r"\[:(\^?\w+):\]")
_POSIX_CLASSES = {
    "alnum": "0-9A-Za-z",
    "alpha": "A-Za-z",
    "digit": "0-9",
    "lower": "a-z",
    "upper": "A-Z",
    "space": r"\t\n\v\f\r ",
    "word": "0-9A-Za-z_",
    "xdigit": "0-9A-Fa-f",
}


def pattern(value: object) -> str:
    """A regular expression in the syntax of Python, or of RE2 as far as it means the same."""
    if not isinstance(value, str):
        raise Mismatch("a regular expression")
    text = _POSIX_CLASS.sub(_posix_class, value.replace(r"\z", r"\Z"))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about sets that other dialects nest
            re.compile(text)
    except (re.error, OverflowError, RecursionError) as error:
        raise Mismatch("a regular expression", str(error)) from None
    return text


def _posix_class(match: re.Match[str]) -> str:
    if match[1] not in _POSIX_CLASSES:
        raise Mismatch("a regular expression", f"`{match[0]}` is not supported")
    return _POSIX_CLASSES[match[1]]

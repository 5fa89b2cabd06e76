"""What is said in Python and what is said on a command line, one made into the other."""

from __future__ import annotations

import json
import re
import signal
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from drtune.errors import InterruptionError, UserError, out_of_memory

SWITCHES = ("overwrite", "resume", "held-out")
"""Flags without a value."""


@contextmanager
def in_python(out: object = None) -> Iterator[None]:
    """Within, a UserError names keywords where it would name flags, and Ctrl-C ends as Python's own KeyboardInterrupt.

    What is raised for want of memory becomes a UserError, too.
    `out` is the folder of the training that would go on.
    """
    try:
        yield
    except UserError as error:
        raise type(error)(keywords(str(error))) from None
    except (RuntimeError, MemoryError) as error:
        if (told := out_of_memory(error)) is None:
            raise
        raise told from None
    except InterruptionError as stopped:
        if stopped.exit_code != 128 + signal.SIGINT:
            raise
        what = str(stopped).partition("; go on with")[0]
        raise KeyboardInterrupt(f"{what}; go on with the same call and out={str(out)!r}, resume=True") from None


def keywords(message: str) -> str:
    """A message with keywords in place of its flags.

    >>> keywords("output runs/a: exists already; give --overwrite to replace it, or another --out")
    'output runs/a: exists already; give overwrite=True to replace it, or another out'
    """

    def keyword(flag: re.Match[str]) -> str:
        return flag[1].replace("-", "_") + ("=True" if flag[1] in SWITCHES else "")

    return re.sub(r"(?<!\S)--([a-z]+(?:-[a-z]+)*)", keyword, re.sub(r"(?<!\S)--set[ =]", "", message))


def overrides(
    settings: Mapping[str, Any], name_of: Callable[[Callable[..., Any]], str], prefix: str = ""
) -> Iterator[str]:
    """Settings as dotted `key=value` texts; the name of a reward takes the place of a function.

    >>> list(overrides({"steps": 20, "sampler": {"steps": 4}, "ema_decay": None}, name_of=lambda function: ""))
    ['steps=20', 'sampler.steps=4', 'ema_decay=null']
    """
    for key, value in settings.items():
        if isinstance(value, Mapping) and key != "rewards":
            yield from overrides(value, name_of, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}={_text(value, name_of)}"


def _text(value: Any, name_of: Callable[[Callable[..., Any]], str]) -> str:
    if callable(value):
        return name_of(value)
    if isinstance(value, Mapping):
        value = {name_of(key) if callable(key) else key: inside for key, inside in value.items()}
    if value is None or isinstance(value, bool | list | tuple | dict):
        return json.dumps(value, ensure_ascii=False, default=lambda part: _text(part, name_of))
    return str(value)

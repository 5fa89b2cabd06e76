"""A function as a file: what a notebook or a script defines, written so that any process can run it again.

Rewards of your own are files (drtune/rewards/own.py), whose copy and digest a tuned model keeps. A function that was
typed into a notebook becomes one: its own source, and that of what it uses. So what is recorded is what ran.
"""

from __future__ import annotations

import inspect
import symtable
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

from drtune.errors import UserError

CONSTANTS = (bool, int, float, str, bytes, type(None))


def reward_file(function: Callable[..., Any], folder: Path, write: Callable[[Path, str], None]) -> str:
    """The name of a function as a reward of a configuration, `file.py:function`.

    One of an imported module keeps its file. One that a notebook or a script defines is given to `write` as a file in
    `folder`.

    Raises:
        UserError: no file can hold it.
    """
    name = getattr(function, "__name__", type(function).__name__)
    inner = inspect.unwrap(function)
    if not inspect.isfunction(inner) or not name.isidentifier():
        raise UserError(f"reward {name}: is no function with a name; define one with def")
    if inner.__closure__ or "<locals>" in inner.__qualname__:
        raise UserError(f"reward {name}: is defined inside of {inner.__qualname__.partition('.')[0]}; {_fix(name)}")
    if inner.__module__ != "__main__":
        return f"{inspect.getsourcefile(inner)}:{name}"
    file = folder / f"{name}.py"
    write(file, "\n".join(_Standalone(name).lines(name, function, inner.__globals__)).lstrip())
    return f"{file}:{name}"


class _Standalone:
    """The lines of a file in which a function stands after all that it uses."""

    def __init__(self, reward: str) -> None:
        self.reward = reward
        self.seen: set[str] = set()

    def lines(self, name: str, value: Any, beside: dict[str, Any]) -> Iterator[str]:
        """What defines `name`, whose `value` uses names that are `beside` it."""
        if name in self.seen:
            return
        self.seen.add(name)
        module, called = getattr(value, "__module__", None), getattr(value, "__name__", "")
        if isinstance(value, ModuleType):
            yield f"import {called} as {name}" if called != name else f"import {name}"
        elif isinstance(value, CONSTANTS):
            yield f"{name} = {value!r}"
        elif module == "__main__" and called:
            source = self._source(name, value)
            for used in _names_used(source):
                if used in beside:
                    yield from self.lines(used, beside[used], beside)
            yield f"\n\n{source}"
        elif called and getattr(sys.modules.get(str(module)), called, None) is value:
            yield f"from {module} import {called} as {name}" if called != name else f"from {module} import {name}"
        else:
            raise UserError(f"reward {self.reward}: uses {name}, a {type(value).__name__}; {_fix(self.reward)}")

    def _source(self, name: str, value: Any) -> str:
        try:
            return textwrap.dedent(inspect.getsource(value))
        except (OSError, TypeError):  # typed at a prompt; a class of a notebook
            raise UserError(f"reward {self.reward}: {name} has no source to be kept; {_fix(self.reward)}") from None


def _fix(name: str) -> str:
    return f"write the function and all that it needs into a file, and give reward='FILE.py:{name}'"


def _names_used(source: str) -> list[str]:
    """Names that a definition takes from around itself, sorted."""

    def used(table: symtable.SymbolTable) -> Iterator[str]:
        is_outermost = table.get_type() == "module"
        for symbol in table.get_symbols():
            if symbol.is_referenced() and (is_outermost or symbol.is_global()):
                yield symbol.get_name()
        for inside in table.get_children():
            yield from used(inside)

    return sorted(set(used(symtable.symtable(source, "reward", "exec"))))

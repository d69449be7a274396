"""Every setting of ``ullage serve`` as a commented TOML file, from what :mod:`scheduler.settings` says of it."""

from __future__ import annotations

import ast
import inspect
import json
import textwrap
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from typing import Any

from scheduler import settings as described
from scheduler.settings import Settings

WIDTH = 100


def settings_to_toml(settings: Settings) -> str:
    """``settings``, each with its meaning above it; :func:`scheduler.settings.read_settings` reads the text."""
    meanings = _meanings()
    lines = ["# Settings of `ullage serve`: what is left out has its default (`ullage serve --print-settings`)."]
    plain = [spec for spec in fields(settings) if not is_dataclass(getattr(settings, spec.name))]
    lines += _keys(settings, plain, meanings["Settings"])
    for spec in fields(settings):
        section = getattr(settings, spec.name)
        if is_dataclass(section):
            meaning = meanings[type(section).__name__]
            lines += ["", "", *_comment(meaning[""]), f"[{spec.name}]", *_keys(section, fields(section), meaning)]
    return "\n".join(lines) + "\n"


def _keys(section: Any, specs: Any, meanings: dict[str, str]) -> Iterator[str]:
    for spec in specs:
        rule = spec.metadata.get("rule")
        choices = f"One of {', '.join(rule.choices)}." if rule and rule.choices else ""
        yield ""
        yield from _comment(f"{meanings.get(spec.name, '')} {choices}".strip())
        value = json.dumps(getattr(section, spec.name), ensure_ascii=False)
        yield f"{spec.name} = {value}".replace("\x7f", r"\u007f")  # JSON may hold it bare, TOML may not


def _comment(text: str) -> list[str]:
    return textwrap.wrap(text.replace("``", "`"), WIDTH, initial_indent="# ", subsequent_indent="# ")


def _meanings() -> dict[str, dict[str, str]]:
    """Class → setting → the text below its definition; under ``""`` that of the class."""
    found: dict[str, dict[str, str]] = {}
    for node in ast.parse(inspect.getsource(described)).body:
        if isinstance(node, ast.ClassDef):
            texts = found[node.name] = {"": ast.get_docstring(node) or ""}
            for before, after in zip(node.body, node.body[1:], strict=False):
                match before, after:
                    case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=str(text))):
                        texts[name] = inspect.cleandoc(text)
    return found

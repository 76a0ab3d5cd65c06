"""The keys that `--set` knows, read from source text: importing the classes would cost the shell seconds for torch.

An options class is a class body of annotated names, each with a string literal below it that says what it does.
"""

from __future__ import annotations

import ast
import importlib.util
from collections.abc import Iterator
from functools import cache
from itertools import zip_longest
from pathlib import Path
from typing import NamedTuple

OPEN_KEYS = ("strategy_options", "backbone_options", "dataset_options", "tracker_options")
"""Fields of a run that hold the options of plugins."""


class Field(NamedTuple):
    """An option in source text, and the module that its annotation is read in."""

    module: str
    name: str
    annotation: str
    description: str

    @property
    def word(self) -> str:
        """Type and meaning, for the list that a shell shows."""
        return f"{self.annotation}: {self.description}" if self.description else self.annotation


class Class(NamedTuple):
    """A class in source text, and the module it stands in."""

    module: str
    node: ast.ClassDef


def core_keys() -> dict[str, str]:
    """The keys of a run beside its plugins' options, dotted ("train.lr") -> type and meaning."""
    found = {key: word for name in ("Experiment", "Machine") for key, word in _named("ssldet.config", name).items()}
    return {key: word for key, word in found.items() if key not in OPEN_KEYS}


def plugin_keys(kind: str, target: str) -> dict[str, str]:
    """The options of the plugin at "module:Class" -> type and meaning. Empty where its source does not say."""
    module, _, name = target.partition(":")
    found = find(module, name)
    return _config_keys(found) if found else {}


def find(module: str, name: str) -> Class | None:
    """A class by its name in a module, or where that module imports it from."""
    for node in _statements(module):
        if isinstance(node, ast.ClassDef) and node.name == name:
            return Class(module, node)
        if isinstance(node, ast.ImportFrom):
            for alias in node.names:
                if (alias.asname or alias.name) == name:
                    return find(_absolute(module, node), alias.name)
    return None


def _absolute(module: str, node: ast.ImportFrom) -> str:
    """The module that an import statement in `module` names."""
    path = _source(module)
    package = module if path and path.name == "__init__.py" else module.rpartition(".")[0]
    return importlib.util.resolve_name("." * node.level + (node.module or ""), package)


@cache
def _statements(module: str) -> list[ast.stmt]:
    """The source of a module, before it what the stub of a package says that it hands out."""
    path = _source(module)
    paths = [path.with_suffix(".pyi"), path] if path else []
    return [node for path in paths if path.is_file() for node in ast.parse(path.read_text(encoding="utf-8")).body]


def _source(module: str) -> Path | None:
    """The file of a module, found without importing it or a package around it."""
    top, *below = module.split(".")
    spec = importlib.util.find_spec(top)
    if spec is None or not spec.origin:
        return None
    for folder in spec.submodule_search_locations or ():
        stem = Path(folder, *below)
        for path in (stem / "__init__.py", stem.with_suffix(".py")):
            if path.is_file():
                return path
    return Path(spec.origin) if not below else None


def _named(module: str, name: str) -> dict[str, str]:
    """The keys of the options class that a name stands for in a module; none where it is no such class."""
    found = find(module, name) if name.isidentifier() else None
    return _keys(found) if found else {}


def _keys(of: Class) -> dict[str, str]:
    """The fields of an options class and of the options classes that are its fields."""
    keys: dict[str, str] = {}
    for field in _fields(of):
        inner = _named(field.module, field.annotation)
        keys |= {f"{field.name}.{key}": word for key, word in inner.items()} or {field.name: field.word}
    return keys


def _fields(of: Class) -> Iterator[Field]:
    """Each field, those of base classes first."""
    for base in _bases(of):
        yield from _fields(base)
    for node, below in zip_longest(of.node.body, of.node.body[1:]):
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            annotation = ast.unparse(node.annotation)
            if not annotation.startswith("ClassVar"):
                yield Field(of.module, node.target.id, annotation, _text(below))


def _text(node: ast.stmt | None) -> str:
    """A string literal that stands alone, in one line."""
    if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
        return " ".join(node.value.value.split())
    return ""


def _bases(of: Class) -> list[Class]:
    names = [base.id for base in of.node.bases if isinstance(base, ast.Name)]
    return [found for name in names if (found := find(of.module, name))]


def _config_keys(plugin: Class) -> dict[str, str]:
    """The fields of a plugin's Config: a class inside it, or one that is named there, or a base's."""
    for node in plugin.node.body:
        if isinstance(node, ast.ClassDef) and node.name == "Config":
            return _keys(Class(plugin.module, node))
        if isinstance(node, ast.Assign | ast.AnnAssign) and isinstance(node.value, ast.Name):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            if any(isinstance(target, ast.Name) and target.id == "Config" for target in targets):
                return _named(plugin.module, node.value.id)
    return next((keys for base in _bases(plugin) if (keys := _config_keys(base))), {})

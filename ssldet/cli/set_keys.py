"""The keys that `--set` knows, read from source text: importing the classes would cost the shell seconds for torch.

An options class is a class body of annotated names; a data set's options are the keywords of its `__init__`.
"""

from __future__ import annotations

import ast
import importlib.util
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

OPEN_KEYS = ("strategy_options", "backbone_options", "dataset_options")
"""Fields of an experiment that hold the options of plugins."""


class Class(NamedTuple):
    """A class in source text, and the module it stands in."""

    module: str
    node: ast.ClassDef


def core_keys() -> dict[str, str]:
    """The keys of a run beside its plugins' options, dotted ("train.lr") -> type."""
    found = {key: word for name in ("Experiment", "Machine") for key, word in _keys("ssldet.config", name).items()}
    return {key: word for key, word in found.items() if key not in OPEN_KEYS}


def plugin_keys(kind: str, target: str) -> dict[str, str]:
    """The options of the plugin at "module:Class" -> type. Empty where they cannot be told from its source."""
    module, _, name = target.partition(":")
    found = find(module, name)
    if found is None:
        return {}
    return _keywords(found) if kind == "dataset" else _config_keys(found)


def find(module: str, name: str) -> Class | None:
    """A class by its name in a module, or where that module imports it from."""
    tree = _tree(module)
    for node in tree.body if tree else ():
        if isinstance(node, ast.ClassDef) and node.name == name:
            return Class(module, node)
        if isinstance(node, ast.ImportFrom) and not node.level and node.module:
            for alias in node.names:
                if (alias.asname or alias.name) == name:
                    return find(node.module, alias.name)
    return None


@cache
def _tree(module: str) -> ast.Module | None:
    path = _source(module)
    return ast.parse(path.read_text(encoding="utf-8")) if path else None


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


def _keys(module: str, name: str) -> dict[str, str]:
    """The fields of an options class and of the options classes that are its fields."""
    found = find(module, name)
    keys: dict[str, str] = {}
    for field, annotation in _fields(found) if found else ():
        inner = _keys(found.module, annotation) if found and annotation.isidentifier() else {}
        keys |= {f"{field}.{key}": word for key, word in inner.items()} or {field: annotation}
    return keys


def _fields(of: Class) -> Iterator[tuple[str, str]]:
    """(name, annotation) of each field, those of base classes first."""
    for base in _bases(of):
        yield from _fields(base)
    for node in of.node.body:
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            annotation = ast.unparse(node.annotation)
            if not annotation.startswith("ClassVar"):
                yield node.target.id, annotation


def _bases(of: Class) -> list[Class]:
    names = [base.id for base in of.node.bases if isinstance(base, ast.Name)]
    return [found for name in names if (found := find(of.module, name))]


def _config_keys(plugin: Class) -> dict[str, str]:
    """The fields of a plugin's Config: a class inside it, or one that is named there, or a base's."""
    for node in plugin.node.body:
        if isinstance(node, ast.ClassDef) and node.name == "Config":
            return dict(_fields(Class(plugin.module, node)))
        if isinstance(node, ast.Assign | ast.AnnAssign) and isinstance(node.value, ast.Name):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            if any(isinstance(target, ast.Name) and target.id == "Config" for target in targets):
                return _keys(plugin.module, node.value.id)
    return next((keys for base in _bases(plugin) if (keys := _config_keys(base))), {})


def _keywords(dataset: Class) -> dict[str, str]:
    for node in dataset.node.body:
        if isinstance(node, ast.FunctionDef) and node.name == "__init__":
            arguments = [*node.args.args, *node.args.kwonlyargs]
            return {
                one.arg: ast.unparse(one.annotation) if one.annotation else ""
                for one in arguments
                if one.arg not in ("self", "root")
            }
    return next((keys for base in _bases(dataset) if (keys := _keywords(base))), {})

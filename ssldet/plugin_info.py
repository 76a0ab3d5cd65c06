"""What can be said of an installed plugin: where it comes from, its options, facts and protocols."""

from __future__ import annotations

import dataclasses
import inspect
import os
import re
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from types import NoneType, UnionType
from typing import Annotated, Any, Union, get_args, get_origin

from ssldet import plugins
from ssldet.errors import RequestError, UnknownName

AT_ONCE = min(4, os.cpu_count() or 1)
"""Processes that import plugins at a time."""


def installed() -> list[plugins.PluginInfo]:
    """The installed plugins of all kinds."""
    return [plugin for kind in plugins.KINDS for plugin in plugins.available(kind)]


@dataclass(frozen=True, slots=True)
class PluginListing:
    """The installed plugins.

    Attributes:
        rows: of each plugin the fields of its `PluginInfo`, `duplicate` (another one has its name) and, where they
            were checked, the fields of its `Check`.
        faults: all that is wrong, each once.
        broken: whether a check found one that cannot be used.
    """

    rows: list[dict[str, Any]]
    faults: list[str]
    broken: bool


def listing(timeout: float | None = None) -> PluginListing:
    """List the plugins of all kinds, from installed metadata.

    Args:
        timeout: seconds in which each is imported, in a process of its own; None imports none.
    """
    found, faults = installed(), [str(fault) for fault in plugins.faults()]
    offers = plugins.offers_by_name(found)
    rows = [dataclasses.asdict(one) | {"duplicate": len(offers[one.kind, one.name]) > 1} for one in found]
    if timeout is None:
        return PluginListing(rows, list(dict.fromkeys(faults)), broken=False)
    with ThreadPoolExecutor(AT_ONCE) as pool:
        checks = list(pool.map(lambda plugin: plugins.check(plugin, timeout), found))
    rows = [row | dataclasses.asdict(one) for row, one in zip(rows, checks, strict=True)]
    broken = bool(faults) or any(one.status == "broken" for one in checks)
    return PluginListing(rows, list(dict.fromkeys([*faults, *(one.reason for one in checks if one.reason)])), broken)


def choose(name: str, kind: str | None) -> plugins.PluginInfo:
    """The one plugin of a name.

    Raises:
        UnknownName: there is none. RequestError: several kinds have one of that name, and `kind` is None.
    """
    known = [plugin for plugin in installed() if kind in (None, plugin.kind)]
    found = {plugin.kind: plugin for plugin in known if plugin.name == name}
    if not found:
        raise UnknownName(kind or "plugin", name, {plugin.name for plugin in known})
    if len(found) > 1:
        raise RequestError(f"{name!r} is the name of a {' and of a '.join(found)}; say which with --kind")
    return next(iter(found.values()))


def describe(plugin: plugins.PluginInfo, *, measure: bool = False) -> dict[str, Any]:
    """All that installed metadata and the contract know of a plugin. Imports it.

    Args:
        plugin: which one.
        measure: whether a backbone measures its speed too.

    Raises:
        PluginError: it cannot be used.
    """
    found = plugins.load(plugin.kind, plugin.name)
    text = inspect.getdoc(found) or ""
    around = inspect.getdoc(sys.modules[found.__module__]) or ""
    method = around if plugin.kind == "strategy" else ""
    content = {
        "kind": plugin.kind,
        "name": plugin.name,
        "distribution": f"{plugin.distribution} {plugin.version}",
        "ssldet": plugin.requires or "any",
        "target": plugin.target,
        "description": text,
        "method": method,
        "sources": sources(f"{around}\n{text}"),
    }
    content |= _OF_KIND.get(plugin.kind, _of_configured)(found)
    return content | (_tables(found, measure=measure) if plugin.kind == "backbone" else {})


def sources(text: str) -> list[str]:
    """The papers that a docstring names: arXiv numbers, DOIs and "Name et al. 2017"."""
    patterns = (r"arXiv[:\s]\s*\d{4}\.\d{4,5}", r"doi:\s*10\.\S+[^\s.,;)]", r"[A-Z]\w+ et al\.,? \(?\d{4}\)?")
    named = [" ".join(found.split()) for pattern in patterns for found in re.findall(pattern, text)]
    return list(dict.fromkeys(named))


def _of_configured(found: type[Any]) -> dict[str, Any]:
    """Options, and what a strategy asks of the core by default or what a backbone is made of."""
    content: dict[str, Any] = {"options": _options(found.Config)}
    if hasattr(found, "stride"):
        return content | {"stride": f"{found.stride} pixels a cell", "parts": dict(found.parts)}
    try:
        return content | {"needs": dataclasses.asdict(found(found.Config()).needs)}
    except Exception as error:  # options without a default, or anything else that a plugin may do
        return content | {"needs": f"not known without options ({type(error).__name__})"}


def _tables(found: type[Any], *, measure: bool) -> dict[str, Any]:
    """What a backbone says of itself, under its default options."""
    try:
        tables = found(found.Config()).describe(measure=measure)
    except Exception as error:  # as above
        return {"tables": f"not known ({type(error).__name__}: {error})"}
    return {heading: [dict(row) for row in rows] for heading, rows in tables.items()}


def _options(config: type[Any], prefix: str = "") -> list[dict[str, Any]]:
    """Name, type, default, bounds and meaning of each option; of options within one, its own as "region.form"."""
    docs = plugins.option_docs(config)
    rows = []
    for name, field in config.model_fields.items():
        default = None if field.is_required() else field.get_default(call_default_factory=True)
        if hasattr(type(default), "model_fields"):  # options too; pydantic is slow to import
            rows += _options(type(default), f"{prefix}{name}.")
            continue
        rows.append(
            {
                "option": prefix + name,
                "type": _type_name(field.annotation),
                "default": "(needed)" if field.is_required() else str(default),
                "bounds": ", ".join(_bound(rule) for rule in field.metadata),
                "meaning": docs.get(name, ""),
            }
        )
    return rows


def _type_name(annotation: Any) -> str:
    """As it is written; a part of a union with its own bounds, such as "bool | int >= 0"."""
    if annotation is NoneType:
        return "None"
    if get_origin(annotation) is Annotated:
        part, *rules = get_args(annotation)
        inner = [each for rule in rules for each in getattr(rule, "metadata", [rule])]
        return " ".join([_type_name(part), ", ".join(map(_bound, inner))]).strip()
    if get_origin(annotation) in (Union, UnionType):
        return " | ".join(map(_type_name, get_args(annotation)))
    return annotation.__name__ if inspect.isclass(annotation) else str(annotation).replace("typing.", "")


def _bound(rule: Any) -> str:
    """Ge(ge=0) -> ">= 0"."""
    signs = {"ge": ">=", "gt": ">", "le": "<=", "lt": "<", "multiple_of": "multiple of"}
    return next((f"{sign} {getattr(rule, name):g}" for name, sign in signs.items() if hasattr(rule, name)), str(rule))


def _of_dataset(found: type[Any]) -> dict[str, Any]:
    facts = found.facts
    return {
        "classes": list(facts.classes),
        "labels": "several a box" if facts.multilabel else "one a box",
        "evaluated": "all" if facts.evaluated is None else [facts.classes[label] for label in facts.evaluated],
        "numbering": f"files count from {facts.numbering.first}, one every {facts.numbering.step} frames",
        "anchors": [f"{width:g} x {height:g}" for width, height in facts.anchors],
        "splits": list(found.splits),
        "ratio": f"{facts.default_ratio:g} where a run names none",
        "options": _options(found.Config),
        "guide": found.guide(),
    }


def _of_metric(found: type[Any]) -> dict[str, Any]:
    return {"protocols": list(found.protocols), "columns": dict(found.columns)}


def _of_executor(found: type[Any]) -> dict[str, Any]:
    tasks = "go on without the command" if found.outlives else "end with the command"
    return {"tasks": tasks, "options": _options(found.Config)}


def _of_tracker(found: type[Any]) -> dict[str, Any]:
    return {"options": _options(found.Config)}


_OF_KIND = {"dataset": _of_dataset, "metric": _of_metric, "executor": _of_executor, "tracker": _of_tracker}

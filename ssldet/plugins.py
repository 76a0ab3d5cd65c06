"""Lazy discovery of plugins: what is installed, without importing it; and one plugin's class, when it is used.

A plugin is an entry point of a group in `GROUPS`. Listing reads installed metadata only. A broken plugin is
an error when it is used and nobody's concern before that; with SSLDET_STRICT_PLUGINS=1 any fault of any
plugin is an error at once.
"""

from __future__ import annotations

import importlib
import inspect
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import Distribution, EntryPoint, distributions
from typing import Any

from ssldet.errors import PluginError, UnknownName

GROUPS = {
    "dataset": "ssldet.datasets",
    "backbone": "ssldet.backbones",
    "strategy": "ssldet.strategies",
    "metric": "ssldet.metrics",
}
"""Kind of plugin -> its entry-point group."""

KINDS = tuple(GROUPS)

STRICT_VARIABLE = "SSLDET_STRICT_PLUGINS"


@dataclass(frozen=True, slots=True, order=True)
class PluginInfo:
    """What the installed metadata says of one plugin; `target` is "module:Class"."""

    kind: str
    name: str
    target: str
    distribution: str
    version: str

    def __str__(self) -> str:
        return f"{self.kind} {self.name!r} of {self.distribution} {self.version}"


@dataclass(frozen=True, slots=True)
class Fault:
    """Something wrong with a plugin, or with the metadata of a whole distribution."""

    distribution: str
    reason: str

    def __str__(self) -> str:
        return f"{self.distribution}: {self.reason}"


def available(kind: str) -> list[PluginInfo]:
    """The plugins of a kind, ordered by name, nothing imported. A name given twice is listed twice.

    Raises:
        UnknownName: there is no such kind.
        PluginError: in strict mode, when installed metadata cannot be read or a name is given twice.
    """
    if kind not in GROUPS:
        raise UnknownName("kind of plugin", kind, KINDS)
    plugins, unreadable = _scan()
    if strict() and (found := unreadable + _duplicates(plugins)):
        raise PluginError("; ".join(map(str, found)))
    return [plugin for plugin in plugins if plugin.kind == kind]


def names(kind: str) -> list[str]:
    """The names of a kind, sorted, each once."""
    return sorted({plugin.name for plugin in available(kind)})


def load(kind: str, name: str) -> type[Any]:
    """The class of one plugin; imports its module and no other.

    Raises:
        UnknownName: no distribution offers the name; says what exists.
        PluginError: the plugin is broken, offered by two distributions, or written for another API.
    """
    plugins = available(kind)
    if strict():
        _refuse_any_fault()
    offers = [plugin for plugin in plugins if plugin.name == name]
    if not offers:
        raise UnknownName(kind, name, {plugin.name for plugin in plugins})
    if len(offers) > 1:
        raise PluginError(_duplicate_reason(offers))
    return _load(offers[0])


def faults(*, imports: bool = False) -> list[Fault]:
    """All that is wrong with the installed plugins; `imports` also imports each of them to find out."""
    plugins, found = _scan()
    found += _duplicates(plugins)
    for plugin in plugins if imports else ():
        try:
            _load(plugin)
        except PluginError as error:
            found.append(Fault(plugin.distribution, str(error)))
    return found


def strict() -> bool:
    """Whether any fault of any plugin is an error."""
    return os.environ.get(STRICT_VARIABLE, "") not in ("", "0")


def _scan() -> tuple[list[PluginInfo], list[Fault]]:
    """All plugins in order, and the distributions whose entry points cannot be read."""
    plugins: set[PluginInfo] = set()
    found: list[Fault] = []
    for name, distribution in _offering_distributions():
        try:
            plugins.update(_plugins_of(name, distribution))
        except Exception as error:  # metadata is written by others, in any shape
            found.append(Fault(name, f"its entry points cannot be read ({type(error).__name__}: {error})"))
    return sorted(plugins), found


def _offering_distributions() -> Iterator[tuple[str, Distribution]]:
    """Distributions that name one of our groups, each once, as an import would find them.

    Reading entry_points.txt is cheap and parsing METADATA is not, so the names of the others are never asked
    for. An editable install can be listed twice (its .dist-info and the .egg-info in its source tree).
    """
    seen = set()
    for distribution in distributions():
        text = distribution.read_text("entry_points.txt") or ""
        if not any(group in text for group in GROUPS.values()):
            continue
        name = _name(distribution)
        if (key := re.sub(r"[-_.]+", "-", name).lower()) not in seen:
            seen.add(key)
            yield name, distribution


def _name(distribution: Distribution) -> str:
    return distribution.metadata["Name"] or "(a distribution without a name)"


def _plugins_of(distribution_name: str, distribution: Distribution) -> list[PluginInfo]:
    kinds = {group: kind for kind, group in GROUPS.items()}
    version = distribution.metadata["Version"] or "unknown"
    return [
        PluginInfo(kinds[point.group], point.name, point.value, distribution_name, version)
        for point in distribution.entry_points
        if point.group in kinds
    ]


def _duplicates(plugins: list[PluginInfo]) -> list[Fault]:
    offers: dict[tuple[str, str], list[PluginInfo]] = {}
    for plugin in plugins:
        offers.setdefault((plugin.kind, plugin.name), []).append(plugin)
    several = [group for group in offers.values() if len(group) > 1]
    return [Fault(plugin.distribution, _duplicate_reason(group)) for group in several for plugin in group]


def _duplicate_reason(offers: list[PluginInfo]) -> str:
    who = " and ".join(f"{plugin.distribution} {plugin.version} ({plugin.target})" for plugin in offers)
    return f"{offers[0].kind} {offers[0].name!r} is offered by {who}; uninstall one of them"


def _refuse_any_fault() -> None:
    if found := faults(imports=True):
        raise PluginError("; ".join(map(str, found)))


def _load(plugin: PluginInfo) -> type[Any]:
    found = _import(plugin)
    if reason := _misfit(plugin.kind, found):
        raise PluginError(f"{plugin} cannot be used: {plugin.target} {reason}")
    return found


def _import(plugin: PluginInfo) -> Any:
    """The object that the entry point names."""
    match = EntryPoint.pattern.match(plugin.target)
    if not match or not match["attr"]:
        raise PluginError(f"{plugin} cannot be used: its target {plugin.target!r} is not of the form module:Class")
    try:
        found: Any = importlib.import_module(match["module"])
    except (Exception, SystemExit) as error:  # a plugin's module may do anything
        raise PluginError(f"{plugin} does not import: {type(error).__name__}: {error}") from error
    for part in match["attr"].split("."):
        if not hasattr(found, part):
            raise PluginError(f"{plugin} cannot be used: module {match['module']!r} has no {match['attr']!r}")
        found = getattr(found, part)
    return found


def _misfit(kind: str, found: Any) -> str | None:
    """Why an object is not a plugin of a kind; None when it is one."""
    from ssldet import contracts

    base = getattr(contracts, kind.capitalize())
    written_for = str(getattr(found, "api_version", contracts.API_VERSION))
    if written_for.split(".")[0] != contracts.API_VERSION.split(".")[0]:
        return f"is written for API {written_for}, and this is API {contracts.API_VERSION}"
    if not (inspect.isclass(found) and issubclass(found, base)):
        return f"is not a class derived from ssldet.contracts.{base.__name__}"
    if missing := sorted(getattr(found, "__abstractmethods__", ())):
        return f"lacks {', '.join(missing)}"
    return None

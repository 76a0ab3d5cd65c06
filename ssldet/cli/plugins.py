"""`ssldet plugins`: what plugins are installed, whether they work, and how to write and test one."""

from __future__ import annotations

import dataclasses
import inspect
import os
import re
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import click

from ssldet import plugins
from ssldet.cli.completion import quietly
from ssldet.cli.options import json_flag
from ssldet.cli.output import aligned, print_json
from ssldet.errors import RequestError, UnknownName

KIND = click.Choice(plugins.KINDS)
STDERR = 2
AT_ONCE = min(4, os.cpu_count() or 1)
"""Processes of `list --check`."""


@click.group(epilog="Example: ssldet plugins list")
def command() -> None:
    """List, check, make and test plugins."""


def _installed() -> list[plugins.PluginInfo]:
    return [plugin for kind in plugins.KINDS for plugin in plugins.available(kind)]


@quietly
def complete_name(context: click.Context) -> list[tuple[str, str]]:
    """The names of installed plugins, each with its kinds."""
    kinds: dict[str, list[str]] = {}
    for plugin in _installed():
        kinds.setdefault(plugin.name, []).append(plugin.kind)
    return [(name, ", ".join(of)) for name, of in sorted(kinds.items())]


def choose(name: str, kind: str | None) -> plugins.PluginInfo:
    """The one plugin of a name.

    Raises:
        UnknownName: there is none. RequestError: several kinds have one of that name, and `kind` is None.
    """
    known = [plugin for plugin in _installed() if kind in (None, plugin.kind)]
    found = {plugin.kind: plugin for plugin in known if plugin.name == name}
    if not found:
        raise UnknownName(kind or "plugin", name, {plugin.name for plugin in known})
    if len(found) > 1:
        raise RequestError(f"{name!r} is the name of a {' and of a '.join(found)}; say which with --kind")
    return next(iter(found.values()))


# ------------------------------------------------------------------------------------------------------ list


@command.command("list", epilog="Example: ssldet plugins list --check")
@click.option("--check", is_flag=True, help="Import each plugin in a process of its own.")
@click.option("--timeout", default=20.0, show_default=True, type=click.FloatRange(0.1), help="Seconds that each has.")
@json_flag
def list_plugins(check: bool, timeout: float, as_json: bool) -> None:
    """List plugins of every kind from installed metadata, importing none; faults go to stderr.

    With --check each is imported in a process of its own: ok, slow (it works, after more than 5 s) or broken. Exit
    code 1 when one is broken.
    """
    found, faults = _installed(), [str(fault) for fault in plugins.faults()]
    offers = plugins.offers_by_name(found)
    rows = [dataclasses.asdict(one) | {"duplicate": len(offers[one.kind, one.name]) > 1} for one in found]
    broken = bool(check and faults)
    if check:
        with ThreadPoolExecutor(AT_ONCE) as pool:
            checks = list(pool.map(lambda plugin: plugins.check(plugin, timeout), found))
        rows = [row | dataclasses.asdict(one) for row, one in zip(rows, checks, strict=True)]
        faults += [one.reason for one in checks if one.reason]
        broken = broken or any(one.status == "broken" for one in checks)
    _show_list(rows, as_json)
    for fault in dict.fromkeys(faults):
        click.echo(f"fault: {fault}", err=True)
    if broken:
        sys.exit(1)


def _show_list(rows: Sequence[Mapping[str, Any]], as_json: bool) -> None:
    if as_json:
        print_json(rows)
        return
    checked = any("status" in row for row in rows)
    heading = ("KIND", "NAME", "DISTRIBUTION", "VERSION", "SSLDET", "STATUS" if checked else "TARGET")
    cells = [
        (
            row["kind"],
            row["name"] + (" (duplicate)" if row["duplicate"] else ""),
            row["distribution"],
            row["version"],
            row["requires"] or "any",
            row["status"] if checked else row["target"],
        )
        for row in rows
    ]
    if sys.stdout.isatty():
        _print_rich(heading, cells)
    else:
        click.echo(aligned([heading, *cells]))


def _print_rich(heading: Sequence[str], cells: Sequence[Sequence[str]]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(*(title.lower() for title in heading), box=None)
    for row in cells:
        style = {"broken": "red", "slow": "yellow", "ok": "green"}.get(row[-1], "")
        table.add_row(*(Text(cell) for cell in row[:-1]), Text(row[-1], style))
    Console().print(table)


# ------------------------------------------------------------------------------------------------------ show


@command.command("show", epilog="Example: ssldet plugins show dual_guidance")
@click.argument("name", shell_complete=complete_name)
@click.option("--kind", type=KIND, help="Needed where plugins of several kinds have the name.")
@json_flag
def show(name: str, kind: str | None, as_json: bool) -> None:
    """Show what the contract knows of a plugin: its options, facts, protocols, and where it comes from."""
    content = describe(choose(name, kind))
    if as_json:
        print_json(content)
        return
    for key, value in content.items():
        for line in _lines(key, value):
            click.echo(line)


def _lines(key: str, value: Any) -> list[str]:
    """A piece of a description as lines for people; nothing where there is nothing to say."""
    if isinstance(value, list) and value and isinstance(value[0], dict):
        rows = [tuple(value[0]), *(tuple("" if cell is None else str(cell) for cell in row.values()) for row in value)]
        return [f"{key}:", *(f"  {line}" for line in aligned(rows).splitlines())]
    if isinstance(value, dict):
        return [f"{key}:", *(f"  {name}: {_plain(inner)}" for name, inner in value.items())] if value else []
    text = _plain(value).splitlines()
    return [f"{key}: {text[0]}", *(f"  {line}".rstrip() for line in text[1:])] if text else []


def _plain(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(map(_plain, value))
    return "" if value is None else str(value)


def describe(plugin: plugins.PluginInfo) -> dict[str, Any]:
    """All that installed metadata and the contract know of a plugin. Imports it.

    Raises:
        PluginError: it cannot be used.
    """
    found = plugins.load(plugin.kind, plugin.name)
    text = inspect.getdoc(found) or ""
    around = inspect.getdoc(sys.modules[found.__module__]) or ""
    content = {
        "kind": plugin.kind,
        "name": plugin.name,
        "distribution": f"{plugin.distribution} {plugin.version}",
        "ssldet": plugin.requires or "any",
        "target": plugin.target,
        "description": text,
        "sources": sources(f"{around}\n{text}"),
    }
    return content | {"dataset": _of_dataset, "metric": _of_metric}.get(plugin.kind, _of_configured)(found)


def sources(text: str) -> list[str]:
    """The papers that a docstring names: arXiv numbers, DOIs and "Name et al. 2017"."""
    patterns = (r"arXiv[: ]\d{4}\.\d{4,5}", r"doi:\s*10\.\S+[^\s.,;)]", r"[A-Z]\w+ et al\.,? \(?\d{4}\)?")
    return [found for pattern in patterns for found in dict.fromkeys(re.findall(pattern, text))]


def _of_configured(found: type[Any]) -> dict[str, Any]:
    """Options, and what a strategy asks of the core by default or what a backbone is made of."""
    content: dict[str, Any] = {"options": _options(found.Config)}
    if hasattr(found, "stride"):
        return content | {"stride": f"{found.stride} pixels a cell", "parts": dict(found.parts)}
    try:
        return content | {"needs": dataclasses.asdict(found(found.Config()).needs)}
    except Exception as error:  # options without a default, or anything else that a plugin may do
        return content | {"needs": f"not known without options ({type(error).__name__})"}


def _options(config: type[Any]) -> list[dict[str, Any]]:
    """Name, type, default, bounds and meaning of each option."""
    docs = plugins.option_docs(config)
    return [
        {
            "option": name,
            "type": _type_name(field.annotation),
            "default": "(needed)" if field.is_required() else str(field.get_default(call_default_factory=True)),
            "bounds": ", ".join(_bound(rule) for rule in field.metadata),
            "meaning": docs.get(name, ""),
        }
        for name, field in config.model_fields.items()
    ]


def _type_name(annotation: Any) -> str:
    return annotation.__name__ if inspect.isclass(annotation) else str(annotation).replace("typing.", "")


def _bound(rule: Any) -> str:
    """Ge(ge=0) -> ">= 0"."""
    signs = {"ge": ">=", "gt": ">", "le": "<=", "lt": "<", "multiple_of": "multiple of"}
    return next((f"{sign} {getattr(rule, name):g}" for name, sign in signs.items() if hasattr(rule, name)), str(rule))


def _of_dataset(found: type[Any]) -> dict[str, Any]:
    facts = found.facts
    parameters = [one for name, one in inspect.signature(found).parameters.items() if name != "root"]
    return {
        "classes": list(facts.classes),
        "labels": "several a box" if facts.multilabel else "one a box",
        "evaluated": "all" if facts.evaluated is None else [facts.classes[label] for label in facts.evaluated],
        "numbering": f"files count from {facts.numbering.first}, one every {facts.numbering.step} frames",
        "anchors": [f"{width:g} x {height:g}" for width, height in facts.anchors],
        "splits": list(found.splits),
        "options": [
            {
                "option": one.name,
                "type": _type_name(one.annotation),
                "default": "(needed)" if one.default is one.empty else str(one.default),
            }
            for one in parameters
        ],
        "guide": found.guide(),
    }


def _of_metric(found: type[Any]) -> dict[str, Any]:
    return {"protocols": list(found.protocols), "columns": dict(found.columns)}


# ----------------------------------------------------------------------------------------------- new and test


@command.command("new", epilog="Example: ssldet plugins new strategy my_teacher && pip install ./my_teacher")
@click.argument("kind", type=KIND)
@click.argument("name")
@click.option("--folder", type=click.Path(path_type=Path), help="Where to write it.  [default: ./NAME]")
@json_flag
def new(kind: str, name: str, folder: Path | None, as_json: bool) -> None:
    """Write an installable package with a working plugin of KIND, its tests and a README."""
    from ssldet import scaffold

    place = folder or Path(name)
    written = [str(place / path) for path in scaffold.write(kind, name, place)]
    if as_json:
        print_json({"kind": kind, "name": name, "folder": str(place), "files": written})
    else:
        click.echo("\n".join(written))
    click.echo(
        f"next: pip install {place if place.is_absolute() else f'./{place}'} && ssldet plugins test {name}", err=True
    )


@command.command("test", epilog="Example: ssldet plugins test supervised")
@click.argument("name", shell_complete=complete_name)
@click.option("--kind", type=KIND, help="Needed where plugins of several kinds have the name.")
@json_flag
def test(name: str, kind: str | None, as_json: bool) -> None:
    """Hold an installed plugin to its contract, through pytest. Exit code 1 when it fails.

    With --json what pytest says goes to stderr.
    """
    from ssldet import testing

    chosen = choose(name, kind)
    plugins.load(chosen.kind, chosen.name)
    code = testing.run_pytest(chosen.kind, chosen.name, output=STDERR if as_json else None)
    if as_json:
        print_json({"kind": chosen.kind, "name": chosen.name, "passed": code == 0})
    sys.exit(code)

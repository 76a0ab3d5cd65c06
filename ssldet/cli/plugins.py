"""`ssldet plugins`: what plugins are installed, whether they work, and how to write and test one."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from ssldet import plugin_info, plugins
from ssldet.cli.completion import quietly
from ssldet.cli.options import json_flag
from ssldet.cli.output import aligned, next_step, print_json

KIND = click.Choice(plugins.KINDS)
STDERR = 2


@click.group(epilog="Example: ssldet plugins list")
def command() -> None:
    """List, check, make and test plugins."""


@quietly
def complete_name(context: click.Context) -> list[tuple[str, str]]:
    """The names of installed plugins, each with its kinds."""
    kinds: dict[str, list[str]] = {}
    for plugin in plugin_info.installed():
        kinds.setdefault(plugin.name, []).append(plugin.kind)
    return [(name, ", ".join(of)) for name, of in sorted(kinds.items())]


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
    found = plugin_info.listing(timeout if check else None)
    _show_list(found.rows, as_json)
    for fault in found.faults:
        click.echo(f"fault: {fault}", err=True)
    if not as_json:
        next_step(
            "`ssldet plugins show NAME` has the options of one, `ssldet plugins new KIND NAME` begins one of yours"
        )
    if found.broken:
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
@click.option("--measure", is_flag=True, help="Of a backbone: measure speed here too, which may take minutes.")
@json_flag
def show(name: str, kind: str | None, measure: bool, as_json: bool) -> None:
    """Show what the contract knows of a plugin: its options, facts, protocols, and where it comes from.

    Of a strategy that is also its method: the source, the equation, and every deviation from what was published.

    Of `yowo` that is every branch, with its parameters, billions of multiplications a clip of 16 x 224 x 224 (GMAC),
    and the licence and place of known weights.
    """
    content = plugin_info.describe(plugin_info.choose(name, kind), measure=measure)
    if as_json:
        print_json(content)
        return
    for key, value in content.items():
        for line in _lines(key, value):
            click.echo(line)
    next_step(f"`ssldet plugins test {name}` holds it to its contract")


def _lines(key: str, value: Any) -> list[str]:
    """A piece of a description as lines for people; nothing where there is nothing to say."""
    if isinstance(value, list) and value and isinstance(value[0], dict):
        rows = [tuple(value[0]), *(tuple(map(_cell, row.values())) for row in value)]
        return [f"{key}:", *(f"  {line}" for line in aligned(rows).splitlines())]
    if isinstance(value, dict):
        return [f"{key}:", *(f"  {name}: {_plain(inner)}" for name, inner in value.items())] if value else []
    text = _plain(value).splitlines()
    return [f"{key}: {text[0]}", *(f"  {line}".rstrip() for line in text[1:])] if text else []


def _cell(value: Any) -> str:
    if isinstance(value, int | float) and not isinstance(value, bool):
        return f"{value:,}"
    return " ".join(_plain(value).split())


def _plain(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(map(_plain, value))
    return "" if value is None else str(value)


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
    if not as_json:
        next_step(f"pip install {place if place.is_absolute() else f'./{place}'} && ssldet plugins test {name}")


@command.command("test", epilog="Example: ssldet plugins test supervised")
@click.argument("name", shell_complete=complete_name)
@click.option("--kind", type=KIND, help="Needed where plugins of several kinds have the name.")
@json_flag
def test(name: str, kind: str | None, as_json: bool) -> None:
    """Hold an installed plugin to its contract, through pytest. Exit code 1 when it fails.

    With --json what pytest says goes to stderr.
    """
    from ssldet import testing

    chosen = plugin_info.choose(name, kind)
    plugins.load(chosen.kind, chosen.name)
    code = testing.run_pytest(chosen.kind, chosen.name, output=STDERR if as_json else None)
    if as_json:
        print_json({"kind": chosen.kind, "name": chosen.name, "passed": code == 0})
    else:
        next_step("mend what failed, then the same command" if code else f"`ssldet plugins show {name}` has options")
    sys.exit(code)

"""`ssldet plugins`: what plugins are installed."""

from __future__ import annotations

import dataclasses
import json

import click

from ssldet import plugins


@click.group()
def command() -> None:
    """Show what plugins are installed."""


@command.command("list")
@click.option("--json", "as_json", is_flag=True, help="Print a JSON list instead of a table.")
def list_plugins(as_json: bool) -> None:
    """List plugins of every kind from installed metadata, importing none; faults go to stderr.

    Example: ssldet plugins list
    """
    found = [plugin for kind in plugins.KINDS for plugin in plugins.available(kind)]
    if as_json:
        click.echo(json.dumps([dataclasses.asdict(plugin) for plugin in found], indent=2))
    else:
        click.echo(table(found))
    for fault in plugins.faults():
        click.echo(f"fault: {fault}", err=True)


def table(found: list[plugins.PluginInfo]) -> str:
    """The plugins as aligned columns under a heading."""
    rows = [("KIND", "NAME", "DISTRIBUTION", "VERSION", "TARGET")]
    rows += [(plugin.kind, plugin.name, plugin.distribution, plugin.version, plugin.target) for plugin in found]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    )

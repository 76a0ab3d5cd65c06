"""`ssldet cache`: what computed things are kept on this machine."""

from __future__ import annotations

import json

import click

from ssldet import cache
from ssldet.errors import RequestError


@click.group()
def command() -> None:
    """Show and remove decoded frames and indices; they are made again when needed."""


@command.command("list")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def list_entries(as_json: bool) -> None:
    """List what is kept, with its size.

    Example: ssldet cache list
    """
    found = cache.entries()
    if as_json:
        content = [{"name": entry.name, "bytes": entry.bytes} for entry in found]
        click.echo(json.dumps({"folder": str(cache.cache_root()), "entries": content}, indent=2))
        return
    for entry in found:
        click.echo(f"{megabytes(entry.bytes):>12}  {entry.name}")
    click.echo(f"{megabytes(sum(entry.bytes for entry in found)):>12}  in {cache.cache_root()}")


@command.command("clear")
@click.argument("names", nargs=-1)
@click.option("--yes", is_flag=True, help="Remove without asking.")
def clear(names: tuple[str, ...], yes: bool) -> None:
    """Remove what is kept: all of it, or what has one of NAMES in its name.

    Example: ssldet cache clear frames/jhmdb-112
    """
    found = cache.entries()
    chosen = [entry for entry in found if not names or any(name in entry.name for name in names)]
    if names and not chosen:
        raise RequestError(f"nothing of that name is cached; there is {', '.join(e.name for e in found) or 'nothing'}")
    size = megabytes(sum(entry.bytes for entry in chosen))
    if chosen and not yes:
        click.confirm(f"remove {len(chosen)} entries, {size}?", abort=True, err=True)
    cache.clear(chosen)
    click.echo(f"removed {len(chosen)} entries, {size}")


def megabytes(count: int) -> str:
    return f"{count / 1e6:,.1f} MB"

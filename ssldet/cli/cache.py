"""`ssldet cache`: what computed things are kept on this machine."""

from __future__ import annotations

import click

from ssldet.cli.completion import quietly
from ssldet.cli.options import json_flag, yes_flag
from ssldet.cli.output import confirm_removal, next_step, print_json
from ssldet.errors import RequestError
from ssldet.util import cache


@click.group(epilog="Example: ssldet cache list")
def command() -> None:
    """Show and remove decoded frames, indices and features; they are made again when needed."""


@command.command("list", epilog="Example: ssldet cache list")
@json_flag
def list_entries(as_json: bool) -> None:
    """List what is kept, with its size."""
    found = cache.entries()
    if as_json:
        print_json({"folder": str(cache.cache_root()), "entries": _as_json(found)})
        return
    for entry in found:
        click.echo(f"{megabytes(entry.bytes):>12}  {entry.name}")
    click.echo(f"{megabytes(sum(entry.bytes for entry in found)):>12}  in {cache.cache_root()}")
    next_step("`ssldet cache clear NAME` removes what has NAME in its name; it is made again when needed")


@command.command("clear", epilog="Example: ssldet cache clear frames/jhmdb-112")
@click.argument("names", nargs=-1, shell_complete=quietly(lambda context: [(e.name, "") for e in cache.entries()]))
@yes_flag
@json_flag
def clear(names: tuple[str, ...], yes: bool, as_json: bool) -> None:
    """Remove what is kept: all of it, or what has one of NAMES in its name."""
    found = cache.entries()
    chosen = [entry for entry in found if not names or any(name in entry.name for name in names)]
    if names and not chosen:
        known = ", ".join(entry.name for entry in found) or "nothing"
        raise RequestError(f"nothing that is cached has {' or '.join(names)} in its name; there is {known}")
    words = f"{len(chosen)} entries, {megabytes(sum(entry.bytes for entry in chosen))}"
    if chosen:
        confirm_removal(words, yes)
    cache.clear(chosen)
    if as_json:
        print_json({"folder": str(cache.cache_root()), "removed": _as_json(chosen)})
    else:
        click.echo(f"removed {words}")
        next_step("`ssldet data prepare` decodes frames again, or the next run does")


def _as_json(entries: list[cache.CacheEntry]) -> list[dict[str, str | int]]:
    return [{"name": entry.name, "bytes": entry.bytes} for entry in entries]


def megabytes(count: int) -> str:
    return f"{count / 1e6:,.1f} MB"

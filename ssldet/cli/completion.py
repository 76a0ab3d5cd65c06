"""What the shell completes: names of plugins, presets, tables, and keys of `--set`. Nothing heavy is imported.

Click asks these functions while the user types; whatever goes wrong, they offer less and say nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

Complete = Callable[[click.Context, click.Parameter, str], "list[CompletionItem]"]

SWITCH_ON = """\b
Completion: put one line into your shell's start-up file.
  bash  eval "$(_SSLDET_COMPLETE=bash_source ssldet)"
  zsh   eval "$(_SSLDET_COMPLETE=zsh_source ssldet)"
  fish  _SSLDET_COMPLETE=fish_source ssldet | source"""
"""How completion is switched on, for the end of help."""


def quietly(offered: Callable[[click.Context], Iterable[tuple[str, str]]]) -> Complete:
    """A completion from what gives (text, what it is) pairs: those that begin as typed, none where it fails."""

    def complete(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
        from click.shell_completion import CompletionItem

        items: list[CompletionItem] = []
        with suppress(Exception):  # a traceback between two key strokes helps nobody
            items += (CompletionItem(text, help=word) for text, word in offered(context) if text.startswith(incomplete))
        return items

    return complete


def complete_plugins(kind: str) -> Complete:
    """Names of installed plugins of a kind, each with its distribution."""

    def offered(context: click.Context) -> Iterable[tuple[str, str]]:
        from ssldet import plugins

        return {plugin.name: plugin.distribution for plugin in plugins.available(kind)}.items()

    return quietly(offered)


@quietly
def complete_presets(context: click.Context) -> Iterable[tuple[str, str]]:
    """Names of the presets."""
    return [(name, "") for name in _yaml_files("ssldet", "presets")]


@quietly
def complete_tables(context: click.Context) -> Iterable[tuple[str, str]]:
    """Numbers of the tables, the paper's and those beyond it; Table 1 is counted from data."""
    files = [*_yaml_files("ssldet.paper"), *_yaml_files("ssldet.beyond")]
    numbers = (name.removeprefix("table") for name in files if name.startswith("table"))
    return [(number, "") for number in ("1", *numbers)]


def _yaml_files(package: str, *below: str) -> list[str]:
    from importlib import resources

    folder = resources.files(package).joinpath(*below)
    return sorted(entry.name.removesuffix(".yaml") for entry in folder.iterdir() if entry.name.endswith(".yaml"))


def complete_settings(of: str) -> Complete:
    """Keys of `--set`, as "key=": of a whole run ("run"), or of one plugin of a kind, there without a prefix.

    The plugins are those named on the line so far; all installed ones where none is.
    """

    def offered(context: click.Context) -> Iterable[tuple[str, str]]:
        from ssldet import plugins
        from ssldet.cli import set_keys

        keys = dict(set_keys.core_keys()) if of == "run" else {}
        where = [kind for kind in ("executor", "tracker") if kind in context.params]
        kinds = ("strategy", "backbone", "dataset", *where)
        for kind in kinds if of == "run" else (of,):
            named = _named(context.params, kind)
            chosen = [plugin for plugin in plugins.available(kind) if not named or plugin.name == named]
            for plugin in chosen:
                found = set_keys.plugin_keys(kind, plugin.target)
                keys |= {(f"{kind}.{key}" if of == "run" else key): word for key, word in found.items()}
        return [(f"{key}=", word) for key, word in keys.items()]

    return quietly(offered)


def _named(params: Mapping[str, object], kind: str) -> str | None:
    """The plugin of a kind that the line names so far; verbs about data sets call it `name`."""
    found = params.get(kind) or (params.get("name") if kind == "dataset" else None)
    return found if isinstance(found, str) else None

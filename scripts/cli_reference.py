#!/usr/bin/env python
"""Print the reference of the command line, docs/cli.md, from the commands themselves.

.venv/bin/python scripts/cli_reference.py > docs/cli.md
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator

import click

from ssldet import cli

HEAD = """\
# Command line

This page is printed by `scripts/cli_reference.py` from the commands themselves.

{about}

Exit codes of every verb:

| code | meaning |
|---|---|
| 0 | done |
| 1 | failed: a run, a check or a plugin; what was asked for was understood and did not come out |
| 2 | the request cannot be carried out as given; nothing was changed |
| 130 | interrupted |

With `--json` a verb prints JSON on stdout and nothing else there. Colour and progress bars appear on a terminal only,
colour not where `NO_COLOR` is set. Of a wrong command line every mistake is named at once, before any work.

## Completion

The shell completes verbs, options, strategies, data sets, backbones, metrics, presets, run ids, tables and the keys of
`--set`, once one line is in its start-up file:

| shell | line |
|---|---|
| bash | `eval "$(_SSLDET_COMPLETE=bash_source ssldet)"` |
| zsh | `eval "$(_SSLDET_COMPLETE=zsh_source ssldet)"` |
| fish | `_SSLDET_COMPLETE=fish_source ssldet \\| source` |
"""


def page() -> str:
    """The whole page in Markdown."""
    context = cli.main.make_context("ssldet", [], resilient_parsing=True)
    about = " ".join((cli.main.help or "").split("\n")[0].split())
    parts = [HEAD.format(about=about)]
    for section in dict.fromkeys(verb.section for verb in cli.VERBS.values()):
        parts.append(f"\n## {section}\n")
        for name, verb in cli.VERBS.items():
            if verb.section == section:
                parts += _command(verb.command(), context, name)
    return "\n".join(parts).rstrip() + "\n"


def _command(command: click.Command, parent: click.Context, name: str) -> Iterator[str]:
    """The part of a command, and of those below it."""
    context = click.Context(command, info_name=name, parent=parent)
    yield f"### {context.command_path}\n"
    yield f"{_prose(command.help)}\n"
    if isinstance(command, click.Group):  # whose example is one of those below
        for below in command.list_commands(context):
            found = command.get_command(context, below)
            assert found
            yield from _command(found, context, below)
        return
    yield f"    {context.command_path} {' '.join(command.collect_usage_pieces(context))}\n"
    yield "| option | meaning |\n|---|---|"
    for option in command.params:
        if record := option.get_help_record(context):
            yield "| `{}` | {} |".format(*(_cell(text) for text in record))
    example = (command.epilog or "").removeprefix("Example: ")
    yield f"\nExample: `{example}`\n"


def _prose(text: str | None) -> str:
    """Help text with its paragraphs, each on one line."""
    return "\n\n".join(" ".join(paragraph.split()) for paragraph in inspect.cleandoc(text or "").split("\n\n"))


def _cell(text: str) -> str:
    """Text of a table's cell: a bar is no border, and [one] [other] no link."""
    return " ".join(text.replace("|", "\\|").split()).replace("] [", "; ")


if __name__ == "__main__":
    print(page(), end="")

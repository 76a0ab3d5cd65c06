"""The command line: one file per verb, imported when the verb is used, so that help and completion are quick."""

from __future__ import annotations

import errno
import importlib
import os
import sys
import traceback
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import click

from ssldet._version import __version__
from ssldet.cli.completion import SWITCH_ON
from ssldet.errors import PluginError, RequestError, SsldetError, did_you_mean

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem


@dataclass(frozen=True, slots=True)
class Verb:
    """Where a verb's click command lies ("module:attribute"), and what help says of it."""

    target: str
    help: str
    section: str

    def command(self) -> click.Command:
        """The command; imports its file."""
        module, attribute = self.target.split(":")
        command: click.Command = getattr(importlib.import_module(module), attribute)
        return command


VERBS = {
    "run": Verb("ssldet.cli.run:command", "Train a detector, score it and leave a record.", "Experiments"),
    "grid": Verb("ssldet.cli.grid:command", "Plan and run all cells of the paper's tables.", "Experiments"),
    "tune": Verb("ssldet.cli.tune:command", "Choose settings on validation videos, fairly.", "Experiments"),
    "evaluate": Verb("ssldet.cli.evaluate:command", "Score a detections file against the truth.", "Experiments"),
    "predict": Verb("ssldet.cli.predict:command", "Find actions in videos with a trained detector.", "Results"),
    "export": Verb("ssldet.cli.export:command", "Write a detector as TorchScript or ONNX.", "Results"),
    "table": Verb("ssldet.cli.table:command", "Print the paper's tables from records, theirs beside ours.", "Results"),
    "compare": Verb("ssldet.cli.compare:command", "Hold two runs, or seeds of two, against each other.", "Results"),
    "figure": Verb("ssldet.cli.figure:command", "Draw the paper's figures, or named runs.", "Results"),
    "report": Verb("ssldet.cli.report:command", "Write pages about all runs: leaderboard, curves, videos.", "Results"),
    "runs": Verb("ssldet.cli.runs:command", "List, show and remove runs.", "Results"),
    "data": Verb("ssldet.cli.data:command", "Find, check, count and prepare data sets.", "Data"),
    "split": Verb("ssldet.cli.split:command", "Make, show and check labelled / unlabelled splits.", "Data"),
    "cache": Verb("ssldet.cli.cache:command", "Show and remove decoded frames.", "Data"),
    "weights": Verb("ssldet.cli.weights:command", "Inspect, verify and convert weights files.", "Installation"),
    "plugins": Verb("ssldet.cli.plugins:command", "List, check, make and test plugins.", "Installation"),
    "doctor": Verb("ssldet.cli.doctor:command", "Describe this installation, for a bug report.", "Installation"),
}
"""The verbs in the order of help."""


class LazyGroup(click.Group):
    """A group whose commands come from a table and whose errors end as one line and an exit code."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        return VERBS[cmd_name].command() if cmd_name in VERBS else None

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        verb = args[0]
        if verb not in VERBS and not verb.startswith("-"):
            ctx.fail(f"no such command {verb!r}{did_you_mean(verb, VERBS)}")
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The table of verbs, section by section, from their one-line help here."""
        width = max(map(len, VERBS))
        for section in dict.fromkeys(verb.section for verb in VERBS.values()):
            rows = [(name.ljust(width), verb.help) for name, verb in VERBS.items() if verb.section == section]
            with formatter.section(section):
                formatter.write_dl(rows)

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """Verbs from the table, and this group's own options."""
        from click.shell_completion import CompletionItem

        verbs = [CompletionItem(name, help=verb.help) for name, verb in VERBS.items() if name.startswith(incomplete)]
        return verbs + click.Command.shell_complete(self, ctx, incomplete)

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except SsldetError as error:
            say_error(error)
            ctx.exit(error.exit_code)
        except (KeyboardInterrupt, click.Abort):  # the latter from a question that got no answer
            click.echo("interrupted", err=True)
            ctx.exit(130)
        except OSError as error:
            if error.errno == errno.EPIPE or error.filename is None:  # a closed pipe is click's, the rest a bug
                raise
            say_error(RequestError(f"{error.filename}: {error.strerror}"))
            ctx.exit(RequestError.exit_code)


def say_error(error: SsldetError) -> None:
    """Write an error to stderr, a line for each mistake; red on a terminal that has not asked for NO_COLOR.

    A plugin's own traceback comes first: it is what its author needs.
    """
    if isinstance(error, PluginError) and error.__cause__ is not None:
        traceback.print_exception(error.__cause__, file=sys.stderr)
    color = False if os.environ.get("NO_COLOR") else None
    lines = str(error).replace("\n", "\n       ")
    click.echo(f"{click.style('error:', fg='red')} {lines}", err=True, color=color)


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]}, epilog=SWITCH_ON)
@click.version_option(__version__, prog_name="ssldet")
def main() -> None:
    """Benchmarks for semi-supervised spatio-temporal action detection.

    \b
    Example: ssldet run --strategy supervised --dataset synthetic --ratio 0.2 --preset smoke

    Results go to stdout, messages to stderr. Exit codes: 0 done, 1 failed, 2 a request that cannot be carried
    out as given, 130 interrupted, 128 + its number after another signal.
    """
    # threads that wait for each other sleep: on a busy machine two that spin take many times as long as one
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # read when torch is imported, which no verb did yet

"""The conventions of the command line: help, errors, exit codes, and what stays unimported."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import click
import pytest
from click.testing import CliRunner, Result

from ssldet import __version__, cli, plugins
from ssldet.errors import ConfigError, PluginError, TrainingError


def ssldet(*arguments: str) -> Result:
    return CliRunner().invoke(cli.main, list(arguments))


@pytest.fixture
def failing(monkeypatch: pytest.MonkeyPatch) -> None:
    """A verb `fail` that raises what its argument names."""

    @click.command()
    @click.argument("kind")
    def command(kind: str) -> None:
        if kind == "plugin":
            try:
                raise ZeroDivisionError("inside the plugin")
            except ZeroDivisionError as error:
                raise PluginError("a plugin broke") from error
        raise {
            "config": ConfigError("ratio must be in (0, 1]"),
            "training": TrainingError("loss is not finite at step 3"),
            "interrupt": KeyboardInterrupt(),
            "bug": RuntimeError("a bug"),
        }[kind]

    monkeypatch.setattr(sys.modules[__name__], "fail_command", command, raising=False)
    monkeypatch.setitem(cli.VERBS, "fail", cli.Verb(f"{__name__}:fail_command", "Fail.", "Tests"))


@pytest.mark.parametrize(("before", "after"), [(None, "PASSIVE"), ("ACTIVE", "ACTIVE")])
def test_threads_that_wait_sleep_unless_the_user_says_otherwise(
    before: str | None, after: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a busy machine two threads that spin take many times as long as one."""
    monkeypatch.setenv("OMP_WAIT_POLICY", before or "")
    if before is None:
        monkeypatch.delenv("OMP_WAIT_POLICY")
    assert CliRunner().invoke(cli.main, ["cache", "list", "--json"]).exit_code == 0
    assert os.environ["OMP_WAIT_POLICY"] == after


def test_help_lists_the_verbs_by_section_and_imports_none() -> None:
    result = ssldet("--help")
    assert result.exit_code == 0
    assert result.output.index("Experiments:") < result.output.index("run  ") < result.output.index("Installation:")
    for verb in cli.VERBS.values():
        assert verb.help in result.output


@pytest.mark.parametrize("verb", cli.VERBS)
def test_every_verb_of_the_table_exists_and_has_help(verb: str) -> None:
    result = ssldet(verb, "--help")
    assert result.exit_code == 0, result.output
    assert f"Usage: main {verb}" in result.output


def test_version_is_the_one_of_the_package() -> None:
    assert ssldet("--version").output == f"ssldet, version {__version__}\n"


def test_an_unknown_verb_says_what_was_meant() -> None:
    result = ssldet("plugin")
    assert result.exit_code == 2
    assert "did you mean 'plugins'" in result.stderr
    assert not result.stdout


def test_an_unknown_option_says_what_was_meant() -> None:
    result = ssldet("plugins", "list", "--jsn")
    assert result.exit_code == 2
    assert "--json" in result.stderr


@pytest.mark.usefixtures("failing")
@pytest.mark.parametrize(
    ("kind", "code", "message"),
    [
        ("config", 2, "error: ratio must be in (0, 1]\n"),
        ("training", 1, "error: loss is not finite at step 3\n"),
        ("interrupt", 130, "interrupted\n"),
    ],
)
def test_errors_are_one_line_and_an_exit_code(kind: str, code: int, message: str) -> None:
    result = ssldet("fail", kind)
    assert (result.exit_code, result.stderr, result.stdout) == (code, message, "")


@pytest.mark.usefixtures("failing")
def test_a_broken_plugin_shows_its_own_traceback() -> None:
    result = ssldet("fail", "plugin")
    assert result.exit_code == 1
    assert "ZeroDivisionError: inside the plugin" in result.stderr
    assert result.stderr.endswith("error: a plugin broke\n")


@pytest.mark.usefixtures("failing")
def test_a_bug_keeps_its_traceback() -> None:
    assert isinstance(ssldet("fail", "bug").exception, RuntimeError)


@pytest.mark.skipif(not hasattr(os, "openpty"), reason="a terminal is made with openpty")
@pytest.mark.parametrize(("no_color", "expected"), [("", "\x1b[31merror:\x1b[0m"), ("1", "error: ")])
def test_colour_is_for_terminals_that_want_it(no_color: str, expected: str) -> None:
    code = "from ssldet.cli import say_error\nfrom ssldet.errors import ConfigError\nsay_error(ConfigError('bad'))"
    ours, theirs = os.openpty()
    environment = {**os.environ, "NO_COLOR": no_color, "TERM": "xterm"}
    subprocess.run([sys.executable, "-c", code], stderr=theirs, env=environment, check=True)
    os.close(theirs)
    written = os.read(ours, 1000).decode()
    os.close(ours)
    assert written.startswith(expected)


def test_plugins_are_listed_for_readers_and_for_programs() -> None:
    table = ssldet("plugins", "list").stdout.splitlines()
    found = json.loads(ssldet("plugins", "list", "--json").stdout)
    assert len(table) == len(found) + 1
    assert {plugin["kind"] for plugin in found} == set(plugins.KINDS)
    assert found[0].keys() == {"kind", "name", "target", "distribution", "version", "requires", "duplicate"}


def test_faults_are_listed_on_stderr(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plugins, "faults", lambda: [plugins.Fault("odd-dist", "it is odd")])
    result = ssldet("plugins", "list")
    assert result.exit_code == 0
    fault, following = result.stderr.splitlines()
    assert fault == "fault: odd-dist: it is odd" and following.startswith("next: ")


def test_completion_offers_verbs_without_importing_them() -> None:
    code = (
        "import sys\nfrom ssldet import cli\n"
        "context = cli.main.make_context('ssldet', [], resilient_parsing=True)\n"
        "print([item.value for item in cli.main.shell_complete(context, 'pl')])\n"
        "assert not {'torch', 'numpy', 'pydantic'} & set(sys.modules)"
    )
    assert subprocess.check_output([sys.executable, "-c", code], text=True) == "['plugins']\n"


def test_interrupting_the_process_exits_130(tmp_path: Path) -> None:
    code = (
        "import os, signal, sys, types, click\nfrom ssldet import cli\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # a shell's background job starts without it
        "verb = types.ModuleType('verb')\n"
        "verb.command = click.Command('x', callback=lambda: os.kill(os.getpid(), signal.SIGINT))\n"
        "sys.modules['verb'] = verb\ncli.VERBS['x'] = cli.Verb('verb:command', 'X.', 'Tests')\ncli.main(['x'])"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=os.environ, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (130, "interrupted\n")

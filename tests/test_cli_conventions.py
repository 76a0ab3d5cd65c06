"""Conventions of all verbs: examples, options of one wording, JSON, no colour in pipes, completion, mistakes."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from click.shell_completion import ShellComplete
from click.testing import CliRunner, Result
from made_detections import perfect
from made_records import write_run

from ssldet import cli, plugins
from ssldet.cli import set_keys
from ssldet.data.datasets import load_dataset
from ssldet.evaluation.detections import DetectionsWriter


def walk(group: click.Group, context: click.Context) -> Iterator[tuple[str, click.Command]]:
    """Every command below a group with its path: "data", "data list" ..."""
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command
        yield name, command
        if isinstance(command, click.Group):
            for path, below in walk(command, context):
                yield f"{name} {path}", below


ROOT = cli.main.make_context("ssldet", [], resilient_parsing=True)
COMMANDS = dict(walk(cli.main, ROOT))
LEAVES = {path: command for path, command in COMMANDS.items() if not isinstance(command, click.Group)}


def ssldet(*arguments: object, **options: object) -> Result:
    return CliRunner().invoke(cli.main, list(map(str, arguments)), **options)  # type: ignore[arg-type]


# ----------------------------------------------------------------------------------------- help and options


@pytest.mark.parametrize("path", COMMANDS)
def test_every_command_has_an_example_that_it_understands(path: str) -> None:
    command = COMMANDS[path]
    assert command.help and command.epilog and command.epilog.startswith(f"Example: ssldet {path}")
    words = shlex.split(command.epilog.removeprefix("Example: ssldet ").split("&&")[0])
    with command.make_context(path, words[len(path.split()) :], parent=ROOT):
        pass  # parsed


def options_of(flag: str) -> dict[str, click.Option]:
    return {
        path: option
        for path, command in LEAVES.items()
        for option in command.params
        if isinstance(option, click.Option) and flag in option.opts
    }


@pytest.mark.parametrize("flag", ["--json", "--data-root", "--weights-root", "--dataset-map", "--yes", "--workers"])
def test_an_option_has_one_wording_and_one_meaning(flag: str) -> None:
    found = options_of(flag)
    assert len(found) > 1
    assert len({(option.help, str(option.type), option.multiple) for option in found.values()}) == 1


def test_every_verb_prints_json_on_request() -> None:
    assert options_of("--json").keys() == LEAVES.keys()


@pytest.mark.parametrize("code", ["0 done", "1 failed", "2 a request that cannot", "130 interrupted"])
def test_help_says_the_exit_codes(code: str) -> None:
    assert code in " ".join(ssldet("--help").stdout.split())


# ---------------------------------------------------------------------------------------- what is printed


SMALL = "--set train_per_class=1 --set test_per_class=1"
QUICK = (
    "cache list",
    "data list",
    "data guide ava",
    "data synth other --like jhmdb",
    f"data verify synthetic {SMALL}",
    f"data stats synthetic {SMALL}",
    f"data prepare synthetic --size 16 --workers 1 {SMALL}",
    f"evaluate --dataset synthetic --detections ucf24.parquet --metric frame_map {SMALL}",
    "grid --tables 3 --preset smoke --only pretrained=true,ratio=0.2 --dry-run",
    "plugins list",
    "plugins show recall",
    "plugins new metric made_up",
    "run --strategy supervised --dataset jhmdb --ratio 0.5 --preset smoke --data-root stand-in --dry-run",
    "runs list --results runs",
    "runs show {run} --results runs",
    "runs watch {run} --once --results runs",
    "runs rm --results runs --status done --dry-run",
    "runs merge runs --results merged",
    "runs verify --results runs",
    "runs export numbers.csv --results runs",
    f"split make synthetic split.json --ratio 1 {SMALL}",
    "split show ucf24",
    "split verify",
    "table 3 --results runs",
    "tune --strategy fixmatch --dataset synthetic --preset smoke --try train.lr=0.1 --ratio 0.3 --dry-run",
    "weights inspect made.safetensors",
    "cache clear --yes",
)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with detections as good as the truth of the synthetic data, stand-in data, a run, and a weights file."""
    import torch
    from safetensors.torch import save_file

    folder = tmp_path_factory.mktemp("made")
    save_file({"weight": torch.zeros(2)}, folder / "made.safetensors")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SSLDET_CACHE", str(folder / "cache"))
        for flavour in ("ucf24", "jhmdb"):
            write_truth(folder / f"{flavour}.parquet", flavour)
        assert ssldet("data", "synth", folder / "stand-in", "--like", "jhmdb").exit_code == 0
    (folder / "id").write_text(write_run(folder / "runs"))
    yield folder


@pytest.fixture
def place(made: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """That folder as the working folder, with a cache of its own."""
    monkeypatch.chdir(made)
    monkeypatch.setenv("SSLDET_CACHE", str(made / "cache"))
    for name in ("FORCE_COLOR", "NO_COLOR", "TTY_COMPATIBLE", "SSLDET_DATA"):
        monkeypatch.delenv(name, raising=False)
    for left_behind in ("made_up", "other"):
        shutil.rmtree(left_behind, ignore_errors=True)
    return made


def write_truth(path: Path, flavour: str) -> None:
    dataset = load_dataset("synthetic", flavour=flavour, train_per_class=1, test_per_class=1)
    with DetectionsWriter(path, dataset.facts) as writer:
        for video in dataset.videos("test"):
            writer.add(video.id, perfect(dataset.truth(video.id)))


def test_the_quick_requests_have_every_verb() -> None:
    left = {
        "compare",
        "doctor",
        "export",
        "figure",
        "plugins test",
        "predict",
        "runs pack",
        "report",
        "runs rescore",
        "runs unpack",
        "weights convert",
        "weights verify",
    }  # these have tests of their own
    asked = {next(path for path in LEAVES if f"{request} ".startswith(f"{path} ")) for request in QUICK}
    assert asked == LEAVES.keys() - left


@pytest.mark.parametrize("as_json", [False, True])
@pytest.mark.parametrize("line", QUICK)
def test_results_are_plain_in_a_pipe_and_json_on_request(line: str, as_json: bool, place: Path) -> None:
    words = line.format(run=(place / "id").read_text()).split()
    result = ssldet(*words, *(["--json"] if as_json else []))
    assert result.exit_code == 0, result.output
    assert result.stdout and "\x1b" not in result.output
    if as_json:
        json.loads(result.stdout)
    assert [text[:6] for text in result.stderr.splitlines()].count("next: ") == (0 if as_json else 1)


@pytest.mark.parametrize(
    ("line", "missing", "kind"),
    [
        ("evaluate --detections d.csv --metric recall", "--dataset", "dataset"),
        ("evaluate --detections d.csv --dataset synthetic", "--metric", "metric"),
        ("tune --dataset synthetic --try train.lr=1", "--strategy", "strategy"),
        ("data synth d", "--like", "dataset"),
        ("data verify", "D", "dataset"),
    ],
)
def test_what_is_missing_is_said_with_the_choices(line: str, missing: str, kind: str) -> None:
    result = ssldet(*line.split())
    assert result.exit_code == 2
    assert f"'{missing}'. Installed: {', '.join(plugins.names(kind))}." in result.stderr


def test_detections_of_any_flavour_are_scored(place: Path) -> None:
    words = ("evaluate", "--dataset", "synthetic", "--metric", "frame_map", "--json", *SMALL.split())
    found = ssldet(*words, "--detections", "jhmdb.parquet", "--set", "dataset.flavour=jhmdb")
    assert json.loads(found.stdout)["frame_map"]["thresholds"]["0.5"]["mean"] == pytest.approx(1.0)
    refused = ssldet(*words, "--detections", "jhmdb.parquet", "--set", "dataset.flavour=jhmbd")
    assert refused.exit_code == 2 and "did you mean 'jhmdb'" in refused.stderr


def test_a_split_is_checked_against_data_with_its_options(place: Path) -> None:
    options = ("--set", "train_per_class=2", "--set", "flavour=jhmdb", "--set", "test_per_class=1")
    assert ssldet("split", "make", "synthetic", "two.json", "--ratio", "0.5", *options).exit_code == 0
    right = ssldet("split", "verify", "two.json", *options)
    assert right.exit_code == 0 and "the same as the data" in right.stdout
    assert ssldet("split", "verify", "two.json", *SMALL.split()).exit_code == 1  # other videos
    assert ssldet("split", "verify", *options).exit_code == 2  # of which file?


@pytest.mark.skipif(not hasattr(os, "openpty"), reason="a terminal is made with openpty")
@pytest.mark.parametrize(("no_color", "coloured"), [("", True), ("1", False)])
def test_tables_have_colour_on_a_terminal_that_wants_it(no_color: str, coloured: bool) -> None:
    code = "from ssldet.cli.output import stdout_console\nstdout_console().print('[red]words[/]')"
    ours, theirs = os.openpty()
    environment = {**os.environ, "NO_COLOR": no_color, "TERM": "xterm"}
    subprocess.run([sys.executable, "-c", code], stdout=theirs, env=environment, check=True)
    os.close(theirs)
    written = os.read(ours, 1000).decode()
    os.close(ours)
    assert ("\x1b[31m" in written) == coloured and "words" in written


# --------------------------------------------------------------------------------------------- completion


@pytest.mark.parametrize(
    ("line", "incomplete", "offered"),
    [
        ("run --strategy", "", {"supervised", "dual_guidance"}),
        ("run --dataset", "j", {"jhmdb"}),
        ("run --backbone", "yowo_", {"yowo_nano"}),
        ("run --preset", "", {"paper", "nano", "smoke"}),
        ("run --set", "train.l", {"train.lr=", "train.log_every="}),
        ("run --strategy fixmatch --set", "strategy.o", {"strategy.o_th="}),
        ("run --strategy fixmatch --set", "strategy.f", {"strategy.f_th=", "strategy.frame_head="}),
        ("run --strategy supervised --set", "strategy.o", set()),
        ("run --set", "dataset.f", {"dataset.flavour="}),
        ("data verify synthetic --set", "f", {"flavour="}),
        ("data verify", "uc", {"ucf24"}),
        ("weights verify --backbone yowo --set", "freeze", {"freeze_2d=", "freeze_3d="}),
        ("evaluate --metric", "frame", {"frame_map"}),
        ("grid --strategy", "mean", {"mean_teacher"}),
        ("table", "", {"1", "2", "3", "4", "5", "6"}),
        ("figure", "", {"3", "4", "5"}),
        ("plugins show", "yowo_", {"yowo_nano"}),
        ("runs list --strategy", "fix", {"fixmatch"}),
    ],
)
def test_the_shell_completes(line: str, incomplete: str, offered: set[str]) -> None:
    found = {item.value for item in completions(line.split(), incomplete)}
    assert offered <= found and bool(found) == bool(offered)
    assert all(value.startswith(incomplete) for value in found)


def completions(words: list[str], incomplete: str) -> list[click.shell_completion.CompletionItem]:
    return ShellComplete(cli.main, {}, "ssldet", "_SSLDET_COMPLETE").get_completions(words, incomplete)


def test_keys_come_with_type_and_meaning() -> None:
    words = {item.value: item.help for item in completions(["run", "--backbone", "yowo_nano", "--set"], "")}
    assert words["train.batch="] == "int: Labelled clips a step."
    assert words["backbone.width="].startswith("int: Channels of the first layer")
    assert "region" not in words and words["backbone.region.alpha="].startswith("float: Weight of")


def test_keys_are_read_through_the_face_of_a_package() -> None:
    found = set_keys.find("ssldet.detector", "GridOptions")
    assert found and found.module == "ssldet.detector.detector"


def test_every_key_that_is_offered_exists() -> None:
    from ssldet.config import Experiment, Machine

    known = {**Experiment.model_fields, **Machine.model_fields}
    for key in (item.value.rstrip("=") for item in completions(["run", "--set"], "")):
        head, _, field = key.partition(".")
        if head in ("strategy", "backbone", "dataset", "tracker") and field:
            continue
        assert head in known and (not field or field in known[head].annotation.model_fields)  # type: ignore[union-attr]


def test_completion_that_fails_is_silent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ssldet.plugins.available", lambda kind: 1 / 0)
    assert completions(["run", "--strategy"], "") == []


def test_completion_imports_little_and_nothing_heavy() -> None:
    """So it is quick on any machine; how long it takes hangs on the machine."""
    code = (
        "import sys\nfrom ssldet.cli import main\ntry:\n    main(prog_name='ssldet')\nexcept SystemExit:\n    pass\n"
        "heavy = {'torch', 'numpy', 'pydantic', 'rich', 'pandas'} & set(sys.modules)\n"
        "sys.exit(heavy or (f'{len(sys.modules)} modules' if len(sys.modules) > 300 else 0))"
    )
    words = {"COMP_WORDS": "ssldet run --strategy fixmatch --set strategy.o", "COMP_CWORD": "5"}
    environment = {**os.environ, "_SSLDET_COMPLETE": "bash_complete", **words}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("plain,strategy.o_th=\n", "")


# ----------------------------------------------------------------------------------------------- mistakes


def test_all_mistakes_of_a_command_are_named_at_once() -> None:
    request = "run --strategy supervisd --dataset synthetic --backbone yowo_nano --ratio 2 --preset smok"
    settings = ("train.lrr=1", "backbone.widht=3", "dataset.flavor=jhmdb", "dataset.seed=x", "words", "clip.size=x")
    result = ssldet(*request.split(), *(word for text in settings for word in ("--set", text)))
    assert (result.exit_code, result.stdout) == (2, "")
    for said in (
        "unknown strategy 'supervisd'; did you mean 'supervised'",
        "unknown preset 'smok'; did you mean 'smoke'",
        "ratio: input should be less than or equal to 1",
        "unknown option 'train.lrr'; did you mean 'train.lr'",
        "unknown option 'backbone.widht'; did you mean 'backbone.width'",
        "unknown option 'dataset.flavor' of data set 'synthetic'; did you mean 'dataset.flavour'",
        "dataset.seed: input should be a valid integer",
        "--set 'words': expected KEY=VALUE",
        "clip.size: input should be a valid integer",
    ):
        assert said in result.stderr


def test_a_preset_is_no_setting() -> None:
    result = ssldet("run", "--strategy", "supervised", "--dataset", "synthetic", "--set", "preset=nano")
    assert result.exit_code == 2 and "choose it with --preset" in result.stderr


@pytest.mark.parametrize(("answer", "code", "said"), [("n\n", 1, "nothing was removed"), ("", 130, "interrupted")])
def test_a_question_that_is_not_answered_with_yes(
    answer: str, code: int, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSLDET_CACHE", str(tmp_path))
    (tmp_path / "frames" / "some").mkdir(parents=True)
    assert ssldet("cache", "clear").exit_code == 2  # nobody to be asked
    monkeypatch.setattr("ssldet.cli.output.can_ask", lambda: True)
    result = ssldet("cache", "clear", input=answer)
    assert result.exit_code == code and said in result.stderr
    assert (tmp_path / "frames" / "some").is_dir()


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("run --dataset synthetic", "strategy is needed; give --strategy, one of consistency, "),
        ("run --config {folder}/bad.yaml", "bad.yaml: while parsing a flow sequence"),
        ("data list --data-root {folder}/absent", "absent (or SSLDET_DATA): no such folder"),
        ("data verify jhmdb --data-root {folder}/absent", "absent (or SSLDET_DATA): no such folder"),
        ("data verify {folder}/absent", "absent: no such folder; name one that exists, or a data set (ava, "),
        ("data verify nowhere_at_all", "; nor is there a folder nowhere_at_all"),
        ("data prepare synthetic --size 0", "0 is not in the range x>=16"),
        ("data verify synthetic --set seed --set x=[", "--set 'seed': expected KEY=VALUE"),
        ("data verify synthetic --set seed --set x=[", "--set 'x=[': the value is not YAML"),
        ("data verify synthetic --set seed=x --set flavor=y", "dataset.seed: input should be a valid integer"),
        ("data verify synthetic --set seed=x --set flavor=y", "did you mean 'dataset.flavour'"),
        ("weights inspect {folder}/bad.yaml", "bad.yaml is not a torch checkpoint"),
        (
            "weights verify {folder}/x --backbone yowo --dataset ava --set dropout=x",
            "backbone.dropout: input should be",
        ),
        ("runs list --results {folder}/absent", "absent' does not exist"),
        ("table 3 --json --format csv", "--json asks for another format than --format csv"),
    ],
)
def test_messages_say_what_is_wrong_and_what_to_do(line: str, said: str, tmp_path: Path) -> None:
    (tmp_path / "bad.yaml").write_text("a: [1")
    result = ssldet(*line.format(folder=tmp_path).split())
    assert (result.exit_code, result.stdout) == (2, "")
    assert said in result.stderr


def test_a_file_that_cannot_be_written_is_no_traceback(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    result = ssldet("table", "3", "--out", tmp_path / "file" / "table.md")
    assert result.exit_code == 2 and "Traceback" not in result.output
    assert "file: " in result.stderr

"""The documentation does what it says: every command and every Python block of README and docs is executed.

The pages are gone through from top to bottom, each in a folder of its own. In every run of the tests the presets and
the data are shrunk, stand-ins take the place of the real data, and a grid is only planned. `scripts/acceptance` goes
through the same pages as they are written.
"""

from __future__ import annotations

import importlib
import inspect
import operator
import os
import pickle
import re
import runpy
import shlex
import subprocess
import sys
import tomllib
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import numpy as np
import pydantic
import pytest
from click.testing import CliRunner
from made_detections import detections

from ssldet import cli, config, plugins, testing
from ssldet.data.datasets import load_dataset
from ssldet.evaluation.detections import DetectionsWriter

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", *sorted(path for path in (ROOT / "docs").glob("*.md") if path.name != "cli.md")]
"""cli.md is written by a program, which has tests of its own."""

PACKAGES = sorted(init.parent.name for init in (ROOT / "ssldet").glob("*/__init__.py") if init.parent.name != "cli")
"""Of the core; the command line has one file per verb."""

NAME = operator.attrgetter("name")

SMOKE = "--dataset synthetic --ratio 0.1 --preset smoke"
NANO = "ssldet run --strategy dual_guidance --dataset jhmdb"

LONG = {
    f"ssldet run --strategy supervised {SMOKE}": "acceptance",
    f"ssldet run --strategy dual_guidance {SMOKE}": "acceptance",
    f"ssldet run --strategy dual_guidance {SMOKE} --backbone key_frame": "acceptance",
    f"ssldet run --strategy stac {SMOKE}": "acceptance",
    "ssldet run --strategy supervised --dataset tracks --ratio 0.5 --preset smoke --data-root made-up": "acceptance",
    "ssldet run --strategy dual_guidance --dataset folder --preset smoke --data-root mine": "acceptance",
    "ssldet grid --tables 2 --only 'approach=Supervised,Dual Guidance' --only ratio=0.1 --only pretrained=false "
    "--preset smoke --dataset-map ucf24=synthetic --seeds 0,1": "acceptance",
    "ssldet grid --tables 6 --only ratio=0.1 --preset smoke --dataset-map ucf24=synthetic:ucf24": "acceptance",
    f"{NANO} --ratio 0.2 --preset nano --data-root data": "acceptance",
    f"{NANO} --ratio 0.2 --preset nano --data-root data --profile 20": "acceptance",
    f"{NANO} --ratio 0.3 --val-fraction 0.3333 --eval-on val --preset nano --data-root data": "campaign",
    f"{NANO} --ratio 0.2 --preset lite --data-root data": "acceptance",
    "ssldet run --strategy supervised --dataset jhmdb --ratio 0.3 --val-fraction 0.3333 --eval-on val "
    "--preset lite --data-root data": "campaign",
    "ssldet grid --tables 3 --only pretrained=false --preset nano --data-root data --jobs 2": "campaign",
    "ssldet grid --tables 3 --only pretrained=false --preset nano --data-root data --executor slurm "
    "--set executor.gpus=1 --set executor.hours=12": "campaign",
    "ssldet grid --tables 3 --only pretrained=false --preset nano --data-root data --executor ray": "campaign",
}
"""What trains -> its tier: "acceptance" runs it as it is written, "campaign" takes hours and is only planned there."""

OTHERWISE = {
    "ssldet split verify --data-root data": (1, "stand-ins have other videos than the shipped splits"),
    f"{NANO} --ratio 0.2 --preset nano --data-root data --profile 20": (2, "shrunk training has too few steps"),
}
"""Command -> its exit code here, where that is not 0, and why."""

SMALL = {
    "backbone": "yowo_nano",
    "clip": {"frames": 4, "stride": 1, "size": 32},
    "train": {
        **{"batch": 4, "unlabelled_batch": 4, "bn_batch": 4, "steps": 8},
        **{"warmup": 2, "pair_share": 0.5, "checkpoint_every": 8},
    },
}
"""What every preset is shrunk to."""


@dataclass(frozen=True)
class Step:
    """One thing that a page tells its reader to do, at a line: a command, or Python code, which may be a file's."""

    line: int
    command: str = ""
    code: str = ""
    file: str = ""


# ------------------------------------------------------------------------------------------------ reading pages


def steps(text: str) -> list[Step]:
    """The commands and Python blocks of a page, in order."""
    found: list[Step] = []
    for line, kind, content in blocks(text):
        language, file = re.fullmatch(r'(\w*)(?: +title="(.+)")?', kind).groups()  # type: ignore[union-attr]
        if language == "python":
            found.append(Step(line, code="\n".join(content) + "\n", file=file or ""))
        else:
            found += [Step(line + n, command) for n, text in enumerate(content) for command in commands(text)]
    return found


def blocks(text: str) -> Iterator[tuple[int, str, list[str]]]:
    """Fenced and indented blocks: number of the first line, what stands behind the fence, lines."""
    lines = text.splitlines()
    place = 0
    while place < len(lines):
        if fence := re.match(r"```(.*)", lines[place]):
            end = lines.index("```", place + 1)
            yield place + 2, fence[1].strip(), lines[place + 1 : end]
            place = end
        elif lines[place].startswith("    "):
            yield place + 1, "", [lines[place][4:]]
        place += 1


def commands(line: str) -> list[str]:
    """The commands of a line of a block; two spaces or a # end them."""
    parts = re.split(r" {2,}| +# ", line.strip())[0].split(" && ")
    known = [part.removeprefix(".venv/bin/") for part in parts]
    return [part for part in known if part.startswith(("ssldet ", "pip install ./"))]


def read(page: Path) -> list[Step]:
    return steps(page.read_text(encoding="utf-8"))


WORKING = [page for page in PAGES if read(page)]
EVERY = [step.command for page in WORKING for step in read(page) if step.command]


def trains(command: str) -> bool:
    return command.startswith(("ssldet run ", "ssldet grid ")) and "--dry-run" not in command


def test_the_layout_names_every_module_below_its_package() -> None:
    plan = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8").partition("    plugins/ ")[0]
    named: dict[str, set[str]] = defaultdict(set)
    package = ""
    for line in plan.splitlines():
        if heading := re.match(r" {6}(\w+)/", line):
            package = heading[1]
        named[package] |= set(re.findall(r"\b\w+\.py\b", line))
    there = {package: {path.name for path in (ROOT / "ssldet" / package).rglob("[!_]*.py")} for package in PACKAGES}
    assert {package: named[package] for package in PACKAGES} == there
    assert named[""] == {path.name for path in (ROOT / "ssldet").glob("[!_]*.py")}


def test_the_paper_map_leads_to_code() -> None:
    """Each "file.py: name", with as much of its folder as tells it from others, names a class or function there."""
    text = (ROOT / "docs" / "paper-map.md").read_text(encoding="utf-8")
    places = re.findall(r"`([\w/]+\.py)(?:: (\w+)[\w.]*)?`", text)
    sources = [*(ROOT / "ssldet").rglob("*.py"), *(ROOT / "plugins").rglob("*.py")]
    assert len(places) > 20
    for file, name in places:
        found = [path.read_text(encoding="utf-8") for path in sources if f"/{path.as_posix()}".endswith(f"/{file}")]
        assert found and any(re.search(rf"^(class|def) {name}\b", source, re.MULTILINE) for source in found), (
            file,
            name,
        )


def test_every_row_of_the_fault_table_names_its_tests() -> None:
    rows = re.findall(r"^\|(.*)\|$", (ROOT / "docs" / "reliability.md").read_text(), re.MULTILINE)[2:]
    tests = "\n".join(path.read_text(encoding="utf-8") for path in (ROOT / "tests").glob("test_*.py"))
    assert len(rows) > 10
    for row in rows:
        names = re.findall(r"`(test_\w+)`", row.split("|")[-1])
        assert names and all(f"def {name}(" in tests for name in names), row


def test_commands_are_found() -> None:
    text = 'Do\n\n    .venv/bin/ssldet a --b   # c\n    ssldet d "e  f"\n\n```\nssldet g && pip install ./h\n```\n'
    text += '```python title="i.py"\nj = 1\n```\nand `ssldet k`.\n'
    found = [(step.line, step.command or step.code) for step in steps(text.replace('"e  f"', "ef   prose"))]
    assert found == [(3, "ssldet a --b"), (4, "ssldet d ef"), (7, "ssldet g"), (7, "pip install ./h"), (10, "j = 1\n")]
    assert len(EVERY) > 60


def test_what_trains_is_listed_with_its_tier() -> None:
    assert {command for command in EVERY if trains(command)} == LONG.keys()
    assert set(LONG.values()) <= {"acceptance", "campaign"}


@pytest.mark.parametrize("page", PAGES, ids=NAME)
def test_options_in_the_text_exist(page: Path) -> None:
    """Commands between back quotes, which may be given in part: their verbs and options are known."""
    for text in re.findall(r"`(ssldet [a-z][^`]*)`", re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL)):
        found: click.Command = cli.main
        words = re.split(r"[\s]+", text)[1:]
        while isinstance(found, click.Group) and words and re.fullmatch("[a-z]+", words[0]):
            verb = found.get_command(click.Context(found), words.pop(0))
            assert verb is not None, f"{page.name}: no such command: {text}"
            found = verb
        known = {option for parameter in found.params for option in (*parameter.opts, *parameter.secondary_opts)}
        unknown = {word for word in words if word.startswith("--")} - known - {"--help"}
        assert not unknown, f"{page.name}: {text} has options that do not exist: {unknown}"


# ---------------------------------------------------------------------------------------------------- the world


@pytest.fixture(scope="module")
def stand_ins(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("data")
    for name in ("ucf24", "jhmdb", "ava"):
        assert CliRunner().invoke(cli.main, ["data", "synth", str(root / name), "--like", name]).exit_code == 0
    return root


def furnish(folder: Path, data: Path) -> None:
    """What a reader of the pages has at hand: data, detections of J-HMDB-21, someone's list of labelled videos."""
    (folder / "data").symlink_to(data)
    (folder / "path" / "to").mkdir(parents=True)
    (folder / "path" / "to" / "folder").symlink_to(data / "jhmdb")
    jhmdb, ucf24 = load_dataset("jhmdb", data), load_dataset("ucf24", data)
    rows = [(0, (10, 10, 60, 80), 0.9, np.full(jhmdb.facts.num_classes, 1 / jhmdb.facts.num_classes))]
    with DetectionsWriter(folder / "detections.parquet", jhmdb.facts) as writer:
        for video in jhmdb.videos("test"):
            writer.add(video.id, detections(rows, jhmdb.facts.num_classes))
    listed = {video.id: 0 for video in ucf24.videos("train")}
    (folder / "train_annots_10_labeled.pkl").write_bytes(pickle.dumps(listed))


@pytest.fixture
def small_world(tmp_path: Path, stand_ins: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder to work in, small presets and small synthetic data."""
    furnish(tmp_path, stand_ins)
    monkeypatch.chdir(tmp_path)
    preset = config._preset

    def shrunk(name: str) -> tuple[dict[str, Any], dict[str, Any]]:
        layer, proposed = preset(name)
        network = {"backbone": layer["backbone"]} if layer.get("pretrained") else {}  # whose weights there are
        return config._merge(layer, {**SMALL, **network}), proposed

    monkeypatch.setattr(config, "_preset", shrunk)
    synthetic = type(load_dataset("synthetic"))
    few = pydantic.create_model("Config", __base__=synthetic.Config, train_per_class=(int, 10), test_per_class=(int, 1))
    monkeypatch.setattr(synthetic, "Config", few)
    monkeypatch.setattr(sys, "path", list(sys.path))
    modules = set(sys.modules)
    yield tmp_path
    for name in sys.modules.keys() - modules:
        if (getattr(sys.modules[name], "__file__", None) or "").startswith(str(tmp_path)):
            del sys.modules[name]


def arguments(command: str) -> list[str]:
    """The words of a command as a shell would hand them on."""
    return [
        name
        for word in shlex.split(command)
        for name in (sorted(map(str, Path().glob(word))) if "*" in word else [word])
    ]


def install(package: Path) -> None:
    """Make a package importable, with its entry points, as pip would."""
    project = tomllib.loads((package / "pyproject.toml").read_text())["project"]
    info = package / "src" / f"{project['name']}-{project['version']}.dist-info"
    info.mkdir()
    metadata = ["Metadata-Version: 2.1", f"Name: {project['name']}", f"Version: {project['version']}"]
    (info / "METADATA").write_text("\n".join(metadata) + "\n")
    points = [
        f"[{group}]\n{name} = {target}\n"
        for group, of in project["entry-points"].items()
        for name, target in of.items()
    ]
    (info / "entry_points.txt").write_text("".join(points))
    sys.path.insert(0, str(package.resolve() / "src"))
    importlib.invalidate_caches()


def invoke(command: str) -> tuple[int, str]:
    """Carry out a command in this process; its exit code and what it printed."""
    words = arguments(command)
    if words[0] == "pip":
        install(Path(words[2]))
        return 0, ""
    if words[1:3] == ["plugins", "test"]:  # the same tests, in this process
        return held_to_contract(words[3])
    if trains(command):
        words += ["--dry-run"] if words[1] == "grid" else ["--threads", "1"]
    done = CliRunner().invoke(cli.main, words[1:])
    if done.exception and not isinstance(done.exception, SystemExit):
        raise done.exception
    return done.exit_code, done.output


def held_to_contract(name: str) -> tuple[int, str]:
    """What `ssldet plugins test` finds out of an installed plugin."""
    (kind,) = [kind for kind in plugins.KINDS if name in plugins.names(kind)]
    failed = [found for found in testing.check(plugins.load(kind, name)) if found.status == "failed"]
    return int(bool(failed)), "\n".join(f"{found.test}: {found.reason}" for found in failed)


def put(step: Step) -> None:
    """Execute a block of Python, or put it into its file, which `ssldet plugins new` made."""
    if not step.file:
        exec(compile(step.code, "<block>", "exec"), {})
        return
    assert Path(step.file).is_file(), f"there is no {step.file} to replace"
    Path(step.file).write_text(step.code, encoding="utf-8")


def run_tests(file: Path, folder: Path) -> None:
    """Run a page's own tests; the contract's have been run by `ssldet plugins test`, with the default options."""
    tests = runpy.run_path(str(file))
    suites = [found for name, found in tests.items() if name.startswith("Test")]
    functions = [found for name, found in tests.items() if name.startswith("test_")]
    assert functions and all(issubclass(suite, testing.Contract) and suite.plugin for suite in suites)
    for suite in suites:
        if sets := getattr(suite, "option_sets", ())[1:]:
            failed = [one for one in testing.check(suite.plugin, option_sets=sets) if one.status == "failed"]
            assert failed == []
    for function in functions:
        function(*[folder] * len(inspect.signature(function).parameters))


# -------------------------------------------------------------------------------------------------- going through


@pytest.mark.parametrize("page", WORKING, ids=NAME)
def test_the_page_works(page: Path, small_world: Path) -> None:
    for step in read(page):
        if step.code:
            put(step)
            continue
        code, output = invoke(step.command)
        expected, _ = OTHERWISE.get(step.command, (0, ""))
        assert code == expected, f"{page.name}:{step.line}: {step.command}\nexit code {code}\n{output}"
    for step in read(page):
        if "/tests/" in step.file:
            (small_world / "tmp").mkdir()
            run_tests(Path(step.file), small_world / "tmp")


@pytest.mark.acceptance
@pytest.mark.real
@pytest.mark.parametrize(
    "page", [page for page in WORKING if any(step.command in LONG for step in read(page))], ids=NAME
)
def test_the_page_works_as_written(page: Path, shared: Path, tmp_path: Path) -> None:
    """As a reader has it: a shell, the real data, packages that pip installs; campaigns are planned only."""
    furnish(tmp_path, shared / "data")
    bin_folder, installed = str(Path(sys.executable).parent), str(tmp_path / "installed")
    pip = {
        "PIP_TARGET": installed,
        "PIP_NO_DEPS": "1",
        "PIP_NO_BUILD_ISOLATION": "0",
    }  # 0: pip takes it as "no isolation"
    environment = {
        **os.environ,
        **pip,
        "PYTHONPATH": installed,
        "PATH": os.pathsep.join((bin_folder, os.environ["PATH"])),
    }
    for step in read(page):
        if step.file:
            (tmp_path / step.file).write_text(step.code, encoding="utf-8")
            continue
        planned = " --dry-run" if LONG.get(step.command) == "campaign" else ""
        asked = f"python -c {shlex.quote(step.code)}" if step.code else step.command + planned
        done = subprocess.run(asked, shell=True, cwd=tmp_path, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, f"{page.name}:{step.line}: {asked}\n{done.stdout}{done.stderr}"

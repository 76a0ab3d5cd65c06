"""New plugins: whole packages that pass their own tests at once."""

from __future__ import annotations

import importlib.resources
import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from ssldet import cli, plugins, scaffold
from ssldet.errors import ConfigError, RequestError, UnknownName


def ssldet(*arguments: str) -> Result:
    return CliRunner().invoke(cli.main, ["plugins", *arguments])


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a new plugin of each kind."""
    folder = tmp_path_factory.mktemp("new")
    for kind in plugins.KINDS:
        scaffold.write(kind, f"my_{kind}", folder / f"my_{kind}")
    return folder


def test_every_kind_passes_its_own_tests(made: Path) -> None:
    packages = [made / f"my_{kind}" for kind in plugins.KINDS]
    (made / "pytest.ini").write_text("[pytest]\nfilterwarnings = error\n")
    paths = os.pathsep.join(str(package / "src") for package in packages)
    command = [sys.executable, "-m", "pytest", "-q", "-rs", "-c", "pytest.ini", *(str(package) for package in packages)]
    done = subprocess.run(command, cwd=made, env={**os.environ, "PYTHONPATH": paths}, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert " passed" in done.stdout
    skipped = [line for line in done.stdout.splitlines() if line.startswith("SKIPPED")]
    assert all(line.endswith("it has no parts with weights files of their own") for line in skipped), skipped


@pytest.mark.parametrize("kind", plugins.KINDS)
def test_its_entry_point_names_a_plugin(made: Path, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    project = tomllib.loads((made / f"my_{kind}" / "pyproject.toml").read_text())["project"]
    assert project["name"] == f"my_{kind}"
    assert project["dependencies"] == ["ssldet>=0.1,<1"]
    ((group, points),) = project["entry-points"].items()
    assert group == plugins.GROUPS[kind]
    monkeypatch.syspath_prepend(str(made / f"my_{kind}" / "src"))
    info = plugins.PluginInfo(kind, f"my_{kind}", points[f"my_{kind}"], f"my_{kind}", "0.1.0", ">=0.1,<1")
    assert plugins.load_offer(info).__name__ == f"My{kind.capitalize()}"


@pytest.mark.acceptance
def test_from_an_empty_folder_to_a_run(tmp_path: Path) -> None:
    """ssldet plugins new, pip install, ssldet plugins test, ssldet run: as a third party does it."""
    installed = tmp_path / "installed"
    environment = {**os.environ, "PYTHONPATH": str(installed)}

    def command(*arguments: str) -> str:
        done = subprocess.run(
            [sys.executable, *arguments], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    verb = ("-c", "from ssldet.cli import main; main()")
    command(*verb, "plugins", "new", "strategy", "my_teacher")
    offline = ("--no-deps", "--no-build-isolation", "--disable-pip-version-check")
    command("-m", "pip", "install", *offline, "--target", str(installed), "./my_teacher")
    listed = command(*verb, "plugins", "list").splitlines()
    row = ["strategy", "my_teacher", "my_teacher", "0.1.0", ">=0.1,<1", "my_teacher:MyTeacher"]
    assert row in [line.split() for line in listed]
    assert " passed" in command(*verb, "plugins", "test", "my_teacher")
    command(*verb, "run", "--strategy", "my_teacher", "--dataset", "synthetic", "--preset", "smoke", "--ratio", "0.2")
    assert list(tmp_path.glob("results/runs/*my_teacher*/record.json"))


def test_the_verb_lists_what_it_wrote(tmp_path: Path) -> None:
    result = ssldet("new", "metric", "best_iou", "--folder", str(tmp_path / "here"))
    assert result.exit_code == 0
    written = [Path(line).relative_to(tmp_path / "here").as_posix() for line in result.stdout.splitlines()]
    assert written == ["README.md", "pyproject.toml", "src/best_iou/__init__.py", "tests/test_best_iou.py"]
    assert all((tmp_path / "here" / file).read_text() for file in written)
    assert "ssldet plugins test best_iou" in result.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["here"]


def test_a_folder_that_exists_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    result = ssldet("new", "metric", "mine", "--folder", str(tmp_path / "mine"))
    assert (result.exit_code, result.stdout) == (2, "")
    assert "exists already" in result.stderr
    assert not list((tmp_path / "mine").iterdir())


@pytest.mark.parametrize("name", ["my-teacher", "1st", "class", "", "../up", "mine_", "é", "_hidden"])
def test_a_name_that_is_no_module_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigError, match="cannot name a plugin"):
        scaffold.write("strategy", name, tmp_path / "new")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("name", "reason"),
    [("supervised", "a strategy 'supervised' is installed already"), ("json", "a module 'json' is installed already")],
)
def test_a_name_that_is_taken_is_refused(tmp_path: Path, name: str, reason: str) -> None:
    with pytest.raises(ConfigError, match=reason):
        scaffold.write("strategy", name, tmp_path / "new")


def test_an_unknown_kind_says_what_was_meant(tmp_path: Path) -> None:
    with pytest.raises(UnknownName, match="did you mean 'strategy'"):
        scaffold.write("strategies", "mine", tmp_path / "new")


def test_it_is_written_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = scaffold.render("metric", "mine")
    monkeypatch.setattr(scaffold, "render", lambda kind, name: {**whole, Path("README.md/below"): "no place for it"})
    with pytest.raises(RequestError, match="cannot write"):
        scaffold.write("metric", "mine", tmp_path / "new")
    assert not list(tmp_path.iterdir())
    with pytest.raises(RequestError, match=r"cannot write .*No such file or directory"):
        scaffold.write("metric", "mine", tmp_path / "absent" / "new")


@pytest.mark.parametrize(
    ("version", "accepted"),
    [("0.1.0", ">=0.1,<1"), ("1.4.2", ">=1.4,<2"), ("2.0.0rc1", ">=2.0.0rc1,<3"), ("0.2.dev3", ">=0.2.dev3,<1")],
)
def test_a_new_plugin_accepts_what_it_was_written_for(version: str, accepted: str) -> None:
    from packaging.specifiers import SpecifierSet

    assert scaffold.accepted_versions(version) == accepted
    assert SpecifierSet(accepted).contains(version, prereleases=True)


@pytest.mark.parametrize(
    ("name", "expected"),
    [("my_teacher", "MyTeacher"), ("teacher", "TeacherStrategy"), ("needs", "NeedsStrategy")],
)
def test_its_class_has_a_name_of_its_own(name: str, expected: str) -> None:
    text = scaffold.render("strategy", name)[Path(f"src/{name}/__init__.py")]
    assert f"class {expected}(TeacherStudent):" in text


def test_the_templates_are_in_the_package() -> None:
    folder = importlib.resources.files("ssldet") / "scaffolds"
    assert {kind.name for kind in folder.iterdir()} == {"common", *plugins.KINDS}
    assert all(file.name.endswith(".tmpl") for kind in folder.iterdir() for file in kind.iterdir())

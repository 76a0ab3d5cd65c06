"""The report of `ssldet doctor`: what it finds, what it keeps to itself, and what counts as broken."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from ssldet import cli, doctor, plugins
from ssldet.errors import DecodeError
from ssldet_backbones import lite_weights


def invoke(*arguments: object) -> Result:
    return CliRunner().invoke(cli.main, ["doctor", *map(str, arguments)])


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home folder of its own, with a cache and an empty data root in it."""
    (tmp_path / "data").mkdir()
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    monkeypatch.setenv("SSLDET_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_sound_installation(home: Path) -> None:
    result = invoke("--results", home / "runs", "--json")
    found = json.loads(result.stdout)
    assert (result.exit_code, found["broken"], found["problems"]) == (0, [], [])
    sections = found["sections"]
    assert sections["versions"]["ssldet"].startswith(cli.__version__)
    assert {"python", "torch", "torchvision", "av", "numpy", "ffmpeg"} <= sections["versions"].keys()
    assert sections["decoder"] == {"trial": "works", "codecs": "mpeg4, h264, mjpeg"}
    assert "supervised" in sections["plugins"]["strategy"] and sections["plugins"]["faults"] == "none in their metadata"
    assert sections["devices"]["threads"] >= 1
    assert sections["weights"]["yowo"]["yolo.weights"] == "absent, for ava, jhmdb, ucf24"
    assert "writable" in sections["folders"]["results"]
    text = invoke("--results", home / "runs").stdout
    assert text.startswith("versions\n  python: ") and text.endswith("no problems found\n")


def test_weights_that_come_with_a_package_are_found(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = home / "package" / "weights.pth"
    file.parent.mkdir()
    file.write_bytes(bytes(2_000_000))
    monkeypatch.setattr(lite_weights, "FILE", "weights.pth")
    monkeypatch.setattr(lite_weights, "installed", lambda: file)
    shown = doctor.examine(None, home / "weights").sections["weights"]["yowo_lite"]["weights.pth"]
    assert shown.startswith("2 MB at ~/package/weights.pth, for ava, ")


def test_data_and_weights_that_are_found(home: Path) -> None:
    CliRunner().invoke(cli.main, ["data", "synth", str(home / "data"), "--like", "jhmdb"])
    (home / "weights").mkdir()
    (home / "weights" / "yolo.weights").write_bytes(bytes(2_000_000))
    report = doctor.examine(home / "data", home / "weights")
    assert "puppet masks" in report.sections["data"]["jhmdb"]
    assert report.sections["weights"]["yowo"]["yolo.weights"].startswith("2 MB")


def test_nothing_private_is_shown(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("API_TOKEN", "sesame")
    monkeypatch.setenv("SSLDET_DATA", str(home / "data"))
    text = invoke("--results", home / "runs").stdout
    assert "sesame" not in text and str(home) not in text
    assert "SSLDET_DATA: ~/data" in text and "results: ~/runs" in text


def test_problems_are_named_and_are_no_failure(home: Path) -> None:
    (home / "file").write_text("")
    result = invoke("--data-root", home / "absent", "--results", home / "file" / "runs")
    assert result.exit_code == 0
    assert "problem: the data root ~/absent is no folder" in result.stdout
    assert "problem: the results folder ~/file/runs cannot be written" in result.stdout


def test_a_decoder_that_fails_is_broken(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def read_frames(*arguments: object) -> None:
        raise DecodeError("no such codec")

    monkeypatch.setattr(doctor, "read_frames", read_frames)
    result = invoke()
    assert result.exit_code == 1
    assert "broken: the decoder fails: no such codec" in result.stdout


def test_a_decoder_that_gives_other_frames_is_broken(monkeypatch: pytest.MonkeyPatch) -> None:
    read = doctor.read_frames

    def dark(*arguments: object) -> object:
        decoded = read(*arguments)  # type: ignore[arg-type]
        return type(decoded)(decoded.frames_thwc // 2, decoded.decoded)

    monkeypatch.setattr(doctor, "read_frames", dark)
    assert "gives other frames: brightness is off by" in doctor.try_decoder()


@pytest.mark.parametrize(("distribution", "code"), [("ssldet", 1), ("other", 0)])
def test_a_fault_of_our_own_plugins_is_broken(
    distribution: str, code: int, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plugins, "faults", lambda: [plugins.Fault(distribution, "it is odd", "1.0")])
    result = invoke()
    assert result.exit_code == code
    assert f"plugin of {distribution} 1.0: it is odd" in result.stdout


def test_check_imports_each_plugin(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def check(plugin: plugins.PluginInfo) -> plugins.Check:
        bad = plugin.name == "recall"
        return plugins.Check("broken", 0.1, f"{plugin} does not import") if bad else plugins.Check("ok", 0.1)

    monkeypatch.setattr(plugins, "check", check)
    result = invoke("--check")
    assert result.exit_code == 1
    assert "metric 'recall' of ssldet" in result.stdout and "does not import" in result.stdout


def test_one_section_that_fails_leaves_the_others(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "machine", lambda: 1 / 0)
    report = doctor.examine()
    assert report.problems == ["machine: ZeroDivisionError: division by zero"]
    assert report.sections["decoder"]["trial"] == "works"


def test_it_works_where_torch_does_not_import(tmp_path: Path) -> None:
    code = "import sys\nsys.modules['torch'] = None\nfrom ssldet.cli import main\nmain(['doctor'])"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=os.environ, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (1, "next: mend what is listed, then the same command\n")
    assert "broken: torch cannot be imported" in done.stdout and "trial: works" in done.stdout

"""synthetic:ucf24 is a data set's name everywhere, and an error for absent data says what runs without."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

import ssldet
from ssldet import cli
from ssldet.benchmark.cells import parse_dataset_map
from ssldet.config import resolve
from ssldet.errors import AbsentData, ConfigError, DataError

SMALL = {"train_per_class": 1, "test_per_class": 1}


def command(*arguments: object) -> Result:
    return CliRunner().invoke(cli.main, list(map(str, arguments)))


def test_a_flavour_is_part_of_the_name_in_python() -> None:
    named, spelled = (ssldet.load_dataset("synthetic:jhmdb"), ssldet.load_dataset("synthetic", flavour="jhmdb"))
    assert named.config == spelled.config
    assert named.fingerprint() == spelled.fingerprint()
    with pytest.raises(ConfigError, match=r"has the flavour jhmdb, and dataset\.flavour=ucf24 too"):
        ssldet.load_dataset("synthetic:jhmdb", flavour="ucf24")
    with pytest.raises(ConfigError, match="expected NAME or NAME:FLAVOUR"):
        ssldet.load_dataset("synthetic:")


def test_it_is_one_run_however_it_is_written(tmp_path: Path) -> None:
    given = {"strategy": "supervised", "dataset": "synthetic", "ratio": 0.2}
    spelled = resolve(given, preset="smoke", assignments=["dataset.flavour=jhmdb"])
    (tmp_path / "run.yaml").write_text("dataset: synthetic:jhmdb\nstrategy: supervised\nratio: 0.2\n")
    named = [
        resolve({**given, "dataset": "synthetic:jhmdb"}, preset="smoke"),
        resolve({}, preset="smoke", file=tmp_path / "run.yaml"),
        resolve({**given, "dataset": "synthetic:ava"}, preset="smoke", assignments=["dataset=synthetic:jhmdb"]),
    ]
    assert [config.experiment for config in named] == [spelled.experiment] * 3


@pytest.mark.parametrize("verb", ["verify", "stats", "guide"])
def test_verbs_of_data_take_it(verb: str) -> None:
    arguments = () if verb == "guide" else ("--set", "train_per_class=1", "--set", "test_per_class=1")
    result = command("data", verb, "synthetic:jhmdb", *arguments, "--json")
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["dataset"].startswith("synthetic")


def test_evaluation_and_splits_take_it(tmp_path: Path) -> None:
    named = ssldet.evaluate({}, "synthetic:jhmdb", {"frame_map": ["standard"]}, options=SMALL)
    spelled = ssldet.evaluate({}, "synthetic", {"frame_map": ["standard"]}, options={**SMALL, "flavour": "jhmdb"})
    assert named["frame_map"]["standard"].thresholds == spelled["frame_map"]["standard"].thresholds
    made = command("split", "make", "synthetic:jhmdb", tmp_path / "split.json", "--ratio", 0.5)
    assert made.exit_code == 0, made.output
    assert "no splits ship with synthetic:jhmdb" in command("split", "show", "synthetic:jhmdb").stderr


@pytest.mark.parametrize("name", ["ucf24", "jhmdb", "ava", "folder"])
def test_absent_data_end_with_what_runs_without(name: str, tmp_path: Path) -> None:
    for root in (None, tmp_path):
        with pytest.raises(DataError) as caught:
            ssldet.load_dataset(name, root)
        last = str(caught.value).splitlines()[-1]
        assert last.startswith("Without data this runs now: ssldet run --strategy supervised --dataset synthetic ")
    assert isinstance(caught.value, AbsentData)
    stderr = command("run", "--dataset", name, "--strategy", "supervised", "--data-root", tmp_path / "gone").stderr
    assert "Without data this runs now: ssldet run" in stderr


@pytest.mark.parametrize("flavour", ["jhmdb", "ava"])
def test_a_detector_is_built_for_it(flavour: str) -> None:
    detector = ssldet.build_detector("yowo_nano", dataset=f"synthetic:{flavour}", width=4, frame_hidden=8)
    assert detector.facts == ssldet.load_dataset(f"synthetic:{flavour}", **SMALL).facts
    with pytest.raises(ConfigError, match="flavour"):
        ssldet.build_detector("yowo_nano", dataset="synthetic:jmdb")


def test_stand_ins_and_maps_of_data_read_it_as_others_do(tmp_path: Path) -> None:
    refused = command("data", "synth", tmp_path / "made", "--like", "synthetic:jhmdb").stderr
    assert "no stand-in data can be made like 'synthetic'" in refused
    with pytest.raises(ConfigError, match="expected NAME or NAME:FLAVOUR"):
        parse_dataset_map("jhmdb=synthetic:")

"""`ssldet data`, `ssldet split` and `ssldet cache`, on stand-in data."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from ssldet import cli
from ssldet.contracts import Dataset
from ssldet.data.datasets import load_dataset

LIKE = ("ucf24", "jhmdb", "ava")


def ssldet(*arguments: object) -> Result:
    return CliRunner().invoke(cli.main, list(map(str, arguments)))


@pytest.fixture(scope="module")
def stand_ins(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("data")
    for name in LIKE:
        assert ssldet("data", "synth", root / name, "--like", name).exit_code == 0
    return root


@pytest.mark.parametrize("name", LIKE)
def test_stand_ins_are_complete_and_recognised(stand_ins: Path, name: str) -> None:
    result = ssldet("data", "verify", stand_ins / name, "--workers", 1, "--decode")
    assert result.exit_code == 0, result.output
    assert f"data set: {name}" in result.output
    assert "0 damaged, 0 short" in result.output
    assert result.stdout.splitlines()[-1].startswith("complete")  # a stand-in has not all classes, which is doubted


def test_stand_ins_are_the_same_every_time(stand_ins: Path, tmp_path: Path) -> None:
    ssldet("data", "synth", tmp_path / "again", "--like", "ucf24")
    ssldet("data", "synth", tmp_path / "other", "--like", "ucf24", "--seed", 1)
    again, other = (load_dataset("ucf24", tmp_path / name).fingerprint() for name in ("again", "other"))
    assert again == load_dataset("ucf24", stand_ins).fingerprint() != other
    assert ssldet("data", "synth", tmp_path / "again", "--like", "ucf24").exit_code == 2
    result = ssldet("data", "synth", tmp_path / "new", "--like", "synthetic")
    assert (result.exit_code, "no stand-in" in result.stderr) == (2, True)


def test_a_folder_takes_options_of_the_data_set_in_it(tmp_path: Path) -> None:
    ssldet("data", "synth", tmp_path / "mine", "--like", "folder")
    whole = ssldet("data", "verify", tmp_path / "mine", "--json")
    classes = list(json.loads(whole.stdout)["classes"])
    named = ssldet(
        "data", "verify", tmp_path / "mine", "--set", f"dataset.classes={json.dumps(classes[::-1])}", "--json"
    )
    assert list(json.loads(named.stdout)["classes"]) == classes[::-1]
    refused = ssldet("data", "verify", tmp_path / "mine", "--set", "dataset.clases=[a]")
    assert refused.exit_code == 2 and "did you mean" in refused.stderr and "classes" in refused.stderr


def test_verify_names_what_is_missing_and_damaged(stand_ins: Path, tmp_path: Path) -> None:
    root = tmp_path / "ucf24"
    ssldet("data", "synth", root, "--like", "ucf24")
    first, second, third = sorted((root / "UCF-101").rglob("*.avi"))[:3]
    first.unlink()
    second.write_bytes(second.read_bytes()[:2000])
    third.write_bytes(b"")
    result = ssldet("data", "verify", "ucf24", "--data-root", root, "--decode", "--workers", 2, "--json")
    assert result.exit_code == 1
    found = json.loads(result.stdout)
    assert found["videos"] == {"train": 40, "test": 8}
    assert found["decoded"] == 47
    assert sorted(problem["video"].rpartition("/")[2] for problem in found["problems"]) == [
        path.stem for path in (first, second, third)
    ]
    text = ssldet("data", "verify", "ucf24", "--data-root", root).output
    assert str(first) in text and "incomplete: 1 problem, 2 doubts" in text


def test_verify_checks_listed_videos_only(stand_ins: Path, tmp_path: Path) -> None:
    root = tmp_path / "ucf24"
    ssldet("data", "synth", root, "--like", "ucf24")
    first, second, third = sorted((root / "UCF-101").rglob("*.avi"))[:3]
    first.unlink()
    second.write_bytes(b"")
    ids = [f"{path.parent.name}/{path.stem}" for path in (first, second, third)]
    asked = ("data", "verify", "ucf24", "--data-root", root, "--workers", 1, "--decode", "--json", "--videos")
    found = ssldet(*asked, f"{ids[2]},")
    assert (found.exit_code, json.loads(found.stdout)["problems"]) == (0, [])
    assert (json.loads(found.stdout)["decoded"], sum(json.loads(found.stdout)["videos"].values())) == (1, 1)
    found = ssldet(*asked, ",".join(ids))
    assert found.exit_code == 1
    assert {problem["video"] for problem in json.loads(found.stdout)["problems"]} == set(ids[:2])
    found = ssldet(*asked, f"{ids[2]},nobody")
    assert found.exit_code == 2 and "1 listed videos are not in ucf24, such as 'nobody'" in found.stderr


def test_folders_that_hold_nothing_known(tmp_path: Path) -> None:
    result = ssldet("data", "verify", tmp_path)
    assert result.exit_code == 2
    assert "no data set was recognised" in result.stderr
    assert "did you mean 'jhmdb'" in ssldet("data", "stats", "jhmbd").stderr


def test_list_says_what_lies_below_the_root(stand_ins: Path) -> None:
    found = {
        row["name"]: row["layout"]
        for row in json.loads(ssldet("data", "list", "--data-root", stand_ins, "--json").stdout)
    }
    assert all(found[name] for name in LIKE)
    assert found["synthetic"] is None
    assert "puppet masks" in ssldet("data", "list", "--data-root", stand_ins).stdout


def test_stats(stand_ins: Path) -> None:
    found = json.loads(ssldet("data", "stats", "ucf24", "--data-root", stand_ins, "--json").stdout)
    assert (found["subsets"]["train"]["videos"], found["subsets"]["test"]["videos"]) == (40, 8)
    assert found["subsets"]["all"]["tubes"] > 48
    assert [row["printed"] for row in found["table_1"]] == ["one or two", "one", "yes", "no"]
    text = ssldet("data", "stats", "ava", "--data-root", stand_ins).stdout
    assert "Table 1 prints 'yes'" in text
    assert "talk to" in text


def test_prepare_goes_on_where_it_was(stand_ins: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSLDET_CACHE", str(tmp_path))
    arguments = ("data", "prepare", "ucf24", "--data-root", stand_ins, "--size", 32, "--workers", 1)
    assert "48 videos decoded" in ssldet(*arguments).stdout
    next(tmp_path.rglob("*.npy")).unlink()
    assert "1 videos decoded" in ssldet(*arguments).stdout
    (entry,) = json.loads(ssldet("cache", "list", "--json").stdout)["entries"]
    assert entry["name"].startswith("frames/ucf24-32-")
    assert entry["bytes"] > 48 * 16 * 32 * 32 * 3
    assert entry["name"] in ssldet("cache", "list").stdout
    assert ssldet("cache", "clear", "absent", "--yes").exit_code == 2
    assert ssldet("cache", "clear").exit_code == 2  # nobody can say yes
    assert len(list(tmp_path.rglob("*.npy"))) == 48
    assert "removed 1 entries" in ssldet("cache", "clear", "ucf24", "--yes").stdout
    assert not list(tmp_path.rglob("*.npy"))
    assert "removed 0 entries" in ssldet("cache", "clear", "--yes").stdout


@pytest.mark.parametrize("name", LIKE)
def test_guides_say_where_and_how_much(name: str) -> None:
    text = ssldet("data", "guide", name).stdout
    assert "--data-root" in text and "GB" in text + "GB" * (name == "jhmdb")
    assert "nothing" in ssldet("data", "guide", "synthetic").stdout


def test_splits_are_made_shown_and_verified(stand_ins: Path, tmp_path: Path) -> None:
    file = tmp_path / "split.json"
    made = ssldet("split", "make", "ava", file, "--ratio", 0.2, "--data-root", stand_ins)
    assert "2 labelled, 8 unlabelled" in made.stdout
    assert ssldet("split", "show", file).stdout.startswith("ava split 1, ratio 0.2, seed 0: 2 labelled")
    assert ssldet("split", "verify", file, "--data-root", stand_ins).exit_code == 0
    assert "not compared" in ssldet("split", "verify", file, "--data-root", tmp_path).stdout
    file.write_text(file.read_text().replace('"seed": 0', '"seed": 5'))
    assert ssldet("split", "verify", file).exit_code == 2
    assert "made" not in ssldet("split", "make", "ava", file, "--data-root", stand_ins).stdout
    assert "either --ratio" in ssldet("split", "make", "ava", file, "--data-root", stand_ins).stderr
    assert "no splits ship with ava" in ssldet("split", "show", "ava").stderr


def test_what_ships_is_checked_against_the_data(stand_ins: Path) -> None:
    """Stand-ins are not the real data, and that is said."""
    result = ssldet("split", "verify", "--data-root", stand_ins, "--json")
    rows = json.loads(result.stdout)
    assert (result.exit_code, len(rows)) == (1, 20)
    assert all("not in the data" in row["found"] for row in rows)
    assert len(json.loads(ssldet("split", "show", "ucf24", "--json").stdout)) == 10


def test_a_published_list_is_imported(stand_ins: Path, tmp_path: Path) -> None:
    dataset: Dataset = load_dataset("ucf24", stand_ins)
    ids = [video.id for video in dataset.videos("train")][:5]
    (tmp_path / "list.txt").write_text("\n".join([*ids, "Nobody/knows"]))
    result = ssldet(
        "split", "make", "ucf24", tmp_path / "s.json", "--from", tmp_path / "list.txt", "--data-root", stand_ins
    )
    assert "imported: 5 labelled, 35 unlabelled" in result.stdout
    assert "Nobody/knows" in result.stderr
    assert ssldet("split", "verify", tmp_path / "s.json", "--data-root", stand_ins).exit_code == 0


@pytest.mark.slow
@pytest.mark.real
def test_real_jhmdb_with_full_decoding(shared: Path) -> None:
    start = time.perf_counter()
    result = ssldet("data", "verify", "jhmdb", "--data-root", shared / "data", "--decode", "--workers", os.cpu_count())
    assert result.exit_code == 0
    assert "decoded: 928 videos, 0 damaged, 0 short" in result.output
    assert time.perf_counter() - start < 120


@pytest.mark.real
def test_short_files_of_real_ucf24_are_reported(shared: Path) -> None:
    result = ssldet("data", "verify", "ucf24", "--data-root", shared / "data", "--decode", "--workers", 2, "--json")
    assert json.loads(result.stdout)["short"] == {
        "Basketball/v_Basketball_g16_c03": [125, 131],
        "Basketball/v_Basketball_g16_c04": [90, 96],
        "Basketball/v_Basketball_g17_c02": [114, 115],
    }

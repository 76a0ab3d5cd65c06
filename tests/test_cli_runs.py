"""`ssldet runs`: what the list and the page of a run say, what is removed and what is not, and completion."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from made_claims import held
from test_run_store import CONFIG, interrupt, write_run

from ssldet.cli import main
from ssldet.config import resolve
from ssldet.util.files import file_hash

METRICS = {
    "video_map": {"yowo": {"thresholds": {"0.5": {"mean": 0.123, "per_class": {}}}}},
    "frame_map": {
        "standard": {"thresholds": {"0.5": {"mean": 0.3, "per_class": {}}}},
        "yowo": {"thresholds": {"0.5": {"mean": 0.456, "per_class": {}}}},
    },
}


def invoke(*arguments: Any) -> Result:
    return CliRunner().invoke(main, ["runs", *map(str, arguments)])


def listed(results: Path, *filters: Any) -> list[str]:
    found = json.loads(invoke("list", "--results", results, "--json", *filters).stdout)
    return [run["id"][0] for run in found]


def experiment(**fields: Any) -> dict[str, Any]:
    return {**CONFIG, "experiment": {**CONFIG["experiment"], **fields}}


@pytest.fixture
def results(tmp_path: Path) -> Path:
    """Runs a to d: done, done with other settings, failed, interrupted; in this order of age."""
    write_run(tmp_path, "a" * 12, metrics=METRICS, config=experiment(backbone="yowo_nano", eval_on="test"))
    other = experiment(strategy="fixmatch", strategy_options={"o_th": 0.3}, ratio=0.1, seed=2, split=3)
    other["experiment"] |= {"dataset_options": {"flavour": "jhmdb"}, "backbone": "yowo", "eval_on": "val"}
    other["machine"] = {"preset": "nano"}
    write_run(tmp_path, "b" * 12, config=other)
    write_run(tmp_path, "c" * 12, "failed", notes={"error": "loss is nan\nat step 3"})
    folder = write_run(tmp_path, "d" * 12)
    interrupt(folder)
    for age, key in enumerate("dcba"):
        for path in next(tmp_path.glob(f"*{key * 12}")).iterdir():
            os.utime(path, (9000 - age, 9000 - age))
    return tmp_path


def test_the_list_has_a_line_a_run_the_newest_last(results: Path) -> None:
    lines = invoke("list", "--results", results).stdout.splitlines()
    assert [line.split()[0] for line in lines] == ["id", "a" * 12, "b" * 12, "c" * 12, "d" * 12]
    start = ["done", "supervised", "synthetic", "data", "0.2", "0", "1", "smoke"]
    assert lines[0].split()[9:14] == ["backbone", "eval", "on", "protocol", "V@0.5"]
    assert lines[1].split()[1:13] == [*start, "yowo_nano", "test", "yowo", "12.3"]
    assert "45.6" in lines[1]
    assert "fixmatch o_th=0.3" in lines[2] and "synthetic:jhmdb" in lines[2]
    assert lines[3].endswith("loss is nan")
    assert "interrupted" in lines[4]


def test_what_all_runs_share_is_said_once(tmp_path: Path) -> None:
    for key, fields in (("a", {"seed": 0}), ("b", {"seed": 1})):
        config = experiment(**fields, backbone="yowo_nano", eval_on="test")
        config["machine"] = {"preset": "smoke", "data_root": "videos"}
        write_run(tmp_path, key * 12, metrics=METRICS, config=config, data_fingerprint=key * 64)
    shared, head, *lines = invoke("list", "--results", tmp_path).stdout.splitlines()
    assert shared == (
        "all: strategy supervised, dataset synthetic, ratio 0.2, split 1, preset smoke, backbone yowo_nano, "
        "eval on test, protocol yowo"
    )
    assert head.split() == ["id", "status", "data", "seed", "V@0.5", "F@0.5", "train", "date"]
    assert [line.split()[2:4] for line in lines] == [["aaaaaaaa", "0"], ["bbbbbbbb", "1"]]
    assert all(len(line) <= 80 for line in (head, *lines))
    runs = json.loads(invoke("list", "--results", tmp_path, "--json").stdout)
    assert [(run["data_fingerprint"], run["data_root"]) for run in runs] == [("a" * 64, "videos"), ("b" * 64, "videos")]


def test_the_protocol_is_that_of_the_data_set(tmp_path: Path) -> None:
    for key, options in (("a", {}), ("b", {"flavour": "ava"})):
        write_run(tmp_path, key * 12, metrics=METRICS, config=experiment(dataset_options=options))
    runs = {run["id"][0]: run for run in json.loads(invoke("list", "--results", tmp_path, "--json").stdout)}
    assert [(runs[key]["protocol"], runs[key]["metrics"]["F@0.5"]) for key in "ab"] == [
        ("yowo", 0.456),
        ("standard", 0.3),
    ]


def test_runs_are_dated_by_their_record_and_else_by_their_files(results: Path) -> None:
    folder = write_run(results, "e" * 12, finished="2026-03-04T05:06:07+00:00")
    os.utime(folder / "record.json", (1, 1))
    runs = {run["id"][0]: run for run in json.loads(invoke("list", "--results", results, "--json").stdout)}
    assert datetime.fromisoformat(runs["e"]["date"]) == datetime(2026, 3, 4, 5, 6, 7, tzinfo=UTC)
    assert (runs["e"]["date_from"], runs["a"]["date_from"]) == ("record", "files")
    assert datetime.fromisoformat(runs["a"]["date"]).timestamp() == 9000 - 3
    lines = {line[0]: line for line in invoke("list", "--results", results).stdout.splitlines()}
    assert "~" in lines["a"] and "~" not in lines["e"]


@pytest.mark.parametrize(
    ("filters", "chosen"),
    [
        ([], "abcd"),
        (["--strategy", "fixmatch"], "bd"),
        (["--dataset", "synthetic"], "abc"),
        (["--dataset", "synthetic:jhmdb"], "b"),
        (["--ratio", "0.20"], "ac"),
        (["--seed", "2"], "b"),
        (["--split", "3"], "b"),
        (["--preset", "nano"], "b"),
        (["--backbone", "yowo"], "b"),
        (["--eval-on", "val"], "b"),
        (["--eval-on", "test", "--backbone", "yowo_nano"], "a"),
        (["--status", "done"], "ab"),
        (["--status", "failed"], "c"),
        (["--status", "interrupted"], "d"),
        (["--status", "done", "--preset", "smoke"], "a"),
    ],
)
def test_filters_choose_runs(results: Path, filters: list[str], chosen: str) -> None:
    assert "".join(listed(results, *filters)) == chosen


def test_a_run_that_is_carried_out_is_listed_as_running(results: Path) -> None:
    with held(next(results.glob("*" + 12 * "d"))):
        assert listed(results, "--status", "running") == ["d"]
        assert "no record" not in invoke("list", "--results", results).stdout
    assert listed(results, "--status", "running") == []


def test_where_nothing_is_found_the_list_says_so_beside_its_result(results: Path) -> None:
    done = invoke("list", "--results", results, "--seed", 9)
    assert (done.exit_code, done.stdout) == (0, "")
    assert "no such run" in done.stderr and "(4 runs there)" in done.stderr


def test_options_are_listed_only_where_they_differ_from_the_preset(tmp_path: Path) -> None:
    usual = resolve({"strategy": "dual_guidance", "dataset": "synthetic", "ratio": 0.2}, preset="smoke").experiment
    config = experiment(strategy="dual_guidance", strategy_options={**usual.strategy_options, "temporal": False})
    write_run(tmp_path, "a" * 12, config=config)
    (run,) = json.loads(invoke("list", "--results", tmp_path, "--json").stdout)
    assert run["options"] == {"temporal": False}


# ----------------------------------------------------------------------------------------------------- show


def with_files(results: Path) -> Path:
    line = {"step": 7, "losses": {"box": 1.25}, "pseudo_labels": {"box_precision": 0.75}}
    folder = next(results.glob("*" + 12 * "a"))
    (folder / "log.jsonl").write_text(json.dumps(line) + "\n")
    write_run(results, "a" * 12, metrics=METRICS, files={"log.jsonl": file_hash(folder / "log.jsonl")})
    return folder


def test_show_has_numbers_origin_files_and_the_end_of_the_log(results: Path) -> None:
    folder = with_files(results)
    done = invoke("show", "aa", "--results", results)
    assert done.exit_code == 0
    for words in ("12.3", str(folder), "1 labelled, 2 unlabelled", "log.jsonl", "1.25", "0.75"):
        assert words in done.stdout
    content = json.loads(invoke("show", folder, "--json").stdout)
    assert content["record"]["training"]["steps"] == 4 and content["log"][0]["step"] == 7
    assert "steps 7 to 7" not in done.stdout  # one line makes no curve


def write_log(results: Path, lines: int) -> None:
    """A run whose losses fall, whose pseudo-labels get better, and whose teacher is ahead of its student."""
    folder = next(results.glob("*" + 12 * "a"))
    written = []
    for i in range(1, lines + 1):
        second, scored = i > lines // 2, i in (lines - 2, lines)
        losses = {"box": 10 / i} | ({"box_u": 0.5} if second else {})
        scores = {"student": {"F@0.5": 0.1 * i / lines}, "teacher": {"F@0.5": 0.2 * i / lines}}
        written.append(
            {"step": 10 * i, "losses": losses, "unlabelled_ratio": 0.5 / (10 / i) if second else None}
            | {"pseudo_labels": {"frame_coverage": i / lines, "box_precision": None} if second else None}
            | {"validation": scores if scored else None}
        )
    (folder / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in written))


def test_show_draws_small_curves_of_the_whole_log(results: Path) -> None:
    write_log(results, 8)
    lines = invoke("show", "aa", "--results", results).stdout.splitlines()
    rows = {line[:18].strip(): line[18:].rstrip() for line in lines[lines.index("") :]}
    assert "steps 10 to 80" in rows
    assert rows["box"].split() == ["█▄▃▂▂▁▁▁", "10", "1.25", "1.25", "10"]
    assert rows["box_u"].split() == ["▁▁▁▁", "0.5", "0.5", "0.5", "0.5"]
    assert rows["box_u"].startswith("    ▁▁▁▁")  # the second stage begins half way
    assert rows["frame_coverage"].split()[0] == "▅▆▇█"
    assert rows["teacher F@0.5"].split()[:2] == ["▆", "█"]  # two lines have scores
    assert rows["student F@0.5"].split()[:2] == ["▄", "▅"]  # on the teacher's scale
    assert "box_precision" not in rows  # never known


def test_curves_are_narrow_however_long_the_log(results: Path) -> None:
    write_log(results, 300)
    lines = invoke("show", "aa", "--results", results).stdout.splitlines()
    (row,) = [line for line in lines if line.startswith("box ") and "█" in line]
    assert len(row) < 80 and len(row.split()[1]) == 24


def test_show_gives_the_series_as_json(results: Path) -> None:
    write_log(results, 4)
    content = json.loads(invoke("show", "aa", "--results", results, "--json").stdout)["curves"]
    assert content["losses"]["box"] == {"steps": [10, 20, 30, 40], "values": [10, 5, pytest.approx(10 / 3), 2.5]}
    assert content["losses"]["unlabelled_ratio"]["steps"] == [30, 40]
    assert content["pseudo_labels"] == {"frame_coverage": {"steps": [30, 40], "values": [0.75, 1]}}
    assert content["validation"]["teacher F@0.5"] == {"steps": [20, 40], "values": [0.1, 0.2]}


def test_verify_finds_files_that_changed_or_are_absent(results: Path) -> None:
    folder = with_files(results)
    assert invoke("show", "a", "--results", results, "--verify").exit_code == 0
    (folder / "log.jsonl").write_text("{}")
    done = invoke("show", "a", "--results", results, "--verify", "--json")
    assert (done.exit_code, json.loads(done.stdout)["files"]) == (1, {"log.jsonl": "changed"})
    (folder / "log.jsonl").unlink()
    done = invoke("show", "a", "--results", results, "--verify")
    assert done.exit_code == 1 and "absent" in done.stdout


@pytest.mark.parametrize(("name", "words"), [("c", "loss is nan"), ("d", "the same `ssldet run` goes on with it")])
def test_show_says_what_is_wrong_with_a_run(results: Path, name: str, words: str) -> None:
    done = invoke("show", name, "--results", results)
    assert done.exit_code == 0 and words in done.stdout


def test_unknown_and_ambiguous_runs_are_refused_with_what_exists(results: Path) -> None:
    write_run(results, "ab" * 6)
    for name, words in (("zz", "d" * 12), ("a", "ab" * 6)):
        done = invoke("show", name, "--results", results)
        assert done.exit_code == 2 and words in done.stderr


# --------------------------------------------------------------------------------------------------- remove


def test_rm_removes_what_is_named(results: Path) -> None:
    done = invoke("rm", "a", "b", "a", "--results", results, "--yes")
    assert done.stdout.splitlines() == ["removed " + "a" * 12, "removed " + "b" * 12]
    assert listed(results) == ["c", "d"]


def test_rm_removes_what_filters_choose_but_no_run_that_is_carried_out(results: Path) -> None:
    write_run(results, "e" * 12, "failed")
    with held(next(results.glob("*" + 12 * "c"))):
        done = invoke("rm", "--strategy", "supervised", "--results", results, "--yes")
        assert done.exit_code == 0 and "kept " + "c" * 12 in done.stderr
        refused = invoke("rm", "b", "c", "--results", results, "--yes")
    assert (refused.exit_code, "is being carried out" in refused.stderr) == (2, True)
    assert sorted(listed(results)) == ["b", "c", "d"]


def test_rm_removes_nothing_unasked(results: Path) -> None:
    refused = invoke("rm", "a", "--results", results)
    assert refused.exit_code == 2 and "--yes" in refused.stderr
    shown = invoke("rm", "a", "--results", results, "--dry-run")
    assert shown.exit_code == 0 and "would remove " + "a" * 12 in shown.stdout
    assert invoke("rm", "--results", results, "--yes").exit_code == 2  # neither named nor chosen
    assert invoke("rm", "a", "--status", "failed", "--results", results, "--yes").exit_code == 2  # both
    assert invoke("rm", results, "--yes").exit_code == 2  # no run
    assert listed(results) == ["a", "b", "c", "d"]


def test_rm_asks_on_a_terminal(results: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ssldet.cli.output.can_ask", lambda: True)
    for answer, left in (("n\n", "abcd"), ("y\n", "bcd")):
        CliRunner().invoke(main, ["runs", "rm", "a", "--results", str(results)], input=answer)
        assert "".join(listed(results)) == left


# ----------------------------------------------------------------------------------------------- completion


def test_the_shell_completes_ids_and_nothing_heavy_is_imported(results: Path) -> None:
    code = (
        "import sys\nfrom ssldet.cli import main\ntry:\n    main(prog_name='ssldet')\nexcept SystemExit:\n    pass\n"
        "sys.exit('torch' in sys.modules)"
    )
    words = f"ssldet runs show --results {results} a"
    environment = {"_SSLDET_COMPLETE": "bash_complete", "COMP_WORDS": words, "COMP_CWORD": "5"}
    done = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, **environment}, capture_output=True, text=True
    )
    assert (done.returncode, done.stdout.split()) == (0, ["plain," + "a" * 12])

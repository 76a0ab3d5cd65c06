"""`ssldet.load_records`: the numbers of runs as a table of pandas."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
from made_records import config_of, record_of, write_interrupted, write_record

import ssldet
from ssldet.contracts import MetricResult, MetricValue
from ssldet.errors import RequestError
from ssldet.runs.record import Record


def scored(seed: int, value: float) -> Record:
    """A record with a mean of two classes, the recall pair, one kind of error, and a metric that is not installed."""
    record = record_of(config_of(seed=seed), None)
    metrics = {
        "video_map": {"yowo": MetricResult("yowo", {"0.5": MetricValue(value, {"run": 2 * value, "jump": None})})},
        "recall": {"standard": MetricResult("standard", scalars={"localization": 0.5, "classification": None})},
        "errors": {"act": MetricResult("act", kinds={"localization": MetricValue(0.25)})},
        "unknown": {"p": MetricResult("p", scalars={"k": 1.0})},
    }
    return Record.model_validate({**record.model_dump(), "metrics": metrics})


def test_one_row_a_run_and_value(tmp_path: Path) -> None:
    record = scored(3, 0.25)
    folder = write_record(tmp_path, record)
    frame = ssldet.load_records(tmp_path)
    expected = [
        ("video_map", "yowo", "0.5", "V@0.5", None, 0.25),
        ("video_map", "yowo", "0.5", "V@0.5", "run", 0.5),
        ("video_map", "yowo", "0.5", "V@0.5", "jump", None),
        ("recall", "standard", "localization", "Loc", None, 0.5),
        ("recall", "standard", "classification", "Cls", None, None),
        ("errors", "act", "localization", "E-loc", None, 0.25),
        ("unknown", "p", "k", "k", None, 1.0),
    ]
    names = ["metric", "protocol", "key", "column", "class", "value"]
    given = frame[names].astype(object).where(frame[names].notna(), None)
    assert list(given.itertuples(index=False, name=None)) == expected
    experiment = record.config["experiment"]
    run = {name: experiment[name] for name in ("strategy", "dataset", "ratio", "seed", "split", "backbone", "eval_on")}
    run |= {"id": record.id, "status": "done", "preset": "nano", "pretrained": False, "folder": str(folder)}
    for name, value in run.items():
        assert set(frame[name]) == {value}, name
    assert frame["strategy_options"][0] == experiment["strategy_options"]


def test_means_over_seeds_are_one_line_of_pandas(tmp_path: Path) -> None:
    for seed, value in enumerate((0.125, 0.25, 0.75)):
        write_record(tmp_path / "one" if seed else tmp_path / "other", scored(seed, value))
    frame = ssldet.load_records([tmp_path / "one", tmp_path / "other", tmp_path / "one"])
    means = frame[(frame["column"] == "V@0.5") & frame["class"].isna()]
    assert means.groupby(["dataset", "strategy", "ratio"])["value"].agg(["mean", "count"]).values.tolist() == [
        [0.375, 3]
    ]


def test_runs_without_numbers_have_one_row(tmp_path: Path) -> None:
    write_record(tmp_path, record_of(config_of(seed=1), None, status="failed"))
    write_interrupted(tmp_path, config_of(seed=2))
    damaged = write_record(tmp_path, record_of(config_of(seed=3)))
    (damaged / "record.json").write_text("{")
    (damaged / "config.yaml").write_text("experiment: {strategy: [1], ratio: x, seed: 1.5, split: true}\nmachine: 3\n")
    frame = ssldet.load_records(tmp_path).sort_values("status").reset_index(drop=True)
    assert frame["status"].tolist() == ["damaged", "failed", "interrupted"]
    assert frame[["metric", "protocol", "key", "column", "class", "value"]].isna().all(axis=None)
    assert frame["seed"].isna().tolist() == [True, False, False] and frame["seed"].tolist()[1:] == [1, 2]
    assert frame.loc[0, ["strategy", "ratio", "split", "preset"]].isna().all()


def test_no_runs_make_an_empty_frame_of_the_same_columns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_record(tmp_path / "runs", scored(0, 0.5))
    empty, full = ssldet.load_records(), ssldet.load_records("runs")
    assert empty.empty and isinstance(empty, pd.DataFrame)
    assert empty.dtypes.to_dict() == full.dtypes.to_dict()


def test_a_folder_that_does_not_exist_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="absent: no such folder"):
        ssldet.load_records([tmp_path, tmp_path / "absent"])

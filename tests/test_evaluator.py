"""`ssldet.evaluate`: detections of a file or in memory, scored against an opened data set or one that is named."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from made_detections import BOX, FACTS, Made, detections, perfect

import ssldet
from ssldet.contracts import MetricResult, VideoDetections
from ssldet.errors import DataError, DetectionsError, UnknownName
from ssldet.evaluation.detections import DetectionsWriter

FAR = (100, 100, 140, 140)
RUN = (1.0, np.nan, np.nan)
FOUND = {"a": detections([(0, BOX, 0.9, RUN), (1, BOX, 0.8, RUN), (2, FAR, 0.7, RUN), (3, BOX, 0.6, RUN)])}


def test_numbers_worked_out_by_hand():
    """Of class run: hit, hit, miss, hit of 4 truths; the precision that every point takes is 1, 1, 3/4."""
    found = ssldet.evaluate(FOUND, Made(), {"frame_map": ["standard"], "recall": []})
    assert list(found) == ["frame_map", "recall"] and list(found["frame_map"]) == ["standard"]
    value = found["frame_map"]["standard"].thresholds["0.5"]
    assert value.per_class == {"run": pytest.approx((1 + 1 + 3 / 4) / 4), "jump": 0.0, "wave": None}
    assert found.value("frame_map", "standard", "F@0.5") == value.mean == pytest.approx(0.34375)
    assert found.value("recall", "standard", "Loc") == found.value("recall", "standard", "classification") == 3 / 8
    assert (found.dropped, found.left_out) == ({}, {})


def test_a_file_and_what_it_holds_score_the_same(tmp_path):
    sure = {name: dataclasses.replace(found, scores_nk=np.nan_to_num(found.scores_nk)) for name, found in FOUND.items()}
    with DetectionsWriter(tmp_path / "found.parquet", FACTS) as writer:
        writer.add("a", sure["a"])
    results = [ssldet.evaluate(given, Made()) for given in (sure, tmp_path / "found.parquet")]
    results.append(ssldet.evaluate(str(tmp_path / "found.parquet"), Made()))
    assert results[0] == results[1] == results[2]
    assert set(results[0]) == {"errors", "frame_map", "recall", "video_map"}
    assert set(results[0]["frame_map"]) == {"standard", "yowo", "act"}
    assert all(isinstance(result, MetricResult) for result in results[0]["errors"].values())


@pytest.mark.parametrize("metrics", ["recall", ["recall"], {"recall": ()}, {"recall": ["standard"]}])
def test_metrics_are_named_in_several_forms(metrics):
    assert list(ssldet.evaluate(FOUND, Made(), metrics)) == ["recall"]


def test_metrics_that_do_not_apply_are_left_out_unless_they_are_named():
    class Several(Made):
        facts = dataclasses.replace(FACTS, multilabel=True)

    found = ssldet.evaluate(FOUND, Several())
    assert "video_map" not in found and "key frames" in found.left_out["video_map"]


def test_listed_videos_restrict_the_truth():
    assert ssldet.evaluate(FOUND, Made(), "recall", videos=["a"]).value("recall", "standard", "Loc") == 3 / 4
    assert ssldet.evaluate(FOUND, Made(), "recall", videos=["c", "a"]).value("recall", "standard", "Loc") == 3 / 8


def test_a_data_set_may_be_named():
    dataset = ssldet.load_dataset("synthetic", train_per_class=1, test_per_class=1)
    found = {one.id: perfect(dataset.truth(one.id)) for one in dataset.videos("test")}
    options = {"train_per_class": 1, "test_per_class": 1}
    scored = ssldet.evaluate(found, "synthetic", ["frame_map", "recall"], options=options)
    assert scored.value("frame_map", "yowo", "0.5:0.95") == scored.value("recall", "standard", "Cls") == 1.0


def changed(**fields: Any) -> dict[str, VideoDetections]:
    return {"a": dataclasses.replace(FOUND["a"], **fields)}


@pytest.mark.parametrize(
    ("found", "message"),
    [
        ({"x": FOUND["a"]}, "video 'x', row 0: column 'video' is 'x', which is none of the 2 videos"),
        (changed(frames_n=np.array([0, 1, 2, 4])), "video 'a', row 3: column 'frame' is 5, expected 1 to 4"),
        (changed(frames_n=np.array([0, 1, 2, 3.0])), "frames_n holds float64, expected whole numbers"),
        (changed(frames_n=np.array([0, 1])), r"boxes_n4 has shape \(4, 4\), expected \(2, 4\)"),
        (changed(scores_nk=np.ones((4, 2), np.float32)), r"scores_nk has shape \(4, 2\), expected \(4, 3\)"),
        (changed(confidence_n=np.full(4, 2, np.float32)), "row 0: column 'confidence' holds 2"),
        (changed(boxes_n4=np.full((4, 4), np.nan, np.float32)), "row 0: column 'x1' is NaN"),
    ],
)
def test_unsound_detections_in_memory_are_refused(found, message):
    with pytest.raises(DetectionsError, match=message):
        ssldet.evaluate(found, Made(), "recall")


def test_unsound_rows_in_memory_are_dropped_and_counted_when_told_so():
    found = ssldet.evaluate(changed(frames_n=np.array([0, 1, 2, 9])), Made(), "recall", lenient=True)
    assert found.dropped == {"frame out of range": 1} and found.value("recall", "standard", "Loc") == 2 / 8


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"metrics": "recal"}, UnknownName, "did you mean 'recall'"),
        ({"metrics": {"recall": ["yowo"]}}, UnknownName, "unknown protocol of metric recall 'yowo'"),
        ({"videos": ["a", "x"]}, DataError, "has no video 'x' in split 1"),
        ({"dataset": "sinthetic"}, UnknownName, "did you mean 'synthetic'"),
    ],
)
def test_requests_that_cannot_be_carried_out_are_refused_before_the_file_is_read(arguments, error, message):
    with pytest.raises(error, match=message):
        ssldet.evaluate(Path("absent.parquet"), **{"dataset": Made(), **arguments})

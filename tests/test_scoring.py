from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
from made_detections import FACTS, perfect, shuffled, truth, video

from ssldet import plugins
from ssldet.contracts import VideoDetections
from ssldet.errors import UnknownName
from ssldet.evaluation.detections import DetectionsWriter, read_detections
from ssldet.evaluation.results import as_json
from ssldet.evaluation.scoring import applicable, score

BOX = (10, 10, 50, 50)
VIDEOS = [video("a"), video("b")]
TRUTH = {name: truth([(f, BOX, label, 0) for f in range(4)]) for label, name in enumerate("ab")}
FOUND = {name: perfect(own) for name, own in TRUTH.items()}


def scored(metrics, found=FOUND, read=TRUTH.__getitem__):
    return score(FACTS, VIDEOS, read, found, metrics)


def test_a_record_holds_metric_protocol_threshold():
    content = as_json(scored({"frame_map": ["standard", "yowo"], "video_map": ["standard", "yowo"], "recall": []}))
    assert json.loads(json.dumps(content)) == content
    for protocol in ("standard", "yowo"):
        assert content["frame_map"][protocol]["protocol"] == protocol
        assert content["frame_map"][protocol]["thresholds"]["0.5"]["mean"] == 1.0
        assert content["frame_map"][protocol]["thresholds"]["0.5"]["per_class"]["jump"] == 1.0
        assert {"0.1", "0.2", "0.5"} <= set(content["video_map"][protocol]["thresholds"])
    assert content["recall"]["localization"] == content["recall"]["classification"] == 1.0


def test_the_default_protocol_is_the_metrics_first():
    assert list(scored({"frame_map": []})["frame_map"]) == ["standard"]


def test_truth_is_read_once_per_video():
    asked = []

    def read(name):
        asked.append(name)
        return TRUTH[name]

    scored({"frame_map": ["standard", "act"], "recall": []}, read=read)
    assert asked == ["a", "b"]


def test_truth_and_detections_match_by_id():
    reordered, swapped = dict(reversed(FOUND.items())), {"a": FOUND["b"], "b": FOUND["a"]}
    results = [scored({"video_map": []}, found)["video_map"]["standard"] for found in (reordered, swapped)]
    means = [result.thresholds["0.5"].mean for result in results]
    assert means == [1.0, 0.5]  # a box offered for a class with score 0 is offered still


def test_a_video_without_an_entry_has_no_detections():
    value = scored({"frame_map": []}, {"a": FOUND["a"]})["frame_map"]["standard"].thresholds["0.5"]
    assert value.per_class == {"run": 1.0, "jump": 0.0, "wave": None}


def test_metrics_that_do_not_fit_the_data_are_told_with_the_reason():
    wanted, reasons = applicable(FACTS)
    assert {"frame_map", "video_map", "recall"} <= set(wanted) and wanted["frame_map"][0] == "standard"
    assert not reasons
    wanted, reasons = applicable(dataclasses.replace(FACTS, multilabel=True))
    assert "frame_map" in wanted and list(reasons) == ["video_map"]


def test_unknown_metrics_are_named():
    with pytest.raises(UnknownName, match="did you mean 'frame_map'"):
        scored({"frame_mapp": []})


def test_a_file_scores_as_the_detections_that_it_holds(tmp_path):
    rng = np.random.default_rng(0)
    noisy = {
        name: VideoDetections(own.frames_n, own.boxes_n4 + rng.normal(0, 3, own.boxes_n4.shape).astype(np.float32),
                              rng.random(4, np.float32), rng.random((4, 3), np.float32))
        for name, own in FOUND.items()
    }  # fmt: skip
    with DetectionsWriter(tmp_path / "found.parquet", FACTS) as writer:
        for name, own in noisy.items():
            writer.add(name, shuffled(own))
    metrics = {"frame_map": ["standard", "yowo", "act"], "video_map": ["standard", "yowo", "act"], "recall": []}
    read = read_detections(tmp_path / "found.parquet", FACTS, VIDEOS)
    assert as_json(scored(metrics, read)) == as_json(scored(metrics, noisy))


# ------------------------------------------------------------------------------------------ published numbers


@pytest.fixture(scope="module")
def oracle(shared, oracles):
    """The data set, its 15 videos, simulated detections by video id, and what the public code scores them."""
    expected = json.loads((oracles / "detections_ucf24_expected.json").read_text())
    rows = dict(np.load(oracles / "detections_ucf24.npz"))
    dataset = plugins.load("dataset", "ucf24")(shared / "data" / "ucf24")
    videos = [one for one in dataset.videos("test") if one.id in expected["videos"]]
    found = {}
    for one in videos:
        own = rows["video"] == one.id
        frames_n = rows["frame"][own].astype(np.int64) - 1
        found[one.id] = VideoDetections(frames_n, rows["box"][own], np.ones(own.sum(), np.float32), rows["score"][own])
    return dataset, videos, found, expected


@pytest.mark.real
def test_yowo_video_ap_equals_the_public_code(oracle):
    dataset, videos, found, expected = oracle
    results = score(dataset.facts, videos, dataset.truth, found, {"video_map": ["yowo"]})
    for threshold, values in expected["yowo_video_ap"].items():
        per_class = results["video_map"]["yowo"].thresholds[threshold].per_class
        np.testing.assert_allclose(list(per_class.values()), values, atol=1e-6)


@pytest.mark.real
def test_yowo_frame_ap_equals_the_public_code(oracle):
    dataset, videos, found, expected = oracle
    offered = {
        name: VideoDetections(
            own.frames_n, own.boxes_n4, own.confidence_n, np.where(own.scores_nk > 0.05, own.scores_nk, np.nan)
        )
        for name, own in found.items()
    }
    results = score(dataset.facts, videos, dataset.truth, offered, {"frame_map": ["yowo"]})
    per_class = results["frame_map"]["yowo"].thresholds["0.5"].per_class
    for label, value in expected["frame_ap"].items():
        found_value = per_class[dataset.facts.classes[int(label)]]
        assert found_value == (None if value is None else pytest.approx(value, abs=1e-9))


@pytest.mark.real
def test_real_truth_scored_against_itself(oracle):
    """Where two people of one class stand close, the yowo links mix them up: only frames are perfect everywhere."""
    dataset, videos, _, _ = oracle
    found = {one.id: perfect(dataset.truth(one.id)) for one in videos}
    content = as_json(score(dataset.facts, videos, dataset.truth, found, {"frame_map": ["standard"], "recall": []}))
    assert content["frame_map"]["standard"]["thresholds"]["0.5:0.95"]["mean"] == 1.0
    assert content["recall"]["localization"] == content["recall"]["classification"] == 1.0

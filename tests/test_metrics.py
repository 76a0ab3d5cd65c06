from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_detections import FACTS, detections, perfect, random_boxes, shuffled, truth, video

from ssldet.contracts import Truth, VideoDetections
from ssldet.errors import ConfigError, UnknownName
from ssldet_metrics.errors import KINDS, Errors
from ssldet_metrics.frame_map import FrameMAP
from ssldet_metrics.protocols import THRESHOLDS
from ssldet_metrics.recall import Recall
from ssldet_metrics.video_map import VideoMAP

BOX, FAR = (10, 10, 50, 50), (200, 100, 260, 180)
AVA_LIKE = dataclasses.replace(FACTS, multilabel=True, evaluated=(0, 2))


def result(metric, *cases):
    for number, (found, own) in enumerate(cases):
        metric.update(video(f"video{number}", int(own.key_frames_m.max()) + 1), found, own)
    return metric.compute()


def at(metric, *cases, threshold="0.5"):
    return result(metric, *cases).thresholds[threshold]


def random_case(seed: int, frames: int = 3) -> tuple[VideoDetections, Truth]:
    """Scores and boxes on a coarse grid, so that there are ties of every kind."""
    rng = np.random.default_rng(seed)
    count, tubes = int(rng.integers(1, 12)), int(rng.integers(1, 3))
    found = VideoDetections(
        np.sort(rng.integers(0, frames, count)),
        random_boxes(rng, count),
        rng.choice(np.float32([0.25, 0.5, 1.0]), count),
        rng.choice(np.float32([0.0, 0.5, 1.0]), (count, 3)),
    )
    boxes = random_boxes(rng, tubes)
    labels = rng.integers(0, 3, tubes)
    return found, truth([(f, boxes[n], labels[n], n) for n in range(tubes) for f in range(frames)], frames)


# ------------------------------------------------------------------------------------------ all metrics


@pytest.mark.parametrize("metric", [FrameMAP, VideoMAP])
@pytest.mark.parametrize("protocol", ["standard", "yowo", "act"])
def test_perfect_detections(metric, protocol):
    truths = [truth([(f, BOX, label, 0) for f in range(20)], 20) for label in range(3)]
    value = at(metric(FACTS, protocol), *[(perfect(own), own) for own in truths])
    expected = 0.99999 if (metric, protocol) == (VideoMAP, "yowo") else 1.0
    assert value.mean == pytest.approx(expected, abs=1e-9)
    assert list(value.per_class) == ["run", "jump", "wave"]


@pytest.mark.parametrize("metric", [FrameMAP, VideoMAP, Recall])
def test_unknown_protocols_are_named(metric):
    with pytest.raises(UnknownName, match="standard"):
        metric(FACTS, "standart")


@pytest.mark.parametrize("metric", [FrameMAP, VideoMAP, Recall])
def test_a_video_without_detections_is_no_error(metric):
    found = result(metric(FACTS, "standard"), (detections([]), truth([(0, BOX, 0, 0)])))
    assert all(value.mean == 0 for value in found.thresholds.values())
    assert all(value == 0 for value in found.scalars.values())


@pytest.mark.parametrize("metric", [FrameMAP, VideoMAP])
@pytest.mark.parametrize("protocol", ["standard", "yowo", "act"])
@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10_000))
def test_neither_row_order_nor_video_order_matters(metric, protocol, seed):
    cases = [(f"video{n}", *random_case(seed + n)) for n in range(3)]
    values = []
    for order, shuffle in (((0, 1, 2), False), ((2, 0, 1), True)):
        made = metric(FACTS, protocol)
        for n in order:
            name, found, own = cases[n]
            made.update(video(name, 3), shuffled(found, seed) if shuffle else found, own)
        values.append(made.compute())
    assert values[0] == values[1]


@pytest.mark.parametrize("metric", [FrameMAP, VideoMAP])
def test_classes_and_videos_without_truth_are_noted(metric):
    found = result(metric(FACTS, "standard"), (detections([]), truth([(0, BOX, 1, 0)])), (detections([]), truth([])))
    assert found.notes == {"videos_without_truth": ["video1"], "classes_without_truth": ["run", "wave"]}
    assert found.thresholds["0.5"].per_class == {"run": None, "jump": 0.0, "wave": None}


def test_classes_without_truth_count_as_the_protocols_say():
    own = truth([(f, BOX, 0, 0) for f in range(20)], 20)
    means = {
        (metric.__name__, protocol): round(at(metric(FACTS, protocol), (perfect(own), own)).mean, 3)
        for metric in (FrameMAP, VideoMAP)
        for protocol in ("standard", "yowo", "act")
    }
    assert means == {
        ("FrameMAP", "standard"): 1.0,
        ("FrameMAP", "yowo"): 1.0,
        ("FrameMAP", "act"): 0.333,
        ("VideoMAP", "standard"): 1.0,
        ("VideoMAP", "yowo"): 0.333,
        ("VideoMAP", "act"): 0.333,
    }


# ------------------------------------------------------------------------------------------ frame-mAP


def test_boxes_on_background_frames_count_except_under_yowo():
    own = truth([(0, BOX, 0, 0)])
    found = detections([(0, BOX, 0.5, (1, 0, 0)), (2, BOX, 0.9, (1, 0, 0))])
    means = [at(FrameMAP(FACTS, protocol), (found, own)).per_class["run"] for protocol in ("standard", "yowo", "act")]
    assert means == pytest.approx([0.5, 1.0, 0.25])


def test_frames_that_the_annotation_is_silent_about_do_not_count():
    own = dataclasses.replace(truth([(0, BOX, 0, 0)]), key_frames_m=np.array([0]))
    found = detections([(0, BOX, 0.5, (1, 0, 0)), (2, BOX, 0.9, (1, 0, 0))])
    assert at(FrameMAP(FACTS, "standard"), (found, own)).mean == 1.0


def test_boxes_are_ranked_by_confidence_times_class_probability():
    own = truth([(0, BOX, 0, 0)])
    found = detections([(0, BOX, 0.9, (0.5, 0, 0)), (0, FAR, 0.5, (0.8, 0, 0))])
    assert at(FrameMAP(FACTS, "standard"), (found, own)).mean == 1.0


def test_a_box_whose_best_truth_is_taken_takes_the_next_or_misses():
    own = truth([(0, (0, 0, 100, 100), 0, 0), (0, (0, 20, 100, 120), 0, 1)])
    found = detections([(0, (0, 0, 100, 100), 0.9, (1, 0, 0)), (0, (0, 5, 100, 105), 0.8, (1, 0, 0))])
    assert at(FrameMAP(FACTS, "standard"), (found, own)).mean == 1.0
    assert at(FrameMAP(FACTS, "yowo"), (found, own)).mean == 0.5
    assert at(FrameMAP(AVA_LIKE, "standard"), (found, own)).mean == 0.5  # as AVA's own evaluation


def test_plus_one_areas_decide_at_the_threshold():
    own, found = truth([(0, (0, 0, 9, 9), 0, 0)]), detections([(0, (0, 0, 9, 4), 1, (1, 0, 0))])
    # plain 36 / 81, inclusive 50 / 100
    means = [at(FrameMAP(FACTS, protocol), (found, own)).mean for protocol in ("standard", "yowo")]
    assert means == [0.0, 1.0]


def test_boxes_with_several_labels_on_evaluated_classes():
    labels_nk = np.array([[True, True, True]])
    own = dataclasses.replace(truth([(0, BOX, 0, -1)]), labels_nk=labels_nk)
    value = at(FrameMAP(AVA_LIKE, "standard"), (detections([(0, BOX, 1, (0.5, 0.1, np.nan))]), own))
    assert value.per_class == {"run": 1.0, "wave": 0.0} and value.mean == 0.5


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10_000), st.integers(0, 2), st.sampled_from([0.0, 0.25, 0.5, 1.0]))
def test_an_added_false_positive_never_helps(seed, label, confidence):
    found, own = random_case(seed)
    extra = detections([(1, (500, 500, 510, 510), confidence, np.eye(3)[label])])
    more = VideoDetections(
        *(np.concatenate([getattr(part, name) for part in (found, extra)]) for name in VideoDetections.__slots__)
    )
    for protocol in FrameMAP.protocols:
        before, after = (at(FrameMAP(FACTS, protocol), (rows, own)).per_class for rows in (found, more))
        assert all((after[name] or 0) <= (before[name] or 0) + 1e-12 for name in before)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000))
def test_hits_equal_plain_loops(seed):
    """Greedy matching per class and threshold, written down again as plain loops."""
    found, own = random_case(seed)
    metric = FrameMAP(FACTS, "standard")
    metric.update(video("a", 3), found, own)
    ((scores_nk, hits_nk),) = metric.ranking._videos.values()
    order = sorted(range(len(scores_nk)), key=lambda n: content(found, n))
    for label, (bit, threshold) in ((k, t) for k in range(3) for t in enumerate(THRESHOLDS)):
        taken, hits = set(), []
        scored = {n: found.scores_nk[n, label] * found.confidence_n[n] for n in order}
        for n in sorted(order, key=lambda n: -scored[n]):
            free = [
                (iou, -m)
                for m in range(len(own.frames_n))
                if own.frames_n[m] == found.frames_n[n] and own.labels_nk[m, label] and m not in taken
                if (iou := plain_iou(found.boxes_n4[n].astype(float), own.boxes_n4[m].astype(float))) >= threshold
            ]
            if free:
                taken.add(-max(free)[1])
                hits.append(n)
        assert [n for row, n in enumerate(order) if hits_nk[row, label] >> bit & 1] == sorted(hits, key=order.index)


def content(found, n):
    return (found.frames_n[n], *found.boxes_n4[n], found.confidence_n[n], *found.scores_nk[n])


def plain_iou(a, b):
    width, height = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    shared = max(0.0, width) * max(0.0, height)
    return shared / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - shared)


# ------------------------------------------------------------------------------------------ video-mAP


def test_tubes_need_truth_that_is_linked():
    with pytest.raises(ConfigError, match="frame_map"):
        VideoMAP(AVA_LIKE, "standard")


def test_tubes_are_compared_over_time_and_space():
    own = truth([(f, BOX, 0, 0) for f in range(2)])
    found = detections([(f, BOX, 1, (1, 0, 0)) for f in range(4)])
    value = result(VideoMAP(FACTS, "standard"), (found, own))
    hit = [key for key, item in value.thresholds.items() if item.per_class["run"] == 1.0]
    assert hit == ["0.1", "0.2", "0.3", "0.5"]
    assert value.thresholds["0.5:0.95"].mean == pytest.approx(0.1)


def test_single_frame_tubes_are_scored_except_under_yowo():
    own = truth([(0, BOX, 0, 0)], 1)
    means = [at(VideoMAP(FACTS, protocol), (perfect(own), own)).per_class["run"] for protocol in ("standard", "yowo")]
    assert means == [1.0, 0.0]


def test_tube_scores_use_confidence_except_under_yowo():
    own = truth([(f, BOX, 0, 0) for f in range(4)])
    sure = detections([(f, BOX, 0.1, (0.9, 0, 0)) for f in range(4)])
    wrong = detections([(f, FAR, 1.0, (0.5, 0, 0)) for f in range(4)])
    nobody = truth([])
    means = [
        at(VideoMAP(FACTS, protocol), (sure, own), (wrong, nobody)).per_class["run"]
        for protocol in ("standard", "yowo")
    ]
    assert means == pytest.approx([0.5, 1.0], abs=1e-4)


def test_two_people_are_two_tubes_and_a_repeated_one_is_suppressed():
    own = truth([(f, box, 0, n) for f in range(4) for n, box in enumerate((BOX, FAR))])
    near = (12, 10, 52, 50)
    found = detections([(f, box, c, (1, 0, 0)) for f in range(4) for box, c in ((BOX, 0.9), (FAR, 0.8), (near, 0.85))])
    assert at(VideoMAP(FACTS, "standard"), (found, own)).mean == 1.0


def every_fifth(frames: int = 40) -> Truth:
    """One tube of a box on every fifth frame; about the other frames nothing is known."""
    own = truth([(f, (10 + f, 10, 50 + f, 50), 0, 0) for f in range(0, frames, 5)], frames)
    return dataclasses.replace(own, key_frames_m=np.arange(0, frames, 5))


@pytest.mark.parametrize("protocol", VideoMAP.protocols)
@pytest.mark.parametrize("step", [1, 5])
def test_tubes_are_compared_on_annotated_frames_alone(protocol, step):
    own = every_fifth()
    found = detections([(f, (10 + f, 10, 50 + f, 50), 1, (1, 0, 0)) for f in range(0, 40, step)])
    value = result(VideoMAP(FACTS, protocol), (found, own))
    assert value.thresholds["0.5:0.95"].per_class["run"] == pytest.approx(1.0, abs=1e-4)


def test_background_that_somebody_looked_at_costs_a_tube_and_unknown_frames_do_not():
    own = every_fifth()
    looked_at = dataclasses.replace(own, key_frames_m=np.union1d(own.key_frames_m, np.arange(1, 37, 5)))
    found = detections([(f, (10 + f, 10, 50 + f, 50), 1, (1, 0, 0)) for f in range(40)])
    for truths, expected in ((own, ["0.1", "0.2", "0.3", "0.5", "0.75"]), (looked_at, ["0.1", "0.2", "0.3", "0.5"])):
        thresholds = result(VideoMAP(FACTS, "standard"), (found, truths)).thresholds
        assert [key for key in list(thresholds)[:-1] if thresholds[key].per_class["run"] == 1.0] == expected


def with_background_before(step: int) -> tuple[VideoDetections, Truth]:
    """A box on frames 5 to 59 of 60, annotated every `step` frames from 0; detections are the truth on these frames."""
    rows = [(f, (10 + f, 10, 50 + f, 50), 0, 0) for f in range(5, 60, step)]
    own = dataclasses.replace(truth(rows, 60), key_frames_m=np.arange(0, 60, step))
    return perfect(own), own


@pytest.mark.parametrize("step", [1, 5])
@pytest.mark.parametrize(("protocol", "expected"), [("standard", 0.9), ("yowo", 0.9), ("act", 1.0)])
def test_a_path_over_the_whole_video_meets_background_alike_in_sparse_and_dense_annotation(protocol, expected, step):
    """1 of 12 frames, or 5 of 60: a temporal IoU of 11/12, above all thresholds but 0.95. ACT's links end."""
    values = result(VideoMAP(FACTS, protocol), with_background_before(step)).thresholds
    assert values["0.75"].per_class["run"] == pytest.approx(1.0, abs=1e-4)
    assert values["0.5:0.95"].per_class["run"] == pytest.approx(expected, abs=1e-4)


def test_tubes_are_scored_over_all_their_frames():
    own, nobody = every_fifth(), truth([], 40)
    sure_on_key_frames = detections(
        [(f, (10 + f, 10, 50 + f, 50), 1.0 if f % 5 == 0 else 0.1, (1, 0, 0)) for f in range(40)]
    )
    steady = detections([(f, FAR, 0.5, (1, 0, 0)) for f in range(40)])  # its score is above the mean of the other
    value = at(VideoMAP(FACTS, "standard"), (sure_on_key_frames, own), (steady, nobody))
    assert value.per_class["run"] == 0.5


def test_a_tube_on_frames_that_nobody_annotated_is_no_miss():
    own = dataclasses.replace(truth([(f, BOX, 0, 0) for f in range(20)], 60), key_frames_m=np.arange(20))
    rows = [(f, BOX, 0.5, (1, np.nan, np.nan)) for f in range(20)]
    later = [(f, FAR, 0.9, (1, np.nan, np.nan)) for f in range(40, 60)]
    metric = VideoMAP(FACTS, "act")
    metric.update(video("a", 60), detections(rows + later), own)
    assert metric.compute().thresholds["0.5"].per_class["run"] == 1.0
    ((scores_nk, _),) = metric.ranking._videos.values()
    assert len(scores_nk) == 1


@pytest.mark.parametrize("metric", [FrameMAP, VideoMAP, Errors])
def test_detections_on_frames_that_nobody_annotated_are_counted(metric):
    own = every_fifth()
    found = detections([(f, (10 + f, 10, 50 + f, 50), 1, (1, 0, 0)) for f in range(40)])
    assert result(metric(FACTS, "standard"), (found, own)).notes["detections_on_frames_not_annotated"] == 32
    whole = truth([(f, BOX, 0, 0) for f in range(4)])
    assert "detections_on_frames_not_annotated" not in result(metric(FACTS, "standard"), (perfect(whole), whole)).notes


# ------------------------------------------------------------------------------------------ recall


def recall(found, own):
    return dict(result(Recall(FACTS, "standard"), (found, own)).scalars)


def test_recall_asks_the_best_box_of_each_frame():
    own = truth([(0, BOX, 0, 0), (1, BOX, 0, 0), (2, BOX, 0, 0), (2, FAR, 1, 1)])
    rows = [
        *((0, BOX, 0.9, (1, 0, 0)), (0, FAR, 0.1, (1, 0, 0))),  # right
        *((1, BOX, 0.5, (0, 1, 0)), (1, FAR, 0.9, (0.5, 0, 0))),  # 0.5 beats 0.45: the place, not the class
        (2, FAR, 0.9, (1, 0, 0)),  # the other person's class
        (3, BOX, 0.9, (1, 0, 0)),  # nobody is there
    ]
    assert recall(detections(rows), own) == pytest.approx({"localization": 1.0, "classification": 1 / 3})


def test_recall_wants_more_than_half():
    own = truth([(0, (0, 0, 10, 10), 0, 0)])
    exactly_half, more = (detections([(0, (0, 0, 10, h), 1, (1, 0, 0))]) for h in (5, 5.1))
    assert recall(exactly_half, own)["localization"] == 0 and recall(more, own)["localization"] == 1


def test_recall_counts_frames_without_boxes_as_missed():
    own = truth([(f, BOX, 0, 0) for f in range(4)])
    found = detections([(1, BOX, 1, (1, 0, 0))])
    assert recall(found, own) == {"localization": 0.25, "classification": 0.25}


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 10_000))
def test_recall_does_not_depend_on_the_order_of_rows(seed):
    found, own = random_case(seed)
    assert recall(found, own) == recall(shuffled(found, seed), own)


# ------------------------------------------------------------------------------------------ errors


def test_each_kind_of_error_is_told_from_the_others():
    own = truth([(0, BOX, 0, 0), (1, BOX, 1, 1)])
    run, kinds = (1, np.nan, np.nan), {}
    cases = {
        "correct": (0, BOX),
        "localization": (0, FAR),
        "classification": (1, BOX),
        "timing": (2, BOX),
    }
    for kind, (frame, box) in cases.items():
        rows = [(frame, box, 0.9, run)] + [(0, BOX, 0.5, run)] * (kind != "correct")
        kinds[kind] = {key: value.per_class["run"] for key, value in errors(detections(rows), own).items()}
    assert kinds.pop("correct") == {key: float(key == "correct") for key in ERRORS}
    for kind, areas in kinds.items():
        assert {key for key, area in areas.items() if area} == {"correct", kind}


def test_classes_that_are_nowhere_in_the_video_are_background():
    here, elsewhere = truth([(0, BOX, 0, 0)]), truth([(0, FAR, 1, 0)])
    found = detections([(3, FAR, 0.9, (np.nan, 1, np.nan))]), detections([(0, FAR, 0.5, (np.nan, 1, np.nan))])
    value = result(Errors(FACTS, "standard"), (found[0], here), (found[1], elsewhere)).kinds
    assert value["background"].per_class["jump"] == 0.75 and value["correct"].per_class["jump"] == 0.25


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000), st.sampled_from(Errors.protocols))
def test_shares_add_up_and_the_correct_one_is_the_trapezoid_ap(seed, protocol):
    found, own = random_case(seed)
    areas = errors(found, own, protocol)
    trapezoid_map = FrameMAP(FACTS, protocol)
    by_trapezoid = dataclasses.replace(trapezoid_map.rules.precision, form="trapezoid")
    trapezoid_map.rules = dataclasses.replace(trapezoid_map.rules, precision=by_trapezoid)
    expected = at(trapezoid_map, (found, own)).per_class
    for name in FACTS.classes:
        if areas["correct"].per_class[name] is not None:
            assert sum(value.per_class[name] for value in areas.values()) == pytest.approx(1.0)
            assert areas["correct"].per_class[name] == pytest.approx(expected[name])


ERRORS = (*KINDS, "missed")


def errors(found, own, protocol="standard"):
    return result(Errors(FACTS, protocol), (found, own)).kinds

from __future__ import annotations

import dataclasses
import pickle
from collections import OrderedDict

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_detections import FACTS, detections, shuffled, video

from ssldet.contracts import FrameNumbering, Video, VideoDetections
from ssldet.errors import DataError, DetectionsError
from ssldet.evaluation.detection_rows import in_content_order
from ssldet.evaluation.detections import DetectionsWriter, read_detections

VIDEOS = [video("jump/b", 6), video("run/a", 4), video("wave/c", 2)]
FOUND = {
    "run/a": detections(
        [(0, (1, 2, 30, 40), 0.9, (0.7, 0.2, 0.1)), (3, (5, 5, 5, 9), 0.5, (0, 0, 1)), (3, (0, 0, 9, 9), 1, (1, 0, 0))]
    ),
    "jump/b": detections([(5, (-4, 0, 400, 300), 0.25, (0.1, 0.6, 0.3))]),
}
ROW = {"video": "run/a", "frame": 1, "x1": 1.0, "y1": 2.0, "x2": 30.0, "y2": 40.0, "confidence": 0.9}
WIDE = ROW | {"scores": [0.7, 0.2, 0.1]}
LONG = ROW | {"label": 1, "score": 0.2}


def write(path, found=FOUND, facts=FACTS):
    with DetectionsWriter(path, facts) as writer:
        for video_id, own in found.items():
            writer.add(video_id, own)
    return path


def save(path, rows):
    frame = pd.DataFrame(rows)
    frame.to_parquet(path, index=False) if path.suffix == ".parquet" else frame.to_csv(path, index=False)
    return path


def same(a: VideoDetections, b: VideoDetections) -> bool:
    a, b = in_content_order(a), in_content_order(b)
    return all(np.array_equal(getattr(a, name), getattr(b, name)) for name in VideoDetections.__slots__[:3]) and (
        np.array_equal(a.scores_nk, b.scores_nk, equal_nan=True)
    )


@pytest.fixture(params=["parquet", "csv"])
def file(request, tmp_path):
    return tmp_path / f"found.{request.param}"


# ------------------------------------------------------------------------------------------ writing


def test_what_is_written_is_read(tmp_path):
    found = read_detections(write(tmp_path / "found.parquet"), FACTS, VIDEOS)
    assert list(found) == ["jump/b", "run/a", "wave/c"] and not found.dropped
    assert all(same(found[name], FOUND[name]) for name in FOUND)
    assert found["wave/c"].scores_nk.shape == (0, 3)
    with pytest.raises(KeyError):
        found["run/z"]


def test_files_number_frames_as_the_data_set_does(tmp_path):
    facts = dataclasses.replace(FACTS, numbering=FrameNumbering(900, 30))
    path = write(tmp_path / "found.parquet", {"a": detections([(60, (0, 0, 1, 1), 1, (1, 0, 0))])}, facts)
    assert pd.read_parquet(path)["frame"].tolist() == [902]
    assert read_detections(path, facts, [video("a", 90)])["a"].frames_n.tolist() == [60]
    assert pd.read_parquet(write(tmp_path / "dense.parquet"))["frame"].tolist() == [1, 4, 4, 6]


def test_a_failed_writer_leaves_nothing(tmp_path):
    with pytest.raises(RuntimeError), DetectionsWriter(tmp_path / "found.parquet", FACTS) as writer:
        writer.add("run/a", FOUND["run/a"])
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []


def test_a_failed_writer_keeps_the_file_that_was_there(tmp_path):
    path = write(tmp_path / "found.parquet")
    with pytest.raises(DetectionsError, match="already written"), DetectionsWriter(path, FACTS) as writer:
        writer.add("run/a", FOUND["run/a"])
        writer.add("run/a", FOUND["run/a"])
    assert [entry.name for entry in tmp_path.iterdir()] == ["found.parquet"]
    assert len(pd.read_parquet(path)) == 4


def test_numbers_that_are_not_finite_are_not_written(tmp_path):
    broken = detections([(0, (0, 0, np.nan, 1), 1, (1, 0, 0))])
    with pytest.raises(DetectionsError, match="run/a"), DetectionsWriter(tmp_path / "found.parquet", FACTS) as writer:
        writer.add("run/a", broken)


def test_a_detector_may_find_nothing(tmp_path):
    found = read_detections(write(tmp_path / "found.parquet", {}), FACTS, VIDEOS)
    assert len(found) == 3 and not len(found["run/a"].frames_n)


def test_large_files_are_read_video_by_video(tmp_path, monkeypatch):
    monkeypatch.setattr("ssldet.evaluation.detections.ROWS_PER_GROUP", 2)
    found = read_detections(write(tmp_path / "found.parquet"), FACTS, VIDEOS)
    assert type(found._store).__name__ == "_FileStore" and len(found._store._offsets) > 2
    assert all(same(found[name], FOUND[name]) for name in FOUND)


# ------------------------------------------------------------------------------------------ forms


@given(st.integers(0, 1000))
@settings(max_examples=20, deadline=None)
def test_content_order_does_not_depend_on_the_order_of_rows(seed):
    rng = np.random.default_rng(seed)
    rows = [(int(f), (0, 0, int(x), 9), float(c), (float(s), 0, 0)) for f, x, c, s in rng.integers(0, 2, (8, 4))]
    one, other = in_content_order(detections(rows)), in_content_order(shuffled(detections(rows), seed))
    assert all(np.array_equal(getattr(one, name), getattr(other, name)) for name in VideoDetections.__slots__)


def test_wide_form(file):
    found = read_detections(save(file, [WIDE, WIDE | {"frame": 4}]), FACTS, VIDEOS)["run/a"]
    assert found.frames_n.tolist() == [0, 3]
    np.testing.assert_allclose(found.scores_nk, [[0.7, 0.2, 0.1]] * 2, rtol=1e-6)


def test_rows_of_a_video_may_be_scattered(file):
    rows = [WIDE, WIDE | {"video": "jump/b"}, WIDE | {"frame": 3}]
    found = read_detections(save(file, rows), FACTS, VIDEOS)
    assert found["run/a"].frames_n.tolist() == [0, 2] and found["jump/b"].frames_n.tolist() == [0]


def test_long_form_brings_the_labels_of_a_box_together(file):
    rows = [LONG, LONG | {"label": 0, "score": 0.7}, LONG | {"frame": 2, "label": 2, "score": 0.1}]
    found = read_detections(save(file, rows), FACTS, VIDEOS)["run/a"]
    np.testing.assert_allclose(found.scores_nk, [[0.7, 0.2, np.nan], [np.nan, np.nan, 0.1]], rtol=1e-6)
    assert found.frames_n.tolist() == [0, 1] and found.confidence_n.tolist() == pytest.approx([0.9, 0.9])


def test_long_form_without_confidence_counts_as_one(file):
    row = {key: value for key, value in LONG.items() if key != "confidence"}
    assert read_detections(save(file, [row]), FACTS, VIDEOS)["run/a"].confidence_n.tolist() == [1.0]


def test_long_form_keeps_a_label_that_a_box_has_twice(file):
    found = read_detections(save(file, [LONG, LONG | {"score": 0.4}]), FACTS, VIDEOS)["run/a"]
    assert found.scores_nk[:, 1].tolist() == pytest.approx([0.2, 0.4])


@pytest.mark.parametrize("text", ["[0.7, 0.2, 0.1]", "0.7 0.2 0.1", "(0.7;0.2;0.1)", "[0.7 0.2  0.1]"])
def test_score_lists_in_csv_are_read_as_people_write_them(tmp_path, text):
    path = save(tmp_path / "found.csv", [ROW | {"scores": text}])
    found = read_detections(path, FACTS, VIDEOS)["run/a"]
    np.testing.assert_allclose(found.scores_nk, [[0.7, 0.2, 0.1]], rtol=1e-6)


def test_avas_own_form(tmp_path):
    facts = dataclasses.replace(FACTS, numbering=FrameNumbering(900, 30), multilabel=True)
    path = tmp_path / "ava.csv"
    path.write_text("film,0902,0.1,0.2,0.5,0.6,3,0.9\nfilm,0902,0.1,0.2,0.5,0.6,1,0.25\n")
    found = read_detections(path, facts, [Video("film", 27000, 100, 200, ())])["film"]
    assert found.frames_n.tolist() == [60]
    np.testing.assert_allclose(found.boxes_n4, [[10, 40, 50, 120]], rtol=1e-6)
    np.testing.assert_allclose(found.scores_nk, [[0.25, np.nan, 0.9]], rtol=1e-6)


def test_published_folder(tmp_path):
    (tmp_path / "run_a_00002.txt").write_text("1 0.5 1 2 30 40\njump 0.25 1 2 30 40\n")
    (tmp_path / "run_a_00003.txt").write_text("")
    found = read_detections(tmp_path, FACTS, VIDEOS)["run/a"]
    assert found.frames_n.tolist() == [1]
    np.testing.assert_allclose(found.scores_nk, [[0.5, 0.25, np.nan]])


@pytest.mark.parametrize("content", ["4 0.5 1 2 30 40", "run 0.5 1 2 30", "run x 1 2 30 40", "flap 0.5 1 2 30 40"])
def test_a_bad_line_of_a_folder_is_named(tmp_path, content):
    (tmp_path / "run_a_00002.txt").write_text(f"1 0.5 1 2 30 40\n{content}\n")
    with pytest.raises(DetectionsError, match=r"run_a_00002\.txt, line 2"):
        read_detections(tmp_path, FACTS, VIDEOS)


ROWS = np.array([[1, 1, 2, 30, 40, 0.5], [2, 1, 2, 30, 40, 0.75]])


@pytest.mark.parametrize("item", [ROWS, [ROWS], [(ROWS, 0.9)]])
def test_act_pickles(tmp_path, item):
    path = tmp_path / "found.pkl"
    path.write_bytes(pickle.dumps({"run/a": {1: item}}))
    found = read_detections(path, FACTS, VIDEOS)["run/a"]
    assert found.frames_n.tolist() == [0, 1] and found.scores_nk[:, 1].tolist() == [0.5, 0.75]


def test_act_tubes_without_box_scores_take_the_tubes(tmp_path):
    path = tmp_path / "found.pkl"
    path.write_bytes(pickle.dumps({"run/a": {1: [(ROWS[:, :5], 0.25)]}}))
    assert read_detections(path, FACTS, VIDEOS)["run/a"].scores_nk[:, 1].tolist() == [0.25, 0.25]


@pytest.mark.parametrize("content", [[1], {}, {"run/a": ROWS}, {"run/a": {"run": ROWS}}, {"run/a": {1: ROWS[:, :3]}}])
def test_pickles_of_another_form_are_refused(tmp_path, content):
    path = tmp_path / "found.pkl"
    path.write_bytes(pickle.dumps(content))
    with pytest.raises(DetectionsError):
        read_detections(path, FACTS, VIDEOS)


def test_pickles_run_no_code(tmp_path):
    path = tmp_path / "found.pkl"
    path.write_bytes(pickle.dumps({"run/a": OrderedDict.fromkeys}))
    with pytest.raises((DataError, DetectionsError)):
        read_detections(path, FACTS, VIDEOS)


# ------------------------------------------------------------------------------------------ bad input

BAD_ROWS = {
    "unknown video": ({"video": "run/b"}, "'run/b'.*'run/a'"),
    "frame out of range": ({"frame": 5}, "'frame' is 5, expected 1 to 4"),
    "NaN": ({"x2": np.nan}, "'x2'"),
    "x2 < x1": ({"x2": 0.5}, "'x2' is 0.5.*'x1' = 1"),
    "confidence outside [0, 1]": ({"confidence": 1.5}, "'confidence' holds 1.5"),
}
BAD_WIDE = {"scores outside [0, 1]": ({"scores": [0.7, -0.2, 0.1]}, "'scores' holds -0.2")}
BAD_LONG = {
    "label out of range": ({"label": 3}, "'label' is 3, expected 0 to 2"),
    "score outside [0, 1]": ({"score": 2.0}, "'score' holds 2"),
}
CASES = [
    (good, reason, *case)
    for good, cases in ((WIDE, BAD_ROWS | BAD_WIDE), (LONG, BAD_ROWS | BAD_LONG))
    for reason, case in cases.items()
]


@pytest.mark.parametrize(("good", "reason", "change", "message"), CASES)
def test_unsound_rows_are_refused_by_row_and_column_or_dropped(file, good, reason, change, message):
    rows = [good, good | {"frame": 2} | change, good | {"frame": 3}]
    place = r"row 1 \(from 0\)" if file.suffix == ".parquet" else "line 3"
    with pytest.raises(DetectionsError, match=f"{place}.*{message}"):
        read_detections(save(file, rows), FACTS, VIDEOS)
    found = read_detections(file, FACTS, VIDEOS, lenient=True)
    assert found["run/a"].frames_n.tolist() == [0, 2] and found.dropped == {reason: 1}


@pytest.mark.parametrize("good", [WIDE, LONG])
def test_repeated_rows_are_refused_or_dropped(file, good):
    with pytest.raises(DetectionsError, match=r"(row 2|line 4).* repeats (row 0|line 2)"):
        read_detections(save(file, [good, good | {"frame": 2}, good]), FACTS, VIDEOS)
    found = read_detections(file, FACTS, VIDEOS, lenient=True)
    assert found["run/a"].frames_n.tolist() == [0, 1] and found.dropped == {"duplicate row": 1}


@pytest.mark.parametrize("change", [{"video": None}, {"frame": 1.5}, {"x1": np.inf}, {"confidence": None}])
def test_empty_and_crooked_fields_are_refused(file, change):
    with pytest.raises(DetectionsError, match=r"row 1|line 3"):
        read_detections(save(file, [WIDE, WIDE | change]), FACTS, VIDEOS)


def test_all_rows_may_be_unsound(file):
    found = read_detections(save(file, [LONG | {"video": "x"}]), FACTS, VIDEOS, lenient=True)
    assert found.dropped == {"unknown video": 1} and not len(found["run/a"].frames_n)


@pytest.mark.parametrize(
    ("rows", "column"),
    [
        ([{key: value for key, value in WIDE.items() if key != "x2"}], "x2"),
        ([{key: value for key, value in WIDE.items() if key != "confidence"}], "confidence"),
        ([ROW], "label"),
        ([{key: value for key, value in LONG.items() if key != "confidence"} | {"confidance": 1.0}], "confidance"),
        ([WIDE | {"label": 1}], "label"),
        ([WIDE | {"scores": [0.5, 0.5]}], "scores.*expected 3"),
        ([WIDE | {"x1": "left"}], "x1"),
        ([WIDE | {"scores": "many"}], "scores"),
    ],
)
def test_wrong_columns_are_named(file, rows, column):
    with pytest.raises(DetectionsError, match=column):
        read_detections(save(file, rows), FACTS, VIDEOS)


def test_one_list_of_another_length_is_one_unsound_row(file):
    with pytest.raises(DetectionsError, match=r"(row 1|line 3).*'scores'"):
        read_detections(save(file, [WIDE, WIDE | {"frame": 2, "scores": [1.0]}]), FACTS, VIDEOS)


@pytest.mark.parametrize("name", ["found.parquet", "found.csv", "found.pkl"])
def test_empty_files_are_refused(tmp_path, name):
    (tmp_path / name).write_bytes(b"")
    with pytest.raises((DataError, DetectionsError), match=name):
        read_detections(tmp_path / name, FACTS, VIDEOS)


def test_files_without_rows_are_refused(file):
    with pytest.raises(DetectionsError, match="no rows"):
        read_detections(save(file, {key: [] for key in WIDE}), FACTS, VIDEOS)


@pytest.mark.parametrize("keep", [4, 100, 0.5, 0.9])
def test_truncated_parquet_is_refused(tmp_path, keep):
    path = write(tmp_path / "found.parquet")
    content = path.read_bytes()
    path.write_bytes(content[: keep if isinstance(keep, int) else int(keep * len(content))])
    with pytest.raises(DetectionsError, match="truncated or damaged"):
        read_detections(path, FACTS, VIDEOS)


def test_absent_and_unknown_files_say_what_is_read(tmp_path):
    with pytest.raises(DetectionsError, match="no detections at"):
        read_detections(tmp_path / "nowhere.parquet", FACTS, VIDEOS)
    (tmp_path / "found.json").write_text("{}")
    with pytest.raises(DetectionsError, match=r"\.parquet, \.csv"):
        read_detections(tmp_path / "found.json", FACTS, VIDEOS)
    (tmp_path / "empty").mkdir()
    with pytest.raises(DetectionsError, match="no rows"):
        read_detections(tmp_path / "empty", FACTS, VIDEOS)


def test_numbers_that_are_too_large_are_unsound(tmp_path):
    (tmp_path / "large.csv").write_text("video,frame,x1,y1,x2,y2,label,score\na,1,1e300,1,-1e300,5,1,0.5\n")
    with pytest.raises(DetectionsError, match="line 2"):
        read_detections(tmp_path / "large.csv", FACTS, VIDEOS)


def test_a_header_that_is_no_text_is_refused(tmp_path):
    (tmp_path / "bytes.csv").write_bytes(b"video,frame,x1,y1,x2,y2,label,\xc7score\na,1,1,1,4,5,1,0.5\n")
    with pytest.raises(DetectionsError):
        read_detections(tmp_path / "bytes.csv", FACTS, VIDEOS)

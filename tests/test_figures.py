"""The paper's figures: which runs are in them, what they show, how frames are chosen, and the files."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result
from helpers import TinyDataset
from matplotlib.backends.backend_agg import FigureCanvasAgg
from PIL import Image
from test_run_store import write_run

from ssldet import plugins
from ssldet.benchmark import spec as benchmark
from ssldet.benchmark.cells import DatasetChoice, Settings, run_config
from ssldet.cli import main
from ssldet.config import resolve
from ssldet.contracts import DatasetFacts, Truth, Video, VideoDetections
from ssldet.data.batches import ClipOptions
from ssldet.data.datasets import load_dataset
from ssldet.data.frame_store import FrameStore
from ssldet.errors import DataError, RequestError, UnknownName
from ssldet.evaluation.detections import DetectionsWriter
from ssldet.report import drawing, figures, qualitative
from ssldet.report.qualitative import Frames, choose_frames, judge, picture
from ssldet.report.run_selection import collect_runs
from ssldet.runs.rescoring import scored_videos

SETTINGS = Settings("smoke", {"ucf24": DatasetChoice("synthetic")})
OWN = Settings("smoke")
CLASSES = plugins.load("dataset", "synthetic").facts.classes


def record(results: Path, run_id: str, row: benchmark.Row, values: Any, seed: int = 0, **more: Any) -> None:
    """A finished run of a figure's row; `values` are of the classes, as fractions."""
    spec = benchmark.spec("figure4" if row.options else "figure3")
    cell = benchmark.cell(spec, row, 0.1, split=more.pop("split", 1), seed=seed)
    config = run_config(cell, more.pop("settings", SETTINGS)).model_dump(mode="json")
    classes = plugins.load("dataset", config["experiment"]["dataset"]).facts.classes
    known = [value for value in values if value is not None]
    result = {"mean": float(np.mean(known)), "per_class": dict(zip(classes, values, strict=False))}
    scored = {"thresholds": {"0.5": result, "0.2": result}, "notes": more.pop("notes_of_metric", {})}
    metrics = {"video_map": {"yowo": scored}}
    write_run(results, run_id * 12, more.pop("status", "done"), config=config, metrics=metrics, **more)


def rows(name: str) -> tuple[benchmark.Row, ...]:
    return benchmark.spec(name).rows


# ------------------------------------------------------------------------------------------------ Figure 3


def test_changes_are_means_over_the_seeds_that_both_strategies_have(tmp_path: Path) -> None:
    base, ours = rows("figure3")
    record(tmp_path, "0", base, [0.1, 0.5, None])
    record(tmp_path, "1", base, [0.3, 0.5, 0.2], seed=1)
    record(tmp_path, "2", base, [0.9, 0.9, 0.9], seed=2)
    record(tmp_path, "3", base, [0.9, 0.9, 0.9], seed=3)
    record(tmp_path, "a", ours, [0.2, 0.4, 0.3])
    record(tmp_path, "b", ours, [0.6, 0.4, 0.3], seed=1)
    record(tmp_path, "c", ours, [0.0, 0.0, 0.0], seed=2, status="failed")
    record(tmp_path, "d", ours, [0.0, 0.0, 0.0], seed=1, split=2)
    found = figures.class_changes(collect_runs([tmp_path]), SETTINGS)
    assert found.runs == (("a" * 12, "0" * 12), ("b" * 12, "1" * 12))
    first, second, third = found.classes
    assert (first.name, first.mean, first.std) == (CLASSES[0], pytest.approx(20), pytest.approx(np.sqrt(200)))
    assert (second.mean, second.std) == (pytest.approx(-10), pytest.approx(0))
    assert (third.mean, third.std) == (pytest.approx(10), None)  # without truth on one seed


def test_classes_without_truth_have_no_change(tmp_path: Path) -> None:
    """A protocol may say 0 of them, which is no number to compare."""
    base, ours = rows("figure3")
    for run_id, row in (("0", base), ("a", ours)):
        record(tmp_path, run_id, row, [0.1, 0.0], notes_of_metric={"classes_without_truth": [CLASSES[1]]})
    found = figures.class_changes(collect_runs([tmp_path]), SETTINGS)
    assert [change.name for change in found.classes] == [CLASSES[0]]
    assert found.left_out == (CLASSES[1],)


def test_runs_with_other_settings_are_not_in_the_figure(tmp_path: Path) -> None:
    base, ours = rows("figure3")
    other = Settings("smoke", SETTINGS.dataset_map, ["train.lr=0.5"])
    record(tmp_path, "0", base, [0.1])
    record(tmp_path, "a", ours, [0.2], settings=other)
    with pytest.raises(
        RequestError, match=r"no runs of .* on synthetic .*`ssldet grid --tables 2 --preset smoke .*makes"
    ):
        figures.class_changes(collect_runs([tmp_path]), SETTINGS)


def test_classes_stand_in_descending_order_of_their_training_videos(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for run_id, row in zip("0a", rows("figure3"), strict=True):
        record(tmp_path, run_id, row, [0.1, 0.2, 0.3])
    dataset = TinyDataset()
    dataset.facts = replace(dataset.facts, classes=tuple(CLASSES[:3]))
    kept = [Video(f"v{n}", 1, 9, 9, (label,)) for n, label in enumerate((0, 1, 1, 1, 2, 2))]
    monkeypatch.setattr(dataset, "videos", lambda subset, split: kept if subset == "train" else [])
    found = figures.by_training_videos(figures.class_changes(collect_runs([tmp_path]), SETTINGS), dataset)
    assert [(c.name, c.videos) for c in found.classes] == [(CLASSES[1], 3), (CLASSES[2], 2), (CLASSES[0], 1)]


def test_the_threshold_is_one_that_was_scored(tmp_path: Path) -> None:
    for run_id, row in zip("0a", rows("figure3"), strict=True):
        record(tmp_path, run_id, row, [0.1])
    collection = collect_runs([tmp_path])
    assert figures.class_changes(collection, SETTINGS, threshold="0.2").column.title == "V@0.2"
    with pytest.raises(RequestError, match=r"'0.6'.*known: 0.2, 0.5|known: 0.5, 0.2"):
        figures.class_changes(collection, SETTINGS, threshold="0.6")


def test_settings_are_those_of_most_runs_unless_asked_for(tmp_path: Path) -> None:
    for run_id, row in zip("0a", rows("figure3"), strict=True):
        record(tmp_path, run_id, row, [0.1])
    collection = collect_runs([tmp_path])
    chosen = figures.choose_settings("figure3", collection)
    defaults = plugins.load("dataset", "synthetic").Config().model_dump(mode="json")
    assert chosen == Settings("smoke", {"ucf24": DatasetChoice("synthetic", defaults)})
    assert figures.choose_settings("figure3", collection, OWN) == OWN
    with pytest.raises(UnknownName, match="data set of the paper 'kinetics'"):
        figures.choose_settings("figure3", collection, Settings(dataset_map={"kinetics": DatasetChoice("synthetic")}))


# ------------------------------------------------------------------------------------------------ Figure 4


def test_a_sweep_has_points_gaps_and_on_the_papers_data_its_points(tmp_path: Path) -> None:
    for run_id, row, value in zip("abc", rows("figure4")[2:5], (0.1, 0.2, 0.3), strict=True):
        record(tmp_path, run_id, row, [value], settings=OWN)
    record(tmp_path, "d", rows("figure4")[2], [0.3], seed=1, settings=OWN)
    found = figures.sweep(collect_runs([tmp_path]), OWN)
    frame, box = found.panels
    assert [point.value for point in frame.points] == [0.2, 0.4, 0.6, 0.8, 0.9]
    assert [point.n for point in frame.points] == [0, 0, 2, 1, 1]
    assert frame.points[2].mean == pytest.approx(20) and frame.points[2].std == pytest.approx(np.sqrt(200))
    assert {point.value: point.paper for point in frame.points if point.paper} == {0.6: 6.2, 0.8: 9.4}
    assert [point.value for point in box.points] == [0.2, 0.3, 0.4, 0.5, 0.6] and not any(p.n for p in box.points)
    assert (frame.label, box.label) == ("F_th", "O_th")
    usual = resolve({"strategy": "dual_guidance", "dataset": "ucf24", "ratio": 0.1}, preset="smoke").experiment
    assert frame.fixed == {"o_th": usual.strategy_options["o_th"]}
    assert box.fixed == {"f_th": usual.strategy_options["f_th"]}


def test_the_papers_points_are_not_shown_beside_other_data(tmp_path: Path) -> None:
    record(tmp_path, "a", rows("figure4")[2], [0.1])
    found = figures.sweep(collect_runs([tmp_path]), SETTINGS)
    assert not any(point.paper for panel in found.panels for point in panel.points)


def test_the_papers_own_setting_is_a_run_of_its_tables() -> None:
    """F_th 0.8 and O_th 0.4 are the defaults: the sweep trains them once, with Table 2."""
    (plain,) = [row for row in rows("figure3") if row.strategy == "dual_guidance"]
    defaults = [row for row in rows("figure4") if row.approach in ("F_th 0.8", "O_th 0.4")]
    experiments = [
        run_config(benchmark.cell(benchmark.spec("figure4"), row, 0.1, split=1, seed=0), Settings()).experiment
        for row in (plain, *defaults)
    ]
    assert experiments[0] == experiments[1] == experiments[2]


def test_every_row_of_a_sweep_sets_one_option_that_the_strategy_has() -> None:
    for row in rows("figure4"):
        ((option, value),) = row.options.items()
        assert row.approach.lower() == f"{option} {value}"
        assert option in plugins.load("strategy", row.strategy or "").Config.model_fields


# ------------------------------------------------------------------------------------------------ Figure 5

FACTS = DatasetFacts("tiny", ("run", "jump"), ((1.0, 1.0),) * 5)
VIDEO = Video("v", 3, 100, 100, (0,))
TRUTH = Truth(
    frames_n=np.array([1, 1]),
    boxes_n4=np.array([[0, 0, 10, 10], [50, 50, 60, 60]], np.float32),
    labels_nk=np.array([[True, False], [False, True]]),
    tubes_n=np.arange(2),
    key_frames_m=np.arange(3),
)


def detections(*rows: tuple[int, list[float], float, list[float]]) -> VideoDetections:
    frames, boxes, confidence, scores = (
        zip(*rows, strict=True) if rows else ((), np.empty((0, 4)), (), np.empty((0, 2)))
    )
    arrays = (np.array(part, np.float32) for part in (boxes, confidence, scores))
    return VideoDetections(np.array(frames, np.int64), *arrays)


@pytest.mark.parametrize(
    ("box", "scores", "right", "iou"),
    [
        ([0, 0, 10, 10], [0.9, 0.1], True, 1.0),
        ([0, 0, 10, 5], [0.9, 0.1], True, 0.5),
        ([0, 0, 10, 4.9], [0.9, 0.1], False, 0.49),
        ([0, 0, 10, 10], [0.1, 0.9], False, 1.0),
        ([50, 50, 60, 60], [0.1, 0.9], True, 1.0),
    ],
)
def test_a_frame_is_right_when_its_best_box_is(box: list[float], scores: list[float], right: bool, iou: float) -> None:
    worse = (1, [0.0, 0, 10, 10], 0.2, [0.9, 0.1])
    elsewhere = (2, [0.0, 0, 10, 10], 1.0, [1.0, 0.0])
    shown = judge(FACTS, VIDEO, TRUTH, 1, detections(worse, (1, box, 0.9, scores), elsewhere))
    assert (shown.right, shown.iou) == (right, pytest.approx(iou, abs=1e-3))
    assert [found.score for found in shown.detections] == [pytest.approx(0.81)]  # the other one scores too little


def test_a_frame_without_a_box_is_a_failure() -> None:
    shown = judge(FACTS, VIDEO, TRUTH, 1, detections())
    assert (shown.right, shown.iou, shown.detections) == (False, 0.0, ())
    assert [box.label for box in shown.truth] == ["run", "jump"]


def test_labels_of_multilabel_data() -> None:
    facts = DatasetFacts("multi", ("a", "b", "c", "d"), FACTS.anchors, multilabel=True)
    truth = Truth(TRUTH.frames_n[:1], TRUTH.boxes_n4[:1], np.ones((1, 4), bool), np.array([-1]), np.arange(3))
    scores = np.array([[0.6, 0.9, 0.1, 0.2]], np.float32)
    found = VideoDetections(np.array([1]), TRUTH.boxes_n4[:1], np.array([0.7], np.float32), scores)
    shown = judge(facts, VIDEO, truth, 1, found)
    assert (shown.truth[0].label, shown.detections[0].label) == ("a, b +2", "a, b")
    assert shown.detections[0].score == pytest.approx(0.7) and shown.right


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a run whose detections are the truth on every second test video, and nothing on the others."""
    wanted = {"strategy": "dual_guidance", "dataset": "synthetic", "ratio": 0.4}
    wanted["dataset_options"] = {"train_per_class": 1, "test_per_class": 2}
    config = resolve(wanted, preset="smoke").model_dump(mode="json")
    folder = write_run(tmp_path_factory.mktemp("runs"), "f" * 12, config=config)
    dataset = load_dataset("synthetic", **wanted["dataset_options"])
    with DetectionsWriter(folder / "detections.parquet", dataset.facts) as writer:
        for video in dataset.videos("test")[::2]:
            truth = dataset.truth(video.id)
            ones = np.ones(len(truth.frames_n), np.float32)
            writer.add(
                video.id, VideoDetections(truth.frames_n, truth.boxes_n4, ones, truth.labels_nk.astype(np.float32))
            )
    return folder


def test_frames_are_one_a_video_right_ones_first_and_the_same_for_a_seed(finished: Path) -> None:
    (run,) = collect_runs([finished]).runs
    dataset = load_dataset("synthetic", **run.experiment.dataset_options)
    first, again, other = (choose_frames(run, dataset, seed=seed, right_rows=2, columns=4) for seed in (0, 0, 1))

    def places(found: Frames) -> list[tuple[str, int]]:
        return [(shown.video.id, shown.frame) for row in found.rows for shown in row]

    assert places(first) == places(again) != places(other)
    assert (first.judged, first.right) == (12, 6)
    assert [len(row) for row in first.rows] == [4, 2, 4]
    detected = {video.id for video in dataset.videos("test")[::2]}
    shown = [frame.video.id for row in first.rows for frame in row]
    assert len(set(shown)) == 10 and set(shown[:6]) == detected and not detected & set(shown[6:])


def test_named_videos_have_a_row_each(finished: Path, tmp_path: Path) -> None:
    ids = [video.id for video in load_dataset("synthetic", train_per_class=1, test_per_class=2).videos("test")][:2]
    done = figure(5, "--run", finished, "--videos", ",".join(ids), "--out", tmp_path / "5.png", "--json")
    frames = json.loads(done.stdout)["frames"]
    assert [frame["video"] for frame in frames] == [ids[0]] * 4 + [ids[1]] * 4
    assert [frame["kind"] for frame in frames] == ["right"] * 4 + ["failure"] * 4
    numbers = [frame["frame"] for frame in frames[:4]]
    assert numbers == sorted(set(numbers))
    wrong = figure(5, "--run", finished, "--videos", "x,y", "--out", tmp_path / "5.png")
    assert wrong.exit_code == 2 and "unknown video that run" in wrong.stderr
    assert "--run RUN" in figure(5, "--videos", "x", "--out", tmp_path / "5.png").stderr


def test_a_single_frame_has_room_for_its_words_and_a_dollar_is_a_dollar(finished: Path, tmp_path: Path) -> None:
    (run,) = collect_runs([finished]).runs
    frames = choose_frames(run, load_dataset("synthetic", **run.experiment.dataset_options))
    first = frames.rows[0][0]
    priced = replace(first, video=replace(first.video, id="$5_and_$6"))
    pixels = np.zeros((8, 8, 3), np.uint8)
    drawn = drawing.draw_frames(replace(frames, rows=((priced,), (), ())), {("$5_and_$6", first.frame): pixels})
    drawing.save(drawn, tmp_path / "5.png")
    words = drawn._suptitle.get_window_extent(FigureCanvasAgg(drawn).get_renderer())  # type: ignore[attr-defined]
    assert 0 < words.x1 <= drawn.bbox.x1
    assert drawn.axes[0].get_title() == f"$5_and_$6\nframe {first.number}: IoU 1.00"


def test_labels_stay_in_the_picture_and_do_not_cover_each_other() -> None:
    video = Video("a", 3, 100, 100, (0,))
    labels = drawing._Labels(video)
    places = [labels.place("coral_jump 0.90", x, y) for x, y in ((10, 10), (12, 12), (90, 50), (-5, 93))]
    assert all(x >= 0 and x + 15 * labels.LETTER * 100 <= 100 + 1e-9 and 0 <= y <= 93 for x, y in places)
    assert abs(places[0][1] - places[1][1]) >= labels.LINE * 100 - 1e-9


def test_a_notebooks_backend_need_not_be_installed(finished: Path, tmp_path: Path) -> None:
    code = "from ssldet.cli import main; main()"
    arguments = ["figure", "5", "--run", str(finished), "--out", str(tmp_path / "5.png")]
    environment = os.environ | {"MPLBACKEND": "inline_of_a_notebook"}
    done = subprocess.run([sys.executable, "-c", code, *arguments], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_videos_that_the_run_left_out_are_not_drawn(finished: Path) -> None:
    (run,) = collect_runs([finished]).runs
    dataset = load_dataset("synthetic", **run.experiment.dataset_options)
    ids = [video.id for video in dataset.videos("test")]
    skipping = run.record.model_copy(update={"notes": {"skipped_videos": ids[:1]}})
    listed = run.experiment.model_copy(update={"videos": tuple(ids[:3])})
    assert [video.id for video in scored_videos(run.entry.folder, skipping, listed, dataset)] == ids[1:3]


def test_a_film_is_not_decoded_for_one_picture(finished: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (run,) = collect_runs([finished]).runs
    dataset = load_dataset("synthetic", **run.experiment.dataset_options)
    shown = choose_frames(run, dataset).rows[0][0]
    clip = ClipOptions(size=32)
    whole = picture(dataset, shown, clip)
    assert whole.shape == (shown.video.height, shown.video.width, 3)
    monkeypatch.setattr(qualitative, "LARGEST_VIDEO", 0)
    with pytest.raises(DataError, match="no frames of"):
        picture(dataset, shown, clip)
    store = FrameStore(dataset, 32)
    store.prepare([shown.video])
    assert np.array_equal(picture(dataset, shown, clip), store.frames(shown.video.id)[shown.frame])


# ---------------------------------------------------------------------------------------------------- files


def figure(*arguments: Any) -> Result:
    return CliRunner().invoke(main, ["figure", *map(str, arguments)])


def test_figure_3_is_drawn_classes_in_the_order_of_labels_where_data_are_absent(tmp_path: Path) -> None:
    for run_id, row in zip("0a", rows("figure3"), strict=True):
        record(tmp_path, run_id, row, [0.1, 0.2, int(run_id, 16) / 20], settings=OWN)
    plugins.load("dataset", "ucf24").write_stand_in(tmp_path / "data")
    arguments = (3, "--results", tmp_path, "--out", tmp_path / "3.png", "--json")
    there = figure(*arguments, "--data-root", tmp_path / "data")
    assert [shown["videos"] for shown in json.loads(there.stdout)["classes"]] == [
        10,
        10,
        0,
    ]  # the second and third class change places
    with Image.open(tmp_path / "3.png") as image:
        assert image.size[0] > 1000
    absent = figure(*arguments, "--data-root", tmp_path / "nowhere")
    assert absent.exit_code == 0 and "in the order of labels" in absent.stderr
    content = json.loads(absent.stdout)
    assert [shown["name"] for shown in content["classes"]] == list(plugins.load("dataset", "ucf24").facts.classes[:3])
    assert content["runs"] == [["a" * 12, "0" * 12]]


def test_figure_4_is_drawn_with_its_fonts_inside(tmp_path: Path) -> None:
    record(tmp_path, "b", rows("figure4")[1], [0.1])
    done = figure(4, "--results", tmp_path, "--out", tmp_path / "4.pdf")
    assert done.exit_code == 0 and done.stdout == f"{tmp_path / '4.pdf'}\n"
    assert "no run with f_th = 0.2, 0.6, 0.8, 0.9" in done.stderr
    assert b"/FontFile2" in (tmp_path / "4.pdf").read_bytes()


def test_figure_5_is_drawn_and_its_file_holds_no_date(finished: Path, tmp_path: Path) -> None:
    done = figure(5, "--run", finished, "--out", tmp_path / "5.pdf", "--json")
    content = json.loads(done.stdout)
    assert (content["judged"], content["right"]) == (12, 6)
    assert [frame["kind"] for frame in content["frames"]] == ["right"] * 6 + ["failure"] * 4
    assert b"CreationDate" not in (tmp_path / "5.pdf").read_bytes()


def test_boxes_differ_by_line_style_and_lightness() -> None:
    truth, found = drawing.TRUTH, drawing.DETECTION
    assert truth["style"] != found["style"]
    lightness = [Image.new("RGB", (1, 1), look["colour"]).convert("L").getpixel((0, 0)) for look in (truth, found)]
    assert abs(lightness[0] - lightness[1]) > 60


def test_requests_that_cannot_be_carried_out(finished: Path, tmp_path: Path) -> None:
    for arguments, words in (
        ((6,), "known: 3, 4, 5"),
        ((3, "--out", "x.gif"), ".png, .pdf, .svg"),
        ((3, "--results", tmp_path), "ssldet grid --tables 2"),
        ((4, "--results", tmp_path), "ssldet grid --figures 4"),
        ((5, "--results", tmp_path), "ssldet grid --tables 2"),
        ((5, "--results", tmp_path, "--run", "abc"), "no run begins with 'abc'"),
        ((3, "--results", tmp_path, "--preset", "smke"), "did you mean 'smoke'"),
    ):
        done = figure(*arguments)
        assert done.exit_code == 2 and words in done.stderr, done.output


def test_a_run_without_its_detections_says_how_to_get_them(tmp_path: Path) -> None:
    record(tmp_path, "a", rows("figure3")[1], [0.1])
    done = figure(5, "--results", tmp_path, "--out", tmp_path / "5.png")
    assert done.exit_code == 2 and "keeps no detections.parquet" in done.stderr and "ssldet run --config" in done.stderr

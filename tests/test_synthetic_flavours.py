"""The flavours of the synthetic data: each keeps the conventions of the real data set that it is named after."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import av
import numpy as np
import pyarrow.parquet as pq
import pytest
from helpers import EASY, QUICK

from ssldet.config import resolve
from ssldet.contracts import Truth
from ssldet.data import splits
from ssldet.data.statistics import count
from ssldet.ops.iou import box_iou
from ssldet.runs import runner
from ssldet.runs.log import read_log
from ssldet.runs.record import Record
from ssldet_datasets.synthetic import Synthetic, drawing
from ssldet_datasets.synthetic.anchors import size_iou, training_rows, training_sizes
from ssldet_datasets.synthetic.drawing import OUTFITS
from ssldet_datasets.synthetic.facts import (
    ANCHORS,
    CLASSES,
    CROWD,
    FACTS,
    LOOKS,
    PEOPLE_FACTS,
    PRETRAINING_CLASSES,
    VERSION,
)
from ssldet_datasets.synthetic.flavours import FLAVOURS
from ssldet_datasets.synthetic.scene import Scene
from ssldet_datasets.synthetic.storage import Recipe, make_scene

POSES = PEOPLE_FACTS.poses


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("data")


def small(root: Path, flavour: str) -> Synthetic:
    return Synthetic(root, Synthetic.Config(train_per_class=2, test_per_class=1, flavour=flavour))


def scenes(flavour: str, **options: int) -> list[Scene]:
    recipe = Recipe(flavour=flavour, **options)
    return [make_scene(recipe, *clip)[0] for clip in recipe.clips()]


def truths(dataset: Synthetic) -> list[Truth]:
    return [dataset.truth(video.id) for video in dataset.videos("train")]


# ------------------------------------------------------------------------------------------------ all of them


@pytest.mark.parametrize("flavour", FLAVOURS)
def test_every_flavour_is_complete_and_decodes(root: Path, flavour: str) -> None:
    dataset = small(root, flavour)
    assert dataset.verify() == []
    assert [len(dataset.videos("train")), len(dataset.videos("test"))] == [12, 6]
    for video in dataset.videos("test"):
        with av.open(str(dataset.source(video.id).file)) as container:
            assert sum(1 for _ in container.decode(video=0)) == video.num_frames


@pytest.mark.parametrize("flavour", FLAVOURS)
def test_the_anchors_fit_every_flavour(flavour: str) -> None:
    assert size_iou(training_sizes(Recipe(flavour=flavour)), np.array(ANCHORS)).max(1).mean() > 0.85


def test_flavours_differ_in_fingerprint_and_in_videos() -> None:
    assert len({Synthetic(config=Synthetic.Config(flavour=name)).fingerprint() for name in FLAVOURS}) == len(FLAVOURS)
    feet = {name: scenes(name, train_per_class=1, test_per_class=1)[0].figures[0].feet_t2[0] for name in FLAVOURS}
    assert len({tuple(place) for place in feet.values()}) == len(FLAVOURS)


@pytest.mark.parametrize(
    ("flavour", "frames", "brightness", "boxes"),
    [("jhmdb", 37, 95.52, 68.995), ("ava", 45, 101.05, 69.535), ("pretraining", 46, 113.03, 77.872)],
)
def test_output_of_this_version_is_known(flavour: str, frames: int, brightness: float, boxes: float) -> None:
    """When this fails because the generator was changed on purpose, raise VERSION."""
    scene, rng = make_scene(Recipe(flavour=flavour), "train", 3, 7)
    assert (VERSION, scene.num_frames) == (5, frames)
    assert drawing.render(scene, rng).mean() == pytest.approx(brightness, abs=0.05)
    assert FLAVOURS[flavour].annotate(scene)["box"].mean() == pytest.approx(boxes, abs=1e-3)


def test_facts_are_those_of_the_flavour_and_the_class_keeps_the_default_ones() -> None:
    assert Synthetic.facts is FACTS
    for name, flavour in FLAVOURS.items():
        assert Synthetic(config=Synthetic.Config(flavour=name)).facts is flavour.facts
        assert flavour.facts.name == "synthetic"


@pytest.mark.parametrize(
    ("flavour", "ratio", "labelled"),
    [("ucf24", 0.05, 7), *((f, r, round(144 * r)) for f in FLAVOURS for r in (0.2, 0.3))],
)
def test_the_ratios_of_the_paper_can_be_drawn(
    monkeypatch: pytest.MonkeyPatch, flavour: str, ratio: float, labelled: int
) -> None:
    dataset = without_pictures(monkeypatch, flavour)
    split = splits.draw(
        "synthetic", dataset.videos("train"), dataset.facts.classes, split=1, ratio=ratio, seed=0, val_fraction=0.2
    )
    assert len(split.labelled) + len(split.validation) == labelled
    assert len(split.unlabelled) == 144 - labelled


def without_pictures(monkeypatch: pytest.MonkeyPatch, flavour: str) -> Synthetic:
    """The default instance of a flavour as its files would say, made without drawing a video."""
    recipe, entries, tables = Recipe(flavour=flavour), [], []
    for place, (subset, kind, number) in enumerate(recipe.clips()):
        scene, _ = make_scene(recipe, subset, kind, number)
        rows = recipe.made_as.annotate(scene)
        tables.append({"video": np.full(len(rows["frame"]), place), **rows})
        entries.append({"id": f"{place:03d}", "subset": subset, "label": kind, "frames": scene.num_frames})
    truth = {key: np.concatenate([table[key] for table in tables]) for key in tables[0]}
    monkeypatch.setattr(Synthetic, "_read", ({"videos": entries}, truth))
    return Synthetic(config=Synthetic.Config(flavour=flavour))


# ------------------------------------------------------------------------------------------------------ jhmdb


def test_jhmdb_shows_one_person_who_acts_in_every_frame(root: Path) -> None:
    drawn = scenes("jhmdb")
    assert all(len(scene.figures) == 1 and scene.figures[0].acts_t.all() for scene in drawn)
    dataset = small(root, "jhmdb")
    for video, truth in zip(dataset.videos("train"), truths(dataset), strict=True):
        assert np.array_equal(truth.frames_n, np.arange(video.num_frames))
        assert np.array_equal(truth.key_frames_m, truth.frames_n)
        assert set(truth.tubes_n) == {0} and np.all(truth.labels_nk.argmax(1) == video.classes[0])


# -------------------------------------------------------------------------------------------------------- ava


def test_ava_has_a_pose_and_a_look_for_everybody_on_key_frames(root: Path) -> None:
    dataset = small(root, "ava")
    step = dataset.facts.numbering.step
    for video, truth in zip(dataset.videos("train"), truths(dataset), strict=True):
        assert np.all(truth.labels_nk[:, :POSES].sum(1) == 1)
        assert np.all(truth.labels_nk[:, POSES : POSES + len(LOOKS)].sum(1) == 1)
        assert np.all(truth.tubes_n == -1)
        assert np.array_equal(truth.key_frames_m, np.arange(15, video.num_frames, step))
        assert np.isin(truth.frames_n, truth.key_frames_m).all() and np.all(np.diff(truth.frames_n) >= 0)


def test_ava_speaks_of_everybody_in_sight() -> None:
    flavour = FLAVOURS["ava"]
    for scene in scenes("ava"):
        frames = flavour.key_frames(scene.num_frames)
        seen = np.sum([figure.visible_t[frames] for figure in scene.figures], 0)
        assert np.array_equal(np.bincount(flavour.annotate(scene)["frame"], minlength=scene.num_frames)[frames], seen)


def test_in_ava_a_pose_is_what_a_person_does_at_that_moment() -> None:
    scene = next(scene for scene in scenes("ava") if len(scene.figures) == 1 and not scene.figures[0].acts_t.all())
    (figure,), rows = scene.figures, FLAVOURS["ava"].annotate(scene)
    poses = [PEOPLE_FACTS.classes[label] for label in rows["label"][:, :POSES].argmax(1)]
    assert poses == [figure.motion if figure.acts_t[frame] else "stand" for frame in rows["frame"]]


def test_in_ava_people_do_different_things() -> None:
    flavour = FLAVOURS["ava"]
    poses = [len(np.unique(flavour.annotate(scene)["label"][:, :POSES].argmax(1))) for scene in scenes("ava")]
    looks = [len({figure.look for figure in scene.figures}) for scene in scenes("ava")]
    assert np.mean(np.array(poses) > 1) > 0.5 and np.mean(np.array(looks) > 1) > 0.3


def test_a_crowd_is_two_boxes_that_overlap(monkeypatch: pytest.MonkeyPatch) -> None:
    dataset, crowds = without_pictures(monkeypatch, "ava"), 0
    for truth in truths(dataset):
        for frame in truth.key_frames_m:
            rows = np.flatnonzero(truth.frames_n == frame)
            boxes = truth.boxes_n4[rows].astype(np.float64)
            for one, row in enumerate(rows):
                meets = any(box_iou(boxes[one], boxes[two], False) > 0.3 for two in range(len(rows)) if two != one)
                assert truth.labels_nk[row, PEOPLE_FACTS.classes.index(CROWD)] == meets
                crowds += meets
    assert crowds > 100


def test_class_ratios_are_shares_of_the_training_boxes() -> None:
    shares = training_rows(Recipe(flavour="ava"))["label"].mean(0)
    assert np.allclose(shares, PEOPLE_FACTS.class_ratios or (), atol=6e-4)


def test_a_video_of_ava_lists_the_label_with_most_boxes_first(root: Path) -> None:
    dataset = small(root, "ava")
    for video in dataset.videos("train"):
        boxes = dataset.truth(video.id).labels_nk.sum(0)[list(video.classes)]
        assert np.all(np.diff(boxes) <= 0) and np.all(boxes > 0)
        assert boxes.sum() == dataset.truth(video.id).labels_nk.sum()


def test_ava_is_counted_with_several_labels_a_box(root: Path) -> None:
    counts = count(small(root, "ava")).subsets["all"]
    assert counts.labels >= 2 * counts.boxes and counts.tubes == 0
    assert counts.key_frames < counts.frames / 5


# ------------------------------------------------------------------------------------------------ pretraining


def test_pretraining_has_no_look_and_no_motion_of_the_others() -> None:
    others = [figure for name in ("ucf24", "jhmdb", "ava") for scene in scenes(name) for figure in scene.figures]
    own = [figure for scene in scenes("pretraining") for figure in scene.figures]
    for part in ("look", "motion"):
        shared = {getattr(figure, part) for figure in own} & {getattr(figure, part) for figure in others}
        assert shared <= {None}
    assert not set(PRETRAINING_CLASSES) & set(CLASSES)


def test_every_look_wears_the_three_colours_in_an_order_of_its_own() -> None:
    assert len(set(OUTFITS.values())) == len(OUTFITS) == 6
    assert all(sorted(outfit) == [0, 1, 2] for outfit in OUTFITS.values())


# ------------------------------------------------------------------------------------------------- whole runs


def carried_out(root: Path, flavour: str) -> tuple[Record, Path]:
    results = root / f"runs-{flavour}"
    wanted: dict[str, Any] = {
        "strategy": "dual_guidance",
        "dataset": "synthetic",
        "dataset_options": {"train_per_class": 4, "test_per_class": 1, "flavour": flavour},
        "ratio": 0.5,
        "data_root": root,
        "results": results,
        "workers": 1,
    }
    record = runner.run(resolve(wanted, preset="smoke", assignments=[*QUICK, *EASY["dual_guidance"]]))
    return record, next(results.glob(f"*{record.id}"))


@pytest.fixture(scope="module")
def jhmdb_run(root: Path) -> tuple[Record, Path]:
    return carried_out(root, "jhmdb")


@pytest.fixture(scope="module")
def ava_run(root: Path) -> tuple[Record, Path]:
    return carried_out(root, "ava")


def test_a_run_on_jhmdb_is_scored_by_frames_and_by_videos(jhmdb_run: tuple[Record, Path]) -> None:
    record, folder = jhmdb_run
    assert (record.split.labelled, record.split.unlabelled, record.split.evaluated) == (12, 12, 6)
    assert {"frame_map", "video_map", "recall"} <= set(record.metrics)
    assert set(record.metrics["frame_map"]["standard"].thresholds["0.5"].per_class) == set(FACTS.classes)
    assert read_log(folder / "log.jsonl")[-1]["pseudo_labels"]["frame_labels"] > 0


def test_a_run_on_ava_is_scored_by_its_protocol(ava_run: tuple[Record, Path]) -> None:
    record, folder = ava_run
    assert (record.split.labelled, record.split.unlabelled, record.split.evaluated) == (12, 12, 6)
    scored = record.metrics["frame_map"]["standard"].thresholds["0.5"]
    assert list(scored.per_class) == [name for name in PEOPLE_FACTS.classes if name != CROWD]
    assert scored.mean is not None
    assert "video_map" not in record.metrics
    assert "key frames" in record.notes["metrics_left_out"]["video_map"]
    assert {"box_u", "frame_u", "temporal_u"} <= set(read_log(folder / "log.jsonl")[-1]["losses"])


def test_detections_on_ava_are_numbered_by_key_frames(ava_run: tuple[Record, Path]) -> None:
    frames = pq.read_table(ava_run[1] / "detections.parquet")["frame"].to_numpy()
    numbering = PEOPLE_FACTS.numbering
    assert numbering.to_file(15) == frames.min() == 4
    assert frames.max() <= numbering.to_file(max(scene.num_frames for scene in scenes("ava")) - 1) == 12


def test_runs_on_different_flavours_have_different_ids(
    ava_run: tuple[Record, Path], jhmdb_run: tuple[Record, Path]
) -> None:
    assert ava_run[0].id != jhmdb_run[0].id
    assert ava_run[0].data_fingerprint != jhmdb_run[0].data_fingerprint

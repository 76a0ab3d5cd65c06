"""The synthetic data set: what it promises about its videos and truth, and how it comes to be."""

from __future__ import annotations

import multiprocessing
import shutil
from pathlib import Path

import av
import numpy as np
import pytest

from ssldet.contracts import Video
from ssldet.data.datasets import load_dataset
from ssldet.errors import ConfigError, DataError
from ssldet_datasets.synthetic import Synthetic, drawing
from ssldet_datasets.synthetic.anchors import size_iou, training_sizes
from ssldet_datasets.synthetic.facts import ANCHORS, CLASSES, FACTS, HEIGHT, VERSION, WIDTH
from ssldet_datasets.synthetic.scene import Scene
from ssldet_datasets.synthetic.storage import Recipe, make_scene


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("data")


@pytest.fixture
def small(root: Path) -> Synthetic:
    return Synthetic(root, Synthetic.Config(train_per_class=2, test_per_class=1))


def decode(dataset: Synthetic, video: Video) -> np.ndarray:
    with av.open(str(dataset.source(video.id).file)) as container:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])


def all_videos(dataset: Synthetic) -> list[Video]:
    return [*dataset.videos("train"), *dataset.videos("test")]


def scenes(recipe: Recipe) -> list[Scene]:
    return [make_scene(recipe, *clip)[0] for clip in recipe.clips()]


def test_small_instance_is_complete_and_small(small: Synthetic) -> None:
    assert small.verify() == []
    assert [len(small.videos("train")), len(small.videos("test"))] == [12, 6]
    ids = [video.id for video in all_videos(small)]
    assert len(set(ids)) == 18
    assert sum(Path(small.source(name).file or "").stat().st_size for name in ids) < 18 * 60_000


def test_videos_decode_to_what_the_index_says(small: Synthetic) -> None:
    for video in all_videos(small):
        assert decode(small, video).shape == (video.num_frames, HEIGHT, WIDTH, 3)


def test_truth_is_well_formed(small: Synthetic) -> None:
    for video in all_videos(small):
        truth = small.truth(video.id)
        x1, y1, x2, y2 = truth.boxes_n4.T
        assert np.all((x1 >= 0) & (y1 >= 0) & (x2 <= WIDTH) & (y2 <= HEIGHT) & (x2 - x1 > 8) & (y2 - y1 > 30))
        assert truth.boxes_n4.dtype == np.float32 and truth.frames_n.dtype == np.int64
        assert np.array_equal(np.lexsort((truth.tubes_n, truth.frames_n)), np.arange(len(truth.frames_n)))
        assert np.array_equal(truth.key_frames_m, np.arange(video.num_frames))
        assert np.all(truth.labels_nk.argmax(1) == video.classes[0]) and np.all(truth.labels_nk.sum(1) == 1)
        for tube in np.unique(truth.tubes_n):
            frames = truth.frames_n[truth.tubes_n == tube]
            assert np.array_equal(frames, np.arange(frames[0], frames[-1] + 1))


def test_same_seed_gives_same_frames_and_truth(small: Synthetic, tmp_path: Path) -> None:
    again = Synthetic(tmp_path, Synthetic.Config(train_per_class=1, test_per_class=1))
    for video in all_videos(again):
        assert video in all_videos(small)
        assert np.array_equal(decode(again, video), decode(small, video))
        assert small.truth(video.id).boxes_n4.tobytes() == again.truth(video.id).boxes_n4.tobytes()


def test_another_seed_gives_other_videos(small: Synthetic, root: Path) -> None:
    other = Synthetic(root, Synthetic.Config(seed=1, train_per_class=2, test_per_class=1))
    assert other.fingerprint() != small.fingerprint()
    name = small.videos("train")[0].id
    assert not np.array_equal(other.truth(name).boxes_n4, small.truth(name).boxes_n4)


def test_default_instance_keeps_its_promises() -> None:
    recipe = Recipe()
    clips = recipe.clips()
    train = [label for subset, label, _ in clips if subset == "train"]
    assert min(np.bincount(train, minlength=len(CLASSES))) >= 20
    drawn = scenes(recipe)
    acting = [np.any([figure.acts_t for figure in scene.figures], 0) for scene in drawn]
    assert 0.2 <= 1 - np.mean(np.concatenate(acting)) <= 0.3
    actors = [sum(figure.motion is not None for figure in scene.figures) for scene in drawn]
    assert set(actors) == {1, 2} and 0.2 < np.mean(np.array(actors) == 2) < 0.5
    assert 0.5 < np.mean([len(scene.figures) > count for scene, count in zip(drawn, actors, strict=True)]) < 0.9
    assert 0.25 < np.mean([scene.bar is not None for scene in drawn]) < 0.55


def test_background_frames_show_people() -> None:
    for scene in scenes(Recipe()):
        acting = np.any([figure.acts_t for figure in scene.figures], 0)
        visible = np.any([figure.visible_t for figure in scene.figures], 0)
        assert np.all(visible | acting)


def test_background_leans_to_the_class_without_deciding_it() -> None:
    recipe = Recipe(train_per_class=100)
    hits = [scene.background == label for scene, (_, label, _) in zip(scenes(recipe), recipe.clips(), strict=True)]
    assert 0.27 < np.mean(hits) < 0.45


def test_each_look_and_each_motion_belongs_to_two_classes() -> None:
    for part in (0, 1):
        _, counts = np.unique([pair[part] for pair in CLASSES], return_counts=True)
        assert counts.tolist() == [2, 2, 2]
    assert len(set(FACTS.classes)) == 6


def test_boxes_are_the_extent_of_what_is_drawn() -> None:
    for clip in Recipe().clips()[::24]:
        scene, _ = make_scene(Recipe(), *clip)
        for figure in scene.figures:
            canvas = drawing.blank(scene.num_frames)
            drawing.paint_figure(canvas, figure, scene.camera_t2)
            inked = drawing.crop(canvas).max(3) > 0
            for frame in np.flatnonzero(figure.visible_t):
                rows, columns = np.nonzero(inked[frame])
                drawn = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
                assert np.abs(drawing.boxes(figure, scene.camera_t2)[frame] - drawn).max() <= 1.01


def test_anchors_fit_the_training_boxes() -> None:
    assert size_iou(training_sizes(Recipe()), np.array(ANCHORS)).max(1).mean() > 0.85


def test_idle_and_acting_figures_hold_the_same_poses() -> None:
    """One frame cannot tell: the share of raised arms is the same in figures that wave and that stand still."""
    figures = [figure for scene in scenes(Recipe(train_per_class=60)) for figure in scene.figures]
    waving = [figure.motion == "wave" for figure in figures]
    acting = np.concatenate([f.arm_t[f.acts_t] for f, w in zip(figures, waving, strict=True) if w])
    still = np.concatenate([f.arm_t[:1] for f, w in zip(figures, waving, strict=True) if not w])
    quantiles = [0.1, 0.3, 0.5, 0.7, 0.9]
    assert np.abs(np.quantile(acting, quantiles) - np.quantile(still, quantiles)).max() < np.radians(12)


def test_output_of_this_version_is_known() -> None:
    """When this fails because the generator was changed on purpose, raise VERSION and refit ANCHORS as well."""
    scene, rng = make_scene(Recipe(), "train", 3, 7)
    assert (VERSION, scene.num_frames, len(scene.figures)) == (5, 40, 3)
    assert drawing.render(scene, rng).mean() == pytest.approx(117.94, abs=0.05)
    assert training_sizes(Recipe()).mean(0) == pytest.approx([2.3287, 3.7308], abs=1e-3)


def test_truth_does_not_depend_on_other_videos() -> None:
    recipe = Recipe()
    alone = recipe.made_as.annotate(make_scene(recipe, "test", 3, 1)[0])["box"]
    np.random.default_rng(5).normal(size=10)
    make_scene(recipe, "train", 0, 0)
    assert np.array_equal(alone, recipe.made_as.annotate(make_scene(recipe, "test", 3, 1)[0])["box"])


def test_default_place_is_the_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("SSLDET_CACHE", str(tmp_path))
    dataset = Synthetic(config=Synthetic.Config(train_per_class=1, test_per_class=1))
    assert list(tmp_path.iterdir()) == []
    file = dataset.source(dataset.videos("test")[0].id).file
    assert file is not None and file.is_relative_to(tmp_path / "synthetic")


def test_root_that_cannot_be_written_is_passed_over(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("SSLDET_CACHE", str(tmp_path / "cache"))
    blocked = tmp_path / "file"
    blocked.write_text("not a folder")
    assert Synthetic(blocked, Synthetic.Config(train_per_class=1, test_per_class=1)).verify() == []
    monkeypatch.setenv("SSLDET_CACHE", str(blocked))
    with pytest.raises(DataError, match="SSLDET_CACHE"):
        Synthetic(config=Synthetic.Config(train_per_class=1, test_per_class=1)).videos("train")


def test_verify_names_what_is_missing_or_changed(small: Synthetic, tmp_path: Path) -> None:
    shutil.copytree(small.source(small.videos("train")[0].id).file.parents[3], tmp_path / "synthetic")  # type: ignore[union-attr]
    copy = Synthetic(tmp_path, Synthetic.Config(train_per_class=2, test_per_class=1))
    first, second = (copy.source(video.id).file for video in copy.videos("train")[:2])
    assert first and second
    first.unlink()
    second.write_bytes(b"short")
    problems = [str(problem) for problem in copy.verify()]
    assert len(problems) == 2
    assert first.stem in problems[0] and "missing" in problems[0] and "delete" in problems[0]
    assert second.stem in problems[1] and "changed" in problems[1]


def test_damaged_truth_is_a_data_error(tmp_path: Path) -> None:
    Synthetic(tmp_path, Synthetic.Config(train_per_class=1, test_per_class=1)).videos("train")
    file = next(tmp_path.rglob("truth.npz"))
    file.write_bytes(file.read_bytes()[:-40])
    again = Synthetic(tmp_path, Synthetic.Config(train_per_class=1, test_per_class=1))
    with pytest.raises(DataError, match=r"truth\.npz"):
        again.videos("train")
    assert len(again.verify()) == 1


def test_bad_requests_are_refused(small: Synthetic) -> None:
    with pytest.raises(ConfigError, match=r"dataset.flavour: .* not 'ucf25'; did you mean 'ucf24'"):
        load_dataset("synthetic", flavour="ucf25")
    with pytest.raises(ConfigError, match=r"dataset.train_per_class: .* greater than or equal to 1, not 0"):
        load_dataset("synthetic", train_per_class=0)
    with pytest.raises(DataError, match="one official split"):
        small.videos("train", split=2)
    with pytest.raises(DataError, match="no video 'nobody'"):
        small.truth("nobody")


def test_a_killed_generation_leaves_nothing_in_the_way(tmp_path: Path) -> None:
    dataset = Synthetic(tmp_path, Synthetic.Config(train_per_class=1, test_per_class=1))
    name = f"v{VERSION}-{dataset.fingerprint()[:12]}.partial"
    (tmp_path / "synthetic" / name / "videos").mkdir(parents=True)
    (tmp_path / "synthetic" / name / "truth.npz").write_bytes(b"half")
    assert dataset.verify() == []
    assert not (tmp_path / "synthetic" / name).exists()


def _generate(root: str) -> list[tuple[str, int]]:
    dataset = Synthetic(Path(root), Synthetic.Config(train_per_class=1, test_per_class=1))
    files = [dataset.source(video.id).file for video in all_videos(dataset)]
    return [(str(file), file.stat().st_mtime_ns) for file in files if file]


def test_concurrent_generation_happens_once(tmp_path: Path) -> None:
    with multiprocessing.get_context("spawn").Pool(3) as pool:
        first, *others = pool.map(_generate, [str(tmp_path)] * 3)
    assert all(other == first for other in others)

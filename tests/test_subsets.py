"""Runs on a list of videos, and whole runs on stand-ins of the public data sets."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import helpers
import pytest
from click.testing import CliRunner

from ssldet.cli import main
from ssldet.config import RunConfig, resolve
from ssldet.contracts import Dataset
from ssldet.data.datasets import load_dataset
from ssldet.errors import DataError, RequestError
from ssldet.plugins import load
from ssldet.runs import runner
from ssldet.runs.record import Record

QUICK = (
    *helpers.QUICK,
    "train.steps=4",
    "train.burn_in=0.5",
    "train.checkpoint_every=4",
    "clip.size=32",
    "clip.frames=4",
)


def config(root: Path, dataset: str, ratio: float, **fields: Any) -> RunConfig:
    wanted = {"strategy": "dual_guidance", "dataset": dataset, "ratio": ratio, "data_root": root, "workers": 1}
    return resolve({**wanted, "results": root / "runs", **fields}, preset="smoke", assignments=QUICK)


@pytest.fixture(scope="module")
def ucf24(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    folder = tmp_path_factory.mktemp("ucf24")
    load("dataset", "ucf24").write_stand_in(folder)
    return load_dataset("ucf24", folder)


def some(dataset: Dataset, classes: int, train: int) -> list[str]:
    """The ids of `train` training and one test video of each of the first classes."""
    found = []
    for subset, count in (("train", train), ("test", 1)):
        videos = dataset.videos(subset)  # type: ignore[arg-type]
        for label in sorted({video.classes[0] for video in videos})[:classes]:
            found += [video.id for video in videos if video.classes[0] == label][:count]
    return found


def test_a_list_restricts_training_and_test(ucf24: Dataset) -> None:
    listed = some(ucf24, classes=2, train=4)
    root = ucf24.root  # type: ignore[attr-defined]
    planned = runner.plan(config(root, "ucf24", 0.25, videos=listed))
    assert sorted([*planned.train, *(video.id for video in planned.evaluated)]) == sorted(listed)
    assert len(planned.split.labelled) == 2  # one of each listed class; the other 22 are not required
    again = runner.plan(config(root, "ucf24", 0.25, videos=listed[::-1]))
    assert again.id == planned.id != runner.plan(config(root, "ucf24", 0.25)).id


def test_only_listed_videos_need_to_be_there(ucf24: Dataset, tmp_path: Path) -> None:
    load("dataset", "ucf24").write_stand_in(tmp_path)
    listed = some(ucf24, classes=2, train=4)
    for file in (tmp_path / "UCF-101").rglob("*.avi"):
        if f"{file.parent.name}/{file.stem}" not in listed:
            file.unlink()
    assert runner.plan(config(tmp_path, "ucf24", 0.25, videos=listed)).train
    with pytest.raises(DataError, match="incomplete"):
        runner.plan(config(tmp_path, "ucf24", 0.25))
    (tmp_path / f"UCF-101/{listed[0]}.avi").unlink()
    with pytest.raises(DataError, match=r"incomplete \(1 problems\)"):
        runner.plan(config(tmp_path, "ucf24", 0.25, videos=listed))


def test_lists_that_do_not_fit_are_refused(ucf24: Dataset) -> None:
    root = ucf24.root  # type: ignore[attr-defined]
    listed = some(ucf24, classes=2, train=4)
    with pytest.raises(RequestError, match="1 listed videos are not in ucf24, such as 'Nobody/knows'"):
        runner.plan(config(root, "ucf24", 0.25, videos=[*listed, "Nobody/knows"]))
    with pytest.raises(RequestError, match="none of the 8 listed videos is a test video"):
        runner.plan(config(root, "ucf24", 0.25, videos=listed[:8]))


@pytest.mark.slow
@pytest.mark.parametrize(("name", "ratio"), [("ucf24", 0.1), ("ava", 0.2), ("jhmdb", 0.2)])
def test_runs_on_stand_ins(tmp_path: Path, name: str, ratio: float) -> None:
    load("dataset", name).write_stand_in(tmp_path / name)
    record = runner.run(config(tmp_path, name, ratio))
    assert record.status == "done"
    assert "subset" not in record.notes
    assert record.value("frame_map", "standard", "0.5") is not None


@pytest.mark.slow
@pytest.mark.real
def test_the_real_videos_of_ucf24_as_a_subset(shared: Path, tmp_path: Path) -> None:
    videos = sorted((shared / "data/ucf24/videos").rglob("*.avi"))
    (tmp_path / "list.txt").write_text("".join(f"{path.parent.name}/{path.stem}\n" for path in videos))
    arguments = ["run", "--strategy", "dual_guidance", "--dataset", "ucf24", "--ratio", "0.3", "--preset", "smoke"]
    arguments += ["--videos", str(tmp_path / "list.txt"), "--data-root", str(shared / "data")]
    arguments += ["--results", str(tmp_path), *(part for one in QUICK for part in ("--set", one))]
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 0, result.output
    (path,) = tmp_path.glob("*/record.json")
    notes = Record.read(path).notes
    assert notes["subset"] == {"listed": 31, "train": 18, "evaluated": 13}
    assert len(notes["short_videos"]) == 3

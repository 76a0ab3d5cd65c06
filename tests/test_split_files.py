"""Published lists of labelled videos: those that ship, and those of other people."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import numpy as np
import pytest
from helpers import TinyDataset

from ssldet import plugins
from ssldet.data import split_files, splits
from ssldet.data.datasets import load_dataset
from ssldet.data.split_files import differences, freeze, frozen, imported, read_list
from ssldet.errors import DataError, SplitError

TRAIN = TinyDataset().videos("train")


@pytest.mark.parametrize(("name", "ratios"), [("ucf24", {0.05, 0.1}), ("jhmdb", {0.2, 0.3})])
def test_the_papers_settings_ship_with_five_seeds(name: str, ratios: set[float]) -> None:
    found = frozen(plugins.load("dataset", name))
    assert {(split.ratio, split.seed) for split in found} == {(ratio, seed) for ratio in ratios for seed in range(5)}
    assert len({split.hash for split in found}) == 10


@pytest.mark.parametrize("name", ["ava", "synthetic"])
def test_others_ship_none(name: str) -> None:
    assert frozen(plugins.load("dataset", name)) == []


@pytest.mark.real
@pytest.mark.parametrize("name", ["ucf24", "jhmdb"])
def test_what_ships_is_what_the_real_data_give(shared: Path, name: str) -> None:
    dataset = load_dataset(name, shared / "data")
    videos = dataset.videos("train")
    assert [differences(split, videos, dataset.facts.classes) for split in frozen(type(dataset))] == [[]] * 10


def test_freezing_and_changing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    freeze(TinyDataset(), [0.5], [0, 1], tmp_path / "tiny.json")
    monkeypatch.setattr(split_files.resources, "files", lambda package: tmp_path)
    monkeypatch.setattr(TinyDataset, "frozen_splits", "anything:.", raising=False)
    assert [split.seed for split in frozen(TinyDataset)] == [0, 1]
    content = json.loads((tmp_path / "tiny.json").read_text())
    content["draws"][1]["labelled"].pop()
    (tmp_path / "tiny.json").write_text(json.dumps(content))
    with pytest.raises(SplitError, match="seed 1 was changed"):
        frozen(TinyDataset)


def test_differences_name_what_differs() -> None:
    split = splits.draw("tiny", TRAIN, TinyDataset.facts.classes, split=1, ratio=0.5, seed=0)
    assert differences(split, TRAIN, TinyDataset.facts.classes) == []
    assert "not in the data, such as v7" in differences(split, TRAIN[:7], TinyDataset.facts.classes)[0]
    (other,) = differences(
        splits.LabelSplit("tiny", 1, 0.5, 3, 0.0, split.labelled, split.unlabelled), TRAIN, TinyDataset.facts.classes
    )
    assert "hash" in other


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("list.txt", b"v1.avi 1\n\nv3\nelsewhere\n"),
        ("list.json", b'["v1", "v3", "elsewhere"]'),
        ("list.pkl", pickle.dumps({"v1": 0, "v3": 1, "elsewhere": 2}, 4)),
        ("list.pkl", pickle.dumps([(np.str_(name), [1, 2]) for name in ("v1", "v3", "elsewhere")], 4)),
    ],
)
def test_lists_of_labelled_videos(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    split, unknown = imported("tiny", tmp_path / name, TRAIN)
    assert (split.labelled, split.ratio, split.seed) == (("v1", "v3"), 0.25, -1)
    assert unknown == ["elsewhere"]
    assert differences(split, TRAIN, TinyDataset.facts.classes) == []
    splits.write(split, tmp_path / "split.json")
    assert splits.read(tmp_path / "split.json") == split


@pytest.mark.parametrize(
    ("name", "content"), [("a.json", b"3"), ("a.json", b"[[3]]"), ("a.json", b"["), ("a.txt", b"\xff")]
)
def test_what_is_no_list_is_refused(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=r"a\.(json|txt)"):
        read_list(tmp_path / name)


def test_a_list_of_other_videos_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("x\n")
    with pytest.raises(SplitError, match="none of its 1 names"):
        imported("tiny", tmp_path / "a.txt", TRAIN)


@pytest.mark.real
def test_the_published_ten_percent_of_ucf24(shared: Path) -> None:
    path = shared / "data/ucf24/lists/train_annots_10_labeled.pkl"
    split, unknown = imported("ucf24", path, load_dataset("ucf24", shared / "data").videos("train"))
    assert (len(split.labelled), unknown) == (215, [])

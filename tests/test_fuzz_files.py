"""Files that runs write and people edit, changed at random: detections, records, settings, splits, weights, frames.

Bytes are changed as in test_fuzz_parsers.py; of JSON and YAML the values too, so that what is well-formed reaches the
checks behind the parser.
"""

from __future__ import annotations

import json
import pickle
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from made_detections import BOX, FACTS, detections, video
from made_networks import write_trained_run
from PIL import Image
from safetensors.torch import save_file
from test_fuzz_parsers import EXAMPLES, fuzz, mutate, survives
from test_fuzz_parsers import bounded as bounded

from ssldet.benchmark.tuned_settings import read_tuned
from ssldet.config import presets, resolve
from ssldet.data import splits
from ssldet.data.stored_frames import PackedForm
from ssldet.data.video import VideoSource
from ssldet.detector.weights import darknet_header, open_weights
from ssldet.errors import DataError
from ssldet.evaluation.detection_rows import SLACK
from ssldet.evaluation.detections import DetectionsWriter, read_detections
from ssldet.runs import curves, layout, store
from ssldet.runs.claims import read_owner
from ssldet.runs.external import read_external
from ssldet.runs.log import read_log
from ssldet.runs.network import read_network
from ssldet.runs.packing import pack, unpack
from ssldet.runs.record import Record, is_as_written
from ssldet.training import checkpoints
from ssldet_datasets import own_boxes, own_records

ROOT = Path(__file__).resolve().parents[1]
CAMPAIGN = ROOT / "results" / "campaigns" / "table3_nano"
VIDEOS = [video("a"), video("b")]
ODD: tuple[Any, ...] = (None, True, -1, 0, 2**70, 1e308, "", "../../x", "nan", [], {}, [[]], {"": None}, "x" * 999)


def change_value(tree: Any, draw: random.Random) -> Any:
    """A tree of JSON with a value somewhere replaced, dropped or put elsewhere."""
    if isinstance(tree, dict) and tree and draw.random() < 0.85:
        key = draw.choice(list(tree))
        action = draw.random()
        if action < 0.1:
            return {name: value for name, value in tree.items() if name != key}
        if action < 0.2:
            return {**tree, draw.choice(("x", *tree)): tree[key]}
        return {**tree, key: change_value(tree[key], draw)}
    if isinstance(tree, list) and tree and draw.random() < 0.85:
        place = draw.randrange(len(tree))
        return [*tree[:place], change_value(tree[place], draw), *tree[place + draw.choice((0, 1, 1)) :]]
    return draw.choice(ODD)


def changed_json(content: bytes, seed: int) -> bytes:
    """Every other time the values of a JSON file are changed, else its bytes."""
    if seed % 2:
        return mutate(content, seed)
    return json.dumps(change_value(json.loads(content), random.Random(seed))).encode()


def changed_yaml(content: bytes, seed: int) -> bytes:
    if seed % 2:
        return mutate(content, seed)
    return yaml.safe_dump(change_value(yaml.safe_load(content), random.Random(seed))).encode()


# --------------------------------------------------------------------------------------------------- detections


WIDE = 'video,frame,x1,y1,x2,y2,confidence,scores\na,1,10,10,50,50,0.9,"[0.1,0.8,0.1]"\nb,2,1,2,3,4,0.5,"[0,1,0]"\n'
LONG = "video,frame,x1,y1,x2,y2,label,score\na,1,10,10,50,50,run,0.9\nb,2,1,2,3,4,wave,0.5\n"
AVA = "a,0001,0.1,0.2,0.5,0.8,1,0.9\nb,0002,0.1,0.2,0.5,0.8,3,0.4\n"
ACT = {"a": {0: np.array([[1, 10, 10, 50, 50, 0.9]]), 2: [np.array([[1, 1, 2, 3, 4, 0.5]])]}, "b": {}}


def read_all(path: Path) -> None:
    found = read_detections(path, FACTS, VIDEOS)
    for one in VIDEOS:
        boxes = found[one.id]
        scores = boxes.scores_nk[~np.isnan(boxes.scores_nk)]  # the long form need not score all classes
        assert np.isfinite(boxes.boxes_n4).all() and ((scores >= -SLACK) & (scores <= 1 + SLACK)).all()


OTHERS = {"wide.csv": WIDE.encode(), "long.csv": LONG.encode(), "ava.csv": AVA.encode(), "act.pkl": pickle.dumps(ACT)}


def changed_pickle(content: bytes, seed: int) -> bytes:
    if seed % 2:
        return mutate(content, seed)
    return pickle.dumps(change_value(ACT, random.Random(seed)), 4)


def test_values_in_pickles_of_others(tmp_path: Path) -> None:
    fuzz(read_all, OTHERS["act.pkl"], tmp_path / "act.pkl", changed_pickle)


@pytest.mark.parametrize("name", OTHERS)
def test_detections_of_others(tmp_path: Path, name: str) -> None:
    fuzz(read_all, OTHERS[name], tmp_path / name)


def test_detections_as_runs_write_them(tmp_path: Path) -> None:
    with DetectionsWriter(tmp_path / "seed.parquet", FACTS) as writer:
        for one in VIDEOS:
            writer.add(one.id, detections([(0, BOX, 0.9, (0.1, 0.8, 0.1)), (2, BOX, 0.5, (0, 1, 0))]))
    fuzz(read_all, (tmp_path / "seed.parquet").read_bytes(), tmp_path / "detections.parquet")


def test_folders_of_detections(tmp_path: Path) -> None:
    (tmp_path / "theirs").mkdir()
    fuzz(
        lambda path: read_all(path.parent),
        b"1 0.9 10 20 30 40\nwave 0.5 1 2 3 4\n",
        tmp_path / "theirs" / "a_00001.txt",
    )


# ------------------------------------------------------------------------------------------------- what runs leave


def record_files() -> list[Path]:
    return [ROOT / "tests" / "records" / "schema1.json", next(CAMPAIGN.glob("*/record.json"))]


@pytest.mark.parametrize("file", record_files(), ids=["schema 1", "a run"])
def test_records(tmp_path: Path, file: Path) -> None:
    def parse(path: Path) -> None:
        record = Record.read(path)
        is_as_written(json.loads(path.read_text()))
        assert record.status in ("done", "failed")

    fuzz(parse, file.read_bytes(), tmp_path / "record.json", changed_json, share=0.4)


def test_folders_of_runs(tmp_path: Path) -> None:
    """Listing them never fails, whatever lies there."""
    source = next(CAMPAIGN.glob("*/record.json"))
    folder = tmp_path / source.parent.name
    folder.mkdir()

    def parse(path: Path) -> None:
        (entry,) = store.find_runs([tmp_path])
        assert entry.status and entry.state

    fuzz(parse, source.read_bytes(), folder / layout.RECORD, changed_json, share=0.2)
    (folder / layout.RECORD).unlink()
    config = yaml.safe_dump(json.loads(source.read_text())["config"]).encode()
    fuzz(parse, config, folder / layout.CONFIG, changed_yaml, share=0.1)


def test_logs(tmp_path: Path) -> None:
    lines = next(CAMPAIGN.glob("*/log.jsonl")).read_bytes().splitlines()[:6]
    fuzz(lambda path: curves.as_json(curves.curves(read_log(path))), b"\n".join(lines), tmp_path / "log.jsonl")
    change = changed_json
    fuzz(lambda path: curves.as_json(curves.curves(read_log(path))), lines[-1], tmp_path / "log.jsonl", change)


def test_others_numbers(tmp_path: Path) -> None:
    def parse(path: Path) -> None:
        assert read_external(path.parent).name

    fuzz(parse, next(CAMPAIGN.glob("*/record.json")).read_bytes(), tmp_path / layout.EXTERNAL_RECORD, share=0.2)


def test_claims(tmp_path: Path) -> None:
    claim = b'{"token": "0123", "host": "far", "pid": 7, "machine": "far 1", "born": "2", "since": "2026-01-01"}'
    fuzz(lambda path: str(read_owner(path)), claim, tmp_path / layout.CLAIM, changed_json)


def test_splits(tmp_path: Path) -> None:
    split = splits.LabelSplit("made", 1, 0.5, 0, 0.0, ("a", "b"), ("c",))
    splits.write(split, tmp_path / "seed.json")
    fuzz(splits.read, (tmp_path / "seed.json").read_bytes(), tmp_path / "split.json", changed_json)


# ------------------------------------------------------------------------------------------------------- settings


PROPOSED = ("base", "strategy_options", "backbone_options", "options_of")
"""What presets have beside settings: it is theirs alone."""


def settings_of(source: str) -> bytes:
    """The configuration that a run leaves, or a preset as a file of settings."""
    named = {"strategy": "supervised", "dataset": "synthetic"}
    if source == "a run":
        return resolve(named, preset="smoke").to_yaml().encode()
    preset = yaml.safe_load((ROOT / "ssldet" / "presets" / f"{source}.yaml").read_text())
    return yaml.safe_dump(named | {key: value for key, value in preset.items() if key not in PROPOSED}).encode()


@pytest.mark.parametrize("source", ["a run", *presets()])
def test_configurations(tmp_path: Path, source: str) -> None:
    fuzz(lambda path: resolve({}, file=path), settings_of(source), tmp_path / "config.yaml", changed_yaml, share=0.1)


def test_settings_on_a_line(tmp_path: Path) -> None:
    def parse(path: Path) -> None:
        text = path.read_bytes().decode("utf-8", "replace")
        resolve({"strategy": "supervised", "dataset": "synthetic"}, assignments=[text])

    fuzz(parse, b"train.lr=0.001", tmp_path / "assignment", share=0.2)


def test_tuned_settings(tmp_path: Path) -> None:
    chosen = {"train.lr": 0.001}
    trial = {"settings": chosen, "score": 0.5, "by_seed": [0.5], "runs": ["0123"]}
    content = {
        "format": 1,
        "dataset": "jhmdb",
        "split": 1,
        "ratio": 0.2,
        "val_fraction": 0.3,
        "seeds": [0],
        "preset": "nano",
        "metric": "V@0.5",
        "protocol": "yowo",
        "trials": 1,
        "validation": [{"seed": 0, "videos": 6, "groups": 6}],
        "approaches": {"supervised": {"chosen": chosen, "tried": [trial]}},
    }
    fuzz(read_tuned, yaml.safe_dump(content).encode(), tmp_path / "tuned.yaml", changed_yaml, share=0.4)


# ------------------------------------------------------------------------------------------- weights and frames


def weights(folder: Path, form: str) -> bytes:
    tensors = {"model.0.weight": torch.arange(12.0).reshape(3, 4), "model.0.bias": torch.zeros(3)}
    file = folder / "seed"
    if form == "safetensors":
        save_file(tensors, file, metadata={"epoch": "3"})
    else:
        torch.save({"state_dict": tensors, "epoch": 3}, file, _use_new_zipfile_serialization=form == "zip")
    return file.read_bytes()


@pytest.mark.parametrize(("form", "suffix"), [("safetensors", ".safetensors"), ("zip", ".pth"), ("legacy", ".pth")])
def test_weights(tmp_path: Path, form: str, suffix: str) -> None:
    fuzz(lambda path: open_weights(path).state, weights(tmp_path, form), tmp_path / f"weights{suffix}")


def test_darknet_headers(tmp_path: Path) -> None:
    content = np.array([0, 2, 5], np.int32).tobytes() + np.array([7], np.int64).tobytes() + bytes(40)
    fuzz(darknet_header, content, tmp_path / "yolo.weights")


def test_checkpoints(tmp_path: Path) -> None:
    checkpoints.save(tmp_path / "seed", {"student/w": torch.arange(8.0)}, {"run_id": "a", "counts": {"step": 3}})
    fuzz(lambda path: checkpoints.load(path, "a"), (tmp_path / "seed").read_bytes(), tmp_path / "checkpoint")


def test_packed_frames(tmp_path: Path) -> None:
    images = tuple(tmp_path / f"{i}.png" for i in range(4))
    for i, image in enumerate(images):
        Image.fromarray(np.full((16, 16, 3), 40 * i, np.uint8)).save(image)
    form = PackedForm(16, 95)
    form.write(tmp_path / "seed", VideoSource(images=images), video("a"))

    def parse(path: Path) -> None:
        try:
            frames = form.open(path)
        except (OSError, ValueError, EOFError) as error:  # what `FrameStore.frames` makes a DataError of
            raise DataError(str(error)) from error
        assert frames[np.arange(4)].shape == (4, 16, 16, 3)

    fuzz(parse, (tmp_path / "seed").read_bytes(), tmp_path / "a.jpegs")


@pytest.fixture(scope="module")
def made_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished run."""
    return write_trained_run(tmp_path_factory.mktemp("made"))


def test_networks(tmp_path: Path, made_run: Path) -> None:
    fuzz(read_network, (made_run / layout.NETWORK).read_bytes(), tmp_path / layout.NETWORK, changed_json)


def test_packs(tmp_path: Path, made_run: Path) -> None:
    """Names, sizes and flags of a zip archive stand at its end; half of the changes are made there."""
    content = pack(store.find_run(f"{made_run}/", ()), tmp_path / "seed.zip").read_bytes()

    def change(content: bytes, seed: int) -> bytes:
        start = len(content) - 1500 if seed % 2 else 0
        return content[:start] + mutate(content[start:], seed)

    def parse(path: Path) -> None:
        results = tmp_path / "results"
        try:
            unpack(path, results)
        finally:
            assert not list(tmp_path.rglob(".unpacking-*"))
            shutil.rmtree(results, ignore_errors=True)

    fuzz(parse, content, tmp_path / "run.zip", change, share=0.2)


# ------------------------------------------------------------------------------------------------- odd real files


@pytest.mark.real
def test_odd_files_of_people(shared: Path, tmp_path: Path) -> None:
    """Boxes and detections as people sent them, or near to it; many of them are refused as they are."""
    names = own_records.VideoNames(size=lambda video_id: (64, 48), rate=lambda video_id: 30.0)
    boxes = [path for path in sorted((shared / "cases").glob("*/annotations*")) if path.is_file()]
    assert boxes
    for file in boxes:
        fuzz_odd(lambda path: own_boxes.read_boxes(path, names), file, tmp_path / f"boxes{file.suffix}")
    for file in sorted((shared / "cases").glob("*.csv")):
        fuzz_odd(read_all, file, tmp_path / "detections.csv")


def fuzz_odd(parse: Callable[[Path], Any], file: Path, path: Path) -> None:
    """As `fuzz`, of the first lines of a file that need not be readable."""
    content = b"".join(file.read_bytes().splitlines(keepends=True)[:40])
    for seed in range(EXAMPLES // 10):
        survives(parse, path, mutate(content, seed))

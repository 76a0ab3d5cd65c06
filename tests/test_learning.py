"""Learning on real videos, at the smallest scale that shows it: fails when any link of the chain breaks.

Four classes of J-HMDB that differ clearly, boxes known for two thirds of their training videos. The bounds lie well
below what was seen, and well above an untrained network and above chance.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from ssldet.config import RunConfig, resolve
from ssldet.contracts import DatasetFacts, Truth, Video
from ssldet.data.batches import ClipReader
from ssldet.data.datasets import load_dataset
from ssldet.data.frame_store import FrameStore
from ssldet.evaluation.inference import detect_videos
from ssldet.training.assembly import assemble_training
from ssldet.training.loop import Training
from ssldet_metrics.recall import Recall

CLASSES = ("golf", "pullup", "pour", "shoot_bow")
SETTINGS = [
    "train.steps=100",
    "train.burn_in=0.6",
    "train.warmup=15",
    "train.epochs=5",
    "strategy.f_th=0.5",
    "strategy.o_th=0.3",
]


@pytest.mark.real
@pytest.mark.slow
@pytest.mark.timeout(900)  # minutes of training, on a busy machine too
def test_dual_guidance_learns_where_and_what(shared: Path) -> None:
    torch.set_num_threads(1)
    dataset = load_dataset("jhmdb", shared / "data")
    train, test = ([v for v in dataset.videos(part) if v.id.split("/")[0] in CLASSES] for part in ("train", "test"))
    facts = DatasetFacts("jhmdb", CLASSES, dataset.facts.anchors)
    columns = [dataset.facts.classes.index(name) for name in CLASSES]

    def truth(video_id: str) -> Truth:
        full = dataset.truth(video_id)
        return Truth(full.frames_n, full.boxes_n4, full.labels_nk[:, columns], full.tubes_n, full.key_frames_m)

    asked = {"strategy": "dual_guidance", "dataset": "jhmdb", "ratio": 0.5}
    run = resolve(asked, preset="nano", assignments=SETTINGS)
    config = run.experiment
    test = test[::2]
    store = FrameStore(dataset, config.clip.size)
    store.prepare([*train, *test])
    reader = ClipReader(store.frames, config.clip)
    lines: list[dict[str, Any]] = []
    training = _training(run, facts, truth, train, reader, lines.append)

    def recalls() -> tuple[float, float]:
        metric = Recall(facts, "standard")
        found = detect_videos(
            training.student,
            test,
            lambda v: _every_third(truth(v)).key_frames_m,
            reader,
            config.detect,
            device=torch.device("cpu"),
            autocast=True,
        )
        for video, detections in found:
            metric.update(video, detections, _every_third(truth(video.id)))
        scalars = metric.compute().scalars
        return scalars["localization"], scalars["classification"]

    untrained, _ = recalls()
    training.run()
    located, classified = recalls()

    assert lines[-1]["losses"]["box"] < 0.6 * lines[0]["losses"]["box"]
    assert untrained < 0.1
    assert located > 0.3  # seen: 0.48
    assert classified > 0.15  # seen: 0.31
    pseudo = lines[-1]["pseudo_labels"]
    assert pseudo["boxes"] > 20  # seen: 114 of 320 clips
    assert pseudo["box_precision"] > 0.5  # seen: 0.92
    assert lines[-1]["losses"]["box_u"] > 0


def _every_third(full: Truth) -> Truth:
    rows, keys = full.frames_n % 3 == 0, full.key_frames_m % 3 == 0
    return Truth(
        full.frames_n[rows], full.boxes_n4[rows], full.labels_nk[rows], full.tubes_n[rows], full.key_frames_m[keys]
    )


def _training(
    config: RunConfig,
    facts: DatasetFacts,
    truth: Callable[[str], Truth],
    train: list[Video],
    reader: ClipReader,
    log: Callable[[dict[str, Any]], None],
) -> Training:
    torch.manual_seed(0)
    return assemble_training(
        config.experiment,
        config.build_strategy(),
        config.build_backbone().build(facts, frame_head=True),
        facts=facts,
        videos={video.id: video for video in train},
        truth_of=truth,
        reader=reader,
        labelled=[video.id for place, video in enumerate(train) if place % 3],
        unlabelled=[video.id for place, video in enumerate(train) if not place % 3],
        log=log,
    )

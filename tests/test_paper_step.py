"""One optimiser step of the real network under the paper's configuration, on real videos."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from ssldet.config import resolve
from ssldet.data.batches import ClipReader
from ssldet.data.datasets import load_dataset
from ssldet.data.frame_store import FrameStore
from ssldet.training.assembly import assemble_training

SMALL = ["train.batch=1", "train.bn_batch=1", "train.burn_in=0", "train.steps=1"]
EASY = ["strategy.f_th=0", "strategy.o_th=0"]  # an untrained teacher must label something


@pytest.mark.real
@pytest.mark.slow
def test_one_step_moves_every_trainable_tensor_and_no_frozen_one(shared: Path) -> None:
    """One labelled and one unlabelled pair of consecutive key frames; the 3D branch is frozen."""
    config = resolve(
        {"strategy": "dual_guidance", "dataset": "jhmdb", "ratio": 0.2},
        assignments=[*SMALL, *EASY, "backbone.freeze_3d=true"],
    )
    experiment, strategy = config.experiment, config.build_strategy()
    assert (experiment.backbone, experiment.clip.frames, experiment.clip.size) == ("yowo", 16, 224)
    dataset = load_dataset("jhmdb", shared / "data")
    videos = {video.id: video for video in dataset.videos("train")[:2]}
    store = FrameStore(dataset, experiment.clip.size)
    store.prepare(list(videos.values()))
    labelled, unlabelled = videos
    torch.manual_seed(0)
    student = config.build_backbone().build(dataset.facts, frame_head=True)
    training = assemble_training(
        experiment,
        strategy,
        student,
        facts=dataset.facts,
        videos=videos,
        truth_of=dataset.truth,
        reader=ClipReader(store.frames, experiment.clip),
        labelled=[labelled],
        unlabelled=[unlabelled],
        steps=1,
    )
    before = {name: tensor.clone() for name, tensor in student.state_dict().items()}
    losses, clips = training.step_once()

    assert clips == 4
    assert set(losses) == {"box", "frame", "temporal", "box_u", "frame_u", "temporal_u"}
    assert losses["box"] > 0 and losses["frame_u"] > 0
    frozen = [name for name, p in student.named_parameters() if not p.requires_grad]
    assert frozen and all(name.startswith("features.backbone_3d.") for name in frozen)
    moved = {name for name, tensor in student.state_dict().items() if not torch.equal(tensor, before[name])}
    assert {name for name, p in student.named_parameters() if p.requires_grad} - moved == set()
    assert [name for name in moved if name.startswith("features.backbone_3d.")] == []  # buffers included

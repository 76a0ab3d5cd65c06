"""The detector's face: building, losses, the frame head, and detections of a batch."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import cast

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import ssldet
from ssldet.config import DetectOptions
from ssldet.contracts import Backbone, DatasetFacts, Decoded, Targets
from ssldet.data.batches import ClipReader
from ssldet.detector.detector import GridDetector, GridOptions, GridPredictions
from ssldet.detector.heads import CosineLinear, FrameHead, frame_loss
from ssldet.detector.postprocess import detections
from ssldet.detector.region import RegionOptions
from ssldet.detector.weights import write_weights
from ssldet.errors import ConfigError, UnknownName, WeightsError
from ssldet.evaluation.inference import detect_videos

FACTS = DatasetFacts("made_up", ("run", "jump", "sit"), ((1.0, 2.0), (3.0, 5.0)))
MULTILABEL = DatasetFacts("multi", FACTS.classes, FACTS.anchors, True, class_ratios=(0.5, 0.1, 0.2), poses=2)


class TinyOptions(GridOptions):
    channels: int = 8


class Tiny(Backbone):
    Config = TinyOptions
    stride = 16
    config: TinyOptions

    def build(self, facts: DatasetFacts, *, frame_head: bool) -> GridDetector:
        channels = self.config.channels
        features = nn.Sequential(nn.Conv3d(3, channels, (4, 16, 16), (4, 16, 16)), nn.Flatten(1, 2))
        head = FrameHead(channels, facts, hidden=6) if frame_head else None
        box_head = nn.Conv2d(channels, len(facts.anchors) * (5 + facts.num_classes), 1)
        return GridDetector(features, box_head, head, facts=facts, stride=self.stride, options=self.config)


def tiny(facts: DatasetFacts = FACTS, **options: object) -> GridDetector:
    region = RegionOptions(form=options.pop("form", "paper"))  # type: ignore[arg-type]
    return ssldet.build_detector(Tiny(TinyOptions(region=region)), dataset=facts, **options)  # type: ignore[arg-type]


def clips(count: int = 2) -> Tensor:
    return torch.rand(count, 3, 4, 64, 96)


def some_targets(facts: DatasetFacts, count: int = 2) -> Targets:
    frame_labels = torch.arange(count) if not facts.multilabel else torch.eye(facts.num_classes)[:count]
    return Targets(
        clip_n=torch.arange(count),
        boxes_n4=torch.tensor([[10.0, 10, 40, 60]]).repeat(count, 1),
        labels_nk=torch.eye(facts.num_classes)[:count],
        box_mask_b=torch.ones(count, dtype=torch.bool),
        frame_labels_b=frame_labels,
        frame_mask_b=torch.ones(count, dtype=torch.bool),
    )


# -------------------------------------------------------------------------------------------------- building


def test_it_predicts_a_grid_and_frame_logits() -> None:
    detector = tiny()
    predictions = detector(clips())
    assert predictions.grid.shape == (2, 2 * 8, 4, 6)
    assert predictions.frame_logits.shape == (2, 4)
    assert (detector.facts, detector.stride, detector.has_frame_head) == (FACTS, 16, True)
    decoded = detector.decode(predictions)
    assert decoded.boxes_bn4.shape == (2, 48, 4) and decoded.scores_bnk.shape == (2, 48, 3)


def test_without_a_frame_head_there_are_no_frame_logits() -> None:
    detector = tiny(frame_head=False)
    predictions = detector(clips())
    assert predictions.frame_logits is None and not detector.has_frame_head
    assert set(detector.losses(predictions, some_targets(FACTS))) == {"box"}


def test_weights_decide_about_the_frame_head_unless_told(tmp_path: Path) -> None:
    with_head, without = tmp_path / "with.safetensors", tmp_path / "without.safetensors"
    source = tiny()
    write_weights(with_head, source.state_dict())
    write_weights(without, {k: v for k, v in source.state_dict().items() if not k.startswith("frame_head.")})
    clip = clips()
    same = tiny(weights=with_head)
    assert same.has_frame_head and torch.equal(same(clip).grid, source(clip).grid)
    assert not tiny(weights=without).has_frame_head
    assert not tiny(weights=str(with_head), frame_head=False).has_frame_head
    with pytest.raises(WeightsError, match=r"4 missing \(frame_head"):
        tiny(weights=without, frame_head=True)


def test_names_are_resolved_and_unknown_ones_refused() -> None:
    with pytest.raises(UnknownName, match="did you mean 'yowo'"):
        ssldet.build_detector("yowoo", dataset=FACTS)
    with pytest.raises(UnknownName, match="unknown dataset"):
        ssldet.build_detector("yowo_nano", dataset="ucf42")
    with pytest.raises(ConfigError, match="nonsense"):
        ssldet.build_detector("yowo_nano", dataset=FACTS, nonsense=1)
    with pytest.raises(ConfigError, match="Config"):
        ssldet.build_detector(Tiny(TinyOptions()), dataset=FACTS, channels=3)


@pytest.mark.parametrize(("name", "outputs"), [("ucf24", 25), ("jhmdb", 22), ("ava", 80)])
def test_data_sets_are_known_without_their_data(name: str, outputs: int) -> None:
    detector = ssldet.build_detector("yowo_nano", dataset=name).eval()
    predictions = detector(torch.rand(1, 3, 8, 112, 112))
    assert predictions.grid.shape == (1, 5 * (5 + detector.facts.num_classes), 7, 7)
    assert predictions.frame_logits.shape == (1, outputs)


# ---------------------------------------------------------------------------------------------------- losses


def test_losses_have_the_contract_names_and_details() -> None:
    detector, details = tiny(form="giou"), dict[str, Tensor]()
    losses = detector.losses(detector(clips()), some_targets(FACTS), details=details)
    assert set(losses) == {"box", "frame"}
    assert set(details) == {"box/box", "box/conf", "box/cls"}
    torch.testing.assert_close(sum(details.values()), losses["box"].detach())
    assert not any(term.requires_grad for term in details.values())


def test_coordinates_are_detailed_as_centre_and_size() -> None:
    detector, details = tiny(form="paper"), dict[str, Tensor]()
    losses = detector.losses(detector(clips()), some_targets(FACTS), details=details)
    assert set(details) == {"box/xy", "box/wh", "box/conf", "box/cls"}
    torch.testing.assert_close(sum(details.values()), losses["box"].detach())


@pytest.mark.parametrize("facts", [FACTS, MULTILABEL], ids=["single", "multi"])
def test_every_parameter_learns_from_the_losses(facts: DatasetFacts) -> None:
    detector = tiny(facts)
    sum(detector.losses(detector(clips()), some_targets(facts)).values()).backward()
    assert [name for name, p in detector.named_parameters() if p.grad is None or not p.grad.any()] == []


def test_frame_loss_is_divided_by_all_clips_not_by_the_accepted() -> None:
    logits, targets = torch.randn(3, 4), some_targets(FACTS, 3)
    targets.frame_mask_b = torch.tensor([True, False, True])
    accepted = F.cross_entropy(logits[[0, 2]], torch.tensor([0, 2]), reduction="sum")
    torch.testing.assert_close(frame_loss(logits, targets, FACTS), accepted / 3)
    targets.frame_mask_b = torch.zeros(3, dtype=torch.bool)
    assert frame_loss(logits, targets, FACTS) == 0


def test_multilabel_frame_loss_weighs_by_class_ratio() -> None:
    logits = torch.zeros(1, 3)
    ratio = torch.tensor([0.5, 0.1, 0.2])
    weights = torch.stack(((1 - ratio[0]).exp(), ratio[1].exp(), ratio[2].exp()))  # the first class is present
    expected = (weights * torch.tensor(0.5).log().neg()).mean()
    torch.testing.assert_close(frame_loss(logits, some_targets(MULTILABEL, 1), MULTILABEL), expected)


def test_heads_keep_full_precision_under_autocast() -> None:
    detector = tiny()
    with torch.autocast("cpu", torch.bfloat16):
        predictions = detector(clips())
    assert predictions.grid.dtype == predictions.frame_logits.dtype == torch.float32


def test_a_copy_is_independent() -> None:
    detector = tiny()
    teacher = copy.deepcopy(detector)
    with torch.no_grad():
        next(teacher.parameters()).add_(1)
    assert not torch.equal(next(teacher.parameters()), next(detector.parameters()))


# ------------------------------------------------------------------------------------------------ frame head


def test_the_cosine_classifier_ignores_lengths() -> None:
    layer = CosineLinear(5, 4, scale=7.0, learn_scale=False)
    x = torch.randn(3, 5)
    torch.testing.assert_close(layer(x), layer(9 * x))
    torch.testing.assert_close(layer(layer.weight.detach()).diag(), torch.full((4,), 7.0))
    assert not layer.scale.requires_grad
    assert layer(torch.zeros(1, 5)).tolist() == [[0.0] * 4]


def test_frame_heads_have_a_background_class_on_single_label_data_only() -> None:
    features = torch.rand(2, 8, 3, 3)
    assert FrameHead(8, FACTS, hidden=6)(features).shape == (2, 4)
    multi = FrameHead(8, MULTILABEL, hidden=6)
    assert multi(features).shape == (2, 3) and isinstance(multi.classifier, nn.Linear)


# ------------------------------------------------------------------------------------------------- detections


def decoded(confidence: list[float], scores: list[list[float]], boxes: list[list[float]]) -> Decoded:
    return Decoded(torch.tensor([boxes]), torch.tensor([confidence]), torch.tensor([scores]))


def test_detections_filter_by_score_or_confidence() -> None:
    apart = [[0.0, 0, 5, 5], [10, 10, 15, 15], [20, 20, 25, 25]]
    batch = decoded([0.5, 0.8, 0.9], [[0.8, 0.2], [0.25, 0.1], [1.0, 0.0]], apart)
    by_score = detections(batch, score_threshold=0.3)
    assert by_score.confidence_n.tolist() == pytest.approx([0.9, 0.5])
    by_confidence = detections(batch, score_threshold=0.5, filter_by="confidence")
    assert by_confidence.confidence_n.tolist() == pytest.approx([0.9, 0.8])
    assert by_confidence.boxes_n4.tolist() == [apart[2], apart[1]]
    assert detections(batch, score_threshold=0.95).clip_n.shape == (0,)


def test_boxes_that_are_filtered_out_suppress_nothing() -> None:
    batch = decoded([0.9, 0.5], [[0.1, 0.0], [0.9, 0.0]], [[0.0, 0, 10, 10], [0, 0, 10, 9]])
    assert detections(batch, score_threshold=0.2).confidence_n.tolist() == [0.5]


def test_detections_are_ordered_by_clip_then_confidence() -> None:
    detector = tiny()
    found = detections(detector.decode(detector(clips(4))), score_threshold=0, nms_iou=0.3)
    assert found.clip_n.tolist() == sorted(found.clip_n.tolist()) and set(found.clip_n.tolist()) == {0, 1, 2, 3}
    for clip in range(4):
        confidence = found.confidence_n[found.clip_n == clip]
        assert (confidence.diff() <= 0).all()


def test_predictions_without_grad_decode_alike() -> None:
    detector = tiny().eval()
    with torch.no_grad():
        predictions = detector(clips(1))
    assert not detector.decode(GridPredictions(predictions.grid)).boxes_bn4.requires_grad


def test_detecting_leaves_every_module_in_its_mode() -> None:
    """Frozen parts of a network in training are in evaluation mode, and must not wake."""
    detector = tiny(form="giou").train()
    detector.box_head.eval()
    before = [module.training for module in detector.modules()]
    unread = cast(ClipReader, None)
    cpu = torch.device("cpu")
    assert list(detect_videos(detector, [], lambda video: np.arange(0), unread, DetectOptions(), device=cpu)) == []
    assert [module.training for module in detector.modules()] == before

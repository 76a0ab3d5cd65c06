"""The box head's grid: decoding, assignment and the three forms of its loss."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from ssldet.contracts import DatasetFacts, Targets
from ssldet.detector.postprocess import detections
from ssldet.detector.region import RegionOptions, assign, binary_focal, decode_grid, open_grid, region_loss, smooth_l1
from ssldet.ops.boxes import pairwise_iou, xyxy_from_cxcywh

ANCHORS = {
    "ucf24": ((0.70458, 1.18803), (1.26654, 2.55121), (1.59382, 4.08321), (2.30548, 4.94180), (3.52332, 5.91979)),
    "jhmdb": ((0.95878, 3.10197), (1.67204, 4.0040), (1.75482, 5.64937), (3.09299, 5.80857), (4.91803, 6.25225)),
    "ava": ((0.71626, 2.13583), (1.28967, 4.15014), (2.12714, 5.09344), (3.27212, 5.87423), (5.16303, 6.33821)),
}
CLASSES = {"ucf24": 24, "jhmdb": 21, "ava": 80}
STRIDE, SIZE = 32, 224
YOWO = RegionOptions(form="yowo")
FORMS = ("paper", "yowo", "giou")


def facts_of(name: str, folder: Path | None = None) -> DatasetFacts:
    classes = tuple(f"class {index}" for index in range(CLASSES[name]))
    if name != "ava":
        return DatasetFacts(name, classes, ANCHORS[name])
    ratios = json.loads((folder / "ava_class_ratio.json").read_text()) if folder else {}
    shares = tuple(ratios.get(str(index + 1), 0.1) for index in range(80))
    return DatasetFacts(name, classes, ANCHORS[name], multilabel=True, class_ratios=shares, poses=14)


UCF24, AVA = facts_of("ucf24"), facts_of("ava")


def targets_of(clips: int, rows: list[tuple[int, int, list[float]]], facts: DatasetFacts) -> Targets:
    """Targets of rows (clip, class, xyxy)."""
    return Targets(
        clip_n=torch.tensor([clip for clip, _, _ in rows], dtype=torch.int64),
        boxes_n4=torch.tensor([box for _, _, box in rows]).view(-1, 4),
        labels_nk=torch.eye(facts.num_classes)[[label for _, label, _ in rows]].view(-1, facts.num_classes),
        box_mask_b=torch.ones(clips, dtype=torch.bool),
        frame_labels_b=torch.zeros(clips, dtype=torch.int64),
        frame_mask_b=torch.ones(clips, dtype=torch.bool),
    )


def random_grid(clips: int, facts: DatasetFacts, seed: int = 0) -> Tensor:
    channels = len(facts.anchors) * (5 + facts.num_classes)
    return torch.randn(clips, channels, 7, 7, generator=torch.Generator().manual_seed(seed)).requires_grad_()


def loss(grid: Tensor, targets: Targets, facts: DatasetFacts, **options: Any) -> dict[str, Tensor]:
    return region_loss(
        grid, targets, facts=facts, anchors=facts.anchors, stride=STRIDE, options=RegionOptions(**options)
    )


@pytest.fixture(params=["ucf24", "jhmdb", "ava"])
def oracle(request: pytest.FixtureRequest, oracles: Path) -> tuple[DatasetFacts, dict[str, np.ndarray], Targets]:
    facts, data = facts_of(request.param, oracles), dict(np.load(oracles / f"region_{request.param}.npz"))
    truth = torch.from_numpy(data["truth"])
    rows = [(int(clip), int(label), [0.0] * 4) for clip, label in truth[:, :2].tolist()]
    targets = targets_of(len(data["raw"]), rows, facts)
    labels = torch.from_numpy(data["labels"]) if facts.multilabel else targets.labels_nk
    return facts, data, replace(targets, boxes_n4=xyxy_from_cxcywh(truth[:, 2:]) * SIZE, labels_nk=labels)


@pytest.mark.parametrize("facts", [UCF24, AVA], ids=["ucf24", "ava"])
def test_per_clip_is_the_mean_of_the_published_loss_of_each_clip_alone(facts: DatasetFacts) -> None:
    """The first clip has two boxes, the second one, the third none, the fourth is masked."""
    boxes = [[40.0, 40, 100, 150], [120.0, 60, 200, 210], [30.0, 90, 60, 180], [30.0, 90, 60, 180]]
    targets = targets_of(
        4, [(clip, label, box) for clip, label, box in zip((0, 0, 1, 3), range(4), boxes, strict=True)], facts
    )
    targets.box_mask_b[3] = False
    grid, rest = random_grid(4, facts), {"facts": facts, "anchors": facts.anchors, "stride": STRIDE, "options": YOWO}
    found = region_loss(grid, targets, **rest, per_clip=True)
    alone = []
    for clip in range(4):
        own = [row for row, each in enumerate((0, 0, 1, 3)) if each == clip]
        one = targets_of(1, [(0, row, boxes[row]) for row in own], facts)
        one.box_mask_b[0] = clip != 3
        alone.append(region_loss(grid[clip : clip + 1], one, **rest))
    for name, term in found.items():
        torch.testing.assert_close(term, sum(each[name] for each in alone) / 4)


# ------------------------------------------------------------------------------------------ published numbers


def test_loss_and_gradient_equal_the_published_ones(
    oracle: tuple[DatasetFacts, dict[str, np.ndarray], Targets],
) -> None:
    facts, data, targets = oracle
    grid = torch.from_numpy(data["raw"]).requires_grad_()
    terms = region_loss(grid, targets, facts=facts, anchors=facts.anchors, stride=STRIDE, options=YOWO)
    assert set(terms) == {"x", "y", "w", "h", "conf", "cls", "total"}
    for name, term in terms.items():
        assert term.item() == pytest.approx(data[f"loss_{name}"].item(), rel=1e-4), name
    (gradient,) = torch.autograd.grad(terms["total"], grid)
    np.testing.assert_allclose(gradient.numpy(), data["grad"], rtol=1e-4, atol=1e-6)


def test_kept_boxes_equal_the_published_ones(oracle: tuple[DatasetFacts, dict[str, np.ndarray], Targets]) -> None:
    facts, data, _ = oracle
    decoded = decode_grid(torch.from_numpy(data["raw"]), facts=facts, anchors=facts.anchors, stride=STRIDE)
    found = detections(decoded, nms_iou=0.5, filter_by="confidence") if facts.multilabel else detections(decoded)
    np.testing.assert_array_equal(found.clip_n.numpy(), data["kept"][:, 0])
    np.testing.assert_allclose(found.confidence_n.numpy(), data["kept"][:, 5], rtol=1e-5)
    expected = xyxy_from_cxcywh(torch.from_numpy(data["kept"][:, 1:5])) * SIZE
    np.testing.assert_allclose(found.boxes_n4.numpy(), expected.numpy(), rtol=1e-4, atol=1e-3)
    np.testing.assert_allclose(found.scores_nk.numpy(), data["kept_class_scores"], rtol=1e-4, atol=1e-7)


# ---------------------------------------------------------------------------------------- decoding, assignment


def test_decoding_puts_the_anchor_into_its_cell() -> None:
    facts = facts_of("jhmdb")
    decoded = decode_grid(torch.zeros(1, 5 * 26, 7, 7), facts=facts, anchors=facts.anchors, stride=STRIDE)
    assert decoded.boxes_bn4.shape == (1, 245, 4)
    anchor, row, column = 2, 4, 1
    width, height = ANCHORS["jhmdb"][anchor]
    expected = xyxy_from_cxcywh(torch.tensor([column + 0.5, row + 0.5, width, height]) * STRIDE)
    torch.testing.assert_close(decoded.boxes_bn4[0, anchor * 49 + row * 7 + column], expected)
    assert decoded.confidence_bn.unique().tolist() == [0.5]
    torch.testing.assert_close(decoded.scores_bnk.sum(-1), torch.ones(1, 245))


def test_anchors_scale_with_the_grid() -> None:
    facts = facts_of("jhmdb")
    boxes = decode_grid(torch.zeros(1, 5 * 26, 14, 14), facts=facts, anchors=facts.anchors, stride=16).boxes_bn4
    assert (boxes[0, 0, 2] - boxes[0, 0, 0]).item() == pytest.approx(ANCHORS["jhmdb"][0][0] * SIZE / 7, rel=1e-5)


def test_multilabel_scores_are_a_softmax_of_poses_beside_sigmoids() -> None:
    facts = facts_of("ava")
    scores = decode_grid(random_grid(1, facts).detach(), facts=facts, anchors=facts.anchors, stride=STRIDE).scores_bnk
    torch.testing.assert_close(scores[..., :14].sum(-1), torch.ones(1, 245))
    assert scores[..., 14:].sum(-1).min() > 2


def test_huge_sizes_stay_finite() -> None:
    facts = facts_of("jhmdb")
    grid = torch.full((1, 5 * 26, 7, 7), 1e4)
    assert decode_grid(grid, facts=facts, anchors=facts.anchors, stride=STRIDE).boxes_bn4.isfinite().all()


def test_a_later_truth_overwrites_an_earlier_one() -> None:
    facts = facts_of("jhmdb")
    box = [100.0, 50.0, 150.0, 200.0]
    rows = [(0, 1, box), (1, 2, box), (0, 3, [box[0] + 1, *box[1:]]), (0, 4, [5.0, 5.0, 20.0, 60.0])]
    found = assign(
        open_grid(random_grid(2, facts), facts, facts.anchors),
        targets_of(2, rows, facts),
        stride=STRIDE,
        ignore_iou=0.6,
    )
    assert found.row_m.tolist() == [1, 2, 3]
    assert found.clip_m.tolist() == [1, 0, 0]


def test_what_is_assigned_decodes_to_the_truth() -> None:
    facts = facts_of("ucf24")
    rows = [(0, 1, [100.0, 50.0, 150.0, 200.0]), (1, 5, [10.0, 20.0, 30.0, 44.0])]
    targets, grid = targets_of(2, rows, facts), torch.zeros(2, 5, 29, 7, 7)
    found = assign(open_grid(grid.view(2, -1, 7, 7), facts, facts.anchors), targets, stride=STRIDE, ignore_iou=0.6)
    cells = grid.permute(0, 1, 3, 4, 2).reshape(2, 245, 29)
    cells[found.clip_m, found.cell_m, :4] = torch.cat((found.offsets_m4[:, :2].logit(), found.offsets_m4[:, 2:]), 1)
    grid = cells.view(2, 5, 7, 7, 29).permute(0, 1, 4, 2, 3).reshape(2, -1, 7, 7)
    boxes = decode_grid(grid, facts=facts, anchors=facts.anchors, stride=STRIDE).boxes_bn4[found.clip_m, found.cell_m]
    torch.testing.assert_close(boxes, targets.boxes_n4, rtol=1e-4, atol=1e-2)


def test_centres_outside_the_view_fall_to_the_nearest_cell_and_empty_boxes_to_none() -> None:
    facts = facts_of("jhmdb")
    rows = [(0, 0, [200.0, 200.0, 400.0, 400.0]), (0, 1, [50.0, 50.0, 50.0, 90.0]), (0, 2, [-90.0, 0.0, -10.0, 64.0])]
    found = assign(
        open_grid(random_grid(1, facts), facts, facts.anchors),
        targets_of(1, rows, facts),
        stride=STRIDE,
        ignore_iou=0.6,
    )
    assert found.row_m.tolist() == [0, 2]
    assert (found.cell_m % 49).tolist() == [48, 7]


def test_the_ignore_rule_spares_only_cells_that_overlap() -> None:
    facts, grid = facts_of("jhmdb"), random_grid(2, facts_of("jhmdb"))
    rows = [(1, 0, [60.0, 30.0, 130.0, 200.0])]
    cells = open_grid(grid, facts, facts.anchors)
    found = assign(cells, targets_of(2, rows, facts), stride=STRIDE, ignore_iou=0.3)
    overlaps = pairwise_iou(cells.boxes_bn4[1] * STRIDE, torch.tensor([rows[0][2]]))[:, 0]
    assert found.ignored_bn[1].tolist() == (overlaps > 0.3).tolist()
    assert found.ignored_bn[1].any() and not found.ignored_bn[0].any()


@pytest.mark.parametrize("form", FORMS)
def test_classes_outside_the_mask_add_exactly_nothing(form: str) -> None:
    """The mask of three boxes has one class, a sigmoid: the class term moves its logits and no others."""
    targets, grid = some_targets(AVA), random_grid(3, AVA)
    mask_nk = torch.zeros(3, 80, dtype=torch.bool)
    mask_nk[:, 50] = True
    found = loss(grid, replace(targets, label_mask_nk=mask_nk), AVA, form=form)
    (gradient,) = torch.autograd.grad(found["cls"], grid)
    classes = gradient.view(3, 5, 85, 49)[:, :, 5:].abs().sum(dim=(0, 1, 3))
    assert (classes > 0).nonzero()[:, 0].tolist() == [50]
    plain = loss(grid, targets, AVA, form=form)
    every = loss(grid, replace(targets, label_mask_nk=torch.ones_like(mask_nk)), AVA, form=form)
    for name, term in plain.items():
        torch.testing.assert_close(every[name], term)
        if name not in ("cls", "total"):
            assert torch.equal(found[name], term)


# --------------------------------------------------------------------------------------------------- the forms


def some_targets(facts: DatasetFacts, clips: int = 3) -> Targets:
    rows = [(clip, clip + 3, [20.0 + 9 * clip, 30.0, 120.0, 180.0 + clip]) for clip in range(clips)]
    return targets_of(clips, rows, facts)


def test_paper_form_is_the_published_one_per_clip_where_they_agree() -> None:
    facts, targets = facts_of("ucf24"), some_targets(facts_of("ucf24"))
    grid = random_grid(3, facts)
    paper, published = loss(grid, targets, facts, class_form="softmax"), loss(grid, targets, facts, form="yowo")
    for name, term in published.items():
        torch.testing.assert_close(paper[name] * 3, term)


def test_paper_form_uses_the_binary_focal_term_of_the_decoded_probability() -> None:
    facts, targets = facts_of("jhmdb"), some_targets(facts_of("jhmdb"), clips=1)
    grid = random_grid(1, facts)
    found = assign(open_grid(grid, facts, facts.anchors), targets, stride=STRIDE, ignore_iou=0.6)
    p = (
        decode_grid(grid, facts=facts, anchors=facts.anchors, stride=STRIDE)
        .scores_bnk[0, found.cell_m[0]]
        .double()
        .detach()
        .numpy()
    )
    y = targets.labels_nk[0].numpy()
    expected = -(y * (1 - p) ** 3 * np.log(p) + (1 - y) * p**3 * np.log(1 - p)).sum()
    assert loss(grid, targets, facts, gamma=3)["cls"].item() == pytest.approx(expected, rel=1e-5)


def test_smooth_l1_and_focal_on_hand_made_numbers() -> None:
    assert smooth_l1(torch.tensor([0.5, -2.0]), 0.25).tolist() == [0.0625, 1.75]
    value = binary_focal(torch.tensor([0.25, 0.25]), torch.tensor([1.0, 0.0]), 2.0)
    np.testing.assert_allclose(value, [-(0.75**2) * np.log(0.25), -(0.25**2) * np.log(0.75)], rtol=1e-6)


def test_gamma_follows_the_label_kind() -> None:
    assert RegionOptions().focal_gamma(False) == 2
    assert RegionOptions().focal_gamma(True) == 0.5
    assert RegionOptions(gamma=1).focal_gamma(True) == 1


@pytest.mark.parametrize("form", ["paper", "giou"])
def test_batch_size_does_not_change_the_scale(form: str) -> None:
    facts, targets = facts_of("jhmdb"), some_targets(facts_of("jhmdb"))
    grid = random_grid(3, facts)
    doubled = targets_of(6, [], facts)
    doubled = replace(
        doubled,
        clip_n=torch.cat((targets.clip_n, targets.clip_n + 3)),
        boxes_n4=targets.boxes_n4.repeat(2, 1),
        labels_nk=targets.labels_nk.repeat(2, 1),
    )
    once, twice = loss(grid, targets, facts, form=form), loss(grid.repeat(2, 1, 1, 1), doubled, facts, form=form)
    for name, term in once.items():
        torch.testing.assert_close(term, twice[name])


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", ["jhmdb", "ava"])
def test_masked_clips_add_exactly_nothing(form: str, name: str) -> None:
    facts = facts_of(name)
    targets, grid = some_targets(facts), random_grid(3, facts)
    targets.box_mask_b = torch.tensor([True, False, True])
    total = loss(grid, targets, facts, form=form)["total"]
    (gradient,) = torch.autograd.grad(total, grid)
    assert gradient[1].abs().max() == 0
    assert gradient[0].abs().max() > 0 and gradient[2].abs().max() > 0
    targets.box_mask_b = torch.zeros(3, dtype=torch.bool)
    assert loss(grid, targets, facts, form=form)["total"].item() == 0


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", ["jhmdb", "ava"])
def test_a_batch_without_boxes_has_only_the_no_object_part(form: str, name: str) -> None:
    facts = facts_of(name)
    grid = random_grid(2, facts)
    terms = loss(grid, targets_of(2, [], facts), facts, form=form)
    (gradient,) = torch.autograd.grad(terms["total"], grid)
    assert gradient.isfinite().all() and gradient.abs().max() > 0
    assert terms["total"] == terms["conf"] > 0
    assert all(term == 0 for key, term in terms.items() if key not in ("conf", "total"))


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", ["jhmdb", "ava"])
@pytest.mark.parametrize("scale", [1.0, 100.0])
def test_half_precision_grids_are_computed_in_float32(form: str, name: str, scale: float) -> None:
    facts = facts_of(name)
    grid = (random_grid(3, facts).detach() * scale).bfloat16().requires_grad_()
    total = loss(grid, some_targets(facts), facts, form=form)["total"]
    (gradient,) = torch.autograd.grad(total, grid)
    assert total.dtype == torch.float32 and gradient.dtype == torch.bfloat16
    assert gradient.isfinite().all()
    torch.testing.assert_close(total, loss(grid.float(), some_targets(facts), facts, form=form)["total"])


@pytest.mark.parametrize("form", FORMS)
def test_descending_the_loss_finds_the_truth(form: str) -> None:
    facts = facts_of("jhmdb")
    targets, grid = some_targets(facts, clips=2), random_grid(2, facts).detach().requires_grad_()
    optimizer = torch.optim.Adam([grid], lr=0.2)
    for _ in range(80):
        optimizer.zero_grad()
        loss(grid, targets, facts, form=form)["total"].backward()
        optimizer.step()
    decoded = decode_grid(grid.detach(), facts=facts, anchors=facts.anchors, stride=STRIDE)
    best = decoded.confidence_bn.argmax(dim=1)
    for clip in range(2):
        box = decoded.boxes_bn4[clip, best[clip]]
        assert pairwise_iou(box[None], targets.boxes_n4[clip][None]).item() > 0.8
        assert decoded.scores_bnk[clip, best[clip]].argmax().item() == clip + 3


# ------------------------------------------------------------------------------------------------ weights of targets


@pytest.mark.parametrize("facts", [UCF24, AVA], ids=["single", "multi"])
@pytest.mark.parametrize("form", FORMS)
def test_the_weight_of_a_box_multiplies_its_own_terms(facts: DatasetFacts, form: str) -> None:
    grid, targets = random_grid(3, facts), some_targets(facts)
    plain = loss(grid, targets, facts, form=form)
    n = len(targets.clip_n)
    for column, names in enumerate((("x", "y", "w", "h", "box"), (), ("cls",))):
        weights = torch.ones(n, 3)
        weights[:, column] = 0.25
        weighted = loss(grid, replace(targets, weights_n3=weights), facts, form=form)
        for name in plain.keys() - {"total", "conf"}:
            expected = plain[name] * (0.25 if name in names else 1)
            torch.testing.assert_close(weighted[name], expected)
        assert (weighted["conf"] < plain["conf"]) == (column == 1)


@pytest.mark.parametrize("form", FORMS)
def test_a_box_of_weight_0_leaves_only_its_cell_unsaid(form: str) -> None:
    """With all weights 0 only the no-object part is left, in which the box's own cell takes no part."""
    grid, targets = random_grid(3, UCF24), some_targets(UCF24)
    terms = loss(grid, replace(targets, weights_n3=torch.zeros(len(targets.clip_n), 3)), UCF24, form=form)
    nothing = loss(grid, targets_of(3, [], UCF24), UCF24, form=form)
    assert all(terms[name].item() == 0 for name in terms.keys() - {"total", "conf"})
    assert 0 < terms["conf"] < nothing["conf"]


def test_an_ignored_box_is_neither_truth_nor_background() -> None:
    grid = random_grid(2, UCF24)
    box = torch.tensor([[32.0, 32, 160, 200]])
    nothing = targets_of(2, [], UCF24)
    ignoring = replace(nothing, ignored_clip_m=torch.tensor([1]), ignored_boxes_m4=box)
    plain, spared = (loss(grid, targets, UCF24, form="giou", ignore_iou=1.0) for targets in (nothing, ignoring))
    cells = open_grid(grid, UCF24, UCF24.anchors)
    truth = replace(nothing, clip_n=torch.tensor([1]), boxes_n4=box, labels_nk=torch.eye(24)[:1])
    found = assign(cells, truth, stride=STRIDE, ignore_iou=1.0)
    own = torch.nn.functional.softplus(cells.confidence_bn[1, found.cell_m[0]])
    torch.testing.assert_close(plain["conf"] - spared["conf"], own / 2)


def test_background_weights_count_at_unassigned_cells_alone() -> None:
    grid, targets = random_grid(3, UCF24), some_targets(UCF24)
    cells = 5 * 7 * 7
    silent = loss(grid, replace(targets, background_weights_bn=torch.zeros(3, cells)), UCF24, form="giou")
    plain = loss(grid, targets, UCF24, form="giou")
    twice = loss(grid, replace(targets, background_weights_bn=torch.full((3, cells), 2.0)), UCF24, form="giou")
    torch.testing.assert_close(twice["conf"] - plain["conf"], plain["conf"] - silent["conf"])
    assert 0 < silent["conf"] < plain["conf"] and torch.equal(silent["cls"], plain["cls"])

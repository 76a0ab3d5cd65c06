"""The contract suite: installed plugins keep it, and each of its tests catches a plugin that does not."""

from __future__ import annotations

import copy
import itertools
import random
import re
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from pydantic import ConfigDict, Field
from torch import nn

from ssldet import plugins, testing
from ssldet.contracts import (
    Backbone,
    Dataset,
    DatasetFacts,
    Metric,
    MetricResult,
    MetricValue,
    Needs,
    Options,
    Problem,
    Truth,
    Video,
    VideoSource,
)
from ssldet.detector.detector import GridDetector, GridOptions, GridPredictions
from ssldet.detector.weights import apply_weights, read_weights
from ssldet.errors import ConfigError, DataError
from ssldet.nn import FrozenParts
from ssldet.testing.tiny import TinyBackbone, TinyFeatures
from ssldet.training.teachers import TeacherOptions
from ssldet_strategies.mean_teacher import MeanTeacher
from ssldet_strategies.supervised import Supervised

QUICK: dict[str, dict[str, Any]] = {
    "synthetic": {"config": {"train_per_class": 1, "test_per_class": 1}},
    "yowo": {"clips": ((8, 1),)},
    "yowo_lite": {"option_sets": ({}, {"freeze_2d": True})},
}
"""Attributes of the suites of plugins that would take long."""

LONG = {
    "jhmdb": {"test_a_stand_in_is_whole_and_follows_from_its_seed"},
    "yowo": {
        "test_gradients_reach_every_part",
        "test_boxes_have_their_form",
        "test_cells_are_those_of_the_boxes",
        "test_predictions_can_be_split",
        "test_masks_and_weights_count",
        "test_the_frame_head_is_built_where_it_is_asked_for",
        "test_the_same_seed_gives_the_same_weights",
        "test_frozen_parts_stay_as_they_are",
        "test_weights_of_a_part_come_back",
        "test_weights_that_do_not_fit_are_told_of",
    },
}
"""Tests that take seconds with a large plugin, whose own tests show the same."""

INSTALLED = [(info.kind, info.name) for kind in plugins.KINDS for info in plugins.available(kind)]


def outcome(plugin: type[Any], test: str, **attributes: Any) -> testing.Outcome:
    """What one test of a plugin's suite finds."""
    found = testing.check(plugin, only=test, **attributes)
    assert len(found) == 1
    return found[0]


@pytest.mark.parametrize(("kind", "name"), INSTALLED)
def test_installed_plugins_keep_their_contract(kind: str, name: str) -> None:
    found = testing.check(plugins.load(kind, name), skip=LONG.get(name, ()), **QUICK.get(name, {}))
    assert len(found) > 5
    assert [one for one in found if one.status == "failed"] == []


def test_a_class_that_is_no_plugin_is_refused() -> None:
    with pytest.raises(TypeError, match=r"expected a class derived from one of ssldet\.Dataset"):
        testing.check(Options)


def test_it_does_not_pretend_to_test_without_assertions() -> None:
    code = "from ssldet import plugins, testing; testing.check(plugins.load('metric', 'recall'))"
    done = subprocess.run([sys.executable, "-O", "-c", code], capture_output=True, text=True, check=False)
    assert "under python -O no test can fail" in done.stderr


# ---------------------------------------------------------------------------------------------------- strategies


class Plain(MeanTeacher):
    class Config(TeacherOptions):
        ema_decay: float = 0.9


class Lenient(MeanTeacher):
    class Config(MeanTeacher.Config):
        """Options."""

        model_config = ConfigDict(extra="ignore")


class BadDefault(MeanTeacher):
    class Config(MeanTeacher.Config):
        """Options."""

        share: float = Field(2.0, le=1)
        """Of something."""


class NoNeeds(MeanTeacher):
    needs: ClassVar = {"frame_head": False}


class Peeks(MeanTeacher):
    def losses(self, batch, student, progress):
        if getattr(batch.unlabelled, "targets", None) is not None:
            raise AssertionError("never reached")
        return super().losses(batch, student, progress)


class ActionOnly(MeanTeacher):
    @property
    def needs(self) -> Needs:
        return Needs(unlabelled_extent="action")


class Changed(MeanTeacher):
    """Its terms pass through `change(terms, batch, student)`."""

    def losses(self, batch, student, progress):
        found = super().losses(batch, student, progress)
        self.change(found.terms, batch, student)
        return found


class NotANumber(Changed):
    def change(self, terms, batch, student):
        terms["box"] = terms["box"] * float("nan")


class NoTerms(Changed):
    def change(self, terms, batch, student):
        terms.clear()


class WholeVectors(Changed):
    def change(self, terms, batch, student):
        terms["box"] = terms["box"].repeat(2)


class PerBox(Changed):
    def change(self, terms, batch, student):
        terms["box"] = terms["box"] / len(batch.labelled.targets.clip_n)


class Costly(Changed):
    def change(self, terms, batch, student):
        terms["box_u"] = student(batch.unlabelled.strong_bcthw).grid.square().mean()


class HiddenPull(Changed):
    def change(self, terms, batch, student):
        pull = student(batch.unlabelled.strong_bcthw).grid.square().mean()
        terms["box_u"] = terms["box_u"] + pull - pull.detach()


class Detached(Changed):
    def change(self, terms, batch, student):
        terms["box_u"] = terms["box_u"].detach()


class ThroughTheWeakView(Changed):
    def change(self, terms, batch, student):
        terms["agree"] = student(batch.unlabelled.weak_bcthw).grid.square().mean()


class TrainedTeacher(Changed):
    def start(self, student, info):
        super().start(student, info)
        self.teacher.network.requires_grad_(True)

    def change(self, terms, batch, student):
        terms["agree"] = self.teacher.network(batch.unlabelled.strong_bcthw).grid.square().mean()


class Dice(Changed):
    def change(self, terms, batch, student):
        terms["box"] = terms["box"] * random.random()


class Pushes(MeanTeacher):
    def after_step(self, student, progress):
        with torch.no_grad():
            for parameter in student.parameters():
                parameter.mul_(0.99)


class LeavesEval(MeanTeacher):
    def after_step(self, student, progress):
        super().after_step(student, progress)
        student.eval()


class Forgets(MeanTeacher):
    def state_dict(self):
        return {}

    def load_state_dict(self, state):
        pass


class AveragesAnew(MeanTeacher):
    def load_state_dict(self, state):
        super().load_state_dict({**state, "updates": torch.tensor(0)})


class Lags(MeanTeacher):
    """A state that no loss reads before the run ends."""

    def start(self, student, info):
        super().start(student, info)
        self.steps = torch.zeros(())

    def after_step(self, student, progress):
        super().after_step(student, progress)
        self.steps += 1

    def state_dict(self):
        return {**super().state_dict(), "steps": self.steps}

    def load_state_dict(self, state):
        super().load_state_dict({name: value for name, value in state.items() if name != "steps"})


class Counts(MeanTeacher):
    def state_dict(self):
        return {**super().state_dict(), "steps": 3}


class ScoresAnother(MeanTeacher):
    """Scores a copy that its state leaves out."""

    def start(self, student, info):
        super().start(student, info)
        self.copy = copy.deepcopy(student)

    def evaluated(self, student):
        return self.copy


class ScoresNothing(MeanTeacher):
    def evaluated(self, student):
        return None


class WrongForm(MeanTeacher):
    def pseudo_labels(self, predictions):
        found = super().pseudo_labels(predictions)
        found.targets.labels_nk = found.targets.labels_nk.long()
        return found


class Miscounts(MeanTeacher):
    def pseudo_labels(self, predictions):
        found = super().pseudo_labels(predictions)
        found.candidates = 0
        return found


class WatchesNothing(MeanTeacher):
    def networks(self, student):
        return {"student": student, "teacher": None}


@pytest.mark.parametrize(
    ("plugin", "test", "reason"),
    [
        (Plain, "test_it_says_what_it_is", "Plain has no docstring"),
        (Plain, "test_every_option_is_documented", "says nothing of ema_decay"),
        (Lenient, "test_unknown_options_are_refused", "takes unknown options"),
        (BadDefault, "test_the_options_have_valid_defaults", "less than or equal to 1"),
        (NoNeeds, "test_its_needs_are_known_before_it_starts", "expected ssldet.contracts.Needs"),
        (Peeks, "test_it_does_without_hidden_truth", "asks unlabelled clips for 'targets'"),
        (NotANumber, "test_losses_are_finite_scalars", "term 'box' is nan"),
        (NoTerms, "test_losses_are_finite_scalars", "no term"),
        (WholeVectors, "test_losses_are_finite_scalars", "expected a float tensor without dimensions"),
        (PerBox, "test_clips_without_a_box_are_no_obstacle", "term 'box' is inf"),
        (Costly, "test_finding_nothing_costs_nothing", "expected exactly 0"),
        (HiddenPull, "test_finding_nothing_costs_nothing", "has a gradient in"),
        (Detached, "test_gradients_reach_the_student", "term 'box_u' is .* reaches none of the clips"),
        (ThroughTheWeakView, "test_no_gradient_flows_through_the_weak_view", "flows through the weak view"),
        (TrainedTeacher, "test_no_gradient_reaches_a_teacher", "parameters that are not trained"),
        (Pushes, "test_frozen_parts_stay_as_they_are", "the frozen parameter features"),
        (LeavesEval, "test_it_leaves_the_student_in_training_mode", "in evaluation mode"),
        (Dice, "test_the_same_seed_gives_the_same_losses", "differ in term 'box'"),
        (Forgets, "test_a_resumed_run_goes_on_as_if_nothing_had_happened", "differ in term 'box_u'"),
        (AveragesAnew, "test_a_resumed_run_goes_on_as_if_nothing_had_happened", "differ in term 'box_u'"),
        (Lags, "test_a_resumed_run_goes_on_as_if_nothing_had_happened", r"differ in state_dict\(\)\['steps'\]"),
        (Counts, "test_a_resumed_run_goes_on_as_if_nothing_had_happened", "'steps'. is no tensor"),
        (ScoresAnother, "test_a_resumed_run_goes_on_as_if_nothing_had_happened", "predicts other boxes_bn4"),
        (ScoresNothing, "test_what_is_scored_is_a_detector", "evaluated.. gave NoneType"),
        (WatchesNothing, "test_what_is_scored_is_a_detector", "networks.*'teacher'.* is NoneType"),
        (WrongForm, "test_pseudo_labels_are_in_form", "labels_nk is torch.int64"),
        (Miscounts, "test_pseudo_labels_are_in_form", "candidates is 0, fewer than"),
    ],
)
def test_a_wrong_strategy_is_caught(plugin: type[Any], test: str, reason: str) -> None:
    found = outcome(plugin, test)
    assert found.status == "failed"
    _says(found, reason)


def _says(found: testing.Outcome, reason: str) -> None:
    assert re.search(reason, found.reason), found.reason


def test_whoever_reads_hidden_extents_is_named() -> None:
    found = outcome(ActionOnly, "test_it_does_without_hidden_truth")
    assert found.status == "skipped"
    assert "hidden temporal extents" in found.reason


def test_what_does_not_apply_is_skipped() -> None:
    found = outcome(Supervised, "test_no_gradient_flows_through_the_weak_view")
    assert found == testing.Outcome(found.test, "skipped", "it takes no unlabelled clips")


def test_a_field_description_documents_an_option() -> None:
    class Described(Options):
        """Options."""

        share: float = Field(0.5, description="of the clips")

    assert plugins.option_docs(Described) == {"share": "of the clips"}


def test_a_string_below_a_field_documents_an_option() -> None:
    class Documented(Options):
        """Options."""

        one: int = 1
        """What one does,
        in two lines."""
        other: int = 1

    class Derived(Documented):
        """More options."""

        more: int = 1
        """What more does."""

    assert plugins.option_docs(Documented) == {"one": "What one does,\nin two lines."}
    assert plugins.option_docs(Derived) == {"one": "What one does,\nin two lines.", "more": "What more does."}


# ----------------------------------------------------------------------------------------------------- backbones


class Whole(TinyBackbone):
    """As it should be."""

    def features(self) -> nn.Module:
        return TinyFeatures()

    def build(self, facts: DatasetFacts, *, frame_head: bool) -> GridDetector:
        detector = super().build(facts, frame_head=frame_head)
        detector.features = self.features()
        return detector


class WrongStride(Whole):
    stride = 8


class AlwaysFramed(Whole):
    def build(self, facts: DatasetFacts, *, frame_head: bool) -> GridDetector:
        return super().build(facts, frame_head=True)


class NeverFramed(Whole):
    def build(self, facts: DatasetFacts, *, frame_head: bool) -> GridDetector:
        return super().build(facts, frame_head=False)


class CutOff(Whole):
    class Features(TinyFeatures):
        def forward(self, clips_bcthw):
            return super().forward(clips_bcthw).detach()

    def features(self) -> nn.Module:
        return self.Features()


class Mixes(Whole):
    class Features(TinyFeatures):
        def forward(self, clips_bcthw):
            return super().forward(clips_bcthw - clips_bcthw.mean(dim=0))

    def features(self) -> nn.Module:
        return self.Features()


class OwnDice(Whole):
    draws: ClassVar = itertools.count()

    def features(self) -> nn.Module:
        features = TinyFeatures()
        nn.init.constant_(features.layers[0].bias, next(self.draws))
        return features


class Same(Whole):
    def build(self, facts: DatasetFacts, *, frame_head: bool) -> GridDetector:
        torch.manual_seed(7)
        return super().build(facts, frame_head=frame_head)


class Reclassed(Whole):
    """Builds a detector with something changed."""

    kind: ClassVar[type[GridDetector]]

    def build(self, facts: DatasetFacts, *, frame_head: bool) -> GridDetector:
        detector = super().build(facts, frame_head=frame_head)
        detector.__class__ = self.kind
        return detector


class Blank(Reclassed):
    class kind(GridDetector):
        def decode(self, predictions):
            return replace(super().decode(predictions), boxes_bn4=super().decode(predictions).boxes_bn4 * float("nan"))


class Shuffled(Reclassed):
    class kind(GridDetector):
        def cells(self, predictions):
            found = super().cells(predictions)
            return replace(found, confidence_bn=found.confidence_bn.flip(1))


class Merges(Reclassed):
    class Pair(GridPredictions):
        def split(self, sizes):
            return list(reversed([type(self)(one.grid, one.frame_logits) for one in super().split(sizes)]))

    class kind(GridDetector):
        def forward(self, clips_bcthw):
            found = super().forward(clips_bcthw)
            return Merges.Pair(found.grid, found.frame_logits)


class Unmasked(Reclassed):
    class kind(GridDetector):
        def losses(self, predictions, targets, *, details=None):
            every = torch.ones_like(targets.box_mask_b)
            return super().losses(predictions, replace(targets, box_mask_b=every), details=details)


class Unweighted(Reclassed):
    class kind(GridDetector):
        def losses(self, predictions, targets, *, details=None):
            return super().losses(predictions, replace(targets, weights_n3=None), details=details)


class Forgetful(Reclassed):
    class kind(GridDetector):
        def losses(self, predictions, targets, *, details=None):
            found = super().losses(predictions, targets, details=details)
            if details is not None:
                del details["box/conf"]
            return found


class WrongParts(Whole):
    parts: ClassVar = {"2d": "features.backbone_2d"}


class Parted(Whole):
    """Its features have weights files of their own and may be frozen: as it should be."""

    class Config(GridOptions):
        """Options."""

        freeze: bool = False
        """Whether the features are left as they are."""

    class Features(FrozenParts):
        def __init__(self) -> None:
            super().__init__()
            self.layers = TinyFeatures().layers

        def forward(self, clips_bcthw):
            return self.layers(clips_bcthw.mean(dim=2))

    parts: ClassVar = {"layers": "features.layers"}

    def features(self) -> nn.Module:
        features = self.Features()
        if self.config.freeze:
            features.freeze(features.layers)
        return features

    def frozen_parts(self):
        return {"layers": "freeze"} if self.config.freeze else {}

    def read_part(self, part, file):
        return read_weights(file)

    def load_pretrained(self, detector, files):
        states = {part: self.read_part(part, file) for part, file in files.items()}
        return {part: self.fill(detector.features.layers, state) for part, state in states.items()}

    def fill(self, layers, state):
        return apply_weights(layers, state, source="").as_dict()


class Unsaid(Parted):
    def frozen_parts(self):
        return {}


class MovingStatistics(Parted):
    class Features(TinyFeatures):
        def freeze(self, layers):
            layers.requires_grad_(False)


class Unused(Parted):
    class Features(Parted.Features):
        def __init__(self) -> None:
            super().__init__()
            self.spare = nn.Linear(1, 1)


class Renames(Parted):
    def read_part(self, part, file):
        return {f"layers.{name}": value for name, value in read_weights(file).items()}


class LoadsNothing(Parted):
    def fill(self, layers, state):
        return {"loaded": len(state)}


class SaysNothing(Parted):
    def load_pretrained(self, detector, files):
        super().load_pretrained(detector, files)
        return {}


class LoadsWhatFits(Parted):
    def fill(self, layers, state):
        return {"loaded": apply_weights(layers, state, source="", partial=True).as_dict()["loaded"]}


class ReportsWhatFits(Parted):
    """Lenient, and says so."""

    def fill(self, layers, state):
        return apply_weights(layers, state, source="", partial=True).as_dict()


def test_a_right_backbone_passes() -> None:
    """Weights cannot be tested where no part has any."""
    assert {one.test for one in testing.check(Whole) if one.status != "passed"} == {
        "test_weights_of_a_part_come_back",
        "test_weights_that_do_not_fit_are_told_of",
    }


@pytest.mark.parametrize("plugin", [Parted, ReportsWhatFits])
def test_a_right_backbone_with_weights_passes(plugin: type[Backbone]) -> None:
    found = testing.check(plugin, option_sets=({}, {"freeze": True}))
    assert [one for one in found if one.status != "passed"] == []


@pytest.mark.parametrize(
    ("plugin", "test", "reason"),
    [
        (
            Unsaid,
            "test_frozen_parts_stay_as_they_are",
            r"names \[\]; layers are frozen in \['layers'\]",
        ),
        (MovingStatistics, "test_frozen_parts_stay_as_they_are", r"layers\.1\.running_mean moves though"),
    ],
)
def test_what_is_wrong_under_some_options_is_caught(plugin: type[Backbone], test: str, reason: str) -> None:
    assert outcome(plugin, test).status == "passed"
    found = outcome(plugin, test, option_sets=({}, {"freeze": True}))
    assert found.status == "failed"
    _says(found, "with the options {'freeze': True}: ")
    _says(found, reason)


@pytest.mark.parametrize(
    ("plugin", "test", "reason"),
    [
        (WrongStride, "test_cells_are_those_of_the_boxes", r"no level has 2 x 2 cells on 2 strides a side"),
        (Blank, "test_boxes_have_their_form", "not finite"),
        (Shuffled, "test_cells_are_those_of_the_boxes", "cells' confidence and decode's differ"),
        (Merges, "test_predictions_can_be_split", "boxes of a split and of the whole differ"),
        (Unmasked, "test_masks_and_weights_count", "the loss 'box' is .* where every clip is masked, expected 0"),
        (Unweighted, "test_masks_and_weights_count", "weights_n3 of 0 leave the box loss as it is"),
        (Forgetful, "test_details_are_parts_of_the_box_loss", "details' sum and box loss differ"),
        (AlwaysFramed, "test_the_frame_head_is_built_where_it_is_asked_for", "still builds a frame head"),
        (NeverFramed, "test_the_frame_head_is_built_where_it_is_asked_for", "got None"),
        (CutOff, "test_gradients_reach_every_part", "no gradient reaches features"),
        (Mixes, "test_a_prediction_depends_on_its_own_clip_alone", "beside another differ"),
        (OwnDice, "test_the_same_seed_gives_the_same_weights", "differ in features.layers.0.bias"),
        (Same, "test_the_same_seed_gives_the_same_weights", "of different seeds are equal"),
        (Unused, "test_gradients_reach_every_part", "no gradient reaches features.spare.weight: it is trained"),
        (Renames, "test_weights_of_a_part_come_back", "0.bias is in one of them only"),
        (LoadsNothing, "test_weights_of_a_part_come_back", "does not fill features.layers.0.weight"),
        (SaysNothing, "test_weights_of_a_part_come_back", "says nothing of the part layers"),
        (LoadsWhatFits, "test_weights_that_do_not_fit_are_told_of", "lacks 4.running_var is loaded"),
        (WrongParts, "test_its_parts_are_modules_of_the_detector", "2d -> features.backbone_2d"),
    ],
)
def test_a_wrong_backbone_is_caught(plugin: type[Backbone], test: str, reason: str) -> None:
    found = outcome(plugin, test)
    assert found.status == "failed"
    _says(found, reason)


# ------------------------------------------------------------------------------------------------------- metrics


class Found(Metric):
    """The share of truth boxes whose frame has a detection on the very spot."""

    protocols: ClassVar = ("standard",)
    columns: ClassVar = {"found": "Found"}

    def __init__(self, facts: DatasetFacts, protocol: str) -> None:
        if protocol not in self.protocols:
            raise ConfigError(f"unknown protocol {protocol!r}")
        self.protocol, self.hits, self.boxes = protocol, 0, 0

    def update(self, video, detections, truth):
        spots = {tuple(row) for row in detections.boxes_n4.tolist()}
        self.hits += sum(tuple(row) in spots for row in truth.boxes_n4.tolist())
        self.boxes += len(truth.boxes_n4)

    def compute(self) -> MetricResult:
        return MetricResult(self.protocol, scalars={"found": self.share()})

    def share(self) -> float:
        return self.hits / max(self.boxes, 1)


class AnyProtocol(Found):
    def __init__(self, facts, protocol):
        super().__init__(facts, "standard")


class Untitled(Found):
    columns: ClassVar = {}


class MissingColumn(Found):
    columns: ClassVar = {"found": "Found", "lost": "Lost"}


class Percent(Found):
    def share(self):
        return 100 * super().share()


class NamedThreshold(Found):
    def compute(self):
        return MetricResult(self.protocol, {"found": MetricValue(self.share())})


class Kinds(Found):
    """The same share as a kind."""

    def compute(self):
        return MetricResult(self.protocol, kinds={"found": MetricValue(self.share())})


class Doubled(Found):
    def compute(self):
        return MetricResult(self.protocol, scalars={"found": 1.0}, kinds={"found": MetricValue(1.0)})


class OtherProtocol(Found):
    def compute(self):
        return MetricResult("another", scalars={"found": self.share()})


class UpsideDown(Found):
    def share(self):
        return 1 - super().share()


class LastVideo(Found):
    def update(self, video, detections, truth):
        self.hits = self.boxes = 0
        super().update(video, detections, truth)


class Resets(Found):
    def compute(self):
        found = super().compute()
        self.hits = 0
        return found


class Divides(Found):
    def share(self):
        return self.hits / self.boxes


class Writes(Found):
    def update(self, video, detections, truth):
        detections.boxes_n4 += 1
        super().update(video, detections, truth)


def test_a_right_metric_passes() -> None:
    assert {one.status for plugin in (Found, Kinds) for one in testing.check(plugin)} == {"passed"}


def test_a_metric_may_fall() -> None:
    test = "test_perfect_detections_score_best_and_none_worst"
    assert outcome(UpsideDown, test, higher_is_better=False).status == "passed"


@pytest.mark.parametrize(
    ("plugin", "test", "reason"),
    [
        (Untitled, "test_its_protocols_and_columns_are_named", "expected result keys"),
        (AnyProtocol, "test_an_unknown_protocol_is_refused", "is not refused"),
        (MissingColumn, "test_every_column_is_in_the_result", "no 'lost'"),
        (Percent, "test_every_column_is_in_the_result", "'found' is 100"),
        (NamedThreshold, "test_thresholds_are_numbers", "threshold 'found' is no number"),
        (Doubled, "test_every_column_is_in_the_result", "key 'found' of a metric's result is taken"),
        (OtherProtocol, "test_the_result_names_its_protocol", "the result says 'another'"),
        (UpsideDown, "test_perfect_detections_score_best_and_none_worst", "none at all 1"),
        (Writes, "test_perfect_detections_score_best_and_none_worst", "read-only"),
        (LastVideo, "test_the_order_of_videos_does_not_matter", "depends on the order"),
        (Resets, "test_computing_twice_gives_the_same", "a second compute"),
        (Divides, "test_videos_without_truth_are_no_obstacle", "ZeroDivisionError"),
    ],
)
def test_a_wrong_metric_is_caught(plugin: type[Metric], test: str, reason: str) -> None:
    found = outcome(plugin, test)
    assert found.status == "failed"
    _says(found, reason)


# ------------------------------------------------------------------------------------------------------ data sets


class Listed(Dataset):
    """Two training videos and one test video of two frames, whose files lie in `root`."""

    facts = DatasetFacts("listed", ("left", "right"), ((1.0, 1.0),))

    def __init__(self, root: Path | None = None, config: Options | None = None) -> None:
        super().__init__(root, config)
        if root is None or not (root / "a").is_file():
            raise DataError(f"no videos in {root}")
        self.root = root

    @classmethod
    def write_stand_in(cls, folder: Path, seed: int = 0) -> None:
        for name in "abc":
            (folder / name).write_bytes(b"frames")

    def videos(self, subset, split=1) -> Sequence[Video]:
        return [Video(name, 2, 64, 48, (1,)) for name in ("ab" if subset == "train" else "c")]

    def truth(self, video_id: str) -> Truth:
        if video_id not in ("a", "b", "c"):
            raise DataError(f"no video {video_id!r}")
        boxes = np.array([[0, 0, 64, 48], [1, 1, 5, 5]], np.float32)
        return Truth(np.array([0, 1]), boxes, np.array([[False, True]] * 2), np.zeros(2, np.int64), np.arange(2))

    def source(self, video_id: str) -> VideoSource:
        self.truth(video_id)
        return VideoSource(file=self.root / video_id)

    def verify(self, split: int = 1) -> list[Problem]:
        return []

    def fingerprint(self) -> str:
        return "listed"


def changed(name: str, **fields: Any) -> type[Listed]:
    """A Listed whose truth has other fields."""

    def truth(self: Listed, video_id: str) -> Truth:
        found = Listed.truth(self, video_id)
        rows = {key: fields.get(key, getattr(found, key)) for key in Truth.__dataclass_fields__}
        return Truth(**rows)

    return type(name, (Listed,), {"truth": truth, "__doc__": name})


class NoClasses(Listed):
    facts = DatasetFacts("listed", ("left", "left"), ((1.0, 1.0),))


class NoAnchors(Listed):
    facts = DatasetFacts("listed", ("left", "right"), ((1.0, -1.0),))


class OpensAnything(Listed):
    def __init__(self, root=None, config=None):
        self.root, self.text = root, (root / "a").read_bytes()


class Unordered(Listed):
    def videos(self, subset, split=1):
        return super().videos(subset)[::-1]


class Overlapping(Listed):
    def videos(self, subset, split=1):
        return super().videos("train")


class NoSize(Listed):
    def videos(self, subset, split=1):
        return [Video(one.id, 2, 0, 48, (1,)) for one in super().videos(subset)]


class NumberedGroups(Listed):
    def videos(self, subset, split=1):
        return [replace(one, group=7) for one in super().videos(subset)]


class LostFiles(Listed):
    def source(self, video_id):
        return VideoSource(file=Path("nowhere", video_id))


class KeyErrors(Listed):
    def truth(self, video_id):
        return {name: Listed.truth(self, name) for name in "abc"}[video_id]


class Words(Listed):
    def verify(self, split=1):
        return ["something is missing"]


class Stamped(Listed):
    times: ClassVar = itertools.count()

    def fingerprint(self):
        return str(next(self.times))


class Located(Listed):
    def fingerprint(self):
        return f"listed in {self.root}"


class Forgetful(Listed):
    """Its options are not what it was opened with."""

    class Config(Options):
        """Options."""

        count: int = 2
        """How many."""

    def __init__(self, root: Path | None = None, config: Options | None = None) -> None:
        super().__init__(root, config or self.Config(count=3))

    def fingerprint(self) -> str:
        return str(self.config)


class NoShare(Listed):
    facts = DatasetFacts("listed", ("left", "right"), ((1.0, 1.0),), default_ratio=2.0)


FORM = "test_truth_is_in_form"


def test_a_right_data_set_passes() -> None:
    assert {one.status for one in testing.check(Listed)} == {"passed"}


@pytest.mark.parametrize(
    ("plugin", "test", "reason"),
    [
        (NoClasses, "test_its_facts_make_sense", "names a class twice"),
        (NoAnchors, "test_its_facts_make_sense", "not sizes"),
        (NoShare, "test_its_facts_make_sense", "a share in"),
        (Forgetful, "test_without_options_every_option_has_its_default", "other data than with"),
        (OpensAnything, "test_an_empty_folder_is_a_data_error", "FileNotFoundError"),
        (Unordered, "test_videos_are_in_order_and_of_one_subset", "not ordered by id"),
        (Overlapping, "test_videos_are_in_order_and_of_one_subset", "'a' is a training and a test video"),
        (NoSize, "test_videos_are_described", "no size"),
        (NumberedGroups, "test_videos_are_described", "has the group 7, expected text"),
        (LostFiles, "test_sources_exist", "does not exist"),
        (KeyErrors, "test_an_unknown_video_is_a_data_error", "raises KeyError"),
        (Words, "test_verify_names_problems", "expected a Problem"),
        (Stamped, "test_the_fingerprint_is_of_the_data", "have different fingerprints"),
        (Stamped, "test_a_stand_in_is_whole_and_follows_from_its_seed", "different fingerprints"),
        (Located, "test_the_fingerprint_is_of_the_data", "names the folder"),
        (changed("Doubles", boxes_n4=np.ones((2, 4))), FORM, "boxes_n4 is float64"),
        (changed("Backwards", frames_n=np.array([1, 0])), FORM, r"not ordered by \(frame, tube\)"),
        (changed("Outside", boxes_n4=np.array([[0, 0, 65, 48]] * 2, np.float32)), FORM, "outside the frame"),
        (changed("Flat", boxes_n4=np.array([[5, 5, 5, 9]] * 2, np.float32)), FORM, "without area"),
        (changed("Keys", key_frames_m=np.array([1, 0])), FORM, "key_frames_m is not sorted"),
        (changed("FewKeys", key_frames_m=np.array([0])), FORM, "no key frames"),
        (changed("LateKeys", key_frames_m=np.arange(3)), FORM, "outside 0..1"),
        (changed("Both", labels_nk=np.ones((2, 2), bool)), FORM, "several labels"),
        (changed("Neither", labels_nk=np.zeros((2, 2), bool)), FORM, "without a label"),
    ],
)
def test_a_wrong_data_set_is_caught(plugin: type[Dataset], test: str, reason: str) -> None:
    found = outcome(plugin, test)
    assert found.status == "failed"
    _says(found, reason)


def test_without_data_only_the_facts_are_tested() -> None:
    class Absent(Listed):
        """Data that nobody can make."""

        @classmethod
        def write_stand_in(cls, folder: Path, seed: int = 0) -> None:
            raise ConfigError("none")

    found = {one.test: one for one in testing.check(Absent)}
    assert found["test_its_facts_make_sense"].status == "passed"
    assert found[FORM] == testing.Outcome(FORM, "skipped", "there is no data to test on: no videos in None")

"""The contract of detectors is not YOWO's: one without anchors passes the suites and trains with every strategy."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from anchor_free import CentreBackbone, centre_detector
from helpers import EASY, QUICK
from test_plugins import fabricator

import ssldet
from ssldet import plugins, testing
from ssldet.config import resolve
from ssldet.contracts import Strategy
from ssldet.testing import SINGLE_LABEL, tiny_targets

STRATEGIES = tuple(EASY)


def test_it_keeps_the_contract_of_backbones() -> None:
    outcomes = testing.check(CentreBackbone)
    assert {outcome.status for outcome in outcomes} == {"passed", "skipped"}
    without_files = "it has no parts with weights files of their own"
    assert [outcome.reason for outcome in outcomes if outcome.status == "skipped"] == [without_files] * 2


@pytest.mark.parametrize("name", STRATEGIES)
def test_every_strategy_keeps_its_contract_over_it(name: str) -> None:
    strategy: type[Strategy] = plugins.load("strategy", name)
    outcomes = testing.check(strategy, detector=staticmethod(centre_detector))
    assert [outcome for outcome in outcomes if outcome.status == "failed"] == []


def test_ignored_boxes_and_background_weights_count() -> None:
    detector = centre_detector(SINGLE_LABEL, frame_head=False)
    predictions = detector(torch.rand(2, 3, 4, 32, 32))
    none = replace(tiny_targets(SINGLE_LABEL, 2, boxes=False), frame_labels_b=torch.zeros(2, dtype=torch.int64))
    plain = detector.losses(predictions, none)["box"]
    ignoring = replace(none, ignored_clip_m=torch.tensor([0]), ignored_boxes_m4=torch.tensor([[2.0, 2, 12, 12]]))
    assert 0 < detector.losses(predictions, ignoring)["box"] < plain
    silent = replace(none, background_weights_bn=torch.zeros(2, 4))
    assert detector.losses(predictions, silent)["box"] == 0


@pytest.mark.parametrize("name", STRATEGIES)
def test_it_trains_with_every_strategy(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A whole run, from `--backbone centre` to its record: it learns something, and pseudo-labels are found."""
    fabricator(tmp_path, monkeypatch)("centre-dist", "[ssldet.backbones]\ncentre = anchor_free:CentreBackbone\n")
    fields = {"strategy": name, "dataset": "synthetic", "ratio": 0.2, "backbone": "centre", "results": tmp_path}
    few = ("dataset.train_per_class=5", "dataset.test_per_class=1", "clip.size=64")
    record = ssldet.run(resolve(fields, preset="smoke", assignments=[*QUICK, *EASY[name], *few]))
    assert record.status == "done"
    assert record.config["experiment"]["backbone"] == "centre"
    if name != "supervised":
        assert record.notes["pseudo_labels"]["boxes"] > 0

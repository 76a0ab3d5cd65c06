"""The loop: what moves, what is logged, and that a resumed run is the same run."""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import FACTS, MULTILABEL, TinyDataset, tiny_detector
from test_clips import source
from torch import Tensor, nn

from ssldet.config import TrainOptions
from ssldet.contracts import (
    Batch,
    DatasetFacts,
    Detector,
    Needs,
    Predictions,
    Progress,
    PseudoLabels,
    StepLosses,
    Strategy,
    TrainingInfo,
)
from ssldet.data.targets import TruthTable
from ssldet.detector.modes import evaluation_mode
from ssldet.errors import CheckpointError, TrainingError
from ssldet.testing.tiny import TINY_INFO
from ssldet.training.diagnostics import WARNINGS, PseudoLabelMeter, TermGradients
from ssldet.training.loop import Training
from ssldet.training.objectives import ramp_up
from ssldet.training.pseudo_labels import confident_boxes
from ssldet.training.teachers import Teacher, TeacherOptions, TeacherStudent
from ssldet_strategies.dual_guidance import DualGuidance
from ssldet_strategies.supervised import Supervised

OPTIONS = TrainOptions(
    batch=4,
    bn_batch=4,
    steps=8,
    epochs=4,
    burn_in=0.5,
    optimizer="adamw",
    lr=1e-2,
    checkpoint_every=3,
    pair_share=0.5,
)


def dual_guidance(**options: Any) -> DualGuidance:
    return DualGuidance(DualGuidance.Config(f_th=0.0, o_th=0.0, ema_decay=0.9, **options))


def training(strategy: Strategy, options: TrainOptions = OPTIONS, run_id: str = "run", **extra: Any) -> Training:
    data = TinyDataset()
    hidden = TruthTable(FACTS, {v.id: v for v in data.videos("train")}, data.truth, 32)
    needs = strategy.needs
    batches = source(temporal=needs.temporal)
    batches.needs = needs
    return Training(
        extra.pop("student", None) or tiny_detector(frame_head=needs.frame_head),
        strategy,
        batches,
        options,
        steps=options.steps or 8,
        seed=0,
        device=torch.device("cpu"),
        run_id=run_id,
        meter=PseudoLabelMeter(hidden) if needs.unlabelled else None,
        **extra,
    )


def weights(run: Training) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in run.student.state_dict().items()}


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def test_gradient_norms_of_terms_change_nothing_in_training() -> None:
    lines: list[dict[str, Any]] = []
    watched = training(
        dual_guidance(), OPTIONS.model_copy(update={"gradient_norms": True, "bn_batch": 2}), log=lines.append
    )
    watched.run()
    plain = training(dual_guidance(), OPTIONS.model_copy(update={"bn_batch": 2}))
    plain.run()
    assert same(weights(watched), weights(plain))
    assert same(watched.strategy.state_dict(), plain.strategy.state_dict())
    for line in lines:
        assert line["gradient_norms"].keys() == line["losses"].keys()
        assert all(norm > 0 for norm in line["gradient_norms"].values())


def test_the_norm_of_the_only_term_is_that_of_the_step() -> None:
    lines: list[dict[str, Any]] = []
    options = OPTIONS.model_copy(update={"gradient_norms": True, "log_every": 1, "bn_batch": 2})
    training(Supervised(Supervised.Config()), options, log=lines.append).run()
    assert len(lines) == 8
    for line in lines:
        assert line["gradient_norms"]["box"] == pytest.approx(line["gradient_norm"], rel=1e-5)


def test_a_term_without_gradient_has_norm_0() -> None:
    parameter = nn.Parameter(torch.tensor([3.0, 4.0]))
    gradients = TermGradients([parameter])
    for _ in range(2):
        gradients.add({"square": parameter.square().sum() / 2, "constant": torch.ones(())})
    assert gradients.norms() == {"square": 10.0, "constant": 0.0}
    assert parameter.grad is None


class Scorer:
    """Scores networks as a careless caller would: it draws numbers, and looks at what it was handed."""

    def __init__(self) -> None:
        self.asked: list[list[str]] = []

    def __call__(self, networks: Mapping[str, Detector]) -> dict[str, dict[str, float]]:
        self.asked.append(list(networks))
        scores = {}
        for name, network in networks.items():
            with evaluation_mode(network), torch.no_grad():
                confidence = network.decode(network(torch.rand(2, 3, 4, 32, 32))).confidence_bn
            scores[name] = {"mean": float(confidence.mean())}
        return scores


def note_random_state(seen: list[Tensor]) -> bool:
    seen.append(torch.get_rng_state())
    return False


def modes(run: Training) -> list[bool]:
    return [module.training for module in run.student.modules()]


@pytest.mark.parametrize(("options", "networks"), [({}, ["student", "teacher"]), ({"teacher": "shared"}, ["student"])])
def test_scores_during_training_change_no_bit_of_it(options: dict[str, Any], networks: list[str]) -> None:
    lines: list[dict[str, Any]] = []
    scorer = Scorer()
    scored = training(
        dual_guidance(**options), OPTIONS.model_copy(update={"eval_every": 3}), validate=scorer, log=lines.append
    )
    plain = training(dual_guidance(**options))
    states: list[list[Tensor]] = [[], []]
    for run, seen in zip((scored, plain), states, strict=True):
        assert run.student.frame_head is not None
        run.student.frame_head.eval()  # a frozen part, which a switch of the whole student would wake
        run.run(stop=partial(note_random_state, seen))
    assert scorer.asked == [networks] * 2
    assert same(weights(scored), weights(plain)) and modes(scored) == modes(plain)
    assert same(scored.strategy.state_dict(), plain.strategy.state_dict())
    assert all(torch.equal(one, other) for one, other in zip(*states, strict=True))
    assert [(line["step"], line["validation"] is not None) for line in lines] == [
        (2, False),
        (4, False),  # the first stage, which other runs share, has no scores
        (6, True),
        (8, True),
    ]
    assert list(lines[-1]["validation"]) == networks


def test_a_line_ends_with_every_score(tmp_path: Path) -> None:
    def lines_of(stop_at: int | None) -> list[dict[str, Any]]:
        options = OPTIONS.model_copy(update={"eval_every": 5, "gradient_norms": True})
        lines: list[dict[str, Any]] = []
        path = tmp_path / str(stop_at)
        first = training(dual_guidance(), options, validate=Scorer(), log=lines.append)
        first.run(path, stop=lambda: first.counts.step == stop_at)
        if stop_at:
            second = training(dual_guidance(), options, validate=Scorer(), log=lines.append)
            second.resume(path)
            second.run(path)
        return [{name: value for name, value in line.items() if name != "seconds"} for line in lines]

    whole = lines_of(None)
    assert [line["step"] for line in whole] == [2, 4, 5, 6, 8]
    assert lines_of(4) == lines_of(5) == lines_of(7) == whole


def test_the_loss_falls_on_what_it_trains_on() -> None:
    lines: list[dict[str, Any]] = []
    options = OPTIONS.model_copy(update={"steps": 60, "epochs": 6})
    run = training(Supervised(Supervised.Config()), options, log=lines.append)
    assert run.run()
    assert lines[-1]["losses"]["box"] < 0.7 * lines[0]["losses"]["box"]
    assert [line["step"] for line in lines] == [10, 20, 30, 40, 50, 60]


def test_stages_and_what_they_log() -> None:
    lines: list[dict[str, Any]] = []
    run = training(dual_guidance(), log=lines.append)
    run.run()
    assert [line["stage"] for line in lines] == [1, 1, 2, 2]
    assert set(lines[0]["losses"]) == {"box", "frame", "temporal"}
    assert set(lines[-1]["losses"]) == {"box", "frame", "temporal", "box_u", "frame_u", "temporal_u"}
    assert lines[0]["pseudo_labels"] is None
    assert lines[-1]["pseudo_labels"]["clips"] == 8
    assert lines[-1]["pseudo_labels"]["frame_coverage"] == 1
    # 4 labelled clips and 2 partners; in the second stage as many unlabelled ones
    assert run.counts.gradient_clips == 4 * 6 + 4 * 12
    assert run.counts.teacher_clips == 4 * 4


@pytest.mark.parametrize("bn_batch", [2, 4])
def test_the_parts_of_box_terms_are_logged_apart_and_add_up(bn_batch: int) -> None:
    lines: list[dict[str, Any]] = []
    strategy = dual_guidance(unlabelled_weight=0.5)
    training(strategy, OPTIONS.model_copy(update={"bn_batch": bn_batch}), log=lines.append).run()
    names = ("box", "conf", "cls")
    assert set(lines[0]["parts"]) == {f"box/{name}" for name in names}
    assert set(lines[-1]["parts"]) == {f"{term}/{name}" for term in ("box", "box_u") for name in names}
    for line in lines:
        for term in {"box", "box_u"} & line["losses"].keys():
            parts = [value for name, value in line["parts"].items() if name.startswith(f"{term}/")]
            assert sum(parts) == pytest.approx(line["losses"][term], rel=1e-5)


def test_terms_of_unlabelled_clips_are_set_against_the_others() -> None:
    lines: list[dict[str, Any]] = []
    training(dual_guidance(), log=lines.append).run()
    assert lines[0]["unlabelled_ratio"] is None
    losses = lines[-1]["losses"]
    unlabelled, others = (sum(v for n, v in losses.items() if n.endswith("_u") == which) for which in (True, False))
    assert lines[-1]["unlabelled_ratio"] == pytest.approx(unlabelled / others)


@pytest.mark.parametrize(
    ("options", "topic"), [({"unlabelled_weight": 1e4}, "unlabelled_ratio"), ({"f_th": 1.0}, "pseudo_labels")]
)
def test_a_second_stage_that_goes_wrong_is_warned_of_once(options: dict[str, Any], topic: str) -> None:
    lines: list[dict[str, Any]] = []
    strategy = DualGuidance(DualGuidance.Config(**{"f_th": 0.0, "o_th": 0.0, **options}))
    training(strategy, log=lines.append).run()
    assert [line["warnings"] for line in lines] == [[], [], [WARNINGS[topic]], []]


@pytest.mark.parametrize("strategy", ["supervised", "dual_guidance"])
@pytest.mark.parametrize("stop_at", [2, 5, 7])
def test_a_resumed_run_ends_with_the_same_weights(tmp_path: Path, strategy: str, stop_at: int) -> None:
    def fresh() -> Training:
        return training(Supervised(Supervised.Config()) if strategy == "supervised" else dual_guidance())

    whole = fresh()
    assert whole.run(tmp_path / "whole")
    first = fresh()
    assert not first.run(tmp_path / "cut", stop=lambda: first.counts.step == stop_at)
    second = fresh()
    torch.manual_seed(99)  # whatever the process did before must not matter
    second.resume(tmp_path / "cut")
    assert second.counts.step == stop_at
    assert second.run(tmp_path / "cut")
    assert same(weights(whole), weights(second))
    assert same(whole.strategy.state_dict(), second.strategy.state_dict())
    assert second.counts.gradient_clips == whole.counts.gradient_clips


@pytest.mark.parametrize("stop_at", [3, 5, 7])
def test_the_log_of_a_resumed_run_is_that_of_an_uninterrupted_one(tmp_path: Path, stop_at: int) -> None:
    """Stopped between two lines, one every second step: the line that follows must speak of both steps."""

    def untimed(lines: list[dict[str, Any]]) -> list[dict[str, Any]]:
        return [{key: value for key, value in line.items() if key != "seconds"} for line in lines]

    options = OPTIONS.model_copy(update={"epochs": 2, "log_every": 2})  # a warning after two lines
    strategy = {"unlabelled_weight": 1e4}
    whole: list[dict[str, Any]] = []
    training(dual_guidance(**strategy), options, log=whole.append).run()
    assert [len(line["warnings"]) for line in whole] == [0, 0, 0, 1]
    cut: list[dict[str, Any]] = []
    first = training(dual_guidance(**strategy), options, log=cut.append)
    first.run(tmp_path / "c", stop=lambda: first.counts.step == stop_at)
    second = training(dual_guidance(**strategy), options, log=cut.append)
    second.resume(tmp_path / "c")
    second.run(tmp_path / "c")
    assert untimed(cut) == untimed(whole)


def test_a_checkpoint_of_another_run_is_refused(tmp_path: Path) -> None:
    training(Supervised(Supervised.Config()), run_id="one").save(tmp_path / "c")
    with pytest.raises(CheckpointError, match="belongs to run 'one'"):
        training(Supervised(Supervised.Config()), run_id="two").resume(tmp_path / "c")


@pytest.mark.parametrize("form", ["paper", "yowo", "giou"])
@pytest.mark.parametrize("facts", [FACTS, MULTILABEL], ids=lambda facts: facts.name)
def test_parts_give_the_gradient_of_the_whole(monkeypatch: pytest.MonkeyPatch, facts: DatasetFacts, form: str) -> None:
    """Accumulation must not change the gradient's scale (BatchNorm is held still: its statistics do differ)."""

    def gradient(bn_batch: int) -> torch.Tensor:
        run = training(Supervised(Supervised.Config()), OPTIONS.model_copy(update={"bn_batch": bn_batch}))
        run.student = tiny_detector(facts, frame_head=False, form=form).eval()
        monkeypatch.setattr(run.optimizer, "step", lambda: None)
        run.step_once()
        return torch.cat([p.grad.flatten() for p in run.student.parameters() if p.grad is not None])

    whole = gradient(4)
    for bn_batch in (2, 1):
        torch.testing.assert_close(gradient(bn_batch), whole, rtol=1e-4, atol=1e-5)


def test_a_loss_that_is_not_finite_stops_the_run_and_keeps_the_checkpoint(tmp_path: Path) -> None:
    run = training(Supervised(Supervised.Config()))
    run.run(tmp_path / "c", stop=lambda: run.counts.step == 3)
    before = (tmp_path / "c").read_bytes()
    with torch.no_grad():
        next(run.student.parameters()).fill_(float("nan"))
    with pytest.raises(TrainingError, match="step 4 of 8: the loss is not finite"):
        run.run(tmp_path / "c")
    assert (tmp_path / "c").read_bytes() == before


def test_a_teacher_is_there_when_the_first_stage_was_all() -> None:
    run = training(dual_guidance(evaluate="teacher"), OPTIONS.model_copy(update={"burn_in": 1.0, "steps": 2}))
    assert run.run()
    assert run.strategy.evaluated(run.student) is not run.student


def test_rates() -> None:
    halving = TrainOptions(lr=1.0, schedule="halve", epochs=10, halve_after=(3, 4, 5, 6))
    assert [halving.rate(step, 100) for step in (0, 29, 30, 40, 50, 60, 99)] == [1, 1, 0.5, 0.25, 0.125, 0.0625, 0.0625]
    cosine = TrainOptions(lr=1.0, schedule="cosine", warmup=10)
    assert cosine.rate(0, 100) == pytest.approx(0.1)
    assert cosine.rate(50, 100) == pytest.approx(0.5)
    assert cosine.rate(99, 100) < 0.001


def test_weight_decay_spares_batchnorm_and_biases() -> None:
    run = training(Supervised(Supervised.Config()), OPTIONS.model_copy(update={"weight_decay": 0.05}))
    spared, decayed = run.optimizer.param_groups
    assert (spared["weight_decay"], decayed["weight_decay"]) == (0, 0.05)
    assert all(p.ndim <= 1 for p in spared["params"])
    assert all(p.ndim > 1 for p in decayed["params"])


class Learner(TeacherStudent):
    """A strategy that uses what API 2.0 is for: weights per box, a ramp, a schedule of decay, a module of its own."""

    class Config(TeacherOptions):
        """Options of the test."""

        o_th: float = 0.0
        unlabelled_weight: float = 0.5
        unlabelled_ramp: float = 0.5

    config: Config

    @property
    def needs(self) -> Needs:
        return Needs(labelled_weak=True)

    def start(self, student: Detector, info: TrainingInfo) -> None:
        super().start(student, info)
        self.info = info
        generator = torch.Generator().manual_seed(1)
        self.scorer = nn.Linear(3, 1)
        for parameter in self.scorer.parameters():
            nn.init.uniform_(parameter, -1, 1, generator=generator)

    def trained_modules(self) -> dict[str, nn.Module]:
        return {"scorer": self.scorer}

    def build_teacher(self, student: Detector) -> Teacher:
        return Teacher(student, "ema", 0.5)

    def decay_at(self, progress: Progress) -> float:
        return 1 - 1 / (progress.epoch + 2)

    def pseudo_labels(self, predictions: Predictions) -> PseudoLabels:
        candidates = self.candidates(predictions)
        pseudo = confident_boxes(candidates, len(predictions), FACTS)
        weight_n = self.scorer(candidates.scores_nk).sigmoid().detach()
        pseudo.targets.weights_n3 = weight_n.expand(-1, 3).clone()
        return pseudo

    def losses(self, batch: Batch, student: Detector, progress: Progress) -> StepLosses:
        found = super().losses(batch, student, progress)
        assert batch.labelled.weak_bcthw is not None
        decoded = student.decode(student(batch.labelled.weak_bcthw))
        noise = torch.rand(len(batch.labelled.weak_bcthw), generator=batch.generator)
        found.terms["scorer"] = (self.scorer(decoded.scores_bnk.mean(dim=1))[:, 0] - noise).square().mean()
        return found


@pytest.mark.parametrize("stop_at", [4, 5, 7])
def test_a_strategy_with_weights_a_ramp_and_a_module_of_its_own_resumes_bit_for_bit(
    tmp_path: Path, stop_at: int
) -> None:
    def fresh() -> Training:
        return training(Learner(Learner.Config()))

    whole = fresh()
    assert whole.run(tmp_path / "whole")
    first = fresh()
    assert not first.run(tmp_path / "cut", stop=lambda: first.counts.step == stop_at)
    second = fresh()
    torch.manual_seed(99)
    second.resume(tmp_path / "cut")
    assert second.run(tmp_path / "cut")
    assert same(weights(whole), weights(second))
    assert same(whole.strategy.state_dict(), second.strategy.state_dict())
    assert isinstance(whole.strategy, Learner) and isinstance(second.strategy, Learner)
    assert same(whole.strategy.scorer.state_dict(), second.strategy.scorer.state_dict())


def test_a_module_of_a_strategy_is_trained_and_its_weights_reach_the_loss() -> None:
    lines: list[dict[str, Any]] = []
    run = training(Learner(Learner.Config()), log=lines.append)
    assert run.run()
    assert isinstance(run.strategy, Learner)
    initial = Learner(Learner.Config())
    initial.start(tiny_detector(), TINY_INFO)
    assert all(
        not torch.equal(now, before)
        for now, before in zip(run.strategy.scorer.parameters(), initial.scorer.parameters(), strict=True)
    )
    assert run.strategy.info == TrainingInfo((5, 5, 5), 18, 24, 8, 4)
    assert lines[-1]["losses"]["box_u"] > 0 and lines[-1]["losses"]["scorer"] > 0
    half = training(Learner(Learner.Config(unlabelled_ramp=0.0)))
    half.run(until=4)
    first, _ = half.step_once()
    again = training(Learner(Learner.Config(unlabelled_weight=1.0, unlabelled_ramp=0.0)))
    again.run(until=4)
    second, _ = again.step_once()
    assert first["box_u"] == pytest.approx(second["box_u"] / 2) and first["box"] == second["box"]


def test_the_ramp_rises_to_1() -> None:
    """exp(-5 (1 - t)^2) over the first half of the second stage, which begins at step 4 of 12."""
    weights = [ramp_up(Progress(step, 12, 4, epoch=0.0), 0.5) for step in (4, 6, 8, 11)]
    assert weights == pytest.approx([math.exp(-5), math.exp(-5 / 4), 1, 1])
    assert ramp_up(Progress(4, 12, 4, epoch=0.0), 0.0) == 1

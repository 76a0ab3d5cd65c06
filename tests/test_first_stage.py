"""First stages: who shares one, that sharing changes nothing, and what an interruption leaves."""

from __future__ import annotations

import json
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from made_claims import held
from safetensors.torch import load_file
from test_plugins import fabricator
from test_runner import StopAt, config

from ssldet.data.batches import BatchSource
from ssldet.errors import ConfigError, TrainingError
from ssldet.report.run_selection import collect_runs, select_runs
from ssldet.runs import plugin_code, runner
from ssldet.runs.first_stage import FirstStage, first_stage
from ssldet.runs.log import read_log
from ssldet.runs.record import Record
from ssldet.runs.runner import Interrupted, Reporter

TINY = ("clip.size=32", "clip.frames=4")
"""What is shared, and when, does not depend on the size of clips."""

RUNS = {
    **{name: (name,) for name in ("supervised", "mean_teacher", "fixmatch", "dual_guidance")},
    "control": ("supervised", "strategy.equal_clips=true"),
}


def planned(results: Path, strategy: str, *sets: str, **fields: Any) -> runner.Plan:
    return runner.plan(config(results, strategy, (*TINY, *sets), **fields))


def stage(results: Path, strategy: str, *sets: str, **fields: Any) -> FirstStage:
    found = first_stage(planned(results, strategy, *sets, **fields))
    assert found
    return found


def test_a_first_stage_belongs_to_a_revision(tmp_path: Path) -> None:
    plan = planned(tmp_path, "supervised")
    now = first_stage(plan)
    experiment = plan.config.experiment.model_copy(update={"revision": 1})
    plan.config = plan.config.model_copy(update={"experiment": experiment})
    before = first_stage(plan)
    assert now and before and now.key != before.key and now.identity["revision"] == 2
    with pytest.raises(ConfigError, match="made under revision 1; this ssldet computes revision 2"):
        runner.plan(plan.config)


def test_three_different_first_stages(tmp_path: Path) -> None:
    def key(strategy: str, *sets: str, **fields: Any) -> str:
        return stage(tmp_path, strategy, *sets, **fields).key

    boxes, guided = key("supervised"), key("dual_guidance")
    without_temporal = key("dual_guidance", "strategy.temporal=false")
    assert len({boxes, guided, without_temporal}) == 3
    assert {key("mean_teacher"), key("fixmatch"), key("supervised", "strategy.equal_clips=true")} == {boxes}
    assert key("dual_guidance", "strategy.negative_sampling=false", "strategy.f_th=0.5") == guided
    assert key("supervised", "strategy.frame_head=true") == guided
    assert key("dual_guidance", "strategy.temporal_reduction=sum") == guided  # what "auto" is here
    for option in ("strategy.temporal_reduction=mean", "strategy.temporal_weight=0.5"):
        assert key("dual_guidance", option) == key("supervised", "strategy.frame_head=true", option) != guided
        assert key("dual_guidance", option, "strategy.temporal=false") == without_temporal
    assert key("fixmatch", "train.unlabelled_batch=8", "train.pair_share=0.25") == boxes
    changes = (
        "train.lr=0.1",
        "train.steps=20",
        "views.flip=0",
        "clip.frames=5",
        "backbone.region.form=paper",
        "backbone.width=8",
    )
    others = [key("supervised", change) for change in changes]
    others += [key("supervised", seed=1), key("supervised", ratio=0.6), key("dual_guidance", "strategy.beta=2")]
    assert len({boxes, guided, *others}) == 2 + len(others)


def test_a_run_without_a_first_stage_has_none(tmp_path: Path) -> None:
    assert first_stage(planned(tmp_path, "supervised", "train.burn_in=0")) is None


@dataclass
class Alone:
    """Every strategy trained in a folder of its own, where no first stage is there to be reused.

    `plans` by name; `labelled`: the labelled clips that each step of it saw, without the control's extra ones.
    """

    plans: dict[str, runner.Plan] = field(default_factory=dict)
    labelled: dict[str, list[torch.Tensor]] = field(default_factory=lambda: defaultdict(list))

    def __getitem__(self, name: str) -> runner.Plan:
        return self.plans[name]


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Alone:
    found, draw = Alone(), BatchSource.batch

    def spied(self: BatchSource, step: int, *args: Any, **kwargs: Any) -> Any:
        batch, places = draw(self, step, *args, **kwargs)
        found.labelled[name].append(batch.labelled.clips_bcthw[: self.sampling.labelled])
        return batch, places

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(BatchSource, "batch", spied)
        for name, (strategy, *sets) in RUNS.items():
            found.plans[name] = planned(tmp_path_factory.mktemp(name), strategy, *sets)
            runner.execute(found.plans[name], Reporter())
    return found


def same_run(one: runner.Plan, two: runner.Plan) -> None:
    first, second = (load_file(plan.folder / "weights.safetensors") for plan in (one, two))
    assert first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)
    records = [Record.read(plan.record_path) for plan in (one, two)]
    assert records[0].metrics == records[1].metrics
    assert len({(r.training.steps, r.training.gradient_clips, r.training.teacher_clips) for r in records}) == 1
    logs = [read_log(plan.folder / "log.jsonl") for plan in (one, two)]
    assert [{**line, "seconds": 0} for line in logs[0]] == [{**line, "seconds": 0} for line in logs[1]]


def test_reuse_is_exact(alone: Alone, tmp_path: Path) -> None:
    """One folder for all: the second and third run begin where the first one's first stage ended."""
    drawn: list[int] = []

    class Listener(Reporter):
        def step(self, report: Any) -> None:
            drawn.append(report.step)

    for strategy in ("mean_teacher", "supervised", "fixmatch"):
        plan = planned(tmp_path, strategy)
        drawn.clear()
        runner.execute(plan, Listener())
        assert drawn == list(range(1 if strategy == "mean_teacher" else 9, 17))
        same_run(alone[strategy], plan)
    assert len(list((tmp_path / "first_stages").iterdir())) == 1


def test_an_interrupted_first_stage_is_gone_on_with_by_another_strategy(alone: Alone, tmp_path: Path) -> None:
    with pytest.raises(Interrupted, match="after step 5 of 16"):
        runner.execute(planned(tmp_path, "fixmatch"), StopAt(5))
    assert not stage(tmp_path, "supervised").is_done()
    plan = planned(tmp_path, "supervised")
    runner.execute(plan, Reporter())
    assert stage(tmp_path, "fixmatch").is_done()
    same_run(alone["supervised"], plan)


def test_a_first_stage_can_be_trained_by_itself(alone: Alone, tmp_path: Path) -> None:
    plan = planned(tmp_path, "dual_guidance")
    runner.train_first_stage(plan, Reporter())
    assert not plan.folder.exists()
    runner.execute(plan, Reporter())
    same_run(alone["dual_guidance"], plan)


def test_a_first_stage_of_another_version_is_noted(tmp_path: Path) -> None:
    """After a change of code the first stage is reused all the same: the record says so, and tables mark it."""
    plan = planned(tmp_path, "supervised")
    runner.train_first_stage(plan, Reporter())
    about = stage(tmp_path, "supervised").folder / "stage.json"
    assert stage(tmp_path, "supervised").made_by_others() == {}
    content = json.loads(about.read_text())
    older = content["provenance"]["distributions"]["ssldet"] | {"version": "0.0.1"}
    content["provenance"]["distributions"]["ssldet"] = older
    about.write_text(json.dumps(content))
    record = runner.execute(plan, Reporter())
    assert record.notes["first_stage_versions"] == {"ssldet": older}
    (run,) = collect_runs([tmp_path]).runs
    assert select_runs([run]).mixed


def test_a_run_waits_for_the_process_that_trains_its_first_stage(tmp_path: Path) -> None:
    found = stage(tmp_path, "supervised")
    found.folder.mkdir(parents=True)
    said: list[str] = []

    class Patient(Reporter):
        def advance(self, done: int, note: str = "") -> None:
            said.append(note)

        def stop(self) -> bool:
            return any("waits" in note for note in said)

    with held(found.folder), pytest.raises(Interrupted):
        runner.execute(planned(tmp_path, "supervised"), Patient())
    assert said[-1] == "waits for a run that trains the same first stage"


def test_every_strategy_takes_the_same_steps_on_the_same_labelled_clips(alone: Alone) -> None:
    assert {Record.read(plan.record_path).training.steps for plan in alone.plans.values()} == {16}
    assert {len(clips) for clips in alone.labelled.values()} == {16}
    for name, clips in alone.labelled.items():
        assert all(torch.equal(a, b) for a, b in zip(clips, alone.labelled["supervised"], strict=True)), name


def test_the_control_has_as_many_gradient_clips_as_the_strategies_it_controls_for(alone: Alone) -> None:
    clips = {name: Record.read(plan.record_path).training for name, plan in alone.plans.items()}
    assert clips["control"].gradient_clips == clips["fixmatch"].gradient_clips == 16 * 4 + 8 * 4
    assert clips["supervised"].gradient_clips == 16 * 4
    assert (clips["control"].teacher_clips, clips["mean_teacher"].teacher_clips) == (0, 8 * 4)


def test_a_failed_run_leaves_a_record_that_says_why_and_can_be_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = planned(tmp_path, "fixmatch")
    with monkeypatch.context() as broken:
        broken.setattr(type(plan.strategy), "losses", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            runner.execute(plan, Reporter())
    record = Record.read(plan.record_path)
    assert (record.status, record.training.steps, record.metrics) == ("failed", 8, {})
    assert record.notes["error"] == "ZeroDivisionError: division by zero"
    assert runner.execute(planned(tmp_path, "fixmatch"), Reporter()).status == "done"
    assert "error" not in Record.read(plan.record_path).notes


def test_a_loss_that_is_not_finite_is_a_failure_too(tmp_path: Path) -> None:
    plan = planned(tmp_path, "supervised", "train.lr=1e30", "train.clip_norm=null")
    with pytest.raises(TrainingError, match="not finite"):
        runner.execute(plan, Reporter())
    assert "not finite" in Record.read(plan.record_path).notes["error"]


MINE = """
from ssldet_backbones.yowo_nano import YOWONano


class Mine(YOWONano):
    pass
"""


def test_a_first_stage_of_a_plugin_with_other_code_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fabricator(tmp_path, monkeypatch)("mine-dist", "[ssldet.backbones]\nmine = mine_net:Mine\n", {"mine_net": MINE})
    before = stage(tmp_path, "supervised", backbone="mine")
    assert stage(tmp_path, "supervised", backbone="mine").key == before.key
    (tmp_path / "mine-dist-dist-info" / "mine_net.py").write_text(MINE + "# other\n")
    assert stage(tmp_path, "supervised", backbone="mine").key == before.key  # what was imported is what runs
    plugin_code._hash_below.cache_clear()  # as in a new process
    assert stage(tmp_path, "supervised", backbone="mine").key != before.key


def test_a_first_stage_of_our_own_plugins_with_other_code_is_reused_and_noted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = planned(tmp_path, "supervised")
    runner.train_first_stage(plan, Reporter())
    trained = stage(tmp_path, "supervised")
    assert trained.made_by_others() == {} and "code" not in trained.identity
    about = trained.folder / "stage.json"
    content = json.loads(about.read_text())
    assert content["provenance"]["plugins"].keys() == {"dataset synthetic", "backbone yowo_nano"}
    content["provenance"]["plugins"]["backbone yowo_nano"]["code"] = "0" * 64
    about.write_text(json.dumps(content))
    record = runner.execute(plan, Reporter())
    assert record.notes["first_stage_versions"].keys() == {"backbone yowo_nano"}
    used = {"dataset synthetic", "backbone yowo_nano", "strategy supervised"}
    assert used | {"metric frame_map", "metric video_map"} <= record.provenance["plugins"].keys()
    (run,) = collect_runs([tmp_path]).runs
    assert select_runs([run]).mixed

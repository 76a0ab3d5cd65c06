"""Tuning: which trials there are, the same number for every approach, what is chosen, and the file that says so."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner, Result
from helpers import QUICK
from made_records import NANO, config_of, record_of, write_run

from ssldet.benchmark import spec as benchmark
from ssldet.benchmark.cells import Settings, parse_dataset_map, run_config
from ssldet.benchmark.tuned_settings import TunedSettings, read_tuned, write_tuned
from ssldet.benchmark.tuning import TuneRequest, Tuning, metric_place, plan_tuning
from ssldet.cli import main
from ssldet.data import splits
from ssldet.data.datasets import load_dataset
from ssldet.errors import ConfigError, RequestError, TrainingError, UnknownName
from ssldet.report.documents import of_table
from ssldet.report.run_selection import collect_runs
from ssldet.report.table_data import TableRequest
from ssldet.report.tables import build_table
from ssldet.runs.record import Record

DATA = ("dataset.train_per_class=10", "dataset.test_per_class=1")
SETS = (*QUICK, "train.steps=4", "train.checkpoint_every=2", "clip.size=32", "clip.frames=4")
TRIES = ("strategy.o_th=0.15,0.2", "supervised:train.lr=0.001,0.002")


def request(root: Path, tries: tuple[str, ...] = TRIES, *, sets: tuple[str, ...] = (), **fields: Any) -> TuneRequest:
    machine = {"results": root, "threads": 1, "workers": 1}
    settings = Settings("smoke", assignments=(*SETS, *DATA, "dataset.flavour=ucf24", *sets), machine=machine)
    given = {"strategies": ("dual_guidance",), "ratio": 0.3, **fields}
    return TuneRequest(dataset="synthetic", tries=tries, settings=settings, **given)


def settings_of(tuning: Tuning) -> dict[str, list[dict[str, Any]]]:
    return {strategy: [dict(trial.settings) for trial in trials] for strategy, trials in tuning.trials.items()}


# -------------------------------------------------------------------------------------------------- the trials


def test_trials_are_the_presets_own_and_the_product_of_what_applies(tmp_path: Path) -> None:
    tries = ("strategy.o_th=0.1,0.2", "supervised:train.lr=1e-3,2e-3", "strategy.f_th=0.5")
    tuning = plan_tuning(request(tmp_path, tries))
    own = {key: tuning.trials["dual_guidance"][0].settings[f"strategy.{key}"] for key in ("o_th", "f_th")}
    assert settings_of(tuning) == {
        "supervised": [{"train.lr": lr} for lr in (tuning.experiment.train.lr, 0.001, 0.002)],
        "dual_guidance": [
            {"strategy.o_th": o_th, "strategy.f_th": f_th}
            for o_th, f_th in ((own["o_th"], own["f_th"]), (0.1, 0.5), (0.2, 0.5))
        ],
    }
    assert [trial.preset for trials in tuning.trials.values() for trial in trials] == [True, False, False] * 2
    assert not list(tmp_path.iterdir())


def test_values_that_the_preset_has_are_no_further_trials(tmp_path: Path) -> None:
    own = plan_tuning(request(tmp_path)).experiment.train.lr
    shown = settings_of(plan_tuning(request(tmp_path, (f"train.lr={own},0.002,2.0e-3",))))
    assert shown == {name: [{"train.lr": own}, {"train.lr": 0.002}] for name in ("supervised", "dual_guidance")}


def test_an_option_that_does_nothing_has_its_default_in_a_trial(tmp_path: Path) -> None:
    tries = ("strategy.guidance=false,true", "strategy.f_th=0.5", "supervised:train.lr=0.001")
    trials = settings_of(plan_tuning(request(tmp_path, tries, strategies=("mean_teacher",))))["mean_teacher"]
    assert trials == [
        {"strategy.guidance": False, "strategy.f_th": 0.8},
        {"strategy.guidance": True, "strategy.f_th": 0.5},
    ]


def test_unequal_numbers_of_trials_are_refused_before_anything_is_planned(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match=r"supervised 1, dual_guidance 3 .*--try supervised:train\.lr=") as caught:
        plan_tuning(request(tmp_path, ("strategy.o_th=0.15,0.2",)))
    assert "--budget" not in str(caught.value)  # one trial is no choice
    tries = ("train.lr=0.001,0.002", "strategy.o_th=0.1,0.2")
    with pytest.raises(
        RequestError, match=r"supervised 3, dual_guidance 5 .* or draw as many from each with --budget 3"
    ):
        plan_tuning(request(tmp_path, tries))
    with pytest.raises(RequestError, match=r"--budget 4: .*supervised 3, dual_guidance 5"):
        plan_tuning(request(tmp_path, tries, budget=4))
    with pytest.raises(RequestError, match="every value to try is what the preset has"):
        plan_tuning(request(tmp_path, ("views.flip=0.5,0.50",)))


def test_a_budget_draws_as_many_of_each_by_seed(tmp_path: Path) -> None:
    tries = ("train.lr=0.001,0.002,0.003,0.004,0.005", "strategy.o_th=0.1,0.2,0.3")
    first, again, other = (plan_tuning(request(tmp_path, tries, budget=3, seeds=(seed,))) for seed in (0, 0, 1))
    assert {strategy: len(trials) for strategy, trials in first.trials.items()} == {"supervised": 3, "dual_guidance": 3}
    assert all(trials[0].preset for trials in first.trials.values())
    assert settings_of(first) == settings_of(again) != settings_of(other)


def test_every_seed_is_run_and_scored_on_validation_videos_alone(tmp_path: Path) -> None:
    tuning = plan_tuning(request(tmp_path, seeds=(0, 1)))
    cells = tuning.grid.cells()
    assert len(cells) == 2 * 2 * 3
    assert {(task.config.experiment.eval_on, task.state) for task in cells if task.config} == {("val", "to run")}
    assert [(part.seed, part.videos, part.groups) for part in tuning.validation] == [(0, 6, 6), (1, 6, 6)]
    kinds = [task.kind for task in tuning.grid.tasks.values()]
    assert kinds.count("first stage") == 8  # for each seed one per learning rate, and one of dual guidance


@pytest.mark.parametrize(
    ("tries", "fields", "error", "said"),
    [
        (TRIES, {"val_fraction": 0.0}, RequestError, "never on test videos: --val-fraction must lie"),
        (TRIES, {"sets": ("eval_on=test",)}, ConfigError, "`tune` sets eval_on itself"),
        (TRIES, {"sets": ("train.lr=0.1",)}, ConfigError, r"train\.lr is also tried"),
        ((), {}, RequestError, "nothing to try"),
        (("seed=0,1",), {}, ConfigError, "'seed' cannot be tuned"),
        (("eval_on.x=test",), {}, ConfigError, r"cannot be tuned; expected one of strategy\.\*"),
        (("strategy.o_th",), {}, ConfigError, "expected .*KEY=VALUE"),
        (("strategy.o_th=",), {}, ConfigError, "expected values with commas"),
        (("strategy.o_tth=0.1",), {}, ConfigError, r"unknown option 'strategy\.o_tth'.*did you mean 'strategy\.o_th'"),
        (("supervised:strategy.o_th=0.1",), {}, ConfigError, r"unknown option 'strategy\.o_th'"),
        (("train.lrr=0.1",), {}, ConfigError, r"did you mean 'train\.lr'"),
        (("fixmatch:train.lr=0.1",), {}, UnknownName, "unknown strategy of this tuning 'fixmatch'"),
        (TRIES, {"strategies": ("dual_guidence",)}, UnknownName, "did you mean 'dual_guidance'"),
        (TRIES, {"metric": "V@0.55"}, UnknownName, "unknown column of synthetic's metrics 'V@0.55'"),
        (TRIES, {"ratio": 0.1}, RequestError, "eval_on = val needs a validation part"),
    ],
)
def test_what_cannot_be_tuned_is_refused(
    tmp_path: Path, tries: tuple[str, ...], fields: dict[str, Any], error: type[RequestError], said: str
) -> None:
    with pytest.raises(error, match=said):
        plan_tuning(request(tmp_path, tries, **fields))


def test_the_headline_of_multilabel_data_is_frame_map() -> None:
    facts = {flavour: load_dataset("synthetic", flavour=flavour).facts for flavour in ("ucf24", "ava")}
    assert metric_place(None, facts["ucf24"]).title == "V@0.5"
    assert metric_place(None, facts["ava"]).title == "F@0.5"


# -------------------------------------------------------------------------------------------------- the outcome


def scored(root: Path, scores: dict[str, list[list[float]]], **fields: Any) -> TunedSettings:
    """A tuning whose trials have these scores: strategy -> trials -> seeds."""
    asked = request(root, seeds=(0, 1), **fields)
    tuning = plan_tuning(asked)
    for strategy, trials in tuning.trials.items():
        for trial, numbers in zip(trials, scores[strategy], strict=True):
            for key, number in zip(trial.tasks.values(), numbers, strict=True):
                task = tuning.grid.tasks[key]
                assert task.config and task.folder
                record_of(task.config, number).write(task.folder / "record.json")
    again = plan_tuning(asked)
    assert {task.state for task in again.grid.cells()} == {"done"}
    return again.outcome()


def test_the_best_mean_over_seeds_is_chosen_and_ties_go_to_the_preset(tmp_path: Path) -> None:
    scores = {
        "supervised": [[0.2, 0.2], [0.1, 0.3], [0.0, 0.1]],
        "dual_guidance": [[0.2, 0.2], [0.6, 0.0], [0.1, 0.7]],
    }
    tuned = scored(tmp_path, scores)
    supervised, guided = tuned.approaches["supervised"], tuned.approaches["dual_guidance"]
    assert supervised.chosen == supervised.tried[0].settings and supervised.tried[0].preset
    assert guided.chosen == {"strategy.o_th": 0.2}
    assert [trial.score for trial in guided.tried] == pytest.approx([0.2, 0.3, 0.4])
    assert guided.tried[2].by_seed == pytest.approx([0.1, 0.7])
    assert all(len(trial.runs) == 2 for trial in guided.tried)
    assert (tuned.metric, tuned.protocol, tuned.trials, tuned.seeds) == ("V@0.5", "yowo", 3, (0, 1))
    # variances of the trials: 0, 0.02, 0.005, 0, 0.18, 0.18
    assert tuned.deviation() == pytest.approx((0.385 / 6) ** 0.5)
    write_tuned(tuned, tmp_path / "settings.yaml")
    assert read_tuned(tmp_path / "settings.yaml") == tuned


def test_a_mean_over_classes_leaves_out_those_without_validation_videos(tmp_path: Path) -> None:
    result = {
        "thresholds": {"0.5": {"mean": 0.2, "per_class": {"a": 0.4, "b": 0.0}}},
        "notes": {"classes_without_truth": ["b"]},
    }
    record = record_of(config_of(), 0.1)
    record = Record.model_validate({**record.model_dump(mode="json"), "metrics": {"video_map": {"yowo": result}}})
    assert record.mean_where_truth("video_map", "yowo", "0.5") == pytest.approx(0.4)
    assert record.value("video_map", "yowo", "0.5") == pytest.approx(0.2)


def test_nothing_is_chosen_before_every_trial_is_done(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="is to run"):
        plan_tuning(request(tmp_path)).outcome()


def settled(root: Path, failed: dict[str, dict[tuple[int, int], str]], **fields: Any) -> Tuning:
    """A tuning where runs failed, by strategy (trial, seed) -> why; the others of trial i are scored (i + 1) / 10."""
    tuning = plan_tuning(request(root, seeds=(0, 1), **fields))
    for strategy, trials in tuning.trials.items():
        for place, trial in enumerate(trials):
            for seed, key in trial.tasks.items():
                task = tuning.grid.tasks[key]
                assert task.config and task.folder
                if reason := failed.get(strategy, {}).get((place, seed)):
                    tuning.grid.failed(task, reason)
                else:
                    record_of(task.config, (place + 1) / 10).write(task.folder / "record.json")
                    tuning.grid.finished(task)
    return tuning


def test_a_failed_trial_is_written_with_its_reason_and_never_chosen(tmp_path: Path) -> None:
    tuning = settled(tmp_path, {"supervised": {(2, 1): "the loss is not finite"}, "dual_guidance": {(0, 0): "stuck"}})
    assert tuning.is_over() and not tuning.grid.is_done()
    tuned = tuning.outcome()
    supervised, guided = tuned.approaches["supervised"], tuned.approaches["dual_guidance"]
    assert supervised.chosen == {"train.lr": 0.001}  # 0.002 has the better score by its other seed
    *others, last = supervised.tried
    assert (last.settings, last.score, last.failed) == ({"train.lr": 0.002}, None, "the loss is not finite")
    assert last.by_seed == [pytest.approx(0.3), None] and len(last.runs) == 2
    assert [trial.failed for trial in others] == ["", ""]
    assert guided.tried[-1].preset and guided.tried[-1].failed == "stuck"
    assert guided.chosen == {"strategy.o_th": 0.2} and tuned.deviation() == 0
    assert "3 trials each of supervised (1 failed), dual_guidance (1 failed)" in tuned.summary()
    write_tuned(tuned, tmp_path / "settings.yaml")
    assert read_tuned(tmp_path / "settings.yaml") == tuned
    content = yaml.safe_load((tmp_path / "settings.yaml").read_text())
    content["approaches"]["supervised"]["chosen"] = {"train.lr": 0.002}
    (tmp_path / "settings.yaml").write_text(yaml.safe_dump(content))
    with pytest.raises(ConfigError, match="was tried and failed: the loss is not finite"):
        read_tuned(tmp_path / "settings.yaml")


def test_a_trial_fails_with_its_first_stage_and_one_that_is_blocked_otherwise_is_refused(tmp_path: Path) -> None:
    tuning = settled(tmp_path, {})
    run = tuning.grid.tasks[tuning.trials["supervised"][1].tasks[0]]
    (stage,) = (tuning.grid.tasks[key] for key in run.needs)
    run.state = "to run"
    with pytest.raises(RequestError, match="is to run"):
        tuning.outcome()
    tuning.grid.failed(stage, "the loss is not finite")
    assert run.state == "blocked" and tuning.is_over()
    failed = tuning.outcome().approaches["supervised"].tried[-1]
    assert failed.settings == {"train.lr": 0.001} and "failed: the loss is not finite" in failed.failed
    stage.state, run.reason = "done", "data absent"
    assert not tuning.is_over()
    with pytest.raises(RequestError, match="is blocked: data absent"):
        tuning.outcome()


def test_an_approach_whose_every_trial_failed_has_nothing_to_choose(tmp_path: Path) -> None:
    tuning = settled(tmp_path, {"supervised": {(place, 0): f"reason {place}" for place in range(3)}})
    with pytest.raises(TrainingError, match="every trial of supervised failed, the preset's own too") as caught:
        tuning.outcome()
    assert [f"reason {place}" in str(caught.value) for place in range(3)] == [True] * 3


# -------------------------------------------------------------------------------------------------- the command


def ssldet(*arguments: object) -> Result:
    return CliRunner().invoke(main, list(map(str, arguments)))


def sets(*texts: str) -> list[str]:
    return [part for text in texts for part in ("--set", text)]


def tune(root: Path, *more: object) -> Result:
    asked = [
        "tune",
        "--strategy",
        "dual_guidance",
        "--dataset",
        "synthetic:ucf24",
        "--preset",
        "smoke",
        "--ratio",
        "0.3",
    ]
    asked += [*sets(*SETS, *DATA), "--results", str(root), "--threads", "1"]
    return ssldet(*asked, "--try", "strategy.o_th=0.05", "--try", "supervised:train.lr=0.002", *more)


def test_two_approaches_are_tuned_to_the_end_and_the_file_is_used(tmp_path: Path) -> None:
    shown = tune(tmp_path, "--dry-run")
    assert shown.exit_code == 0, shown.output
    assert "seed 0: 6 validation videos of 6 groups" in shown.stdout
    assert "trials: supervised 2, dual_guidance 2" in shown.stdout and not list(tmp_path.iterdir())
    done = tune(tmp_path, "--jobs", "2")
    assert done.exit_code == 0, done.output
    assert "chosen" in done.stdout and "1 seed: how much of a difference between trials is noise" in done.stdout
    path = tmp_path / "synthetic-smoke.yaml"
    tuned = read_tuned(path)
    assert {name: len(approach.tried) for name, approach in tuned.approaches.items()} == {
        "supervised": 2,
        "dual_guidance": 2,
    }
    records = {record.id: record for record in map(Record.read, tmp_path.glob("*/record.json"))}
    assert records.keys() == {run for a in tuned.approaches.values() for trial in a.tried for run in trial.runs}
    for file in tmp_path.glob("*/split.json"):
        split = splits.read(file)
        assert len(split.validation) == 6 and not set(split.validation) & {*split.labelled, *split.unlabelled}
    assert all(record.config["experiment"]["eval_on"] == "val" for record in records.values())
    grid = ["grid", "--tables", "6", "--only", "ratio=0.1", "--dataset-map", "ucf24=synthetic:ucf24", "--dry-run"]
    planned = ssldet(*grid, *sets(*DATA), "--settings", path, "--results", tmp_path / "runs")
    assert planned.exit_code == 0, planned.output
    assert "settings tuned by V@0.5 on validation videos" in planned.stdout
    chosen = tuned.approaches["dual_guidance"].chosen["strategy.o_th"]
    assert f"dual_guidance: strategy.o_th={chosen}" in planned.stdout
    refused = ssldet(*grid, "--settings", path, "--results", tmp_path / "runs")  # on more videos than were tuned on
    assert refused.exit_code == 2 and "was tuned on synthetic" in refused.stderr


def test_a_learning_rate_that_diverges_costs_its_trial_alone(tmp_path: Path) -> None:
    asked = ["tune", "--strategy", "supervised", "--dataset", "synthetic:ucf24", "--preset", "smoke", "--ratio", "0.3"]
    asked += [*sets(*SETS, *DATA), "--results", str(tmp_path), "--threads", "1", "--try", "train.lr=1e30"]
    done = ssldet(*asked)
    assert done.exit_code == 1, done.output
    assert "train.lr=1e+30 failed: " in done.stdout and "not finite" in done.stdout and "chosen" in done.stdout
    approach = read_tuned(tmp_path / "synthetic-smoke.yaml").approaches["supervised"]
    assert approach.chosen == approach.tried[0].settings and approach.tried[0].preset
    assert approach.tried[1].score is None and "not finite" in approach.tried[1].failed
    assert "no settings were chosen" not in done.stderr


def test_a_tuning_of_unequal_budgets_exits_2_and_trains_nothing(tmp_path: Path) -> None:
    result = tune(tmp_path, "--try", "strategy.f_th=0.5,0.6")
    assert result.exit_code == 2 and "supervised 2, dual_guidance 3" in result.stderr
    assert not list(tmp_path.iterdir())


# -------------------------------------------------------------------------------------------------- the file in use


TRIED = {"settings": {}, "score": 0.2, "by_seed": [0.2], "runs": ["a"]}


def made(**changes: Any) -> TunedSettings:
    """Settings tuned on J-HMDB under `nano`."""
    options = config_of().experiment.dataset_options
    tried = {"preset": False, "score": 0.2, "by_seed": [0.2], "runs": ["a" * 12]}
    approaches = {
        "supervised": {"train.lr": 0.0007},
        "dual_guidance": {"strategy.o_th": 0.15, "train.lr": 0.0009},
    }
    content = {
        "dataset": "jhmdb",
        "dataset_options": options,
        "split": 1,
        "ratio": 0.3,
        "val_fraction": 0.3333,
        "seeds": [0],
        "preset": "nano",
        "metric": "V@0.5",
        "protocol": "yowo",
        "trials": 1,
        "validation": [{"seed": 0, "videos": 78, "groups": 41}],
        "approaches": {
            name: {"chosen": chosen, "tried": [{"settings": chosen, **tried}]} for name, chosen in approaches.items()
        },
    }
    return TunedSettings.model_validate({**content, **changes})


def test_a_table_shows_the_runs_with_what_was_chosen(tmp_path: Path) -> None:
    tuned = replace(NANO, tuned=made())
    write_run(tmp_path / "runs", "Supervised", 0.1)
    write_run(tmp_path / "runs", "Supervised", 0.3, settings=tuned)
    write_run(tmp_path / "runs", "Dual Guidance", 0.4, settings=tuned)
    write_run(tmp_path / "runs", "Supervised, equal clips", 0.2, settings=tuned)  # a control has what Supervised has
    write_tuned(made(), tmp_path / "settings.yaml")
    result = ssldet("table", 3, "--results", tmp_path / "runs", "--settings", tmp_path / "settings.yaml", "--json")
    assert result.exit_code == 0, result.output
    (found,) = json.loads(result.stdout)["tables"]
    means = {row["approach"]: row["mean"] for row in found["entries"] if row["mean"] is not None}
    assert means == {
        "Supervised": pytest.approx(30),
        "Dual Guidance": pytest.approx(40),
        "Supervised, equal clips": pytest.approx(20),
    }
    (line,) = [text for text in found["caption"] if "tuned" in text]
    own = config_of(settings=NANO).experiment.train.lr
    assert "V@0.5 on validation videos, 30 % labelled, seed 0, 1 trials each of supervised, dual_guidance" in line
    assert [item["reason"] for item in found["left_out"]] == [f"train.lr {own:g} instead of 0.0007"]
    untuned = build_table("3", collect_runs([tmp_path / "runs"]), TableRequest(NANO))
    assert not [text for text in of_table(untuned).caption if "tuned" in text]
    assert sum(bool(entry and entry.mean) for row in untuned.entries for entry in row) == 3


def test_options_of_a_row_go_before_tuned_ones() -> None:
    """Figure 4 sweeps thresholds itself."""
    spec = benchmark.spec("figure4")
    options = config_of(table="2", ratio=0.1).experiment.dataset_options
    chosen = {"strategy.o_th": 0.15, "strategy.f_th": 0.35}
    tried = [{"settings": chosen, "score": 0.2, "by_seed": [0.2], "runs": ["a"]}]
    tuned = made(
        dataset="ucf24", dataset_options=options, approaches={"dual_guidance": {"chosen": chosen, "tried": tried}}
    )
    swept = set()
    for row in spec.rows:
        cell = benchmark.cell(spec, row, spec.ratios_of(row)[0], split=1, seed=0)
        has = run_config(cell, replace(NANO, tuned=tuned)).experiment.strategy_options
        wanted = {**{key.partition(".")[2]: value for key, value in chosen.items()}, **row.options}
        assert {key: has[key] for key in ("o_th", "f_th")} == {key: wanted[key] for key in ("o_th", "f_th")}
        swept |= set(row.options)
    assert swept & {"o_th", "f_th"}


def test_a_file_of_another_preset_or_other_data_is_refused(tmp_path: Path) -> None:
    write_tuned(made(), tmp_path / "settings.yaml")
    given = ("--settings", tmp_path / "settings.yaml")
    for verb in (("table", 3), ("grid", "--tables", 3, "--dry-run", "--data-root", tmp_path)):
        result = ssldet(*verb, *given, "--preset", "smoke")
        assert result.exit_code == 2 and "tuned under preset nano, not smoke" in result.stderr
    for verb in (("table", 2), ("grid", "--tables", 2, "--dry-run", "--data-root", tmp_path)):
        result = ssldet(*verb, *given)
        assert result.exit_code == 2
        assert "was tuned on jhmdb, and the cells of ucf24 are run on ucf24" in result.stderr
    mapped = replace(NANO, tuned=made(), dataset_map=parse_dataset_map("jhmdb=synthetic:jhmdb"))
    with pytest.raises(ConfigError, match=r"tuned on jhmdb, .* are run on synthetic flavour=jhmdb"):
        config_of(settings=mapped)


def test_a_file_of_another_split_is_refused() -> None:
    """Videos that validate one split are test videos of another."""
    with pytest.raises(ConfigError, match="tuned on split 1, whose validation videos may be test videos of split 2"):
        config_of(split=2, settings=replace(NANO, tuned=made()))


def test_the_initial_weights_are_not_for_a_tuning_to_change(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="`tune` sets pretrained itself"):
        plan_tuning(request(tmp_path, sets=("pretrained=true",)))


def test_what_trials_had_in_common_holds_in_the_grid_too() -> None:
    tuned = made(assignments=("train.steps=77", "dataset.anything=1"))
    assert config_of(settings=replace(NANO, tuned=tuned)).experiment.train.steps == 77
    over = replace(NANO, tuned=tuned, assignments=("train.steps=78",))
    assert config_of(settings=over).experiment.train.steps == 78


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"trails": 3}, "unknown option 'trails'.*did you mean 'trials'"),
        ({"approaches": {"x": {"chosn": {}, "tried": [], "chosen": {}}}}, r"did you mean 'approaches\.x\.chosen'"),
        ({"approaches": {"x": {"chosen": {"train.lr": 1}, "tried": []}}}, "none of the 0 settings that were tried"),
        ({"validation": [{"seed": 0, "videos": 1, "group": 1}]}, r"did you mean 'validation\.0\.groups'"),
        ({"approaches": {"x": {"chosen": {}, "tried": [{**TRIED, "score": None}]}}}, "expected a score by each seed"),
        ({"approaches": {"x": {"chosen": {}, "tried": [{**TRIED, "failed": "why"}]}}}, "and score: null"),
        ({"val_fraction": 0}, "val_fraction: .*greater than 0"),
        ({"format": 2}, "has format 2, and this ssldet reads format 1"),
        ({"ratio": "many"}, "ratio: .*valid number"),
    ],
)
def test_a_file_that_was_edited_wrongly_is_refused(tmp_path: Path, change: dict[str, Any], said: str) -> None:
    (tmp_path / "s.yaml").write_text(yaml.safe_dump({**made().model_dump(mode="json"), **change}))
    with pytest.raises(ConfigError, match=said):
        read_tuned(tmp_path / "s.yaml")


@pytest.mark.parametrize(
    "text",
    ["", "[]", "a: [", "approaches", "\x00", "approaches: {}", "!!python/object/apply:os.system [false]", "a: 1\na: 2"],
)
def test_what_is_no_settings_file_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "s.yaml").write_text(text)
    with pytest.raises(ConfigError, match=r"settings file|has format None"):
        read_tuned(tmp_path / "s.yaml")
    with pytest.raises(ConfigError, match="cannot read the settings file"):
        read_tuned(tmp_path / "absent.yaml")

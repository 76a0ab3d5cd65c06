"""Configuration: layers, presets, types, and mistakes named all at once."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from ssldet import plugins
from ssldet.config import (
    REVISION,
    Experiment,
    TrainOptions,
    non_default_options,
    presets,
    resolve,
    spelled_out,
)
from ssldet.errors import ConfigError, UnknownName
from ssldet.report.run_selection import differing

NEEDED = {"strategy": "dual_guidance", "dataset": "synthetic", "ratio": 0.2}


def test_the_default_is_the_papers_configuration() -> None:
    experiment = resolve(NEEDED).experiment
    assert (experiment.backbone, experiment.clip.frames, experiment.clip.stride, experiment.clip.size) == (
        "yowo",
        16,
        1,
        224,
    )
    train = experiment.train
    assert (train.batch, train.optimizer, train.lr, train.weight_decay) == (128, "adam", 1e-3, 5e-4)
    assert (train.schedule, train.halve_after, train.epochs, train.burn_in) == ("halve", (3, 4, 5, 6), 10, 0.2)
    assert experiment.backbone_options["region"]["form"] == "paper"
    options = experiment.strategy_options
    assert (options["f_th"], options["o_th"], options["beta"], options["delta"]) == (0.8, 0.4, 1, 1)
    assert (options["teacher"], options["ema_decay"], options["evaluate"]) == ("ema", 0.999, "student")
    assert not experiment.pretrained


@pytest.mark.parametrize("name", presets())
@pytest.mark.parametrize("strategy", sorted({plugin.name for plugin in plugins.available("strategy")}))
def test_every_preset_resolves_for_every_strategy(name: str, strategy: str) -> None:
    config = resolve({**NEEDED, "strategy": strategy}, preset=name)
    assert config.machine.preset == name
    assert config.build_strategy() and config.build_backbone()


@pytest.mark.parametrize(("name", "threads"), [("smoke", 1), ("nano", 1), ("lite", 1), ("paper", None)])
def test_presets_for_a_cpu_run_on_one_thread(name: str, threads: int | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """So that one command gives one number everywhere, whatever the environment says."""
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert resolve(NEEDED, preset=name).machine.threads == threads
    assert resolve(NEEDED, preset=name, assignments=["threads=2"]).machine.threads == 2


def test_later_layers_win(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("preset: nano\nseed: 3\ntrain: {steps: 50, lr: 0.5}\nstrategy_options: {o_th: 0.3}\n")
    config = resolve({**NEEDED, "seed": 4}, file=file, assignments=["train.lr=0.25", "strategy.f_th=0.6"])
    experiment = config.experiment
    assert (experiment.seed, experiment.train.steps, experiment.train.lr) == (4, 50, 0.25)
    assert experiment.train.batch == 32  # the preset's, untouched
    assert experiment.strategy_options["f_th"] == 0.6
    assert experiment.strategy_options["o_th"] == 0.3
    assert experiment.strategy_options["ema_decay"] == 0.99


def test_a_resolved_configuration_resolves_to_itself(tmp_path: Path) -> None:
    config = resolve(NEEDED, preset="smoke", assignments=["strategy.teacher=frozen"])
    file = tmp_path / "config.yaml"
    file.write_text(config.to_yaml())
    assert yaml.safe_load(config.to_yaml())["experiment"]["strategy_options"]["teacher"] == "frozen"
    assert resolve({}, file=file) == config


def test_all_mistakes_are_named_at_once() -> None:
    wrong = ["train.lr=-1", "train.stepz=3", "strategy.f_tt=0.5", "seeed=1", "strategy.o_th=2"]
    with pytest.raises(ConfigError) as caught:
        resolve(NEEDED, preset="nano", assignments=wrong)
    message = str(caught.value)
    assert "train.lr: input should be greater than 0, not -1" in message
    assert "'train.stepz'; did you mean 'train.steps'?" in message
    assert "'seeed'; did you mean 'seed'?" in message
    with pytest.raises(ConfigError) as caught:
        resolve(NEEDED, preset="nano", assignments=["strategy.f_tt=0.5", "strategy.o_th=2"])
    assert "'strategy.f_tt'; did you mean 'strategy.f_th'?" in str(caught.value)
    assert "strategy.o_th: input should be less than or equal to 1, not 2" in str(caught.value)


@pytest.mark.parametrize("ratio", [0, -0.1, 1.5, "much"])
def test_a_ratio_outside_its_range_is_refused(ratio: object) -> None:
    with pytest.raises(ConfigError, match="ratio"):
        resolve({**NEEDED, "ratio": ratio})


@pytest.mark.parametrize("value", [".nan", ".inf"])
def test_numbers_that_are_not_finite_are_refused(value: str) -> None:
    with pytest.raises(ConfigError, match=r"train\.lr: input should be a finite number"):
        resolve(NEEDED, assignments=[f"train.lr={value}"])


def test_missing_settings_are_asked_for() -> None:
    with pytest.raises(ConfigError, match=r"strategy is needed[\s\S]*dataset is needed") as caught:
        resolve({})
    assert "ratio" not in str(caught.value)


@pytest.mark.parametrize(
    ("field", "name", "meant"),
    [("strategy", "dual_guidence", "dual_guidance"), ("dataset", "jhmbd", "jhmdb"), ("backbone", "yolo", "yowo")],
)
def test_unknown_plugins_say_what_was_meant(field: str, name: str, meant: str) -> None:
    with pytest.raises(UnknownName, match=f"did you mean '{meant}'"):
        resolve({**NEEDED, field: name})


def test_settings_that_are_no_text_to_yaml_are_named(tmp_path: Path) -> None:
    path = tmp_path / "numbers.yaml"
    path.write_text("strategy: supervised\ndataset: synthetic\n3: x\nstrategy_options: {2.5: 1}\n")
    with pytest.raises(ConfigError) as raised:
        resolve({}, file=path)
    assert "unknown option '3'" in str(raised.value) and "unknown option 'strategy.2.5'" in str(raised.value)


def test_an_unknown_preset_and_a_bad_assignment() -> None:
    with pytest.raises(UnknownName, match="nano"):
        resolve(NEEDED, preset="nanoo")
    with pytest.raises(ConfigError, match="expected KEY=VALUE"):
        resolve(NEEDED, assignments=["train.lr"])


def test_files_that_are_no_configuration(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot read"):
        resolve(NEEDED, file=tmp_path / "absent.yaml")
    (tmp_path / "list.yaml").write_text("- 1\n")
    with pytest.raises(ConfigError, match="must hold a mapping"):
        resolve(NEEDED, file=tmp_path / "list.yaml")
    (tmp_path / "code.yaml").write_text("seed: !!python/object/apply:os.getcwd []\n")
    with pytest.raises(ConfigError, match="cannot read"):
        resolve(NEEDED, file=tmp_path / "code.yaml")


def test_a_key_that_is_given_twice_is_refused_with_its_line(tmp_path: Path) -> None:
    (tmp_path / "twice.yaml").write_text("train: {lr: 0.01}\nclip: {frames: 8}\ntrain: {batch: 16}\n")
    with pytest.raises(ConfigError, match=r"twice\.yaml: train is given twice \(line 3\)"):
        resolve(NEEDED, file=tmp_path / "twice.yaml")
    with pytest.raises(ConfigError, match=r"flip is given twice \(line 1\)"):
        resolve(NEEDED, assignments=["views={flip: 0.5, flip: 0.1}"])
    (tmp_path / "once.yaml").write_text("train: {lr: 0.01}\nclip: {frames: 8}\n")
    assert resolve(NEEDED, file=tmp_path / "once.yaml").experiment.clip.frames == 8


def test_validation_needs_a_share() -> None:
    with pytest.raises(ConfigError, match="val_fraction"):
        resolve({**NEEDED, "eval_on": "val"})


def test_groups_must_be_equal() -> None:
    with pytest.raises(ConfigError, match="does not divide into 3 groups of bn_batch = 6"):
        resolve(NEEDED, assignments=["train.batch=16", "train.bn_batch=6"])
    assert TrainOptions(batch=128, bn_batch=8).groups == 16


def test_a_part_is_whole_groups_and_changes_no_run() -> None:
    """`micro_batch` says how much is computed at once, `bn_batch` what is normalised together."""
    with pytest.raises(ConfigError, match="micro_batch = 12 is no multiple of bn_batch = 8"):
        resolve(NEEDED, assignments=["train.micro_batch=12"], preset="paper")
    one, four = (resolve(NEEDED, assignments=[f"train.micro_batch={n}"], preset="paper") for n in ("auto", "32"))
    assert one.experiment.identity() == four.experiment.identity()
    assert (one.experiment.train.groups_at_once, four.experiment.train.groups_at_once) == (1, 4)
    other = resolve(NEEDED, assignments=["train.bn_batch=16"], preset="paper").experiment
    assert other.identity() != one.experiment.identity()
    assert differing(other, one.experiment) == ["train.bn_batch 16 instead of 8"]


def test_experiments_from_before_there_were_groups_are_the_same_ones(tmp_path: Path) -> None:
    """Their `micro_batch` was what batch normalisation took for one batch, and is hashed under its old name."""
    now = resolve(NEEDED, preset="nano")
    content = yaml.safe_load(now.to_yaml())
    train = content["experiment"]["train"]
    del train["micro_batch"]
    train["micro_batch"] = train.pop("bn_batch")
    assert Experiment(**content["experiment"]) == now.experiment
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(content))
    read = resolve({}, file=tmp_path / "config.yaml").experiment
    assert read == now.experiment and read.train.bn_batch == 32
    hashed = now.experiment.identity()["train"]
    assert hashed["micro_batch"] == 32 and "bn_batch" not in hashed


def test_an_experiment_from_before_an_option_existed_has_its_default() -> None:
    now = resolve(NEEDED, preset="smoke").experiment
    options = {name: value for name, value in now.strategy_options.items() if name != "evaluate"}
    before = now.model_copy(update={"strategy_options": options})
    assert before.identity() != now.identity()
    assert spelled_out(before).identity() == now.identity()
    unknown = now.model_copy(update={"strategy": "nobody_has_it"})
    assert spelled_out(unknown) == unknown


def test_guidance_that_is_off_leaves_a_run_its_name() -> None:
    """The settings of Mean Teacher are those that it had before guidance was an option; smoke proposes f_th."""
    asked = {**NEEDED, "strategy": "mean_teacher"}
    plain = resolve(asked, preset="smoke").experiment
    before = {
        **{"o_th": 0.1, "confidence": "objectness", "nms_iou": 0.4, "min_visible": 0.25, "evaluate": "student"},
        **{"unlabelled_weight": 1.0, "unlabelled_ramp": 0.0, "ema_decay": 0.9, "ema_warmup": True},
    }
    assert plain.strategy_options == before
    spelled = ["strategy.guidance=false", "strategy.frame_head=false", "strategy.delta=1"]
    assert resolve(asked, preset="smoke", assignments=spelled).experiment == plain
    guided = resolve(asked, preset="smoke", assignments=["strategy.guidance=true"]).experiment
    assert guided.strategy_options["f_th"] == 0.1
    changed = non_default_options("strategy", "mean_teacher", guided.strategy_options)
    assert changed == {"o_th": 0.1, "ema_decay": 0.9, "guidance": True, "f_th": 0.1}


def test_a_preset_proposes_options_to_one_strategy() -> None:
    """Those of its name go before those for all; neither reaches another strategy, and assignments go before both."""
    asked = {**NEEDED, "strategy": "soft_teacher"}
    options = resolve(asked, preset="smoke").experiment.strategy_options
    assert (options["o_th"], options["class_th"], options["confidence"]) == (0.1, 0.1, "objectness")
    assert resolve(asked, preset="nano").experiment.strategy_options["class_th"] == 0.9
    given = resolve(asked, preset="smoke", assignments=["strategy.class_th=0.3"]).experiment.strategy_options
    assert (given["class_th"], given["confidence"]) == (0.3, "objectness")
    other = resolve({**NEEDED, "strategy": "flexmatch"}, preset="smoke").experiment.strategy_options
    assert other["confidence"] == "objectness_class"


def test_a_configuration_names_the_revision_that_computes_it(tmp_path: Path) -> None:
    config = resolve(NEEDED, preset="smoke")
    assert config.experiment.revision == REVISION == config.experiment.identity()["revision"] == 2
    file = tmp_path / "config.yaml"
    file.write_text(config.to_yaml())
    assert resolve({}, file=file) == config
    fields = config.experiment.model_dump()
    del fields["revision"]
    assert Experiment(**fields).revision == 1  # a record from before there was the field
    for older in ("  revision: 1\n", ""):  # a run's file of the first revision does not name it
        file.write_text(config.to_yaml().replace("  revision: 2\n", older))
        with pytest.raises(ConfigError, match="made under revision 1"):
            resolve({}, file=file)
    file.write_text(config.to_yaml().replace("revision: 2", "revision: 1"))
    refusal = r"made under revision 1; this ssldet computes revision 2, and docs/moved-numbers\.md says"
    with pytest.raises(ConfigError, match=refusal):
        resolve({}, file=file)
    with pytest.raises(ConfigError, match="made under revision 3"):
        resolve(NEEDED, assignments=["revision=3"])


def test_todays_defaults_are_not_those_of_another_revision() -> None:
    now = resolve(NEEDED, preset="smoke").experiment
    options = {name: value for name, value in now.strategy_options.items() if name != "evaluate"}
    before = now.model_copy(update={"revision": 1, "strategy_options": options})
    assert spelled_out(before).strategy_options == options


def test_the_box_loss_of_an_older_file_becomes_the_backbones(tmp_path: Path) -> None:
    """Until API 2.0 the region loss was a section of its own."""
    old = tmp_path / "config.yaml"
    old.write_text(
        "experiment: {revision: 2, strategy: supervised, dataset: synthetic, loss: {form: giou, eta: 0.3}}\n"
    )
    experiment = resolve({}, file=old, assignments=["backbone.region.eta=0.4"]).experiment
    region = experiment.backbone_options["region"]
    assert (region["form"], region["eta"]) == ("giou", 0.4)
    fields = {**NEEDED, "loss": {"form": "giou"}}
    assert Experiment(**fields).backbone_options == {"region": {"form": "giou"}}
    with pytest.raises(ConfigError, match=r"unknown option 'loss'; since API 2.0 .*'backbone.region'"):
        resolve(NEEDED, assignments=["loss.form=giou"])


@pytest.mark.parametrize("name", ["synthetic", "folder", "ucf24", "jhmdb", "ava"])
def test_a_default_of_a_data_set_that_is_written_out_is_the_same_run(name: str) -> None:
    plain = resolve({"strategy": "supervised", "dataset": name})
    defaults = plugins.load("dataset", name).Config().model_dump(mode="json")
    assert plain.experiment.dataset_options == defaults
    assert plain.experiment.ratio == plugins.load("dataset", name).facts.default_ratio
    for option, value in {**defaults, "ratio": plain.experiment.ratio}.items():
        key = option if option == "ratio" else f"dataset.{option}"
        spelled = resolve({"strategy": "supervised", "dataset": name}, assignments=[f"{key}={json.dumps(value)}"])
        assert spelled.experiment.identity() == plain.experiment.identity(), option
    before = plain.experiment.model_copy(update={"dataset_options": {}})
    assert spelled_out(before) == plain.experiment


def test_the_ratio_of_a_run_is_its_data_sets_own() -> None:
    def ratio(name: str, **flags: object) -> float:
        return resolve({"strategy": "supervised", "dataset": name, **flags}).experiment.ratio

    found = {name: ratio(name) for name in ("ucf24", "jhmdb", "ava", "synthetic", "folder")}
    assert found == {"ucf24": 0.05, "jhmdb": 0.2, "ava": 0.2, "synthetic": 0.2, "folder": 1.0}
    assert ratio("ucf24", ratio=0.1) == 0.1

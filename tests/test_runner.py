"""Whole runs at smoke scale on generated videos: files, record, resuming, refusals."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from click.testing import CliRunner
from helpers import EASY, QUICK
from made_claims import held
from safetensors.torch import load_file

import ssldet
from ssldet.cli import main
from ssldet.cli.progress import ProgressReporter
from ssldet.config import RunConfig, resolve
from ssldet.contracts import DatasetFacts, Detector, Problem, Video, VideoDetections
from ssldet.errors import ConfigError, DataError, RequestError, SplitError, WeightsError
from ssldet.runs import planning, runner, validation
from ssldet.runs.log import read_log
from ssldet.runs.planning import Plan
from ssldet.runs.record import Record
from ssldet.runs.validation import detections_of
from ssldet.training.loop import StepReport
from ssldet.util.files import file_hash
from ssldet_backbones.yowo_nano import YOWONano

SMALL = {"train_per_class": 5, "test_per_class": 1}


def config(results: Path, strategy: str = "dual_guidance", sets: tuple[str, ...] = (), **fields: Any) -> RunConfig:
    wanted = {
        "strategy": strategy,
        "dataset": "synthetic",
        "dataset_options": SMALL,
        "ratio": 0.4,
        "results": results,
        "workers": 1,
        **fields,
    }
    return resolve(wanted, preset="smoke", assignments=[*QUICK, *EASY[strategy], *sets])


class StopAt(runner.Reporter):
    def __init__(self, step: int):
        self.at, self.now, self.phases = step, 0, list[str]()

    def phase(self, name: str, total: int, unit: str) -> None:
        self.phases.append(name)

    def step(self, report: StepReport) -> None:
        self.now = report.step

    def stop(self) -> bool:
        return self.now == self.at


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Record]:
    results = tmp_path_factory.mktemp("runs")
    planned = runner.plan(config(results))
    return planned.folder, runner.execute(planned, runner.Reporter())


def test_a_run_leaves_its_files_and_no_checkpoint(finished: tuple[Path, Record]) -> None:
    folder, record = finished
    names = {path.name for path in folder.iterdir() if not path.name.startswith(".")}
    assert names == {
        "config.yaml",
        "split.json",
        "log.jsonl",
        "detections.parquet",
        "per_video.parquet",
        "network.json",
        "weights.safetensors",
        "record.json",
    }
    assert set(record.files) == names - {"record.json"}
    assert yaml.safe_load((folder / "config.yaml").read_text())["experiment"]["strategy"] == "dual_guidance"


def test_matches_are_made_again_from_the_detections(finished: tuple[Path, Record], tmp_path: Path) -> None:
    folder = Path(shutil.copytree(finished[0], tmp_path / finished[0].name))
    (folder / "per_video.parquet").unlink()
    made = CliRunner().invoke(main, ["runs", "rescore", str(folder)])
    assert (made.exit_code, made.stdout.strip()) == (0, str(folder / "per_video.parquet"))
    assert file_hash(folder / "per_video.parquet") == finished[1].files["per_video.parquet"]


def test_detections_that_do_not_give_its_numbers_are_not_matched_in_its_name(
    finished: tuple[Path, Record], tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(finished[0], tmp_path / finished[0].name))
    (folder / "per_video.parquet").unlink()
    record = json.loads((folder / "record.json").read_text())
    record["metrics"]["video_map"]["act"]["thresholds"]["0.5"]["mean"] += 0.1
    (folder / "record.json").write_text(json.dumps(record))
    refused = CliRunner().invoke(main, ["runs", "rescore", str(folder)])
    assert refused.exit_code == 2 and "not the ones that were scored" in refused.stderr
    (folder / "detections.parquet").unlink()
    refused = CliRunner().invoke(main, ["runs", "rescore", str(folder)])
    assert refused.exit_code == 2 and "keeps no detections.parquet" in refused.stderr
    assert not (folder / "per_video.parquet").exists()


def test_the_record_says_what_was_done(finished: tuple[Path, Record]) -> None:
    folder, record = finished
    assert Record.read(folder / "record.json") == record
    assert record.status == "done"
    assert (record.split.labelled, record.split.unlabelled, record.split.evaluated) == (12, 18, 6)
    assert record.training.steps == 16
    # 4 labelled clips and 2 partners, from step 8 on as many unlabelled ones, each labelled by the teacher
    assert record.training.gradient_clips == 8 * 6 + 8 * 12
    assert record.training.teacher_clips == 8 * 4
    assert set(record.training.seconds) == {"decode", "train", "detect", "score"}
    assert {"ssldet", "torch", "torchvision"} <= set(record.provenance["distributions"])
    assert record.peak_memory_bytes > 1e8
    assert record.hardware["micro_batch"] == 4
    assert record.hardware["step"] == {"channels_last": False, "compile": False, "fused_optimizer": False}
    assert "diagnostics" in record.notes["hidden_truth"]


def test_metrics_stand_where_readers_look(finished: tuple[Path, Record]) -> None:
    metrics = json.loads((finished[0] / "record.json").read_text())["metrics"]
    for protocol in ("yowo", "standard"):
        assert set(metrics["frame_map"][protocol]["thresholds"]["0.5"]) == {"mean", "per_class"}
        assert {"0.1", "0.2", "0.5"} <= set(metrics["video_map"][protocol]["thresholds"])
    assert 0 <= metrics["recall"]["classification"] <= metrics["recall"]["localization"] <= 1


def test_the_log_has_losses_and_pseudo_labels(finished: tuple[Path, Record]) -> None:
    lines = read_log(finished[0] / "log.jsonl")
    assert [line["stage"] for line in lines[:2]] == [1, 1]
    assert lines[-1]["step"] == 16
    assert {"box", "frame", "temporal", "box_u", "frame_u", "temporal_u"} == set(lines[-1]["losses"])
    assert lines[-1]["pseudo_labels"]["frame_labels"] > 0


def test_the_log_has_parts_of_box_terms(finished: tuple[Path, Record]) -> None:
    parts = read_log(finished[0] / "log.jsonl")[-1]["parts"]
    assert {"box/conf", "box/cls", "box_u/conf", "box_u/cls"} <= set(parts)


def test_warnings_of_training_are_said_and_kept(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with ProgressReporter(lambda: False) as reporter:
        record = runner.execute(runner.plan(config(tmp_path, sets=("strategy.f_th=1.0",))), reporter)
    (warning,) = record.notes["warnings"]
    assert "no pseudo-label was accepted for an epoch" in warning and warning.startswith("step ")
    assert f"warning: {warning}" in capsys.readouterr().err
    (line,) = [line for line in read_log(next(tmp_path.glob("synthetic-*/log.jsonl"))) if line["warnings"]]
    assert warning.endswith(line["warnings"][0])


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Two folders of one run with a validation part: watched while it trained, and not."""
    folders = []
    for sets in (("train.eval_every=10", "train.gradient_norms=true"), ()):
        results = tmp_path_factory.mktemp("watched")
        planned = runner.plan(config(results, ratio=0.6, val_fraction=0.25, sets=sets))
        runner.execute(planned, runner.Reporter())
        folders.append(planned.folder)
    return folders[0], folders[1]


def test_watching_moves_no_number(watched: tuple[Path, Path]) -> None:
    with_scores, without = watched
    assert with_scores.name == without.name  # one id: it is the same experiment
    for name in ("weights.safetensors", "detections.parquet"):
        assert (with_scores / name).read_bytes() == (without / name).read_bytes()
    one, other = (Record.read(folder / "record.json") for folder in watched)
    assert one.metrics == other.metrics and one.split == other.split


def test_the_log_has_scores_of_student_and_teacher(watched: tuple[Path, Path]) -> None:
    lines = read_log(watched[0] / "log.jsonl")
    scored = {line["step"]: line["validation"] for line in lines if line["validation"]}
    assert list(scored) == [10, 16]  # of the second stage, which begins after step 8
    for scores in scored.values():
        assert set(scores) == {"student", "teacher"}
        assert all(set(of_one) == {"V@0.5", "F@0.5", "Loc", "Cls"} for of_one in scores.values())
        assert all(0 <= value <= 1 for of_one in scores.values() for value in of_one.values())
    assert not any(line["validation"] for line in read_log(watched[1] / "log.jsonl"))


def half_of_the_truth(plan: Plan, detector: Any, videos: Sequence[Video], reader: Any) -> Iterator[tuple[Video, Any]]:
    """In place of a network that takes hours to train: the true boxes of every second frame."""
    for video in videos:
        truth = plan.dataset.truth(video.id)
        rows = truth.frames_n % 2 == 0
        sure = np.ones(rows.sum(), np.float32)
        yield (
            video,
            VideoDetections(truth.frames_n[rows], truth.boxes_n4[rows], sure, truth.labels_nk[rows] * sure[:, None]),
        )


def test_the_last_scores_are_those_of_the_record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the run is scored on the validation part in the end."""
    for module in (validation, runner):
        monkeypatch.setattr(module, "detections_of", half_of_the_truth)
    wanted = config(tmp_path, ratio=0.6, val_fraction=0.25, eval_on="val", sets=("train.eval_every=100",))
    planned = runner.plan(wanted)
    record = runner.execute(planned, runner.Reporter())
    assert read_log(planned.folder / "log.jsonl")[-1]["validation"]["student"] == {
        "V@0.5": record.value("video_map", "yowo", "0.5"),
        "F@0.5": pytest.approx(record.value("frame_map", "yowo", "0.5")),
        "Loc": record.value("recall", "standard", "localization"),
        "Cls": record.value("recall", "standard", "classification"),
    }
    assert 0.4 < record.value("frame_map", "yowo", "0.5") < 0.6


def test_nothing_but_the_validation_part_is_looked_at_during_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    planned = runner.plan(config(tmp_path, ratio=0.6, val_fraction=0.25, sets=("train.eval_every=8",)))
    looked_at = list[tuple[str, list[str]]]()
    phase = [""]

    def noting(plan: Any, detector: Any, videos: Any, reader: Any) -> Any:
        looked_at.append((phase[0], [video.id for video in videos]))
        return detections_of(plan, detector, videos, reader)

    class Listener(runner.Reporter):
        def phase(self, name: str, total: int, unit: str) -> None:
            phase[0] = name

    monkeypatch.setattr(validation, "detections_of", noting)
    monkeypatch.setattr(runner, "detections_of", noting)
    runner.execute(planned, Listener())
    kept = list(planned.split.validation)
    assert kept and looked_at[:-1] == [("train", kept)] * 2  # student and teacher, at the end
    assert looked_at[-1] == ("detect", [video.id for video in planned.evaluated])
    assert not set(kept) & {*planned.split.labelled, *planned.split.unlabelled, *looked_at[-1][1]}


def test_a_run_that_is_stopped_while_it_is_scored_goes_on(watched: tuple[Path, Path], tmp_path: Path) -> None:
    class StopsWhenScored(runner.Reporter):
        now, asked = 0, 0

        def step(self, report: StepReport) -> None:
            self.now = report.step

        def stop(self) -> bool:
            self.asked += self.now == 10
            return self.asked == 2  # after a step comes its scoring, video by video

    sets = ("train.eval_every=10", "train.gradient_norms=true")
    planned = runner.plan(config(tmp_path, ratio=0.6, val_fraction=0.25, sets=sets))
    with pytest.raises(runner.Interrupted, match="stopped while it was scored"):
        runner.execute(planned, StopsWhenScored())
    runner.execute(runner.plan(planned.config), runner.Reporter())
    assert (planned.folder / "weights.safetensors").read_bytes() == (watched[0] / "weights.safetensors").read_bytes()
    untimed = [
        [{key: value for key, value in line.items() if key != "seconds"} for line in read_log(folder / "log.jsonl")]
        for folder in (planned.folder, watched[0])
    ]
    assert untimed[0] == untimed[1]


def test_scores_during_training_need_a_validation_part(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"train\.eval_every needs a validation part; give --val-fraction"):
        config(tmp_path, sets=("train.eval_every=5",))
    arguments = "--strategy supervised --dataset synthetic --preset smoke --set train.eval_every=5 --dry-run"
    done = CliRunner().invoke(main, ["run", *arguments.split()])
    assert done.exit_code == 2 and "give --val-fraction" in done.stderr
    with pytest.raises(RequestError, match=r"eval_every needs a validation part, and val_fraction 0\.1 of 6"):
        runner.plan(config(tmp_path, ratio=0.2, val_fraction=0.1, sets=("train.eval_every=5",)))


def test_the_same_request_reads_the_finished_record(finished: tuple[Path, Record]) -> None:
    folder, record = finished
    listener = StopAt(99)
    assert runner.execute(runner.plan(config(folder.parent)), listener) == record
    assert listener.phases == []


def test_a_record_of_a_later_schema_is_refused_and_kept(tmp_path: Path) -> None:
    planned = runner.plan(config(tmp_path))
    planned.folder.mkdir(parents=True)
    planned.record_path.write_text('{"schema_version": 99}')
    arguments = ["run", "--config", str(tmp_path / "config.yaml")]
    (tmp_path / "config.yaml").write_text(planned.config.to_yaml())
    said = CliRunner().invoke(main, arguments)
    assert said.exit_code == 2 and "record.json has record schema 99" in said.stderr
    with pytest.raises(RequestError, match=r"record\.json has record schema 99, written by ssldet of a later version"):
        runner.execute(planned, runner.Reporter())
    assert [path.name for path in planned.folder.iterdir()] == ["record.json"]
    assert planned.record_path.read_text() == '{"schema_version": 99}'
    listed = CliRunner().invoke(main, ["runs", "list", "--results", str(tmp_path), "--json"])
    (entry,) = json.loads(listed.stdout)
    assert (entry["id"], entry["status"]) == (planned.id, "incompatible") and "schema 99" in entry["problem"]


def test_a_dry_run_names_the_id_of_the_record(finished: tuple[Path, Record], tmp_path: Path) -> None:
    folder, record = finished
    shown = CliRunner().invoke(main, ["run", "--config", str(folder / "config.yaml"), "--dry-run", "--json"])
    done = CliRunner().invoke(main, ["run", "--config", str(folder / "config.yaml"), "--json"])
    content = json.loads(shown.stdout)
    assert content["id"] == content["run"] == json.loads(done.stdout)["id"] == record.id


def test_the_kept_weights_are_the_scored_network(finished: tuple[Path, Record]) -> None:
    folder, _ = finished
    detector = ssldet.build_detector("yowo_nano", dataset="synthetic", weights=folder / "weights.safetensors")
    stored = load_file(folder / "weights.safetensors")
    assert all(torch.equal(tensor, stored[name]) for name, tensor in detector.state_dict().items())


def test_an_interrupted_run_ends_as_if_it_had_not_been(finished: tuple[Path, Record], tmp_path: Path) -> None:
    folder, whole = finished
    planned = runner.plan(config(tmp_path))
    for step in (5, 11):  # once in each stage
        with pytest.raises(runner.Interrupted, match=f"after step {step} of 16"):
            runner.execute(runner.plan(config(tmp_path)), StopAt(step))
        assert not planned.record_path.exists()
    record = runner.execute(runner.plan(config(tmp_path)), runner.Reporter())
    one, two = (load_file(place / "weights.safetensors") for place in (folder, planned.folder))
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert record.metrics == whole.metrics
    assert [line["step"] for line in read_log(planned.folder / "log.jsonl")] == [
        line["step"] for line in read_log(folder / "log.jsonl")
    ]


class StopIn(runner.Reporter):
    """Asks to stop once a phase has begun."""

    def __init__(self, phase: str):
        self.wanted, self.stopping = phase, False

    def phase(self, name: str, total: int, unit: str) -> None:
        self.stopping = name == self.wanted

    def stop(self) -> bool:
        return self.stopping


def test_a_run_can_be_stopped_in_every_phase(
    finished: tuple[Path, Record], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSLDET_CACHE", str(tmp_path / "cache"))  # one in which nothing is decoded yet
    for phase in ("decode", "detect"):
        with pytest.raises(runner.Interrupted, match="same command goes on"):
            runner.execute(runner.plan(config(tmp_path)), StopIn(phase))
    planned = runner.plan(config(tmp_path))
    assert not (planned.folder / "detections.parquet").exists()
    assert runner.execute(planned, runner.Reporter()).metrics == finished[1].metrics


def test_videos_that_verify_names_are_left_out_when_told_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = runner.plan(config(tmp_path))
    lost = {whole.split.labelled[0], whole.evaluated[0].id}
    problems = [Problem("no frames", video=video) for video in lost]
    monkeypatch.setattr(type(whole.dataset), "verify", lambda self, split: problems)
    with pytest.raises(DataError, match="2 problems"):
        runner.plan(config(tmp_path))
    planned = runner.plan(config(tmp_path, skip_damaged=True))
    assert set(planned.damaged) == lost
    assert not lost & {*planned.train, *(video.id for video in planned.evaluated)}
    assert planned.id != whole.id


def test_the_run_id_names_the_experiment_and_not_the_machine(tmp_path: Path) -> None:
    def run_id(**fields: Any) -> str:
        return runner.plan(config(tmp_path, **fields)).id

    same = run_id()
    assert (
        run_id(workers=2, loader_workers=3, threads=1, keep_checkpoints=True, sets=("train.checkpoint_every=5",))
        == same
    )
    assert (
        len(
            {
                same,
                run_id(seed=1),
                run_id(ratio=0.6),
                run_id(sets=("strategy.f_th=0.5",)),
                run_id(strategy="supervised"),
            }
        )
        == 5
    )


def test_validation_videos_come_from_the_labelled_ones(tmp_path: Path) -> None:
    planned = runner.plan(config(tmp_path, eval_on="val", val_fraction=0.5))
    scored = {video.id for video in planned.evaluated}
    assert scored and not scored & {*planned.split.labelled, *planned.split.unlabelled}
    assert scored == set(planned.split.validation)


def test_a_second_process_is_turned_away(tmp_path: Path) -> None:
    planned = runner.plan(config(tmp_path))
    with held(planned.folder), pytest.raises(RequestError, match="another process"):
        runner.execute(planned, runner.Reporter())


def test_refusals_come_before_any_work(tmp_path: Path) -> None:
    with pytest.raises(SplitError, match="ratio"):
        runner.plan(config(tmp_path, ratio=0.01))
    with pytest.raises(RequestError, match=r"leaves no unlabelled video.* give a smaller --ratio"):
        runner.plan(config(tmp_path, ratio=1))
    with pytest.raises(ConfigError, match="no pretrained weights"):
        runner.plan(config(tmp_path, dataset="jhmdb", dataset_options={}, pretrained=True))
    with pytest.raises(ConfigError, match=r"did you mean 'dataset\.seed'"):
        runner.plan(config(tmp_path, dataset_options={"seeds": 1}))
    with pytest.raises(ConfigError, match=r"dataset\.train_per_class: input should be a valid integer.*'many'"):
        runner.plan(config(tmp_path, dataset_options={"train_per_class": "many"}))
    with pytest.raises(ConfigError, match="device 'gpu'"):
        runner.plan(config(tmp_path, device="gpu"))
    with pytest.raises(DataError, match="jhmdb"):
        runner.plan(config(tmp_path, dataset="jhmdb", dataset_options={}, data_root=tmp_path / "nowhere"))


def test_pretrained_weights_that_are_not_there(tmp_path: Path) -> None:
    wanted = {"strategy": "supervised", "dataset": "ucf24", "ratio": 0.1, "pretrained": True, "weights_root": tmp_path}
    asked = resolve(wanted)
    with pytest.raises(WeightsError, match=r"yolo\.weights.*SSLDET_WEIGHTS.*--scratch"):
        planning._weights(asked, asked.build_backbone())


def test_a_results_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(RequestError, match="cannot write results"):
        runner.execute(runner.plan(config(tmp_path / "file")), runner.Reporter())


# ------------------------------------------------------------------------------------------ command line


ARGUMENTS = ["run", "--strategy", "supervised", "--dataset", "synthetic", "--preset", "smoke", "--ratio", "0.4"]
SETS = [
    part
    for one in ("dataset.train_per_class=5", "dataset.test_per_class=1", "workers=1", *QUICK)
    for part in ("--set", one)
]


def test_the_command_prints_the_record(tmp_path: Path) -> None:
    arguments = [*ARGUMENTS, *SETS, "--results", str(tmp_path), "--json"]
    first = CliRunner().invoke(main, arguments)
    assert first.exit_code == 0, first.stderr
    record = json.loads(first.stdout)
    assert record["status"] == "done"
    assert record["training"]["teacher_clips"] == 0
    again = CliRunner().invoke(main, arguments)
    assert json.loads(again.stdout) == record
    table = CliRunner().invoke(main, arguments[:-1])
    assert "V@0.5" in table.stdout and "recall localization" in table.stdout
    head = next(line for line in table.stdout.splitlines() if " percent " in line)
    assert head.replace("┃", "|").split("|")[2].strip() == "yowo", "the data set's protocol comes first"
    assert "record.json" in table.stdout
    assert f"next: `ssldet runs show {record['id']} --results {tmp_path} --videos`" in table.stderr


def test_a_dry_run_is_ten_lines_and_every_setting_on_request(tmp_path: Path) -> None:
    asked = [*ARGUMENTS, *SETS, "--results", str(tmp_path), "--dry-run"]
    short, long = (CliRunner().invoke(main, [*asked, *more]) for more in ((), ("--verbose",)))
    assert short.exit_code == long.exit_code == 0, short.stderr
    lines = short.stdout.splitlines()
    names = ["run", "folder", "strategy", "data", "videos", "network", "steps", "device", "estimate", "space"]
    assert [line.split(":")[0] for line in lines] == names
    assert lines[6].startswith("steps: 16 of ") and lines[7].endswith("threads 1")
    head, settings = long.stdout.split("\n\n", 1)
    assert len(head.splitlines()) == 10
    assert yaml.safe_load(settings)["experiment"]["train"]["steps"] == 16


def test_a_dry_run_says_what_it_would_take_and_does_nothing(tmp_path: Path) -> None:
    result = CliRunner().invoke(main, [*ARGUMENTS, *SETS, "--results", str(tmp_path), "--dry-run", "--json"])
    assert result.exit_code == 0, result.stderr
    shown = json.loads(result.stdout)
    assert shown["videos"] == {"labelled": 12, "unlabelled": 18, "validation": 0, "set_aside": 0, "evaluated": 6}
    assert shown["steps"] == 16
    assert set(shown["estimate"]["seconds"]) == {"decode", "first_stage", "train", "detect"}
    assert shown["estimate"]["seconds"]["train"] > 0
    assert shown["estimate"]["parameters"] > 100_000
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (["--strategy", "supervized"], "did you mean 'supervised'"),
        (["--dataset", "jhmdb21"], "did you mean 'jhmdb'"),
        (["--ratio", "2"], "ratio"),
        (["--set", "train.stepz=2"], "did you mean 'train.steps'"),
        (["--preset", "nan"], "did you mean 'nano'"),
    ],
)
def test_wrong_requests_exit_2_and_say_what_exists(tmp_path: Path, change: list[str], said: str) -> None:
    result = CliRunner().invoke(main, [*ARGUMENTS, *SETS, "--results", str(tmp_path), *change])
    assert result.exit_code == 2
    assert said in result.stderr
    assert result.stdout == ""
    assert list(tmp_path.iterdir()) == []


def test_a_part_with_one_unlabelled_clip_is_refused() -> None:
    settings = [*QUICK, "train.bn_batch=1", "train.unlabelled_batch=4"]
    expected = (
        r"unlabelled_batch = 4 in 4 groups .* leaves one unlabelled clip a group.* raise train.unlabelled_batch to 8"
    )
    fields = {"dataset": "synthetic", "ratio": 0.2}
    with pytest.raises(ConfigError, match=expected):
        planning.plan(resolve({"strategy": "fixmatch", **fields}, preset="smoke", assignments=settings))
    planning.plan(resolve({"strategy": "supervised", **fields}, preset="smoke", assignments=settings))


def test_a_network_with_a_random_frozen_layer_is_refused_though_its_backbone_does_not_say_so(tmp_path: Path) -> None:
    class Silent(YOWONano):
        def build(self, facts: DatasetFacts, *, frame_head: bool) -> Detector:
            detector = super().build(facts, frame_head=frame_head)
            detector.get_submodule("features.branch_2d.1").requires_grad_(False)
            return detector

    planned = runner.plan(config(tmp_path, "supervised"))
    planning.build_student(planned)
    planned.backbone = Silent(planned.backbone.config)
    with pytest.raises(ConfigError, match=r"part features of yowo_nano is frozen \(its layer branch_2d\.1\.0\)"):
        planning.build_student(planned)

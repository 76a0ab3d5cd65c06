"""Records of runs that never happened, with numbers of one's choice, for tests of what is made from records."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ssldet.benchmark import spec as benchmark
from ssldet.benchmark.cells import Settings, run_config
from ssldet.config import RunConfig
from ssldet.runs.record import Record, SplitSummary, TrainingSummary
from ssldet.util.files import content_hash, write_text

NANO = Settings("nano")


def config_of(
    approach: str = "Supervised",
    *,
    table: str = "3",
    ratio: float = 0.2,
    pretrained: bool = False,
    seed: int = 0,
    split: int = 1,
    settings: Settings = NANO,
    **changes: Any,
) -> RunConfig:
    """The configuration of a cell; `changes` are fields of its experiment that it then has instead."""
    spec = benchmark.spec(table)
    row = next(row for row in spec.rows if (row.approach, row.pretrained) == (approach, pretrained))
    config = run_config(benchmark.cell(spec, row, ratio, split=split, seed=seed), settings)
    return config.model_copy(update={"experiment": config.experiment.model_copy(update=changes)})


def record_of(
    config: RunConfig,
    value: float | Mapping[str, float] | None = 0.1,
    *,
    status: str = "done",
    data: str = "data",
    version: str = "1.0",
    notes: Mapping[str, Any] | None = None,
    threads: int = 1,
    code: str = "",
) -> Record:
    """A record whose means are `value` everywhere, or by threshold; None: it was not scored."""
    by_key = dict.fromkeys(("0.1", "0.2", "0.5"), value) if isinstance(value, float) else dict(value or {})
    scored = {"thresholds": {key: {"mean": mean, "per_class": {}} for key, mean in by_key.items()}}
    metrics = {name: {"yowo": scored, "standard": scored} for name in ("video_map", "frame_map")}
    return Record(
        id=content_hash([config.experiment.identity(), data])[:12],
        status=status,  # type: ignore[arg-type]
        config=config.model_dump(mode="json"),
        split=SplitSummary(hash="s", labelled=2, unlabelled=8, evaluated=4),
        data_fingerprint=data,
        metrics=metrics if by_key else {},
        training=TrainingSummary(steps=10, gradient_clips=80, teacher_clips=40, seconds={"train": 1800.0}),
        hardware={"threads": threads},
        provenance={"distributions": {"ssldet": {"version": version}, "torch": {"version": "2"}}}
        | ({"plugins": {"backbone yowo_nano": {"distribution": "ssldet", "code": code}}} if code else {}),
        peak_memory_bytes=1,
        notes=dict(notes or {"initial_weights": "random"}),
    )


def write_record(root: Path, record: Record, *, age: float = 0.0, name: str = "") -> Path:
    """The folder of a run with a record, written `age` seconds ago."""
    experiment = record.config["experiment"]
    title = f"{experiment['dataset']}-{experiment['strategy']}-{experiment['ratio']:g}"
    folder = root / (name or f"{title}-split{experiment['split']}-seed{experiment['seed']}-{record.id}")
    record.write(folder / "record.json")
    when = 1_700_000_000 - age
    os.utime(folder / "record.json", (when, when))
    return folder


def write_run(root: Path, approach: str = "Supervised", value: Any = 0.1, **options: Any) -> str:
    """Write the record of a cell's run; gives its id. Options are those of `config_of` and of `record_of`."""
    of_record = {
        key: options.pop(key) for key in ("status", "data", "version", "notes", "threads", "code") if key in options
    }
    age = options.pop("age", 0.0)
    record = record_of(config_of(approach, **options), value, **of_record)
    write_record(root, record, age=age)
    return record.id


def write_interrupted(root: Path, config: RunConfig) -> None:
    """The folder of a run that has a configuration and no record."""
    e = config.experiment
    folder = root / f"{e.dataset}-{e.strategy}-{e.ratio:g}-split{e.split}-seed{e.seed}-0123456789ab"
    write_text(folder / "config.yaml", config.to_yaml())

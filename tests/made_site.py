"""Results folders for tests of the report: two approaches with two seeds each, and a record full of hostile text."""

from __future__ import annotations

import json
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

from made_records import config_of, record_of, write_record
from test_compare import write_run

from ssldet.runs.external import ExternalRecord
from ssldet.util.files import write_json

HOSTILE = (
    "</title></script>\"'><script>document.title='owned'</script><img src=//evil.example/x onerror=alert(1)>\x1b[31m"
)
"""What a record, a log or an id may hold where a harmless word is expected."""

APPROACHES = ("Dual Guidance", "Supervised")


def log_line(step: int, **more: Any) -> dict[str, Any]:
    return {
        "step": step,
        "epoch": step / 10,
        "stage": 2,
        "lr": 0.001,
        "losses": {"box": 10 / step, "box_u": 1 / step, "frame": 2.0},
        "gradient_norm": 3.0,
        "pseudo_labels": {"frame_coverage": 0.1, "frame_precision": 0.9, "box_coverage": 0.2, "box_precision": 0.8},
        "validation": {"student": {"F@0.5": step / 100}, "teacher": {"F@0.5": step / 50}},
        "warnings": [],
        **more,
    }


def write_log(folder: Path, lines: list[dict[str, Any]]) -> None:
    (folder / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")


def write_results(root: Path) -> None:
    """Runs with records, logs and per-video matches, and none of detections."""
    for approach in APPROACHES:
        for seed in range(2):
            folder = write_run(root, approach, seed)
            write_log(folder, [log_line(step) for step in (10, 20, 30)])


def write_hostile(root: Path) -> Path:
    """A run whose record and log hold `HOSTILE` wherever they can, and others' numbers beside it."""
    config = config_of("FixMatch")
    record = record_of(config, 0.2, notes={"initial_weights": "random", HOSTILE: HOSTILE, "warnings": [HOSTILE]})
    content = json.loads(record.model_dump_json())
    content["id"] = HOSTILE
    content["config"]["machine"]["preset"] = HOSTILE
    content["config"]["experiment"]["strategy_options"][f"o_th_{HOSTILE}"] = HOSTILE
    content["hardware"] = {HOSTILE: HOSTILE, "device": [HOSTILE]}
    content["provenance"] = {HOSTILE: {HOSTILE: HOSTILE}}
    content["files"] = {HOSTILE: HOSTILE}
    for by_protocol in content["metrics"].values():
        by_protocol["yowo"]["thresholds"]["0.5"]["per_class"] = {HOSTILE: 0.5}
    others = ExternalRecord(
        name="others",
        source=HOSTILE,
        detections="ab" * 32,
        dataset="jhmdb",
        dataset_options={},
        data_fingerprint="data",
        split=1,
        evaluated=10,
        metrics=record.metrics,
    )
    write_json(root / "external" / "others" / "external.json", others)
    folder = write_record(root, record)
    (folder / "record.json").write_text(json.dumps(content), encoding="utf-8")
    write_log(folder, [log_line(10, losses={HOSTILE: 1.0}, warnings=[HOSTILE]), log_line(20, losses={HOSTILE: 0.5})])
    return folder


class Links(HTMLParser):
    """What a page points to and what can be pointed at, and everything in it that a browser would run."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.links: list[str] = []
        self.ids: list[str] = []
        self.scripts: list[str] = []
        self.words: list[str] = []
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        self.links += [value or "" for name, value in attrs if name in ("href", "src", "poster", "srcset", "action")]
        self.ids += [given["id"] or ""] if "id" in given else []
        self.scripts += [name for name in given if name.startswith("on")]
        self.scripts += [given.get("src") or "inline"] if tag == "script" else []

    def handle_data(self, data: str) -> None:
        self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())

"""A whole run against the same run of another version of ssldet, and what its training steps spend their time on.

    python benchmarks/performance/bench_run.py --data-root JHMDB --other OTHER/bin/python [--pairs 2] [--steps 100]

OTHER is an environment with the other version. Both run `ssldet run` with dual guidance and the preset `nano`, on one
thread and with fewer steps, in turn, on frames that are decoded before. Processor seconds are of the whole command:
start, training, detection on all test videos, scores. Losses and detections must be the same to the last bit;
`--rounding` allows for versions that compute in another order.
"""

from __future__ import annotations

import json
import resource
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import click
import pyarrow.parquet as pq
from common import record

EXPERIMENT = {"strategy": "dual_guidance", "dataset": "jhmdb", "ratio": "0.2", "preset": "nano", "seed": "0"}
NETWORK = ("forward", "backward", "teacher")
"""Sections of a step that are the network's arithmetic."""


def seconds_of(python: str, data_root: Path, results: Path, steps: int) -> float:
    """Processor seconds of one run, all processes."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    _ssldet(python, data_root, "--set", f"train.steps={steps}", "--results", str(results))
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def _ssldet(python: str, data_root: Path, *options: str) -> str:
    # -P: not the version of the folder that this is called from
    program = "from ssldet.cli import main; main()"  # older versions cannot be run as a module
    flags = [part for name, value in EXPERIMENT.items() for part in (f"--{name}", value)]
    command = [python, "-P", "-c", program, "run", *flags, "--threads", "1", "--data-root", str(data_root), *options]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def same_bits(one: Path, other: Path) -> bool:
    """Whether two results folders hold the same losses and detections."""
    losses, detections = [], []
    for results in (one, other):
        (run,) = (path.parent for path in results.glob("*/record.json"))
        lines = (run / "log.jsonl").read_text().splitlines()
        losses.append([json.loads(line)["losses"] for line in lines])
        detections.append(pq.read_table(run / "detections.parquet").replace_schema_metadata())
    return losses[0] == losses[1] and detections[0].equals(detections[1])


def shares(data_root: Path, results: Path) -> dict[str, float]:
    """Section -> its share of a training step of the second stage."""
    printed = json.loads(_ssldet(sys.executable, data_root, "--profile", "20", "--json", "--results", str(results)))
    return {name: round(share, 3) for name, share in printed["shares"].items()}


@click.command()
@click.option("--data-root", required=True, type=click.Path(path_type=Path, exists=True), help="J-HMDB's folder.")
@click.option("--other", required=True, help="Python of the other version's installation.")
@click.option("--pairs", default=2, show_default=True, help="Runs of each version.")
@click.option("--steps", default=100, show_default=True, help="Of each run.")
@click.option("--rounding", is_flag=True, help="The versions compute in another order: do not compare bits.")
def main(data_root: Path, other: str, pairs: int, steps: int, rounding: bool) -> None:
    taken: dict[str, list[float]] = {sys.executable: [], other: []}
    with tempfile.TemporaryDirectory() as folder:
        for pair in range(pairs):
            for index, (python, seconds) in enumerate(taken.items()):
                seconds.append(seconds_of(python, data_root, Path(folder) / f"{pair}-{index}", steps))
        bits = same_bits(Path(folder) / "0-0", Path(folder) / "0-1")
        share = shares(data_root, Path(folder) / "profile")
    if not bits and not rounding:
        raise click.ClickException("the versions gave other losses or detections; where that is meant, say --rounding")
    figures: dict[str, Any] = {"same_bits": bits, "steps": steps, "pairs": pairs, "shares": share}
    figures["network_share"] = round(sum(share.get(name, 0.0) for name in NETWORK), 3)
    ours, theirs = (statistics.median(seconds) for seconds in taken.values())
    name = f"run of dual_guidance, nano, {steps} steps, one thread; the version before"
    record(name, {"seconds": ours, "loops_seconds": theirs, "aim": "1.15x", "threads": 1, **figures})


if __name__ == "__main__":
    main()

"""Two gloo processes on the CPU against one: how far their losses are apart, and what a step takes.

    python benchmarks/performance/bench_ranks.py [--steps 50] [--size 64]

Trains every strategy of the suite on generated videos, the backbone yowo_nano in four groups of four clips a step, once
in this process and once in two processes, each on one thread. Losses of every step are compared, relative to that of
one process: over the first 10 steps, and over all. Seconds are wall-clock medians of the second stage's steps; the
machine's load stands beside them: two processes on two cores that others use as well are no quicker. Figures go to
`ranks.json`, and the table to `docs/performance.md`.
"""

from __future__ import annotations

import itertools
import statistics
import time
from collections.abc import Mapping
from typing import Any

import click
import torch
from common import HERE, machine, put_into_page

from ssldet import plugins
from ssldet.config import RunConfig, resolve
from ssldet.data.batches import ClipReader
from ssldet.data.frame_store import FrameStore
from ssldet.runs.planning import build_student, plan
from ssldet.training.assembly import assemble_training
from ssldet.training.loop import StepReport
from ssldet.util.files import write_json
from ssldet.util.rank_processes import Line, run_on_ranks
from ssldet.util.ranks import ALONE, Ranks

FILE = HERE / "ranks.json"
THRESHOLDS = {"o_th": 0.02, "f_th": 0.1}
"""Low enough for a hardly trained network: pseudo-labels are to be there."""

Trained = dict[str, list[Any]]
"""Of every step: its losses by name, and when it ended."""


def configuration(strategy: str, steps: int, size: int) -> RunConfig:
    known = plugins.load("strategy", strategy).Config.model_fields
    options = [f"strategy.{name}={value}" for name, value in THRESHOLDS.items() if name in known]
    schedule = {"steps": steps, "batch": 16, "unlabelled_batch": 16, "bn_batch": 4, "burn_in": 0.2, "warmup": 5}
    settings = [f"train.{name}={value}" for name, value in schedule.items()]
    wanted = {"strategy": strategy, "dataset": "synthetic", "ratio": 0.4, "device": "cpu", "threads": 1}
    return resolve(wanted, preset="smoke", assignments=[*settings, f"clip.size={size}", *options])


def trained(config: RunConfig, ranks: Ranks = ALONE) -> Trained:
    """Train in as many processes as there are ranks."""
    torch.set_num_threads(1)
    planned = plan(config)
    store = FrameStore.for_clips(planned.dataset, config.experiment.clip)
    ranks.from_first(lambda: store.prepare(planned.used))
    training = assemble_training(
        config.experiment,
        planned.strategy,
        build_student(planned)[0],
        facts=planned.dataset.facts,
        videos=planned.train,
        truth_of=planned.dataset.truth,
        reader=ClipReader(store.frames, config.experiment.clip),
        labelled=planned.split.labelled,
        unlabelled=planned.split.unlabelled,
        ranks=ranks,
    )
    kept: Trained = {"losses": [], "seconds": []}

    def keep(report: StepReport) -> None:
        kept["losses"].append(report.losses)
        kept["seconds"].append(time.perf_counter())

    training.run(on_step=keep)
    return kept


def train_all(line: Line, configs: Mapping[str, RunConfig]) -> dict[str, Trained]:
    return {name: trained(config, line.ranks) for name, config in configs.items()}


def apart(one: Trained, two: Trained, steps: int) -> float:
    """The greatest difference of a step's loss, all terms together, relative to one process's."""
    sums = [[sum(losses.values()) for losses in run["losses"][:steps]] for run in (one, two)]
    return max(abs(b - a) / abs(a) for a, b in zip(*sums, strict=True))


def step_seconds(run: Trained) -> float:
    ended = run["seconds"][len(run["seconds"]) // 2 :]
    return statistics.median(b - a for a, b in itertools.pairwise(ended))


def figures(one: Trained, two: Trained) -> dict[str, float]:
    alone, both = step_seconds(one), step_seconds(two)
    return {
        "apart_10": apart(one, two, 10),
        "apart_all": apart(one, two, len(one["losses"])),
        "steps": len(one["losses"]),
        "seconds_one": alone,
        "seconds_two": both,
        "ratio": alone / both,
    }


def show(found: Mapping[str, Mapping[str, float]], place: Mapping[str, Any]) -> None:
    """Put the table between its marks into the page for readers."""
    rows = "".join(
        f"| {name} | {row['apart_10']:.1e} | {row['apart_all']:.1e} ({row['steps']:.0f} steps) | "
        f"{row['seconds_one']:.2f} s | {row['seconds_two']:.2f} s | {row['ratio']:.2f}x |\n"
        for name, row in found.items()
    )
    text = (
        f"{place['processor']}, {place['cores']} cores, load {place['load']}; aims: 1e-05 over 10 steps, 1e-03 over 50."
        "\n\n| strategy | losses apart, 10 steps | all steps | a step, one process | two | ratio |\n"
        "|---|---|---|---|---|---|\n"
    )
    print(text + rows)
    put_into_page("ranks", text + rows)


@click.command()
@click.option("--steps", default=50, show_default=True, help="Steps of each training.")
@click.option("--size", default=64, show_default=True, help="Side of a clip, pixels.")
@click.option("--strategy", "names", multiple=True, help="These strategies alone.  [default: all]")
def main(steps: int, size: int, names: tuple[str, ...]) -> None:
    of_suite = [p.name for p in plugins.available("strategy") if p.distribution == "ssldet"]
    configs = {name: configuration(name, steps, size) for name in names or of_suite}
    one = {name: trained(config) for name, config in configs.items()}
    two = run_on_ranks(train_all, [configs], [torch.device("cpu")] * 2)
    found = {name: figures(one[name], two[name]) for name in configs}
    place = machine()
    write_json(FILE, {"figures": found, "machine": place})
    show(found, place)


if __name__ == "__main__":
    main()

"""Two gloo processes on the CPU against one: how far their losses are apart, and what a step takes.

    python benchmarks/performance/bench_ranks.py [--size 32] [--strategy NAME]

Trains every strategy of the suite on generated videos, the backbone yowo_nano in two groups of two clips a step, once
in this process and once in two processes, each on one thread. Learning rates are those that the first steps of the
preset nano have; the second stage begins after 10 steps. Losses of every step are compared, relative to that of one
process: over the first 10 steps, and over all. Beside them stands how far one process comes apart from itself when
each initial weight is moved by about one rounding: what training makes of the last bits, whoever computes. Seconds are
wall-clock medians of the second half of the steps; the machine's load stands beside them: two processes on two cores
that others use as well are no quicker. Figures go to `ranks.json`, those of other strategies stay there, and the table
to `docs/performance.md`.
"""

from __future__ import annotations

import itertools
import json
import statistics
import time
from collections.abc import Mapping
from typing import Any

import click
import torch
from common import HERE, machine, put_into_page
from torch import nn

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

STEPS = 50

RATES = {"lr": 2e-3, "warmup": 100}
"""Of the preset nano; those of `smoke`, five times as large after ten steps, blow up more what is rounded otherwise."""

Trained = dict[str, list[Any]]
"""Of every step: its losses by name, and when it ended."""


def configuration(strategy: str, steps: int, size: int) -> RunConfig:
    known = plugins.load("strategy", strategy).Config.model_fields
    options = [f"strategy.{name}={value}" for name, value in THRESHOLDS.items() if name in known]
    schedule = {"steps": steps, "batch": 4, "unlabelled_batch": 4, "bn_batch": 2, "burn_in": 0.2, **RATES}
    settings = [f"train.{name}={value}" for name, value in schedule.items()] + ["train.pair_share=0.5", "clip.frames=4"]
    wanted = {"strategy": strategy, "dataset": "synthetic", "ratio": 0.4, "device": "cpu", "threads": 1}
    return resolve(wanted, preset="smoke", assignments=[*settings, f"clip.size={size}", *options])


def trained(config: RunConfig, ranks: Ranks = ALONE, *, moved: bool = False) -> Trained:
    """Train in as many processes as there are ranks; `moved`: from weights that are one rounding away."""
    torch.set_num_threads(1)
    planned = plan(config)
    store = FrameStore.for_clips(planned.dataset, config.experiment.clip)
    ranks.from_first(lambda: store.prepare(planned.used))
    student, _ = build_student(planned)
    if moved:
        move_by_rounding(student)
    training = assemble_training(
        config.experiment,
        planned.strategy,
        student,
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


@torch.no_grad()
def move_by_rounding(network: nn.Module) -> None:
    """Multiply each weight by 1 + e or 1 - e, of the type's epsilon."""
    torch.manual_seed(0)
    for weight in network.parameters():
        weight.mul_(1 + torch.finfo(weight.dtype).eps * torch.randn_like(weight).sign())


def train_all(line: Line, configs: Mapping[str, RunConfig]) -> dict[str, Trained]:
    return {name: trained(config, line.ranks) for name, config in configs.items()}


def apart(one: Trained, two: Trained, steps: int) -> float:
    """The greatest difference of a step's loss, all terms together, relative to one process's."""
    sums = [[sum(losses.values()) for losses in run["losses"][:steps]] for run in (one, two)]
    return max(abs(b - a) / abs(a) for a, b in zip(*sums, strict=True))


def step_seconds(run: Trained) -> float:
    ended = run["seconds"][len(run["seconds"]) // 2 :]
    return statistics.median(b - a for a, b in itertools.pairwise(ended))


def figures(one: Trained, two: Trained, moved: Trained) -> dict[str, float]:
    alone, both = step_seconds(one), step_seconds(two)
    return {
        "apart_10": apart(one, two, 10),
        "apart_all": apart(one, two, len(one["losses"])),
        "moved_10": apart(one, moved, 10),
        "moved_all": apart(one, moved, len(one["losses"])),
        "steps": len(one["losses"]),
        "seconds_one": alone,
        "seconds_two": both,
        "ratio": alone / both,
    }


def show(figures_of: Mapping[str, Mapping[str, Any]]) -> None:
    """Put the table between its marks into the page for readers."""
    rows = "".join(
        f"| {name} | {row['apart_10']:.1e} | {row['apart_all']:.1e} | {row['moved_10']:.1e} | {row['moved_all']:.1e} | "
        f"{row['seconds_one']:.2f} s | {row['seconds_two']:.2f} s | {row['ratio']:.2f}x | {place(row['machine'])} |\n"
        for name, row in figures_of.items()
    )
    text = (
        "Aims: 1e-05 over 10 steps, 1e-03 over 50.\n\n"
        "| strategy | losses apart, 10 steps | 50 steps | one process, weights one rounding away, 10 steps | 50 steps "
        "| a step, one process | two | ratio | machine |\n|---|---|---|---|---|---|---|---|---|\n"
    )
    print(text + rows)
    put_into_page("ranks", text + rows)


def place(about: Mapping[str, Any]) -> str:
    return f"{about['processor']}, {about['cores']} cores, load {about['load']}"


@click.command()
@click.option("--size", default=32, show_default=True, help="Side of a clip, pixels.")
@click.option("--strategy", "names", multiple=True, help="These strategies alone.  [default: all]")
def main(size: int, names: tuple[str, ...]) -> None:
    of_suite = [p.name for p in plugins.available("strategy") if p.distribution == "ssldet"]
    configs = {name: configuration(name, STEPS, size) for name in names or of_suite}
    one = {name: trained(config) for name, config in configs.items()}
    moved = {name: trained(config, moved=True) for name, config in configs.items()}
    two = run_on_ranks(train_all, [configs], [torch.device("cpu")] * 2)
    kept = json.loads(FILE.read_text()) if FILE.exists() else {}
    kept |= {name: {**figures(one[name], two[name], moved[name]), "machine": machine()} for name in configs}
    write_json(FILE, dict(sorted(kept.items())))
    show(dict(sorted(kept.items())))


if __name__ == "__main__":
    main()

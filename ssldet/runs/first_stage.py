"""First stages: the labelled-only part of training, trained once for all runs that would train the same.

    <results>/first_stages/<key>/checkpoint.safetensors   the state at the end of the stage, or on the way there
                                 log.jsonl                its lines of the log
                                 stage.json               what the key is made of, and who trained it

The key is the hash of the experiment's revision and of all that the stage's training reads: data, labelled videos,
initial weights, network, losses (frame head, temporal term), sampling, schedule, seed, and the code of plugins that are
not ssldet's own. Supervised, Mean Teacher and
FixMatch share one; Dual Guidance has its own, and a third without the temporal term.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Collection, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ssldet.config import as_before, as_hashed
from ssldet.runs import layout
from ssldet.runs.claims import Claim, claimed
from ssldet.runs.log import RunLog
from ssldet.runs.planning import Plan, weights_hashes
from ssldet.runs.plugin_code import changed_plugins, of_others, plugin_code
from ssldet.runs.provenance import COMPARED, changed_distributions, provenance
from ssldet.training import checkpoints
from ssldet.training.loop import StepReport, Training
from ssldet.training.objectives import over_classes
from ssldet.util.files import content_hash, write_json
from ssldet.util.ranks import Ranks

UNREAD = {
    "unlabelled_batch",
    "micro_batch",
    "fused_forward",
    "checkpoint_activations",
    "checkpoint_every",
    "eval_every",
}
"""Settings of `train` that the first stage does not read, or that move no number."""


@dataclass(frozen=True, slots=True)
class FirstStage:
    """One first stage among the results: `identity` is what its key is made of, `code` that of its plugins."""

    folder: Path
    key: str
    identity: dict[str, Any]
    code: dict[str, Any]

    @property
    def checkpoint(self) -> Path:
        return self.folder / layout.CHECKPOINT

    @property
    def log(self) -> Path:
        return self.folder / layout.LOG

    def made_by_others(self) -> dict[str, Any]:
        """Versions of ssldet and torch, and plugins' code, that trained it, where they are not those that run now."""
        made_by = json.loads((self.folder / layout.STAGE).read_text(encoding="utf-8"))["provenance"]
        return changed_distributions(made_by, COMPARED) | changed_plugins(made_by)

    def is_done(self) -> bool:
        """Whether it was trained to its end; cheap, reads no weights."""
        return (self.folder / layout.STAGE).is_file() and self.checkpoint.is_file()

    def held(
        self, stop: Callable[[], bool], waiting: Callable[[], None], patience: float
    ) -> AbstractContextManager[Claim | None]:
        """Hold it against other processes, waiting for one that trains it. None: `stop` asked to give up.

        Raises ClaimHeld after `patience` seconds.
        """
        return claimed(self.folder, patience=patience, stop=stop, waiting=lambda owner: waiting())


def first_stage(plan: Plan, skipped: Collection[str] = ()) -> FirstStage | None:
    """The first stage of a planned run; None where it has none. `skipped` videos do not decode and are left out."""
    identity = _identity(plan, skipped)
    if identity["burn_in"] == 0:
        return None
    experiment = plan.config.experiment
    code = plugin_code([("dataset", experiment.dataset), ("backbone", experiment.backbone)])
    if foreign := of_others(code):
        identity["code"] = foreign
    key = content_hash(identity)[:16]
    return FirstStage(plan.config.machine.results / layout.FIRST_STAGES / key, key, identity, code)


def _identity(plan: Plan, skipped: Collection[str]) -> dict[str, Any]:
    experiment, needs = plan.config.experiment, plan.needs
    train = as_hashed(as_before(experiment.train.model_dump(mode="json", exclude=UNREAD)))
    if not needs.temporal:
        del train["pair_share"]
    losses: dict[str, Any] = {"frame_head": needs.frame_head, "temporal": needs.temporal}
    if needs.frame_head:
        losses["beta"] = needs.beta
    if needs.temporal:
        reduction = over_classes(needs.temporal_reduction, plan.dataset.facts.multilabel)
        losses |= {"temporal_weight": needs.temporal_weight, "temporal_reduction": reduction}
    return {
        "revision": experiment.revision,
        "data": plan.dataset.fingerprint(),
        "labelled": [video for video in plan.split.labelled if video not in skipped],
        "weights": weights_hashes(plan.weights),
        "backbone": {experiment.backbone: experiment.backbone_options},
        "losses": losses,
        "clip": experiment.clip.identity(),
        "views": experiment.views,
        "train": train,
        "steps": plan.steps,
        "burn_in": round(experiment.train.burn_in * plan.steps),
        "seed": experiment.seed,
    }


def load_or_train(
    training: Training,
    stage: FirstStage,
    *,
    on_step: Callable[[StepReport], None] = lambda report: None,
    stop: Callable[[], bool] = lambda: False,
    waiting: Callable[[], None] = lambda: None,
    patience: float = math.inf,
) -> bool:
    """Bring fresh training to the end of its first stage: load what is there, and train what is left.

    Args:
        on_step: called after every step that is trained here.
        stop: asked after every step, and while another process trains the stage.
        waiting: called again and again while another process does.
        patience: seconds to wait for it.

    Returns:
        Whether the end was reached; False when `stop` asked to give up. What was trained is kept either way.

    Raises:
        ClaimHeld: another process trains it still. ClaimLost: another one took it over.
    """
    ranks = training.ranks
    with _held_for(ranks, stage, stop, waiting, patience) as (ours, claim):
        if not ours:
            return False

        def asked_to_stop() -> bool:
            if claim:
                claim.check()  # before a checkpoint is written
            return stop()

        if checkpoints.any_of(stage.checkpoint):
            training.resume(stage.checkpoint, run_id=stage.key)
        if training.counts.step < training.burn_in:
            with ExitStack() as open_files:
                if ranks.is_first:
                    log = open_files.enter_context(RunLog(stage.log, keep_until=training.counts.step))
                    training.log = lambda line: log.append(**line)
                training.run(
                    stage.checkpoint, until=training.burn_in, run_id=stage.key, on_step=on_step, stop=asked_to_stop
                )
        if training.counts.step < training.burn_in:
            return False
        if ranks.is_first and not stage.is_done():
            about = {
                "key": stage.key,
                "identity": stage.identity,
                "provenance": {**provenance(), "plugins": stage.code},
            }
            write_json(stage.folder / layout.STAGE, about)
        ranks.from_first(lambda: None)
        return True


@contextmanager
def _held_for(
    ranks: Ranks, stage: FirstStage, stop: Callable[[], bool], waiting: Callable[[], None], patience: float
) -> Iterator[tuple[bool, Claim | None]]:
    """The first rank holds the stage for all, and tells the others that it does; it alone has the claim."""

    def wait() -> None:
        ranks.beat()
        waiting()

    with stage.held(stop, wait, patience) if ranks.is_first else nullcontext() as claim:
        yield ranks.from_first(lambda: claim is not None), claim

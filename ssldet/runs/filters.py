"""Which runs a request is about. Nothing heavy is imported here: the command line reads it for its help."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ssldet.runs.external import External
    from ssldet.runs.store import RunEntry

STATES = ("done", "failed", "interrupted", "running", "damaged", "incompatible")
"""What `RunEntry.state` can be."""


@dataclass(frozen=True, slots=True)
class RunFilter:
    """What runs must have to be chosen; None asks for nothing, and a filter without any is false.

    Attributes:
        dataset: name of the data set, with or without its flavour ("synthetic", "synthetic:jhmdb").
        status: one of `STATES`.
    """

    strategy: str | None = None
    dataset: str | None = None
    ratio: float | None = None
    seed: int | None = None
    split: int | None = None
    preset: str | None = None
    backbone: str | None = None
    eval_on: str | None = None
    status: str | None = None

    def __bool__(self) -> bool:
        return self != RunFilter()

    def accept(self, entry: RunEntry) -> bool:
        """Whether a run has all that is asked for."""
        actual = {
            "strategy": entry.experiment.get("strategy"),
            "split": entry.experiment.get("split"),
            "seed": entry.experiment.get("seed"),
            "backbone": entry.experiment.get("backbone"),
            "eval_on": entry.experiment.get("eval_on"),
            "preset": entry.machine.get("preset"),
        }
        return (
            all(getattr(self, name) in (None, value) for name, value in actual.items())
            and (self.dataset is None or self.dataset in (entry.experiment.get("dataset"), entry.dataset))
            and (self.ratio is None or math.isclose(self.ratio, entry.experiment.get("ratio") or math.nan))
            and (self.status is None or self.status == entry.state)
        )

    def accept_external(self, external: External) -> bool:
        """Whether others' numbers have all that is asked for; of test videos, and no settings or state."""
        record, ours = external.record, (self.strategy, self.preset, self.backbone, self.status)
        if any(asked is not None for asked in ours):
            return False
        if record is None:
            return not self
        return (
            self.dataset in (None, record.dataset, record.dataset_name)
            and self.eval_on in (None, "test")
            and self.seed in (None, record.seed)
            and self.split in (None, record.split)
            and (self.ratio is None or math.isclose(self.ratio, record.ratio or math.nan))
        )

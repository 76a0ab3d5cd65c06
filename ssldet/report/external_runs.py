"""Others' numbers as tables and comparisons read them, beside `Run`."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from ssldet.benchmark.cells import DatasetChoice
from ssldet.data.datasets import default_protocol
from ssldet.errors import RequestError
from ssldet.evaluation import results
from ssldet.runs.external import External, ExternalRecord, find_externals


@dataclass(frozen=True, slots=True, eq=False)
class ExternalRun:
    """Somebody's scored detections. It is nobody's run: it has no settings, and its seed pairs with none of ours.

    Attributes:
        record: its numbers; `folder`: where it lies.
    """

    record: ExternalRecord
    folder: Path

    @property
    def id(self) -> str:
        return self.record.name

    @property
    def title(self) -> str:
        """As rows call it."""
        return f"{self.record.name} (external)"

    @property
    def dataset(self) -> DatasetChoice:
        return DatasetChoice(self.record.dataset, self.record.dataset_options)

    @property
    def split(self) -> int:
        return self.record.split

    @property
    def eval_on(self) -> str:
        return "test"

    @property
    def protocol(self) -> str:
        """The protocol of its data set."""
        return default_protocol(self.record.dataset, self.record.dataset_options)

    def number(self, metric: str, protocol: str, key: str, *, where_truth: bool = False) -> float | None:
        """A mean as a fraction; None where it was not scored so.

        Args:
            where_truth: over the classes that have truth, whatever the protocol.
        """
        chosen = results.mean_where_truth if where_truth else results.value
        try:
            return chosen(self.record.metrics, metric, protocol, key)
        except RequestError:
            return None


def collect_externals(folders: Iterable[Path]) -> tuple[list[ExternalRun], list[External]]:
    """All in or below some folders, and those whose record cannot be read."""
    found = find_externals(folders)
    whole = [ExternalRun(each.record, each.folder) for each in found if each.record is not None]
    return whole, [each for each in found if each.record is None]

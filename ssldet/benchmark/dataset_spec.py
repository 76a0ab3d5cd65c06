"""A table of any data set, where the paper has none: what the grid runs for it, and what is shown of it.

dataset_spec(dataset, rows, ratios, ...)    strategies beside Supervised, scored under the data set's own protocol
row_of(strategy)                            a strategy as the preset has it
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from ssldet import plugins
from ssldet.benchmark import spec as benchmark
from ssldet.benchmark.spec import Column, Row, TableSpec
from ssldet.data.datasets import dataset_options, default_protocol
from ssldet.errors import ConfigError
from ssldet.util.files import content_hash
from ssldet.util.settings import split_flavour

BASELINE = "supervised"

METRICS = {"F@0.5": ("frame_map", "0.5"), "V@0.2": ("video_map", "0.2"), "V@0.5": ("video_map", "0.5")}
"""Title -> metric and key of the columns."""


def dataset_spec(
    dataset: str, rows: Iterable[Row] = (), ratios: Sequence[float] = (), protocol: str | None = None, note: str = ""
) -> TableSpec:
    """The table of a data set: Supervised from scratch, and the rows that are given.

    Args:
        dataset: its name, with or without a flavour ("synthetic:jhmdb").
        ratios: label ratios; without any, the one that runs on the data have where none is named.
        protocol: of the metrics; None means the data set's.

    Raises:
        UnknownName: no such data set. ConfigError: a flavour that it does not have, or a ratio outside (0, 1].
    """
    name, options = split_flavour(dataset)
    plugin = plugins.load("dataset", name)
    dataset_options(plugin, options)
    if wrong := [ratio for ratio in ratios if not 0 < ratio <= 1]:
        raise ConfigError(f"ratio {wrong[0]:g}: expected the share of videos that keep their labels, in (0, 1]")
    scored = protocol or default_protocol(dataset)
    distinct = {content_hash([row.strategy, row.options, row.pretrained]): row for row in (row_of(BASELINE), *rows)}
    return TableSpec(
        name=dataset,
        title=f"Strategies on {dataset}",
        dataset=dataset,
        ratios=tuple(dict.fromkeys(ratios)) or (plugin.facts.default_ratio,),
        columns=tuple(Column(title=t, metric=m, protocol=scored, key=k) for t, (m, k) in METRICS.items()),
        rows=tuple(distinct.values()),
        baseline=BASELINE,
        note=note,
        of_dataset=True,
    )


def row_of(strategy: str, *, pretrained: bool = False) -> Row:
    """The row of a strategy as the preset has it, by the paper's name where it has one. It need not be installed."""
    return Row(approach=paper_name(strategy), pretrained=pretrained, strategy=strategy)


def paper_name(strategy: str) -> str:
    """What the paper calls a strategy; its plugin name where the paper does not know it."""
    rows = [row for table in benchmark.specs().values() for row in table.rows]
    return next((row.approach for row in rows if row.strategy == strategy and not row.options), strategy)

"""What is read beside the numbers of a table, in words: differences to the baseline, contrasts, ranks, costs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from ssldet.report.contrasts import Difference
from ssldet.report.document import Block, Section, TextRow
from ssldet.report.resampling import CONFIDENCE, FEW_GROUPS
from ssldet.report.table_data import Cost, Rank, Table
from ssldet.report.wording import baseline_title, digits_of, headings, sections_of, start


def blocks(table: Table) -> Iterator[Block]:
    """Those of which the table has anything."""
    if any(entry and entry.difference for row in table.entries for entry in row):
        yield differences(table)
    if table.contrasts:
        yield contrasts(table)
    if table.ranks:
        yield ranks(table)
    if table.costs:
        yield costs(table)


def differences(table: Table) -> Block:
    """The rows and columns that have any."""
    digits = digits_of(table)
    gains = [[entry.difference if entry else None for entry in row] for row in table.entries]
    columns = [i for i in range(len(table.columns)) if any(row[i] for row in gains)]

    def cells(index: int) -> tuple[tuple[str, ...], ...]:
        return tuple(_gain(gains[index][i], digits[table.columns[i].metric.title]) for i in columns)

    heads = headings(table)
    lines = [index for index, row in enumerate(gains) if any(row)]
    return Block(
        f"Difference to {baseline_title(table)}",
        tuple(heads[i] for i in columns),
        sections_of(table, cells, lines),
    )


def _gain(difference: Difference | None, digits: int) -> tuple[str, ...]:
    if difference is None:
        return ()
    if difference.mean is None:
        return ("none",)
    seeds = _interval("s", difference.low, difference.high, digits) or f"n = {difference.n}"
    videos = _interval("v", difference.video_low, difference.video_high, digits)
    p = "" if difference.adjusted_p is None else f"p {difference.p:.2g}, Holm {difference.adjusted_p:.2g}"
    return tuple(filter(None, (f"{difference.mean:+.{digits}f}", seeds, videos, p)))


def _interval(sign: str, low: float | None, high: float | None, digits: int) -> str:
    return "" if low is None or high is None else f"{sign} [{low:+.{digits}f}, {high:+.{digits}f}]"


def contrasts(table: Table) -> Block:
    """Rows against each other, by initial weights."""
    digits = digits_of(table)
    columns = [i for i in range(len(table.columns)) if any(c.differences[i] for c in table.contrasts)]
    heads = headings(table)
    rows: dict[str, list[TextRow]] = {}
    for contrast in table.contrasts:
        cells = tuple(_gain(contrast.differences[i], digits[table.columns[i].metric.title]) for i in columns)
        rows.setdefault(start(contrast.pretrained), []).append(TextRow(contrast.title, cells))
    sections = tuple(Section(title, tuple(of_start)) for title, of_start in rows.items())
    return Block("Contrasts", tuple(heads[i] for i in columns), sections)


def ranks(table: Table) -> Block:
    """How each line ranks on average, 1 the best."""
    by_line = {rank.line: rank for rank in table.ranks}

    def cells(index: int) -> tuple[tuple[str, ...], ...]:
        return (_rank(by_line[index]),)

    return Block("Average rank", (("rank", ""),), sections_of(table, cells, by_line))


def _rank(rank: Rank) -> tuple[str, ...]:
    interval = "" if rank.interval is None else f"v [{rank.interval.low:.1f}, {rank.interval.high:.1f}]"
    return tuple(filter(None, (f"{rank.rank:.1f}", interval)))


COST_COLUMNS = ("gradient clips", "teacher clips", "hours")


def costs(table: Table) -> Block:
    """What each row took, ratio by ratio."""
    ratios = sorted({ratio for _, ratio in table.costs})

    def cells(index: int) -> tuple[tuple[str, ...], ...]:
        costs = [_cost_cells(table.costs.get((index, ratio))) for ratio in ratios]
        return tuple(cost[part] for part in range(len(COST_COLUMNS)) for cost in costs)

    columns = tuple((title, f"{100 * ratio:g} %") for title in COST_COLUMNS for ratio in ratios)
    lines = [index for index in range(len(table.lines)) if any(place == index for place, _ in table.costs)]
    return Block("Cost", columns, sections_of(table, cells, lines))


def _cost_cells(cost: Cost | None) -> tuple[tuple[str, ...], ...]:
    if cost is None:
        return ((),) * len(COST_COLUMNS)
    return (f"{cost.gradient_clips:,.0f}",), (f"{cost.teacher_clips:,.0f}",), (f"{cost.hours:.2f}",)


def notes(table: Table) -> Iterator[str]:
    """What must be known to read them."""
    entries = [entry for row in table.entries for entry in row if entry]
    yield from _notes_of_differences(
        [entry.difference for entry in entries if entry.difference],
        [difference for contrast in table.contrasts for difference in contrast.differences if difference],
    )
    if table.few_groups:
        yield (
            f"{table.few_groups} classes have fewer than {FEW_GROUPS} groups of test videos, and hardly vary in "
            "intervals over them"
        )
    if table.ranks:
        yield (
            "Average rank: 1 is the best; mean over the columns of this table (of the first split), among the rows of "
            "the same initial weights that have two seeds or more in each; v: its interval over test videos, which "
            "does not cover seeds, and in which ranks drawn again lie nearer to the middle"
        )
    if table.costs:
        yield (
            "Cost: means over the runs of a cell, first stage included; gradient clips go through the student with "
            "gradients, teacher clips through a teacher without; hours of training on the machines of the records"
        )


def _notes_of_differences(to_baseline: Sequence[Difference], contrasted: Sequence[Difference]) -> Iterator[str]:
    every = (*to_baseline, *contrasted)
    if every:
        yield (
            "Difference, contrast: mean over common seeds, with the same data, ratio and initial weights; in brackets "
            f"its {100 * CONFIDENCE:g} % confidence interval: s over seeds (Student's t of paired differences), "
            "v over test videos (bootstrap, groups drawn together)"
        )
    if tested := sum(difference.p is not None for difference in contrasted):
        yield f"p: of the t test over seeds; Holm: the same, corrected for the {tested} contrasts of this table"
        if to_baseline:
            yield "Intervals of differences to the baseline stand alone: they are not corrected for their number"
    yield from dict.fromkeys(f"Difference: {difference.why}" for difference in every if difference.why)
    if undrawable := list(dict.fromkeys(difference.video_why for difference in every if difference.video_why)):
        more = f" and {len(undrawable) - 1} reasons more" if len(undrawable) > 1 else ""
        yield f"Some differences have no interval over test videos: {undrawable[0]}{more}"
    if any(difference.n == 1 for difference in every):
        yield "With n = 1 nothing is ordered: the noise of the seed is in every difference, and no interval holds it"

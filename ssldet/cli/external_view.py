"""Others' numbers as `ssldet runs` lists and shows them."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import click

from ssldet.cli.output import aligned, next_step, print_json

if TYPE_CHECKING:
    from ssldet.runs.external import External, ExternalRecord


def list_of(externals: Sequence[Mapping[str, Any]]) -> str:
    """A line for others' numbers of each name, from `external_summary`."""
    from ssldet.runs.external import SHOWN_DIGITS
    from ssldet.runs.listing import HEADLINES

    fields = ("ratio", "seed", "split", "protocol")
    rows = [("external", "detections", "dataset", "data", *fields, *HEADLINES, "date", "note")]
    for each in externals:
        numbers = (each.get("metrics", {}).get(title) for title in HEADLINES)
        rows.append(
            (
                each["name"],
                each.get("detections", "?")[:SHOWN_DIGITS],
                each.get("dataset", "?"),
                each.get("data_fingerprint", "?")[:8],
                *("-" if each.get(name) is None else f"{each[name]}" for name in fields),
                *("-" if number is None else f"{100 * number:.1f}" for number in numbers),
                each.get("finished", "?")[:16].replace("T", " "),
                (each["problem"].splitlines() or [""])[0][:80],
            )
        )
    return aligned(rows)


def show_external(external: External, *, verify: bool, by_video: bool, as_json: bool) -> None:
    """Others' numbers, and whose they are. Raises RequestError where its record cannot be read."""
    from ssldet.cli.evaluate import show_results
    from ssldet.errors import RequestError
    from ssldet.runs.listing import check_recorded, external_summary

    record = external.record
    if record is None:
        raise RequestError(external.problem)
    if by_video:
        raise RequestError(f"{external.name} is external and keeps no detections, so that --videos has nothing to sort")
    checked = check_recorded(external.folder, record.files) if verify else {}
    if as_json:
        content = external_summary(external) | {"record": record.model_dump(mode="json")}
        print_json(content | ({"files": checked} if verify else {}))
    else:
        show_results(record.metrics)
        click.echo("\n" + aligned([("", ""), *_about_external(external, record)]).strip("\n"))
        files = [(name, digest[:16], checked.get(name, "")) for name, digest in record.files.items()]
        click.echo("\n" + aligned([("file", "sha-256", "content"), *files]))
        next_step(f"`ssldet compare {external.name} RUN` holds it against a run, `ssldet table` shows it beside all")
    if set(checked.values()) - {"whole"}:
        sys.exit(1)


def _about_external(external: External, record: ExternalRecord) -> list[tuple[str, str]]:
    from ssldet.runs.external import SHOWN_DIGITS

    return [
        ("external", f"{record.name}: others' detections, no run of ours"),
        ("folder", str(external.folder)),
        ("detections", f"{record.source}, SHA-256 {record.detections}"),
        ("data", f"{record.dataset_name}, split {record.split}, fingerprint {record.data_fingerprint[:SHOWN_DIGITS]}"),
        ("videos", f"{record.evaluated} evaluated{'' if record.videos is None else ', as listed'}"),
        ("author states", ", ".join(record.stated) or "neither ratio nor seed"),
        ("scored by", f"ssldet {record.ssldet}, {record.finished}"),
    ]

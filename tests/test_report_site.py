"""`ssldet report`: pages that link to each other, escape what records say, and name what they could not show."""

from __future__ import annotations

import json
import math
import re
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
import yaml
from click.testing import CliRunner, Result
from made_records import config_of, record_of, write_interrupted, write_record
from made_site import HOSTILE, Links, log_line, write_hostile, write_log, write_results

from ssldet import cli
from ssldet.errors import RequestError
from ssldet.report import tables
from ssldet.report.run_selection import Run
from ssldet.report.site import SiteSummary, build_site
from ssldet.report.site import build as building
from ssldet.report.site import compare_page as compare_pages
from ssldet.report.site import run_page as run_pages
from ssldet.report.site.charts import MOST_POINTS, Dot, Series, line_chart, number, scatter_chart
from ssldet.report.worst_videos import VideoResult, WorstVideos, worst_videos
from ssldet.runs.store import find_run, find_runs


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Good runs beside one that is full of hostile text, one that was interrupted, and one whose record is damaged."""
    root = tmp_path_factory.mktemp("results")
    write_results(root)
    write_hostile(root)
    write_interrupted(root, config_of("Mean-Teacher"))
    damaged = write_record(root, record_of(config_of("Mean-Teacher", ratio=0.3)))
    (damaged / "record.json").write_text('{"schema_version": 3, "id": "dead')
    return root


@pytest.fixture(scope="module")
def written(results: Path, tmp_path_factory: pytest.TempPathFactory) -> SiteSummary:
    """The report of them, with one of the paper's tables and that of the data set."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tables, "all_names", lambda: ["3"])
        return build_site([results], tmp_path_factory.mktemp("site") / "pages")


@pytest.fixture(scope="module")
def site(written: SiteSummary) -> Path:
    return written.index.parent


@pytest.fixture
def without_tables(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave out the tables, which take seconds, where a test is of something else."""
    monkeypatch.setattr(building.table_pages, "filled_tables", lambda collection, remarks: {})


def pages(site: Path) -> Iterator[Path]:
    return site.rglob("*.html")


def corners(path: str) -> tuple[np.ndarray, np.ndarray]:
    """x and y of the points of a line, which begins at one and goes on in steps."""
    steps = np.array([float(number) for number in re.findall(r"-?[\d.]+", path)]).reshape(-1, 2)
    xs, ys = np.cumsum(steps, axis=0).T
    return xs, ys


def page_of(site: Path, title: str) -> Path:
    return next(page for page in pages(site) if f"<h1>{title}</h1>" in page.read_text())


def ssldet(*arguments: object) -> Result:
    return CliRunner().invoke(cli.main, ["report", *map(str, arguments)])


# ------------------------------------------------------------------------------------------- links and safety


def test_every_link_leads_to_a_page_or_a_place_in_one(site: Path) -> None:
    ids = {page.resolve(): set(Links(page).ids) for page in pages(site)}
    assert len(ids) > 10
    for page in pages(site):
        for link in Links(page).links:
            place, _, fragment = link.partition("#")
            target = (page.parent / place).resolve() if place else page.resolve()
            assert target.is_file() and site.resolve() in target.parents, (page, link)
            assert not fragment or fragment in ids[target], (page, link)


def test_nothing_that_a_record_says_becomes_markup(site: Path) -> None:
    for page in pages(site):
        found = Links(page)
        assert set(found.scripts) == {("../" if page.parent != site else "") + "assets/site.js"}, page
        assert "\x1b" not in page.read_text(encoding="utf-8")
    said = [page for page in pages(site / "runs") if "owned" in page.read_text()]
    assert len(said) == 1 and said[0].name == f"run-{len(list(pages(site / 'runs')))}.html"
    shown = " ".join(HOSTILE.replace("\x1b", "\N{REPLACEMENT CHARACTER}").split())
    assert Links(said[0]).text.count(shown) > 8


def test_an_id_is_given_once_on_a_page(site: Path) -> None:
    for page in pages(site):
        ids = Links(page).ids
        assert len(ids) == len(set(ids)), page


# --------------------------------------------------------------------------------------------------- content


def test_the_leaderboard_has_a_row_a_configuration(results: Path, site: Path) -> None:
    text = (site / "index.html").read_text()
    assert text.count('<tr id="row-') == 3
    values = [
        json.loads(path.read_text())["metrics"]["video_map"]["yowo"]["thresholds"]["0.5"]["mean"]
        for path in sorted(results.glob("*dual_guidance*/record.json"))
    ]
    mean, spread = 100 * float(np.mean(values)), 100 * float(np.std(values, ddof=1))
    shown = Links(site / "index.html").text
    assert f"{mean:.1f} ± {spread:.1f}" in shown
    assert "1.0 [1.0, " in shown  # the mean rank of the better one


def test_others_numbers_stand_below_the_leaderboard(site: Path) -> None:
    text = Links(site / "index.html").text
    assert "Others' detections, scored here" in text and "V@0.5 20.0" in text


def test_a_cell_of_a_table_leads_to_its_runs(results: Path, site: Path) -> None:
    tables = list(pages(site / "tables"))
    ids = {path.parent.name.rpartition("-")[2] for path in results.glob("*dual_guidance*/record.json")}
    links = {link for table in tables for link in Links(table).links if "/runs/" in link}
    assert {f"../runs/{run_id}.html" for run_id in ids} <= links
    assert any("../compare/" in link for table in tables for link in Links(table).links)


def test_the_page_of_a_run_has_all_that_log_and_record_say(site: Path) -> None:
    text = Links(page_of(site, "Dual Guidance")).text
    for words in (
        *("Loss term box", "box_u", "Loss term frame", "Pseudo-boxes", "precision", "teacher", "Learning rate"),
        *("o_th", "Precision over recall", "Videos, the worst first", "data fingerprint", "--config run.yaml"),
        "against Supervised at 20 %: V@0.5",
    ):
        assert words in text, words


def test_the_page_of_videos_has_the_scores_of_all_approaches(results: Path, site: Path) -> None:
    text = Links(site / "videos" / "1.html").text
    folder = next(results.glob("*dual_guidance*seed0*"))
    scored = worst_videos(find_run(folder.name.rpartition("-")[2], find_runs([results])))
    assert all(video.id in text for video in scored.videos) and "Supervised" in text
    links = {link for page in pages(site / "compare") for link in Links(page).links}
    assert any(link.startswith("../videos/1.html#v-") for link in links)
    assert "../videos/1.html" in Links(page_of(site, "Dual Guidance")).links


@pytest.mark.usefixtures("without_tables")
def test_runs_of_other_videos_have_a_page_of_their_own(
    results: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("dual_guidance", "supervised"):
        shutil.copytree(next(results.glob(f"*{name}*seed0*")), tmp_path / "results" / name)
    monkeypatch.setattr(run_pages, "worst_videos", lambda entry, root: WorstVideos("yowo", (video_of(entry.id),)))
    build_site([tmp_path / "results"], tmp_path / "pages")
    found = sorted(pages(tmp_path / "pages" / "videos"))
    assert len(found) == 2
    for page in found:
        assert len([link for link in Links(page).links if link.startswith("../runs/")]) == 1


def video_of(name: str) -> VideoResult:
    return VideoResult(name, ("run",), {"F@0.5": 0.25, "V@0.5": None}, {})


def test_the_settings_of_a_run_make_it_again(site: Path) -> None:
    page = page_of(site, "Dual Guidance")
    again = yaml.safe_load(page.with_suffix(".yaml").read_text())
    expected = config_of("Dual Guidance").model_dump(mode="json")["experiment"]
    assert {**again["experiment"], "seed": 0} == expected
    assert "results" not in again["machine"]


def test_a_comparison_has_the_numbers_of_the_verb(results: Path, site: Path) -> None:
    page = next(page for page in pages(site / "compare") if "contrasted in a table" in page.read_text())
    command = next(line for line in page.read_text().splitlines() if "ssldet compare" in line)
    arguments = command.partition("ssldet compare ")[2].partition("<")[0].split()
    shown = CliRunner().invoke(cli.main, ["compare", *arguments, "--json"])
    column = json.loads(shown.stdout)["columns"][0]
    text = Links(page).text
    low, high = (100 * column["over_videos"][end] for end in ("low", "high"))
    assert f"{100 * column['difference']:+.2f}" in text and f"[{low:+.2f}, {high:+.2f}]" in text


def test_a_comparison_says_first_what_it_establishes_and_leads_to_others(site: Path) -> None:
    several = [page for page in pages(site / "compare") if "over 2 seeds" in page.read_text()]
    alone = [page for page in pages(site / "compare") if "with one seed of each: no order" in page.read_text()]
    assert several and alone
    assert all("the interval over seeds" in Links(page).text for page in several)
    assert any("See also" in Links(page).text for page in several)


def test_a_comparison_says_what_each_side_was_given(site: Path) -> None:
    page = next(page for page in pages(site / "compare") if "contrasted in a table" in page.read_text())
    text = " ".join(Links(page).text.split())
    assert "Loss terms box, box_u, frame" in text and "unlabelled_ratio" not in text.partition("Training")[0]
    assert "f_th 0.8, o_th 0.4 none" in text and "Right among pseudo-boxes 80.0 %" in text
    assert "../terms.html#control" in Links(page).links


@pytest.mark.usefixtures("without_tables")
def test_a_comparison_with_a_run_that_keeps_no_log_says_so_once(results: Path, tmp_path: Path) -> None:
    for name in ("dual_guidance", "supervised"):
        shutil.copytree(next(results.glob(f"*{name}*seed0*")), tmp_path / "results" / name)
    (tmp_path / "results" / "supervised" / "log.jsonl").unlink()
    build_site([tmp_path / "results"], tmp_path / "pages")
    [page] = pages(tmp_path / "pages" / "compare")
    text = Links(page).text
    assert text.count("the run keeps no log.jsonl") == 1 and "Clips with gradients" in text


@pytest.mark.usefixtures("without_tables")
def test_frame_labels_are_drawn_of_networks_that_learn_them(results: Path, tmp_path: Path) -> None:
    run = next(results.glob("*dual_guidance*seed0*"))
    copy = shutil.copytree(run, tmp_path / "results" / run.name)
    labels = {"frame_coverage": 0.0, "box_coverage": 0.4}
    for losses, drawn in (({"box": 1.0, "frame": 1.0}, True), ({"box": 1.0}, False)):
        write_log(copy, [log_line(step, losses=losses, pseudo_labels=labels) for step in (10, 20)])
        build_site([tmp_path / "results"], tmp_path / "pages")
        text = Links(page_of(tmp_path / "pages", "Dual Guidance")).text
        assert "Pseudo-boxes" in text and ("Pseudo-labels of frames" in text) == drawn


@pytest.mark.usefixtures("without_tables")
def test_warnings_of_the_log_stand_at_the_top_of_pages(results: Path, tmp_path: Path) -> None:
    run = next(results.glob("*dual_guidance*seed0*"))
    copy = shutil.copytree(run, tmp_path / "results" / run.name)
    shutil.copytree(next(results.glob("*supervised*seed0*")), tmp_path / "results" / "other")
    write_log(copy, [log_line(10, warnings=["no pseudo-label was accepted"])])
    build_site([tmp_path / "results"], tmp_path / "pages")
    text = Links(page_of(tmp_path / "pages", "Dual Guidance")).text
    assert text.index("no pseudo-label was accepted") < text.index("Loss term box")
    [page] = pages(tmp_path / "pages" / "compare")
    text = Links(page).text
    assert text.index("Dual Guidance, step 10: no pseudo-label was accepted") < text.index("What each was given")


@pytest.mark.usefixtures("without_tables")
def test_all_that_a_comparison_shows_is_of_the_seeds_that_both_sides_have(
    results: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for run in [*results.glob("*supervised*"), *results.glob("*dual_guidance*seed0*")]:
        shutil.copytree(run, tmp_path / "results" / run.name)
    seeds: list[list[int]] = []

    def mean_kinds(runs: Sequence[Run]) -> dict[str, float]:
        seeds.append([run.experiment.seed for run in runs])
        return {"correct": 0.5}

    monkeypatch.setattr(compare_pages, "_mean_kinds", mean_kinds)
    built = build_site([tmp_path / "results"], tmp_path / "pages")
    assert sorted(seeds) == [[0], [0], [0], [1]]  # of both strategies, and of the two seeds of one
    links = Links(built.index).text
    assert "(seed 0 alone)" in links and "(2 seeds)" not in links


# ------------------------------------------------------------------------------------- damaged, absent, refused


def test_a_half_damaged_folder_lists_what_it_left_out(written: SiteSummary, site: Path) -> None:
    assert {each.kind for each in written.left_out} == {"interrupted", "damaged"}
    text = Links(site / "index.html").text
    assert "2 runs left out" in text and "it has no record" in text and "no readable record" in text


@pytest.mark.usefixtures("without_tables")
@pytest.mark.parametrize("name", ["log.jsonl", "per_video.parquet"])
@pytest.mark.parametrize("damage", ["absent", "rubbish"])
def test_a_run_lacks_what_its_folder_lacks_and_says_so(name: str, damage: str, results: Path, tmp_path: Path) -> None:
    run = next(results.glob("*dual_guidance*seed0*"))
    copy = shutil.copytree(run, tmp_path / "results" / run.name)
    (copy / name).unlink() if damage == "absent" else (copy / name).write_bytes(b'[{"step": "\xff"}\n')
    build_site([tmp_path / "results"], tmp_path / "pages")
    text = Links(page_of(tmp_path / "pages", "Dual Guidance")).text
    assert "All numbers" in text and "How it was made" in text
    if (name, damage) != ("log.jsonl", "rubbish"):  # a log is read up to the first line that is not whole
        assert "Not on this page" in text and name in text
    assert ("Loss term" in text) == (name != "log.jsonl")


@pytest.mark.usefixtures("without_tables")
def test_a_log_is_shown_up_to_the_line_of_the_wrong_form(results: Path, tmp_path: Path) -> None:
    run = next(results.glob("*dual_guidance*seed0*"))
    copy = shutil.copytree(run, tmp_path / "results" / run.name)
    write_log(copy, [log_line(10), log_line(20, losses=[1, 2], pseudo_labels="none"), log_line(30)])
    build_site([tmp_path / "results"], tmp_path / "pages")
    text = Links(page_of(tmp_path / "pages", "Dual Guidance")).text
    assert "Its last 1 line" in text and "Loss term box" in text and "Precision over recall" in text


def test_a_folder_without_records_is_refused(tmp_path: Path) -> None:
    write_interrupted(tmp_path, config_of())
    refused = ssldet("--results", tmp_path, "--out", tmp_path / "pages")
    assert refused.exit_code == 2 and "has a record that can be read" in refused.stderr
    assert "it has no record" in refused.stderr
    assert not (tmp_path / "pages").exists()


def test_what_is_no_report_is_not_overwritten(results: Path, tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years")
    with pytest.raises(RequestError, match="something else than a report"):
        build_site([results], tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_a_report_is_replaced_when_the_new_one_is_whole(
    results: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "pages"
    out.mkdir()
    (out / building.MARK).write_text("")
    (out / "index.html").write_text("old")
    monkeypatch.setattr(building._Site, "write", lambda site: (site.folder / "index.html").write_text("new") and 1 / 0)
    with pytest.raises(ZeroDivisionError):
        build_site([results], out)
    assert (out / "index.html").read_text() == "old"
    monkeypatch.setattr(building._Site, "write", lambda site: (site.folder / "index.html").write_text("new"))
    build_site([results], out)
    assert (out / "index.html").read_text() == "new"
    assert [path.name for path in tmp_path.iterdir()] == ["pages"]


# ---------------------------------------------------------------------------------------------------- charts


def test_lines_are_thinned_and_keep_their_ends() -> None:
    chart = line_chart("t", [Series("a", range(5000), [1.0] * 5000)], x_title="step")
    assert chart and chart.lines[0].points == MOST_POINTS
    xs, ys = corners(chart.lines[0].path)
    assert xs[0] == chart.left and xs[-1] == pytest.approx(chart.right)
    assert set(np.round(ys, 1)) == {ys[0]}


def test_a_path_is_what_it_is_made_of_in_few_characters() -> None:
    values = [0.0, 3.0, 0.1, 0.11, 1.0]
    chart = line_chart("t", [Series("a", range(5), values)], x_title="", y_range=(0.0, 3.0))
    assert chart
    xs, ys = corners(chart.lines[0].path)
    scale = (chart.bottom - chart.top) / 3
    np.testing.assert_allclose(ys, [chart.bottom - scale * value for value in values], atol=0.051)
    np.testing.assert_allclose(xs, np.linspace(chart.left, chart.right, 5), atol=0.051)
    assert len(chart.lines[0].path) < 50


def test_a_line_without_numbers_keeps_its_style_for_others() -> None:
    chart = line_chart("t", [Series("a", [], []), Series("b", [1, 2], [0.0, 1.0])], x_title="")
    assert chart and [(line.name, line.style) for line in chart.lines] == [("b", 1)]


def test_what_is_not_finite_is_left_out() -> None:
    chart = line_chart(
        "t", [Series("a", [1, 2, 3], [math.nan, 1.0, math.inf]), Series("b", [1], [math.nan])], x_title=""
    )
    assert chart and [(line.name, line.points) for line in chart.lines] == [("a", 1)]
    assert line_chart("t", [Series("b", [1], [math.nan])], x_title="") is None
    assert scatter_chart("t", [Dot("a", math.nan, 1, "p", "r")], x_title="", y_title="") is None


@pytest.mark.parametrize("ys", [[0.0], [0.0, 0.0], [-3.0, -3.0], [1e-9, 2e-9], [1e12, 3e12], [-1.0, 5.0]])
def test_every_range_has_round_ticks_in_order_within_the_drawing(ys: list[float]) -> None:
    chart = line_chart("t", [Series("a", range(len(ys)), ys)], x_title="step")
    assert chart
    places = [tick.at for tick in chart.y_ticks]
    assert 2 <= len(places) <= 7 and places == sorted(places, reverse=True)
    assert all(chart.top <= place <= chart.bottom for place in places)


@pytest.mark.parametrize(
    ("value", "words"), [(0.0123456, "0.0123"), (12345.6, "12.3k"), (2.5e6, "2.5M"), (700, "700"), (10.985, "10.98")]
)
def test_numbers_are_short(value: float, words: str) -> None:
    assert number(value) == words


# ------------------------------------------------------------------------------------------------ the verb


@pytest.mark.usefixtures("without_tables")
def test_the_verb_says_what_it_wrote(results: Path, tmp_path: Path) -> None:
    said = ssldet("--results", results, "--out", tmp_path / "pages", "--json")
    content = json.loads(said.stdout)
    assert said.exit_code == 0 and content["runs"] == 5 and content["comparisons"] > 2
    assert Path(content["index"]).is_file() and len(content["left_out"]) == 2

"""`ssldet table`: each format read back, hostile names escaped, and what is asked wrongly."""

from __future__ import annotations

import csv
import io
import json
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from made_records import config_of, record_of, write_record, write_run
from rich.console import Console

from ssldet import cli
from ssldet.benchmark.cells import DatasetChoice, Settings
from ssldet.cli.table import FORMATS
from ssldet.errors import UnknownName
from ssldet.report import rendering
from ssldet.report.document import Block, Document, Section, TextRow
from ssldet.report.documents import of_table
from ssldet.report.run_selection import LeftOut, collect_runs
from ssldet.report.table_data import TableRequest
from ssldet.report.tables import build_table

HOSTILE = '=<script>alert("1")</script> & \\input{x} | `_*$%#@name'


def ssldet(*arguments: object) -> Result:
    return CliRunner().invoke(cli.main, ["table", *map(str, arguments)])


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two seeds of two rows of Table 3, a hostile plugin, a failed run and one with other settings."""
    root = tmp_path_factory.mktemp("runs")
    for seed in (0, 1):
        write_run(root, "Supervised", 0.1, seed=seed)
        write_run(root, "Dual Guidance", 0.2 + seed / 10, seed=seed)
    config = config_of(strategy=HOSTILE, strategy_options={})
    write_record(root, record_of(config, 0.5), name="hostile-split1-seed0-0123456789ab")
    write_run(root, "FixMatch", None, status="failed", notes={"error": HOSTILE})
    write_run(root, "Mean-Teacher", detect=config_of().experiment.detect.model_copy(update={"nms_iou": 0.9}))
    return root


NEXT = "next: `ssldet compare A B` tests a difference for chance; `--out FILE.html` keeps the table\n"
"""All that a table for people says on stderr; the other formats are for programs, which say nothing."""


def printed(runs: Path, form: str, *more: object) -> str:
    result = ssldet(3, "--results", runs, "--format", form, *more)
    assert (result.exit_code, result.stderr) == (0, NEXT if form == "terminal" else "")
    return result.stdout


def test_runs_on_listed_videos_are_shown_with_the_same_list(tmp_path: Path) -> None:
    write_run(tmp_path, "Supervised", 0.1)
    write_run(tmp_path, "Supervised", 0.2, videos=("x", "y"))
    (tmp_path / "list.txt").write_text("y\nx\n")
    more = ("--preset", "nano", "--videos", tmp_path / "list.txt")
    found = json.loads(printed(tmp_path, "json", *more))["tables"][0]
    assert found["videos"] == ["x", "y"]
    assert {row["mean"] for row in found["entries"] if row["mean"] is not None} == {20}
    assert ssldet(3, "--results", tmp_path, "--videos", ",").exit_code == 2


@pytest.mark.parametrize(
    ("fields", "options"),
    [
        (("backbone=yowo_lite",), ("--backbone", "yowo_lite")),
        (("eval_on=val", "val_fraction=0.25"), ("--eval-on", "val", "--set", "val_fraction=0.25")),
        (("backbone=yowo_lite", "eval_on=test"), ("--eval-on", "test", "--backbone", "yowo_lite")),
    ],
)
def test_runs_of_a_network_or_on_validation_videos_are_shown_with_the_same_options(
    tmp_path: Path, fields: tuple[str, ...], options: tuple[str, ...]
) -> None:
    write_run(tmp_path, "Supervised", 0.1)
    write_run(tmp_path, "Supervised", 0.2, settings=Settings("nano", assignments=fields))
    for given, mean in ((), 10), (options, 20), (("--preset", "nano", *options), 20):
        shown = json.loads(printed(tmp_path, "json", *given))["tables"][0]
        assert {row["mean"] for row in shown["entries"] if row["mean"] is not None} == {mean}


# -------------------------------------------------------------------------------------------------- formats


def test_the_command_offers_the_formats_that_exist() -> None:
    assert tuple(rendering.FORMATS) == FORMATS
    assert set(rendering.SUFFIXES.values()) == set(FORMATS)
    with pytest.raises(UnknownName, match="unknown format 'yaml'"):
        rendering.render([], "yaml")


def test_terminal_fits_100_columns_without_control_codes(runs: Path) -> None:
    text = printed(runs, "terminal")
    assert max(map(len, text.splitlines())) <= 100 and "\x1b" not in text
    assert "25.0±7.1†" in text and "(34.8)" in text and "not run" in text
    assert "Preset nano, data jhmdb" in text and "video_map, protocol yowo" in text
    assert "+15.0" in text and "[-48.5, +78.5]" in text  # 15 +- 12.706 x 7.071 / sqrt(2)
    assert "Left out, failed: " in text and "detect.nms_iou 0.9 instead of None" in text


def test_a_wide_terminal_shows_a_table_in_one_part(runs: Path) -> None:
    document = of_table(build_table("3", collect_runs([runs]), TableRequest()))
    console = Console(file=io.StringIO(), width=180)
    rendering.show([document], console)
    heads = [line for line in console.file.getvalue().splitlines() if re.match(r" +V@0\.1 .*V@0\.5", line)]
    assert len(heads) == 2  # numbers and differences


def test_in_a_terminal_a_metric_stands_once_above_its_ratios(runs: Path) -> None:
    lines = printed(runs, "terminal").splitlines()
    metrics, rules, ratios = lines[(first := next(i for i, line in enumerate(lines) if "V@0.1  " in line)) : first + 3]
    assert metrics.split() == ["V@0.1", "V@0.2", "V@0.5"][: len(metrics.split())]
    assert ratios.split() == ["20", "%", "30", "%", "all"] * len(metrics.split())
    for title, rule in zip(re.finditer(r"V@\S+", metrics), re.finditer("─+", rules), strict=True):
        assert abs((title.start() + title.end()) - (rule.start() + rule.end())) <= 1
        assert ratios[rule.start() : rule.end()].split() == ["20", "%", "30", "%", "all"]


def test_a_head_that_is_wider_than_its_columns_widens_them() -> None:
    columns = (("a metric of a long name", "5 %"), ("b", "5 %"), ("b", "10 %"))
    block = Block("", columns, (Section("", (TextRow("row", (("1",), ("2",), ("3",))),)),))
    text = rendering.terminal([Document("9", "Table 9", (), (block,), (), (), (), {})])
    _, _, metrics, rules, ratios, _, numbers = text.splitlines()[:7]
    assert [found.span() for found in re.finditer("─+", rules)] == [(18, 41), (43, 52)]
    assert metrics.split("  ")[-1].strip() == "b" and "a metric of a long name" in metrics
    assert [found.end() for found in re.finditer(r"\d+ %", ratios)] == [41, 46, 52]
    assert [found.end() for found in re.finditer(r"\d", numbers)] == [41, 46, 52]


def test_markdown_has_one_number_of_cells_a_row(runs: Path) -> None:
    text = printed(runs, "markdown")
    grids = re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE)
    assert len(grids) == 2
    for grid in grids:
        assert len({len(re.findall(r"(?<!\\)\|", line)) for line in grid.splitlines()}) == 1
    assert grids[0].startswith("|  | V@0.1 |  |  | V@0.2 |  |  | V@0.5 |  |  |\n|---|---:|")
    assert grids[0].splitlines()[2] == "|  |" + " **20 %** | **30 %** | **all** |" * 3
    assert "| Dual Guidance | 25.0 ± 7.1† (14.1) |" in text
    assert "<script>" not in text.replace("\\<", "") and "`_" not in text and " @" not in text


def test_latex_has_its_columns_and_nothing_active(runs: Path) -> None:
    text = printed(runs, "latex")
    assert text.count("\\begin{table}") == text.count("\\end{table}") == 2
    body = [line for line in text.splitlines() if line.endswith("\\\\") and "multicolumn" not in line]
    assert {len(re.findall(r"(?<!\\)&", line)) for line in body} == {3, 9}
    assert "\\begin{tabular}{lrrrrrrrrr}" in text and "\\cmidrule(lr){2-4}" in text
    assert r"25.0 $\pm$ 7.1\dag{} (14.1)" in text
    assert "\\input" not in text and r"\textbackslash{}input\{x\}" in text
    assert r"\_*\$\%\#@name" in text


class Page(HTMLParser):
    """What a browser would see: tags, and the columns of each row."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.widths: list[int] = []
        self.scopes: list[str | None] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        known = {"lang", "charset", "colspan", "span", "scope", "class"} | (
            {"name", "content"} if tag == "meta" else set()
        )
        assert not {name for name, _ in attrs} - known
        if tag == "th":
            self.scopes.append(dict(attrs).get("scope"))
        if tag == "tr":
            self.widths.append(0)
        elif tag in ("td", "th"):
            self.widths[-1] += int(dict(attrs).get("colspan") or 1)

    def handle_data(self, data: str) -> None:
        self.text += data


def test_html_is_one_page_with_all_text_escaped(runs: Path) -> None:
    page = Page(printed(runs, "html"))
    assert not {"script", "img", "link", "a"} & set(page.tags)
    assert (page.tags.count("table"), set(page.widths)) == (2, {4, 10})  # differences at 20 % alone
    assert page.scopes[:12] == ["colgroup"] * 3 + ["col"] * 9  # metrics, then ratios
    assert None not in page.scopes and page.tags.count("colgroup") == 4 + 4
    assert HOSTILE in page.text and "25.0 ± 7.1†" in page.text
    assert "2 runs left out" in page.text


def test_html_folds_rows_without_a_run_and_breaks_no_number(runs: Path) -> None:
    text = printed(runs, "html")
    folded = re.findall(r"<summary>(\d+) rows not run</summary>", text)
    assert len(folded) == 1
    unrun = re.findall(r"<tr><th scope=\"row\">Supervised, equal clips</th>", text)
    assert not unrun and text.count("Supervised, equal clips</li>") == 2
    assert "white-space: nowrap" in text and text.count('<div class="wide">') == text.count("<table>")


def test_html_is_at_home_in_a_narrow_window(runs: Path) -> None:
    """A phone draws a page without viewport 980 pixels wide; labels stay in sight while numbers are scrolled."""
    head, _, body = printed(runs, "html").partition("<body>")
    assert '<meta name="viewport" content="width=device-width, initial-scale=1">' in head
    rules = dict(re.findall(r"^(\S+) \{ (.+) \}$", head, re.MULTILINE))
    assert {"white-space: normal", "position: sticky"} <= set(rules["th[scope=row]"].split("; "))
    assert rules["li"] == "overflow-wrap: anywhere", "the folder of a run that was left out may be long"
    assert '<th scope="row">' in body


def test_csv_has_every_number_and_computes_nothing(runs: Path) -> None:
    text = printed(runs, "csv")
    rows = list(csv.DictReader(io.StringIO(text)))
    numbers = [row for row in rows if row["kind"] == "number"]
    (ours,) = [
        r
        for r in numbers
        if (r["approach"], r["pretrained"]) == ("Dual Guidance", "False")
        and r["ratio"] == "0.2"
        and r["column"] == "V@0.5"
    ]
    assert (float(ours["mean"]), ours["n"], ours["seeds"], ours["paper"]) == (pytest.approx(25), "2", "0;1", "6.3")
    assert float(ours["difference"]) == pytest.approx(15) and len(ours["runs"].split(";")) == 2
    assert {row["left_out_for"] for row in rows if row["kind"] == "left out"} == {"failed", "other settings"}
    assert any(row["approach"] == "'" + HOSTILE for row in numbers)
    assert not [value for row in rows for value in row.values() if value.startswith(("=", "+", "@"))]


def test_json_has_everything(runs: Path) -> None:
    (table,) = json.loads(printed(runs, "json"))["tables"]
    assert (table["table"], table["preset"], table["dataset"], table["seeds"]) == ("3", "nano", "jhmdb", [0, 1])
    (ours,) = [
        e for e in table["entries"] if e["approach"] == HOSTILE and (e["ratio"], e["column"]) == ("0.2", "V@0.5")
    ]
    assert (ours["row"], ours["mean"], ours["n"], ours["expected"]) == ("plugin", 50, 1, 2)
    assert ours["marks"] == ["partial", "other preset"] and len(ours["runs"]) == 1
    assert (ours["difference"], ours["difference_low"], ours["difference_note"]) == (
        40,
        None,
        "no interval over seeds from one pair of seeds",
    )
    assert {found["reason"] for found in table["left_out"]} >= {HOSTILE, "detect.nms_iou 0.9 instead of None"}
    assert len(table["entries"]) == 53 + 36 + 6  # the paper's, the controls, the plugin's


def test_all_that_a_template_puts_in_is_escaped() -> None:
    """Whatever field it comes from: nothing is left to the template to remember."""
    row = TextRow(HOSTILE, ((HOSTILE, HOSTILE),) * 2)
    block = Block(HOSTILE, ((HOSTILE, HOSTILE), (HOSTILE, HOSTILE)), (Section(HOSTILE, (row,)),))
    left_out = (LeftOut(HOSTILE, HOSTILE, HOSTILE, HOSTILE),)
    document = Document("9", HOSTILE, (HOSTILE,), (block, block), (HOSTILE,), (), left_out, {})
    page = Page(rendering.render([document], "html"))
    assert page.text.count(HOSTILE) == 8 + 2 * 10 and "script" not in page.tags
    for form, active in (("latex", r"<script>|\\input|(?<!\\)[$#]"), ("markdown", r"(?<!\\)[<`$~]|[^;]@")):
        text = rendering.render([document], form)
        body = [line for line in text.splitlines() if "script" in line and not line.startswith("##")]
        assert len(body) > 9 and not [line for line in body if re.search(active, line)]


def test_several_splits_have_a_column_for_their_mean(tmp_path: Path) -> None:
    for split in (1, 2, 3):
        write_run(tmp_path, value=split / 10, split=split)
    (table,) = json.loads(printed(tmp_path, "json", "--splits", "1,2,3"))["tables"]
    ours = [e for e in table["entries"] if e["mean"] is not None and e["column"] == "V@0.5"]
    assert [(e["split"], e["mean"], e["paper"]) for e in ours] == [("split 1", 10, 1.1), ("mean of 3 splits", 20, None)]
    text = printed(tmp_path, "terminal", "--splits", "1,2,3")
    assert "mean of 3" in text and max(map(len, text.splitlines())) <= 100
    assert "There is no split 2, 3 of these data." in ssldet(2, "--results", tmp_path, "--splits", "1,2,3").stdout


def test_no_format_for_people_passes_on_what_steers_a_terminal(tmp_path: Path) -> None:
    write_run(tmp_path, value=None, status="failed", notes={"error": "\x1b[2Jgone\nnext line\x07"})
    for form in ("terminal", "markdown", "latex", "html"):
        text = printed(tmp_path, form)
        assert "gone next line" in text and not {"\x1b", "\x07"} & set(text)


# -------------------------------------------------------------------------------------------------- command


def test_all_tables_without_any_run(tmp_path: Path) -> None:
    result = ssldet("--results", tmp_path, "--format", "json")
    tables = json.loads(result.stdout)["tables"]
    assert (result.exit_code, [table["table"] for table in tables]) == (0, ["1", "2", "3", "4", "5", "6"])
    assert {e["paper_elsewhere"][0] for t in tables for e in t["entries"] if e.get("paper_elsewhere")} == {
        "35.2 in Table 5",
        "34.9 in Table 2",
        "9.8 in Sec. 4.5.1",
    }
    text = ssldet(2, "--results", tmp_path).stdout
    assert "(34.9)[1]" in text and "[1] for this 34.9 the paper also prints 35.2 in Table 5" in text
    assert "not run" in text and "(82.5)" in text and "seeds (none found)" in text


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["9"], "unknown table '9' (known: 1, 2, 3, 4, 5, 6, 7, 8)"),
        (["3", "--format", "yaml"], "'terminal', 'markdown', 'latex', 'csv', 'json', 'html'"),
        (["3", "--seeds", "0,x"], "expected whole numbers from 0, such as 0,1,2"),
        (["3", "--seeds", "-1"], "expected whole numbers from 0"),
        (["3", "--splits", "0"], "expected whole numbers from 1, such as 1,2,3"),
        (["3", "--splits", "4"], "jhmdb has no split 4 (known: 1, 2, 3)"),
        (["3", "--preset", "nana"], "unknown preset 'nana'; did you mean 'nano'? (known: lite, nano, paper, smoke)"),
        (["3", "--dataset-map", "jhmdb"], "expected NAME=NAME[:FLAVOUR]"),
        (["3", "--results", "absent"], "'absent' does not exist"),
    ],
)
def test_what_cannot_be_shown_is_refused(tmp_path: Path, arguments: list[str], said: str) -> None:
    result = ssldet(*arguments, *([] if "--results" in arguments else ["--results", tmp_path]))
    assert (result.exit_code, result.stdout) == (2, "")
    assert said in result.stderr


def test_out_is_written_in_the_format_of_its_suffix(runs: Path, tmp_path: Path) -> None:
    for suffix, form in rendering.SUFFIXES.items():
        result = ssldet(3, "--results", runs, "--out", tmp_path / f"table{suffix}")
        assert (result.exit_code, result.stdout) == (0, "")
        assert (tmp_path / f"table{suffix}").read_text() == printed(runs, form)
    other = tmp_path / "table.md"
    assert ssldet(3, "--results", runs, "--out", other, "--format", "csv").exit_code == 0
    assert other.read_text() == printed(runs, "csv")
    assert ssldet(3, "--results", runs, "--out", other, "--preset", "nana").exit_code == 2
    assert other.read_text() == printed(runs, "csv")


def test_settings_asked_for_are_those_shown(runs: Path) -> None:
    text = printed(runs, "terminal", "--preset", "smoke")
    assert "Preset smoke, data jhmdb." in text and "25.0" not in text
    assert "preset nano: " in text  # the runs are there, and left out
    mapped = printed(runs, "json", "--preset", "nano", "--dataset-map", "jhmdb=synthetic:jhmdb")
    assert json.loads(mapped)["tables"][0]["dataset"] == "synthetic:jhmdb"


def test_the_caption_says_which_settings_were_chosen_and_how_to_see_others(tmp_path: Path) -> None:
    mapped = Settings("smoke", {"jhmdb": DatasetChoice("synthetic", {"flavour": "jhmdb"})})
    write_run(tmp_path)
    for approach in ("Supervised", "Dual Guidance"):
        write_run(tmp_path, approach, settings=mapped)
    caption = " ".join(json.loads(printed(tmp_path, "json"))["tables"][0]["caption"])
    flags = "--preset smoke --dataset-map jhmdb=synthetic:jhmdb"
    assert (
        f"Preset smoke, data synthetic:jhmdb: of what the records hold, this fills most (2 cells); {flags}." in caption
    )
    assert "Records of other settings are shown with: --preset nano (1 cell)." in caption
    assert "10.0†" in printed(tmp_path, "markdown", "--preset", "nano")


def test_table_1_counts_the_data_that_are_there(tmp_path: Path) -> None:
    runner = CliRunner()
    assert runner.invoke(cli.main, ["data", "synth", str(tmp_path / "ucf24"), "--like", "ucf24"]).exit_code == 0
    text = ssldet(1, "--data-root", tmp_path).stdout
    assert "UCF101-24: annotated actions per frame: at most" in text and "J-HMDB-21: not counted" in text
    (table,) = json.loads(ssldet(1, "--data-root", tmp_path, "--format", "json").stdout)["tables"]
    rows = [entry for entry in table["entries"] if entry["dataset"] == "ucf24"]
    assert [row["printed"] for row in rows] == ["one or two", "one", "yes", "no"]
    assert rows[3]["counted"] == "no" and rows[3]["differs"] is False
    assert set(table["absent"]) == {"jhmdb", "ava"}


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys\nfrom ssldet.cli import main\ntry:\n    main(['table', '--help'])\nexcept SystemExit:\n    pass\n"
        "sys.exit(bool({'torch', 'numpy', 'pydantic', 'rich', 'yaml'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True).returncode == 0

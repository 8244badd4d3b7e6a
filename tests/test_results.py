"""Figures of the repository come from kept results: exported MLflow runs, from which every marked table is made."""

import importlib
import json
import re
import shutil
from pathlib import Path

import pytest

from medidiff.errors import InputError, MedidiffError, SettingsError

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "validation" / "results"
KEPT = sorted(path.stem for path in RESULTS.glob("*.json"))


@pytest.fixture
def findings(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "validation"))
    return importlib.import_module("findings")


@pytest.fixture
def tables(findings):
    return importlib.import_module("tables")


@pytest.fixture
def report(findings):
    return importlib.import_module("report")


@pytest.fixture
def kept(tmp_path):
    """A copy of the kept results that a test may spoil."""
    return Path(shutil.copytree(RESULTS, tmp_path / "results"))


def spoil(path, change):
    record = json.loads(path.read_text())
    change(record)
    path.write_text(json.dumps(record))


# --- what stands in the pages is what was measured ------------------------------------------------------------------


def test_every_marked_table_is_what_the_kept_results_give(report, tables):
    differ = report.stale(tables.Results())
    assert not differ, "run `python validation/report.py fill`\n" + "\n".join(differ.values())


def test_a_figure_that_moves_in_a_result_is_missed_in_the_page(report, tables, kept):
    def better(record):
        for point in record["metrics"]["psnr_db/9/medidiff"]:
            point[1] += 0.02

    spoil(kept / "denoising.json", better)
    assert list(report.stale(tables.Results(kept))) == ["README.md"]


def test_a_speed_that_moves_is_missed_in_what_is_said_of_it(report, tables, kept):
    def faster(record):
        record["metrics"]["compute_s/medidiff"][0][1] /= 2

    spoil(kept / "speed-200.json", faster)
    assert list(report.stale(tables.Results(kept))) == ["README.md", "docs/limits.md"]


def test_a_digit_typed_over_in_a_page_is_put_right(report, tables):
    page = (ROOT / "README.md").read_text()
    typed = re.sub(r"(\| 3 % \| noisy \| )\d\d\.\d\d", r"\g<1>99.99", page)
    assert typed != page
    assert report.filled(typed, tables.Results()) == page


def test_a_bar_in_a_cell_does_not_end_it(tables):
    made = tables.Table(("a", "b"), (("|1/f|", "3"),))
    assert made.markdown().splitlines()[-1] == r"| \|1/f\| | 3 |"
    assert "<td>|1/f|</td>" in made.html()


def test_every_block_stands_in_a_page_and_every_mark_is_a_block(report, tables):
    marked = [m[2] for page in report.pages() for m in report.MARK.finditer(page.read_text())]
    assert sorted(marked) == sorted(report.BLOCKS)
    begun = sum(page.read_text().count("<!-- results:") for page in report.pages())
    assert begun == len(marked), "a mark without its end"


@pytest.mark.parametrize(("name", "told"), [("no-such", "no block"), ("harm", "not kept")])
def test_a_block_that_cannot_be_made_is_refused(report, tables, kept, name, told):
    (kept / "harm.json").unlink()
    with pytest.raises(MedidiffError, match=told):
        report.filled(f"<!-- results: {name} -->\n<!-- end -->", tables.Results(kept))


def test_figures_of_other_weights_than_the_bundled_ones_say_so(report, tables, kept):
    found = tables.Results(kept)["denoising"]
    name, weights = found.params["prior"].split()
    mine = dict(found.params) | {"prior": f"{name} {tables.bundled(name)}"}
    other = dict(found.params) | {"prior": f"{name} {weights[::-1]}"}
    assert "not the weights" not in tables.source(type(found)(mine, found.figures))
    assert "not the weights" in tables.source(type(found)(other, found.figures))


# --- what is kept ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", KEPT)
def test_a_kept_result_is_an_exported_run_with_its_command_and_machine(findings, name):
    record = json.loads((RESULTS / f"{name}.json").read_text())
    assert record["status"] == "FINISHED"
    found = findings.read(RESULTS / f"{name}.json")
    assert {"command", "machine", "load", "day", "prior"} <= set(found.params)
    assert found.figures
    assert all(found.figures.values())
    words = found.params["command"].split()
    assert words[0] == "python"
    assert (ROOT / words[1]).is_file()
    parser = importlib.import_module(Path(words[1]).stem).parser()
    again = parser.parse_args(words[2:])  # SystemExit where an option is no more
    assert findings.command(Path(words[1]).stem, parser, again) == found.params["command"]


def raw(tmp_path, params, figures):
    path = tmp_path / "raw" / "study.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps({"finding": {"params": params, "figures": figures}}))
    return path


def test_what_a_command_wrote_is_kept_case_by_case(findings, empty_store, tmp_path):
    shutil.copy(empty_store, tmp_path / "mlflow.db")
    source = raw(tmp_path, {"command": "python validation/harm.py"}, {"psnr_db/3/bm4d": [[2, 31.5], [1, 30.0]]})
    path = findings.keep(source, "study", uri=f"sqlite:///{tmp_path / 'mlflow.db'}", folder=tmp_path / "kept")
    found = findings.read(path)
    assert found.params["command"] == "python validation/harm.py"
    assert found.figures == {"psnr_db/3/bm4d": {1: 30.0, 2: 31.5}}
    assert found.of("psnr_db", 3.0, "BM4D") == [30.0, 31.5]
    with pytest.raises(KeyError):
        found.of("psnr_db", 9.0, "BM4D")


@pytest.mark.parametrize(
    ("params", "name", "told"),
    [
        ({"data": "/home/someone/scans"}, "study", "E-PRIVATE"),
        ({"command": "x"}, "../study", "E-SETTING"),
        ({"command": "x"}, "Study", "E-SETTING"),
    ],
)
def test_what_must_not_be_published_is_not_kept(report, tmp_path, capsys, params, name, told):
    source = raw(tmp_path, params, {"psnr_db": [[1, 30.0]]})
    assert report.main(["keep", str(source), name, "--results", str(tmp_path / "kept")]) == 2
    assert told in capsys.readouterr().err
    assert not (tmp_path / "kept").exists()


@pytest.mark.parametrize("text", ["{}", "[]", "{", '{"finding": {}}'])
def test_a_file_without_a_finding_is_refused(findings, tmp_path, text):
    path = tmp_path / "raw.json"
    path.write_text(text)
    with pytest.raises(MedidiffError, match="E-DATA"):
        findings.keep(path, "study", folder=tmp_path)
    with pytest.raises(MedidiffError, match="E-DATA"):
        findings.read(path)


def test_rows_become_figures_by_name_and_case(findings):
    rows = [{"scan": n, "level": 3.0, "method": "BM4D, unbiased", "psnr_db": 30.0 + n} for n in (1, 2)]
    assert findings.series(rows, by=("level", "method"), values=("psnr_db",)) == {
        "psnr_db/3/bm4d unbiased": {1: 31.0, 2: 32.0}
    }
    infinite = [{"scan": 1, "method": "x", "psnr_db": float("inf"), "ssim": 1.0}]
    assert findings.series(infinite, by=("method",), values=("psnr_db", "ssim")) == {"ssim/x": {1: 1.0}}
    with pytest.raises(SettingsError, match="two rows of case 1"):
        findings.series([*rows, {**rows[0], "method": "bm4d unbiased"}], by=("level", "method"), values=("psnr_db",))


def test_a_command_line_says_what_was_asked_and_no_path(findings):
    denoising = importlib.import_module("denoising")
    words = ["--crop", "64", "--peers", "--varying", "--data", "/home/someone", "--out", "/tmp/x", "--mlflow", "none"]
    options = denoising.parser().parse_args(words)
    told = findings.command("denoising", denoising.parser(), options)
    assert told == "python validation/denoising.py --crop 64 --peers --varying"


def test_rows_stand_in_the_order_of_their_numbers_with_ours_last(findings):
    names = ["x/15/medidiff", "x/15/bm4d", "x/3/noisy input", "x/3/medidiff", "x/3/bm4d"]
    found = findings.Finding({}, {name: {1: 1.0} for name in names})
    assert found.rows() == [("3", "noisy input"), ("3", "bm4d"), ("3", "medidiff"), ("15", "bm4d"), ("15", "medidiff")]
    assert found.column(0) == ["3", "15"]


def test_the_commands_that_measure_anew_are_told_and_can_be_read(report, tables, capsys):
    from tests.doc_blocks import Block, check

    assert report.main(["again", "harm", "speed-128"]) == 0
    told = capsys.readouterr().out
    assert told.splitlines()[0].endswith("python validation/report.py keep out/again/harm/harm.json harm")
    assert "--side 128" in told.splitlines()[1]
    assert not check(Block("again", 1, "sh", report.again(tables.Results(), []), "takes minutes or hours"))
    steps = report.again(tables.Results(), ["scope-attack"]).splitlines()[0].split(" && ")
    assert steps[:2] == [
        f"python validation/scope_attack.py {v} --out out/again/scope-attack" for v in ("score", "report")
    ]
    assert steps[2] == "python validation/report.py keep out/again/scope-attack/scope_attack.json scope-attack"
    assert report.main(["again", "no-such"]) != 0
    assert "E-DATA" in capsys.readouterr().err


# --- the page with everything ---------------------------------------------------------------------------------------


def test_the_report_holds_everything_and_asks_for_nothing(report, tables, tmp_path):
    assert report.main(["build", "--out", str(tmp_path / "report.html")]) == 0
    page = (tmp_path / "report.html").read_text()
    for name in KEPT:
        assert f"result: {name}<" in page
    for name in report.BLOCKS:
        assert f"table: {name}<" in page
    for run in (ROOT / "medidiff" / "prior" / "bundled").glob("*.mlflow.json"):
        assert f"training: {json.loads(run.read_text())['name']}<" in page
    for picture in (ROOT / "docs" / "pictures").iterdir():
        assert f"picture: {picture.stem}<" in page, f"{picture.name} stands in no page"
    for words in ("SimpleITK", "RMSE lung", "20,000 scans of 200"):  # of tables that no kept result fills
        assert words in page
    outside = re.findall(r"(?:src|href)=['\"](?!data:|#)[^'\"]*", page)
    assert not outside
    assert "default-src 'none'" in page
    assert f"/{ROOT.parts[1]}/" not in page  # the first folder of this machine's paths


def test_tables_of_numbers_that_nothing_fills_are_copied_and_no_others(report):
    page = """# One
| option | meaning |
|---|---|
| `-o` | 2 files |
| `-p` | words |

<!-- results: x -->
| filled | n |
| --- | --: |
| a | 1 |
<!-- end -->
## Two
| method | dB | note |
|---|--:|---|
| one | 35.1 | a\\|b |
| two | **36** | +0.5 |

```
| in a fence | 3 |
|---|--:|
| c | 4 |
```
"""
    ((heading, table),) = report.copied(page)
    assert heading == "Two"
    assert table.head == ("method", "dB", "note")
    assert table.rows == (("one", "35.1", "a|b"), ("two", "**36**", "+0.5"))


def test_peers_of_an_older_run_stand_beside_a_new_prior_on_the_same_scans_alone(findings):
    def found(noisy, **rows):
        figures = {"psnr_db/3/noisy input": {1: noisy}} | {f"psnr_db/3/{name}": {1: v} for name, v in rows.items()}
        return findings.Finding({"command": "python x.py --peers bm4d", "day": "2026-01-01"}, figures)

    ours, kept = found(30.0, medidiff=36.0), found(30.0, medidiff=35.0, bm4d=35.5)
    whole = findings.with_peers(ours, kept)
    assert whole.figures["psnr_db/3/bm4d"] == {1: 35.5}
    assert whole.figures["psnr_db/3/medidiff"] == {1: 36.0}
    assert whole.params["peers"] == "of the run of 2026-01-01"
    for other in (found(30.001, bm4d=35.5), findings.Finding(kept.params, {"psnr_db/3/bm4d": {1: 35.5}})):
        with pytest.raises(InputError, match="E-DATA"):
            findings.with_peers(ours, other)
    with pytest.raises(InputError, match="E-DATA"):
        findings.with_peers(findings.Finding(ours.params, {"psnr_db/3/medidiff": {1: 36.0}}), kept)

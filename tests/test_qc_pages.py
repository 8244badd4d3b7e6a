"""Quality reports in a real browser: nothing complains, nothing is asked for, and what should move moves."""

from __future__ import annotations

import dataclasses
import importlib
import itertools
from pathlib import Path

import jinja2
import numpy as np
import pytest

from medidiff.qc import Case, case_report, cohort_page
from medidiff.qc import page as pages
from medidiff.volume import Geometry, Provenance, Volume
from tests.qc_cases import HOSTILE, pair, report
from tests.servers import require

FOLDER = Path(__file__).resolve().parent.parent / "validation"
READY = "document.documentElement.dataset.ready === 'yes'"
SHOWN = "document.documentElement.dataset.shown"
PIXELS = """(() => {
  const canvas = document.querySelectorAll("canvas")[NUMBER];
  const data = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data;
  let sum = 0;
  for (let n = 0; n < data.length; n += 1) sum = (sum * 31 + data[n]) % 4294967291;
  return sum;
})()"""
COHORT = (
    Case("sub-10", "done", "denoise", ("drift",), 12.5, 30.0, page="pages/a b.html"),
    Case("sub-9", "refused", "denoise", code="E-GAP", mend="Fetch the slice.", seconds=1.5),
    Case("sub-2", "done", "superresolve", (), 7.0, 100.0),
    Case("sub-33", "refused", "superresolve", code="E-4D", mend="Choose one."),
)


@pytest.fixture(scope="module")
def tool():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(FOLDER))
        yield importlib.import_module("browser")


@pytest.fixture(scope="module")
def browser(tool):
    require("chromium")
    with tool.running() as running:
        yield running


@pytest.fixture(scope="module")
def case(browser, tmp_path_factory):
    path = tmp_path_factory.mktemp("page") / "case.html"
    path.write_text(report().page, encoding="utf-8")
    page = browser.open(path)
    page.wait(READY)
    return page


@pytest.fixture
def cohort(browser, tmp_path):
    path = tmp_path / "cohort.html"
    path.write_text(cohort_page(COHORT), encoding="utf-8")
    page = browser.open(path)
    page.wait(READY)
    return page


def pixels(page, number=0):
    return page.run(PIXELS.replace("NUMBER", str(number)))


def test_a_page_complains_of_nothing_and_asks_for_nothing(case, cohort, tool):
    for page in (case, cohort):
        assert page.complaints == []
        assert tool.outside(page.requests) == []
    assert case.run("document.images.length") == 12  # four kinds, three planes
    assert case.run("[...document.images].every((image) => image.naturalWidth > 0)")


def test_keys_choose_before_and_after(case):
    case.key("b")
    assert case.run(SHOWN) == "before"
    before = pixels(case)
    case.key("a")
    assert case.run(SHOWN) == "after"
    assert pixels(case) != before
    case.key("b")
    assert pixels(case) == before


def test_a_pointer_at_rest_flickers_and_one_that_leaves_does_not(case):
    case.run("window.scrollTo(0, 0)")
    case.key("a")
    box = case.run("(({x, y}) => [x, y])(document.querySelector('canvas').getBoundingClientRect())")
    case.point(box[0] + 60, box[1] + 60)
    case.wait(f"{SHOWN} === 'before'", 20)
    case.wait(f"{SHOWN} === 'after'", 20)
    case.wait(f"{SHOWN} === 'before'", 20)
    case.point(2, 2)
    case.wait(f"{SHOWN} === 'after'", 20)
    assert case.run(f"new Promise((done) => setTimeout(() => done({SHOWN}), 1200))") == "after"


def test_the_key_for_flicker_starts_and_stops_it(case):
    pressed = "document.querySelector('[data-flicker]').getAttribute('aria-pressed')"
    case.key("f")
    assert case.run(pressed) == "true"
    case.wait(f"{SHOWN} === 'before'", 20)
    case.key("f")
    assert case.run(pressed) == "false"


def test_sliders_move_the_slice_in_every_section_and_zoom_all(case):
    case.key("a")
    moved = """((value) => {
      const slider = document.querySelectorAll(".slice")[0];
      slider.value = value;
      slider.dispatchEvent(new Event("input"));
      return [...document.querySelectorAll("[data-plane='0'] output")].map((each) => each.textContent);
    })"""
    first, change = pixels(case), pixels(case, 3)
    assert len(set(case.run(f"{moved}(0)"))) == 1
    low = case.run(f"{moved}(0)")[0]
    assert (pixels(case) != first, pixels(case, 3) != change) == (True, True)
    assert case.run(f"{moved}(2)")[0] != low
    before = [pixels(case, number) for number in range(9)]
    case.run(
        "(() => { const z = document.getElementById('zoom'); z.value = 3; z.dispatchEvent(new Event('input')); })()"
    )
    assert case.run("document.getElementById('factor').textContent") == "3×"
    assert all(pixels(case, number) != each for number, each in enumerate(before))


@pytest.mark.parametrize("width", [1400, 800])
def test_nothing_sticks_out_and_the_picture_is_one(case, width):
    case.size(width, 900)
    assert case.run("document.documentElement.scrollWidth") <= width
    picture = case.photograph()
    assert picture.startswith(b"\x89PNG")
    assert int.from_bytes(picture[16:20], "big") == width
    ratio = case.run("(({width, height}) => width / height)(document.querySelector('canvas').getBoundingClientRect())")
    sheet = case.run("(({across, down}) => across / down)(document.querySelector('.atlases > div').dataset)")
    assert ratio == pytest.approx(sheet, rel=0.02)


@pytest.mark.parametrize("shape", [(64, 4, 3), (1, 30, 1), (30, 60, 1)], ids=["rod", "line", "slice"])
def test_a_scan_that_is_hardly_a_volume_has_a_page_all_the_same(shape, browser, tmp_path):
    image = np.random.default_rng(0).normal(500, 50, shape).astype(np.float32)
    before = Volume(image, Geometry.regular(shape, spacing_mm=(1.0, 1.0, 1.0)), "MR")
    path = tmp_path / "case.html"
    path.write_text(case_report(before, dataclasses.replace(before, data=0.9 * before.data), name="x").page)
    page = browser.open(path)
    page.wait(READY)
    assert page.complaints == []
    assert page.run("document.documentElement.scrollWidth") <= 1400
    assert page.run("[...document.images].every((image) => image.naturalWidth > 0)")


LABELS = """[...document.querySelectorAll("svg.bar")].map((bar) => [...bar.querySelectorAll("text")].map((text) => {
  const [box, all] = [text.getBoundingClientRect(), bar.getBoundingClientRect()];
  return [text.textContent, box.left - all.left, box.right - all.left, box.top, box.bottom, all.width];
}))"""


def overprinted(labels):
    """Pairs of labels of a colour bar that touch each other, and those that stick out of it."""
    touch = [
        (one[0], other[0])
        for one, other in itertools.combinations(labels, 2)
        if min(one[2], other[2]) > max(one[1], other[1]) and min(one[4], other[4]) > max(one[3], other[3]) + 1
    ]
    return touch + [label[0] for label in labels if label[1] < 0 or label[2] > label[5]]


@pytest.mark.parametrize("share", [0.02, 0.2, 0.45, 0.55, 0.8, 0.93, 0.999])
def test_labels_of_a_colour_bar_do_not_touch_wherever_the_noise_level_is(share, browser, tmp_path):
    before, after = pair()
    spread = after.with_data(np.full_like(after.data, 1 / share))
    change = np.where(np.indices(before.shape)[0] % 2, np.float32(1 / share), np.float32(-1 / share))
    record = Provenance("denoise", "0.1.0", settings={"noise": "gaussian", "noise_level": 1.0})
    shown = case_report(before, before.with_data(before.data + change), spread=spread, provenance=record)
    (tmp_path / "bar.html").write_text(shown.page, encoding="utf-8")
    page = browser.open(tmp_path / "bar.html")
    page.wait(READY)
    signed, plain = page.run(LABELS)
    assert [label[0] for label in signed] == [
        f"{-1 / share:.3g}",
        "0",
        f"{1 / share:.3g}",
        "noise level",
        "− noise level",
    ]
    assert [label[0] for label in plain] == ["0", f"{1 / share:.3g}", "noise level"]
    assert overprinted(signed) == overprinted(plain) == []
    assert overprinted([signed[0], signed[0]]) == [(signed[0][0], signed[0][0])]


def test_colours_tell_the_sign_of_the_change(browser, tmp_path):
    before = pair()[0]
    step = np.where(np.arange(before.shape[0]) < before.shape[0] // 2, -60.0, 60.0).astype(np.float32)
    shifted = before.with_data(before.data + step[:, None, None])
    (tmp_path / "signs.html").write_text(case_report(before, shifted, radiological=False).page, encoding="utf-8")
    page = browser.open(tmp_path / "signs.html")
    page.wait(READY)
    left, right = page.run("""[0.25, 0.75].map((share) => {
      const canvas = document.querySelectorAll("canvas")[3];
      return [...canvas.getContext("2d").getImageData(share * canvas.width, canvas.height / 2, 1, 1).data];
    })""")
    assert left[2] > left[0] + 40  # darker on the patient's left: purple
    assert right[0] > right[2] + 40  # brighter on the right: orange


def names(page):
    return page.run(
        "[...document.querySelectorAll('tbody tr')].filter((r) => !r.hidden).map((r) => r.cells[0].textContent)"
    )


def click(page, column):
    page.run(f"document.querySelectorAll('.cohort thead button')[{column}].click()")


def typed(page, column, value, number=0):
    page.run(f"""((control) => {{ control.value = {value!r}; control.dispatchEvent(new Event("input")); }})
      (document.querySelectorAll(".filters th")[{column}].querySelectorAll("input, select")[{number}])""")


def test_columns_sort_words_with_numbers_and_numbers_with_what_is_empty_last(cohort):
    assert names(cohort) == ["sub-10", "sub-9", "sub-2", "sub-33"]
    click(cohort, 0)
    assert names(cohort) == ["sub-2", "sub-9", "sub-10", "sub-33"]
    click(cohort, 0)
    assert names(cohort) == ["sub-33", "sub-10", "sub-9", "sub-2"]
    click(cohort, 5)
    assert names(cohort) == ["sub-9", "sub-10", "sub-2", "sub-33"]
    assert cohort.run("document.querySelectorAll('[aria-sort=ascending]').length") == 1
    click(cohort, 5)
    assert names(cohort) == ["sub-2", "sub-10", "sub-9", "sub-33"]


def test_columns_filter_together(cohort):
    typed(cohort, 2, "denoise")
    assert names(cohort) == ["sub-10", "sub-9"]
    typed(cohort, 6, "E-GAP")
    assert names(cohort) == ["sub-9"]
    assert cohort.run("document.getElementById('count').textContent") == "1 of 4 cases shown"
    cohort.run("document.getElementById('clear').click()")
    assert len(names(cohort)) == 4
    typed(cohort, 5, "2", 0)
    typed(cohort, 5, "50", 1)
    assert names(cohort) == ["sub-10"]
    cohort.run("document.getElementById('clear').click()")
    typed(cohort, 3, "DRI")
    assert names(cohort) == ["sub-10"]


def test_hostile_strings_do_nothing(browser, tmp_path):
    hostile = Case(HOSTILE, "done", HOSTILE, (HOSTILE,), 1.0, 1.0, HOSTILE, HOSTILE, page=f"p/{HOSTILE}.html")
    for name, text in (("case", report(HOSTILE).page), ("cohort", cohort_page([hostile], title=HOSTILE, note=HOSTILE))):
        (tmp_path / f"{name}.html").write_text(text, encoding="utf-8")
        page = browser.open(tmp_path / f"{name}.html")
        page.wait(READY)
        assert page.run("window.pwned") is None
        assert page.complaints == []


def test_the_policy_stops_what_escaping_would_let_through_and_the_watch_sees_it(browser, tmp_path, monkeypatch):
    loose = jinja2.Environment(loader=jinja2.PackageLoader("medidiff.qc"), autoescape=False)
    monkeypatch.setattr(pages, "_environment", lambda: loose)
    (tmp_path / "loose.html").write_text(cohort_page([Case(HOSTILE, "done")]), encoding="utf-8")
    page = browser.open(tmp_path / "loose.html")
    page.wait("document.images.length > 0")
    assert page.run("new Promise((done) => setTimeout(() => done(window.pwned), 300))") is None
    assert any("Content Security Policy" in complaint for complaint in page.complaints)


def test_a_changed_script_does_not_run(browser, tmp_path):
    (tmp_path / "changed.html").write_text(cohort_page(COHORT).replace('"use strict"', '"use  strict"'), "utf-8")
    page = browser.open(tmp_path / "changed.html")
    assert page.run("document.documentElement.dataset.ready") is None
    assert any("Content Security Policy" in complaint for complaint in page.complaints)


def test_the_watch_sees_a_request(browser, tool, tmp_path):
    (tmp_path / "asks.html").write_text(
        "<img src='http://127.0.0.1:9/x.png'><script>console.error('x')</script>", "utf-8"
    )
    page = browser.open(tmp_path / "asks.html")
    assert tool.outside(page.requests) == ["http://127.0.0.1:9/x.png"]
    assert page.complaints != []

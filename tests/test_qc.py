"""Laws of quality reports: what is measured, what is flagged, what is shown, and that a page is inert."""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import re

import jinja2
import nibabel
import numpy as np
import pytest
from scipy import ndimage

from medidiff.errors import InputError
from medidiff.qc import Case, case_report, cohort_page
from medidiff.qc import page as pages
from medidiff.qc.checks import checks, drift, sharpness
from medidiff.qc.measures import Pair, measure
from medidiff.qc.pictures import Layer, sheets
from medidiff.qc.support import support_of
from medidiff.views import DIVERGING, PLANES, Field, Upright, side, symmetric_reach
from medidiff.volume import Geometry, Volume
from tests.qc_cases import HOSTILE, LEVEL, SHAPE, Reader, decoded, grid, noise, pair, record, report, truth

# --- what is measured -----------------------------------------------------------------------------------------------


def measured(before, after, **how):
    return measure(Pair.of(before, after), kind="gaussian", **how)


@pytest.fixture(scope="module")
def good():
    return measured(*pair())


def test_noise_that_was_removed_is_measured_as_noise(good):
    assert good.noise_before == pytest.approx(LEVEL, rel=0.06)
    assert good.noise_after == pytest.approx(0.1 * LEVEL, rel=0.15)
    assert good.deviation == pytest.approx(LEVEL, rel=0.03)
    assert abs(good.mean) < 0.03 * LEVEL
    assert max(map(abs, good.correlation)) < 0.03
    assert good.residual == pytest.approx(LEVEL, rel=0.03)


def test_structure_that_was_removed_is_correlated():
    before, _ = pair()
    smooth = before.with_data(ndimage.gaussian_filter(before.data[0], 3.0))
    assert max(measured(before, smooth).correlation) > 0.3


def white_density(spacing, scale=1.0):
    """The density of the spectrum of white noise on a grid, over σ² ΔV."""
    before, after = pair(grid(spacing=spacing))
    flat = np.where(truth() > 0, np.float32(900.0), np.float32(0.0)) + noise() * scale
    found = measured(before.with_data(flat[None]), after)
    high = np.array(found.spectrum_before.power)[len(found.spectrum_before.power) // 3 :]
    return float(high.mean()) / (LEVEL**2 * found.voxel_mm3)


@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (0.8, 1.2, 1.0)])
def test_white_noise_has_the_density_of_its_level_on_every_grid(spacing):
    assert white_density(spacing) == pytest.approx(1.0, abs=0.15)


def test_the_law_of_the_density_notices_noise_of_another_level():
    assert abs(white_density((1.0, 1.0, 1.0), scale=1.3) - 1.0) > 0.3


def test_a_finer_answer_is_seen_as_its_scan_sees_it():
    fine = grid((24, 24, 36), (1.0, 1.0, 1.0))
    image = truth(fine.shape)
    thick = Volume(image.reshape(24, 24, 12, 3).mean(-1), fine.with_spacing((1.0, 1.0, 3.0)), "MR")
    right = case_report(thick, Volume(image, fine, "MR")).measures
    wrong = case_report(thick, Volume(np.roll(image, 3, axis=2), fine, "MR")).measures
    assert right.residual < 1e-3 * right.tissue
    assert wrong.residual > 30 * right.residual


def test_the_range_of_a_scan_in_thick_slices_is_its_own_and_not_that_of_a_spline():
    fine = grid((24, 24, 36), (1.0, 1.0, 1.0))
    image = truth(fine.shape)
    stored = np.rint(image.reshape(24, 24, 12, 3).mean(-1)).clip(0).astype(np.uint16)
    pair = Pair.of(Volume(stored, fine.with_spacing((1.0, 1.0, 3.0)), "MR"), Volume(image, fine, "MR"))
    assert pair.shown.min() < -10  # a spline overshoots at the edge of the head
    assert measure(pair).range_before == (0.0, float(stored.max()))


def test_a_right_finer_answer_has_no_drift_and_a_drifting_one_is_told():
    """Between thick slices an answer has anatomy that an interpolation lacks, which once passed for drift."""
    fine = grid((24, 24, 36), (1.0, 1.0, 1.0))
    image = truth(fine.shape)
    image *= np.where(np.arange(36) % 9 < 4, np.float32(1.0), np.float32(0.6))  # steps inside of thick slices
    thick = Volume(image.reshape(24, 24, 12, 3).mean(-1), fine.with_spacing((1.0, 1.0, 3.0)), "MR")
    right = case_report(thick, Volume(image, fine, "MR")).measures
    assert len(right.slices_before) == len(right.slices_after) == 12
    assert drift(right) < 1e-3
    ramp = np.linspace(0.92, 1.08, 36, dtype=np.float32)
    assert drift(case_report(thick, Volume(image * ramp, fine, "MR")).measures) > 0.05
    interpolated = measure(Pair.of(thick, Volume(image, fine, "MR")))  # without the operator: as it was read before
    assert drift(interpolated) > 0.03


def test_drift_is_read_where_a_repair_made_up_every_voxel():
    """A gantry tilt that was resampled leaves no voxel as it was measured, and a drift no smaller."""
    fine = grid((24, 24, 36), (1.0, 1.0, 1.0))
    image = truth(fine.shape)
    thick = Volume(image.reshape(24, 24, 12, 3).mean(-1), fine.with_spacing((1.0, 1.0, 3.0)), "MR")
    repaired = dataclasses.replace(thick, filled=np.ones(thick.shape, dtype=bool))
    ramp = np.linspace(0.92, 1.08, 36, dtype=np.float32)
    drifting = Volume(image * ramp, fine, "MR")
    found = case_report(repaired, drifting).measures
    assert drift(found) == pytest.approx(drift(case_report(thick, drifting).measures))
    assert drift(found) > 0.05
    assert found.residual > 0


def test_spread_is_read_in_the_tissue():
    shown = Pair.of(*pair())
    spread = np.where(shown.inside, np.float32(7.0), np.float32(1000.0))
    assert measure(shown, spread=spread).spread == pytest.approx(7.0)


# --- what is flagged ------------------------------------------------------------------------------------------------


def faulty(kind):
    """A pair with one fault, and the level that its record tells."""
    before, after = pair()
    scan, image = before.data[0], after.data[0]
    ramp = np.linspace(-0.08, 0.08, SHAPE[2], dtype=np.float32)
    spots = np.zeros(SHAPE, np.float32)
    spots[10:30:3, 10:30:3, 10:30:3] = 2000.0
    place = np.moveaxis(np.indices(SHAPE) - np.array(SHAPE)[:, None, None, None] / 2, 0, -1)
    lesion = np.float32(
        np.linalg.norm(place * before.geometry.spacing_mm, axis=-1) <= 2.5
    )  # 5 mm across, where the scan has nothing
    images = {
        "removed": scan + np.float32(0.4) * (image - scan),
        "structure": ndimage.gaussian_filter(scan, 3.0),
        "sharp": ndimage.gaussian_filter(image, 1.0),
        "agreement": image + 2 * noise(seed=9),
        "range": image + spots,
        "drift": image * (1 + ramp),
        "brightness": image * np.float32(1.06),
        "left": scan + np.float32(0.3) * (image - scan),
        "level": image,
        "support": image - 0.2 * 900 * lesion,
    }
    return before, after.with_data(images[kind][None]), 2 * LEVEL if kind == "level" else LEVEL


def flags(before, after, told):
    support = supported(before, after, told)
    found = checks(measured(before, after), told=told, support=support)
    return {check.key for check in found if check.state == "look"}


def supported(before, after, level=LEVEL):
    return support_of(Pair.of(before, after), {}, kind="gaussian", level=level)


KEYS = ("removed", "structure", "sharp", "agreement", "range", "drift", "brightness", "left", "level", "support")


def test_a_good_answer_raises_no_flag(good):
    found = checks(good, told=LEVEL, support=supported(*pair()))
    assert {check.key: check.state for check in found} == dict.fromkeys(KEYS, "ok") | {}
    assert len(found) == len(KEYS)


@pytest.mark.parametrize("kind", KEYS)
def test_each_fault_raises_its_flag(kind):
    assert kind in flags(*faulty(kind))


def test_a_blur_is_told_from_noise_that_was_removed(good):
    """An answer that was blurred by a voxel lost what such a filter takes from fine detail; a good one lost nothing."""
    before, after = pair()
    blurred = measured(before, after.with_data(ndimage.gaussian_filter(after.data[0], 1.0)[None]))
    assert sharpness(good, LEVEL) == pytest.approx(0, abs=0.3)
    assert sharpness(blurred, LEVEL) < -1.8
    assert sharpness(good, 100 * LEVEL) is None  # no detail stands out of so much noise: not judged
    assert sharpness(good, None) is None


def test_what_a_change_should_look_like_is_said_for_what_was_done():
    fine = grid((24, 24, 36), (1.0, 1.0, 1.0))
    image = truth(fine.shape)
    thick = Volume(image.reshape(24, 24, 12, 3).mean(-1), fine.with_spacing((1.0, 1.0, 3.0)), "MR")
    added, taken = "What is added should follow edges and folds", "What is taken away should look like noise"
    sharper = case_report(thick, Volume(image, fine, "MR")).page
    assert (added in sharper, taken in sharper) == (True, False)
    quieter = case_report(*pair()).page
    assert (added in quieter, taken in quieter) == (False, True)


def test_the_side_of_a_place_has_its_letter():
    assert [side(axis, at) for axis in range(3) for at in (-9.0, 39.0)] == ["L", "R", "P", "A", "I", "S"]


def test_what_super_resolution_adds_is_not_taken_for_noise(good):
    keys = {check.key for check in checks(good, superresolved=True)}
    assert keys == set(KEYS) - {"removed", "structure", "sharp"}


def test_a_place_that_the_scan_contradicts_is_told():
    before, after, _ = faulty("support")
    found = case_report(before, after, provenance=record())
    assert [(flag.kind, flag.bright) for flag in found.support.flags] == [("added", False)]
    assert "support" in found.flags
    assert "something dark added, about" in found.page
    assert "something dark" not in case_report(*pair(), provenance=record()).page
    x, y, z = found.support.flags[0].centre_mm
    letters = ("LR"[x >= 0], "PA"[y >= 0], "IS"[z >= 0])
    where = ", ".join(f"{letter} {abs(at):.0f}" for letter, at in zip(letters, (x, y, z), strict=True))
    assert f" at {where} mm; " in found.page  # as the sliders count, and no triple of signed numbers


def test_too_little_tissue_and_a_constant_scan_are_not_judged():
    small = Volume(np.full((6, 6, 6), 3.0, np.float32), grid((6, 6, 6)), "MR")
    found = case_report(small, small)
    assert {check.state for check in found.checks} == {"unread"}
    assert "cannot be read" in found.page


# --- what is shown --------------------------------------------------------------------------------------------------


def tile(sheet, atlas, number):
    row, column = divmod(number, sheet.columns)
    width, height = sheet.tile
    return atlas[row * height : (row + 1) * height, column * width : (column + 1) * width]


def distance(shown, expected):
    return float(np.abs(shown.astype(float) - expected.astype(float)).mean())


@pytest.fixture(scope="module")
def shown_change():
    """What a page shows of the change in its middle slices, as numbers, and the change itself."""
    before, after = pair()
    both = Pair.of(before, after)
    change = after.data[0] - before.data[0]
    reach = symmetric_reach(change[both.inside])
    views = both.field.views(change, before.geometry)
    found = sheets([Layer("change", change, (-reach, reach), DIVERGING)], both.field, before.geometry)
    atlases = Reader(report().page).pictures("change")
    tiles = [tile(sheet, atlas, sheet.first) for sheet, atlas in zip(found, atlases, strict=True)]
    return [(t / 255 * 2 * reach - reach, np.clip(v.pixels, -reach, reach)) for t, v in zip(tiles, views, strict=True)]


@pytest.mark.parametrize("plane", range(3))
def test_the_map_of_the_change_is_after_less_before(plane, shown_change):
    picture, change = shown_change[plane]
    assert distance(picture, change) < 0.15 * LEVEL  # WebP, lossy
    assert distance(picture, -change) > LEVEL
    assert np.corrcoef(picture.ravel(), change.ravel())[0, 1] > 0.98


DIRECTION = {"R": (0, 1), "L": (0, -1), "A": (1, 1), "P": (1, -1), "S": (2, 1), "I": (2, -1)}


def oriented(letters, turn_degrees=0.0):
    """A grid of 30 voxels a side about the origin, its axes along letters and then turned about all three."""
    affine = np.eye(4)
    for axis, letter in enumerate(letters):
        world, sign = DIRECTION[letter]
        affine[:3, axis] = 0
        affine[world, axis] = sign * (1.0, 1.5, 2.0)[axis]
    angle = np.radians(turn_degrees)
    c, s = np.cos(angle), np.sin(angle)
    turn = np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]]) @ np.array([[1, 0, 0], [0, c, -s], [0, s, c]])
    affine[:3, :3] = turn @ affine[:3, :3]
    affine[:3, 3] = -affine[:3, :3] @ np.full(3, 14.5)
    return Geometry((30, 30, 30), affine)


def letters_hold(geometry, marker_geometry, *, radiological):
    """Whether a marker at a world point lies, in each plane, on the sides that the letters say."""
    world = marker_geometry.world(np.moveaxis(np.indices(geometry.shape), 0, -1))
    for signs in ((1, 1, 1), (-1, 1, -1), (1, -1, -1)):
        marker = np.array(signs) * (8.0, 9.0, 8.5)
        image = (np.linalg.norm(world - marker, axis=-1) < 4.5) * np.float32(100.0)
        field = Field(np.ones(geometry.shape, bool), (slice(0, 30),) * 3, Upright.of(image, geometry).index(marker))
        for plane, sheet in zip(
            PLANES,
            sheets([Layer("after", image, (0.0, 100.0))], field, geometry, radiological=radiological),
            strict=True,
        ):
            shown = tile(sheet, decoded(sheet.atlases[0].uri), sheet.first)
            rows, columns = np.nonzero(shown > 128)
            if rows.size == 0 or abs(sheet.places_mm[sheet.first] - marker[plane.normal]) > 2.1:
                return False
            left, right, top, bottom = sheet.letters
            across = left if columns.mean() < (shown.shape[1] - 1) / 2 else right
            up = top if rows.mean() < (shown.shape[0] - 1) / 2 else bottom
            for letter in (across, up):
                axis, sign = DIRECTION[letter]
                if sign * marker[axis] < 0:
                    return False
            if plane.name != "Sagittal" and left != ("R" if radiological else "L"):
                return False
    return True


@pytest.mark.parametrize("radiological", [True, False])
@pytest.mark.parametrize(("letters", "turn"), [("RAS", 0.0), ("LPS", 0.0), ("PIR", 0.0), ("LAS", 12.0), ("SRP", 12.0)])
def test_letters_are_those_of_the_affine(letters, turn, radiological):
    geometry = oriented(letters, turn)
    assert letters_hold(geometry, geometry, radiological=radiological)


@pytest.mark.parametrize("mirror", [(-1.0, 1, 1), (1.0, -1, 1), (1.0, 1, -1)])
def test_the_law_of_the_letters_notices_a_mirrored_affine(mirror):
    geometry = oriented("LPS", 12.0)
    mirrored = Geometry(geometry.shape, np.diag((*mirror, 1.0)) @ geometry.affine)
    assert not letters_hold(mirrored, geometry, radiological=True)


@pytest.mark.parametrize("letters", ["RAS", "LPS", "PIR", "ASL"])
def test_upright_is_what_nilearn_makes_of_a_scan(letters):
    from nilearn.image import reorder_img

    geometry = oriented(letters)
    image = np.random.default_rng(0).random(geometry.shape).astype(np.float32)
    ordered = reorder_img(nibabel.Nifti1Image(image, geometry.affine), copy_header=True)
    assert np.array_equal(np.asarray(ordered.dataobj), Upright.of(image, geometry).data)


def test_slices_keep_their_shape_in_mm_and_the_page_says_how_they_lie():
    page = report().page
    read = Reader(page)
    across, down = ([float(v) for v in read.values(name)] for name in ("data-across", "data-down"))
    wide, high = ([int(v) for v in read.values(name)] for name in ("data-width", "data-height"))
    for n, (x, y) in enumerate(((1.0, 1.2), (1.0, 2.0), (1.2, 2.0))):
        assert across[n] / wide[n] == pytest.approx(x)
        assert down[n] / high[n] == pytest.approx(y)
    assert "Radiological convention" in page
    assert "Neurological convention" in report(radiological=False).page
    before, after = pair(oriented_like())
    assert "letters are up to 12°" in case_report(before, after).page


def oriented_like():
    turned = grid().affine.copy()
    angle = np.radians(12)
    turn = np.array([[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1]])
    turned[:3, :3] = turn @ turned[:3, :3]
    return Geometry(SHAPE, turned)


def test_the_pictures_of_a_head_of_1_mm_stay_below_2_mb():
    shape = (160, 190, 150)
    smooth = ndimage.zoom(truth(), [n / m for n, m in zip(shape, SHAPE, strict=True)], order=1)
    noisy = smooth + 60 * np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    field = Field(smooth > 0, tuple(slice(0, n) for n in shape), (80, 95, 75))
    layers = [Layer("before", noisy, (0, 1500)), Layer("after", smooth, (0, 1500))]
    layers.append(Layer("change", smooth - noisy, (-180, 180), DIVERGING))
    found = sheets(layers, field, Geometry.regular(shape))
    assert sum(len(atlas.uri) for sheet in found for atlas in sheet.atlases) < 1_900_000
    assert min(len(sheet.places_mm) for sheet in found) >= 10


# --- a page is inert ------------------------------------------------------------------------------------------------


def foreign(page, plain):
    """What a page holds that its template does not: elements and attributes beyond those of a plain page."""
    read, ours = Reader(page), Reader(plain)
    names = {name for _, name, _ in read.attributes} - {name for _, name, _ in ours.attributes}
    return sorted((read.tags - ours.tags).keys()) + sorted(names)


@pytest.fixture(scope="module")
def plain():
    return report("text").page


def test_a_hostile_string_in_every_field_is_shown_and_nothing_else(plain):
    page = report(HOSTILE).page
    assert foreign(page, plain) == []
    shown = "".join(Reader(page).texts)
    assert shown.count("window.pwned=1") >= 12  # it is there, as text
    assert "{{7*7}}" in shown  # and was not taken for a template


def test_the_law_of_escaping_notices_a_page_without_it(plain, monkeypatch):
    loose = jinja2.Environment(loader=jinja2.PackageLoader("medidiff.qc"), autoescape=False)
    monkeypatch.setattr(pages, "_environment", lambda: loose)
    assert {"script", "img", "onerror"} <= {*foreign(report(HOSTILE).page, plain)}


def test_characters_that_nobody_sees_are_not_in_the_page():
    page = report("\u202egnp.exe\x00\u200b").page
    assert not re.search("[\u202e\x00\u200b]", page)


def hashes(page):
    read = Reader(page)
    found = {}
    for kind in ("script", "style"):
        digest = hashlib.sha256(read.inline[kind].encode()).digest()
        found[kind] = f"'sha256-{base64.b64encode(digest).decode()}'" in read.policy
    return found


def test_the_policy_names_the_script_and_the_style_and_loads_nothing(plain):
    for page in (plain, cohort_page([Case("a", "done")])):
        read = Reader(page)
        assert hashes(page) == {"script": True, "style": True}
        parts = dict(part.split(" ", 1) for part in read.policy.split("; "))
        assert parts.keys() == {"default-src", "img-src", "script-src", "style-src", "base-uri", "form-action"}
        assert (parts["default-src"], parts["img-src"], parts["base-uri"]) == ("'none'", "data:", "'none'")
        assert "unsafe" not in read.policy
        assert read.tags["script"] == read.tags["style"] == 1
        assert not [name for _, name, _ in read.attributes if name.startswith("on") or name == "style"]
        assert all(value.startswith("data:image/webp;base64,") for value in read.values("src"))
        assert not read.tags.keys() & {"link", "iframe", "object", "embed", "form", "base"}


@pytest.mark.parametrize(("kind", "word"), [("script", "use strict"), ("style", "color-scheme")])
def test_the_law_of_the_policy_notices_a_changed_byte(plain, kind, word):
    assert hashes(plain.replace(word, word[::-1], 1)) == {"script": kind != "script", "style": kind != "style"}


def test_the_same_case_gives_the_same_bytes_and_another_does_not():
    assert report().page == report().page
    assert report().page != report(provenance=None).page


def test_what_is_not_known_is_said():
    assert "how it was made is not known" in report(provenance=None).page
    assert "Research use only" in report().page
    assert record().prior["sha256"] in report().page


# --- what is refused ------------------------------------------------------------------------------------------------


def test_scans_that_do_not_fit_are_refused():
    before, after = pair()
    several = Volume(np.stack([before.data[0]] * 2), before.geometry, "MR")
    with pytest.raises(InputError, match="E-4D"):
        case_report(several, after)
    with pytest.raises(InputError, match="E-NONFINITE"):
        case_report(before, after.with_data(np.full_like(after.data, np.nan)))
    far = before.geometry.affine.copy()
    far[:3, 3] += 500
    with pytest.raises(InputError, match="E-GRID"):
        case_report(Volume(before.data, Geometry(SHAPE, far), "MR"), after)


# --- a cohort -------------------------------------------------------------------------------------------------------

COHORT = (
    Case("sub-10", "done", "denoise", ("drift",), 12.5, 30.0, page="pages/a b.html"),
    Case("sub-9", "refused", "denoise", code="E-GAP", mend="Fetch the slice.", seconds=1.5),
    Case("sub-2", "done", "superresolve", (), 7.0, 100.0),
)


def test_a_cohort_has_a_row_for_each_case_with_all_that_is_known():
    read = Reader(cohort_page(COHORT, title="ward 3"))
    text = " ".join(" ".join(read.texts).split())
    for word in ("sub-10", "▲ drift", "12.5", "E-GAP", "Fetch the slice.", "not checked", "1 of 2", "ward 3"):
        assert word in text
    assert read.values("href") == ["pages/a%20b.html"]


@pytest.mark.parametrize(
    "page", ["javascript:alert(1)", "//host/x", "http://host/x", "/etc/passwd", "\\\\host\\x", "data:x"]
)
def test_a_link_leads_below_the_page_or_nowhere(page):
    assert Reader(cohort_page([Case("a", "done", page=page)])).values("href") == []


def test_a_cohort_of_hostile_names_is_inert():
    hostile = Case(HOSTILE, "done", HOSTILE, (HOSTILE,), 1.0, 1.0, HOSTILE, HOSTILE, page=f"p/{HOSTILE}.html")
    harmless = Case("x", "done", "x", ("x",), 1.0, 1.0, "x", "x", page="p/x.html")
    page = cohort_page([hostile], title=HOSTILE, note=HOSTILE)
    assert foreign(page, cohort_page([harmless], title="x", note="x")) == []

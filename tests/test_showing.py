"""Pictures of volumes in notebooks: they show the patient the right way round, and end well whatever a volume holds."""

import base64
import io
import itertools
import sys
from html.parser import HTMLParser

import matplotlib.image
import nibabel
import numpy as np
import pytest

import medidiff as md
from medidiff.errors import InputError, SettingsError
from medidiff.showing import planes, progress
from medidiff.showing.planes import strips
from medidiff.showing.progress import ProgressBar
from medidiff.showing.rich import Exhibit, Panel, Rich
from medidiff.showing.viewer import nifti
from medidiff.volume import Geometry, Provenance, Volume

SHAPE, SPACING = (24, 30, 18), (2.0, 1.5, 3.0)
BODY_MM, MARKER_MM = 17.0, np.array((9.0, -11.0, 13.0))  # the marker: right, back and up
STORAGES = [
    (order, flips) for order in itertools.permutations(range(3)) for flips in itertools.product((False, True), repeat=3)
]


def scan(affine=None, *, marker=MARKER_MM):
    """A grey block about the world origin with a bright marker, as it lies in the patient."""
    grid = Geometry.regular(SHAPE, spacing_mm=SPACING)
    if affine is not None:
        grid = Geometry(SHAPE, affine @ grid.affine)
    where = grid.world(np.stack(np.meshgrid(*map(np.arange, SHAPE), indexing="ij"), axis=-1))
    data = np.where((np.abs(where) <= BODY_MM).all(-1), 100.0, 0.0)
    data[(np.abs(where - marker) <= 4.0).all(-1)] = 150.0
    return Volume(data + np.random.default_rng(1).random(SHAPE), grid, "MR")


def stored_as(volume, order, flips):
    """The same scan with its axes in another order, some of them running the other way."""
    data = volume.data[0].transpose(order)
    affine = volume.geometry.affine[:, [*order, 3]].copy()
    for axis, flip in enumerate(flips):
        if flip:
            data = np.flip(data, axis)
            affine[:3, 3] += affine[:3, axis] * (data.shape[axis] - 1)
            affine[:3, axis] *= -1
    return Volume(data, Geometry(data.shape, affine), volume.modality)


class Tags(HTMLParser):
    """Tags, attributes and text of a page."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.told, self.text, self.open = set(), [], "", []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        self.told += attrs
        if tag != "img":
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += f"{data} "

    def pictures(self):
        sources = [value for name, value in self.told if name == "src"]
        assert all(source.startswith("data:image/png;base64,") for source in sources)
        return [base64.b64decode(source.partition(",")[2]) for source in sources]


def page(value):
    return Tags(value._repr_html_())


def where_the_marker_is(view):
    """The letters of the edges that it lies nearest to."""
    rows, columns = view.pixels.shape
    row, column = np.argwhere(view.pixels > 130).mean(0)
    return view.left if column < columns / 2 else view.right, view.top if row < rows / 2 else view.bottom


# ------------------------------------------------------------------------------------------------ which way is up


@pytest.mark.parametrize(("order", "flips"), STORAGES[::5])
def test_how_a_scan_is_stored_changes_no_pixel(order, flips):
    original = scan()
    assert page(stored_as(original, order, flips)).pictures() == page(original).pictures()


def test_the_law_of_storage_notices_a_flip_that_is_forgotten(monkeypatch):
    original, whole = scan(), planes.Upright.of
    before = page(original).pictures()

    def forgetful(data, geometry):
        return whole(data, Geometry.regular(geometry.shape, spacing_mm=geometry.spacing_mm))

    monkeypatch.setattr(planes.Upright, "of", forgetful)
    assert page(original).pictures() == before
    assert page(stored_as(original, (0, 1, 2), (True, False, False))).pictures() != before


@pytest.mark.parametrize("turn_deg", [0, 20, -35])
@pytest.mark.parametrize("radiological", [True, False])
def test_a_marker_lies_where_the_letters_say(turn_deg, radiological):
    turn = np.eye(4)
    cos, sin = np.cos(np.radians(turn_deg)), np.sin(np.radians(turn_deg))
    turn[:2, :2] = [[cos, -sin], [sin, cos]]
    marker = turn[:3, :3] @ MARKER_MM
    volume = scan(turn, marker=marker)
    strip = strips(volume._exhibit(), at_mm=marker, radiological=radiological)[0]
    assert [where_the_marker_is(view) for view in strip.views] == [("R", "P"), ("R", "S"), ("P", "S")]
    assert strip.views[0].left == ("R" if radiological else "L")
    mirrored = turn[:3, :3] @ (MARKER_MM * (-1, 1, 1))
    wrong = strips(scan(turn, marker=mirrored)._exhibit(), at_mm=mirrored, radiological=radiological)[0]
    assert where_the_marker_is(wrong.views[0]) == ("L", "P")


def test_the_picture_has_the_proportions_of_the_patient():
    (content,) = page(scan()).pictures()
    height, width = matplotlib.image.imread(io.BytesIO(content)).shape[:2]
    across, tall = (SHAPE[0] * SPACING[0] * 2 + SHAPE[1] * SPACING[1]), max(SHAPE[2] * SPACING[2], SHAPE[1] * 1.5)
    assert (width - 12) / height == pytest.approx(across / tall, rel=0.02)


# --------------------------------------------------------------------------------------------- whatever it holds


def filled(value, dtype=np.float64, shape=(6, 7, 8)):
    return np.full(shape, value, dtype)


HARD = {
    "constant": filled(3, np.int16),
    "zero": filled(0, np.uint8),
    "true": filled(True, np.bool_),
    "all NaN": filled(np.nan),
    "infinite": filled(np.inf, np.float32),
    "a NaN": np.where(np.arange(336).reshape(6, 7, 8) == 5, np.nan, np.arange(336.0).reshape(6, 7, 8)),
    "huge": (1.7e308 * np.linspace(-1, 1, 336)).reshape(6, 7, 8),
    "tiny": np.linspace(0, 5e-324, 336).reshape(6, 7, 8),
    "large integers": np.linspace(0, 2**64 - 2049, 336).astype(np.uint64).reshape(6, 7, 8),
    "half": np.linspace(-65000, 65000, 336).astype(np.float16).reshape(6, 7, 8),
    "one voxel": filled(5, np.int8, (1, 1, 1)),
    "a line": np.arange(900.0).reshape(1, 1, 900),
    "a slice": np.arange(900.0).reshape(30, 30, 1),
}


@pytest.mark.parametrize("data", HARD.values(), ids=HARD)
def test_any_numbers_are_shown(data):
    volume = Volume(data, Geometry.regular(data.shape))
    shown = page(volume)
    assert len(shown.pictures()) == 1
    assert "Research use only, not for diagnosis." in shown.text
    assert volume.plot()._repr_png_().startswith(b"\x89PNG")
    levels = [strip.levels(view) for strip in strips(volume._exhibit()) for view in strip.views]
    assert all(np.isfinite(each).all() and each.min() >= 0 and each.max() <= 1 for each in levels)


def test_what_is_odd_is_said():
    told = {name: page(Volume(HARD[name], Geometry.regular(HARD[name].shape))).text for name in HARD}
    assert "Every voxel that was looked at holds 3." in told["constant"]
    assert "No voxel that was looked at is a finite number." in told["all NaN"]
    assert "0.3 % of the voxels that were looked at are not finite" in told["a NaN"]
    assert "Every voxel" not in told["a line"]
    assert "finite" not in told["constant"]


@pytest.mark.parametrize("spacing", [(1e-6, 1e-6, 1e-6), (1e-6, 1.0, 1e6), (1e6, 1e6, 1e6)])
def test_any_voxel_size_is_shown(spacing):
    shape = (5, 6, 7)
    assert page(Volume(np.zeros(shape), Geometry.regular(shape, spacing_mm=spacing))).pictures()


def test_a_volume_of_a_trillion_voxels_is_shown_at_once():
    shape = (10_000, 10_000, 10_000)  # of one number in memory: whoever goes through all of it never ends
    volume = Volume(np.broadcast_to(np.float32(7), shape), Geometry.regular(shape))
    assert "holds 7" in page(volume).text


def test_ct_is_shown_in_soft_tissue_and_masks_and_channels_are_told():
    data = np.random.default_rng(0).normal(0, 300, (2, 8, 9, 10))
    mask = np.zeros((8, 9, 10), bool)
    mask[0] = True
    volume = Volume(data, Geometry.regular((8, 9, 10)), "CT", "HU", padding=mask, filled=mask)
    text = page(volume).text
    assert "Black -160 to white 240 HU." in text
    assert "Channel 1 of 2" in text
    assert "12 % is padding" in text
    assert "12 % is made up by a repair" in text


# -------------------------------------------------------------------------------------------------- what it says


class Three(Rich):
    """A value with a grey panel, a spread and another grey panel."""

    def _exhibit(self):
        volume = scan()
        data = volume.data[0]
        panels = (Panel("mean", data), Panel("spread", np.abs(data - 99), spread=True), Panel("one draw", data))
        return Exhibit("three<script>", panels, volume.geometry, notes=("level 3 <img src=x onerror=alert(1)>",))


def test_a_spread_is_shown_in_colour():
    shown = page(Three())
    grey, spread, _ = (matplotlib.image.imread(io.BytesIO(picture)) for picture in shown.pictures())
    assert "spread: dark blue 0" in shown.text
    assert np.median(np.ptp(spread[..., :3], axis=-1)) > 0.1 > np.median(np.ptp(grey[..., :3], axis=-1))


def test_words_are_escaped_and_nothing_comes_from_elsewhere():
    volume = scan()
    odd = Volume(volume.data, volume.geometry, '"><b>', "<i>&mm")
    for shown in (page(Three()), page(odd)):
        assert shown.tags == {"div", "p", "b", "img"}
        assert {name for name, _ in shown.told} <= {"class", "style", "alt", "src"}
        assert shown.open == []
    assert "<i>&mm" in page(odd).text
    assert Tags(f"<p>{odd.units}</i></p>").tags == {"p", "i"}  # which is how the law would notice


def test_the_same_value_has_the_same_page():
    assert Three()._repr_html_() == Three()._repr_html_()
    assert Three()._repr_html_() != scan()._repr_html_()


# ------------------------------------------------------------------------------------------- figures and the viewer


def test_a_figure_is_made_without_pyplot():
    before = set(sys.modules)
    figure = Three().plot(radiological=False)
    images = [axes.images[0] for axes in figure.axes if axes.images]
    assert len(images) == 9
    assert images[0].get_clim() == images[6].get_clim() != images[3].get_clim()
    assert "matplotlib.pyplot" not in set(sys.modules) - before
    words = {text.get_text() for axes in figure.axes for text in axes.texts} | {t.get_text() for t in figure.texts}
    assert {"R", "L", "A", "P", "S", "I"} <= words
    assert any("Research use only" in word for word in words)
    assert any("right is on the right" in word for word in words)


def test_a_figure_takes_place_and_window():
    volume = scan()
    figure = volume.plot(at_mm=MARKER_MM, window=(10, 90))
    axial = figure.axes[0].images[0]
    assert axial.get_clim() == (10, 90)
    assert axial.get_array().max() > 130
    assert volume.plot(at_mm=-MARKER_MM).axes[0].images[0].get_array().max() < 130
    for window in ((1, 1), (2, 1), (0, np.inf)):
        with pytest.raises(SettingsError, match="E-WINDOW"):
            volume.plot(window=window)


def test_nibabel_reads_what_the_viewer_is_sent():
    turn = np.eye(4)
    turn[:3, :3] = np.linalg.qr(np.array([[0.2, 0.9, 0.1], [-0.9, 0.3, 0.2], [0.1, -0.1, 1.0]]))[0]
    volume = scan(turn)
    for most in (320, 10):
        image = nibabel.Nifti1Image.from_bytes(nifti(volume.data[0], volume.geometry, most=most))
        steps = [-(-n // most) for n in SHAPE]
        kept = volume.data[0][:: steps[0], :: steps[1], :: steps[2]]
        np.testing.assert_array_equal(image.get_fdata(dtype=np.float32), kept.astype(np.float32))
        last = np.array(kept.shape) - 1
        at = nibabel.affines.apply_affine(image.affine, last)
        np.testing.assert_allclose(at, volume.geometry.world(last * steps), atol=1e-4)
        assert image.header.get_xyzt_units()[0] == "mm"
    wild = np.where(scan().data[0] > 130, np.nan, scan().data[0])
    assert np.isfinite(nibabel.Nifti1Image.from_bytes(nifti(wild, volume.geometry)).get_fdata()).all()


def test_the_viewer_holds_all_panels():
    widget = Three().view(height=300)
    assert widget.volumes[0].name == "mean.nii"
    assert [volume.opacity for volume in widget.volumes] == [1.0, 0.4, 0.0]
    assert len({volume.colormap for volume in widget.volumes}) == 2
    assert widget.opts.is_radiological_convention
    widget.close()


def test_what_is_not_installed_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "ipyniivue", None)
    monkeypatch.delitem(sys.modules, "medidiff.showing.viewer")
    with pytest.raises(SettingsError, match=r"E-SHOW: ipyniivue is not installed.*medidiff\[notebooks\]"):
        scan().view()
    assert scan()._repr_html_()
    monkeypatch.setitem(sys.modules, "medidiff.showing.page", None)  # as in the code of an exported prior
    assert scan()._repr_html_() is None


def test_a_panel_of_another_grid_is_refused():
    class Crooked(Rich):
        def _exhibit(self):
            return Exhibit("crooked", (Panel("", np.zeros((3, 3, 3))),), scan().geometry)

    with pytest.raises(InputError, match="E-SHAPE"):
        Crooked().plot()


# -------------------------------------------------------------------------------------------------------- progress


class Handle(list):
    """What IPython's display gives back."""

    update = list.append


def test_progress_in_a_notebook_is_one_bar_that_moves(monkeypatch):
    shown = Handle()

    def display(state, *, display_id):
        assert display_id
        shown.append(state)
        return shown

    monkeypatch.setattr("IPython.display.display", display)
    monkeypatch.setattr(progress, "_in_notebook", lambda: True)
    bar = ProgressBar("de<b>noise")
    for done in range(1001):
        bar(done, 1000)
    assert 2 <= len(shown) < 100  # not at every step
    assert repr(shown[-1]).startswith("de<b>noise: 1000 of 1000, ")
    html = Tags(shown[-1]._repr_html_())
    assert html.tags == {"div", "progress"}
    assert ("value", "1000") in html.told
    assert "0 of 1000" in repr(shown[0])


def test_progress_in_a_terminal_is_one_line_and_in_a_file_nothing(monkeypatch, capsys):
    assert list(ProgressBar("square").over([4, 5])) == [4, 5]
    assert capsys.readouterr() == ("", "")
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    assert list(ProgressBar("square").over((n for n in (4, 5)), total=2)) == [4, 5]
    told = capsys.readouterr().err
    assert told.endswith("\n")
    assert told.count("\n") == 1
    assert "square: 2 of 2" in told


def test_time_that_is_left(monkeypatch):
    clock = iter([0.0, 100.0, 300.0])
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(clock))
    bar = ProgressBar("train")
    told = []
    monkeypatch.setattr(progress, "_in_notebook", lambda: True)
    monkeypatch.setattr(bar, "_display", told.append)
    bar(1, 4)
    bar(4, 4)
    assert [repr(state) for state in told] == ["train: 1 of 4, 5 min left", "train: 4 of 4, 5 min"]


# --------------------------------------------------------------------------------------------------- a posterior


def posterior(draws=2):
    volume = scan()
    record = Provenance(
        "denoise<script>",
        "0.1.0",
        inputs=("0123456789abcdef",),
        settings={"draws": draws},
        prior={"name": "fine-t1"},
        decisions=("noise level 3 <img src=x onerror=alert(1)>", "it was so."),
    )
    spread = volume.with_data(np.abs(volume.data - 99)) if draws else None
    return md.Posterior(volume, spread, (volume,) * draws, record)


def test_a_posterior_shows_mean_spread_and_a_draw():
    shown = page(posterior())
    assert len(shown.pictures()) == 3
    assert shown.tags == {"div", "p", "b", "img"}
    for words in ("mean:", "standard deviation of 2 draws: dark blue 0", "plausible, not measured", "prior fine-t1"):
        assert words in shown.text
    assert "Noise level 3 <img" in shown.text
    assert "It was so." in shown.text
    assert ".." not in shown.text
    assert "0123456789abcdef" not in shown.text
    assert len(page(posterior(0)).pictures()) == 1
    assert len([axes for axes in posterior().plot().axes if axes.images]) == 9

import itertools

import matplotlib
import matplotlib.image
import numpy as np
import pytest
from matplotlib.text import Text
from scipy import ndimage

from medidiff import report
from medidiff.errors import InputError, MedidiffError, OutputError, SettingsError
from medidiff.report import Look, comparison, montage
from medidiff.views import PLANES, Upright, grey_window, view
from medidiff.volume import Geometry

DIRECTION = {"R": (0, 1), "L": (0, -1), "A": (1, 1), "P": (1, -1), "S": (2, 1), "I": (2, -1)}
ORIENTATIONS = ["RAS", "LPS", "LAS", "PIR", "ASL", "SRP"]
SIZE = (60.0, 80.0, 48.0)  # mm of the body along the world's x, y, z


def stored(orientation, *, spacing=(1.0, 2.0, 3.0)):
    """An empty grid of 72 x 90 x 60 mm about the world origin, its axes running as the letters say."""
    affine = np.eye(4)
    for axis, letter in enumerate(orientation):
        world, sign = DIRECTION[letter]
        affine[:3, axis] = 0
        affine[world, axis] = sign * spacing[axis]
    extent = [(72, 90, 60)[DIRECTION[letter][0]] for letter in orientation]
    shape = [round(e / s) for e, s in zip(extent, spacing, strict=True)]
    affine[:3, 3] = -affine[:3, :3] @ ((np.array(shape) - 1) / 2)
    return Geometry(tuple(shape), affine)


def positions(geometry):
    return geometry.world(np.stack(np.meshgrid(*map(np.arange, geometry.shape), indexing="ij"), axis=-1))


def body(geometry, *, marker_mm=None):
    """A grey block about the world origin, and a bright marker of 8 mm at a world point."""
    where = positions(geometry)
    scan = np.where((np.abs(where) <= np.array(SIZE) / 2).all(-1), 100.0, 0.0)
    if marker_mm is not None:
        scan[(np.abs(where - marker_mm) <= 4.5).all(-1)] = 400.0
    return scan


def side(value, low, high):
    """On which half of a span a value lies: -1 low, +1 high."""
    return -1 if value < (low + high) / 2 else 1


def points_to(letter, position_mm):
    """Whether a world point lies on the side of the origin that a letter names."""
    world, sign = DIRECTION[letter]
    return sign * position_mm[world] > 0


@pytest.mark.parametrize("radiological", [True, False])
@pytest.mark.parametrize("orientation", ORIENTATIONS)
@pytest.mark.parametrize("plane", PLANES, ids=lambda plane: plane.name)
def test_a_marker_lies_where_the_letters_say(plane, orientation, radiological):
    geometry = stored(orientation)
    for signs in itertools.product((-1, 1), repeat=3):
        marker = np.array(signs) * (18, 24, 14)
        shown = view(body(geometry, marker_mm=marker), geometry, plane, at_mm=marker, radiological=radiological)
        row, column = np.argwhere(shown.pixels == 400).mean(0)
        on_the_left = side(column, 0, shown.pixels.shape[1] - 1) < 0
        on_top = side(row, 0, shown.pixels.shape[0] - 1) < 0
        assert points_to(shown.left if on_the_left else shown.right, marker)
        assert points_to(shown.top if on_top else shown.bottom, marker)


def test_the_marker_law_notices_a_mirrored_affine():
    geometry = stored("RAS")
    mirrored = Geometry(geometry.shape, np.diag((-1.0, 1, 1, 1)) @ geometry.affine)
    marker = np.array((18.0, 24, 14))
    shown = view(body(geometry, marker_mm=marker), mirrored, PLANES[0], at_mm=(-18, 24, 14))
    column = np.argwhere(shown.pixels == 400).mean(0)[1]
    on_the_left = side(column, 0, shown.pixels.shape[1] - 1) < 0
    assert not points_to(shown.left if on_the_left else shown.right, marker)


def test_the_conventions_are_those_of_the_textbook():
    geometry = stored("PIR")
    letters = [(v.left, v.right, v.top, v.bottom) for v in (view(body(geometry), geometry, p) for p in PLANES)]
    assert letters == [("R", "L", "A", "P"), ("R", "L", "S", "I"), ("A", "P", "S", "I")]
    mirrored = [view(body(geometry), geometry, p, radiological=False) for p in PLANES]
    assert [(v.left, v.right) for v in mirrored] == [("L", "R"), ("L", "R"), ("P", "A")]
    for plane, other in zip(PLANES, mirrored, strict=True):
        assert np.array_equal(view(body(geometry), geometry, plane).pixels[:, ::-1], other.pixels)


@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_every_storage_gives_the_same_size_in_mm(orientation):
    geometry = stored(orientation, spacing=(1.0, 1.5, 2.0))
    sizes = [view(body(geometry), geometry, plane).size_mm for plane in PLANES]
    np.testing.assert_allclose(sizes, [(72, 90), (72, 60), (90, 60)])


def test_upright_finds_every_voxel_again():
    geometry = stored("SRP")
    scan = np.random.default_rng(0).random(geometry.shape)
    upright = Upright.of(scan, geometry)
    for index in ((0, 0, 0), (3, 5, 7), tuple(n - 1 for n in geometry.shape)):
        assert upright.data[upright.index(geometry.world(index))] == scan[index]
    assert upright.data[upright.index(geometry.world((3, 5, 7)))] != scan[3, 5, 8]


def test_a_view_refuses_data_of_another_grid():
    with pytest.raises(InputError, match="E-SHAPE"):
        view(np.zeros((3, 3, 3)), stored("RAS"), PLANES[0])


# ------------------------------------------------------------------------------------------------------- on the page


def bright_block(picture):
    """Row and column of the marker and height and width of the block it lies in, for each of the three planes."""
    grey = picture[..., :3].max(-1)
    labels, _ = ndimage.label(grey > 0.08)
    blocks = [box for box in ndimage.find_objects(labels) if min(s.stop - s.start for s in box) > 120]
    for box in sorted(blocks, key=lambda box: box[0].start):
        yield (*np.argwhere(grey[box] > 0.97).mean(0), tuple(s.stop - s.start for s in box))


@pytest.mark.parametrize("radiological", [True, False])
@pytest.mark.parametrize("orientation", ["RAS", "LPS", "PIR"])
def test_on_the_page_too_the_marker_is_where_it_belongs(tmp_path, orientation, radiological):
    geometry, marker = stored(orientation), np.array((18.0, 24, 14))  # right, front, up
    scan = body(geometry, marker_mm=marker)
    look = Look(radiological=radiological, at_mm=tuple(marker), window=(0, 400))
    path = comparison(tmp_path / "page.png", {"scan": scan}, geometry=geometry, look=look)
    found = list(bright_block(matplotlib.image.imread(path)))
    assert len(found) == 3
    for row, column, (height, width) in found:  # right and front are on the left in the one, on the right in the other
        assert side(row, 0, height) == -1
        assert side(column, 0, width) == (-1 if radiological else 1)


def test_on_the_page_a_millimetre_is_as_long_everywhere(tmp_path):
    geometry = stored("RAS", spacing=(1.0, 2.0, 3.0))
    scan = body(geometry, marker_mm=(0, 0, 0))
    path = comparison(tmp_path / "page.png", {"scan": scan}, geometry=geometry, look=Look(window=(0, 400)))
    sizes = np.array([size[::-1] for _, _, size in bright_block(matplotlib.image.imread(path))])
    x, y, z = (np.ptp(positions(geometry)[scan > 0], axis=0) + geometry.spacing_mm).tolist()
    block = np.array([(x, y), (x, z), (y, z)])
    per_mm = sizes / block
    assert per_mm.std() < 0.03 * per_mm.mean()
    assert (sizes / block[:, ::-1]).std() > 0.1 * per_mm.mean()  # the negative: swapped sides are seen


@pytest.fixture
def panels():
    scan = body(stored("RAS"), marker_mm=(10, 10, 5))
    rng = np.random.default_rng(0)
    removed = rng.normal(0, 5, scan.shape)
    return {"noisy": scan + removed, "denoised": scan, "removed": removed, "uncertainty": np.abs(removed)}


def test_the_page_has_the_size_that_follows_from_its_columns(tmp_path, panels):
    geometry, look = stored("RAS"), Look(column_inches=1.5, dpi=100)
    sizes = []
    for count in (1, 3):
        some = dict(list(panels.items())[:count])
        picture = matplotlib.image.imread(comparison(tmp_path / "p.png", some, geometry=geometry, look=look))
        sizes.append(picture.shape[:2])
    (height, width), (same_height, wider) = sizes
    assert height == same_height
    assert wider - width == pytest.approx(2 * 157, abs=1)  # a column and its gap: 1.5 + 0.07 inches


def test_removed_nothing_is_grey_uncertain_of_nothing_is_black_and_images_share_a_window(tmp_path, panels):
    geometry, look = stored("RAS"), Look(column_inches=1.5, dpi=100, window=(0, 200))
    flat = {"noisy": panels["denoised"], "half": panels["denoised"] / 2, "removed": 0 * panels["removed"]}
    flat["uncertainty"] = flat["removed"]
    picture = matplotlib.image.imread(comparison(tmp_path / "p.png", flat, geometry=geometry, look=look))[..., :3]

    def at(column):  # a quiet place of the axial panel, away from letters and marker
        x = round((0.42 + column * 1.57 + 0.75 * 0.9) * 100)
        return picture[120:130, x : x + 8].mean((0, 1))

    assert at(2) == pytest.approx(0.5, abs=0.01)
    assert at(3).max() < 0.03
    assert at(0).mean() == pytest.approx(2 * at(1).mean(), rel=0.05)
    signed_off = comparison(tmp_path / "q.png", flat, geometry=geometry, look=look, signed=())
    grey = matplotlib.image.imread(signed_off)[120:130, round((0.42 + 2 * 1.57 + 0.675) * 100), :3]
    assert grey.max() < 0.03  # the negative: as an image, nothing would be black


def head(*, scalp=1000.0, lesion=330.0):
    """A brain of 300 with a lesion near its edge, in a shell of fat."""
    away = np.linalg.norm(np.indices((40, 48, 32)) - np.array((20, 24, 16))[:, None, None, None], axis=0)
    image = np.select([away < 13, away < 15], [300.0, scalp], 0.0) + np.random.default_rng(0).normal(0, 2, away.shape)
    image[20:23, 14:17, 16:19] = lesion
    return image.astype(np.float32), away < 15


def test_a_bright_scalp_does_not_make_the_brain_dark_and_a_lesion_is_not_clipped():
    image, tissue = head()
    low, high = grey_window(image, tissue)
    assert 300 / high > 0.8
    assert high > 330 + 6  # room for what is brighter than the middle of the brain
    assert low == pytest.approx(0, abs=10)


def test_white_is_the_brightest_tissue_where_there_is_no_bright_scalp():
    image, tissue = head(scalp=200.0)
    assert grey_window(image, tissue)[1] == np.percentile(image[tissue], 99.5)
    image, tissue = head()
    below = image - 400  # as HU or normalised numbers: their zero is not black
    assert grey_window(below, tissue)[1] == np.percentile(below[tissue], 99.5)
    hollow = np.where(image > 600, image, 0)  # nothing in the middle that could say how bright a brain is
    assert grey_window(hollow, hollow > 0)[1] == np.percentile(hollow[hollow > 0], 99.5)


def test_a_page_of_a_head_shows_its_brain_bright(tmp_path):
    image, _ = head()
    grid = Geometry.regular(image.shape, spacing_mm=(1.0, 1.0, 1.0))
    picture = matplotlib.image.imread(comparison(tmp_path / "p.png", {"scan": image}, geometry=grid, look=Look(dpi=60)))
    rows, columns = 19 + np.array((60, 70)), 25 + np.array((60, 70))  # pixels in the middle of the axial panel
    assert picture[slice(*rows), slice(*columns), :3].mean() > 0.75


def test_the_same_page_has_the_same_bytes_and_leaves_matplotlib_alone(tmp_path, panels):
    before, geometry, look = dict(matplotlib.rcParams), stored("RAS"), Look(dpi=40)
    two = {name: panels[name] for name in ("denoised", "uncertainty")}
    one, same = (comparison(tmp_path / f"{n}.png", two, geometry=geometry, look=look).read_bytes() for n in "ab")
    other = comparison(tmp_path / "c.png", two, geometry=geometry, look=look, title="Page").read_bytes()
    assert one == same
    assert one != other
    assert dict(matplotlib.rcParams) == before


def overprinted(figure):
    """Pairs of words on a page that touch each other, and words that do not fit onto it."""
    figure.canvas.draw()
    words = [text for text in figure.findobj(Text) if text.get_text() and text.get_visible()]
    boxes = [(text.get_text(), text.get_window_extent()) for text in words]
    found = [(a, b) for (a, one), (b, other) in itertools.combinations(boxes, 2) if one.overlaps(other)]
    width, height = figure.bbox.width, figure.bbox.height
    return found + [a for a, box in boxes if box.x0 < 0 or box.y0 < 0 or box.x1 > width or box.y1 > height]


@pytest.fixture
def drawn(monkeypatch, tmp_path):
    """Draws a comparison and gives its figure."""
    figures = []
    monkeypatch.setattr(report, "_save", lambda figure, target, dpi: figures.append(figure) or target)

    def draw(panels, *, geometry=None, **look):
        comparison(tmp_path / "p.png", panels, geometry=geometry or stored("RAS"), look=Look(**look))
        return figures.pop()

    return draw


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("inches", [1.6, 2.0, 2.5])
def test_no_words_touch_whatever_the_width_of_the_page(drawn, count, inches):
    scan = body(stored("RAS"))
    scan = scan - 3.0 * (scan == 0)  # a grey window that begins a little below 0
    names = ["noisy", "denoised", "removed", "uncertainty", "other"][:count]
    for dpi in (72, 110, 160):
        figure = drawn(dict.fromkeys(names, scan), column_inches=inches, window=(-3, 1872), dpi=dpi)
        assert overprinted(figure) == []
    figure.texts[-1].set(position=figure.texts[-2].get_position(), ha="left")  # the negative: the note on the mark
    assert overprinted(figure)


def test_the_planes_of_a_few_thin_slices_are_named_without_touching(drawn):
    """Rows as high as 4 and as 24 mm, on pages where 90 mm are 1.6 and 2.5 inches."""
    for shape, inches in itertools.product(((90, 40, 24), (90, 24, 4)), (1.6, 2.5)):
        thin = Geometry.regular(shape)
        figure = drawn({"scan": body(thin)}, geometry=thin, column_inches=inches)
        figure.canvas.draw()
        names = [
            text.get_window_extent() for text in figure.texts if text.get_text() in ("Axial", "Coronal", "Sagittal")
        ]
        assert len(names) == 3
        assert not [pair for pair in itertools.combinations(names, 2) if pair[0].overlaps(pair[1])]


def test_a_colour_bar_names_zero_where_there_is_room_for_it(drawn):
    scan = body(stored("RAS"))

    def ticks(low):
        bar = drawn({"scan": scan}, window=(low, 1000)).axes[-1]
        return [label.get_text() for label in bar.get_xticklabels()]

    assert ticks(-1000) == ["-1000", "0", "1000"]
    assert ticks(-50) == ["-50", "1000"]


def test_a_flat_scan_is_drawn_whole(tmp_path):
    geometry = Geometry.regular((12, 14, 16))
    path = comparison(tmp_path / "flat.png", {"nothing": np.zeros((12, 14, 16))}, geometry=geometry)
    assert path.stat().st_size > 1000


def test_a_montage_is_a_grid_of_its_pictures(tmp_path):
    pictures = {f"{n}": np.full((10, 10), float(n)) for n in range(5)}
    path = montage(tmp_path / "grid.png", pictures, columns=3, window=(0, 4))
    picture = matplotlib.image.imread(path)[..., :3].mean(-1)
    assert picture.shape[1] == round(3 * 1.8 * 120)
    width = picture.shape[1]
    for n in range(5):
        x = round((n % 3 + 0.5) * width / 3)
        y = round((0.1 + n // 3 * 2.04 + 1.14) * 120)
        assert picture[y, x] == pytest.approx(n / 4, abs=0.01)
    assert picture[round((0.1 + 2.04 + 1.14) * 120), round(2.5 * width / 3)] == 0  # no sixth picture


def test_a_montage_shows_the_middle_of_a_volume_with_the_front_up(tmp_path):
    volume = np.zeros((10, 12, 5))
    volume[:3, 9:, 2] = 1.0  # left, front
    picture = matplotlib.image.imread(montage(tmp_path / "m.png", {"": volume}, columns=1))[..., :3].mean(-1)
    rows, columns = np.nonzero(picture > 0.9)
    assert rows.mean() < picture.shape[0] / 2
    assert columns.mean() < picture.shape[1] / 2


def test_refusals_of_a_comparison(tmp_path, panels):
    geometry = stored("RAS")
    holed = panels["denoised"].copy()
    holed[0, 0, 0] = np.inf
    (tmp_path / "folder.png").mkdir()
    wrong = (
        (SettingsError, "E-PANELS", "a.png", {}, Look()),
        (InputError, "E-SHAPE", "a.png", {"scan": np.zeros((2, 2, 2))}, Look()),
        (InputError, "E-NONFINITE", "a.png", {"scan": holed}, Look()),
        (SettingsError, "E-WINDOW", "a.png", panels, Look(window=(2, 1))),
        (SettingsError, "E-OUTFORMAT", "a.jpg", panels, Look()),
        (OutputError, "E-OUT", "none/a.png", panels, Look()),
        (OutputError, "E-OUT", "folder.png", {"scan": panels["denoised"]}, Look(dpi=20)),
    )
    for error, code, name, given, look in wrong:
        with pytest.raises(error, match=code):
            comparison(tmp_path / name, given, geometry=geometry, look=look)


@pytest.mark.parametrize(
    ("images", "columns", "code"),
    [({}, 2, "E-MONTAGE"), ({"a": np.zeros((3, 3))}, 0, "E-MONTAGE"), ({"a": np.zeros(3)}, 1, "E-SHAPE")],
)
def test_refusals_of_a_montage(tmp_path, images, columns, code):
    with pytest.raises(MedidiffError, match=code):
        montage(tmp_path / "m.png", images, columns=columns)

import numpy as np
import pytest
from scipy import ndimage

from medidiff import anatomy
from medidiff.anatomy import foreground, tissue_maximum
from medidiff.errors import InputError


def distance(shape, centre=None):
    grid = np.meshgrid(*(np.arange(n, dtype=float) for n in shape), indexing="ij")
    centre = centre or [(n - 1) / 2 for n in shape]
    return np.sqrt(sum((g - c) ** 2 for g, c in zip(grid, centre, strict=True)))


def brain(shape=(40, 44, 36), *, seed=0):
    """A ball of tissue with dark ventricles inside, nothing around it: a brain-extracted scan."""
    radius = distance(shape)
    image = np.where(radius < 14, 800.0, 0.0)
    image[radius < 4] = 120.0
    return image + np.random.default_rng(seed).normal(0, 8, shape) * (image > 0)


def head(shape=(48, 52, 40), *, seed=0):
    """Tissue, dark bone and a bright scalp, in air with Rician noise; the scalp touches the tissue at one place."""
    radius, rng = distance(shape), np.random.default_rng(seed)
    image = np.where(radius < 13, 500.0, 0.0) + np.where((radius >= 16) & (radius < 18), 900.0, 0.0)
    image[22:26, 24:28, 10:14] = 500.0
    return np.hypot(image + rng.normal(0, 25, shape), rng.normal(0, 25, shape))


def dice(a, b):
    return 2 * (a & b).sum() / (a.sum() + b.sum())


def is_solid(mask):
    return ndimage.label(mask)[1] == 1 and bool((ndimage.binary_fill_holes(mask) == mask).all())


def test_brain_with_its_ventricles():
    assert dice(foreground(brain()), distance((40, 44, 36)) < 14) > 0.97


def test_head_with_its_skull():
    mask, radius = foreground(head()), distance((48, 52, 40))
    assert mask[radius < 17].all()  # scalp, bone and brain; the smoothing may add a voxel or two of air
    assert not mask[radius > 20.5].any()


def test_mask_is_one_solid_piece():
    scan = brain()
    scan[1:4, 1:4, 1:4] = 800.0  # a second, smaller piece
    mask = foreground(scan)
    assert is_solid(mask)
    assert not mask[:5, :5, :5].any()


def test_solidity_notices_a_second_piece_and_a_hole():
    mask = foreground(brain())
    second, holed = mask.copy(), mask.copy()
    second[0, 0, 0] = True
    holed[20, 22, 18] = False
    assert not is_solid(second)
    assert not is_solid(holed)


def test_without_filling_the_ventricles_are_lost(monkeypatch):
    monkeypatch.setattr(anatomy, "_filled", lambda mask: mask)
    monkeypatch.setattr(anatomy, "_closed", lambda mask: mask)
    assert not is_solid(foreground(brain()))


@pytest.mark.parametrize("scan", [brain(), head()], ids=["brain", "head"])
def test_mask_does_not_depend_on_scale_shift_or_axes(scan):
    mask = foreground(scan)
    # A different scale rounds differently, so a voxel on the very threshold may fall either way.
    assert dice(mask, foreground(scan * 0.037)) > 0.999
    assert dice(mask, foreground(scan - 1000)) > 0.999
    assert dice(mask.transpose(2, 0, 1)[::-1], foreground(scan.transpose(2, 0, 1)[::-1])) > 0.999


def test_mask_holds_in_strong_noise():
    scan, rng = brain(), np.random.default_rng(3)
    noisy = np.hypot(scan + rng.normal(0, 120, scan.shape), rng.normal(0, 120, scan.shape))
    assert dice(foreground(scan), foreground(noisy)) > 0.95


def test_mask_is_deterministic_and_takes_integers():
    scan = np.rint(head()).astype(np.int16)
    assert np.array_equal(foreground(scan), foreground(scan.copy()))
    assert np.array_equal(foreground(scan), foreground(scan.astype(np.float64)))


def test_otsu_has_the_largest_variance_between_classes():
    values = np.concatenate(
        [np.random.default_rng(0).normal(0, 1, 4000), np.random.default_rng(1).normal(7, 1.5, 1500)]
    ).astype(np.float32)

    def between(threshold):
        low, high = values[values <= threshold], values[values > threshold]
        return low.size * high.size * (high.mean() - low.mean()) ** 2

    best = between(anatomy._otsu(values))
    thresholds = np.linspace(values.min(), values.max(), 202)[1:-1]
    assert all(between(t) <= best * 1.002 for t in thresholds)  # one histogram bin of grace
    assert between(1.0) < best * 0.99  # the negative: a threshold that is off is seen to be worse


def test_tissue_maximum_is_the_99th_percentile_of_the_mask_alone():
    scan = np.arange(1000.0).reshape(10, 10, 10)
    mask = scan < 500
    assert tissue_maximum(scan, mask) == pytest.approx(np.percentile(np.arange(500), 99), rel=1e-6)
    scan[~mask] = 1e6
    assert tissue_maximum(scan, mask) == pytest.approx(np.percentile(np.arange(500), 99), rel=1e-6)
    assert tissue_maximum(scan, np.ones_like(mask)) > 1e5
    assert tissue_maximum(3 * scan, mask) == pytest.approx(3 * tissue_maximum(scan, mask))


@pytest.mark.parametrize(
    ("image", "code"),
    [
        (np.zeros((4, 4)), "E-SHAPE"),
        (np.zeros((0, 4, 4)), "E-SHAPE"),
        (np.zeros((4, 4, 4), complex), "E-SHAPE"),
        (np.full((4, 4, 4), np.nan), "E-NONFINITE"),
        (np.full((4, 4, 4), 7.0), "E-FLAT"),
    ],
)
def test_foreground_refuses(image, code):
    with pytest.raises(InputError) as refusal:
        foreground(image)
    assert refusal.value.code == code


@pytest.mark.parametrize(
    ("image", "mask", "code"),
    [
        (np.ones((3, 3, 3)), np.ones((3, 3, 2), bool), "E-MASK"),
        (np.ones((3, 3, 3)), np.zeros((3, 3, 3), bool), "E-MASK"),
        (-np.ones((3, 3, 3)), np.ones((3, 3, 3), bool), "E-SCALE"),
    ],
)
def test_tissue_maximum_refuses(image, mask, code):
    with pytest.raises(InputError) as refusal:
        tissue_maximum(image, mask)
    assert refusal.value.code == code


def closed_by_filters(mask, side):
    """The closing with a cube as SciPy's filters make it."""
    reach = side // 2
    grown = ndimage.maximum_filter(np.pad(mask, reach).view(np.uint8), side, mode="constant")
    shrunk = ndimage.minimum_filter(grown, side, mode="constant") > 0
    return shrunk[reach:-reach, reach:-reach, reach:-reach]


@pytest.mark.parametrize("shape", [(30, 26, 28), (1, 1, 1), (3, 40, 2), (50, 6, 7)])
@pytest.mark.parametrize("share", [0.002, 0.02, 0.3])
def test_the_closing_is_that_of_a_cube_of_seven_voxels(shape, share):
    mask = np.random.default_rng(0).random(shape) < share
    assert np.array_equal(anatomy._closed(mask), closed_by_filters(mask, 7))


def test_another_cube_would_be_noticed():
    mask = np.random.default_rng(0).random((30, 26, 28)) < 0.02
    for side in (5, 9):
        assert not np.array_equal(anatomy._closed(mask), closed_by_filters(mask, side))

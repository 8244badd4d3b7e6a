"""A case cannot be built in a state in which it must not leave the hospital."""

import numpy as np
import pytest

from medidiff.case import Case
from medidiff.errors import InputError
from medidiff.volume import Geometry, Provenance, Volume

GRID = Geometry.regular((4, 5, 6))
INVENTED = Provenance(task="synthesize", version="0", synthetic=True)


def image() -> Volume:
    return Volume(np.ones(GRID.shape, np.float32), GRID, "MR")


def labels(value: int = 3, *, grid: Geometry = GRID, dtype: type = np.uint8) -> Volume:
    return Volume(np.full(grid.shape, value, dtype), grid, "MR")


def test_a_case_is_named_after_its_number_alone():
    assert Case(17, image(), INVENTED, labels(), asked={"age": 34.0}).name == "syn000017"


@pytest.mark.parametrize(
    "broken",
    [
        {"number": -1},
        {"provenance": Provenance(task="denoise", version="0")},
        {"labels": labels(4)},
        {"labels": labels(1, dtype=np.int16)},
        {"labels": labels(1, grid=Geometry.regular((4, 5, 6), spacing_mm=(1, 1, 2)))},
    ],
)
def test_a_case_that_breaks_its_promise_is_refused(broken):
    good = {"number": 0, "image": image(), "provenance": INVENTED, "labels": labels()}
    with pytest.raises(InputError, match="E-CASE"):
        Case(**(good | broken))

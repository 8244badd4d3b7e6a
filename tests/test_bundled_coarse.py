"""The bundled coarse prior: what it draws is a brain, another one each time, and one that follows a map."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from medidiff.metrics.tissues import dice, volumes_ml
from medidiff.prior.coarse import CoarsePrior
from medidiff.synthesis import Cascade, Effort, Request
from medidiff.volume import Geometry, Volume

RANGES_ML = ((100, 420), (330, 800), (400, 900))
"""CSF, grey and white matter of the 26 training heads as the classifier finds them, and half as much on either side."""
QUICK = Effort(coarse=4)


@pytest.fixture(scope="module")
def cascade() -> Cascade:
    return Cascade(effort=QUICK, device="cpu")


@pytest.fixture(scope="module")
def cases(cascade):
    return [cascade.draw(Request(spacing_mm=4.0), number, seed=3) for number in range(2)]


def tissues_ml(case) -> np.ndarray:
    return volumes_ml(case.labels.data[0].astype(np.uint8), count=3, spacing_mm=(4.0, 4.0, 4.0))


def is_a_brain(case) -> bool:
    """Tissue in amounts that people have, white matter brighter than grey and that than CSF, on both sides alike."""
    labels, image = case.labels.data[0], case.image.data[0]
    enough = all(low < ml < high for ml, (low, high) in zip(tissues_ml(case), RANGES_ML, strict=True))
    if not enough:
        return False
    csf, gray, white = (float(np.median(image[labels == label])) for label in (1, 2, 3))
    left = (labels > 0)[: labels.shape[0] // 2].sum() / (labels > 0).sum()
    return csf < gray < white and 0.45 < left < 0.55


def test_what_it_draws_is_a_brain(cases):
    assert all(is_a_brain(case) for case in cases)


def test_a_network_that_knows_nothing_draws_none(cascade):
    """A silent network and an atlas that expects nothing leave noise."""
    prior = CoarsePrior.load()
    with torch.no_grad():
        for parameter in prior.denoiser.backbone.parameters():
            parameter.zero_()
        prior.denoiser.atlas.mean.zero_()
    broken = Cascade(prior, finer=cascade.finer, effort=QUICK, device="cpu")
    assert not is_a_brain(broken.draw(Request(spacing_mm=4.0), 0, seed=3))


def test_two_cases_are_two_people(cases):
    one, other = (case.labels.data[0].astype(np.uint8) for case in cases)
    assert 0.3 < dice(one, other, count=3)[1] < 0.9


def test_a_given_map_is_followed(cascade, cases):
    """The tissue of one case, given, comes back; the draw that was not given it has its own."""
    given = cases[0].labels
    drawn = cascade.draw(Request(spacing_mm=4.0, tissue=given), 1, seed=3)
    image = Volume(drawn.image.data, given.geometry, "MR").data[0]
    labels = given.data[0]
    csf, gray, white = (float(np.median(image[labels == label])) for label in (1, 2, 3))
    assert csf < gray < white
    other = cases[1].image.data[0]
    agreement = [float(np.corrcoef(each[labels > 0], labels[labels > 0])[0, 1]) for each in (image, other)]
    assert agreement[0] > agreement[1] + 0.1


def test_the_frame_and_the_card_say_the_same(cascade):
    card = cascade.coarse.card
    assert card.frame == Geometry.regular((40, 48, 40), spacing_mm=(4.0, 4.0, 4.0))
    assert cascade.coarse.denoiser.atlas.shape == card.shape
    assert dataclasses.asdict(card)["heads"] == 26

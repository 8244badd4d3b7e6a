"""One image of a derived series: what its nearest source image gives, what the series shares, its place, its pixels."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from pydicom.dataset import Dataset
from pydicom.uid import generate_uid

from medidiff.io.dicom.derived.lossy import add_lossy
from medidiff.io.dicom.derived.modules import decimal, kept_of
from medidiff.io.dicom.derived.pet import add_pet
from medidiff.io.dicom.derived.plan import Plan, Stored
from medidiff.io.dicom.derived.references import add_sources, reference_series
from medidiff.io.dicom.derived.source import SAME_GRID_MM
from medidiff.io.dicom.pixels.values import units
from medidiff.io.dicom.series.stack import LPS_TO_RAS
from medidiff.io.files.checks import SHEAR_LIMIT, shear

__all__ = ["image_of"]


def image_of(plan: Plan, k: int) -> Dataset:
    """The complete dataset of slice k, from 0 in spatial order."""
    source = plan.source
    header = source.header(plan.nearest(k))
    image = kept_of(header, sop_class=source.sop_class)
    image.update(plan.common)
    image.SOPInstanceUID, image.InstanceNumber = generate_uid(), k + 1
    contributing = source.contributing(plan.geometry, k)
    add_sources(image, contributing, preserved=plan.preserved)
    reference_series(image, contributing)
    _type(image, plan)
    if source.modality == "PT":
        add_pet(image, units=units(source.images[0]), slices=plan.geometry.shape[2], index=k)
    add_lossy(image, source.images)
    _plane(image, plan, k)
    if source.modality == "CT" and shear(plan.geometry) > SHEAR_LIMIT and header.get("GantryDetectorTilt"):
        image.GantryDetectorTilt = decimal(float(header.GantryDetectorTilt))
    _pixels(image, plan, plan.stored(k))
    return image


def _type(image: Dataset, plan: Plan) -> None:
    """ImageType: the third value, the kind of picture, stays; in CT an enhanced image has another word for AXIAL.

    The second value of a PET image is PRIMARY whatever it went through (C.8.9.4.1.1), and it needs no third.
    """
    third, modality = [value for value in plan.source.images[0].image_type[2:3] if value], plan.source.modality
    if modality == "CT" and third != ["LOCALIZER"]:
        third = ["AXIAL"]
    if modality == "MR" and not third:
        third = ["OTHER"]
    image.ImageType = ["DERIVED", "PRIMARY" if modality == "PT" else "SECONDARY", *third]


def _plane(image: Dataset, plan: Plan, k: int) -> None:
    """Image Plane, C.7.6.2: LPS, mm; decimal strings as exact as 16 characters allow."""
    lps = LPS_TO_RAS @ plan.geometry.affine
    across, down, apart = plan.geometry.spacing_mm
    row, column = lps[:3, 0] / across, lps[:3, 1] / down
    normal = np.cross(row, column)
    position = lps[:3, 3] + k * lps[:3, 2]
    step = float(np.dot(normal, lps[:3, 2]))
    if abs(apart - plan.source.geometry.spacing_mm[2]) > SAME_GRID_MM or not image.get("SliceThickness"):
        image.SliceThickness = decimal(step)
    if plan.source.modality == "MR":
        image.SpacingBetweenSlices = decimal(step)
    image.ImagePositionPatient = [decimal(value) for value in position]
    near = plan.nearest(k)
    image.ImageOrientationPatient = [decimal(value) for value in _as_stored((*row, *column), near.orientation)]
    image.SliceLocation = decimal(float(np.dot(normal, position)))
    image.PixelSpacing = [decimal(value) for value in _as_stored((down, across), near.spacing_mm)]


def _as_stored(values: Sequence[float], source: Sequence[float] | None) -> Sequence[float]:
    """The source's own digits where they mean the same, without the last digits that arithmetic has touched."""
    same = source is not None and np.allclose(values, source, rtol=0, atol=1e-10)
    return source if same and source is not None else values


def _pixels(image: Dataset, plan: Plan, stored: Stored) -> None:
    """Image Pixel, Modality and VOI attributes, C.7.6.3 and C.11."""
    first = plan.source.images[0]
    image.SamplesPerPixel, image.PhotometricInterpretation = 1, first.photometric or "MONOCHROME2"
    image.Columns, image.Rows = plan.geometry.shape[:2]
    image.BitsAllocated = image.BitsStored = 16
    image.HighBit = 15
    signed = stored.scale.signed
    image.PixelRepresentation = int(signed)
    for name, value in zip(("PixelPaddingValue", "PixelPaddingRangeLimit"), stored.padding, strict=False):
        setattr(image, name, value)
        image[name].VR = "SS" if signed else "US"
    if plan.source.modality in ("CT", "PT") or any(scale.is_rescaled for scale in plan.storage.scales):
        image.RescaleSlope, image.RescaleIntercept = decimal(stored.scale.slope), decimal(stored.scale.intercept)
        if plan.source.modality != "PT":
            image.RescaleType = units(first) or "US"  # DICOM's word for no unit
    if plan.window is not None:
        image.WindowCenter, image.WindowWidth = (decimal(value) for value in plan.window)
    image.PixelData = stored.values.T.astype("<i2" if signed else "<u2").tobytes()
    image["PixelData"].VR = "OW"

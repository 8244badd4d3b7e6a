"""Scans on one grid with everything that sets of them are compared by: `real_brains`, `synthetic_brains`.

Every scan is scaled to a tissue maximum of 1 and, unless it lies there already, brought to the frame of the cascade
(RAS, 160 x 192 x 160 mm at 1 mm, the middle of the head in its middle) by `medidiff.physics.framing.see_in_frame`, as
the training scans were. At 2 mm (means of 2³ voxels) it is labelled anew, real or synthetic alike: DIPY's hidden Markov
random field classifier (Zhang et al. 2001) with three classes and β = 0.1 on what is brighter than 0.05, *clipped at
1*: the classifier begins with classes of equal width up to the brightest voxel, and a few bright vessels otherwise
leave it with no grey matter (`docs/decisions.md`).
"""

from __future__ import annotations

import argparse
import csv
import dataclasses
import hashlib
import json
import logging
import tomllib
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import scoring
from numpy.typing import NDArray
from scoring import Array, scored_scans

from medidiff import io
from medidiff.errors import InputError
from medidiff.metrics.features import random_features
from medidiff.metrics.layout import layout
from medidiff.metrics.spectrum import radial_power
from medidiff.metrics.tissues import radiomics, volumes_ml
from medidiff.physics.framing import see_in_frame
from medidiff.prepare import fit_intensity
from medidiff.volume import Geometry, Volume

__all__ = [
    "AIR",
    "COARSE_MM",
    "EDGES",
    "FRAME",
    "TISSUES",
    "Brain",
    "data_options",
    "describe",
    "drawn_by",
    "framed",
    "label",
    "map_of",
    "mosaic",
    "real_brains",
    "rows",
    "set_options",
    "synthetic_brains",
]

FRAME = Geometry.regular((160, 192, 160))
TISSUES = ("CSF", "grey matter", "white matter")
EDGES = tuple(float(edge) for edge in np.linspace(0.0125, 0.5, 40))
"""Of the shells of the power spectra, cycles per mm."""
COARSE_MM = (2.0, 2.0, 2.0)
AIR = 0.05
_WHOLE_MM = 5e-3  # relative: headers say 1.00001 for 1
_VERSION = 1  # of what is kept of a scan; kept files of another are made anew


@dataclass(frozen=True, eq=False)
class Brain:
    """What a comparison of sets keeps of one scan.

    Args:
        coarse: (80, 96, 80) scan at 2 mm.
        labels: (80, 96, 80) 0 for air and 1 to 3 for `TISSUES`, from the classifier.
        mosaic: (384, 384) picture at 1 mm: two axial slices above, a coronal and a sagittal one below.
        features: of `random_features`.
        spectrum: density in the shells of `EDGES`.
        radiomics: of `medidiff.metrics.tissues.radiomics`.
        volumes: of each tissue in ml.
        overlap: Dice of each tissue between `labels` and the map that came with the scan; empty without one.
        age: in years, as asked for or as told; NaN when unknown.
        sex: ``"F"``, ``"M"`` or empty.
    """

    coarse: Array
    labels: NDArray[np.uint8]
    mosaic: Array
    features: NDArray[np.float64]
    spectrum: NDArray[np.float64]
    radiomics: NDArray[np.float64]
    volumes: NDArray[np.float64]
    overlap: NDArray[np.float64]
    age: float = float("nan")
    sex: str = ""

    @cached_property  # every comparison that the scan is part of asks for it
    def layout(self) -> NDArray[np.float64]:
        """Steps between planes and symmetry, of `medidiff.metrics.layout`."""
        return layout(self.coarse, self.labels, count=len(TISSUES))

    @property
    def levels(self) -> NDArray[np.float64]:
        """The spectrum in dB."""
        return 10 * np.log10(self.spectrum)


def label(coarse: Array) -> NDArray[np.uint8]:
    """Tissue of a scan at 2 mm, by the method in the head of this module; dipy is a development dependency.

    Raises:
        InputError: ``E-LABELS``, the scan shows less than three tissues.
    """
    from dipy.segment.tissue import TissueClassifierHMRF

    logging.getLogger("dipy").setLevel(logging.WARNING)
    bright = np.minimum(np.where(coarse > AIR, coarse, 0), 1).astype(np.float64)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        _, found, _ = TissueClassifierHMRF(verbose=False).classify(bright, 3, 0.1, tolerance=1e-4, max_iter=30)
    out = np.asarray(found, dtype=np.uint8)
    if len(np.unique(out)) < len(TISSUES) + 1:
        raise InputError(
            "E-LABELS", f"{len(np.unique(out)) - 1} tissues in a scan", wanted="CSF, grey and white matter"
        )
    return out


def halved(image: NDArray[np.generic]) -> Array:
    """Means over 2³ voxels."""
    i, j, k = (n // 2 for n in image.shape)
    return image.astype(np.float32).reshape(i, 2, j, 2, k, 2).mean(axis=(1, 3, 5))


def framed(scan: Volume) -> Array:
    """A scan at tissue maximum 1 in the frame, (160, 192, 160); as it is where it lies there already."""
    scaled = scan.with_data(fit_intensity(scan).apply(scan.data))
    spacing = np.asarray(scan.geometry.spacing_mm)
    there = scan.shape == FRAME.shape and scan.geometry.orientation == "RAS"
    if there and np.abs(spacing - 1).max() <= _WHOLE_MM:
        return np.asarray(scaled.data[0], dtype=np.float32)
    affine = scan.geometry.affine.copy()
    affine[:3, :3] *= np.where(np.abs(spacing - 1) <= _WHOLE_MM, 1 / spacing, 1)
    return np.asarray(see_in_frame(dataclasses.replace(scaled, geometry=Geometry(scan.shape, affine)), FRAME).data[0])


def describe(fine: Array, *, given: NDArray[np.uint8] | None = None) -> Brain:
    """Everything that is kept of a scan.

    Args:
        fine: (160, 192, 160) scan in the frame, tissue maximum 1.
        given: (160, 192, 160) or (80, 96, 80) label map that came with it.

    Raises:
        InputError: ``E-LABELS``, three tissues are not found in it.
    """
    coarse = halved(fine)
    labels = label(coarse)
    return Brain(
        coarse=coarse,
        labels=labels,
        mosaic=mosaic(fine),
        features=random_features(fine, fine > AIR),
        spectrum=radial_power(fine, spacing_mm=(1, 1, 1), edges=EDGES),
        radiomics=radiomics(coarse, labels, count=len(TISSUES), spacing_mm=COARSE_MM),
        volumes=volumes_ml(labels, count=len(TISSUES), spacing_mm=COARSE_MM),
        overlap=np.empty(0) if given is None else _overlap(labels, given),
    )


def mosaic(fine: Array) -> Array:
    """Four slices of a framed scan in one picture, row 0 on top; the patient's left is on the left."""
    i, j, k = (n // 2 for n in fine.shape)
    tiles = (fine[:, :, k + 12].T, fine[:, :, k - 16].T, fine[:, j, :].T, fine[i - 8, :, :].T)
    side, page = max(fine.shape), np.zeros((2 * max(fine.shape), 2 * max(fine.shape)), dtype=np.float32)
    for place, tile in enumerate(tiles):
        top, left = side * (place // 2) + (side - tile.shape[0]) // 2, side * (place % 2) + (side - tile.shape[1]) // 2
        page[top : top + tile.shape[0], left : left + tile.shape[1]] = tile[::-1]
    return page


def _overlap(labels: NDArray[np.uint8], given: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Dice of each tissue, on the grid of the given map."""
    from medidiff.metrics.tissues import dice

    factor = given.shape[0] // labels.shape[0]
    finer = labels.repeat(factor, 0).repeat(factor, 1).repeat(factor, 2)
    return dice(finer, given, count=len(TISSUES))


def real_brains(
    data: Path,
    split: Path,
    folder: str,
    *,
    part: str,
    cache: Path | None,
    change: Callable[[Array, int], Array] | None = None,
) -> list[Brain]:
    """The real scans of one part of a folder.

    Args:
        data: the shared data.
        split: TOML that says which subject serves what.
        folder: of the data, with ``participants.tsv``.
        part: ``"train"``, ``"validation"`` or ``"test"``.
        cache: folder where what was found is kept; None for nowhere.
        change: a fault to put into each framed scan, with its place in the part as the seed.

    Raises:
        InputError: a scan is missing or cannot be read.
    """
    subjects = tomllib.loads(split.read_text(encoding="utf-8"))[folder][part]
    told = participants(data / folder / "participants.tsv")
    found = []
    for place, path in scored_scans(data, split, folder, part=part).items():

        def made(path: Path = path, place: int = place) -> Brain:
            fine = framed(io.read(path))
            return describe(fine if change is None else change(fine, place))

        brain = _kept(cache, path, made, name="" if change is None else change.__name__)
        age, sex = told.get(subjects[place - 1], (float("nan"), ""))
        found.append(dataclasses.replace(brain, age=age, sex=sex))
    return found


def synthetic_brains(folder: Path, *, count: int, cache: Path | None) -> list[Brain]:
    """The first scans of a synthetic set in BIDS.

    Args:
        folder: with ``sub-*/anat/*_T1w.nii.gz``, perhaps label maps (`map_of`), and ``participants.tsv``.
        count: how many to take at most; 0 for all.
        cache: as in `real_brains`.

    Raises:
        InputError: ``E-NOIMAGES``, there is no such scan, or one that cannot be read.
    """
    paths = sorted(folder.glob("sub-*/anat/*_T1w.nii.gz"))
    if not paths:
        wanted = "sub-*/anat/*_T1w.nii.gz"
        raise InputError("E-NOIMAGES", "no synthetic scans", wanted=wanted, file=folder.name)
    told = participants(folder / "participants.tsv")
    found = []
    for path in paths[:count] if count else paths:
        brain = _kept(cache, path, lambda path=path: _with_map(path))
        age, sex = told.get(path.parts[-3], (float("nan"), ""))
        found.append(dataclasses.replace(brain, age=age, sex=sex))
    return found


def map_of(scan: Path) -> Path:
    """Where the label map of a scan in BIDS lies: among the derivatives, as `medidiff export` writes it, or beside."""
    name = scan.name.replace("_T1w.nii.gz", "_dseg.nii.gz")
    derived = scan.parents[2] / "derivatives" / "labels" / scan.parts[-3] / "anat" / name
    return derived if derived.is_file() else scan.with_name(name)


def _with_map(path: Path) -> Brain:
    beside = map_of(path)
    scan = io.read(path)
    if not beside.is_file():
        return describe(framed(scan))
    table = io.read(beside)
    if table.shape != FRAME.shape or scan.shape != FRAME.shape:
        found = f"a label map of {' x '.join(map(str, table.shape))} voxels"
        raise InputError("E-LABELS", found, wanted="scan and map on the 1 mm frame", file=beside.name)
    return describe(framed(scan), given=np.rint(table.data[0]).astype(np.uint8))


def drawn_by(folder: Path | None) -> str:
    """The priors that drew a set, with the hashes of their weights, as the set says; ``"none"`` if it does not."""
    about = folder / "medidiff.json" if folder is not None else None
    if about is None or not about.is_file():
        return "none"
    priors = json.loads(about.read_text(encoding="utf-8"))["About"]["priors"]
    return ", ".join(f"{prior['name']} {prior['sha256']}" for prior in priors)


def participants(path: Path) -> dict[str, tuple[float, str]]:
    """Age and sex by participant from a BIDS table; empty where there is none."""
    if not path.is_file():
        return {}
    with path.open(encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream, delimiter="\t"))
    return {row["participant_id"]: (_number(row.get("age")), _sex(row)) for row in rows}


def _number(text: str | None) -> float:
    try:
        return float(text or "nan")
    except ValueError:
        return float("nan")


def _sex(row: dict[str, str]) -> str:
    letter = (row.get("sex") or row.get("gender") or "").strip().upper()[:1]
    return letter if letter in ("F", "M") else ""


def _kept(cache: Path | None, path: Path, make: Callable[[], Brain], *, name: str = "") -> Brain:
    """What was found in a scan before, by the hash of its bytes and the name of a fault; or found now and kept."""
    if cache is None:
        return make()
    beside = map_of(path)
    digest = hashlib.sha256(path.read_bytes())
    if beside != path and beside.is_file():
        digest.update(beside.read_bytes())
    place = cache / f"{digest.hexdigest()[:32]}{name}-{_VERSION}.npz"
    names = [field.name for field in dataclasses.fields(Brain) if field.name not in ("age", "sex")]
    if place.is_file():
        with np.load(place, allow_pickle=False) as held:
            return Brain(**{name: held[name] for name in names})
    brain = make()
    cache.mkdir(parents=True, exist_ok=True)
    partial = place.with_suffix(".partial.npz")
    np.savez(partial, **{name: getattr(brain, name) for name in names})
    partial.replace(place)
    return brain


def rows(brains: Sequence[Brain], name: str) -> NDArray[np.float64]:
    """One field of all scans, (cases, ...)."""
    return np.stack([np.asarray(getattr(brain, name), dtype=np.float64) for brain in brains])


def data_options(doc: str) -> argparse.ArgumentParser:
    """A parser with the real scans that sets are compared with; `doc` is of the command's module."""
    out = argparse.ArgumentParser(
        description=doc.splitlines()[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    shared = scoring.options("", writes="").get_default("data")
    out.add_argument("--data", type=Path, default=shared, help="folder of the shared data")
    out.add_argument(
        "--split", type=Path, default=Path(__file__).with_name("split.toml"), help="which subject serves what"
    )
    out.add_argument("--set", default="t1-ds002748", help="folder of the real scans")
    out.add_argument("--cache", type=Path, default=Path("out/brains"), help="folder for what was found in each scan")
    out.add_argument("--threads", type=int, default=1, help="of torch")
    return out


def set_options(doc: str, *, check: str) -> argparse.ArgumentParser:
    """The options that the commands about synthetic sets share.

    Args:
        doc: of the command's module; its first line is the description.
        check: what ``--self-check`` does.
    """
    out = data_options(doc)
    out.add_argument("synthetic", type=Path, nargs="?", help="BIDS folder of invented scans; none with --self-check")
    out.add_argument("--count", type=int, default=0, help="invented scans to take; 0 for all")
    out.add_argument("--self-check", action="store_true", help=check)
    return out

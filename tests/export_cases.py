"""What the tests of exported data sets share: small invented cases, and ways to damage what was written."""

from __future__ import annotations

import gzip
import io
import json
import shutil
import tarfile
from collections.abc import Iterable, Iterator
from pathlib import Path

import nibabel as nib
import numpy as np
import pydicom

from medidiff.case import MARK, TISSUES, Case
from medidiff.export import About, DataSetWriter, open_data_set
from medidiff.export.sums import SUMS, files_below, write_sums
from medidiff.volume import Geometry, Provenance, Volume

SHAPE = (10, 12, 11)
NUMBERS = (0, 1, 2, 35)  # the last one in a shard of its own
PRIOR = {"name": "coarse-t1", "sha256": "ab" * 32}
ABOUT = About(
    title="Invented brains",
    count=4,
    seed=7,
    licence="CC-BY-4.0",
    method="Drawn by a cascade of priors.",
    priors=({**PRIOR, "licence": "Apache-2.0"},),
    asked={"contrast": "T1w"},
    label_names=TISSUES,
)
REPORT = {"refusal": "", "override": "", "checked": 4, "flagged": 0, "thresholds": {"voxels": 0.8125, "far": None}}


def case(number: int, *, shape: tuple[int, int, int] = SHAPE, labels: bool = True) -> Case:
    """Noise in an oblique box whose affine float32 does not hold; some of age and sex left open."""
    rng = np.random.default_rng(number)
    turn = np.linalg.qr(np.array([[1.0, 0.1, 0.0], [-0.1, 1.0, 0.2], [0.0, -0.2, 1.0]]))[0] * (1.1, 1.2, 1.3)
    affine = np.eye(4)
    affine[:3, :3], affine[:3, 3] = turn, (-12.3, 7.7, 31.1)
    grid = Geometry(shape, affine)
    image = Volume(rng.random(shape, dtype=np.float32), grid, "MR")
    mask = Volume(rng.integers(0, 4, shape).astype(np.uint8), grid, "MR") if labels else None
    asked = {"contrast": "T1w"} | ({"age": 20.0 + number, "sex": "FM"[number % 2]} if number else {})
    made = Provenance("synthesize", "0.1.0", settings={"steps": 4}, prior=PRIOR, seed=7, synthetic=True)
    return Case(number, image, made, mask, asked=asked)


def written(
    out: Path,
    format: str,
    *,
    numbers: Iterable[int] = NUMBERS,
    about: About = ABOUT,
    labels: bool = True,
    shape: tuple[int, int, int] = SHAPE,
) -> Path:
    """A whole data set."""
    writer = open_data_set(out, format, about)
    add(writer, numbers, labels=labels, shape=shape)
    writer.close(REPORT)
    return out


def add(
    writer: DataSetWriter, numbers: Iterable[int], *, labels: bool = True, shape: tuple[int, int, int] = SHAPE
) -> None:
    for number in numbers:
        if not writer.has(number):
            writer.add(case(number, labels=labels, shape=shape))


def tree(root: Path) -> dict[str, bytes]:
    """Every file below a folder, hidden ones too."""
    return {name: (root / name).read_bytes() for name in files_below(root)}


def contents(root: Path) -> Iterator[tuple[str, bytes]]:
    """The bytes of every file as they are, and once more unpacked where they are packed."""
    for name, raw in tree(root).items():
        yield from _unpacked(name, raw)


def _unpacked(name: str, raw: bytes) -> Iterator[tuple[str, bytes]]:
    yield name, raw
    if name.endswith(".gz"):
        yield name, gzip.decompress(raw)
    if name.endswith(".tar"):
        with tarfile.open(fileobj=io.BytesIO(raw)) as tar:
            for member in tar:
                yield from _unpacked(member.name, tar.extractfile(member).read())


def resum(root: Path) -> None:
    """Make the checksums fit whatever is there now, so that only the other checks can find what is wrong."""
    write_sums(root, list(files_below(root)))


def unmark(path: Path) -> None:
    """Take the synthetic mark out of a file, which stays one of its kind."""
    if path.name.endswith((".nii", ".nii.gz")):
        image = nib.load(path, mmap=False)
        plain = nib.Nifti1Image(np.asanyarray(image.dataobj), image.affine, dtype=image.get_data_dtype())
        plain.to_filename(path)
    elif path.suffix == ".dcm":
        image = pydicom.dcmread(path)
        del image.SyntheticData
        image.save_as(path)
    elif path.suffix == ".json":
        fields = json.loads(path.read_text("utf-8"))
        path.write_text(json.dumps({key: value for key, value in fields.items() if key != "Synthetic"}), "utf-8")
    elif path.suffix in (".tsv", ".csv"):
        lines = path.read_text("utf-8").splitlines()
        path.write_text("\n".join([*lines[:-1], lines[-1].replace("true", "false")]) + "\n", "utf-8")
    elif path.suffix == ".tar":
        _unmark_member(path)
    else:
        path.write_text(path.read_text("utf-8").replace(MARK, "a scan"), "utf-8")


def _unmark_member(path: Path) -> None:
    """Take the mark out of the last scan of a shard only."""
    parts = path.parent / "parts"
    with tarfile.open(path) as tar:
        names, comment = tar.getnames(), tar.pax_headers
        tar.extractall(parts, filter="data")
    unmark(parts / next(name for name in reversed(names) if name.endswith("image.nii.gz")))
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT, pax_headers=comment) as tar:
        for name in names:
            tar.add(parts / name, name)
    shutil.rmtree(parts)


def without_line(root: Path, name: str) -> None:
    """Take the line of a file out of the checksums."""
    lines = (root / SUMS).read_text("utf-8").splitlines(keepends=True)
    (root / SUMS).write_text("".join(line for line in lines if not line.endswith(f"  {name}\n")), "utf-8")

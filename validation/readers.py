"""What six readers make of the same bad inputs: `python validation/readers.py --help`.

Every case of `tests/badinputs` is made on disk and given to each reader in a process of its own. The ramp oracle judges
what comes back:

* **right**: the voxels hold the ramp where the reader says they lie; or the case must be refused, and is;
* **refused**: an error, on an input that should be read;
* **not refused**: any volume, on an input that holds none that could be told right;
* **silently wrong**: a volume that does not hold the ramp where it says it does;
* **crashed**: killed, or no answer in 60 s.

A reader that gives several volumes is right when one is. The cases were written for medidiff's suite, so its own
row says only that the suite passes; the rows of the others are what the table is for.
"""

from __future__ import annotations

import argparse
import multiprocessing
import resource
import sys
import tempfile
import warnings
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

import badinputs
from badinputs.case import Case, Truth, ramp_error

from medidiff.volume import Geometry, Volume

LPS = np.diag((-1.0, -1.0, 1.0, 1.0))
LIMIT_S, LIMIT_BYTES = 60.0, 6 * 2**30
OUTCOMES = ("right", "refused", "not refused", "silently wrong", "crashed")


def _volume(data: NDArray[Any], affine: NDArray[np.float64]) -> Volume:
    data = np.asarray(data)
    data = data.reshape(data.shape[:3]) if data.ndim > 3 and data.size == np.prod(data.shape[:3]) else data
    return Volume(data, Geometry(data.shape, affine))


def medidiff(path: Path) -> Iterator[Volume]:
    """This package, by default options; of several scans each by its number."""
    import medidiff.io as mio

    yield from (scan.load().volume for scan in mio.find(path).scans)


def monai(path: Path) -> Iterator[Volume]:
    """MONAI's `LoadImage` with its default choice of reader."""
    from monai.transforms import LoadImage

    image = LoadImage(image_only=True)(str(path))
    yield _volume(image.numpy(), np.asarray(image.affine, dtype=np.float64))


def simpleitk(path: Path) -> Iterator[Volume]:
    """SimpleITK: its series reader for a folder, each series apart; `ReadImage` for a file."""
    import SimpleITK

    if path.is_dir():
        reader, files = SimpleITK.ImageSeriesReader(), []
        for folder in [
            path,
            *(place for place in sorted(path.rglob("*")) if place.is_dir() and not place.is_symlink()),
        ]:
            series = reader.GetGDCMSeriesIDs(str(folder))
            files += [reader.GetGDCMSeriesFileNames(str(folder), uid) for uid in series]
        images = [SimpleITK.ReadImage(names) for names in files]
        if not images:
            raise FileNotFoundError
    else:
        images = [SimpleITK.ReadImage(str(path))]
    for image in images:
        affine = np.eye(4)
        affine[:3, :3] = np.reshape(image.GetDirection(), (3, 3)) * image.GetSpacing()
        affine[:3, 3] = image.GetOrigin()
        yield _volume(SimpleITK.GetArrayFromImage(image).T, LPS @ affine)


def _nifti(folder: Path) -> Iterator[Volume]:
    import nibabel

    files = sorted(folder.rglob("*.nii*"))
    if not files:
        raise FileNotFoundError
    for file in files:
        image = nibabel.load(file)
        data = np.asanyarray(image.dataobj)
        for time in range(data.shape[3]) if data.ndim == 4 else [None]:
            yield _volume(data if time is None else data[..., time], image.affine)


def dcm2niix(path: Path) -> Iterator[Volume]:
    """dcm2niix, what it writes read by nibabel."""
    import subprocess

    import dcm2niix as wheel

    with tempfile.TemporaryDirectory() as out:
        command = [wheel.bin, "-o", out, "-f", "%s_%d", "-p", "n", str(path)]
        subprocess.run(command, check=True, capture_output=True, timeout=LIMIT_S)
        yield from _nifti(Path(out))


def dicom2nifti(path: Path) -> Iterator[Volume]:
    """dicom2nifti, each series apart, without reorientation."""
    import dicom2nifti as package

    with tempfile.TemporaryDirectory() as out:
        package.convert_directory(str(path), out, reorient=False)
        yield from _nifti(Path(out))


def highdicom(path: Path) -> Iterator[Volume]:
    """Highdicom on what pydicom reads, the files of each series apart."""
    import highdicom as hd
    import pydicom

    series = defaultdict(list)
    for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
        if file.is_file() and not file.is_symlink():
            try:
                dataset = pydicom.dcmread(file)
            except (pydicom.errors.InvalidDicomError, OSError):
                continue
            series[dataset.SeriesInstanceUID].append(dataset)
    if not series:
        raise FileNotFoundError
    for files in series.values():
        single = len(files) == 1 and "NumberOfFrames" in files[0]
        got = hd.Image.from_dataset(files[0]).get_volume() if single else hd.get_volume_from_series(files)
        yield _volume(got.array, LPS @ got.affine)


READERS: dict[str, Callable[[Path], Iterator[Volume]]] = {
    "medidiff": medidiff,
    "MONAI": monai,
    "SimpleITK": simpleitk,
    "dcm2niix": dcm2niix,
    "dicom2nifti": dicom2nifti,
    "highdicom": highdicom,
}
DICOM_ONLY = {"dcm2niix", "dicom2nifti", "highdicom"}


def classify(case: Case, volumes: Sequence[Volume] | None) -> str:
    """One of `OUTCOMES`, from what a reader gave; None when it raised."""
    if volumes is None:
        return "right" if case.code else "refused"
    if case.code and not case.truth:
        return "not refused"
    fits = [any(_fits(volume, truth) for truth in case.truth) for volume in volumes]
    return "right" if any(fits) else "silently wrong"


def _fits(volume: Volume, truth: Truth) -> bool:
    """Whether a volume is the ramp: padding may hold anything, and repaired cases count when their values are right."""
    values = ~np.isin(volume.data[0], (np.min(volume.data), np.max(volume.data))) if truth.padding else None
    if values is not None and volume.padding is None:
        off = np.abs(volume.data[0] - truth.expected(volume.geometry))[values]
        right = float(off.max(initial=0)) <= max(truth.within, 0.02)
    else:
        right = ramp_error(volume, truth) <= max(truth.within, 0.02)
    return right and (truth.size is None or sorted(volume.shape) == sorted(truth.size))


def _serve(parent: Any, name: str, kind: str) -> None:
    """Read cases in a child process, as their numbers come."""
    sys.stdout = sys.stderr = Path("/dev/null").open("w")  # noqa: SIM115
    warnings.simplefilter("ignore")
    resource.setrlimit(resource.RLIMIT_AS, (LIMIT_BYTES, LIMIT_BYTES))
    while True:
        number, path = parent.recv()
        case = getattr(badinputs, kind)[number]
        try:
            volumes = list(READERS[name](Path(path)))
        except BaseException:
            volumes = None
        try:
            parent.send(classify(case, volumes))
        except Exception:
            parent.send("silently wrong")


def outcomes(name: str, kind: str, places: Sequence[Path]) -> list[str]:
    """What one reader makes of every case of a kind."""
    context, found, child, process = multiprocessing.get_context("spawn"), [], None, None
    for number, path in enumerate(places):
        if child is None or process is None:
            child, theirs = context.Pipe()
            process = context.Process(target=_serve, args=(theirs, name, kind), daemon=True)
            process.start()
            theirs.close()
        child.send((number, str(path)))
        try:
            found.append(child.recv() if child.poll(LIMIT_S) else "crashed")
        except EOFError:
            found.append("crashed")
        if found[-1] == "crashed":
            process.kill()
            child = None
    if process is not None:
        process.kill()
    return found


def tables(kinds: Sequence[str]) -> Iterator[str]:
    """The tables in Markdown: sums first, then each case that a reader gets silently wrong."""
    for kind in kinds:
        cases: Sequence[Case] = getattr(badinputs, kind)
        names = [n for n in READERS if kind == "DICOM" or n not in DICOM_ONLY]
        with tempfile.TemporaryDirectory() as folder:
            places = [_make(case, Path(folder) / f"{n}") for n, case in enumerate(cases)]
            got = {name: outcomes(name, kind, places) for name in names}
        yield f"\n## {kind}: {len(cases)} cases\n"
        yield "| reader | " + " | ".join(OUTCOMES) + " |\n|---|" + "---:|" * len(OUTCOMES)
        for name in names:
            count = Counter(got[name])
            yield f"| {name} | " + " | ".join(str(count[o]) for o in OUTCOMES) + " |"
        yield ("\n| case | must be | " + " | ".join(names) + " |\n|---|---|" + "---|" * len(names))
        short = dict(zip(OUTCOMES, ("", "refused", "not refused", "**wrong**", "**crashed**"), strict=True))
        for n, case in enumerate(cases):
            row = [got[name][n] for name in names]
            if set(row) - {"right", "refused"}:
                must = f"refused, `{case.code.replace('|', '` or `')}`" if case.code else "read"
                yield f"| {case.name} | {must} | " + " | ".join(short[o] for o in row) + " |"


def _make(case: Case, folder: Path) -> Path:
    folder.mkdir()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return case.make(folder)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and print the tables."""
    parser = argparse.ArgumentParser(prog="readers", description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--kinds", nargs="*", choices=("DICOM", "NIFTI"), default=["DICOM", "NIFTI"], help="tables")
    options = parser.parse_args(arguments)
    packages = ("monai", "SimpleITK", "dcm2niix", "dicom2nifti", "highdicom", "pydicom", "nibabel")
    print(
        f"`python validation/readers.py`, {datetime.now(UTC):%Y-%m-%d}; "
        + ", ".join(f"{p} {version(p)}" for p in packages)
    )
    for line in tables(options.kinds):
        print(line, flush=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

"""Say what a restoring prior is for: `python pipelines/scope.py medidiff/trust/fine-t1.scope.json`.

Reads the training scans as a user would have them: with more noise, in thicker slices, tilted, cut. Limits come from
the `train` subjects of the committed split. The scores that p-values are read from come from people who had no part in
the limits: each training subject held against limits made of the others, and the `validation` subjects. What signs are
read with is learned from the `train` subjects (scope_learned.py), for each of them from the others; the mean brain is
that of the copy gate, made of the same subjects.
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import json
import os
import sys
import tomllib
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from scipy.spatial.transform import Rotation
from scope_learned import ALL, Learned, learned

from medidiff import io, trust
from medidiff.anatomy import foreground, tissue_maximum
from medidiff.errors import MedidiffError
from medidiff.gates import Embedding
from medidiff.io.files.atomic import make_folder, write_file
from medidiff.prior import Card, Prior
from medidiff.trust.pose import Template
from medidiff.trust.reference import Reference
from medidiff.trust.traits import traits_of
from medidiff.volume import Geometry, Volume

SPLIT = Path(__file__).resolve().parent.parent / "validation" / "split.toml"
SCANS = {  # of the prior's recipe, those of its contrast; folder of the split, and the files below the data folder
    "t1-ds002748": "t1-ds002748/{subject}/anat/{subject}_T1w.nii.gz",
    "t1-head": "t1-head/{subject}_T1w.nii.gz",
    "ms-open/mni": "ms-open/mni/{subject}/T1.nii.gz",
}
SWAPPED = ("ms-open/mni/patient07",)  # left and right stand exchanged in the file (docs/scope.md); it is turned back
TIMES = 4
GRAIN = ("coarse.py", "grain.py", "scope_filters.py", "scope_learned.py")  # the code that examples of grain depend on
ABOUT = {
    "summary": "T1w heads and brains, 0.8 to 1.4 mm in plane, slices up to 6 mm, noise up to 15 %, tilt up to 20°.",
    "licence": "CC0-1.0 (t1-ds002748), MIT and Apache-2.0 (t1-head), CC-BY (ms-open); numbers and a mean only",
    "sources": (
        "t1-ds002748, 26 train subjects (CC0, OpenNeuro ds002748 v1.0.5)",
        "t1-head, 3 train subjects (MIT and Apache-2.0)",
        "ms-open/mni, T1 of 1 train subject (CC-BY, Lesjak et al. 2018)",
    ),
    "notes": (
        "26 of the 30 people are of one site; three heads and one resampled scan stand for all others.",
        "Of patient07 left and right stand exchanged in the file: it was turned back, and no part of what tells sides.",
        "fine-t1 was also shown the T2 and FLAIR of one patient; other contrasts count as out of scope all the same.",
    ),
}

Signs = Mapping[str, float | None]


def people(data: Path, part: str) -> dict[str, Path]:
    """One scan a person of a part of the split."""
    split = tomllib.loads(SPLIT.read_text(encoding="utf-8"))
    found = {}
    for folder, pattern in SCANS.items():
        for subject in split[folder][part]:
            found[f"{folder}/{subject}"] = data / pattern.format(subject=subject)
    return found


def as_met(volume: Volume, rng: np.random.Generator) -> Volume:
    """A scan as a user may have it: tilted, cut, in thicker slices, with more noise."""
    image = np.asarray(volume.data[0], dtype=np.float32)
    bright = tissue_maximum(image, foreground(image))
    affine = volume.geometry.affine.copy()
    affine[:3] = Rotation.from_euler("xyz", rng.uniform(-20, 20, 3), degrees=True).as_matrix() @ affine[:3]
    axis = int(rng.integers(3))
    if rng.random() < 0.2:
        count = image.shape[axis]
        keep = round(count * rng.uniform(0.65, 1))
        first = int(rng.integers(0, count - keep + 1))
        image = np.take(image, range(first, first + keep), axis=axis)
        affine[:3, 3] += affine[:3, axis] * first
        axis = int(rng.integers(3))
    if rng.random() < 0.6:
        factor = int(rng.integers(2, 7))
        along = np.moveaxis(image, axis, 0)
        count = len(along) // factor
        along = along[: count * factor].reshape(count, factor, *along.shape[1:]).mean(axis=1)
        image = np.ascontiguousarray(np.moveaxis(along, 0, axis))
        affine[:3, 3] += affine[:3, axis] * (factor - 1) / 2
        affine[:3, axis] *= factor
    level = np.float32(bright * rng.choice((0.0, 0.01, 0.03, 0.06, 0.1, 0.15)))
    if level > 0:
        real, other = (level * rng.standard_normal(image.shape, dtype=np.float32) for _ in range(2))
        image = np.hypot(image + real, other)
    return Volume(image, Geometry((image.shape[0], image.shape[1], image.shape[2]), affine), "MR")


def mirrored(volume: Volume) -> Volume:
    """The same voxels, left and right exchanged in the world."""
    affine = np.diag([-1.0, 1.0, 1.0, 1.0]) @ volume.geometry.affine
    return dataclasses.replace(volume, geometry=Geometry(volume.shape, affine))


def signs_of_person(path: Path, name: str, learned: Learned) -> list[Signs]:
    """The signs of a scan as it is and as it may be met."""
    volume = io.read(path)
    if name in SWAPPED:
        volume = mirrored(volume)
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    scans = [volume, *(as_met(volume, rng) for _ in range(TIMES))]
    return [traits_of(scan, learned.template, learned.filters) for scan in scans]


class Kept:
    """What was measured of people, and is not measured again by the same code.

    Args:
        place: file of JSON lines that it is read from and added to; None for none.
    """

    def __init__(self, place: Path | None) -> None:
        self.place = place
        sources = [*Path(trust.__file__).parent.glob("*.py"), *Path(__file__).parent.glob("scope*.py")]
        self.code = {"signs": _digest(sources), "grain": _digest(path for path in sources if path.name in GRAIN)}
        lines = place.read_text(encoding="utf-8").splitlines() if place is not None and place.is_file() else []
        rows = [row for row in map(json.loads, lines) if row["code"] == self.code[row["what"]]]
        self.known = {(row["what"], row["person"]): row["found"] for row in rows}

    def __call__(self, what: str, person: str, measure: Callable[[], Any]) -> Any:
        """What is known of a person, or else measured now, as JSON values."""
        if (what, person) not in self.known:
            self.known[what, person] = found = measure()
            print(f"{what}: {person}", file=sys.stderr)
            if self.place is not None:
                row = {"code": self.code[what], "what": what, "person": person, "found": found}
                with self.place.open("a", encoding="utf-8") as stream:
                    stream.write(json.dumps(row) + "\n")
        return self.known[what, person]


def _digest(sources: Iterable[Path]) -> str:
    return hashlib.sha256(b"".join(path.read_bytes() for path in sorted(sources))).hexdigest()


def gathered(files: Mapping[str, Path], teachers: Mapping[str, Learned], kept: Kept) -> dict[str, list[Signs]]:
    """The signs of all people, each read with what was learned from the others."""
    found = {}
    for name, path in files.items():
        measure = partial(signs_of_person, path, name, teachers.get(name, teachers[ALL]))
        found[name] = kept("signs", name, measure)
    return found


def calibrated(
    prior: str, train: Mapping[str, Sequence[Signs]], validation: Mapping[str, Sequence[Signs]], learned: Learned
) -> Reference:
    """Limits from all training people; the scores of each of them by the limits of the others, and of the rest."""
    reference = Reference.fitted(prior, train, learned.template, learned.filters)
    scores = [_score(reference, signs) for each in validation.values() for signs in each]
    for left_out, each in train.items():
        others = {name: signs for name, signs in train.items() if name != left_out}
        without = Reference.fitted(prior, others, learned.template, learned.filters)
        scores += [_score(without, signs) for signs in each]
    return dataclasses.replace(reference, scores=tuple(round(score, 4) for score in sorted(scores)))


def _score(reference: Reference, signs: Signs) -> float:
    return max(reference.distances(signs).values(), default=0.0)


def made(data: Path, out: Path, kept: Path | None = None, *, card: Card | None = None) -> Reference:
    """Measure, fit, calibrate and write, for the weights that a card names; of the bundled prior when left out."""
    prior = out.name.removesuffix(".scope.json")
    weights = (card or Prior.card_of(prior)).weights_sha256
    mean = Embedding.shipped().mean
    files = people(data, "train")
    store = Kept(kept)
    teachers = learned(files, Template(mean.image, mean.mask), SWAPPED, store)
    train = gathered(files, teachers, store)
    validation = gathered(people(data, "validation"), teachers, store)
    reference = dataclasses.replace(calibrated(prior, train, validation, teachers[ALL]), weights_sha256=weights)
    scans = sum(len(each) for each in train.values())
    text, brain = reference.packed({**ABOUT, "people": len(train), "scans": scans})
    make_folder(out.parent)
    write_file(out.with_suffix(".safetensors"), lambda partial: partial.write_bytes(brain))
    write_file(out, lambda partial: partial.write_bytes(text))
    return Reference.load(out)


def main(words: Sequence[str] | None = None) -> int:
    """Run the command; 0, or the exit code of the refusal."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path, help="NAME.scope.json, of the prior NAME; the mean brain goes beside it")
    parser.add_argument("--data", type=Path, default=os.environ.get("MEDIDIFF_DATA"), help="folder of the scans")
    parser.add_argument("--prior", type=Path, help="card of the prior; the bundled one of that NAME when left out")
    parser.add_argument("--kept", type=Path, help="file for what was measured, read the next time by the same code")
    arguments = parser.parse_args(words)
    if arguments.data is None:
        parser.error("say where the scans are: --data or MEDIDIFF_DATA")
    try:
        card = None if arguments.prior is None else Prior.card_of(arguments.prior)
        reference = made(Path(arguments.data), arguments.out, arguments.kept, card=card)
    except MedidiffError as refusal:
        print(refusal, file=sys.stderr)
        return refusal.exit_code
    beyond = np.mean(np.asarray(reference.scores) > 1)
    print(f"{len(reference.scores)} scans that had no part in their limits: {100 * beyond:.1f} % beyond them")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

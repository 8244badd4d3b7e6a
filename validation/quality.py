"""What the checks of a quality report see: an answer of the bundled prior as it is, and with faults planted in it.

    python validation/quality.py --out runs/quality
    python validation/browser.py runs/quality/page.html docs/pictures/qc-report.jpg --height 1640 --scale 0.75
    python validation/quality.py --out runs/quality --time head.nii.gz
    python validation/quality.py --out runs/quality --cohort 20000
    python validation/quality.py --out runs/quality --sharp

The bundled sample scan gets Rician noise and is denoised once (a minute or two of a free core; files that are there
already are read). Each fault is then planted in the answer, and a table says what each check measures and which ask for
a look. `page.html` is the report of the answer as it is.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import time
from collections.abc import Sequence
from importlib.resources import as_file, files
from pathlib import Path

import numpy as np
import torch
from scipy import ndimage

import medidiff as md
from medidiff.anatomy import foreground, tissue_maximum
from medidiff.physics import Degradation, Noise, identity
from medidiff.qc import Case, case_report, cohort_page, write_page
from medidiff.qc.checks import Check, checks
from medidiff.qc.measures import Pair, measure
from medidiff.qc.support import support_of
from medidiff.volume import Volume

_LESION_MM = 5.0


def answered(out: Path, *, percent: float, draws: int, steps: int) -> tuple[Volume, Volume, Volume, float]:
    """The noisy sample, the answer, its spread and the noise level that was added; made once."""
    with as_file(files("medidiff").joinpath("sample/t1-brain.nii.gz")) as path:
        sample = md.read(path)
    image = sample.data[0].astype(np.float32)
    level = percent / 100 * tissue_maximum(image, foreground(image))
    places = [out / f"{name}.nii.gz" for name in ("noisy", "clean", "spread")]
    if not all(place.exists() for place in places):
        degradation = Degradation(identity(), Noise("rician", level))
        noisy = degradation.observe(torch.from_numpy(image), torch.Generator().manual_seed(0)).numpy()
        scan = Volume(noisy, sample.geometry, "MR")
        answer = md.denoise(scan, draws=draws, steps=steps)
        for volume, place in zip((scan, answer.mean, answer.std), places, strict=True):
            md.write(volume, place, provenance=None if volume is scan else answer.provenance)
    noisy_, clean, spread = (md.read(place) for place in places)
    return noisy_, clean, spread, level


def planted(before: Volume, after: Volume, level: float) -> dict[str, tuple[Volume, float]]:
    """Name of a fault to the answer with it, and the noise level that the record tells."""
    scan, image = before.data[0], after.data[0]
    peak, mask = tissue_maximum(image, foreground(image)), foreground(image)
    ramp = np.linspace(-0.06, 0.06, image.shape[2], dtype=np.float32)
    middle = np.argwhere(mask).mean(0) + np.array((15, 10, 5))
    distance = (np.moveaxis(np.indices(image.shape), 0, -1) - middle) * before.geometry.spacing_mm
    lesion = (np.square(distance).sum(-1) <= (_LESION_MM / 2) ** 2) * np.float32(0.3 * peak)
    spots = np.zeros_like(image)
    spots[tuple(np.argwhere(mask)[::400].T)] = peak
    images = {
        "none": image,
        "smoothed, 1.5 voxels": ndimage.gaussian_filter(scan, 1.5),
        "smoothed, 0.7 voxels": ndimage.gaussian_filter(scan, 0.7),
        "four tenths of the noise removed": scan + np.float32(0.4) * (image - scan),
        "5 % brighter": image * np.float32(1.05),
        "brightness from -6 to 6 % along slices": image * (1 + ramp),
        "one voxel in 400 far too bright": image + spots,
        f"a bright lesion of {_LESION_MM:g} mm removed": image - lesion,
    }
    found = {name: (after.with_data(each), level) for name, each in images.items()}
    return found | {"none, but half the level told": (after, level / 2)}


def timed(path: Path) -> dict[str, object]:
    """CPU seconds and bytes of the page of a scan and its Gaussian smoothing, imports and reading left out."""
    scan = md.read(path)
    smooth = scan.with_data(ndimage.gaussian_filter(scan.data[0].astype(np.float32), 0.6))
    start = time.process_time()
    page = case_report(scan, smooth).page
    seconds = time.process_time() - start
    return {"shape": scan.shape, "cpu_seconds": round(seconds, 2), "page_bytes": len(page.encode())}


def cohort_timed(count: int, out: Path) -> dict[str, object]:
    """Bytes of the page of a made-up cohort, and seconds that a browser takes to open, sort and filter it."""
    from browser import running

    draw = np.random.default_rng(0)
    cases = [
        Case(f"case-{n:06d}", "refused", "denoise", code="E-GAP", mend="Fetch the slices that are missing.")
        if draw.random() < 0.03
        else Case(
            name=f"case-{n:06d}",
            state="done",
            task="denoise",
            flags=("drift",) if draw.random() < 0.05 else (),
            level=draw.uniform(5, 40),
            seconds=draw.uniform(8, 30),
            page=f"cases/{n:06d}.html",
        )
        for n in range(count)
    ]
    path = out / "cohort.html"
    path.write_text(cohort_page(cases), encoding="utf-8")
    sort = "document.querySelectorAll('.cohort thead button')[4].click()"
    only = (
        "const c = document.querySelector('.filters select'); c.value = 'refused'; c.dispatchEvent(new Event('input'))"
    )
    with running() as browser:
        start = time.monotonic()
        page = browser.open(path, seconds=600)
        page.wait("document.documentElement.dataset.ready === 'yes'", 300)
        told: dict[str, object] = {"cases": count, "bytes": path.stat().st_size, "open_s": time.monotonic() - start}
        for name, act in (("sort_s", sort), ("filter_s", only)):
            timed = f"const t = performance.now(); {act}; document.body.offsetHeight; return performance.now() - t;"
            told[name] = round(page.run(f"(() => {{ {timed} }})()") / 1000, 3)
    return told


def sharp(out: Path, *, crop: int, levels: Sequence[float]) -> str:
    """What `sharp` measures on the validation scans: of answers, of what was not touched, and of slight blurs."""
    import scoring

    from medidiff.qc.checks import sharpness

    found: dict[str, dict[float, list[float]]] = {}
    data = scoring.options("", writes="")
    files = scoring.scored_scans(data.get_default("data"), data.get_default("split"), "t1-ds002748", part="validation")
    for number, path in files.items():
        truth = scoring.truth(path, crop)
        for percent in levels:
            level, generator = percent / 100, torch.Generator().manual_seed(number)
            noisy = Noise("rician", level).apply(torch.from_numpy(truth.image), generator).numpy()
            scan = Volume(noisy, truth.geometry, "MR")
            clean = md.denoise(scan, noise_level=level).mean.data[0]
            answers = {
                "denoised": clean,
                "not touched": noisy,
                "denoised, then smoothed, 0.7 voxels": ndimage.gaussian_filter(clean, 0.7),
                "smoothed, 0.5 voxels": ndimage.gaussian_filter(noisy, 0.5),
                "smoothed, 0.7 voxels": ndimage.gaussian_filter(noisy, 0.7),
            }
            for name, image in answers.items():
                value = sharpness(measure(Pair.of(scan, scan.with_data(image))), level)
                if value is not None:
                    found.setdefault(name, {}).setdefault(percent, []).append(value)
    head = [f"| dB, lowest to highest of {len(files)} scans | " + " | ".join(f"{p:g} %" for p in levels) + " |"]
    rows = [
        f"| {name} | " + " | ".join(f"{min(v):.2f} to {max(v):.2f}" for v in each.values()) + " |"
        for name, each in found.items()
    ]
    table = "\n".join([*head, "|---|" + "--:|" * len(levels), *rows])
    (out / "sharp.json").write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    return table


def main() -> None:
    """Print the table and write the page and ``quality.json``."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--noise-percent", type=float, default=7.0)
    parser.add_argument("--draws", type=int, default=3)
    parser.add_argument("--steps", type=int, default=2)
    parser.add_argument("--time", type=Path, help="only say how long the page of this scan takes, and how large it is")
    parser.add_argument(
        "--cohort", type=int, default=0, help="only say how large and fast the page of so many cases is"
    )
    parser.add_argument("--sharp", action="store_true", help="only say what `sharp` measures on the validation scans")
    told = parser.parse_args()
    told.out.mkdir(parents=True, exist_ok=True)
    if told.sharp:
        print(sharp(told.out, crop=80, levels=(2.0, 3.0, 7.0, 15.0)))
        return
    if told.cohort:
        print(json.dumps(cohort_timed(told.cohort, told.out)))
        return
    if told.time is not None:
        print(json.dumps(timed(told.time)))
        return
    before, after, spread, level = answered(told.out, percent=told.noise_percent, draws=told.draws, steps=told.steps)
    from medidiff.io.sidecar import stored_provenance

    provenance = stored_provenance(told.out / "clean.nii.gz")
    report = case_report(before, after, name="bundled sample", spread=spread, provenance=provenance)
    write_page(told.out / "page.html", report.page)
    level = float(provenance.settings["noise_level"]) if provenance else level
    table: dict[str, tuple[Check, ...]] = {}
    for name, (answer, said) in planted(before, after, level).items():
        both = Pair.of(before, answer)
        support = support_of(both, {}, kind="rician", level=said)
        table[name] = checks(measure(both), told=said, support=support)
        print(f"{name:<40} " + "  ".join(f"{c.key} {c.value}{' (look)' * (c.state == 'look')}" for c in table[name]))
    rows = {name: [dataclasses.asdict(check) for check in found] for name, found in table.items()}
    text = json.dumps({"level": level, "page_bytes": len(report.page.encode()), "faults": rows}, indent=2)
    (told.out / "quality.json").write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

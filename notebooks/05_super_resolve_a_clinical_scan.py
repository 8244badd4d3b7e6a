# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # From a folder of DICOM to a decision
#
# Clinical scans are often fine in plane and thick across: 0.9 mm by 0.9 mm by 4 mm. Here a folder of DICOM files goes
# in, the series in it is brought to voxels of 1 mm, and you decide by a report whether to use it. If so, you say so in
# the first code cell (`LOOKED`), and a new series of the same study is kept in `out/clinical/series-1`; your own folder
# stays as it is. Run the cells from top to bottom; you need not know the API.
#
# The bundled prior knows T1-weighted brain MR, and has seen some T2 and FLAIR. **Research use only, not for
# diagnosis.**

# %% tags=["parameters"]
import os
from pathlib import Path

STUDY = ""  # the folder of your study; empty for an example: the bundled brain in slices of 4 mm, with noise of 1 %
SERIES = 0  # which scan of the folder, by its number in the list below; 0 where there is but one
REPAIRS = {}  # what may be repaired, such as {"on_gap": "resample"} for --on-gap resample
VOXEL = 1.0  # mm; axes that are finer already stay as they are
OUT = Path("out") / "clinical"  # results go here
DRAWS, STEPS, SEED = 4, 2, 0  # plausible fine volumes, and evaluations of the network for each
LOOKED = False  # True when you have looked at the report and want the new series kept, in OUT / "series-1"

SHORT = os.environ.get("MEDIDIFF_SHORT") == "1"  # a small part of the scan and few steps, for the tests
DRAWS, STEPS = (2, 1) if SHORT else (DRAWS, STEPS)

# %% [markdown]
# ## 1. What is in the folder?
#
# `md.inspect` reads headers only and shows nothing that names the patient. A series that is not one regular stack (a
# slice is missing, two scans are mixed, the gantry was tilted) is refused, with the reason and what would allow it;
# nothing is guessed. An option that a reason names is an entry of `REPAIRS` in the first code cell.

# %%
from itertools import count
from tempfile import TemporaryDirectory

import numpy as np
from IPython.display import Image, display

import medidiff as md
from medidiff.io import ReadOptions
from medidiff.metrics.peers import cubic_spline
from medidiff.qc import case_report, write_page
from medidiff.report import Look, comparison
from medidiff.showing.plain import plainly

OUT.mkdir(parents=True, exist_ok=True)
study = Path(STUDY) if STUDY else md.example_study(OUT / "study")
with plainly():  # a refusal is one line
    contents = md.inspect(study)
for number, found in enumerate(contents.series, 1):
    size, voxel = (" × ".join(f"{n:.3g}" for n in each) for each in (found.shape, found.spacing_mm))
    print(f"scan {number}: {found.modality}, {found.files} files, {size} voxels of {voxel} mm, {found.orientation}")
    print(f"   {found.problem or 'can be read'}")
print(f"{len(contents.skipped)} files that are no scan")

# %% [markdown]
# ## 2. Read it and look at it
#
# The scan knows where each voxel lies in the patient. The picture is turned by that, so that the patient's right is on
# the left, and has true proportions. The steps in the coronal and the sagittal picture are the thick slices.

# %%
HERE = "In this notebook --scan N is SERIES = N, and a repair an entry of REPAIRS, in the first code cell."
with plainly(HERE):
    options = ReadOptions(scan=SERIES, **REPAIRS)
    scan = md.read(study, options)
if SHORT:  # a part of it, where it lies in the patient
    first, size = (48, 60, 5), (56, 56, 8)
    affine = scan.geometry.affine.copy()
    affine[:3, 3] = scan.geometry.world(first)
    data = scan.data[:, *(slice(a, a + n) for a, n in zip(first, size, strict=True))]
    scan = md.Volume(data, md.Geometry(size, affine), scan.modality, thickness_mm=scan.thickness_mm)
thick = f"{scan.thickness_mm:.3g} mm thick" if scan.thickness_mm else "of unknown thickness"
print(f"slices {thick}, {max(scan.geometry.spacing_mm):.3g} mm apart")
scan

# %% [markdown]
# ## 3. Super-resolve it
#
# The scan is taken for what it is: a fine volume $x$ seen through thick slices, $y = A x + n$. The answer is the mean
# of $p(x \mid y)$ under the prior, and it is held to the scan: seen through the same slices again, it differs from it
# by no more than the noise. Draws are asked for too. They are fine volumes that could all have given this scan, and
# where they differ (their standard deviation, below) the scan does not say what is there.

# %%
target = tuple(min(own, VOXEL) for own in scan.geometry.spacing_mm)
bar = md.ProgressBar("super-resolve")
ASKED = "In this notebook DRAWS, STEPS, SEED and VOXEL (--spacing) are in the first code cell, --thickness MM is "
ASKED += "thickness_mm=MM and --noise-level L is noise_level=L in md.superresolve(...)."
with plainly(ASKED, otherwise="In this notebook the scan is number SERIES of STUDY, in the first code cell."):
    sharp = md.superresolve(scan, target, draws=DRAWS, steps=STEPS, seed=SEED, progress=bar)
sharp

# %% [markdown]
# ## 4. What was added?
#
# Beside it stands what any viewer does, a cubic spline. Both start from the same numbers; *added* is what the prior
# knows more of. Added edges should follow anatomy that the scan shows in its neighbours. The brighter the uncertainty,
# the more of it is the prior's guess.

# %%
index = np.linalg.inv(scan.geometry.affine) @ sharp.mean.geometry.affine
spline = cubic_spline(scan.data[0].astype(np.float32), index, shape=sharp.mean.shape)
fine = sharp.mean.data[0]
panels = {"cubic spline": spline, "medidiff": fine, "added": fine - spline, "uncertainty": sharp.std.data[0]}
title = f"Slices of {max(scan.geometry.spacing_mm):.2g} mm brought to {max(target):.2g} mm"
grid = sharp.mean.geometry
picture = comparison(OUT / "added.png", panels, geometry=grid, signed=("added",), title=title, look=Look(dpi=110))
display(Image(str(picture), width=1000))

# %% [markdown]
# ## 5. Decide by the report
#
# Measures of the result against the scan, each with the range in which restorations lie whose truth is known. One
# outside it is no verdict but asks for a look. The page holds all three planes to scroll through, before and after,
# what changed, the uncertainty, and how it was made: open it in a browser and look before you decide.

# %%
report = case_report(scan, sharp.mean, spread=sharp.std, provenance=sharp.provenance, name="this scan")
page = OUT / "report.html"
write_page(page, report.page)
marks = {"ok": "  ", "look": "? ", "unread": "- "}
for check in report.checks:
    print(f"{marks[check.state]}{check.name:36} {check.value:>14}   expected: {check.expected}")
    if check.state == "look":
        print(f"     {check.meaning}")
bright = float(np.percentile(fine, 99))
share = float(np.median(sharp.std.data[0][fine > 0.3 * bright])) / bright
print(f"\ntypical uncertainty in tissue: {100 * share:.1f} % of the brightest")
asked = "; ".join(check.name for check in report.checks if check.state == "look")
print(f"\nDECISION: {'do not use it yet' if asked else 'no check speaks against it'}. What to do next:")
print(f"  1. Open {page} and scroll through the planes{f', first for this: {asked}' if asked else ''}.")
print("  2. Stop and keep to the thick scan if edges were added that it does not show in its slices.")
print("  3. Else, if you want it: LOOKED = True in the first code cell; run that cell, then the last one.")

# %% [markdown]
# ## 6. A new series of the study
#
# The result becomes a new series of the same study: the patient's modules are the source's, the series and its images
# are new, marked as derived and for research, and refer to their source. It is read back and compared. The folder of
# the study stays as it is, and nothing is sent anywhere; `medidiff pacs push` does that, to an address that you name.
#
# With `LOOKED = False` this is a rehearsal: the series is written into a scratch folder, read back and thrown away.
# With `LOOKED = True` it is kept in `out/clinical/series-1`, and of further runs in `series-2` and so on.

# %%
numbered = (OUT / f"series-{number}" for number in count(1))
series = next(folder for folder in numbered if not folder.exists())
with TemporaryDirectory(dir=OUT) as scratch:
    place = series if LOOKED else Path(scratch) / "series"
    joins = {"like": study, "options": options}  # the scan of the study that it goes with
    written = md.write(sharp.mean, place, **joins, provenance=sharp.provenance)
    back = md.read(place)
images = sum(path.suffix == ".dcm" for path in written)
shift = back.geometry.distance_mm(sharp.mean.geometry)
print(f"{'WRITTEN' if LOOKED else 'REHEARSED, nothing was kept'}: {images} images and a record of how they were made")
print(f"read back: {back}")
print(f"largest shift of a corner voxel: {shift:.0e} mm")
print(f"folder: {series}" if LOOKED else f"LOOKED = True in the first code cell would write them to {series}")
figure = sharp.plot()
figure.savefig(OUT / "result.png")
figure

# %% [markdown]
# ## What not to trust
#
# * **What lies between two slices and shows in neither.** A lesion thinner than a slice is averaged into it. The prior
#   makes of that average what is usual in healthy brains, so that a small finding can be blurred, moved or smoothed
#   away. Read the thick scan beside the result, always.
# * **Green lights.** The checks find answers that contradict the scan. They cannot find one that agrees with it and is
#   wrong all the same: many fine volumes have the same thick slices.
# * **The uncertainty as a limit.** It says where the draws differ. Where the prior is wrong, all draws can be wrong
#   together; `07_what_does_the_model_not_know` measures that.
# * **Other contrasts and body parts.** The bundled prior was trained on heads. Adapt it (`medidiff adapt`) or train one
#   (`06_train_a_prior_on_your_scans`).

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
# # Denoise your scan
#
# A scan goes in, a quieter scan comes out, and you see what was taken away. Set `SCAN` below to your own file and run
# all cells; as it stands, the bundled T1-weighted brain is made noisy first, so that the answer can be checked.
#
# The bundled prior was trained on T1-weighted brain MR of about 1 mm. **Research use only, not for diagnosis.**

# %% tags=["parameters"]
import os
from importlib.resources import files
from pathlib import Path

SAMPLE = str(files("medidiff") / "sample/t1-brain.nii.gz")
SCAN = SAMPLE  # or your own: a NIfTI, NRRD or MetaImage file, or a folder of DICOM
SERIES = 0  # which scan of a folder, by its number in the list of `medidiff info FOLDER`; 0 where there is but one
REPAIRS = {}  # what may be repaired, such as {"on_gap": "resample"} for --on-gap resample
OUT = Path("out")  # results go here
ADDED = 0.08  # noise added to the sample, as a share of the tissue maximum; nothing is added to your own scan
SEED = 0

SHORT = os.environ.get("MEDIDIFF_SHORT") == "1"  # a small block of the scan, for the tests
READ = (64, 64, 32) if SHORT else None  # voxels of the middle block to work on; None for the whole scan
BLOCK, STEPS = ((48, 48, 24), 2) if SHORT else ((96, 96, 48), 4)  # for the draws, which take many evaluations

# %% [markdown]
# ## 1. Read it and look at it
#
# `md.read` tells the format by the content. A `Volume` is numbers on a grid in the patient: the affine takes voxel
# indices to millimetres (to the patient's right, front and head). The pictures are turned by that affine, at true
# proportions, with the patient's right (R) on the left, as radiologists look at them.

# %%
import warnings

import matplotlib.pyplot as plt
import numpy as np
import torch
from IPython.display import Image, display
from scipy import ndimage

import medidiff as md
from medidiff.anatomy import foreground
from medidiff.io import ReadOptions
from medidiff.physics import Noise
from medidiff.physics.estimate import estimate_noise
from medidiff.prepare import fit_intensity
from medidiff.qc import case_report, write_page
from medidiff.report import Look, comparison
from medidiff.showing.plain import plainly

warnings.filterwarnings("ignore", message="IProgress not found")  # a progress bar of MONAI's that nothing here shows
plt.style.use("dark_background")
plt.rcParams |= {"figure.dpi": 110, "font.size": 9, "axes.titlesize": 9.5}
OUT.mkdir(parents=True, exist_ok=True)


def middle(volume: md.Volume, size: tuple[int, int, int]) -> md.Volume:
    """The block of at most this many voxels in the middle of a scan, where it lies in the patient."""
    size = tuple(min(have, want) for have, want in zip(volume.shape, size, strict=True))
    first = [(have - want) // 2 for have, want in zip(volume.shape, size, strict=True)]
    affine = volume.geometry.affine.copy()
    affine[:3, 3] = volume.geometry.world(first)
    data = volume.data[:, *(slice(start, start + n) for start, n in zip(first, size, strict=True))]
    return md.Volume(data, md.Geometry(size, affine), volume.modality, volume.units)


HERE = "In this notebook --scan N is SERIES = N, and a repair an entry of REPAIRS, in the first code cell."
with plainly(HERE):  # a refusal is one line
    options = ReadOptions(scan=SERIES, **REPAIRS)
    stored = md.read(SCAN, options)
stored = stored if READ is None else middle(stored, READ)
look = Look(units=stored.units)
stored  # a volume shows itself; stored.plot() is the same as a figure, stored.view() a viewer to click through

# %% [markdown]
# ## 2. How noisy is it?
#
# A magnitude MR image is the length of a complex number whose two channels carry Gaussian noise of level $\sigma$. That
# makes it Rician:
#
# $$y = \sqrt{(x + \sigma n_1)^2 + (\sigma n_2)^2}, \qquad n_1, n_2 \sim \mathcal N(0, 1).$$
#
# `estimate_noise` finds $\sigma$ from the scan alone: second differences along all three axes cancel the anatomy and
# leave the noise, which is read in flat, bright tissue. For CT and other signed data take `kind="gaussian"`.

# %%
ANOTHER = "In this notebook the scan is SCAN, in the first code cell."
with plainly(otherwise=ANOTHER):
    gain = fit_intensity(stored).gain  # stored units that make up the tissue maximum
own = estimate_noise(stored.data[0], kind="rician")
print(f"noise in the scan as it was read: {own:.3g} stored units, {100 * own / gain:.1f} % of the tissue maximum")

if SCAN == SAMPLE:
    quiet = torch.from_numpy(stored.data.astype(np.float32))
    noisy = Noise("rician", ADDED * gain).apply(quiet, torch.Generator().manual_seed(SEED))
    scan = stored.with_data(noisy.numpy())
    sigma = estimate_noise(scan.data[0], kind="rician")
    print(f"noise added: {ADDED * gain:.3g} stored units; noise estimated now: {sigma:.3g}")
else:
    scan, sigma = stored, max(own, 1e-3 * gain)  # a level of 0, in a simulated scan, has no histogram

# %% [markdown]
# ## 3. Denoise it
#
# One call. The scan is brought to the scale that the network knows, the noise level is estimated and told to it, and
# one evaluation gives the posterior mean $\mathbb E[x_0 \mid y]$: the answer with the least error on average (see
# `01_how_diffusion_works`). The grid and the units are those of the scan. *Removed* is brighter in air, since there
# Rician noise, a length, is never below zero.

# %%
ASKED = "In this notebook --noise-level L is noise_level=L in md.denoise(...); a JSON file says what --modality does."
with plainly(ASKED, otherwise=ANOTHER):
    clean = md.denoise(scan, noise="rician", progress=md.ProgressBar("denoise"))
removed = scan.data[0] - clean.mean.data[0]
panels = {"noisy" if SCAN == SAMPLE else "scan": scan.data[0], "denoised": clean.mean.data[0], "removed": removed}
captions = {}
if SCAN == SAMPLE:
    panels = {"before noise": stored.data[0]} | panels
    tissue = foreground(stored.data[0])
    for name in ("noisy", "denoised"):
        error = np.sqrt(np.mean((panels[name] - panels["before noise"])[tissue] ** 2)) / gain
        captions[name] = f"error {100 * error:.1f} % of tissue max."

title = f"Denoised; noise estimated as {100 * sigma / gain:.1f} %"
picture = comparison(OUT / "denoised.png", panels, geometry=scan.geometry, captions=captions, title=title, look=look)
display(Image(str(picture), width=1000))
print(*clean.provenance.decisions, sep="\n")

# %% [markdown]
# ## 4. What was removed should be noise, and only noise
#
# Noise has no memory: its histogram is a bell of width $\sigma$, and what is removed at one voxel says nothing of the
# next. If anatomy was removed with it, neighbours agree, and edges show in the *removed* picture. For comparison, a
# Gaussian blur of 1.5 voxels: it takes more than the noise, and its curve does not fall to zero at once. A histogram
# much narrower than the bell, on the other hand, says that noise was left in.
#
# Below it are the checks of the quality report, each with the range in which restorations lie whose truth is known. One
# outside it is marked with `?` and asks for a look; the page has all slices to scroll through.

# %%
mask = ndimage.binary_erosion(foreground(clean.mean.data[0]), iterations=2, border_value=1)
bright = min(3 * sigma, np.median(clean.mean.data[0][mask]))  # above 3 σ Rician noise is nearly Gaussian
mask &= clean.mean.data[0] > bright


def autocorrelation(image: np.ndarray, axis: int, lag: int) -> float:
    """How far voxels this far apart agree, from 0 (not at all) to 1, inside the mask."""
    centred, inside = (np.moveaxis(a, axis, 0) for a in (np.where(mask, image - image[mask].mean(), 0), mask))
    last = len(centred) - lag
    pairs = inside[:last] & inside[lag:]
    return float((centred[:last] * centred[lag:])[pairs].sum() / max(pairs.sum(), 1) / image[mask].var())


lags = range(min(8, *scan.shape))
blurred = scan.data[0] - ndimage.gaussian_filter(scan.data[0].astype(np.float32), 1.5)
figure, (left, right) = plt.subplots(1, 2, figsize=(9.5, 3.6), layout="constrained")
edges = np.linspace(-4, 4, 81)
left.hist(removed[mask] / sigma, edges, density=True, color="C0", alpha=0.8, label="removed by the prior")
left.hist(blurred[mask] / sigma, edges, density=True, color="grey", histtype="step", label="by a blur of 1.5 voxels")
normal = np.exp(-(edges**2) / 2) / np.sqrt(2 * np.pi)
left.plot(edges, normal, "w--", linewidth=1.2, label=r"normal law of width $\sigma$")
left.set(xlabel=r"removed / estimated noise level $\sigma$", ylabel="density", title="Histogram of what was removed")
left.margins(y=0.35)  # room for the legend above the curves
left.legend(frameon=False)
for axis, colour in zip(range(3), ("C0", "C2", "C3"), strict=True):
    values = [autocorrelation(removed, axis, lag) for lag in lags]
    right.plot(lags, values, "o-", color=colour, markersize=4, label=f"by the prior, along {'IJK'[axis]}")
values = [autocorrelation(blurred, 0, lag) for lag in lags]
right.plot(lags, values, "s:", color="grey", markersize=4, label="by the blur, along I")
right.axhline(0, color="white", linewidth=0.6)
right.set(xlabel="distance (voxels)", ylabel="autocorrelation", title="Does what was removed know its neighbours?")
right.legend(frameon=False)
plt.show()
if SCAN == SAMPLE:
    added = scan.data[0] - stored.data[0]
    alike = np.corrcoef(removed[mask], added[mask])[0, 1]
    print(f"correlation of what was removed with the noise that was really added: {alike:.3f}")
report = case_report(scan, clean.mean, provenance=clean.provenance, name="this scan")
page = OUT / "report.html"
write_page(page, report.page)
for check in report.checks:
    mark = {"ok": " ", "look": "?", "unread": "-"}[check.state]
    print(f"{mark} {check.name:36} {check.value:>14}   expected: {check.expected}")
asked = "; ".join(check.name for check in report.checks if check.state == "look")
print(f"VERDICT: {f'look first at this: {asked}' if asked else 'no check speaks against it'}. Open {page} and look.")

# %% [markdown]
# ## 5. How sure is it?
#
# Ask for draws, single volumes that could all have given this scan. Where they differ, the scan did not settle the
# matter; their standard deviation is the *uncertainty*. Each draw takes several evaluations of the network, so here
# they are made for a block in the middle; `md.denoise(scan, draws=4)` makes them for all of it.

# %%
part = middle(scan, BLOCK)
asked = {"draws": 4, "keep_draws": 2, "steps": STEPS, "seed": SEED, "progress": md.ProgressBar("draw")}
with plainly("In this notebook STEPS and SEED are in the first code cell, the number of draws in this one."):
    posterior = md.denoise(part, noise="rician", noise_level=sigma, **asked)
panels = {"scan": part.data[0], "mean": posterior.mean.data[0]}
panels |= {f"draw {i + 1}": draw.data[0] for i, draw in enumerate(posterior.draws[:2])}
panels |= {"uncertainty": posterior.std.data[0]}
captions = {"mean": "the best single answer", "draw 1": "plausible, not measured", "uncertainty": "std of 4 draws"}
picture = comparison(OUT / "draws.png", panels, geometry=part.geometry, captions=captions, look=look)
display(Image(str(picture), width=1000))
inside = foreground(posterior.mean.data[0])
typical = float(np.median(posterior.std.data[0][inside]))
print(f"typical uncertainty in tissue: {typical:.3g} stored units, {100 * typical / gain:.1f} % of the tissue maximum")

# %% [markdown]
# ## 6. Save it, and read it back
#
# The result goes to the same place in the patient as the source, so any viewer overlays the two. Beside it stands a
# record of how it was made: version, prior, settings, seed, hash of the input, and nothing about the patient. For a
# DICOM source, give a folder instead of a file name, and a new series of the same study is written.

# %%
like = SCAN if READ is None else None  # a block of a scan has a header of its own
told = {"like": like, "options": options, "provenance": clean.provenance}
written = md.write(clean.mean, OUT / "denoised.nii.gz", **told)
back = md.read(written[0])
print("written:", *(path.name for path in written))
print(f"read back: {back}")
print(f"largest shift of a corner voxel: {back.geometry.distance_mm(scan.geometry):.1e} mm")
print(f"largest change of a value: {np.abs(back.data - clean.mean.data).max():.1e} stored units")

# %% [markdown]
# ## What not to trust
#
# * **No diagnosis.** This is research software and no medical device. Read the original beside the result, always.
# * **Other kinds of scan.** The bundled prior saw T1-weighted brains of about 1 mm. On other contrasts, body parts or
#   fields it may take fine structure for noise. Look at *removed*: it should hold no anatomy.
# * **Other kinds of noise.** It expects white noise. Where a scanner has interpolated or filtered the image, the
#   estimate comes out too low, and too little is removed; motion, ghosts and bias fields stay as they are.
# * **Small and rare things.** A lesion of a few voxels, near the noise level, can be weakened by the mean, and a draw
#   can invent one. The uncertainty is a guide and not calibrated: a low value is no proof.
# * **Numbers from denoised scans.** Smoother images give other volumes and thicknesses; do not mix them with raw ones.

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
# # What does the model not know?
#
# A super-resolved scan has voxels that nobody measured. Which of them did the model make up? Here the truth is known:
# the bundled brain gets two lesions, is seen through slices four times too thick, and is super-resolved. So every claim
# of the model can be held against what was there.
#
# Three things speak against an answer: its *spread* (draws that differ), its *interval* (and whether it holds), and the
# *scan* itself, where it contradicts the answer. None of them sees everything. **Research use only, not for
# diagnosis.**

# %% tags=["parameters"]
import os

FACTOR, NOISE = 4, 0.01  # slices this many times too thick; noise as a share of the tissue maximum
LESIONS = {
    "3 mm": ((45, 109, 42), 3.0),
    "9 mm": ((114, 114, 43), 9.0),
}  # centre (voxels) and diameter, both in white matter
PLANTED = (120, 110, 48)  # where a third is planted into an answer, to see whether the scan contradicts it
CONTRAST = -0.35  # of the lesions, as a share of the tissue maximum: darker than white matter
SEED = 0

SHORT = os.environ.get("MEDIDIFF_SHORT") == "1"  # a small block and few draws, for the tests
FIRST, BLOCK = ((36, 98, 32), (92, 32, 24)) if SHORT else ((36, 52, 4), (96, 96, 64))  # part of the brain, in voxels
DRAWS, STEPS = (3, 1) if SHORT else (8, 3)

# %% [markdown]
# ## 1. A scan whose truth is known
#
# $y = A x + n$: $A$ averages every four slices of the truth $x$, and a little Rician noise is added. One lesion is
# thinner than a slice, the other more than twice as thick. The prior never saw a lesion.

# %%
from importlib.resources import files

import matplotlib.pyplot as plt
import numpy as np
import torch
from scipy import ndimage, stats

import medidiff as md
from medidiff.anatomy import foreground
from medidiff.metrics.peers import cubic_spline
from medidiff.physics import Degradation, Noise, slices
from medidiff.prepare import fit_intensity
from medidiff.showing.drawing import FOOTER, edge_letters
from medidiff.showing.plain import plainly
from medidiff.trust import examined, tissue
from medidiff.views import PLANES, view

plt.style.use("dark_background")
plt.rcParams |= {"figure.dpi": 110, "font.size": 9, "axes.titlesize": 9.5}

brain = md.read(str(files("medidiff") / "sample/t1-brain.nii.gz"))
affine = brain.geometry.affine.copy()
affine[:3, 3] = brain.geometry.world(FIRST)
grid = md.Geometry(BLOCK, affine)
gain = fit_intensity(brain).gain  # stored units that make up the tissue maximum
healthy = brain.data[0][tuple(slice(a, a + n) for a, n in zip(FIRST, BLOCK, strict=True))].astype(np.float32)
where = np.stack(np.meshgrid(*map(np.arange, BLOCK), indexing="ij"), axis=-1)


def ball(centre: tuple[int, ...], diameter: float) -> np.ndarray:
    """The share of each voxel that a ball fills, with an edge one voxel wide; `centre` in voxels of the block."""
    distance = np.linalg.norm((where - np.array(centre)) * grid.spacing_mm, axis=-1)
    return np.clip(diameter / 2 + 0.5 - distance, 0, 1).astype(np.float32)


lesions = {name: ball(np.subtract(centre, FIRST), size) for name, (centre, size) in LESIONS.items()}
truth = md.Volume(healthy + CONTRAST * gain * sum(lesions.values()), grid, "MR")
operator = slices(BLOCK[2], factor=float(FACTOR))
level = NOISE * gain
image = torch.tensor(truth.data[0])
seen = Degradation(operator, Noise("rician", level)).observe(image, torch.Generator().manual_seed(SEED))
across, down, apart = grid.spacing_mm
scan = md.Volume(seen.numpy(), grid.with_spacing((across, down, apart * FACTOR)), "MR")
scan

# %% [markdown]
# ## 2. Draws, their mean and their spread
#
# Each draw is a fine volume that could have given this scan. `md.superresolve` meets them one at a time, so memory does
# not grow with their number, and keeps mean, standard deviation and the quantiles that are asked for.

# %%
asked = {"draws": DRAWS, "keep_draws": 1, "steps": STEPS, "seed": SEED, "quantiles": (0.05, 0.95)}
bar = md.ProgressBar("super-resolve")
with plainly("In this notebook DRAWS, STEPS, SEED and NOISE are in the first code cell."):  # a refusal is one line
    posterior = md.superresolve(scan, grid.spacing_mm, noise_level=level, progress=bar, **asked)
mean, spread = posterior.mean.data[0], posterior.std.data[0]
inside = foreground(healthy) & (healthy > 0.1 * gain)
posterior

# %% [markdown]
# ## 3. Where the draws differ, is the error larger?
#
# Voxels are sorted by their spread into ten groups of one size. On the dotted line the typical error of a group is its
# spread: the model would know exactly what it does not know. Above it the model is too sure of itself.

# %%
error = mean - truth.data[0]
order = np.argsort(spread[inside])
groups = np.array_split(order, 10)
told = [np.sqrt(np.mean(spread[inside][group] ** 2)) / gain for group in groups]
made = [np.sqrt(np.mean(error[inside][group] ** 2)) / gain for group in groups]
rank = stats.spearmanr(spread[inside], np.abs(error[inside])).statistic
ratio = np.sqrt(np.mean(error[inside] ** 2) / np.mean(spread[inside] ** 2))
figure, (left, right) = plt.subplots(1, 2, figsize=(9.5, 3.6), layout="constrained")
left.plot(told, made, "o-", color="C0")
left.plot([0, max(made)], [0, max(made)], ":", color="grey")
left.set(xlabel="spread of the draws (tissue maximum = 1)", ylabel="error that was made", title="Ten groups of voxels")
z = (error / np.maximum(spread, 1e-6 * gain))[inside]
edges = np.linspace(-8, 8, 81)
right.hist(z[np.abs(z) < 8], edges, density=True, color="C0", alpha=0.8)
right.plot(edges, stats.norm.pdf(edges), "w--", linewidth=1.2, label="if the spread were right")
right.set(xlabel="error / spread", title=f"The error is {ratio:.1f} times the spread (root mean square)")
right.legend(frameon=False)
plt.show()
print(f"rank correlation of spread and size of the error: {rank:.2f} (1: sorted alike, 0: not at all)")
print(f"errors of more than eight spreads, which are not in the picture: {np.mean(np.abs(z) >= 8):.1%}")

# %% [markdown]
# ## 4. Does an interval hold what it promises?
#
# Nine tenths of the truth should lie in an interval of 90 %. *Gaussian* is mean ± 1.64 spreads, *quantiles* are those
# of the draws; neither is calibrated. What would have held is the same interval, stretched by a factor. `medidiff
# calibrate` finds that factor on other people of whom thin scans exist, and then a share is claimed on average over
# patients like those; with one patient, as here, nothing can be claimed. Look at the last rows: a share over the whole
# brain says little of a lesion.

# %%
low, high = posterior.interval(0.9)
bounds = {"Gaussian": (low.data[0], high.data[0])}
bounds["quantiles"] = tuple(posterior.quantiles[share].data[0] for share in (0.05, 0.95))
half = 1.645 * np.maximum(spread, 1e-6 * gain)
stretch = float(np.quantile((np.abs(error) / half)[inside], 0.9))
bounds[f"Gaussian × {stretch:.1f}"] = (mean - stretch * half, mean + stretch * half)
regions = {"tissue": inside} | {f"lesion of {name}": lesion > 0.5 for name, lesion in lesions.items()}
print(f"{'truth inside':18}" + "".join(f"{name:>18}" for name in bounds))
for region, mask in regions.items():
    held = [np.mean(((a <= truth.data[0]) & (truth.data[0] <= b))[mask]) for a, b in bounds.values()]
    print(f"{region:18}" + "".join(f"{100 * share:17.0f}%" for share in held))

# %% [markdown]
# ## 5. What became of the lesions?
#
# A circle marks each lesion; that of 3 mm lies wholly within one slice. *Recovered contrast* is how far the answer
# darkens at the lesion, as a share of what is true: 1 is all of it, 0 is a lesion that is gone. The cubic spline loses
# some too: what is thinner than a slice is averaged into its slice before any software sees it. Where the last picture
# is bright, the truth lies outside the stretched interval: the model was wrong and did not say so.

# %%
spline = cubic_spline(scan.data[0], np.linalg.inv(scan.geometry.affine) @ grid.affine, shape=BLOCK)


def where_shown(lesion: np.ndarray, at_mm: np.ndarray) -> tuple[float, float]:
    """The middle of a lesion in a coronal picture, in mm from its lower left corner."""
    cut = view(lesion, grid, PLANES[1], at_mm=at_mm)
    down, along = (np.array(ndimage.center_of_mass(cut.pixels)) + 0.5) / cut.pixels.shape
    return along * cut.size_mm[0], (1 - down) * cut.size_mm[1]


outside = np.maximum(np.abs(error) - stretch * half, 0) * inside / gain
draw = posterior.draws[0].data[0]
shown = {"truth": truth.data[0], "cubic spline": spline, "mean": mean, "one draw": draw, "beyond the interval": outside}
tall = 2.1 * BLOCK[2] * apart / (BLOCK[0] * across) + 0.6  # inches of a row
figure, rows = plt.subplots(len(lesions), len(shown), figsize=(11, len(lesions) * tall + 1.1), layout="constrained")
for number, (row, (name, (centre, size))) in enumerate(zip(rows, LESIONS.items(), strict=True)):
    at_mm = grid.world(np.subtract(centre, FIRST))
    drawn = []
    for axes, (title, volume) in zip(row, shown.items(), strict=True):
        cut = view(volume if volume is outside else volume / gain, grid, PLANES[1], at_mm=at_mm)
        top, colours = (0.2, "magma") if volume is outside else (1, "gray")
        extent = (0, cut.size_mm[0], 0, cut.size_mm[1])
        drawn.append(axes.imshow(cut.pixels, cmap=colours, vmin=0, vmax=top, extent=extent))
        edge_letters(axes, cut)
        axes.add_patch(plt.Circle(where_shown(lesions[name], at_mm), size / 2 + 3, fill=False, color="red"))
        axes.set(title="" if number else title, xlabel="mm", yticks=[])
    row[0].set(ylabel=f"lesion of {name}")
for picture, some in ((drawn[0], rows[:, :-1]), (drawn[-1], rows[:, -1:])):
    figure.colorbar(picture, ax=some, location="bottom", shrink=0.8, aspect=40, label="tissue maximum = 1")
figure.supxlabel(FOOTER, fontsize=8)
plt.show()
print(f"{'recovered contrast':18}" + "".join(f"{name:>14}" for name in list(shown)[1:4]))
for name, lesion in lesions.items():
    change = [np.sum((volume - healthy) * lesion) for volume in list(shown.values())[:4]]
    slices_hit = np.unique(np.nonzero(lesion > 0.01)[2] // FACTOR).size
    within = "wholly within one slice" if slices_hit == 1 else f"in {slices_hit} slices"
    print(f"lesion of {name:8}" + "".join(f"{each / change[0]:14.2f}" for each in change[1:]) + f"   {within}")

# %% [markdown]
# ## 6. What can the scan contradict?
#
# An answer can be held against its scan: seen through the slices again, does it differ from it by more than noise? (On
# average over the scan it does not, `md.superresolve` sees to that; single places may still be off.) Two things are
# planted into the answer, both 7 mm across. A plain one, which the scan would have shown. And what of it
# averages to nothing in every slice: the part that **no scan with these slices could ever contradict**. The twenty
# places that deviate most are flagged; is one within 7 mm of what was planted?

# %%
plain = CONTRAST * gain * ball(np.subtract(PLANTED, FIRST), 7.0)
per_slice = plain.reshape(*BLOCK[:2], -1, FACTOR).mean(axis=3)
unseen = plain - per_slice.repeat(FACTOR, axis=2)
place = torch.tensor(np.abs(per_slice) > 0.3 * np.abs(per_slice).max())
y = torch.tensor(scan.data[0])
planted_mm = grid.world(np.subtract(PLANTED, FIRST))
print(f"{'answer':24}{'largest change':>15}{'residual there':>16}   is the planted place among the places flagged?")
for name, planted in {"as it is": 0 * plain, "with a lesion": plain, "with its unseen part": unseen}.items():
    looks = operator(torch.tensor(mean + planted))
    report, maps = examined(y, looks, level=level, rician=True, geometry=scan.geometry, inside=tissue(y, looks))
    there = float(maps[place].abs().max())
    away = [float(np.linalg.norm(np.subtract(flag.centre_mm, planted_mm))) for flag in report.flags]
    nearest = f"the nearest is {min(away):.0f} mm away" if away else "there is none"
    told = f"{'yes' if min(away, default=99.0) < 7 else 'no'}, {nearest}"
    print(f"{name:24}{np.abs(planted).max() / gain:15.2f}{there:14.1f} σ   {told}")

# %% [markdown]
# ## What not to trust
#
# * **A low spread.** All draws come from one prior. What it never saw it does not draw, so the draws agree, and are
#   wrong together: look at the truth inside the interval of the lesions.
# * **An interval of another site.** A calibration holds for patients like those that it was made on; `medidiff` marks
#   scans that are not, and you must not read the share for them.
# * **A clean report.** It finds what the scan contradicts. What lies in the gaps of the measurement it cannot find,
#   and that is where a prior invents.
# * **One brain.** The figures above are of one person and two lesions; `docs/uncertainty.md` has those of many, with
#   intervals.
# * **So:** measure thin slices where a thin finding matters. No software gives back what was not measured.

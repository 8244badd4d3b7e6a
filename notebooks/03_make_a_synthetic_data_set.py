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
# # Make a synthetic data set
#
# Scans of nobody, with label maps, as a data set that may leave: drawn by a cascade of priors, compared with every
# training scan by the *copy gate*, written with a mark in every file, and checked. One command does all of it,
# `medidiff synthesize OUT --count N`; here it is done step by step, so that you see what each step knows and refuses.
#
# The bundled priors draw brain-extracted T1-weighted heads of adults of one site. **Research use only, not for
# diagnosis.**

# %% tags=["parameters"]
import os
from pathlib import Path

OUT = Path("out") / "brains"  # the data set; must not be there yet
PICTURES = Path("out") / "brains-pictures"
AGE, SEX = 34.0, "F"
SEED = 0

SHORT = os.environ.get("MEDIDIFF_SHORT") == "1"  # few steps in large voxels, for the tests
COUNT, SPACING = (2, 4.0) if SHORT else (4, 2.0)  # scans, and their voxels in mm: 4, 2, or 0.85 to 1.2

# %% [markdown]
# ## 1. What the prior knows, and what may be asked
#
# The **coarse prior** draws a whole head in voxels of 4 mm, image and tissue together; finer priors take each volume
# for a measurement of one in half as large voxels, $y = A x$ with $A$ the mean over a box, and draw $p(x \mid y)$. What
# the coarse prior was trained on stands in its card. What it was not trained on is refused, and the nearest that it
# knows is named.

# %%
import json
import warnings

warnings.filterwarnings("ignore", message="IProgress not found")  # a progress bar of MONAI's that nothing here shows

import matplotlib.pyplot as plt
import numpy as np
from IPython.display import Image, display
from scipy import ndimage

import medidiff as md
from medidiff.errors import SettingsError
from medidiff.export import About, open_data_set, open_stored, verify_data_set
from medidiff.gates import CopyGate, GateReport, Index, build_index, require_index
from medidiff.metrics.tissues import volumes_ml
from medidiff.prior.coarse import coarse_card_path
from medidiff.report import Look, comparison
from medidiff.showing.drawing import FOOTER, edge_letters
from medidiff.synthesis import Effort
from medidiff.views import PLANES, view

plt.style.use("dark_background")
plt.rcParams |= {"figure.dpi": 110, "font.size": 9, "axes.titlesize": 9.5}

cascade = md.Cascade(effort=Effort(coarse=4) if SHORT else None)
card = cascade.coarse.card
print(card.summary, *card.recipe["limits"], sep="\n")  # card.limits also says how it was trained
known = card.vocabulary
ages = " to ".join(f"{age:g}" for age in known.ages)
print(f"may be asked: contrast {' or '.join(known.contrasts)}, age {ages}, sex {' or '.join(known.sexes)}")
try:
    cascade.check(md.Request(age=7.0))
except SettingsError as refusal:
    print("refused:", refusal)

# %% [markdown]
# ## 2. Draw
#
# Case $n$ of a seed is drawn from random numbers of its own. So it is the same in a set of 4 and of 10,000, before and
# after a restart, and any case can be drawn again from its number.
#
# The share of each tissue is drawn with the image. In fine voxels that share is the prior of Bayes' rule and the
# voxel's brightness the evidence: the label is the likeliest tissue. Look at the volumes as well as at the pictures,
# against those of people: the brains of the 36 real subjects in `docs/synthesis.md` differ by hundreds of ml.

# %%
request = md.Request(contrast=card.vocabulary.contrasts[0], age=AGE, sex=SEX, spacing_mm=SPACING)
cases = [cascade.draw(request, number, seed=SEED) for number in md.ProgressBar("draw").over(range(COUNT))]
again = cascade.draw(request, COUNT - 1, seed=SEED)
print(cases[0].image, dict(cases[0].asked))
print("drawn again, the same bytes:", again.image.data.tobytes() == cases[-1].image.data.tobytes())


def shown(name: str, panels: dict[str, np.ndarray], grid: md.Geometry) -> None:
    """Three planes of each, in a picture that says that nobody is in it."""
    PICTURES.mkdir(parents=True, exist_ok=True)
    wide = max(2.1, 5.2 / len(panels))  # inches of a panel: the lines at the foot must have room
    look = Look(window=(0, 1.1), units="tissue maximum = 1", column_inches=wide, dpi=110)
    path = comparison(PICTURES / f"{name}.png", panels, geometry=grid, title="Synthetic: nobody", look=look)
    display(Image(str(path)))


grid = cases[0].image.geometry
shown("drawn", {case.name: case.image.data[0] for case in cases}, grid)
tissues = cases[0].label_names
figure, row = plt.subplots(1, COUNT, figsize=(2.1 * COUNT + 1.2, 3.8), layout="constrained")
for axes, case in zip(row, cases, strict=True):
    cut = view(case.labels.data[0], grid, PLANES[0])
    extent, colours = (0, cut.size_mm[0], 0, cut.size_mm[1]), plt.get_cmap("viridis", len(tissues))
    picture = axes.imshow(
        cut.pixels, colours, vmin=-0.5, vmax=len(tissues) - 0.5, extent=extent, interpolation="nearest"
    )
    edge_letters(axes, cut)
    axes.set(title=case.name, xlabel="mm", yticks=[])
figure.colorbar(picture, ax=row, ticks=range(len(tissues)), label="tissue").ax.set_yticklabels(tissues)
figure.suptitle("Synthetic: nobody")
figure.supxlabel(FOOTER, fontsize=8)
plt.show()
print(f"{'ml':12}" + "".join(f"{label:>14}" for label in cases[0].label_names[1:]))
for case in cases:
    volumes = volumes_ml(case.labels.data[0], count=3, spacing_mm=case.labels.geometry.spacing_mm)
    print(f"{case.name:12}" + "".join(f"{ml:14.0f}" for ml in volumes))

# %% [markdown]
# ## 3. Is one of them a training scan in disguise?
#
# The gate compares each sample with **every** training scan, of which the package holds hashes and 1,024 numbers each,
# never the scan. A likeness above the threshold, which one unseen brain in a thousand exceeds, flags the sample. What
# cannot be judged has not passed either. Without an index nothing may leave: `E-NOINDEX`.
#
# Does it notice a copy? In the picture one sample plays the training scan: an index is made of it, and it comes back
# brighter, mirrored, moved, turned and noisy. The copies stand beyond the threshold, at 1; whether the other samples do
# says how alike this prior's samples are, in few steps and large voxels more so. `docs/gates.md` has the measured
# rates, on training scans.

# %%
index = Index.load(coarse_card_path(card.name).with_suffix(".index.safetensors"))
require_index(index)
gate = CopyGate(index)
verdicts = [gate.check(case.image) for case in cases]
for case, verdict in zip(cases, verdicts, strict=True):
    print(f"{case.name}: {'passed' if verdict.passed else 'dropped'}. {verdict.reason}")

rng = np.random.default_rng(SEED)
original = next(case.image for case, verdict in zip(cases, verdicts, strict=True) if verdict.judged)
moves = {
    "the same, brighter": lambda x: 100 * x,
    "mirrored": lambda x: x[::-1],
    "moved": lambda x: np.roll(x, 2, axis=1),
    "turned by 8°": lambda x: ndimage.rotate(x, 8.0, (0, 1), reshape=False, order=1),
    "noise of 10 %": lambda x: np.abs(x + 0.1 * rng.normal(size=x.shape)),
}
copies = {name: original.with_data(move(original.data[0]).astype(np.float32)) for name, move in moves.items()}
own = CopyGate(build_index([original]))
checked = copies | {case.name: case.image for case in cases if case.image is not original}
found = {name: own.check(image) for name, image in checked.items()}
figure, axes = plt.subplots(figsize=(7, 2.8), layout="constrained")
heights = [verdict.score / verdict.threshold for verdict in found.values()]
axes.barh(list(found), heights, color=["orange" if verdict.flagged else "C0" for verdict in found.values()])
axes.axvline(1, color="white", linewidth=0.8)
axes.set(xlabel="likeness to that sample / threshold", title="Orange is flagged")
axes.invert_yaxis()
plt.show()

# %% [markdown]
# ## 4. Write what passed, and only if the gate lets the set go
#
# The writer wants to know what the set is: licence, method, priors, what was asked. It adds case after case, each whole
# or absent, and is closed with the gate's report. `report.require()` refuses the whole set when more samples are
# flagged than false alarms explain, or none has passed. Should it stop here, that is the answer: do not ship this set.

# %%
cards = [card, *(prior.card for prior in cascade.finer)]
about = About(
    title="Synthetic T1w brains, from a notebook",
    count=COUNT,
    seed=SEED,
    licence="CC0-1.0",
    method="A cascade of diffusion models drew each head; no scan of a person went into a sample.",
    priors=tuple({"name": c.name, "sha256": c.weights_sha256, "licence": c.licence} for c in cards),
    asked=request.asked | {"spacing_mm": SPACING},
    contrast=str(request.contrast),
    label_names=cases[0].label_names,
    limits=card.limits,
)
report = GateReport.of(gate, verdicts)
report.require()
writer = open_data_set(OUT, "bids", about)
for case, verdict in zip(cases, verdicts, strict=True):
    if verdict.passed:
        writer.add(case)
writer.close(report.to_mapping())
print(f"{report.passed} of {report.checked} passed")
print(*sorted(str(path.relative_to(OUT)) for path in OUT.rglob("*") if path.is_file()), sep="\n")

# %% [markdown]
# ## 5. Check it, as whoever receives it will
#
# `medidiff verify OUT` knows from the manifest which files there must be. Every file must be there, unchanged, and say
# of itself that it is synthetic. To see that this is no formality, one byte of a record is changed and put back.

# %%
print("problems:", verify_data_set(OUT).problems or "none")
record = next(OUT.rglob("*_T1w.json"))
written = record.read_bytes()
record.write_bytes(written.replace(b"true", b"null", 1))
print("after one change:", *verify_data_set(OUT).problems, sep="\n  ")
record.write_bytes(written)
print("put back:", verify_data_set(OUT).problems or "none")
told = json.loads(written)
print("a record says:", *(f"{name}: {told[name]}" for name in ("Description", "Modality", "Synthetic")), sep="\n  ")

# %% [markdown]
# ## 6. Use it
#
# The set gives its cases back exactly as they were drawn. For training, `md.RandVariantd` mixes them among real scans
# (see `04_augment_a_segmenter`); `medidiff export` writes the same set for nnU-Net, Decathlon, WebDataset, Hugging Face
# or DICOM.

# %%
stored = open_stored(OUT)
back = next(iter(stored.cases(stored.numbers[:1])))
kept = next(case for case in cases if case.number == back.number)
print("as it was drawn:", np.array_equal(back.image.data, kept.image.data))
pair = {f"{kept.name}, drawn": kept.image.data[0], "from the set": back.image.data[0]}
shown("stored", pair, back.image.geometry)

# %% [markdown]
# ## What not to trust
#
# * **A small set proves nothing.** Whether such scans are like real ones, as varied, and of use to a segmenter is
#   measured on hundreds: `python validation/synthesis.py`, `python validation/utility.py`; `docs/synthesis.md` says
#   what came out.
# * **The gate sees copies, not everything.** It compares brains at 4 mm. It does not see a copied detail, nor does it
#   bound what an attacker learns about who was among the training data.
# * **Labels are drawn**, not outlined by anybody, and the anatomy is that of the few heads of one site that the prior
#   was trained on. Ask for nothing rare, and do not measure people's biology on it.
# * **The mark stops mistakes, not intent.** Voxels that somebody copies out of a file carry no mark.

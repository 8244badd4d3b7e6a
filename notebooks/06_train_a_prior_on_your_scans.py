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
# # Train a prior on your scans
#
# The bundled prior knows T1-weighted heads. For another scanner, contrast or body part a prior of your own may be
# better, and training one takes a list of good scans and a *recipe*, a short text. Nobody labels anything: the network
# is shown patches of good scans made noisy or thick, and asked for the patch as it was.
#
# Here a tiny network trains for minutes, so that you see each step. It is of no use; the last cells say what a real
# one takes. **Research use only, not for diagnosis.**

# %% tags=["parameters"]
import os
from pathlib import Path

SCANS: list[str] = []  # your scans of one kind, one a person: files, or folders of DICOM; at least three
OUT = Path("out") / "train"  # the run; the same folder again goes on where it stopped
NOISE = 0.09  # of the test at the end, as a share of the tissue maximum

SHORT = os.environ.get("MEDIDIFF_SHORT") == "1"  # a run that only shows that all cells work, for the tests
IMAGES, CHANNELS = (32, (4, 8)) if SHORT else (2400, (16, 32))

# %% [markdown]
# ## 1. Who teaches, who watches, who tests
#
# Scans are divided by **person**, before anything else: those to learn from, one to watch the training by, and one that
# is looked at once, in the end. Two scans of one person on two sides would make every figure too good.
#
# With no scans named above, the bundled brain is cut into four slabs, front to back, that play four persons. They are
# one person's, so the test will be too easy; with `MEDIDIFF_DATA` set, six people of its `t1-ds002748` are taken.

# %%
import json
import textwrap
from dataclasses import asdict
from importlib.resources import files

import matplotlib.pyplot as plt
import numpy as np
import torch
from IPython.display import Image, display

import medidiff as md
from medidiff.anatomy import foreground
from medidiff.metrics.fidelity import psnr
from medidiff.physics import Noise
from medidiff.prepare import fit_intensity
from medidiff.report import Look, comparison
from medidiff.showing.plain import plainly
from medidiff.training.recipe import read_recipe
from medidiff.training.run import Finished, Step, Validated, train

plt.style.use("dark_background")
plt.rcParams |= {"figure.dpi": 110, "font.size": 9}


def slab(volume: md.Volume, axis: int, first: int, count: int) -> md.Volume:
    """Some slices of a scan, where they lie in the patient."""
    start = [0, 0, 0]
    start[axis] = first
    affine = volume.geometry.affine.copy()
    affine[:3, 3] = volume.geometry.world(start)
    data = volume.data[0].take(range(first, first + count), axis=axis)
    return md.Volume(data, md.Geometry(data.shape, affine), "MR")


if not SCANS and not SHORT and "MEDIDIFF_DATA" in os.environ:
    SCANS = sorted(map(str, Path(os.environ["MEDIDIFF_DATA"]).glob("t1-ds002748/sub-*/anat/*_T1w.nii.gz")))[:6]
HERE = "In this notebook SCANS (three or more, the last is the test) and NOISE are in the first code cell."
if SCANS:
    with plainly(HERE, otherwise=HERE):  # a refusal is one line
        people = [md.read(path) for path in SCANS]
else:
    brain = md.read(str(files("medidiff") / "sample/t1-brain.nii.gz"))
    people = [slab(brain, 1, first, 46) for first in (46, 0, 138, 92)]
names = [f"person-{number}" for number in range(1, len(people) + 1)]
for name, person in zip(names, people, strict=True):
    md.write(md.Volume(person.data, person.geometry, "MR"), OUT / "scans" / f"{name}.nii.gz")
print(f"{len(people) - 2} to learn from, {names[-2]} to watch by, {names[-1]} to test")
people[0]

# %% [markdown]
# ## 2. The recipe
#
# All that a run is stands in one text: which scans, which network, what is done to a patch before the network is asked
# for it again, and for how long. It is checked before anything starts: a misspelt entry is refused by name. The same
# entries go into the prior's card and into MLflow.
#
# `degradation` is where you say **what your scans suffer from**: the range of noise, slices how much thicker than the
# voxels, their gaps and profiles. What is not in it the prior cannot mend.

# %%
recipe_text = f"""
name = "my-prior"
summary = "A tiny network trained for minutes in a notebook. Not for any use."
contrasts = ["T1w"]
limits = ["A demonstration: it has seen next to nothing."]

[data]
split = "split.toml"

[[data.sources]]
pattern = "scans/{{subject}}.nii.gz"
split = "mine"
licence = "yours to say"

[model]
channels = [{CHANNELS[0]}, {CHANNELS[1]}]
blocks = [1, 2, 1]

[degradation]
denoise = 0.7
thick = 0.3
coarse = 0.0
nothing = 0.0
noise = [0.01, 0.2]

[fit]
images = {IMAGES}
batch = 4
patch = 24
rate = 2e-3
warmup = {IMAGES // 20 + 1}
ema = {max(IMAGES / 12, 4.0)}
posterior_mean = 0.8

[validation]
every = {max(IMAGES // 6, 16)}
levels = [{NOISE}]
crop = 40
scans = 1
"""
split_text = f"[mine]\ntrain = {json.dumps(names[:-2])}\nvalidation = {json.dumps(names[-2:-1])}\n"
(OUT / "recipe.toml").write_text(recipe_text)
(OUT / "split.toml").write_text(f"{split_text}test = {json.dumps(names[-1:])}\n")
recipe = read_recipe(OUT / "recipe.toml")
print(f"{recipe.name}: {recipe.fit.images} patches of {recipe.fit.patch}³ voxels, {recipe.fit.batch} a step")
words = [
    f"{name} {' to '.join(f'{v:g}' for v in np.atleast_1d(each))}" for name, each in asdict(recipe.degradation).items()
]
print(textwrap.fill(f"what is done to a patch: {', '.join(words)}", 100))

# %% [markdown]
# ## 3. Train
#
# Each event of the run says how far it is. Stop the cell and run it again: it goes on from the last checkpoint, bit for
# bit as if it had never stopped, and image number $n$ is the same patch whatever the batch or the machine. At the
# command line the same is `medidiff train recipe.toml -o run`, which also keeps an MLflow run.

# %%
losses: list[tuple[int, float]] = []
scores: list[tuple[int, float]] = []
bar = md.ProgressBar("train")
with plainly(HERE, otherwise=HERE):
    for event in train(OUT / "recipe.toml", OUT / "run"):
        if isinstance(event, Step):
            losses.append((event.images, event.loss))
            bar(event.images, IMAGES)
        elif isinstance(event, Validated):
            scores.append((event.images, next(value for name, value in event.scores.items() if "psnr" in name)))
        elif isinstance(event, Finished):
            card = event.card
print(f"written: {', '.join(sorted(path.name for path in card.parent.iterdir()))}")

# %% [markdown]
# ## 4. Does it learn?
#
# Left, the loss on the patches it learns from, half the logarithm of the squared error, so that a quiet patch counts as
# much as a noisy one; each patch has another noise, so it jumps. Right, what counts: PSNR on the person who only
# watches. While it rises, train on; where it stays, more hours do not help, but more people or other degradations may.

# %%
figure, (left, right) = plt.subplots(1, 2, figsize=(9.5, 3.2), layout="constrained")
seen, values = np.array(losses).T if losses else np.zeros((2, 1))
width = max(len(values) // 25, 1)
left.plot(seen, values, ".", color="grey", markersize=2, label="a step")
left.plot(seen[width - 1 :], np.convolve(values, np.ones(width) / width, "valid"), color="C0", label=f"mean of {width}")
left.set(xlabel="patches seen", ylabel="loss", title="On the patches to learn from")
left.legend(frameon=False)
right.plot(*zip(*scores, strict=True), "o-", color="C1")
right.set(xlabel="patches seen", ylabel="PSNR (dB)", title=f"On the watching person, {100 * NOISE:g} % noise")
plt.show()

# %% [markdown]
# ## 5. Use it, and compare it
#
# A prior is a file of weights and a *card*; its path is what `prior=` takes, here and at the command line. The test
# scan is made noisy and denoised by the new prior and by the bundled one. If yours does not win on **your** test scans,
# do not use it.

# %%
test = slab(people[-1], 2, 20, 24) if SHORT else people[-1]
test = test.with_data(test.data.astype(np.float32))
with plainly(HERE, otherwise=HERE):
    gain = fit_intensity(test).gain  # stored units that make up the tissue maximum
    noisy = Noise("rician", NOISE * gain).apply(torch.tensor(test.data), torch.Generator().manual_seed(0)).numpy()
    told = {"noise_level": NOISE * gain, "noise": "rician"}
    mine = md.denoise(test.with_data(noisy), prior=str(card), **told)
    bundled = md.denoise(test.with_data(noisy), **told)
tissue = foreground(test.data[0])
panels = {"before noise": test.data[0], "noisy": noisy[0], "yours": mine.mean.data[0], "bundled": bundled.mean.data[0]}
judged = {"mask": tissue, "data_range": gain}
captions = {name: f"{psnr(panels[name], test.data[0], **judged):.1f} dB" for name in ("noisy", "yours", "bundled")}
picture = comparison(OUT / "test.png", panels, geometry=test.geometry, captions=captions, look=Look(dpi=110))
display(Image(str(picture), width=1000))
mine

# %% [markdown]
# ## 6. What its card says
#
# The card travels with the weights: what the prior was trained on, its licence, its limits and its scores. Write the
# limits for the person who will use it without knowing you.

# %%
about = md.Prior.load(str(card)).card
scored = ", ".join(f"{name} {value:.4g}" for name, value in about.metrics.items())
entries = {"name": about.name, "summary": about.summary, "contrasts": ", ".join(about.contrasts)}
entries |= {"images": f"{about.images:,} patches", "limits": " ".join(about.limits), "licence": about.licence}
entries |= {"sources": "; ".join(about.sources), "metrics": scored}
for name, entry in entries.items():
    print(textwrap.fill(f"{name:10} {entry}", 100, subsequent_indent=" " * 11))
real = md.Prior.load("fine-t1").card
seen = f"{real.images:,} patches of {real.recipe['fit']['patch']}³"
print("", textwrap.fill(f"and the bundled {real.name}: {seen}, {real.summary}", 100), sep="\n")

# %% [markdown]
# ## What a real one takes
#
# * **People, not hours.** The bundled `fine-t1` learnt from 29 heads. The patches it saw (above, from its card) are
#   a quarter of an hour of one GPU (`pipelines/recipes/fine-t1.toml`, `docs/training.md`), and days of two CPU cores.
#   Begin with it (`start = "fine-t1"` in the recipe) instead of at nothing, and a few thousand patches go far.
# * **Good scans.** A prior learns the noise and the artefacts of what it is shown as good.
# * **First try `medidiff adapt`.** It lets the bundled prior practise on your *noisy* scans, needs no good ones, and
#   says when that does not help.
# * **Mind what leaves.** Weights can hold parts of training scans. The one who trains answers for who gets them.
# * **Test on people who are in neither part**, of the scanner where it will be used, against the filters that you have.

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
# # Augment a segmenter
#
# A segmenter that has only seen good scans may be at a loss with a noisy one, or with thick slices. So it can be shown,
# while it trains, *variants* of its scans: as a worse scanner would have given them, and as a prior restores them. One
# transform among those of MONAI does it. Here two small networks learn tissue from **half of one brain**, one with the
# transform and one without, and are tested on the other half, as it is and from worse scanners.
#
# One brain shows how it is done and what the mechanism is. It does **not** show what it is worth on your data; the last
# cell says why. **Research use only, not for diagnosis.**

# %% tags=["parameters"]
import os
from importlib.resources import files

SCAN = str(files("medidiff") / "sample/t1-brain.nii.gz")
SHARES = {"degraded": 0.85, "restored": 0.15}  # of the variants
PROB = 0.7  # share of the patches that become variants
SEEDS = (0, 1, 2)

SHORT = os.environ.get("MEDIDIFF_SHORT") == "1"  # a run that only shows that all cells work, for the tests
STEPS, PATCH = (4, 24) if SHORT else (200, 32)
SEEDS = SEEDS[:1] if SHORT else SEEDS
BLOCK = (48, 48, 32) if SHORT else (64, 64, 40)  # voxels of the block in which variants are shown

# %% [markdown]
# ## 1. A scan and its tissue
#
# There is no expert's label map of this scan. Three classes come from its brightness alone, by Otsu's method with two
# thresholds, after a median over 3³ voxels: dark is fluid (CSF), then gray matter, then white. A segmenter can learn
# these from the clean scan without difficulty; in a bad scan one voxel does not tell.

# %%
import warnings

warnings.filterwarnings("ignore", message="IProgress not found")  # a progress bar of MONAI's that nothing here shows

import matplotlib.pyplot as plt
import numpy as np
import torch
from monai.data import DataLoader, Dataset, MetaTensor
from monai.losses import DiceCELoss
from monai.networks.nets import UNet
from monai.transforms import Compose, EnsureTyped, RandSpatialCropd, ScaleIntensityd
from monai.utils import set_determinism
from scipy import ndimage
from skimage.filters import threshold_multiotsu

import medidiff as md
from medidiff.augmentation import VariantSettings
from medidiff.metrics.tissues import dice
from medidiff.prepare import fit_intensity
from medidiff.showing.drawing import FOOTER, edge_letters
from medidiff.training.recipe import DegradationRanges
from medidiff.views import PLANES, view

plt.style.use("dark_background")
plt.rcParams |= {"figure.dpi": 110, "font.size": 9, "axes.titlesize": 9.5}
TISSUES = ("CSF", "gray matter", "white matter")

stored = md.read(SCAN)
scan = md.Volume(stored.data.astype(np.float32), stored.geometry, "MR")
gain = fit_intensity(scan).gain  # stored units that make up the tissue maximum
brain = scan.data[0] > 0
quiet = ndimage.median_filter(scan.data[0], 3)
thresholds = threshold_multiotsu(quiet[brain], classes=3)
tissue = scan.with_data(np.where(brain, 1 + np.digitize(quiet, thresholds), 0).astype(np.uint8))
print(scan, *(f"{name}: {(tissue.data == n + 1).sum() / brain.sum():.0%}" for n, name in enumerate(TISSUES)), sep="\n")


def part(volume: md.Volume, first: tuple[int, ...], size: tuple[int, ...]) -> md.Volume:
    """A block of a scan, where it lies in the patient."""
    affine = volume.geometry.affine.copy()
    affine[:3, 3] = volume.geometry.world(first)
    data = volume.data[:, *(slice(a, a + n) for a, n in zip(first, size, strict=True))]
    return md.Volume(data, md.Geometry(size, affine), volume.modality)


def shown(panels: dict[str, np.ndarray], grid: md.Geometry, *, top: float, classes: bool = False) -> None:
    """The middle axial slice of each, `top` shown white; with `classes`, label maps among them, whose 3 is `top`."""
    figure, row = plt.subplots(1, len(panels), figsize=(2.6 * len(panels) + 0.8, 3.4), layout="constrained")
    for axes, (title, image) in zip(row, panels.items(), strict=True):
        cut = view(image, grid, PLANES[0])
        extent = (0, cut.size_mm[0], 0, cut.size_mm[1])
        picture = axes.imshow(cut.pixels, cmap="gray", vmin=0, vmax=top, extent=extent, interpolation="nearest")
        edge_letters(axes, cut)
        axes.set(title=title, xlabel="mm", yticks=[])
    names = ["0", "1/3: CSF", "2/3: gray", "1: white"] if classes else ["0", "1/3", "2/3", "1"]
    bar = figure.colorbar(picture, ax=row, ticks=[share * top / 3 for share in range(4)])
    bar.ax.set_yticklabels(names)
    bar.set_label("share of the tissue maximum" + (": class" if classes else ""))
    figure.supxlabel(FOOTER, fontsize=8)
    plt.show()


panels = {"scan": scan.data[0], "tissue by brightness": tissue.data[0] / 3 * gain}
shown(panels, scan.geometry, top=gain, classes=True)

# %% [markdown]
# ## 2. What variants look like
#
# `md.augment` makes one variant, a function of the scan, a seed and a number. A *degraded* scan is what a random
# scanner measures, $y = N(Ax)$ with noise $N$ and slices or larger voxels $A$, back on the scan's grid. A *restored*
# one is a draw of $p(x \mid y)$ from the bundled prior, in three evaluations: a plausible scan that could have given
# this measurement. In both the anatomy stays where it is, so **the label map stays right**, and every variant carries a
# record of what was done.

# %%
middle = tuple((n - size) // 2 for n, size in zip(scan.shape, BLOCK, strict=True))
block, labels = (part(each, middle, BLOCK) for each in (scan, tissue))
panels = {"scan": block.data[0]}
for kind, number in (("degraded", 9), ("degraded", 13), ("degraded", 5), ("restored", 5)):
    variant = md.augment(block, kind, labels=labels, number=number, tissue_maximum=gain)
    told = variant.provenance.settings["channels"][0]
    panels[f"{kind}, number {number}"] = variant.image.data[0]
    noise = f"noise {told['noise_level'] / gain:.1%} of the tissue maximum, {told['samples']} samples"
    print(f"{kind} {number}: {noise}; the labels are the scan's: {variant.labels is labels}")
shown(panels, block.geometry, top=gain)

# %% [markdown]
# ## 3. One half to learn from, the other to be tested on
#
# The left hemisphere trains, the right one tests. They are of one person and one scanner, so the test is an easy one.
# That is why it is asked four times: as the scan is, and as three worse scanners give it.

# %%
half = scan.shape[0] // 2
size = (half, *(n // 4 * 4 for n in scan.shape[1:]))
train_scan, train_tissue = (part(each, (half, 0, 0), size) for each in (scan, tissue))
test_scan, test_tissue = (part(each, (0, 0, 0), size) for each in (scan, tissue))


def scanner(**weights: float) -> DegradationRanges:
    """Scanners of one kind only."""
    none = dict.fromkeys(("denoise", "thick", "coarse", "nothing"), 0.0)
    fixed = {"noise": (0.1, 0.1), "thick_noise": (0.02, 0.02), "factor": (4.0, 4.0), "coarse_factor": (2.2, 2.2)}
    return DegradationRanges(**none | weights, **fixed, rician=1.0, varying=0.0, uneven=0.0, cubic=1.0)


kinds = {"noise 10 %": scanner(denoise=1.0), "slices x4": scanner(thick=1.0), "voxels x2.2": scanner(coarse=1.0)}
tests = {"as it is": test_scan.data[0]}
for name, scanners in kinds.items():
    worse = md.augment(test_scan, "degraded", seed=1, tissue_maximum=gain, scanners=scanners)
    tests[name] = worse.image.data[0]
shown(tests, test_scan.geometry, top=gain)

# %% [markdown]
# ## 4. The transform
#
# `RandVariantd` stands among the transforms of MONAI. It comes **after cropping**, because a restored variant costs
# three evaluations of the network for the voxels it is given, and **before scaling**, because noise is added where air
# is 0. It follows the random state of `Compose` and, in the processes of a data loader, the loader's generator.

# %%
item = {"image": MetaTensor(torch.tensor(train_scan.data)), "label": MetaTensor(torch.tensor(train_tissue.data))}
settings = VariantSettings(tissue_maximum=gain)


def pipeline(augmented: bool, seed: int) -> Compose:
    """Patches for training, in one arm with variants."""
    variants = [md.RandVariantd(prob=PROB, shares=SHARES, settings=settings)] if augmented else []
    crop = RandSpatialCropd(("image", "label"), (PATCH,) * 3, random_size=False)
    scale = ScaleIntensityd("image", minv=None, maxv=None, factor=1 / gain - 1)
    return Compose([EnsureTyped(("image", "label")), crop, *variants, scale]).set_random_state(seed)


made = pipeline(True, 3)
for _ in range(6):
    patch = made(item)
    print(f"{patch['variant']:9} {tuple(patch['image'].shape)}, brightest {float(patch['image'].max()):.2f}")

# %% [markdown]
# ## 5. Train both
#
# The same small U-Net, the same steps, the same seeds; only the transform differs. The loss is Dice and cross-entropy.

# %%


def trained(augmented: bool, seed: int) -> tuple[UNet, list[float]]:
    """A network and the course of its loss."""
    set_determinism(seed)
    network = UNet(3, 1, 4, channels=(12, 24, 48), strides=(2, 2), num_res_units=1)
    loss_of = DiceCELoss(to_onehot_y=True, softmax=True, include_background=False)
    optimiser = torch.optim.AdamW(network.parameters(), lr=4e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, STEPS)
    patches = DataLoader(Dataset([item] * (2 * STEPS), pipeline(augmented, seed)), batch_size=2)
    losses = []
    for batch in patches:
        optimiser.zero_grad()
        loss = loss_of(network(batch["image"].as_tensor()), batch["label"].as_tensor())
        loss.backward()
        optimiser.step()
        schedule.step()
        losses.append(loss.item())
    return network.eval(), losses


arms = {"plain": False, "with variants": True}
todo = md.ProgressBar("train").over([(arm, seed) for arm in arms for seed in SEEDS])
runs = {(arm, seed): trained(arms[arm], seed) for arm, seed in todo}
set_determinism(None)
figure, axes = plt.subplots(figsize=(7, 3), layout="constrained")
for (arm, seed), (_, losses) in runs.items():
    smooth = ndimage.uniform_filter1d(losses, max(STEPS // 20, 1))
    colour, width = ("C0", 3.0) if arm == "plain" else ("C1", 1.2)  # where they cover each other both are seen
    axes.plot(smooth, color=colour, linewidth=width, label=arm if seed == SEEDS[0] else None)
title = "Both arms learn, much alike (a curve for each seed, smoothed)"
axes.set(xlabel="step", ylabel="loss on its own patches", title=title)
axes.legend(frameon=False)
plt.show()

# %% [markdown]
# ## 6. Test both
#
# Dice of each tissue in the hemisphere that nobody trained on, mean of the three; a point for each seed.

# %%


def found(network: UNet, image: np.ndarray) -> np.ndarray:
    """The label map that a network sees in a scan."""
    with torch.inference_mode():
        return network(torch.from_numpy(image / gain)[None, None]).argmax(dim=1)[0].numpy().astype(np.uint8)


scores = {
    (arm, seed, test): float(np.mean(dice(found(network, image), test_tissue.data[0], count=3)))
    for (arm, seed), (network, _) in runs.items()
    for test, image in tests.items()
}
print(f"{'mean Dice over seeds':22}" + "".join(f"{test:>14}" for test in tests))
for arm in arms:
    means = [np.mean([scores[arm, seed, test] for seed in SEEDS]) for test in tests]
    print(f"{arm:22}" + "".join(f"{mean:14.3f}" for mean in means))
by_arm = {arm: np.array([[scores[arm, seed, test] for test in tests] for seed in SEEDS]) for arm in arms}
gain_of_variants = by_arm["with variants"].mean(axis=0) - by_arm["plain"].mean(axis=0)
apart = np.maximum(*(np.ptp(found_in, axis=0) for found_in in by_arm.values()))
print(f"{'with less without':22}" + "".join(f"{value:+14.3f}" for value in gain_of_variants))
print(f"{'seeds of an arm apart':22}" + "".join(f"{value:14.3f}" for value in apart))
figure, axes = plt.subplots(figsize=(7, 3), layout="constrained")
for place, test in enumerate(tests):
    for arm, colour, aside in (("plain", "C0", -0.12), ("with variants", "C1", 0.12)):
        values = [scores[arm, seed, test] for seed in SEEDS]
        axes.plot([place + aside] * len(values), values, "o", color=colour, label=arm if place == 0 else None)
axes.set(xticks=range(len(tests)), xticklabels=list(tests), ylabel="Dice, mean of three tissues")
axes.legend(frameon=False)
plt.show()
worst = min(tests, key=lambda test: scores["plain", SEEDS[0], test])
maps = {"truth (brightness)": test_tissue.data[0]}
maps |= {f"{arm}: {worst}": found(runs[arm, SEEDS[0]][0], tests[worst]) for arm in arms}
shown({"scan": 3 * tests[worst] / gain} | maps, test_scan.geometry, top=3, classes=True)

# %% [markdown]
# ## What this shows, and what it cannot show
#
# * **It shows the mechanism, and no more.** Compare the last two rows of the table above: when this was written, the
#   variants changed the mean Dice by less than another seed did, in every column, and the figures differ a little from
#   machine to machine. So this run shows **no gain**: 200 steps are few, and the arm with variants has the harder
#   patches. A longer training on more people may show one, or may not.
# * **Not what it is worth to you.** One person, one scanner, half a brain on either side: the points above differ by
#   seed alone, and no interval over people can be made of one. Other people differ in more than noise and slices.
# * **Not against real bad scans.** The test was made worse by the same model that trained the second arm, so it is
#   judged by its own teacher. Motion, ghosts, bias fields and other contrasts are in neither.
# * **Not against expert labels.** The labels are the brightness of the clean scan, which favours whoever smooths.
# * **Classical augmentation is missing.** Turns, mirroring and gamma cost nothing and belong into the comparison:
#   `python validation/utility.py` makes it, on 26 people, with intervals, also for synthetic scans.

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
# # How diffusion works, on a real scan
#
# A diffusion model knows one trick: **given a noisy volume and how noisy it is, say what the clean one is on average.**
# Everything else follows.
#
# * The *forward process* blurs the truth with more and more noise, until nothing of it is left. It needs no network.
# * The *reverse process* walks back. At each noise level it asks the denoiser where the clean volume lies, and goes
#   there a little way.
# * A *measurement* $y$, your scan, is told to the denoiser as a second hint. The walk then ends at a volume that agrees
#   with it.
#
# Each step below is shown on the bundled T1-weighted brain with its formula beside it. First where the truth is known
# to the last digit, then with the bundled network. Intensities are shares of the tissue maximum: noise of $\sigma =
# 0.1$ is "10 % noise". Slices are in the radiological convention, with the patient's right (R) on the left.

# %% tags=["parameters"]
import os

SHORT = os.environ.get("MEDIDIFF_SHORT") == "1"  # a small block and few steps, for the tests
BLOCK = (48, 48, 24) if SHORT else (96, 96, 40)  # voxels of the part that the network works on
STEPS, DRAWS = (3, 2) if SHORT else (8, 4)
NOISE = 0.12  # σ_y, the noise of the measurement
SEED = 0

# %%
import warnings
from importlib.resources import files

import matplotlib.pyplot as plt
import numpy as np
import torch
from torch import Tensor

import medidiff as md
from medidiff import diffusion
from medidiff.physics import Degradation, Noise, identity
from medidiff.prepare import fit_intensity
from medidiff.showing.drawing import MARK, on_picture
from medidiff.views import PLANES, view

warnings.filterwarnings("ignore", message="IProgress not found")  # a progress bar of MONAI's that nothing here shows
plt.style.use("dark_background")
plt.rcParams |= {"figure.dpi": 110, "font.size": 9, "axes.titlesize": 9.5}
AXIAL, CORONAL, SAGITTAL = PLANES


def picture(axes, volume, title, *, geometry, plane=AXIAL, window=(0.0, 1.0), cmap="gray"):
    """The middle slice of a (1, 1, I, J, K) volume, upright and at its true proportions."""
    seen = view(volume.squeeze().numpy(), geometry, plane)
    (width, height), (low, high) = seen.size_mm, window
    image = axes.imshow(seen.pixels, cmap=cmap, vmin=low, vmax=high, extent=(0, width, 0, height))
    axes.set_title(title)
    axes.set_axis_off()
    for letter, x, side in ((seen.left, 0.02, "left"), (seen.right, 0.98, "right")):
        axes.text(x, 0.5, letter, color=MARK, ha=side, va="center", fontsize=8, **on_picture(axes))
    return image


scan = md.read(str(files("medidiff") / "sample/t1-brain.nii.gz"))
x0 = torch.from_numpy(fit_intensity(scan).apply(scan.data))[None]  # (1, 1, I, J, K), tissue maximum at about 1

figure, row = plt.subplots(1, 3, figsize=(9, 3.3), layout="constrained", width_ratios=(139, 139, 160))
for axes, plane in zip(row, PLANES, strict=True):
    shown = picture(axes, x0, f"{plane.name}, through the middle", geometry=scan.geometry, plane=plane)
figure.colorbar(shown, ax=row, shrink=0.8, label="intensity (tissue maximum = 1)")
spacing = " × ".join(f"{s:.2f}" for s in scan.geometry.spacing_mm)
figure.suptitle(f"The volume $x_0$: {' × '.join(map(str, scan.shape))} voxels of {spacing} mm")
plt.show()

# %% [markdown]
# ## 1. The forward process
#
# Add noise $n$ of standard deviation $\sigma$ to every voxel:
#
# $$x_\sigma = x_0 + \sigma n, \qquad n \sim \mathcal N(0, I) \qquad \text{(Karras et al. 2022)}$$
#
# In papers on DDPM the same process is called $q(x_t \mid x_0)$ and is kept at unit size,
#
# $$x_t = \sqrt{\bar\alpha_t}\, x_0 + \sqrt{1 - \bar\alpha_t}\, n, \qquad \bar\alpha_t = \prod_{s \le t} (1 - \beta_s)
# \qquad \text{(Ho et al. 2020, eq. 4)}.$$
#
# Divide by $\sqrt{\bar\alpha_t}$ and it is $x_\sigma$ with $\sigma^2 = (1 - \bar\alpha_t)/\bar\alpha_t$. The two differ
# in contrast, not in content. Fine detail drowns first and the outline last, so the way back runs from coarse to fine.

# %%
alpha_bar = (1 - diffusion.ddpm_betas("linear", 1000)).cumprod(0)
sigma_of_t = ((1 - alpha_bar) / alpha_bar).sqrt()
times = [0, *((sigma_of_t - level).abs().argmin().item() for level in (0.05, 0.15, 0.5, 1.5, 5.0))]
n = torch.randn(x0.shape, generator=torch.Generator().manual_seed(SEED))

figure, rows = plt.subplots(3, len(times), figsize=(11, 5.6), layout="constrained", height_ratios=(160, 72, 160))
apart = 0.0
for (axial, coronal, usual), t in zip(rows.T, times, strict=True):
    sigma = sigma_of_t[t].float()
    x_sigma = x0 + sigma * n
    x_t = diffusion.q_sample(x0, t, alpha_bar, noise=n)
    apart = max(apart, float((x_t / alpha_bar[t].sqrt() - x_sigma).abs().max()))
    picture(axial, x_sigma, rf"$x_\sigma$,  $\sigma$ = {sigma:.2g}", geometry=scan.geometry)
    picture(coronal, x_sigma, "", geometry=scan.geometry, plane=CORONAL)
    size = float(alpha_bar[t].sqrt())
    grey = (min(0.0, 2 * (size - 1)), size + 2 * (1 - size))  # the noise of the last ones is of unit size
    title = rf"$x_t$,  t = {t + 1},  $\sqrt{{\bar\alpha_t}}$ = {size:.2f}"
    picture(usual, x_t, title, geometry=scan.geometry, window=grey)
figure.suptitle(r"Forward: noise grows to the right (above: $x_\sigma$, grey from 0 to 1; last row: DDPM's $x_t$)")
plt.show()
print(f"largest difference between x_t / sqrt(alpha_bar_t) and x_sigma: {apart:.0e}")

# %% [markdown]
# ## 2. The denoiser is the way back
#
# Let $D(x, \sigma) = \mathbb E[x_0 \mid x_\sigma = x]$, the average of all clean volumes that could have become $x$. It
# is what a network learns from the plain squared error $\lVert D(x_0 + \sigma n, \sigma) - x_0 \rVert^2$. It also holds
# the *score*, the direction in which noisy volumes become more probable (Tweedie's formula), and with it the
# *probability flow*, a path without any randomness that carries the cloud of noisy volumes back onto the clean ones:
#
# $$\nabla_x \log p_\sigma(x) = \frac{D(x, \sigma) - x}{\sigma^2}, \qquad
# \frac{\mathrm dx}{\mathrm d\sigma} = \frac{x - D(x, \sigma)}{\sigma}
# \qquad \text{(Karras et al. 2022, eqs. 3 and 1)}.$$
#
# **A toy where all is known.** Say that voxels were Gaussian, $x_0 \sim \mathcal N(\mu, s^2)$, with the mean and spread
# of our brain. Then denoiser and path have a closed form, and no network is needed:
#
# $$D(x, \sigma) = \frac{x/\sigma^2 + \mu/s^2}{1/\sigma^2 + 1/s^2}, \qquad
# x(\sigma) = \mu + (x_T - \mu)\sqrt{\frac{s^2 + \sigma^2}{s^2 + \sigma_T^2}}.$$

# %%
tissue = x0[x0 > 0.1].double()
MU, S, TOP = float(tissue.mean()), float(tissue.std()), 5.0


def exact(x: Tensor, sigma: Tensor, condition: diffusion.Condition | None = None) -> Tensor:
    """E[x₀ | x_σ] when x₀ ~ N(μ, s²)."""
    return (x / sigma**2 + MU / S**2) / (1 / sigma**2 + 1 / S**2)


def path(x_top: Tensor, sigma: Tensor) -> Tensor:
    """Where the probability flow passes at level σ, if it was at x_top at the top."""
    return MU + (x_top - MU) * ((S**2 + sigma**2) / (S**2 + TOP**2)).sqrt()


x = torch.linspace(-1, 2, 7, dtype=torch.float64, requires_grad=True)
log_p = -0.5 * (x - MU) ** 2 / (S**2 + 0.3**2)  # of x at level 0.3, up to a constant
(score,) = torch.autograd.grad(log_p.sum(), x)
gap = float((score - (exact(x, torch.tensor(0.3, dtype=torch.float64)) - x) / 0.3**2).abs().max().detach())

figure, axes = plt.subplots(figsize=(8.5, 3.8), layout="constrained")
levels = torch.logspace(np.log10(TOP), -2, 200, dtype=torch.float64)
values = 0.7 * torch.linspace(-3.2, 3.3, 160).sinh()
spread = (S**2 + levels**2).sqrt()
density = torch.exp(-0.5 * ((values[:, None] - MU) / spread) ** 2)
axes.pcolormesh(levels, values, density, cmap="magma", shading="gouraud", rasterized=True)
for start in MU + (S**2 + TOP**2) ** 0.5 * torch.linspace(-1.8, 1.8, 13, dtype=torch.float64):
    axes.plot(levels, path(start, levels), color="white", linewidth=0.9, alpha=0.8)
axes.set_yscale("asinh", linear_width=0.7)
axes.set_yticks([-5, -2, -1, 0, 0.5, 1, 2, 5], ["-5", "-2", "-1", "0", "0.5", "1", "2", "5"])
axes.set(xscale="log", xlim=(TOP, 0.01), xlabel=r"noise level $\sigma$ (the way back runs to the right)")
axes.set(ylim=(-8, 9), ylabel="intensity of a voxel (tissue maximum = 1)")
axes.set_title("Probability flow: from any noise onto the clean values (bright: probable)")
plt.show()
print(f"mean {MU:.2f}, spread {S:.2f}; score by autograd against (D - x) / sigma^2: differ by {gap:.0e}")

# %% [markdown]
# ## 3. Walking down: sigma grids and samplers
#
# A computer takes finite steps. A *sigma grid* says where; Karras' spaces $\sigma^{1/\rho}$ evenly, with $\rho = 7$
# (eq. 5):
#
# $$\sigma_i = \Bigl(\sigma_{\max}^{1/\rho}
# + \tfrac{i}{N-1}\bigl(\sigma_{\min}^{1/\rho} - \sigma_{\max}^{1/\rho}\bigr)\Bigr)^{\rho}, \qquad \sigma_N = 0.$$
#
# A *sampler* says how to step from $\sigma$ to $\sigma'$. **Euler** trusts the denoiser's answer $D$ for the whole
# step, $x' = D + \tfrac{\sigma'}{\sigma}(x - D)$: order 1. **Heun** asks again at the end and averages the two slopes:
# order 2, for two evaluations a step. **DPM-Solver++(2M)** draws a line through this answer and the last one instead:
# order 2, for one.
#
# *Order 2* means that twice the steps leave a quarter of the error. Since we know where the path ends, we can watch it.

# %%
counts = [4, 8, 16, 32, 64, 128]
x_top = torch.full((1, 1, 1, 1, 1), 2.0 * TOP, dtype=torch.float64)
truth = path(x_top, torch.tensor(0.0))

figure, (left, right) = plt.subplots(1, 2, figsize=(9.5, 3.8), layout="constrained")
for name, grid in diffusion.GRIDS.items():
    left.plot(grid(12, 0.01, TOP)[:-1], "o-", markersize=3.5, linewidth=1.2, label=name)
left.set(yscale="log", xlabel="step", ylabel=r"noise level $\sigma$", title="Three sigma grids of 12 steps (then 0)")
left.legend(frameon=False)
for name, colour in (("euler", "C0"), ("heun", "C1"), ("dpmpp-2m", "C2")):
    ends = [diffusion.SAMPLERS[name](exact, x_top, diffusion.karras(count, 5e-4, TOP)) for count in counts]
    error = [float((end - truth).abs()) / S for end in ends]
    order = np.log2(error[-2] / error[-1])
    right.loglog(counts, error, "o-", color=colour, markersize=4, label=f"{name}: order {order:.1f} at the end")
for power in (1, 2):
    guide = 2.0 * (counts[0] / np.array(counts)) ** power
    right.loglog(counts, guide, ":", color="grey", linewidth=1)
    right.text(counts[-1] * 1.1, guide[-1], rf"$N^{{-{power}}}$", color="grey", va="center")
right.set(xlabel="steps N", ylabel="error at the end (share of the spread s)", title="Against the exact solution")
right.set_xticks(counts, counts)
right.set_xlim(3.5, 190)
right.legend(frameon=False)
plt.show()

# %% [markdown]
# ## 4. A measurement, told to the network
#
# A brain is no Gaussian, so from here on the bundled network answers. It is told of a second hint, the scan $y = N(A
# x_0)$: here $A$ is the identity and $N$ adds noise of $\sigma_y = 0.12$. `observe` turns it into what the network
# sees: the image $A^+y$, the share that it fixes (1 for denoising) and $\sigma_y$. The denoiser is now
#
# $$D(x, \sigma, y) = \mathbb E[x_0 \mid x_\sigma = x,\ y].$$
#
# At $\sigma = \infty$ the state tells nothing, only $y$ does. **One evaluation there is the posterior mean** $\mathbb
# E[x_0 \mid y]$, and that is the answer that `md.denoise` gives by default.

# %%
prior = md.Prior.load()
first = [(have - want) // 2 for have, want in zip(scan.shape, BLOCK, strict=True)]
affine = scan.geometry.affine.copy()
affine[:3, 3] = scan.geometry.world(first)
block = md.Geometry(BLOCK, affine)
x = x0[..., *(slice(start, start + size) for start, size in zip(first, BLOCK, strict=True))].contiguous()

y = Degradation(identity(), Noise("gaussian", NOISE)).observe(x, torch.Generator().manual_seed(SEED))
condition = diffusion.observe(y, identity(), NOISE)
with torch.no_grad():
    mean = prior.denoiser(torch.zeros_like(y), torch.tensor(torch.inf), condition)


def rmse(a: Tensor) -> float:
    """Root-mean-square error against the scan before noise was added."""
    return float((a - x).square().mean().sqrt())


figure, row = plt.subplots(1, 4, figsize=(11, 3.4), layout="constrained")
picture(row[0], x, "the scan $x_0$\n", geometry=block)
picture(row[1], y, f"measured $y$\nRMSE {rmse(y):.3f}", geometry=block)
shown = picture(row[2], mean, rf"posterior mean $D(\cdot, \infty, y)$" f"\nRMSE {rmse(mean):.3f}", geometry=block)
figure.colorbar(shown, ax=row[2], shrink=0.7, label="tissue maximum = 1")
reach = {"window": (-3 * rmse(mean), 3 * rmse(mean)), "cmap": "gray"}
shown = picture(row[3], mean - x, "its error $D - x_0$\n", geometry=block, **reach)
figure.colorbar(shown, ax=row[3], shrink=0.7, label="tissue maximum = 1")
figure.suptitle(f"One evaluation of the network, {100 * NOISE:g} % noise")
plt.show()

# %% [markdown]
# ## 5. The reverse process, step by step
#
# The mean is the best single bet, but it is not itself a plausible scan: where the noise hid a detail, it is the
# average over all the details that could have been there. A **draw** from $p(x_0 \mid y)$ picks one. Start from the
# mean plus noise (`informed`), far above what $y$ leaves open, and walk down with DPM-Solver++(2M), asking $D(x,
# \sigma, y)$ at every step:
#
# $$x_{\sigma_0} = \mathbb E[x_0 \mid y] + \sigma_0 n \;\longrightarrow\; x_{\sigma_1} \;\longrightarrow\; \dots
# \;\longrightarrow\; x_0 \sim p(x_0 \mid y).$$
#
# A denoiser is any function, so one that also writes down what it saw shows the walk without touching the sampler.

# %%
seen: list[tuple[float, Tensor, Tensor]] = []


def watched(x: Tensor, sigma: Tensor, condition: diffusion.Condition | None = None) -> Tensor:
    """The prior's denoiser, which also keeps what it was asked and what it said."""
    answer = prior.denoiser(x, sigma, condition)
    seen.append((float(sigma), x[:1], answer[:1]))
    return answer


sigmas = diffusion.karras(STEPS, 0.01, 0.5)
draws = []
generators = diffusion.generators_for(SEED, range(DRAWS))
for generator in md.ProgressBar("draw").over(generators):  # one by one: a draw does not depend on its neighbours
    state = diffusion.informed(mean, 0.5, [generator])
    draws.append(diffusion.dpmpp_2m(watched, state, sigmas, condition=condition))

steps = [seen[i] for i in np.unique(np.linspace(0, STEPS - 1, 6).round().astype(int))]  # of the first draw
figure, rows = plt.subplots(2, len(steps) + 1, figsize=(11.5, 4), layout="constrained", squeeze=False)
for (upper, lower), (sigma, state, answer) in zip(rows.T, steps, strict=False):
    picture(upper, state, rf"$x_\sigma$,  $\sigma$ = {sigma:.3f}", geometry=block)
    picture(lower, answer, r"$D(x_\sigma, \sigma, y)$", geometry=block)
picture(rows[0, -1], draws[0], r"the draw, $\sigma$ = 0", geometry=block)
picture(rows[1, -1], x, "the scan $x_0$", geometry=block)
figure.suptitle("Reverse: the state (above), and the clean volume as the denoiser sees it (below); grey from 0 to 1")
plt.show()

# %% [markdown]
# ## 6. Mean or draw?
#
# If the draws are right, then $x_0$ is itself one more draw, and the errors obey
#
# $$\mathbb E\,\lVert \text{draw} - x_0 \rVert^2 = 2\,\mathbb E\,\lVert \text{mean} - x_0 \rVert^2 .$$
#
# * The **mean** has the least error that any answer can have, and invents the least. It is smoother than a scan: its
#   fine detail is only what $y$ supports.
# * A **draw** looks like a scan, with the texture of one, and pays for it with up to 1.4 times the error. Its finest
#   detail is *plausible*, not *measured*. Never read a finding from a single draw.
# * The **spread** of the draws says where the answer hangs on the prior more than on the measurement.
#
# Two things to mind. The "truth" here is a real scan with noise of its own, about 1 %, which a good mean leaves out and
# a draw makes up anew. And the network is an approximation: how far "one draw" ends from the dotted line tells how far
# it is from perfect, and its spread is a guide, not a guarantee.

# %%
stack = torch.cat(draws)
spread = stack.std(dim=0, keepdim=True)
figure = plt.figure(figsize=(11.5, 6.2), layout="constrained")
above, below = figure.subfigures(2, 1, height_ratios=(1, 1.05))
row = above.subplots(1, 5)
titles = ("the scan $x_0$", "posterior mean", "draw 1", "draw 2")
for axes, title, volume in zip(row, titles, (x, mean, *draws), strict=False):
    picture(axes, volume, title, geometry=block)
top = float(np.percentile(spread, 99.5))
shown = picture(row[4], spread, f"spread of {DRAWS} draws", geometry=block, window=(0, top), cmap="magma")
above.colorbar(shown, ax=row[4], shrink=0.75, label="std (tissue maximum = 1)")


def spectrum(volume: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Power in the axial plane by spatial frequency (cycles per mm), averaged over directions and slices."""
    window = torch.outer(torch.hann_window(BLOCK[0]), torch.hann_window(BLOCK[1]))[..., None]
    power = torch.fft.fftn(volume[0, 0] * window, dim=(0, 1)).abs().square().mean(2).numpy()
    i, j = (np.fft.fftfreq(size, step) for size, step in zip(BLOCK[:2], block.spacing_mm, strict=False))
    radius = np.hypot(i[:, None], j)
    edges = np.linspace(0.02, 0.55, 25)
    total, _ = np.histogram(radius, edges, weights=power)
    count, _ = np.histogram(radius, edges)
    return (edges[1:] + edges[:-1]) / 2, total / np.maximum(count, 1)


left, right = below.subplots(1, 2)
bars = {"measured y": y, "posterior mean": mean, "one draw": draws[0], f"mean of {DRAWS} draws": stack.mean(0)[None]}
left.barh(list(bars), [rmse(v) for v in bars.values()], color=["grey", "C0", "C1", "C2"])
left.axvline(2**0.5 * rmse(mean), color="white", linestyle=":", linewidth=1)
left.invert_yaxis()
left.set(xlabel="root-mean-square error (tissue maximum = 1)", title=r"Error (dotted: $\sqrt{2}$ × the mean's)")
lines = {"the scan $x_0$": (x, "white"), "measured y": (y, "grey"), "mean": (mean, "C0"), "draw": (draws[0], "C1")}
for name, (volume, colour) in lines.items():
    right.semilogy(*spectrum(volume), color=colour, linewidth=1.4, label=name)
right.set(xlabel="spatial frequency (cycles per mm)", ylabel="power (arbitrary)", title="Texture")
right.legend(frameon=False)
plt.show()

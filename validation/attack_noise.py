"""The attack's volumes of noise: white, smooth, in the shape of a head, or over a scan; see `attack_scans.py`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from attack_scans import Array, Case, Rng, chosen, random, rician, tissue
from scipy import ndimage

__all__ = ["LEFT_OUT", "noise"]

Named = Iterator[tuple[str, Array]]

LEFT_OUT = "scan drowned 10%"  # a scan with 10 % of noise is one of the right kind
_PEOPLE = ("brain 2", "head 1", "clinical 2, study 2")


def noise(data: Path, asked: Sequence[str] | None) -> Iterator[Case]:
    """Every case on the grid of each person; random numbers run through all of them."""
    for person, scan in chosen(data, _PEOPLE, asked):
        rng = random(person.seed, 4)
        white = rng.normal(size=scan.image.shape).astype(np.float32)
        head = tissue(scan.image)
        named = (_white, _within, _smooth, _coloured, _over)
        for case, made in (each for cases in named for each in cases(scan.image, head, white, rng)):
            yield "noise", case, person.name, scan.showing(made.astype(np.float32))


def _white(image: Array, head: Array, white: Array, rng: Rng) -> Named:
    shape = image.shape
    yield "normal 0,1", white
    yield "normal 100,20", 100 + 20 * white
    yield "|normal|", np.abs(white)
    yield "Rayleigh", rng.rayleigh(30, shape)
    yield "uniform 0..1", rng.uniform(size=shape)
    yield "uniform int 0..4095", rng.integers(0, 4096, shape)
    yield "uniform uint8", rng.integers(0, 256, shape)
    yield "exponential", rng.exponential(1, shape)
    yield "poisson 20", rng.poisson(20, shape)
    yield "normal 500,100 clipped", np.clip(500 + 100 * white, 0, None)
    yield "normal matched to scan", image.mean() + image.std() * white


def _within(image: Array, head: Array, white: Array, rng: Rng) -> Named:
    yield "noise of tissue level in mask", np.where(head, image[head].mean() + image[head].std() * white, 0)
    yield "noise 5% in mask", np.where(head, 600 + 30 * white, 0)
    yield "noise 10% in mask", np.where(head, 600 + 60 * white, 0)
    yield "Rician in mask, air noise", np.abs(np.where(head, 600, 0) + 60 * white)
    inner = image[head].copy()
    rng.shuffle(inner)
    made = image.copy()
    made[head] = inner
    yield "voxels shuffled in mask", made
    every = image.ravel().copy()
    rng.shuffle(every)
    yield "voxels shuffled", every.reshape(image.shape)


def _smooth(image: Array, head: Array, white: Array, rng: Rng) -> Named:
    for sigma in (1, 2, 4, 8, 16):
        smooth = ndimage.gaussian_filter(white, sigma)
        smooth = smooth / smooth.std()
        yield f"smoothed {sigma}", smooth
        yield f"smoothed {sigma} positive", 100 + 20 * smooth
        yield f"smoothed {sigma} + 5% white", 100 + 20 * smooth + 5 * rng.normal(size=image.shape)
        within = np.where(head, 600 + 150 * smooth + 20 * rng.normal(size=image.shape), 0)
        yield f"smoothed {sigma} in mask + 3% white", within


def _coloured(image: Array, head: Array, white: Array, rng: Rng) -> Named:
    shape, axes = image.shape, (0, 1, 2)
    along = [np.fft.fftfreq(shape[0]), np.fft.fftfreq(shape[1]), np.fft.rfftfreq(shape[2])]
    frequency = np.sqrt(sum(f**2 for f in np.meshgrid(*along, indexing="ij", sparse=True)))
    of_white = np.fft.rfftn(white)
    turned = np.abs(np.fft.rfftn(image)) * np.exp(1j * np.angle(of_white))
    yield "phase randomised", np.fft.irfftn(turned, shape, axes)
    pink = np.fft.irfftn(of_white / np.maximum(frequency, 1 / 200), shape, axes)
    yield "1/f", pink
    yield "1/f positive", pink - pink.min()
    yield "|1/f|", np.abs(pink)


def _over(image: Array, head: Array, white: Array, rng: Rng) -> Named:
    shape = image.shape
    for percent in (10, 30, 60):
        yield f"scan drowned {percent}%", rician(image, percent, rng)
    yield "uniform on 64 cube", rng.uniform(size=(64, 64, 64))
    yield "zeros", np.zeros(shape)
    yield "speckle", image * rng.exponential(1, shape)
    salted = rng.uniform(size=shape) < 0.2
    yield "salt pepper 20%", np.where(salted, rng.choice([0, image.max()], shape), image)

"""What the tests of quality reports share: a phantom before and after, a full record of it, and a reader of pages."""

from __future__ import annotations

import base64
import io
from collections import Counter
from html.parser import HTMLParser

import numpy as np
from PIL import Image
from scipy import ndimage

from medidiff.qc import CaseReport, case_report
from medidiff.volume import Geometry, Provenance, Volume

SHAPE = (40, 44, 36)
LEVEL = 40.0
HOSTILE = (
    "\"'><script>window.pwned=1</script><img src=x onerror=window.pwned=2><svg/onload=window.pwned=3>{{7*7}}</style>"
)


def truth(shape: tuple[int, int, int] = SHAPE) -> np.ndarray:
    """A bright ellipsoid with texture as wide as folds, and nothing round it."""
    grid = np.moveaxis(np.indices(shape), 0, -1) - (np.array(shape) - 1) / 2
    inside = np.linalg.norm(grid / np.array(shape), axis=-1) < 0.42
    texture = ndimage.gaussian_filter(np.random.default_rng(5).standard_normal(shape), 2.0)
    return np.where(inside, 900 + 1200 * texture, 0.0).astype(np.float32)


def noise(shape: tuple[int, int, int] = SHAPE, seed: int = 1) -> np.ndarray:
    return (LEVEL * np.random.default_rng(seed).standard_normal(shape)).astype(np.float32)


def grid(shape: tuple[int, int, int] = SHAPE, spacing: tuple[float, float, float] = (1.0, 1.2, 2.0)) -> Geometry:
    return Geometry.regular(shape, spacing_mm=spacing)


def pair(geometry: Geometry | None = None) -> tuple[Volume, Volume]:
    """A noisy phantom, and an answer from which nearly all of the noise is gone."""
    geometry = geometry or grid()
    clean, added = truth(geometry.shape), noise(geometry.shape)
    return Volume(clean + added, geometry, "MR"), Volume(clean + np.float32(0.1) * noise(seed=2), geometry, "MR")


def record(text: str = "") -> Provenance:
    """A record that has something in every field; the text stands in each of them."""
    return Provenance(
        task=f"denoise{text}",
        version=f"0.1.0{text}",
        inputs=(f"{'ab' * 32}{text}",),
        settings={"noise": "gaussian", "noise_level": LEVEL, "draws": 4, f"key{text}": f"value{text}", "l": [text, 1]},
        prior={"name": f"fine-t1{text}", "sha256": f"{'cd' * 32}{text}"},
        seed=3,
        environment={f"torch{text}": f"2.13{text}"},
        decisions=(f"noise level 40 estimated from the scan{text}",),
    )


def report(text: str = "", **changes: object) -> CaseReport:
    """The report of the phantom, with a text in every field that a text can reach."""
    before, after = pair()
    before = Volume(before.data, before.geometry, f"MR{text}", units=f"au{text}")
    spread = after.with_data(np.abs(noise(seed=4))[None])
    given = {"name": f"case{text}", "provenance": record(text), "spread": spread} | changes
    return case_report(before, after, **given)


class Reader(HTMLParser):
    """The elements, attributes, styles, scripts and texts of a page, as a browser takes them apart."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: Counter[str] = Counter()
        self.attributes: list[tuple[str, str, str]] = []
        self.inline: dict[str, str] = {}
        self.texts: list[str] = []
        self._in = ""
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags[tag] += 1
        self.attributes += [(tag, name, value or "") for name, value in attrs]
        self._in = tag if tag in ("script", "style") else self._in

    def handle_endtag(self, tag: str) -> None:
        self._in = "" if tag == self._in else self._in

    def handle_data(self, data: str) -> None:
        if self._in:
            self.inline[self._in] = self.inline.get(self._in, "") + data
        else:
            self.texts.append(data)

    def values(self, name: str) -> list[str]:
        return [value for _, key, value in self.attributes if key == name]

    @property
    def policy(self) -> str:
        return next(v for v in self.values("content") if v.startswith("default-src"))

    def pictures(self, kind: str) -> list[np.ndarray]:
        """The atlases of one kind, decoded, plane by plane."""
        kinds = [value for tag, key, value in self.attributes if tag == "img" and key == "data-kind"]
        return [decoded(uri) for uri, each in zip(self.values("src"), kinds, strict=True) if each == kind]


def decoded(uri: str) -> np.ndarray:
    head, _, content = uri.partition(",")
    assert head == "data:image/webp;base64"
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(content))).convert("L"))

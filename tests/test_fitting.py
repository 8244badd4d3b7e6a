"""Which prior a scan gets, what its modality decides, and how Hounsfield units survive."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
from cli_cases import document
from scipy import ndimage
from small_prior import small_prior

from medidiff import cli, io
from medidiff.errors import InputError
from medidiff.prepare import IntensityScale, fit_intensity, looks_like_hounsfield, with_filler_marked
from medidiff.prior import BUNDLED, DEFAULT_PRIOR, Prior, fitting_prior
from medidiff.prior import fitting as fitting_module
from medidiff.restore import Settings, denoise
from medidiff.volume import Geometry, Volume

SHAPE = (28, 26, 24)


def body(modality: str = "CT", units: str = "HU") -> Volume:
    """Water with lungs and a bone in air, 20 HU of noise, whole HU."""
    rng = np.random.default_rng(0)
    where = np.stack(np.meshgrid(*(np.linspace(-1, 1, n) for n in SHAPE), indexing="ij"))
    radius = (where**2).sum(0)
    hounsfield = np.where(radius < 0.8, 30.0, -1000.0)
    hounsfield[(where[0] ** 2 + (where[1] - 0.3) ** 2) < 0.1] = -850
    hounsfield[(where[0] ** 2 + (where[1] + 0.6) ** 2) < 0.02] = 900
    noisy = ndimage.gaussian_filter(hounsfield, 0.5) + rng.normal(0, 20, SHAPE)
    return Volume(np.maximum(np.rint(noisy), -1024).astype(np.int16), Geometry.regular(SHAPE), modality, units)


def for_ct() -> Prior:
    return small_prior("CT")


def refused(volume: Volume, prior: str | Prior | None) -> str:
    with pytest.raises(InputError) as caught:
        fitting_prior(volume, prior)
    assert caught.value.code == "E-MODALITY"
    return str(caught.value)


# ------------------------------------------------------------ Hounsfield units


def test_hounsfield_units_come_back_bit_for_bit():
    scale = fit_intensity(body())
    whole = np.arange(-32768, 65536, dtype=np.float32)
    steps = np.arange(-1024, 3072, 2**-7, dtype=np.float32) + np.float32(2**-12)
    for values in (whole, steps):
        assert np.array_equal(scale.undo(scale.apply(values)), values)
    assert scale.apply(np.array([-1024.0, 0.0, 1024.0])).tolist() == [0.0, 0.5, 1.0]


def test_another_gain_would_lose_bits():
    """The negative: a window of 2000 HU instead of a power of two."""
    steps = np.arange(-1024, 3072, 2**-7, dtype=np.float32) + np.float32(2**-12)
    scale = IntensityScale(-1000.0, 2000.0)
    assert not np.array_equal(scale.undo(scale.apply(steps)), steps)


def test_the_scale_of_a_ct_does_not_depend_on_its_voxels_and_that_of_other_scans_does():
    darker = body().with_data(body().data // 2)
    assert fit_intensity(darker) == fit_intensity(body()) == IntensityScale(-1024.0, 2048.0)
    bright = body("MR", "").with_data(body().data + 2000)
    assert fit_intensity(bright) != fit_intensity(bright.with_data(bright.data * 2))


def test_corners_outside_the_field_of_view_are_padding():
    data = body().data[0].copy()
    data[:4, :4] = -3024
    marked = with_filler_marked(body().with_data(data))
    assert marked.padding is not None
    assert marked.padding.sum() == 16 * SHAPE[2]
    answers = [
        denoise(body().with_data(np.where(marked.padding, filler, data)), prior=for_ct(), noise_level=20.0).mean.data[0]
        for filler in (-3024, -2000)
    ]
    assert (answers[0][marked.padding] == -3024).all()
    assert np.array_equal(answers[0][~marked.padding], answers[1][~marked.padding])


def test_air_is_no_padding_nor_is_anything_of_an_mr_scan():
    assert with_filler_marked(body()).padding is None
    low = body().with_data(np.where(body().data == body().data.min(), -3024, body().data))
    assert with_filler_marked(dataclasses.replace(low, modality="MR")).padding is None
    own = dataclasses.replace(low, padding=np.zeros(SHAPE, dtype=bool) | (np.arange(SHAPE[2]) == 0))
    assert with_filler_marked(own) is own


# ------------------------------------------------------------ which prior


def test_a_ct_never_gets_a_prior_for_mr():
    assert "CT" in refused(body(), small_prior())
    assert fitting_prior(body(), for_ct())[0].card.modality == "CT"
    assert fitting_prior(dataclasses.replace(body(), modality="MR"), small_prior())[1] == []


def test_an_mr_scan_never_gets_a_prior_for_ct():
    refused(dataclasses.replace(body(), modality="MR"), for_ct())


def test_a_scan_that_does_not_say_what_it_is_never_gets_a_prior_for_ct():
    """It would get the scale and the kind of noise of MR, and a CT's prior."""
    unsaid = dataclasses.replace(body(), modality="OT", units="")
    assert "--modality CT" in refused(unsaid.with_data(np.abs(unsaid.data)), for_ct())


def test_a_ct_with_voxels_that_are_no_numbers_is_refused_as_that():
    holed = body().with_data(np.where(np.arange(body().data.size).reshape(body().data.shape) == 7, np.nan, body().data))
    with pytest.raises(InputError, match="E-NONFINITE"):
        fit_intensity(holed)


def test_a_modality_without_a_bundled_prior_is_refused():
    assert "no bundled prior for PT" in refused(dataclasses.replace(body(), modality="PT"), None)


def test_each_modality_gets_its_bundled_prior(monkeypatch, tmp_path):
    for name, prior in (("a-ct", for_ct()), (DEFAULT_PRIOR, small_prior())):
        Prior(prior.denoiser, dataclasses.replace(prior.card, name=name)).save(tmp_path)
    monkeypatch.setattr(fitting_module, "BUNDLED", tmp_path)
    monkeypatch.setattr("medidiff.prior.prior.BUNDLED", tmp_path)
    chosen = {
        kind: fitting_prior(dataclasses.replace(body(), modality=kind), None)[0].card.name for kind in ("MR", "CT")
    }
    assert chosen == {"MR": DEFAULT_PRIOR, "CT": "a-ct"}
    head = Volume(np.abs(body().data[0]), Geometry.regular(SHAPE))
    assert fitting_prior(head, None)[0].card.name == DEFAULT_PRIOR


def test_the_bundled_priors_say_what_they_are_for():
    kinds = {path.stem: Prior.card_of(path.stem).modality for path in BUNDLED.glob("*.safetensors")}
    assert kinds == {DEFAULT_PRIOR: "MR", "fine-ct": "CT", "middle-t1": "MR"}
    assert fitting_prior(body(), None)[0].card.name == "fine-ct"


def test_the_prior_for_ct_says_that_it_is_a_demonstration():
    card = Prior.card_of("fine-ct")
    for told in (card.summary, card.limits[0]):
        assert told.startswith("Demonstration, one patient, not for use")
    assert (BUNDLED / "fine-ct.safetensors").stat().st_size <= 2e6
    decisions = denoise(body(), noise_level=20.0).provenance.decisions
    assert any("Demonstration, one patient, not for use" in each for each in decisions)


def test_the_prior_for_ct_takes_noise_out_of_a_ct():
    clean = ndimage.gaussian_filter(body().data[0].astype(np.float32), 1.0)
    noisy = clean + ndimage.gaussian_filter(np.random.default_rng(1).normal(0, 1, SHAPE), (0.6, 0.6, 0.4)) * 100
    level = float((noisy - clean).std())
    found = denoise(body().with_data(noisy.astype(np.float32)), noise_level=level).mean.data[0]
    middle = (slice(4, -4),) * 3
    assert (found - clean)[middle].std() < 0.7 * (noisy - clean)[middle].std()


def test_a_scan_that_does_not_say_what_it_is_passes_unless_it_looks_like_a_ct():
    unsaid = dataclasses.replace(body(), modality="OT", units="")
    refused(unsaid, small_prior())
    positive = unsaid.with_data(unsaid.data + 1024)
    assert "does not say its modality" in fitting_prior(positive, small_prior())[1][0]


def test_phase_and_magnitude_images_do_not_look_like_a_ct():
    rng = np.random.default_rng(0)
    phase = body("OT", "").with_data(rng.integers(-4096, 4096, SHAPE).astype(np.int16))
    scores = body("OT", "").with_data(rng.normal(0, 400, SHAPE).astype(np.float32))
    assert not looks_like_hounsfield(phase)
    assert not looks_like_hounsfield(scores)
    assert not looks_like_hounsfield(body("OT", "").with_data(np.abs(body().data)))
    padded = np.where(np.arange(SHAPE[0])[:, None, None] < 12, -3024, body().data[0])
    assert looks_like_hounsfield(body("OT", "").with_data(padded))


def test_the_modality_says_the_kind_of_noise():
    def kind(modality: str, noise: str | None = None) -> str | None:
        return Settings(noise=noise).for_scan(dataclasses.replace(body(), modality=modality)).noise  # type: ignore[arg-type]

    assert [kind(each) for each in ("MR", "OT", "CT", "PT")] == ["rician", "rician", "gaussian", "gaussian"]
    assert kind("CT", "rician") == "rician"


# ------------------------------------------------------------ the command line


@pytest.fixture
def bare_file(tmp_path):
    """A CT whose NIfTI file has no record beside it."""
    io.write(body(), tmp_path / "ct.nii.gz")
    (tmp_path / "ct.json").unlink()
    return tmp_path / "ct.nii.gz"


@pytest.fixture
def card(tmp_path):
    return for_ct().save(tmp_path / "prior")


def test_modality_is_told_of_a_file_that_does_not(bare_file, card, tmp_path, capsys):
    words = ["denoise", str(bare_file), str(tmp_path / "out.nii.gz"), "--prior", str(card), "--noise-level", "20"]
    assert cli.main(words) == 4
    assert "E-MODALITY" in capsys.readouterr().err
    told = document([*words, "--modality", "CT"], capsys)
    record = json.loads((tmp_path / "out.json").read_text())
    assert (record["Modality"], record["Units"]) == ("CT", "HU")
    assert "CT in HU, as --modality says" in told["provenance"]["decisions"]
    assert told["provenance"]["settings"]["noise"] == "gaussian"


def test_modality_does_not_overrule_the_file(card, tmp_path, capsys):
    io.write(body(), tmp_path / "said.nii.gz")
    words = ["denoise", str(tmp_path / "said.nii.gz"), str(tmp_path / "out.nii.gz"), "--prior", str(card)]
    assert cli.main([*words, "--modality", "MR"]) == 4
    assert "E-MODALITY" in capsys.readouterr().err
    assert cli.main([*words, "--modality", "CT", "--noise-level", "20"]) == 0

"""Which prior a scan gets: one of its own modality and for what is asked, or none."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from medidiff.errors import InputError, PriorError, SettingsError
from medidiff.prepare import looks_like_hounsfield
from medidiff.prior.card import Measures
from medidiff.prior.prior import BUNDLED, DEFAULT_PRIOR, Prior
from medidiff.volume import Volume

__all__ = ["bundled_for", "contrast_prior", "fitting_prior"]

_NEAR = 1.25  # factor between a scan's voxels and those that a prior draws in


def fitting_prior(
    volume: Volume, prior: str | Prior | None, *, load: Callable[[str], Prior] | None = None
) -> tuple[Prior, list[str]]:
    """The prior to restore a scan with, and what was decided on the way.

    A scan that does not say its modality passes for MR, unless its values look like Hounsfield units: then it is a CT
    whose file lost the word. It is never given to a prior for anything else, whose scale and kind of noise it lacks.

    Args:
        volume: the scan.
        prior: a bundled prior's name, a path, or a loaded one; None for the bundled prior of the scan's modality.
        load: reads a prior by name or path, `Prior.load` without; whoever restores many scans
            remembers those that were read.

    Raises:
        InputError: ``E-MODALITY``, there is no bundled prior for the scan's modality, the named one is for another, or
            the scan does not say what it is and looks like a CT or is to get a prior that is not for MR.
        PriorError: no such prior, or a broken one; ``E-CONTRAST``, it draws another contrast.
    """
    _refuse_hounsfield(volume)
    chosen = prior if isinstance(prior, Prior) else (load or Prior.load)(prior or bundled_for(volume.modality))
    if chosen.card.measures is not None:
        found = f"the prior '{chosen.card.name}', which draws another contrast"
        raise PriorError("E-CONTRAST", found, wanted="a prior that restores", mend="Name another with --prior.")
    decisions = _of_modality(volume, chosen)
    if prior is None and volume.modality != "OT":
        decisions.append(f"prior '{chosen.card.name}' chosen for {chosen.card.modality}. {chosen.card.summary}")
    return chosen, decisions


def contrast_prior(volume: Volume, prior: str | Path | Prior, *, to: str) -> tuple[Prior, Measures, list[str]]:
    """The prior that draws another contrast of a scan, what it is shown, and what was decided on the way.

    Args:
        volume: the scan, in the contrast that the prior is shown; no file says which that is.
        prior: a path, or a loaded one.
        to: the contrast that is wanted.

    Raises:
        InputError: ``E-MODALITY``, as `fitting_prior`.
        PriorError: no such prior; ``E-CONTRAST``, it restores, or draws a contrast that is not wanted.
        SettingsError: ``E-ASKED``, voxels of another size than it was trained in.
    """
    _refuse_hounsfield(volume)
    chosen = prior if isinstance(prior, Prior) else Prior.load(prior)
    measures, drawn = chosen.card.measures, chosen.card.contrasts[:1]
    if measures is None:
        found = f"the prior '{chosen.card.name}', which restores and draws no other contrast"
        raise PriorError("E-CONTRAST", found, mend='Train one with a recipe of kind = "contrast".')
    if drawn != (to,):
        found = f"the prior '{chosen.card.name}', which draws {', '.join(drawn)}"
        raise PriorError("E-CONTRAST", found, wanted=to[:20], mend="Ask for the contrast that it draws.")
    decisions = _of_modality(volume, chosen)
    side, own = measures.spacing_mm, volume.geometry.spacing_mm
    if side and not all(side / _NEAR <= each <= side * _NEAR for each in own):
        found, wanted = " x ".join(f"{each:.4g}" for each in own), f"about {side:g} mm along each axis"
        mend = "Resample the scan to such voxels first, with a tool of your choice."
        raise SettingsError("E-ASKED", f"voxels of {found} mm", wanted=wanted, attribute="spacing", mend=mend)
    return chosen, measures, decisions


def _refuse_hounsfield(volume: Volume) -> None:
    if volume.modality == "OT" and looks_like_hounsfield(volume):
        found = "values like Hounsfield units in a scan that does not say its modality"
        mend = 'Say --modality CT, or what else it is; a JSON file beside the scan with "Modality": "CT" says it too.'
        raise InputError("E-MODALITY", found, mend=mend)


def _of_modality(volume: Volume, chosen: Prior) -> list[str]:
    """Refuse a prior for another modality; returns what was taken for granted."""
    known = chosen.card.modality
    if volume.modality == "OT" and known != "MR":
        found = f"a scan that does not say its modality, and the prior '{chosen.card.name}', which is for {known}"
        raise InputError("E-MODALITY", found, mend=f"Say --modality {known} if that is what the scan is.")
    if volume.modality not in ("OT", known):
        found = f"a {volume.modality} scan and the prior '{chosen.card.name}', which is for {known}"
        mend = f"Name a prior for {volume.modality} with --prior, or leave --prior out."
        raise InputError("E-MODALITY", found, wanted=f"a {known} scan", mend=mend)
    if volume.modality == "OT":
        return [f"the scan does not say its modality; it was taken for {known}, like '{chosen.card.name}'"]
    return []


def bundled_for(modality: str) -> str:
    """Name of the bundled prior for a modality; the default one where a scan does not say its own.

    Raises:
        InputError: ``E-MODALITY``, there is none.
    """
    names = sorted((path.stem for path in BUNDLED.glob("*.safetensors")), key=lambda name: name != DEFAULT_PRIOR)
    for name in names:
        if modality in ("OT", Prior.card_of(name).modality):
            return name
    found = f"a {modality} scan, and no bundled prior for {modality}"
    raise InputError("E-MODALITY", found, mend="Name a prior of your own with --prior.")

"""Which prior a scan gets: one of its own modality, or none."""

from __future__ import annotations

from medidiff.errors import InputError
from medidiff.prepare import looks_like_hounsfield
from medidiff.prior.prior import BUNDLED, DEFAULT_PRIOR, Prior
from medidiff.volume import Volume

__all__ = ["bundled_for", "fitting_prior"]


def fitting_prior(volume: Volume, prior: str | Prior | None) -> tuple[Prior, list[str]]:
    """The prior to restore a scan with, and what was decided on the way.

    A scan that does not say its modality passes for MR, unless its values look like Hounsfield units: then it is a CT
    whose file lost the word. It is never given to a prior for anything else, whose scale and kind of noise it lacks.

    Args:
        volume: the scan.
        prior: a bundled prior's name, a path, or a loaded one; None for the bundled prior of the scan's modality.

    Raises:
        InputError: ``E-MODALITY``, there is no bundled prior for the scan's modality, the named one is for another, or
            the scan does not say what it is and looks like a CT or is to get a prior that is not for MR.
        PriorError: no such prior, or a broken one.
    """
    if volume.modality == "OT" and looks_like_hounsfield(volume):
        found = "values like Hounsfield units in a scan that does not say its modality"
        mend = 'Say --modality CT, or what else it is; a JSON file beside the scan with "Modality": "CT" says it too.'
        raise InputError("E-MODALITY", found, mend=mend)
    chosen = prior if isinstance(prior, Prior) else Prior.load(prior or bundled_for(volume.modality))
    known = chosen.card.modality
    if volume.modality == "OT" and known != "MR":
        found = f"a scan that does not say its modality, and the prior '{chosen.card.name}', which is for {known}"
        raise InputError("E-MODALITY", found, mend=f"Say --modality {known} if that is what the scan is.")
    if volume.modality not in ("OT", known):
        found = f"a {volume.modality} scan and the prior '{chosen.card.name}', which is for {known}"
        mend = f"Name a prior for {volume.modality} with --prior, or leave --prior out."
        raise InputError("E-MODALITY", found, wanted=f"a {known} scan", mend=mend)
    if volume.modality == "OT":
        return chosen, [f"the scan does not say its modality; it was taken for {known}, like '{chosen.card.name}'"]
    told = f"prior '{chosen.card.name}' chosen for {known}. {chosen.card.summary}"
    return chosen, [told] if prior is None else []


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

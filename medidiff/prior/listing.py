"""Which priors there are: the bundled ones and those of a folder. Each is loaded, so what is said of it holds."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from medidiff.errors import PriorError
from medidiff.prior.card import Card
from medidiff.prior.coarse import WHOLE, CoarseCard, CoarsePrior, is_coarse, read_coarse_card
from medidiff.prior.prior import BUNDLED, Prior

__all__ = ["Listed", "list_priors"]


@dataclass(frozen=True, slots=True)
class Listed:
    """One prior that was found.

    Args:
        file: the weights' file.
        bundled: whether it comes with medidiff and is called by its name alone.
        card: what it is; None where the card cannot be read.
        weights: numbers in the network; 0 where it cannot be loaded.
        size_bytes: of the weights' file.
        problem: the refusal that using it would meet; empty when it can be used.
    """

    file: Path
    bundled: bool
    card: Card | CoarseCard | None
    weights: int
    size_bytes: int
    problem: str = ""


def list_priors(folder: Path | None = None) -> list[Listed]:
    """The bundled priors, then those of a folder, each in the order of their names.

    Args:
        folder: where ``.safetensors`` files lie, with their cards beside them; None for the bundled ones alone.

    Raises:
        PriorError: ``E-PRIOR``, the folder is none, or holds no weights.
    """
    found = [_listed(path, bundled=True) for path in sorted(BUNDLED.glob("*.safetensors"))]
    found += [_listed(card.with_suffix(".safetensors"), bundled=True) for card in sorted(WHOLE.glob("*.json"))]
    if folder is None:
        return found
    if not folder.is_dir():
        raise PriorError("E-PRIOR", "not a folder", mend="Name the folder that priors were saved in.", file=folder.name)
    own = sorted(folder.glob("*.safetensors"))
    if not own:
        mend = "Name the folder that holds a prior's .safetensors file and its card."
        raise PriorError("E-PRIOR", "no .safetensors file in the folder", mend=mend, file=folder.name)
    return found + [_listed(path, bundled=False) for path in own]


def _listed(path: Path, *, bundled: bool) -> Listed:
    size = path.stat().st_size
    kind = CoarsePrior if is_coarse(path) else Prior
    try:
        card = read_coarse_card(path) if kind is CoarsePrior else Prior.card_of(path)
    except PriorError as error:
        return Listed(path, bundled, None, 0, size, str(error))
    try:
        prior = kind.load(path)
    except PriorError as error:
        return Listed(path, bundled, card, 0, size, str(error))
    return Listed(path, bundled, card, sum(weight.numel() for weight in prior.denoiser.parameters()), size)

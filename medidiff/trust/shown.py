"""How a posterior shows itself: mean, spread and a draw, and what was decided on the way."""

from __future__ import annotations

from medidiff.showing.rich import Exhibit, Panel, Rich
from medidiff.volume import Provenance, Volume

__all__ = ["Shown"]


class Shown(Rich):
    """What a posterior is for the eye."""

    __slots__ = ()

    mean: Volume
    std: Volume | None
    draws: tuple[Volume, ...]
    provenance: Provenance

    def _exhibit(self) -> Exhibit:
        record, mean = self.provenance, self.mean
        drawn = record.settings.get("draws") or len(self.draws)
        panels = [Panel("mean", mean.data[0])]
        if self.std is not None:
            panels.append(Panel(f"standard deviation of {drawn} draws", self.std.data[0], spread=True))
        if self.draws:
            panels.append(Panel("one draw: plausible, not measured", self.draws[0].data[0]))
        prior = record.prior.get("name", "")
        title = f"Posterior: {record.task}" + (f", prior {prior}" if prior else "")
        notes = tuple(f"{sentence[:1].upper()}{sentence[1:].rstrip('.')}." for sentence in record.decisions)
        return Exhibit(title, tuple(panels), mean.geometry, mean.modality, mean.units, notes)

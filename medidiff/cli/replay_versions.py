"""What a run must have in common with this installation to be made again."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from medidiff.cli.session import environment
from medidiff.errors import SettingsError
from medidiff.version import __version__

__all__ = ["refuse_versions"]


def refuse_versions(then: Mapping[str, Any]) -> None:
    """Refuse a run that was made with other versions than those at hand.

    Args:
        then: version by name of package; ``python`` counts by its first two numbers.

    Raises:
        SettingsError: ``E-REPLAY-VERSION``.
    """
    now = environment() | {"medidiff": __version__}
    for name, version in then.items():
        here = now.get(name, "is missing")
        if _counted(name, here) != _counted(name, str(version)):
            mend = "Install the versions that it ran with."
            wanted = f"{name} {str(version)[:40]}"
            raise SettingsError("E-REPLAY-VERSION", f"{name} {here}", wanted=wanted, mend=mend)


def _counted(name: str, version: str) -> str:
    return ".".join(version.split(".")[:2]) if name == "python" else version

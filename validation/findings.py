"""What a validation command leaves for the repository: one small file, exported from an MLflow run.

A command measures, perhaps on another machine and without MLflow, and writes its raw figures as JSON; under ``finding``
they say what was asked and hold every figure of every case. `keep` makes an MLflow run of that and exports it to
``validation/results/NAME.json``, which is committed. The tables of the README and of ``docs/`` are made from these
files alone (see `report.py`), so no figure in them is typed by hand.

The name of a metric is the figure, then what tells its rows apart: ``psnr_db/3/bm4d``. Its steps are the cases, by
their place in the split, which is as much of a name as a subject has here.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import re
import time
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from medidiff.errors import InputError, SettingsError
from medidiff.version import __version__

__all__ = ["RESULTS", "Finding", "command", "finding", "keep", "machine", "read", "series", "with_peers"]

RESULTS = Path(__file__).resolve().parent / "results"
_NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,60}")
_PLACES = ("data", "out", "split", "mlflow", "device", "prior")  # where things lie says nothing of what was measured
_LIBRARIES = ("torch", "monai", "numpy", "dipy", "bm4d")


@dataclass(frozen=True, slots=True)
class Finding:
    """What a command found.

    Args:
        params: what was asked, of what, on which machine.
        figures: by metric name, the value for each case.
    """

    params: Mapping[str, str]
    figures: Mapping[str, Mapping[int, float]]

    def record(self) -> dict[str, Any]:
        """For JSON: the figures as lists of ``[case, value]``."""
        return {
            "params": dict(self.params),
            "figures": {name: list(map(list, f.items())) for name, f in self.figures.items()},
        }

    def of(self, figure: str, *keys: object) -> list[float]:
        """The values of one row, in the order of the cases; `KeyError` when it was not measured."""
        return list(self.figures["/".join((figure, *map(slug, keys)))].values())

    def rows(self) -> list[tuple[str, ...]]:
        """What tells rows apart, as the metrics' names have it; numbers in their order, medidiff below its peers."""
        return sorted({tuple(name.split("/")[1:]) for name in self.figures}, key=lambda keys: [*map(_rank, keys)])

    def column(self, place: int) -> list[str]:
        """The different keys at one place of the rows, in order."""
        return sorted({keys[place] for keys in self.rows()}, key=_rank)


def _rank(key: str) -> tuple[int, list[float], str]:
    """The noisy input first, medidiff last; in between by the numbers in a key, the last of them first."""
    place = 0 if key.startswith("noisy") else 2 if key.startswith("medidiff") else 1
    return place, [float(number) for number in reversed(re.findall(r"\d+(?:\.\d+)?", key))], key


def slug(key: object) -> str:
    """A key as a part of a metric's name: lower case, without what MLflow does not take."""
    text = f"{key:g}" if isinstance(key, float) else unicodedata.normalize("NFKD", str(key).lower())
    text = "".join(letter for letter in text if not unicodedata.combining(letter))
    return " ".join(re.sub(r"[^a-z0-9_.-]+", " ", text).split())


def series(
    rows: Iterable[Mapping[str, Any]], *, by: Sequence[str], values: Sequence[str], case: str = "scan"
) -> dict[str, dict[int, float]]:
    """Figures by name from rows of raw figures.

    Args:
        rows: a mapping for each case and whatever else is told apart.
        by: names of the columns that tell rows apart, in order; blanks are left out of the metric's name.
        values: names of the columns with figures; a row may lack some, and what is not finite is left out.
        case: name of the column with the number of the case; 1 where a row has none.

    Raises:
        SettingsError: two rows have one name and one case.
    """
    found: dict[str, dict[int, float]] = {}
    for row in rows:
        keys, place = [slug(row[key]) for key in by], int(row.get(case, 1))
        for value in (value for value in values if _finite(row.get(value))):
            points = found.setdefault("/".join((slug(value), *filter(None, keys))), {})
            if place in points:
                raise SettingsError("E-SETTING", f"two rows of case {place}", wanted="one", attribute=f"{value} {keys}")
            points[place] = float(row[value])
    return found


def _finite(value: object) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


def command(script: str, parser: argparse.ArgumentParser, options: argparse.Namespace) -> str:
    """The command line that asks for the same again, without the paths of this machine.

    A verb with options of its own leaves its parser in the options, beside its name and what it runs.
    """
    told = dict(vars(options))
    own = told.pop("parser", parser)
    verbs: list[str] = []
    words: list[str] = []
    if own is not parser:
        verbs.append(told.pop("verb"))
        told.pop("run")
    placed = {action.dest for action in own._actions if not action.option_strings}  # a verb has no name of its own
    for name, value in told.items():
        values = value if isinstance(value, list | tuple) else [value]
        private = name in _PLACES or any(isinstance(each, Path) for each in values)
        if private or value == own.get_default(name):
            continue
        plain = [] if value is True else [f"{each:g}" if isinstance(each, float) else str(each) for each in values]
        if name in placed:
            verbs += plain
        else:
            words += [f"--{name.replace('_', '-')}", *plain]
    return " ".join(("python", f"validation/{script}.py", *verbs, *words))


def machine(device: str = "cpu") -> dict[str, str]:
    """Where and with what something was measured: processor, its cores and their load, GPU, versions, day."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    except OSError:
        names = []
    cores = os.cpu_count() or 1
    out = {
        "day": time.strftime("%Y-%m-%d", time.gmtime()),
        "machine": f"{names[0] if names else platform.machine()}, {cores} cores",
        "load": f"{os.getloadavg()[0]:.1f} of {cores}" if hasattr(os, "getloadavg") else "unknown",
    }
    if device.startswith("cuda"):
        import torch

        out["gpu"] = torch.cuda.get_device_name()
    return out | {f"version.{name}": v for name, v in (("medidiff", __version__), *map(_installed, _LIBRARIES)) if v}


def finding(
    script: str,
    parser: argparse.ArgumentParser,
    options: argparse.Namespace,
    *,
    params: Mapping[str, object],
    figures: Mapping[str, Mapping[int, float]],
) -> Finding:
    """What a command found, with its own command line and the machine.

    Args:
        script: the command's file name without ``.py``.
        parser: its options.
        options: what was asked.
        params: what else is to be known of what was measured: the prior's hash, the set, the region.
        figures: see `series`.
    """
    asked = {"command": command(script, parser, options), "threads": getattr(options, "threads", 1)}
    told = asked | machine(str(getattr(options, "device", "cpu"))) | dict(params)
    return Finding({key: str(value) for key, value in told.items()}, figures)


def with_peers(ours: Finding, kept: Finding) -> Finding:
    """A finding with the peers' rows of an older one, which know nothing of our prior and need not run again for it.

    Args:
        ours: rows of the scans as they were given to everyone (``noisy input``), and of medidiff.
        kept: the same of an older prior, and the peers' rows.

    Raises:
        InputError: the scans, or the noise in them, are not the same: their own rows differ.
    """
    given = {name: values for name, values in ours.figures.items() if _is_given(name)}
    same = given and all(
        kept.figures.get(name, {}).keys() == values.keys()
        and all(math.isclose(kept.figures[name][case], value, rel_tol=1e-6) for case, value in values.items())
        for name, values in given.items()
    )
    if not same:
        found = "the noisy scans are others than those of the kept result"
        raise InputError("E-DATA", found, mend="Run the command with its peers.")
    peers = {
        name: values for name, values in kept.figures.items() if name not in ours.figures and "medidiff" not in name
    }
    told = {"command": kept.params["command"], "peers": f"of the run of {kept.params['day']}"}
    return Finding(dict(ours.params) | told, dict(ours.figures) | peers)


def _is_given(name: str) -> bool:
    return name.endswith("/noisy input") and not name.startswith("seconds/")


def keep(raw: Path, name: str, *, uri: str | None = None, folder: Path = RESULTS, peers: Path | None = None) -> Path:
    """Make an MLflow run of what a command wrote, and export it for the repository.

    Args:
        raw: the JSON of the command.
        name: of the result: lower case, digits and hyphens.
        uri: the MLflow store; by default ``mlflow.db`` beside `raw`.
        folder: where results are kept.
        peers: a kept result whose peers' rows go in too, see `with_peers`.

    Raises:
        InputError: the file holds no finding, or one of other scans than the peers'.
        SettingsError: a name that cannot be one, or something that must not be published.
    """
    from medidiff.tracking import export_run, log_metrics

    if not _NAME.fullmatch(name):
        raise SettingsError("E-SETTING", "no name of a result", wanted="lower case, digits and hyphens", attribute=name)
    try:
        told = json.loads(raw.read_text(encoding="utf-8"))["finding"]
        params = dict(told["params"])
        figures = {key: {int(case): float(value) for case, value in points} for key, points in told["figures"].items()}
    except (OSError, ValueError, KeyError, TypeError) as error:
        wanted = "JSON that a validation command wrote"
        raise InputError("E-DATA", "no finding in it", wanted=wanted, file=raw.name) from error
    if peers is not None:
        whole = with_peers(Finding(params, figures), read(peers))
        params, figures = dict(whole.params), {key: dict(values) for key, values in whole.figures.items()}
    where = uri or f"sqlite:///{(raw.parent / 'mlflow.db').resolve()}"
    run = log_metrics(name, params, figures, artifacts=[raw], uri=where)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.json"
    export_run(where, run, path)
    return path


def read(path: Path) -> Finding:
    """A kept result; its steps are the cases."""
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        figures = {key: {int(p[0]): float(p[1]) for p in points} for key, points in record["metrics"].items()}
        return Finding(dict(record["params"]), figures)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError("E-DATA", "no exported run", wanted="validation/results/NAME.json", file=path.name) from error


def _installed(name: str) -> tuple[str, str]:
    try:
        return name, version(name)
    except PackageNotFoundError:
        return name, ""

"""Four usual generators and the coarse prior, trained alike and compared: `python validation/alternatives.py --help`.

`train KIND` trains one of them for ``--seconds`` of CPU time, heads included, on the same varied heads of
one pack; killed, it goes on. `draw KIND` draws heads from seeds. `compare` measures what was drawn against the real
scans in voxels of 4 mm (`coarse_sets.py`), and writes a table, a picture with a row for each, and the loss curves.

Beside them stand the training heads as they are varied (what a perfect student of them would draw), the unseen real
subjects, and one training head over and over (what a collapsed generator draws). ``own`` is the project's prior from
the weights that its recipe begins with, ``own-fresh`` the same from chance, as the others are. Whether labels are drawn
is not compared.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import scoring
import torch
from alternative_models import KINDS
from alternative_training import Plan, clock, load_alternative, seeded, train_alternative
from brains import data_options
from coarse_sets import SHELLS, described_all, picture, real_heads
from findings import finding, series
from own_coarse import drawer, train_own
from safetensors import safe_open
from safetensors.torch import save_file
from scoring import Array
from set_figures import Likeness, Measured, compared, held, metric_names

from medidiff.errors import InputError, PriorError, SettingsError
from medidiff.io.files.atomic import make_folder, write_file
from medidiff.prior.coarse import CoarsePrior
from medidiff.report import montage
from medidiff.tracking import log_metrics, track
from medidiff.training.coarse_recipe import CoarseRecipe, read_any
from medidiff.training.heads import Heads, about, read_atlas, read_heads
from medidiff.version import __version__

OWN = ("own", "own-fresh")
_RECIPE = Path(__file__).resolve().parent.parent / "pipelines" / "recipes" / "coarse-t1.toml"
_DRAW_SEED = 2 * 10**9  # added to --seed for draws
_VARIED = 10**7  # number of the first varied head that stands in the comparison, beyond those of any training
_SHOWN = 8
_WINDOW = (0.0, 1.05)


def parser() -> argparse.ArgumentParser:
    """The options of the command."""
    out = data_options(__doc__)
    out.add_argument("verb", choices=("train", "draw", "compare"), help="what to do")
    out.add_argument("kind", choices=(*KINDS, *OWN, "all"), help="of what; 'all' that were drawn, for compare")
    out.add_argument("--pack", type=Path, default=Path("runs/heads.safetensors"), help="heads, of pipelines/prepare.py")
    out.add_argument("--recipe", type=Path, default=_RECIPE, help="of the coarse prior: frame, variation, seed")
    out.add_argument("--seconds", type=float, default=720.0, help="of CPU time, or of a GPU's, for train")
    out.add_argument("--device", default="cpu", choices=("cpu", "cuda"), help="where to train and draw")
    out.add_argument("--prior", type=Path, help="card of another coarse prior to draw 'own' from")
    out.add_argument("--count", type=int, default=24, help="heads to draw, or to compare at most")
    out.add_argument("--seed", type=int, default=0, help="of weights and draws")
    out.add_argument("--resamples", type=int, default=200, help="bootstrap draws")
    out.add_argument("--halvings", type=int, default=100, help="of the real scans, for the floors")
    out.add_argument("--out", type=Path, default=Path("out/alternatives"), help="folder of runs, draws and tables")
    out.add_argument(
        "--mlflow", default="", help="tracking URI; empty for a store in the output folder, 'none' for no tracking"
    )
    return out


def run(options: argparse.Namespace) -> str:
    """Train, draw or compare; returns what there is to say."""
    if options.count < 4 or options.seed < 0 or (options.kind == "all") != (options.verb == "compare"):
        found, wanted = "too few heads, or a verb without its kind", "at least 4; one kind, or 'all' to compare"
        raise SettingsError("E-SETTING", found, wanted=wanted)
    torch.set_num_threads(options.threads)
    verbs: Mapping[str, Callable[[argparse.Namespace], str]] = {"train": trained, "draw": drawn, "compare": table_of}
    return verbs[options.verb](options)


def varied(options: argparse.Namespace) -> tuple[Heads, str]:
    """The training heads of the pack, varied as the recipe says, and their fingerprint."""
    recipe = read_any(options.recipe)
    if not isinstance(recipe, CoarseRecipe):
        raise SettingsError("E-RECIPE", "no recipe of a coarse prior", file=options.recipe.name)
    heads = read_heads(options.pack, part="train")
    vocabulary, fingerprint = about(heads)
    return Heads(heads, read_atlas(options.pack), recipe, vocabulary, device=options.device), fingerprint


def trained(options: argparse.Namespace) -> str:
    """Train one generator for its time."""
    events: Iterator[Any]
    if options.kind in OWN:
        place, start = options.out / options.kind, options.kind == "own"
        events = train_own(
            options.recipe, options.pack, place, seconds=options.seconds, start=start, device=options.device
        )
    else:
        heads, fingerprint = varied(options)
        plan = Plan(options.kind, heads.recipe.data.shape, options.seed, seconds=options.seconds)
        events = train_alternative(plan, heads, options.out, fingerprint=fingerprint, device=options.device)
    if options.mlflow != "none":
        run_file = options.out / f"{options.kind}.mlflow-run.txt"
        events = track(events, run_file=run_file, uri=options.mlflow or None, experiment="medidiff-alternatives")
    images, said = 0, time.monotonic()
    for event in events:
        images = event.images
        if time.monotonic() - said > 60:
            print(f"{options.kind}: {images} heads", file=sys.stderr, flush=True)
            said = time.monotonic()
    return f"{options.kind}: {images} heads"


def drawn(options: argparse.Namespace) -> str:
    """Draw the heads that are not there yet, each from its own seed."""
    if options.kind in OWN:
        draw = drawer(options.prior or _card_of(options, options.kind), seed=options.seed, device=options.device)
    else:
        model = load_alternative(options.out / f"{options.kind}.safetensors")[1].to(options.device)

        def draw(number: int) -> Array:
            with seeded(options.seed + _DRAW_SEED, number, options.device):
                found: Array = model.draw().cpu().numpy()
            return found

    folder = options.out / "draws" / options.kind
    make_folder(folder)
    for number in range(options.count):
        path = folder / f"{number:04d}.safetensors"
        if not path.is_file():
            began = clock(options.device)()
            head = torch.from_numpy(draw(number))
            if not bool(head.isfinite().all()):
                raise PriorError("E-MODEL-NONFINITE", f"{options.kind} drew numbers that are not finite")
            told = {"seconds": f"{clock(options.device)() - began:.3f}"}
            write_file(path, lambda partial, head=head, told=told: save_file({"head": head}, partial, told))  # type: ignore[misc]
    return f"{options.kind}: {options.count} heads drawn"


def _card_of(options: argparse.Namespace, kind: str) -> Path:
    folder = options.out / kind
    cards = [path for path in folder.glob("*.json") if path.with_suffix(".safetensors").is_file()]
    if len(cards) != 1:
        found = f"{len(cards)} priors of kind '{kind}'"
        raise PriorError("E-PRIOR", found, wanted="one", mend="Train it first, or name a card with --prior.")
    return cards[0]


def draws_of(options: argparse.Namespace, kind: str) -> tuple[list[Array], float]:
    """The heads of a kind that were drawn, and CPU-seconds each took; none where there are none."""
    heads, seconds = [], []
    for path in sorted((options.out / "draws" / kind).glob("*.safetensors"))[: options.count]:
        with safe_open(path, framework="np") as file:
            heads.append(file.get_tensor("head"))
            seconds.append(float(file.metadata()["seconds"]))
    return heads, float(np.median(seconds)) if seconds else float("nan")


def table_of(options: argparse.Namespace) -> str:
    """Measure what was drawn; writes table, JSON and picture, and logs the figures."""
    parts = ("train", "validation", "test")
    real = {p: real_heads(options.data, options.split, options.set, part=p, cache=options.cache) for p in parts}
    heads, _ = varied(options)
    sets: dict[str, list[Array]] = {
        "real, unseen": [*real["validation"], *real["test"]],
        "training, varied": [heads.state(_VARIED + number)[0][0].cpu().numpy() for number in range(options.count)],
        "one head": [real["train"][0] for _ in range(options.count)],
    }
    told: dict[str, dict[str, Any]] = {}
    for kind in (*KINDS, *OWN):
        found, seconds = draws_of(options, kind)
        if found:
            sets[kind], told[kind] = found, cost_of(options, kind) | {"draw_seconds": seconds}
    if not told:
        raise InputError("E-NOIMAGES", "no heads were drawn", mend="Train and draw first.", file=options.out.name)
    train, _ = described_all(real["train"])
    every, _ = described_all([*real["train"], *sets["real, unseen"]])
    figures, failed, likeness = {}, {}, Likeness()
    for name, members in sets.items():
        judged, failed[name] = described_all(members)
        if len(judged) >= 4:
            figures[name] = compared(
                train,
                [dataclasses.replace(brain) for brain in judged],
                halved=every,
                resamples=options.resamples,
                halvings=options.halvings,
                seed=options.seed,
                likeness=likeness,
                shells=SHELLS,
            )
    sizes = {name: len(members) for name, members in sets.items()}
    table = overview(figures, told, sizes, failed)
    record = {
        "version": __version__,
        "costs": told,
        "heads": sizes,
        "not_describable": failed,
        "figures": {name: {f: dataclasses.asdict(m) for f, m in rows.items()} for name, rows in figures.items()},
    }
    about = {"set": options.set, "kinds": ", ".join(told), "prior": "none"}
    left = finding("alternatives", parser(), options, params=about, figures=every_figure(figures, told, sizes, failed))
    written = scoring.save(options.out, "alternatives", table=table, record=record, finding=left)
    written.append(rows_of_heads(options.out / "alternatives.png", {"real": real["train"]} | sets))
    if options.mlflow != "none":
        metrics: dict[str, float] = {}
        for name, found_figures in figures.items():
            metrics |= metric_names(found_figures, name.replace(",", "").replace(" ", "_").replace("-", "_"))
        uri = options.mlflow or f"sqlite:///{(options.out / 'mlflow.db').resolve()}"
        log_metrics("alternatives", {"count": options.count, "seed": options.seed}, metrics, artifacts=written, uri=uri)
    return table


def every_figure(
    figures: Mapping[str, Mapping[str, Measured]],
    told: Mapping[str, Mapping[str, Any]],
    sizes: Mapping[str, int],
    failed: Mapping[str, int],
) -> dict[str, dict[int, float]]:
    """Each figure of each set with its interval and floor, what its generator cost, and its curve, by name."""
    parts = ("value", "low", "high", "floor", "floor_low", "floor_high")
    measured = [
        {"kind": kind, "figure": name, **{part: getattr(m, part) for part in parts}}
        for kind, found in figures.items()
        for name, m in found.items()
    ]
    costs = [{"kind": kind, "heads": n, "failed": failed[kind], **told.get(kind, {})} for kind, n in sizes.items()]
    curves = [
        {"kind": kind, "part": part, "loss": loss, "images": images}
        for kind, cost in told.items()
        for images, _, part, loss in cost["curve"]
    ]
    names = ("heads", "failed", "weights", "drawing", "images", "seconds", "draw_seconds")
    return (
        series(measured, by=("kind", "figure"), values=parts)
        | series(costs, by=("kind",), values=names)
        | series(curves, by=("kind", "part"), values=("loss",), case="images")
    )


def cost_of(options: argparse.Namespace, kind: str) -> dict[str, Any]:
    """What a generator took to train: weights, heads, CPU-seconds, and its loss curve."""
    if kind in OWN:
        denoiser = CoarsePrior.load(options.prior or _card_of(options, kind)).denoiser
        weights = sum(p.numel() for p in denoiser.backbone.parameters())
        path = options.out / kind / "progress.json"
        progress = json.loads(path.read_text(encoding="utf-8")) if path.is_file() and not options.prior else {}
        kept = {name: progress.get(source) for name, source in (("images", "images"), ("seconds", "seconds"))}
        return {"weights": weights, "drawing": weights, **kept, "curve": progress.get("curve", [])}
    said, _ = load_alternative(options.out / f"{kind}.safetensors")
    return {name: getattr(said, name) for name in ("weights", "drawing", "images", "seconds", "curve")}


def overview(
    figures: Mapping[str, Mapping[str, Measured]],
    told: Mapping[str, Mapping[str, Any]],
    sizes: Mapping[str, int],
    failed: Mapping[str, int],
) -> str:
    """A column for each set, a row for each figure; what a generator costs stands above."""
    names = list(sizes)
    lines = ["| | floor: real against real | " + " | ".join(names) + " |", "|---|" + "--:|" * (len(names) + 1)]

    def row(title: str, floor: str, cell: Callable[[str], str]) -> None:
        lines.append(f"| {title} | {floor} | " + " | ".join(cell(name) for name in names) + " |")

    def cost(name: str, form: str, scale: float = 1.0) -> Callable[[str], str]:
        return lambda kind: f"{told[kind][name] / scale:{form}}" if told.get(kind, {}).get(name) is not None else ""

    row("weights, millions", "", cost("weights", ".1f", 1e6))
    row("of these to draw, millions", "", cost("drawing", ".1f", 1e6))
    row("heads seen in training", "", cost("images", ".0f"))
    row("CPU-seconds of training", "", cost("seconds", ".0f"))
    row("CPU-seconds a head drawn", "", cost("draw_seconds", ".2f"))
    row("heads drawn", "", lambda name: str(sizes[name]))
    row("of these without three tissues", "", lambda name: str(failed[name]))
    first = next(iter(figures.values()))
    for figure in SHELLS.figures:
        d, floor = figure.digits, first[figure.name]

        def cell(name: str, of: str = figure.name, d: int = d) -> str:
            m = figures[name][of] if name in figures else None
            return f"{m.value:.{d}f} ({m.low:.{d}f} to {m.high:.{d}f})" if m else ""

        row(figure.name, f"{floor.floor:.{d}f} ({floor.floor_low:.{d}f} to {floor.floor_high:.{d}f})", cell)
        if figure.target:
            row(
                f"{figure.name}: target {figure.target}",
                "",
                lambda name, f=figure: held(f, figures[name][f.name]) if name in figures else "",  # type: ignore[misc]
            )
    for part in sorted({point[2] for each in told.values() for point in each["curve"]}):
        row(f"loss of the {part}: first, middle, last", "", lambda name, part=part: _curve(told.get(name), part))  # type: ignore[misc]
    return "\n".join(lines) + "\n"


def _curve(told: Mapping[str, Any] | None, part: str) -> str:
    points = [point[3] for point in told["curve"] if point[2] == part] if told else []
    return f"{points[0]:.3f}, {points[len(points) // 2]:.3f}, {points[-1]:.3f}" if points else ""


def rows_of_heads(path: Path, sets: Mapping[str, Sequence[Array]]) -> Path:
    """A row of heads for each set: an axial and a coronal slice each."""
    shown: dict[str, Array] = {}
    for name, heads in sets.items():
        tiles = [picture(head) for head in heads[:_SHOWN]]
        tiles += [np.zeros_like(tiles[0])] * (_SHOWN - len(tiles))
        shown |= {f"{name} {number:02d}": tile for number, tile in enumerate(tiles, start=1)}
    return montage(path, shown, columns=_SHOWN, window=_WINDOW, inches=1.7)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; 0, or the exit code of the refusal."""
    return scoring.ended(run, parser(), arguments)


if __name__ == "__main__":
    raise SystemExit(main())

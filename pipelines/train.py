"""Train a prior from a TOML recipe: `python pipelines/train.py RECIPE OUT [--data DIR|PACK]`; again to go on.

As `medidiff train`, from Python: the MLflow run has the loss, the scores and pictures of the validation scans, the
throughput and the share of time that training waited for data, and the prior in the end. Several processes:
`torchrun --nproc-per-node 2 pipelines/train.py RECIPE OUT`.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import torch
from cohort import options

from medidiff.errors import MedidiffError
from medidiff.report import montage
from medidiff.tracking import track
from medidiff.training.processes import start_processes
from medidiff.training.run import Event, Finished, Validated, train


def draw(pictures: Mapping[str, torch.Tensor], path: Path) -> None:
    """The validation scans in a row."""
    montage(path, {name: cube.numpy() for name, cube in pictures.items()}, columns=len(pictures))


def watched(events: Iterator[Event]) -> None:
    """Say how the run goes."""
    for event in events:
        if isinstance(event, Validated):
            print(event.images, ", ".join(f"{name} {value:.4g}" for name, value in event.scores.items()), flush=True)
        elif isinstance(event, Finished):
            print(f"wrote {event.card} after {event.images} images")


def main(words: Sequence[str] | None = None) -> int:
    """Run the command; 0, or the exit code of the refusal."""
    parser = options(__doc__)
    parser.add_argument("out", type=Path, help="folder for checkpoint, prior and mlflow.db")
    parser.add_argument("--data", type=Path, help="data folder instead of the recipe's, or a pack of prepare.py")
    parser.add_argument("--cache", type=Path, help="folder that keeps prepared scans")
    parser.add_argument("--workers", type=int, default=0, help="processes that draw patches ahead")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", help="cpu or cuda")
    chosen = parser.parse_args(words)
    autocast = torch.bfloat16 if chosen.device.startswith("cuda") else None
    told = {"data": chosen.data, "cache": chosen.cache, "workers": chosen.workers, "autocast": autocast}
    try:
        with start_processes(chosen.device) as process:
            events = train(chosen.recipe, chosen.out, device=process.device, **told)
            if process.is_first:
                run_file, place = chosen.out / "mlflow-run.txt", process.device
                watched(track(events, run_file=run_file, uri=chosen.tracking, device=place, draw=draw))
            else:
                for _ in events:
                    pass
    except MedidiffError as refusal:
        print(refusal, file=sys.stderr)
        return refusal.exit_code
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

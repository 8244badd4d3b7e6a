"""What every test shares: one thread, and randomness that is spelled out."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch

if TYPE_CHECKING:
    from medidiff.diffusion.backbone import Backbone

# Several test processes, or a training run, on few cores: more threads than cores make small tensors ten times slower.
torch.set_num_threads(1)
os.environ.setdefault("OMP_NUM_THREADS", "1")  # of what this process starts: workers, kernels, commands

MOST_WORKERS = 8  # each holds one to two gigabytes


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """How many processes `-n auto` starts: one a core for folders of tests, none for files and tests named one by one.

    Each process imports everything again, which takes longer than most files do.
    """
    cores = len(os.sched_getaffinity(0))
    whole = all(Path(word).is_dir() for word in config.args)
    return min(cores, MOST_WORKERS) if whole and cores > 1 else 0


@pytest.fixture
def generator() -> torch.Generator:
    """A fresh generator with a fixed seed; nothing in the suite touches the global one."""
    return torch.Generator().manual_seed(20240229)


@pytest.fixture(scope="module")
def validation_folder() -> Iterator[None]:
    """Lets a module's tests import the scripts of ``validation`` by their names."""
    before = list(sys.path)
    sys.path.insert(0, str(Path(__file__).parents[1] / "validation"))
    yield
    sys.path[:] = before


@pytest.fixture(scope="session")
def random_backbone() -> Callable[..., Backbone]:
    """Builds a small network with random weights everywhere.

    A fresh one is silent (its last layers are zero) and would keep any law.
    """
    from medidiff.diffusion import Preconditioned
    from medidiff.diffusion.backbone import Backbone, BackboneShape

    def build(blocks: tuple[int, int, int] = (1, 1, 1), channels: tuple[int, int] = (8, 12)) -> Backbone:
        chance = torch.Generator().manual_seed(7)
        network = Backbone(Preconditioned.channels, BackboneShape(channels, blocks))
        with torch.no_grad():
            for weight in network.parameters():
                size = weight[0].numel() ** -0.5 if weight.ndim > 1 else 0.1
                weight.copy_(size * torch.randn(weight.shape, generator=chance))
        return network.eval().requires_grad_(False)

    return build


@pytest.fixture(scope="session")
def card(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The card of an untrained network: what it answers is of no matter."""
    from medidiff.prior import Card, Prior, build_denoiser

    about = Card("tiny", "untrained", "MR", ("T1w",), (4, 8), (1, 1, 1), 0.35, 0.12, (0.004, 0.25), 0, "CC0", (), "")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return str(Prior(build_denoiser(about), about).save(tmp_path_factory.mktemp("prior")))


@pytest.fixture(scope="session")
def empty_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty MLflow database; making one takes seconds, copying it does not."""
    from medidiff import tracking

    path = tmp_path_factory.mktemp("mlflow") / "mlflow.db"
    tracking._client(f"sqlite:///{path}")
    return path


@pytest.fixture
def ball_file(tmp_path: Path) -> Path:
    """A NIfTI file for the command line."""
    from medidiff.io import write
    from tests.cli_cases import ball

    return write(ball(), tmp_path / "in" / "scan.nii.gz")[0]

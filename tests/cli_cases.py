"""What the tests of the command line share: a scan, and ways to run a command that must fail or succeed."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

import medidiff.cli as cli
from medidiff.volume import Geometry, Volume

SHAPE = (20, 18, 16)


def ball(shape: tuple[int, int, int] = SHAPE, *, noise: float = 0.05, seed: int = 0) -> Volume:
    """A bright ball with a dark core on an oblique, anisotropic grid."""
    grid = np.moveaxis(np.indices(shape), 0, -1) - (np.array(shape) - 1) / 2
    distance = np.linalg.norm(grid / np.array(shape), axis=-1)
    image = np.where(distance < 0.4, np.where(distance < 0.15, 400.0, 1000.0), 0.0)
    image = np.abs(image + 1000 * noise * np.random.default_rng(seed).standard_normal(shape))
    turn = np.linalg.qr(np.array([[1.0, 0.1, 0.0], [-0.1, 1.0, 0.2], [0.0, -0.2, 1.0]]))[0] * (0.9, 1.1, 2.0)
    affine = np.eye(4)
    affine[:3, :3], affine[:3, 3] = turn, (-12.5, 7.25, 31.0)
    return Volume(image.astype(np.float32), Geometry(shape, affine), "MR")


def refused(argv: list[object], capsys, code: int) -> str:
    """The one line on stderr of a command that must fail with an exit code; nothing may be on stdout."""
    assert cli.main([str(word) for word in argv]) == code
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    assert err.startswith("medidiff: E-")
    return err


def document(argv: list[object], capsys) -> dict:
    """The JSON on stdout of a command that must succeed, with nothing before or after it."""
    assert cli.main([*(str(word) for word in argv), "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def everything(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}

"""`evaluate` at the command line."""

from __future__ import annotations

import numpy as np

import medidiff.cli as cli
from medidiff.anatomy import foreground, tissue_maximum
from medidiff.io import read, write
from medidiff.metrics import hfen, nrmse, psnr, ssim
from medidiff.volume import Geometry, Volume
from tests.cli_cases import SHAPE, ball, document, refused


def test_evaluate_is_the_metrics(ball_file, tmp_path, capsys):
    truth, image = read(ball_file).data[0], ball(seed=1).data[0]
    result = write(ball(seed=1), tmp_path / "result.nii")[0]
    scores = document(["evaluate", result, ball_file, "--input", ball_file], capsys)["scores"]
    mask = foreground(truth)
    peak = tissue_maximum(truth, mask)
    assert scores["result"] == {
        "psnr_db": psnr(image, truth, mask=mask, data_range=peak),
        "ssim": ssim(image, truth, mask=mask, data_range=peak),
        "nrmse": nrmse(image, truth, mask=mask),
        "hfen": hfen(image, truth, mask=mask),
    }
    assert scores["input"]["psnr_db"] is None  # infinite, which JSON cannot say
    assert cli.main(["evaluate", str(result), str(ball_file)]) == 0
    shown = capsys.readouterr().out
    assert f"{scores['result']['psnr_db']:.2f}" in shown
    assert f"data range {peak:.4g} (the reference's stored units)" in " ".join(shown.split())


def test_evaluate_uses_a_mask_and_refuses_another_grid(ball_file, tmp_path, capsys):
    volume = read(ball_file)
    half = np.zeros(SHAPE, np.uint8)
    half[5:12, 5:12, 5:12] = 1
    mask = write(volume.with_data(half), tmp_path / "mask.nii")[0]
    assert document(["evaluate", ball_file, ball_file, "--mask", mask], capsys)["voxels"] == 7**3
    affine = volume.geometry.affine.copy()
    for shift, fine in ((5e-4, True), (2e-3, False)):
        affine[0, 3] = volume.geometry.affine[0, 3] + shift
        moved = write(Volume(volume.data, Geometry(SHAPE, affine)), tmp_path / "moved.nii")[0]
        if fine:
            document(["evaluate", moved, ball_file], capsys)
        else:
            assert "E-GRID" in refused(["evaluate", moved, ball_file], capsys, code=4)
    small = write(ball((16, 16, 16)), tmp_path / "small.nii")[0]
    assert "E-GRID" in refused(["evaluate", small, ball_file], capsys, code=4)

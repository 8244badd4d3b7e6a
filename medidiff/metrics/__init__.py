"""How good a result is: fixed definitions that refuse to guess."""

from medidiff.metrics.fidelity import hfen, mae, nrmse, psnr, ssim

__all__ = ["hfen", "mae", "nrmse", "psnr", "ssim"]

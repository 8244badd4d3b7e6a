"""Priors that leave medidiff: as a MONAI bundle, as an MLflow pyfunc, as a `torch.export` archive.

The first two carry the code that they need. It is assembled when they are written, out of the package's own files
(`medidiff.travel.carried`), so that nothing stands twice in the repository and what travels is what was tested.
"""

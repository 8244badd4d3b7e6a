"""NIfTI in and out; the only door of nibabel."""

"""The bad (and good but odd) inputs of daily life, made by code, each with what a reader must do with it.

`ALL` is the table. A case writes its files below a folder and names the path to read; `judge` compares what a reader
did with what it must do. The generator has a ramp of its own (`build`), so that a reader cannot pass by knowing one.
"""

from badinputs import dicom_content, dicom_files, dicom_geometry, dicom_series, nifti_content, nifti_files
from badinputs.case import Case, Truth, judge, ramp_error

__all__ = ["ALL", "DICOM", "NIFTI", "Case", "Truth", "judge", "ramp_error"]

DICOM = (*dicom_geometry.CASES, *dicom_content.CASES, *dicom_series.CASES, *dicom_files.CASES)
NIFTI = (*nifti_content.CASES, *nifti_files.CASES)
ALL = (*DICOM, *NIFTI)

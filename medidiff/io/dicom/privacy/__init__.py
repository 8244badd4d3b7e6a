"""DICOM without its patient, on request."""

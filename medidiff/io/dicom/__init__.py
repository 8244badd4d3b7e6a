"""DICOM in and out; the only door of pydicom and highdicom."""

"""From the bytes of one DICOM file to the plain values of its header."""

"""DICOM out: derived series and parametric maps in the study of their source."""

"""NRRD and MetaImage headers: text in front of the voxels, read strictly."""

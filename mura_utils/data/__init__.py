"""The data: sources, images, manifest, splits, the pixel cache, the images of a run, PCA."""

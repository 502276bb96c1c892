"""The data: sources, images, manifest, splits, the pixel cache, PCA."""

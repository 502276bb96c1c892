"""Classify a folder of radiographs into one CSV file, as ``mura predict --out FILE.csv`` does."""

from mura_utils.batch.folder import predict_folder

__all__ = ["predict_folder"]

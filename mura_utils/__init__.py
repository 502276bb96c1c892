"""Helpers behind the notebook series on classifying bone radiographs."""

import os
import platform
import sys

__version__ = "0.1.0"

# Must be set before Keras is imported.
os.environ.setdefault("KERAS_BACKEND", "tensorflow")

# Must be set before TensorFlow is imported, which by itself uses oneDNN only on processors with
# AVX512. On others, large batches take up to twice as long without it (benchmarks/README.md).
if platform.machine() in ("x86_64", "AMD64"):
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")

# Else the first network takes all of a GPU's memory. Must be set before TensorFlow uses the GPU.
os.environ.setdefault("TF_FORCE_GPU_ALLOW_GROWTH", "true")

if "ipykernel" in sys.modules:
    from mura_utils.terminal import keep_tensorflow_out_of_notebooks

    keep_tensorflow_out_of_notebooks()

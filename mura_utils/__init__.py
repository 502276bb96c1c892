"""Helpers behind the notebook series on classifying bone radiographs."""

import os
import sys

__version__ = "0.1.0"

# Must be set before Keras is imported.
os.environ.setdefault("KERAS_BACKEND", "tensorflow")

if "ipykernel" in sys.modules:
    from mura_utils.terminal import keep_tensorflow_out_of_notebooks

    keep_tensorflow_out_of_notebooks()

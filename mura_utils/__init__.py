"""Helpers behind the notebook series on classifying bone radiographs."""

import os

__version__ = "0.1.0"

# Both must be set before Keras and TensorFlow are imported. Level 1 hides TensorFlow's start-up
# information and keeps its warnings.
os.environ.setdefault("KERAS_BACKEND", "tensorflow")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "1")

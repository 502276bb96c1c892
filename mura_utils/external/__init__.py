"""How good a run, or any other tool, is on images that are not the run's: ``mura evaluate``."""

from mura_utils.external.answers import Answers, read_answers
from mura_utils.external.judging import evaluate_file, evaluate_run

__all__ = ["Answers", "evaluate_file", "evaluate_run", "read_answers"]

"""Training: the task, the fit, and the checkpoint that it goes on from."""

from mura_utils.training.cost import describe_cost
from mura_utils.training.fitting import Training, describe_training, fit, watchers
from mura_utils.training.task import Task, compile_task, hyper_parameters, make_task

__all__ = [
    "Task",
    "Training",
    "compile_task",
    "describe_cost",
    "describe_training",
    "fit",
    "hyper_parameters",
    "make_task",
    "watchers",
]

"""Random search: trials of an experiment that `mura sweep` runs, judged on validation alone.

A search is a YAML file with these keys, and no others:

    name: search_fracatlas      # its trials are the runs NAME-t00, NAME-t01 …
    experiment: best_fracatlas  # what they have in common
    trials: 12                  # how many combinations of choices are drawn
    seed: 0                     # of that draw
    search:
      learning_rate: [2.0e-4, 5.0e-4]
      dropout: [[0.3], [0.5]]
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from sklearn.model_selection import ParameterGrid, ParameterSampler

from mura_utils.errors import UserError, shown
from mura_utils.experiments import experiment_file, owner, validate_parameters
from mura_utils.parameter_files import SEARCH, as_yaml, read_parameters, read_search_file
from mura_utils.paths import reading, runs_dir
from mura_utils.runs.record import is_trained, read_record

LAST = "05"
"""The notebook that a trial ends with: 06 would open the test split."""

_FIRST = "04"  # parameters of earlier notebooks would judge trials on different images

_KEYS = ("name", "experiment", "trials", "seed", SEARCH)


@dataclass(frozen=True)
class Search:
    """A search that was read and checked.

    Attributes:
        name: what the trials' names begin with.
        experiment: the file of what they have in common.
        trials: the parameters of each trial, by the name of its run; no two are alike.
    """

    name: str
    experiment: Path
    trials: dict[str, dict[str, Any]]


def read_search(path: Path) -> Search | None:
    """The search in a YAML file; None where the file is an experiment.

    Raises:
        UserError: a key is missing, unknown or of another type; a parameter is unknown, belongs to
            a notebook before 04 or after 05, or has a choice that is out of bounds or given twice;
            there are more trials than combinations.
    """
    content = read_search_file(path)
    if content is None:
        return None
    wrong = sorted(set(content) ^ set(_KEYS))
    if wrong:
        what = "unknown key" if wrong[0] in content else "there is no key"
        raise UserError(f"{path}: {what} {shown(wrong[0])}; a search has {', '.join(_KEYS)}.")
    for key, lowest in (("trials", 1), ("seed", 0)):
        if type(content[key]) is not int or not lowest <= content[key] < 2**32:
            raise UserError(f"{path}: {key} = {shown(content[key])}: give a number from {lowest}.")
    for key in ("name", "experiment"):
        if not isinstance(content[key], str):
            raise UserError(f"{path}: {key} = {shown(content[key])}: give a name.")
    experiment, space = experiment_file(content["experiment"]), content[SEARCH]
    _check(path, read_parameters(experiment), space)
    combinations = len(ParameterGrid(space))
    if content["trials"] > combinations:
        raise UserError(
            f"{path}: trials = {content['trials']}, but the choices make {combinations} "
            "combinations: give that many at most."
        )
    drawn = ParameterSampler(space, content["trials"], random_state=content["seed"])
    trials = {f"{content['name']}-t{number:02d}": trial for number, trial in enumerate(drawn)}
    return Search(content["name"], experiment, trials)


def _check(path: Path, base: Mapping[str, Any], space: Any) -> None:
    if not isinstance(space, Mapping) or not space:
        raise UserError(f"{path}: {SEARCH}: give parameters with lists of choices.")
    first = {key: choices[0] for key, choices in space.items()}
    for key, choices in space.items():
        for choice in choices:
            validate_parameters({**base, **first, key: choice}, path.name)
        if not _FIRST <= owner(key) <= LAST:
            raise UserError(
                f"{path}: {key} belongs to notebook {owner(key)}: a search takes parameters of "
                f"{_FIRST} and {LAST}, which leave the images and their split as they are."
            )
        texts = [json.dumps(choice) for choice in choices]
        for text in texts:
            if texts.count(text) > 1:
                raise UserError(f"{path}: {SEARCH}: {key} has the choice {text} twice.")


def describe_trials(search: Search) -> str:
    """The trained trials as a table, the best first, and the best one as a YAML file.

    The best has the highest validation accuracy, which means the same for all choices; of those
    alike, the lowest validation loss.
    """
    rows = {}
    for name, trial in search.trials.items():
        folder = runs_dir() / name
        if is_trained(folder):
            with reading(folder / "training.json") as described:
                rows[name] = {
                    **trial,
                    "validation accuracy": float(described["best"]["val_accuracy"]),
                    "validation loss": float(described["best"]["val_loss"]),
                    "seconds": round(float(described["seconds"])),
                }
    count = f"{len(rows)} of {len(search.trials)} trials are trained"
    if not rows:
        return f"{count}."
    by = ["validation accuracy", "validation loss"]
    table = pd.DataFrame.from_dict(rows, orient="index")
    table = table.sort_values(by, ascending=[False, True], kind="stable")
    best = str(table.index[0])
    base = read_parameters(search.experiment)
    common = validate_parameters(base, search.experiment.name).model_dump()
    as_run = read_record(runs_dir() / best)
    changed = {key: value for key, value in as_run.items() if value != common.get(key)}
    return (
        f"{count}; the test split was not looked at:\n\n{table.round(4).to_string()}\n\n"
        f"The best, {best}, as a file for experiments/:\n\n"
        + as_yaml({**base, **changed, "name": f"{search.name}_best"})
    )

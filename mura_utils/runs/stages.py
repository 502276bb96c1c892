"""The seven notebooks: what each is called, reads and writes in a run's folder."""

from __future__ import annotations

from dataclasses import dataclass

from mura_utils.errors import UserError


@dataclass(frozen=True)
class Stage:
    """One notebook of the series.

    Attributes:
        number: two digits.
        name: what follows them in the notebook's file name.
        reads: artefacts of earlier stages, besides the data set and the caches.
        writes: artefacts, which are complete when the stage is.
    """

    number: str
    name: str
    reads: tuple[str, ...]
    writes: tuple[str, ...]

    @property
    def notebook(self) -> str:
        """The notebook's file name without its ending.

        Example:
            >>> STAGES[4].notebook
            '05_modeling'
        """
        return f"{self.number}_{self.name}"


STAGES = (
    Stage("01", "data_understanding", (), ("inventory.csv", "quality.json")),
    Stage("02", "data_preprocessing", ("inventory.csv", "quality.json"), ("manifest.csv",)),
    Stage("03", "data_preparation", ("manifest.csv",), ("splits.csv", "leakage.json")),
    Stage("04", "data_transformation", ("manifest.csv", "splits.csv"), ("pca.json",)),
    Stage(
        "05",
        "modeling",
        ("manifest.csv", "splits.csv"),
        ("model.keras", "history.csv", "training.json", "frozen_features.csv"),
    ),
    Stage(
        "06",
        "evaluation",
        (
            *("manifest.csv", "splits.csv", "model.keras", "training.json"),
            *("frozen_features.csv", "quality.json", "leakage.json"),
        ),
        (
            *("predictions.csv", "metrics.json", "operating_point.json", "calibration.json"),
            *("familiarity.npz", "model_card.md", "figures/"),
        ),
    ),
    Stage(
        "07",
        "explainability",
        ("manifest.csv", "splits.csv", "model.keras", "predictions.csv"),
        ("explanations.csv", "figures/"),
    ),
)
"""All stages in order; each needs those before it."""

NOTEBOOKS = tuple(stage.notebook for stage in STAGES)

_BEFORE_THE_MODEL = STAGES[:4]

SHARED = {stage.notebook: stage.writes for stage in _BEFORE_THE_MODEL}
"""The notebooks that know nothing of the model, and what they write into a run besides themselves.

Runs of the same data have them in common; only this is ever copied from one run to another.
"""


def select_notebooks(start: str, stop: str) -> list[str]:
    """Names of the notebooks from `start` to `stop`, two digits each.

    Raises:
        UserError: there is no such notebook, or none between them.

    Example:
        >>> select_notebooks("05", "06")
        ['05_modeling', '06_evaluation']
    """
    numbers = [stage.number for stage in STAGES]
    for number in (start, stop):
        if number not in numbers:
            raise UserError(f"There is no notebook {number!r}; give one of {', '.join(numbers)}.")
    names = [stage.notebook for stage in STAGES if start <= stage.number <= stop]
    if not names:
        raise UserError(f"--from {start} comes after --to {stop}.")
    return names

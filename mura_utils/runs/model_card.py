"""The model card of a run or an ensemble: ``model_card.md``, from what the run has written.

Mitchell et al., "Model Cards for Model Reporting", FAT* 2019, doi 10.1145/3287560.3287596.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from mura_utils.data.sources import SOURCES
from mura_utils.evaluation import LEVELS, describe_counts, metric_text, metrics_table
from mura_utils.labels import ABNORMAL
from mura_utils.paths import read_json, reading, write_text
from mura_utils.runs.claim import FOR_YOU, TITLE, checklist
from mura_utils.runs.ensemble import Ensemble, Member, read_ensemble, read_member
from mura_utils.runs.record import images_of, is_ensemble

CARD = "model_card.md"

_HEADLINES = ("accuracy", "kappa", "auroc", "sensitivity", "specificity", "ppv", "npv")
_UNRECORDED = "not recorded"
_NO_EXTERNAL_TEST = "None yet: `mura evaluate --run NAME --data FOLDER` makes one."


def write_model_card(folder: Path, name: str = "") -> str:
    """Write ``model_card.md`` into a run's folder, from its metrics.json and what lies beside it.

    Args:
        folder: of a tested run, or of an ensemble; its files are complete.
        name: of the run; without one, that of the folder.

    Returns:
        The card as Markdown. The part before the heading "CLAIM 2024 checklist" is for a reader in
        a hurry.

    Raises:
        UserError: a file of the run is damaged.
    """
    card = _Card(folder, name or folder.name).text()
    write_text(folder / CARD, card)
    return card


@dataclass(frozen=True)
class _Card:
    """What a card is made of; an ensemble's data and split are those of its first member."""

    folder: Path
    name: str

    @cached_property
    def ensemble(self) -> Ensemble | None:
        return read_ensemble(self.folder) if is_ensemble(self.folder) else None

    @cached_property
    def members(self) -> tuple[Member, ...]:
        return self.ensemble.members if self.ensemble else (read_member(self.folder),)

    @cached_property
    def metrics(self) -> dict[str, Any]:
        return read_json(self.folder / "metrics.json")

    @cached_property
    def images(self) -> pd.DataFrame:
        """The manifest with the split."""
        return images_of(self.members[0].folder)

    @cached_property
    def has_patients(self) -> bool:
        """Whether some patient has several images; else the data set probably names none."""
        return self.images["patient"].nunique() < len(self.images)

    def of_data(self, file: str) -> dict[str, Any]:
        """A JSON file of the notebooks 01 to 05; empty where it is not there."""
        path = self.members[0].folder / file
        return read_json(path) if path.is_file() else {}

    # --- the card ---

    def text(self) -> str:
        """The whole card."""
        sections = {
            "What it does": self.purpose(),
            "Data": self.data(),
            "Split and leakage": self.split(),
            "Training": self.training(),
            "Results on the test split": self.results(),
            "Operating point": self.found(
                "operating_point", "None was chosen: the parameter `threshold` counts."
            ),
            "Calibration": self.found("calibration", "Not measured."),
            "Clinical use": self.found("clinical", "Not simulated."),
            "External tests": self.external(),
            "Limits": self.limits(),
            TITLE: self.claim(),
        }
        head = [
            f"# Model card of {self.name}",
            "**Not for clinical use.** This model is for research and teaching. No authority has "
            "approved it, and nobody has tested it on your patients.",
        ]
        body = [f"## {title}\n\n{content}" for title, content in sections.items()]
        return "\n\n".join([*head, *body]) + "\n"

    def purpose(self) -> str:
        classes = ", ".join(self.members[0].classes)
        return _bullets(
            {
                "question": "which body part a radiograph shows, and whether it is abnormal",
                "input": f"one gray radiograph, {self.squares()}{self.person()}",
                "output": f"a probability for each of {len(self.members[0].classes)} classes: "
                f"{classes}; P(abnormal) is the sum over the abnormal ones",
                "model": self.ensemble.title if self.ensemble else self.network(),
            }
        )

    def person(self) -> str:
        names = sorted({name for one in self.members for name in one.experiment.tabular})
        return f"; and the patient's {' and '.join(names)}, where known" if names else ""

    def squares(self) -> str:
        kinds = [f"{m.experiment.image_size} px, {m.experiment.resize}" for m in self.members]
        return "a square of " + " or ".join(dict.fromkeys(kinds))

    def network(self) -> str:
        nets = [f"{m.experiment.backbone}, head {m.experiment.head}" for m in self.members]
        return "; ".join(dict.fromkeys(nets))

    def data(self) -> str:
        counts = self.images.groupby("split").agg(
            images=("path", "size"),
            studies=("study", "nunique"),
            patients=("patient", "nunique"),
            abnormal=("abnormality", lambda kinds: int((kinds == ABNORMAL).sum())),
        )
        parts = pd.crosstab(self.images["split"], self.images["body_part"])
        order = [s for s in ("train", "validation", "test") if s in counts.index]
        facts = {"data set": self.source(), "images": self.inclusion(), "kept": self.subset()}
        return f"{_bullets(facts)}\n\n{_table(counts.join(parts).loc[order].reset_index())}"

    def source(self) -> str:
        name = self.metrics["source"]
        return SOURCES[name].title if name in SOURCES else name

    def inclusion(self) -> str:
        counts = self.of_data("quality.json").get("counts")
        if not counts:
            return f"{len(self.images):,} used; exclusions are {_UNRECORDED}"
        faults = [f"{fault} {n:,}" for fault, n in counts["excluded"].items() if n]
        return (
            f"{counts['listed']:,} listed, {len(self.images):,} used; excluded as damaged: "
            f"{', '.join(faults) or 'none'}"
        )

    def subset(self) -> str:
        experiment = self.members[0].experiment
        parts = ", ".join(experiment.body_parts) or "all body parts"
        parts += "".join(f", not {part}" for part in experiment.exclude)
        parts += "".join(
            f"; {' and '.join(merged)} as {name}" for name, merged in experiment.merge.items()
        )
        return parts + (
            "; of identical files one, none if labels differ"
            if experiment.exclude_duplicates
            else ""
        )

    def split(self) -> str:
        facts = {"assigned by": self.assignment(), "shared by train and test": self.leakage()}
        if not self.has_patients:
            facts["patients"] = (
                "every image counts as its own patient: the data set probably names none, so that "
                "leakage between splits cannot be ruled out"
            )
        return _bullets(facts)

    def assignment(self) -> str:
        experiment = self.members[0].experiment
        shares = ", ".join(f"{share:g}" for share in experiment.fractions)
        of = f" ({shares} for training, validation, test)" * (experiment.protocol == "patient")
        return f"the protocol {experiment.protocol}{of}, split_seed {experiment.split_seed}"

    def leakage(self) -> str:
        found = self.of_data("leakage.json")
        if not found:
            return _UNRECORDED
        shared = found["protocols"][found["chosen"]["protocol"]]["pairs"]["train-test"]
        return ", ".join(f"{kind.replace('_', ' ')} {n:,}" for kind, n in shared.items())

    def training(self) -> str:
        columns = {
            member.name: {
                "network": f"{member.experiment.backbone}, head {member.experiment.head}",
                "initial weights": _of_no_machine(member.experiment.weights),
                "trainable convolutions": member.experiment.unfreeze,
                "squares": f"{member.experiment.image_size} px, {member.experiment.resize}",
                **{key: getattr(member.experiment, key) for key in _RECIPE},
                "seconds": f"{member.seconds:,.0f}",
                "validation accuracy": f"{member.val_accuracy:.3f}",
                "SHA-256 of the weights": f"`{member.model_sha256[:16]}`",
            }
            for member in self.members
        }
        table = pd.DataFrame(columns).rename_axis("what").reset_index()
        recorded = self.of_data("training.json")
        facts = {
            "epochs": f"{recorded.get('epochs', _UNRECORDED)}, of which the kept one is "
            f"{recorded.get('kept_epoch', _UNRECORDED)}",
            "hardware": recorded.get("device", _UNRECORDED),
            "software": self.software(),
        }
        whose = f" (of {self.members[0].name})" if self.ensemble else ""
        return f"{_table(table)}\n\nIn `training.json`{whose}:\n\n{_bullets(facts)}"

    def software(self) -> str:
        versions = self.of_data("training.json").get("versions", {})
        return ", ".join(f"{name} {number}" for name, number in versions.items()) or _UNRECORDED

    def results(self) -> str:
        table = metrics_table({level: {} for level in LEVELS} | self.metrics)
        table = table[table["metric"].isin(_HEADLINES)]
        texts = [metric_text(row) for row in table.to_dict("records")]
        constant = self.metrics["constant_answer"]
        floor = constant["accuracy"]["image"]
        return "\n\n".join(
            [
                f"{self.tested()}. Threshold {self.metrics['threshold']:g}; {self.uncertainty()}.",
                _table(table[["level", "metric"]].assign(value=texts)),
                f"To compare: always answering {constant['label']} has the accuracy {floor:.3f}, "
                "all classes, per image. `metrics.json` holds all metrics.",
            ]
        )

    def tested(self) -> str:
        return describe_counts(self.metrics["counts"])

    def uncertainty(self) -> str:
        bootstrap = self.metrics["bootstrap"]
        return (
            f"95% intervals from {bootstrap['resamples']:,} resamples of the patients "
            "(W: Wilson's, where no resample can differ)"
        )

    def found(self, key: str, otherwise: str) -> str:
        """A section of metrics.json, or the file of that name."""
        path = self.folder / f"{key}.json"
        content = self.metrics.get(key) or (read_json(path) if path.is_file() else {})
        facts = dict(_flat(content)) if isinstance(content, Mapping) else {}
        return _bullets(facts) or otherwise

    def external(self) -> str:
        table = self.external_tests
        return _NO_EXTERNAL_TEST if table.empty else _table(table)

    @cached_property
    def external_tests(self) -> pd.DataFrame:
        """What `mura evaluate` has written below the run's folder."""
        models = [member.model_sha256 for member in self.members]
        rows = []
        for path in sorted(self.folder.glob("external/*/metrics.json")):
            with reading(path) as record:
                auroc = metric_text(record["binary_image"]["auroc"])
                whose = "this one" if record["models"] == models else "an earlier one"
                rows.append((path.parent.name, record["counts"]["images"], auroc, whose))
        return pd.DataFrame(rows, columns=["data", "images", "AUROC, per image", "model"])

    def limits(self) -> str:
        empty = self.metrics["classes_without_images"]
        lines = [
            f"Tested on {self.source()} only, on images of the same kind as in training."
            if self.external_tests.empty
            else "External tests have other images, and other ways of labeling them.",
            "" if self.has_patients else "Intervals are too narrow where images share a patient.",
            f"The test split has no image of {', '.join(empty)}." if empty else "",
            f"Fewest test images of a class: {self.rarest()}. Few images mean wide intervals.",
            "The labels count as the truth, and their errors as the model's.",
            "An image of another body part, or no radiograph at all, gets one of the classes too.",
        ]
        return "\n".join(f"- {line}" for line in lines if line)

    def rarest(self) -> str:
        tested = [row for row in self.metrics["classes"] if row["support"]]
        least = min(tested, key=lambda row: row["support"])
        return f"{least['support']:,} ({least['label']})"

    def confused(self) -> str:
        """The commonest errors."""
        labels = self.metrics["confusion"]["labels"]
        counts = np.array(self.metrics["confusion"]["counts"])
        np.fill_diagonal(counts, 0)
        worst = [np.unravel_index(i, counts.shape) for i in counts.argsort(axis=None)[::-1][:3]]
        pairs = [
            f"{labels[true]} taken for {labels[said]} {counts[true, said]:,}"
            for true, said in worst
            if counts[true, said]
        ]
        return ", ".join(pairs) or "no error on the test split"

    # --- CLAIM ---

    def claim(self) -> str:
        experiment = self.members[0].experiment
        binary = self.metrics["binary_study"]
        auroc, sensitivity, specificity = (
            metric_text(binary[metric]) for metric in ("auroc", "sensitivity", "specificity")
        )
        known = {
            7: f"{self.source()}",
            8: f"{self.inclusion()}; the data set's own criteria: {FOR_YOU}",
            9: f"converted to gray, {self.squares()}, scaling {experiment.scaling}",
            10: self.subset(),
            12: f"damaged or missing files are excluded, none is replaced; {self.inclusion()}",
            19: self.assignment(),
            20: ("patients" if self.has_patients else "images; no patients are known")
            + f"; shared by train and test: {self.leakage()}",
            21: f"{self.tested()}; why so many: {FOR_YOU}",
            22: f"{self.network()}; see Training",
            23: self.software(),
            24: f"{_of_no_machine(experiment.weights)}, seed {experiment.seed}",
            25: "see Training; all parameters are in `experiment.yaml`",
            26: f"the {experiment.keep_epoch} epoch, see Training",
            27: self.ensemble.title if self.ensemble else "one model",
            28: f"{', '.join(binary)} and others; why: {FOR_YOU}",
            29: self.uncertainty(),
            32: f"{self.tested()}, see Results",
            33: _NO_EXTERNAL_TEST if self.external_tests.empty else "see External tests",
            35: self.inclusion(),
            36: f"labels and body parts, see Data; demographics: {FOR_YOU}",
            37: f"AUROC per study {auroc}; see Results",
            38: f"per study, threshold {self.metrics['threshold']:g}: sensitivity {sensitivity}, "
            f"specificity {specificity}",
            39: f"{self.confused()}; why: {FOR_YOU}",
            40: "see Limits",
            43: f"model: {', '.join(f'`{m.model_sha256[:16]}`' for m in self.members)}; where they "
            f"can be had: {FOR_YOU}",
        }
        if (self.folder / "explanations.csv").is_file():
            known[31] = "heat-maps with scores, notebook 07"
        head = (
            "Tejani et al., CLAIM: 2024 Update, Radiology: Artificial Intelligence 2024;6(4):"
            "e240300, doi 10.1148/ryai.240300. The items are paraphrased: cite and use the "
            "original. The run fills in what it knows; the rest is yours."
        )
        return f"{head}\n\n{checklist(known)}"


_RECIPE = (
    *("augment", "batch_size", "epochs", "learning_rate", "schedule", "keep_epoch"),
    *("dropout", "l2", "weight_decay", "label_smoothing", "class_weights", "sampling"),
    *("mask_supervision", "second_look", "seed"),
)
"""Parameters of a training that a card shows."""


def _bullets(facts: Mapping[str, Any]) -> str:
    return "\n".join(f"- {what}: {said}" for what, said in facts.items())


def _table(frame: pd.DataFrame) -> str:
    """A table as Markdown, which pandas itself writes only with another package."""
    rows: Iterable[Sequence[Any]] = [frame.columns, ["--"] * frame.shape[1], *frame.to_numpy()]
    cells = ([str(cell).replace("|", "\\|") for cell in row] for row in rows)
    return "\n".join(f"| {' | '.join(row)} |" for row in cells)


def _flat(content: Mapping[str, Any], before: str = "") -> Iterator[tuple[str, Any]]:
    """Names and values of what can be said in a line; lists and tables stay in metrics.json."""
    for key, value in content.items():
        name = f"{before}{key}".replace("_", " ")
        if isinstance(value, Mapping) and {"value", "low", "high"} <= set(value):
            yield name, metric_text(value)
        elif isinstance(value, Mapping):
            yield from _flat(value, f"{name}, ")
        elif not isinstance(value, list):
            yield name, f"{value:.4g}" if isinstance(value, float) else value


def _of_no_machine(weights: str) -> str:
    return Path(weights).name

"""The 44 items of CLAIM 2024 in our own words, as a table that a run fills in as far as it can.

Tejani et al., "Checklist for Artificial Intelligence in Medical Imaging (CLAIM): 2024 Update",
Radiology: Artificial Intelligence 2024;6(4):e240300, doi 10.1148/ryai.240300.
"""

from __future__ import annotations

from collections.abc import Mapping

TITLE = "CLAIM 2024 checklist"

FOR_YOU = "**for you to fill in**"

ITEMS = (
    ("Title and abstract", "the title or abstract names the kind of AI that is studied"),
    ("Title and abstract", "a structured abstract: design, methods, results, conclusions"),
    ("Introduction", "background, intended use and clinical role"),
    ("Introduction", "aims, objectives and hypotheses"),
    ("Study design", "prospective or retrospective"),
    ("Study design", "what the study is for, such as building a model or testing one"),
    ("Data", "where the data are from"),
    ("Data", "who and what was included and excluded, and why"),
    ("Data", "how images were processed before use"),
    ("Data", "which part of the data was used, if not all"),
    ("Data", "how data were de-identified"),
    ("Data", "how missing data were handled"),
    ("Data", "how images were acquired"),
    ("Reference standard", "how the truth was defined"),
    ("Reference standard", "why it was defined so"),
    ("Reference standard", "who labeled, and with what training"),
    ("Reference standard", "how the test set was labeled"),
    ("Reference standard", "how far readers agree with each other and with themselves"),
    ("Partitions", "how data were assigned to training, validation and test"),
    ("Partitions", "at which level the partitions are disjoint"),
    ("Test data", "how large the test set was meant to be, and why"),
    ("Model", "the model: inputs, layers, outputs"),
    ("Model", "software, with versions"),
    ("Model", "how the weights were initialized"),
    ("Training", "how it was trained: augmentation, hyperparameters, duration"),
    ("Training", "how the final model was chosen"),
    ("Training", "how models were combined, if several were"),
    ("Evaluation", "which metrics, and why"),
    ("Evaluation", "how uncertainty and significance were measured"),
    ("Evaluation", "how robust the results are to changed assumptions or inputs"),
    ("Evaluation", "how the model's answers were explained"),
    ("Evaluation", "the test on internal data"),
    ("Evaluation", "the test on external data"),
    ("Evaluation", "registration, if it is a clinical trial"),
    ("Results: data", "how many patients or studies were included and excluded"),
    ("Results: data", "demographic and clinical characteristics of each partition"),
    ("Results: performance", "performance with its uncertainty"),
    ("Results: performance", "diagnostic accuracy with its precision"),
    ("Results: performance", "an analysis of the errors"),
    ("Discussion", "limitations"),
    ("Discussion", "what follows for practice"),
    ("Other", "where the full protocol or further details are"),
    ("Other", "where software, model and data can be had"),
    ("Other", "funding, and the role of the funders"),
)
"""Section and paraphrase of each item; the first is item 1."""


def checklist(known: Mapping[int, str]) -> str:
    """The checklist as a Markdown table.

    Args:
        known: what the run says to an item, by its number.

    Example:
        >>> print(checklist({7: "FracAtlas"}).splitlines()[8])
        | 7 | Data | where the data are from | FracAtlas |
    """
    lines = ["| item | section | what is asked | this run |", "|--:|:--|:--|:--|"]
    for number, (section, asked) in enumerate(ITEMS, start=1):
        said = known.get(number, FOR_YOU).replace("|", "\\|")
        lines.append(f"| {number} | {section} | {asked} | {said} |")
    return "\n".join(lines)

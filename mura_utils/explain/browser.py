"""A browser of test cases for JupyterLab; where no widgets run, there is none."""

from __future__ import annotations

import io
import os
from collections.abc import Sequence
from dataclasses import dataclass, field

import ipywidgets as widgets
import keras
import numpy as np
import pandas as pd
from PIL import Image
from scipy.ndimage import binary_erosion

from mura_utils.data.dataset import Images
from mura_utils.errors import UserError
from mura_utils.explain.methods.registry import METHODS, methods_of
from mura_utils.explain.targets import Target, class_target, contrast_target
from mura_utils.labels import classes_of, is_abnormal, p_abnormal, probabilities_of
from mura_utils.network.tabular import at_values
from mura_utils.plotting.heatmaps import overlay
from mura_utils.runs.record import HELD

TARGETS = {"abnormal - normal": contrast_target, "predicted class": class_target}
"""What a map of the browser may explain: the contrast within the **predicted** body part, or the
logit of the predicted class."""

_SHOWN = 448  # pixels: side of the browser's image
_OUTLINE = (86, 180, 233)  # as in the figures


@dataclass(eq=False)
class Cases:
    """The test images of a run with their answers, and heat-maps made when they are asked for.

    Attributes:
        model: as returned by `network.build.load_model`.
        images: the admitted images of the run.
        predictions: as in predictions.csv; rows of other splits than test are left out.
        rows: one row a test image, errors and right answers as they come: path, label, predicted,
            sure (the probability of the predicted class), p_abnormal, kind (see `kind_of`), and row
            (the position in `images`).
    """

    model: keras.Model
    images: Images
    predictions: pd.DataFrame
    rows: pd.DataFrame = field(init=False)
    _maps: dict[tuple[int, str, str], np.ndarray] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        """Join the answers with the images.

        Raises:
            UserError: no test image has an answer.
        """
        positions = self.images.rows[["path"]].reset_index(names="row")
        tested = self.predictions[self.predictions["split"] == "test"]
        tested = positions.merge(tested, on="path")
        if tested.empty:
            raise UserError("No test image of this run has a prediction: run 06_evaluation again.")
        rows = tested[["row", "path", "label", "predicted"]].copy()
        rows["sure"] = probabilities_of(tested).max(axis=1)
        rows["p_abnormal"] = p_abnormal(tested)
        rows["kind"] = [*map(kind_of, rows["label"], rows["predicted"])]
        self.rows = rows

    def __len__(self) -> int:
        """How many test images there are."""
        return len(self.rows)

    def radiograph(self, case: int) -> np.ndarray:
        """The image of a case as the network sees it: (S, S) uint8."""
        return self.images.pixels[self.rows["row"].iloc[case]]

    def mask(self, case: int) -> np.ndarray | None:
        """Where the finding is: (S, S) bool; None where there is none, or none is known."""
        mask = self.images.mask(self.rows["path"].iloc[case])
        return mask if mask is not None and mask.any() else None

    def heatmaps(self, cases: Sequence[int], method: str, target: str) -> np.ndarray:
        """The maps of some cases, (n, S, S) in [0, 1]; each is computed once.

        Args:
            cases: positions in `rows`.
            method: a name in `METHODS`.
            target: a name in `TARGETS`.

        Raises:
            UserError: the model lacks a class of the contrast.
        """
        missing = [case for case in cases if (case, method, target) not in self._maps]
        if missing:
            classes = classes_of(self.predictions)
            predicted = [classes.index(self.rows["predicted"].iloc[case]) for case in missing]
            batch = np.stack([self.radiograph(case) for case in missing])[..., None]
            asked = TARGETS[target](predicted, classes)
            found = self._compute(method, batch.astype(np.float32), asked, missing)
            for case, heat in zip(missing, found, strict=True):
                self._maps[case, method, target] = heat
        return np.stack([self._maps[case, method, target] for case in cases])

    def _compute(
        self, method: str, batch: np.ndarray, asked: Target, cases: Sequence[int]
    ) -> np.ndarray:
        """The maps of some cases, each at the age and the sex of its own patient."""
        if self.images.tabular is None:
            return METHODS[method](self.model, batch, asked)
        values = self.images.tabular.numbers[self.rows["row"].iloc[cases]]
        models = [at_values(self.model, each) for each in values]
        alone = [slice(number, number + 1) for number in range(len(models))]
        maps = [
            METHODS[method](model, batch[one], Target(asked.weights[one]))
            for model, one in zip(models, alone, strict=True)
        ]
        return np.concatenate(maps)

    def title(self, case: int) -> str:
        """One line of a case: its kind, its label, the answer."""
        row = self.rows.iloc[case]
        return f"{row['kind']}: {row['label']}, predicted {row['predicted']} ({row['sure']:.2f})"


def kind_of(label: str, predicted: str) -> str:
    """True or false positive or negative, by the abnormality, or "wrong body part".

    The last one has the abnormality right.

    Example:
        >>> kind_of("Abnormal-HAND", "Normal-HAND"), kind_of("Normal-HAND", "Normal-WRIST")
        ('false negative', 'wrong body part')
    """
    if label == predicted:
        return "true positive" if is_abnormal(label) else "true negative"
    if is_abnormal(label) == is_abnormal(predicted):
        return "wrong body part"
    return "false negative" if is_abnormal(label) else "false positive"


class Browser:
    """Widgets that show one case at a time; `box` holds them all.

    Attributes:
        cases: what is browsed.
        case: position of the case shown.
        method: name of the method.
        target: name of the target.
        opacity: of the heat-map, 0..1.
        outline: whether the true finding is outlined.
        picture: the image, a PNG.
        text: what is shown, or why there is no map.
        previous, following, next_error: buttons; each goes round at the end.
        box: all of them.
    """

    def __init__(self, cases: Cases) -> None:
        """Show the first error, or the first case where there is none."""
        self.cases = cases
        self._errors = np.flatnonzero(~cases.rows["kind"].str.startswith("true"))
        start = int(self._errors[0]) if len(self._errors) else 0
        titles = [(f"{n + 1}. {cases.title(n)}", n) for n in range(len(cases))]
        methods = methods_of(cases.model)
        wide = widgets.Layout(width="42em")
        self.case = widgets.Dropdown(options=titles, value=start, description="case", layout=wide)
        chosen = "layer_cam" if "layer_cam" in methods else methods[0]
        self.method = widgets.Dropdown(options=methods, value=chosen, description="method")
        self.target = widgets.Dropdown(options=[*TARGETS], description="target")
        self.opacity = widgets.FloatSlider(0.8, min=0, max=1, step=0.1, description="opacity")
        self.outline = widgets.Checkbox(False, description="outline the finding")
        self.previous = widgets.Button(description="previous")
        self.following = widgets.Button(description="next")
        self.next_error = widgets.Button(description="next error", disabled=not len(self._errors))
        self.picture = widgets.Image(format="png", width=_SHOWN, height=_SHOWN)
        self.text = widgets.Label()
        self.previous.on_click(lambda _: self._go(self.case.value - 1))
        self.following.on_click(lambda _: self._go(self.case.value + 1))
        self.next_error.on_click(lambda _: self._go(self._error_after(self.case.value)))
        for each in (self.case, self.method, self.target, self.opacity, self.outline):
            each.observe(self._draw, "value")
        buttons = widgets.HBox([self.previous, self.following, self.next_error])
        look = [self.method, self.target, self.opacity, self.outline, self.text]
        below = widgets.HBox([self.picture, widgets.VBox(look)])
        self.box = widgets.VBox([self.case, buttons, below])
        self._draw()

    def _go(self, case: int) -> None:
        self.case.value = case % len(self.cases)

    def _error_after(self, case: int) -> int:
        later = self._errors[self._errors > case]
        return int(later[0] if len(later) else self._errors[0])

    def _draw(self, _change: object = None) -> None:
        case, method = self.case.value, self.method.value
        self.text.value = f"{method}: computing …"
        try:
            (heat,) = self.cases.heatmaps([case], method, self.target.value)
            self.text.value = "" if heat.any() else f"{method} gives an empty map."
        except UserError as error:
            heat = np.zeros_like(self.cases.radiograph(case), np.float32)
            self.text.value = str(error)
        mask = self.cases.mask(case) if self.outline.value else None
        if self.outline.value and mask is None:
            self.text.value = f"No finding is marked here. {self.text.value}".strip()
        shown = picture(self.cases.radiograph(case), heat, self.opacity.value, mask)
        self.picture.value = to_png(shown)


def picture(
    image: np.ndarray, heat: np.ndarray, opacity: float, mask: np.ndarray | None = None
) -> np.ndarray:
    """A radiograph under a heat-map, enlarged, with the outline of a mask.

    Args:
        image: (S, S) uint8.
        heat: (S, S) in [0, 1].
        opacity: of the colors, 0..1.
        mask: (S, S) bool, or None.

    Returns:
        (448, 448, 3) uint8.
    """
    gray = np.asarray(image, float)[..., None]
    mixed = np.rint(gray + opacity * (overlay(image, heat) - gray)).astype(np.uint8)
    square = (_SHOWN, _SHOWN)
    large = np.array(Image.fromarray(mixed).resize(square, Image.Resampling.BILINEAR))
    if mask is not None:
        inside = np.asarray(Image.fromarray(mask).resize(square))
        large[inside & ~binary_erosion(inside, iterations=2)] = _OUTLINE
    return large


def to_png(pixels: np.ndarray) -> bytes:
    """The bytes of a PNG of (H, W, 3) uint8."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "png")
    return file.getvalue()


def widgets_run() -> bool:
    """Whether a person sees this kernel's widgets: a notebook of a Jupyter server started it.

    A notebook that papermill, nbconvert or nbval executes has no front end; there, widgets would
    only leave their state in the file.
    """
    return "JPY_SESSION_NAME" in os.environ and HELD not in os.environ


def browse(cases: Cases) -> widgets.VBox | None:
    """The browser, to be the last line of a cell; None where no widgets run."""
    return Browser(cases).box if widgets_run() else None

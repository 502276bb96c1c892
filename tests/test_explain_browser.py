"""The browser of cases, driven as a person would: values are set, and the image is looked at."""

import io
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from small import CLASSES, experiment, vivid

from mura_utils.data.dataset import Images
from mura_utils.errors import UserError
from mura_utils.explain import METHODS, browser, class_target, contrast_target
from mura_utils.explain.browser import Browser, Cases, browse, kind_of, picture
from mura_utils.plotting.heatmaps import overlay
from mura_utils.runs.record import HELD

ABNORMAL, NORMAL = CLASSES
ANSWERS = [(ABNORMAL, ABNORMAL), (NORMAL, NORMAL), (ABNORMAL, NORMAL), (NORMAL, ABNORMAL)]


class Marked(Images):
    """Images whose first abnormal one has a mask."""

    def mask(self, path: str) -> np.ndarray | None:
        if path != "1.png":
            return None
        mask = np.zeros((self.size, self.size), bool)
        mask[8:16, 4:20] = True
        return mask


def predictions() -> pd.DataFrame:
    """Of a training image and four test images; the one without an answer is not browsed."""
    labels, predicted = zip((ABNORMAL, ABNORMAL), *ANSWERS, strict=True)
    sure = np.array([0.9, 0.9, 0.8, 0.7, 0.6])
    p = np.where(np.array(predicted) == ABNORMAL, sure, 1 - sure)
    return pd.DataFrame(
        {
            "path": [f"{row}.png" for row in range(5)],
            "split": ["validation", *["test"] * 4],
            "label": labels,
            "predicted": predicted,
            f"p:{ABNORMAL}": p,
            f"p:{NORMAL}": 1 - p,
        }
    )


@pytest.fixture(scope="module")
def cases() -> Cases:
    rng = np.random.default_rng(0)
    rows = pd.DataFrame({"path": [f"{row}.png" for row in range(6)]})
    images = Marked(Path("radiographs"), rows, rng.integers(0, 256, (6, 32, 32), np.uint8))
    return Cases(vivid(experiment(dropout=[0.0])), images, predictions())


@pytest.fixture
def opened(cases) -> Browser:
    return Browser(cases)


def seen(opened: Browser) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(opened.picture.value)))


def test_cases_are_the_test_images_with_an_answer(cases):
    assert len(cases) == 4
    assert list(cases.rows["row"]) == [1, 2, 3, 4]
    assert list(cases.rows["kind"]) == [
        "true positive",
        "true negative",
        "false negative",
        "false positive",
    ]
    assert list(cases.rows["sure"]) == pytest.approx([0.9, 0.8, 0.7, 0.6])
    assert np.array_equal(cases.radiograph(2), cases.images.pixels[3])
    assert kind_of("Abnormal-HAND", "Abnormal-WRIST") == "wrong body part"


def test_a_run_without_answers_for_its_test_images_is_refused(cases):
    with pytest.raises(UserError, match="No test image of this run has a prediction"):
        Cases(cases.model, cases.images, predictions().head(1))


@pytest.mark.parametrize(
    ("target", "make"), [("abnormal - normal", contrast_target), ("predicted class", class_target)]
)
def test_a_map_is_the_methods_own_and_made_once(cases, monkeypatch, target, make):
    expected = METHODS["saliency"](
        cases.model, cases.images.pixels[3:4, ..., None].astype("float32"), make([1], CLASSES)
    )
    assert np.array_equal(cases.heatmaps([2], "saliency", target), expected)
    cases.heatmaps([0, 2], "saliency", target)
    monkeypatch.setitem(METHODS, "saliency", None)  # another call would fail
    found = cases.heatmaps([2, 0, 2], "saliency", target)
    assert np.array_equal(found[0], expected[0]) and np.array_equal(found[2], expected[0])
    assert not np.array_equal(found[1], expected[0])


def test_it_opens_at_the_first_error_and_shows_its_map(opened, cases):
    assert opened.case.value == 2
    (heat,) = cases.heatmaps([2], "layer_cam", "abnormal - normal")
    assert np.array_equal(seen(opened), picture(cases.radiograph(2), heat, 0.8))


def test_buttons_go_to_the_next_case_and_the_next_error_and_round(opened):
    visited = []
    for button in (opened.next_error, opened.next_error, opened.following, opened.following):
        button.click()
        visited.append(opened.case.value)
    opened.previous.click()
    opened.previous.click()
    opened.previous.click()
    assert (*visited, opened.case.value) == (3, 2, 3, 0, 1)


@pytest.mark.parametrize(
    ("widget", "value"),
    [("case", 0), ("method", "saliency"), ("target", "predicted class"), ("opacity", 0.3)],
)
def test_what_is_chosen_changes_the_image(opened, widget, value):
    before = seen(opened)
    getattr(opened, widget).value = value
    assert not np.array_equal(before, seen(opened))
    assert opened.text.value == ""


def test_without_opacity_the_radiograph_is_as_it_is(opened, cases):
    opened.opacity.value = 0
    expected = Image.fromarray(cases.radiograph(2)).convert("RGB").resize((448, 448), 2)
    assert np.array_equal(seen(opened), np.asarray(expected))
    image, heat = np.full((8, 8), 90, np.uint8), np.eye(8, dtype=np.float32)
    full = Image.fromarray(overlay(image, heat)).resize((448, 448), 2)
    assert np.array_equal(picture(image, heat, 1), np.asarray(full))


def test_the_finding_is_outlined_where_it_is_known(opened):
    opened.case.value = 0
    without = seen(opened)
    opened.outline.value = True
    changed = (seen(opened) != without).any(axis=-1)
    rows, columns = np.flatnonzero(changed.any(axis=1)), np.flatnonzero(changed.any(axis=0))
    assert (rows[0], rows[-1] + 1) == (8 * 14, 16 * 14)
    assert (columns[0], columns[-1] + 1) == (4 * 14, 20 * 14)
    assert not changed[10 * 14, 10 * 14], "only the border"
    opened.case.value = 1
    assert opened.text.value == "No finding is marked here."


def test_a_map_that_cannot_be_made_is_said(opened, monkeypatch):
    def refuse(*_):
        raise UserError("The model has no class Normal-HAND.")

    monkeypatch.setitem(METHODS, "smooth_grad", refuse)
    opened.method.value = "smooth_grad"
    assert opened.text.value == "The model has no class Normal-HAND."
    opened.opacity.value = 0.5
    assert seen(opened).std(axis=-1).max() == 0, "gray: no heat"


@pytest.mark.parametrize(
    ("environment", "shown"),
    [({}, False), ({"JPY_SESSION_NAME": "x"}, True), ({"JPY_SESSION_NAME": "x", HELD: "x"}, False)],
)
def test_widgets_are_shown_only_where_a_person_sees_them(cases, monkeypatch, environment, shown):
    for name in ("JPY_SESSION_NAME", HELD):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert (browse(cases) is not None) == shown == browser.widgets_run()

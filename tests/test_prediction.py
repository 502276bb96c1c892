from __future__ import annotations

import os
import shutil
import unicodedata
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from dicoms import dataset, to_bytes
from PIL import Image
from small import CLASSES as TWO_CLASSES
from small import experiment, vivid

from mura_utils.data.images import ImageFault
from mura_utils.data.squares import resize
from mura_utils.errors import UserError
from mura_utils.evaluation.familiarity import Familiarity, fit_familiarity, write_familiarity
from mura_utils.experiments import save_experiment, validate_parameters
from mura_utils.explain import attention_maps
from mura_utils.frozen import pooled_layers, with_pooled
from mura_utils.network.build import build_model
from mura_utils.paths import runs_dir, write_json
from mura_utils.phantoms.dataset import draw_case
from mura_utils.plotting.heatmaps import overlay
from mura_utils.prediction import _maps, _targets, predict_images
from mura_utils.predictor import View, _unfamiliar
from mura_utils.runs.record import write_completed
from mura_utils.runs.stages import NOTEBOOKS

CLASSES = [f"{kind}-{part}" for kind in ("Abnormal", "Normal") for part in ("HAND", "WRIST")]


@pytest.fixture
def run():
    """A run with an untrained model of four classes."""
    folder = runs_dir() / "some"
    folder.mkdir(parents=True)
    experiment = validate_parameters({"image_size": 64}, "test")
    build_model(experiment, CLASSES).save(folder / "model.keras")
    write_json(folder / "training.json", {"classes": CLASSES})
    write_completed(folder, list(NOTEBOOKS[:5]))
    return "some"


@pytest.fixture
def radiograph():
    return draw_case(np.random.default_rng(0), "HAND", "fracture", abnormal=False)[0]


def names(images, out):
    return [path.name for path in _targets([Path(image) for image in images], out)]


def test_each_image_gets_probabilities_remarks_and_an_overlay(run, radiograph, tmp_path):
    paths = [tmp_path / "a" / "image1.png", tmp_path / "b" / "image1.png", tmp_path / "hand.jpg"]
    for path in paths:
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(radiograph).save(path, quality=95)
    exif = Image.Exif()
    exif[0x0112] = 6
    paths.append(tmp_path / "odd.png")
    Image.fromarray(255 - radiograph).save(paths[-1], exif=exif)
    out = tmp_path / "out"
    results = predict_images(str(runs_dir() / run), paths, out)
    first, second, jpeg, odd = results
    assert list(first["probabilities"]) == CLASSES
    assert sum(first["probabilities"].values()) == pytest.approx(1, abs=1e-4)
    abnormal = first["probabilities"]["Abnormal-HAND"] + first["probabilities"]["Abnormal-WRIST"]
    assert first["p_abnormal"] == pytest.approx(abnormal)
    assert first["label"] == max(CLASSES, key=first["probabilities"].get)
    assert first["probabilities"] == second["probabilities"]
    assert jpeg["p_abnormal"] == pytest.approx(first["p_abnormal"], abs=0.05)
    assert first["remarks"] == second["remarks"] == jpeg["remarks"] == []
    assert [remark["kind"] for remark in odd["remarks"]] == ["exif-orientation", "inverted"]
    assert odd["remarks"][0]["detail"] == "EXIF orientation 6 is not applied"
    overlays = [Path(result["overlay"]) for result in results]
    assert [Image.open(path).mode for path in overlays] == ["RGB"] * 4
    stems = ["image1", "image1_2", "hand", "odd"]
    assert [path.name for path in overlays] == [f"{stem}_overlay.png" for stem in stems]
    # A second call replaces them, but never one that is among its images.
    assert _targets(paths, out) == overlays
    expected = ["image1_2_overlay.png", "image1_overlay_overlay.png"]
    assert names([paths[0], overlays[0]], out) == expected
    link = tmp_path / "link.png"
    link.symlink_to(overlays[0])
    assert names([paths[0], link], out) == ["image1_2_overlay.png", "link_overlay.png"]


def test_the_overlay_is_the_taught_map_where_masks_taught_one(radiograph, tmp_path):
    gray = tmp_path / "hand.png"
    Image.fromarray(radiograph).save(gray)
    shown = {}
    for taught in (1.0, 0.0):
        settings = experiment(
            name=f"taught-{taught}", head="pooled", dropout=[0.0], mask_supervision=taught
        )
        folder = runs_dir() / settings.name
        save_experiment(settings, folder / "experiment.yaml")
        model = vivid(settings)
        model.save(folder / "model.keras")
        write_json(folder / "training.json", {"classes": TWO_CLASSES})
        write_completed(folder, list(NOTEBOOKS[:5]))
        (result,) = predict_images(settings.name, [gray], tmp_path / settings.name)
        shown[result["heatmap"]] = np.asarray(Image.open(result["overlay"]))
    square = resize(np.asarray(Image.open(gray)), 32)
    (heat,) = attention_maps(model, square[None, ..., None].astype("float32"))[:, 0]
    taught, contrast = shown.values()
    assert list(shown) == ["attention taught by masks", "LayerCAM of abnormal - normal"]
    assert np.abs(taught.astype(int) - overlay(square, heat)).max() <= 1
    assert np.abs(taught.astype(int) - contrast).max() > 10, "the test could not fail"

    (chosen,) = predict_images(settings.name, [gray], tmp_path / "chosen", "attention_0")
    assert chosen["heatmap"] == "attention_0"
    assert np.array_equal(np.asarray(Image.open(chosen["overlay"])), overlay(square, heat))
    with pytest.raises(UserError, match=r"no map 'attention_1' of .*: give --map one of att"):
        predict_images(settings.name, [gray], tmp_path / "refused", "attention_1")
    assert not list((tmp_path).glob("refused/*"))


def test_dicom_is_answered_as_the_png_of_its_pixels(run, radiograph, tmp_path):
    pytest.importorskip("pydicom", minversion="3")
    paths = [tmp_path / "image.png", tmp_path / "1.2.840.4711", tmp_path / "1.2.840.4712"]
    Image.fromarray(radiograph).save(paths[0])
    paths[1].write_bytes(to_bytes(dataset(255 - radiograph, "MONOCHROME1")))
    paths[2].write_bytes(
        to_bytes(dataset(np.stack([radiograph] * 2), WindowWidth=0, WindowCenter=0))
    )
    png, *others = predict_images(run, paths, tmp_path / "out")
    for dicom, path in zip(others, paths[1:], strict=True):
        assert dicom["probabilities"] == png["probabilities"]
        assert Path(dicom["overlay"]).name == f"{path.name}_overlay.png"
        assert "DOE" not in str(dicom)
    assert others[0]["remarks"] == []
    assert [remark["kind"] for remark in others[1]["remarks"]] == ["several-frames", "window"]


def test_nothing_is_loaded_or_written_when_anything_is_refused(
    run, radiograph, tmp_path, monkeypatch
):
    with pytest.raises(UserError, match="no trained run 'other'"):
        predict_images("other", [], tmp_path)
    monkeypatch.setattr("mura_utils.network.build.load_model", lambda path: pytest.fail("loaded"))
    good, bad = tmp_path / "good.png", tmp_path / "bad.png"
    Image.fromarray(radiograph).save(good)
    bad.write_text("no image")
    with pytest.raises(ImageFault, match=r"bad\.png"):
        predict_images(run, [good, bad], tmp_path / "out")
    with pytest.raises(ImageFault, match=r"nowhere\.png"):
        predict_images(run, [good, tmp_path / "nowhere.png"], tmp_path / "out")
    with pytest.raises(UserError, match=r"bad\.png .* Nor can .*nowhere\.png be predicted\."):
        predict_images(run, [bad, good, tmp_path / "nowhere.png"], tmp_path / "out")
    Image.new("L", (64, 64), 90).save(bad)
    with pytest.raises(ImageFault, match=r"bad\.png .*\(uniform\)"):
        predict_images(run, [good, bad], tmp_path / "out")
    assert not (tmp_path / "out").exists()
    (tmp_path / "out").write_text("mine")
    for out in ("out", "out/below"):
        with pytest.raises(UserError, match=rf"^{tmp_path / 'out'} is not a folder; --out names"):
            predict_images(run, [good], tmp_path / out)
    assert (tmp_path / "out").read_text() == "mine"


def test_names_of_overlays_differ_in_more_than_case(tmp_path):
    images = ["ok.png", "ok.PNG", "ok_2.png", "OK.jpg", "a/ok.png"]
    expected = ["ok", "ok_2", "ok_2_2", "OK_3", "ok_4"]
    assert names(images, tmp_path) == [f"{stem}_overlay.png" for stem in expected]
    accents = [unicodedata.normalize(form, "é.png") for form in ("NFC", "NFD")]
    assert len({unicodedata.normalize("NFC", name) for name in names(accents, tmp_path)}) == 2


def test_an_image_given_twice_has_two_overlays(tmp_path):
    assert names(["a.png", "a.png"], tmp_path) == ["a_overlay.png", "a_2_overlay.png"]


def test_names_of_overlays_fit_into_a_file_system(tmp_path):
    for name in names([f"{'a' * 250}.png", f"{'é' * 125}.png", f"{'a' * 249}b.png"], tmp_path):
        (tmp_path / f".{name}.01234567.tmp").write_text("")


def test_nothing_foreign_is_overwritten(radiograph, tmp_path):
    image, taken = tmp_path / "x.png", tmp_path / "x_overlay.png"
    assert names([image, taken], tmp_path) == ["x_2_overlay.png", "x_overlay_overlay.png"]
    Image.fromarray(radiograph).save(taken)
    (tmp_path / "x_2_overlay.png").symlink_to("nowhere")
    (tmp_path / "x_3_overlay.png").mkdir()
    os.mkfifo(tmp_path / "x_4_overlay.png")
    assert names([image], tmp_path) == ["x_5_overlay.png"]


# --- what notebook 06 has chosen ----------------------------------------------------------------


@pytest.fixture
def tested(radiograph, tmp_path):
    """Predict one radiograph with a run whose notebook 06 has written these files."""
    image = tmp_path / "hand.png"
    Image.fromarray(radiograph).save(image)

    def predict(complete: int = 6, **files) -> dict:
        folder = runs_dir() / "tested"
        shutil.rmtree(folder, ignore_errors=True)
        settings = experiment(name="tested", threshold=0.1)
        save_experiment(settings, folder / "experiment.yaml")
        vivid(settings).save(folder / "model.keras")
        write_json(folder / "training.json", {"classes": TWO_CLASSES})
        if "familiar" in files:
            write_familiarity(folder / "familiarity.npz", files.pop("familiar"))
        for name, content in files.items():
            write_json(folder / f"{name}.json", content)
        write_completed(folder, list(NOTEBOOKS[:complete]))
        (result,) = predict_images("tested", [image], tmp_path / "out")
        return result

    return predict


def test_the_threshold_is_the_operating_points_else_the_runs(tested):
    result = tested()
    p = result["p_abnormal"]
    assert 0.1 < p < 0.9, "the test could not fail"
    stated = {key: result[key] for key in ("called", "threshold", "threshold_from")}
    assert stated == {"called": "abnormal", "threshold": 0.1, "threshold_from": "experiment.yaml"}
    for threshold, called in ((p - 1e-3, "abnormal"), (p + 1e-3, "normal")):
        result = tested(operating_point={"rule": "youden", "threshold": threshold})
        assert (result["called"], result["threshold"]) == (called, threshold)
        assert result["threshold_from"] == "operating_point.json"
        assert result["p_abnormal"] == p
    undefined = tested(operating_point={"rule": "specificity", "threshold": None})
    assert undefined["threshold_from"] == "experiment.yaml"
    stale = tested(complete=5, operating_point={"threshold": 0.99})
    assert stale["threshold_from"] == "experiment.yaml", "06 has been started again since"


def test_the_temperature_gives_a_second_probability_and_leaves_the_first(tested):
    plain = tested()
    p = plain["p_abnormal"]
    assert plain["p_abnormal_calibrated"] is None
    warm = tested(calibration={"temperature": 2.0, "split": "validation"})
    assert warm["p_abnormal"] == p
    expected = np.sqrt(p) / (np.sqrt(p) + np.sqrt(1 - p))
    assert warm["p_abnormal_calibrated"] == pytest.approx(expected, abs=1e-5)
    assert abs(expected - p) > 0.01, "the test could not fail"


@pytest.mark.parametrize(
    ("name", "content"), [("operating_point", {"rule": "youden"}), ("calibration", [1])]
)
def test_a_damaged_choice_is_one_sentence_with_its_file(tested, name, content):
    with pytest.raises(UserError, match=rf"{name}\.json does not hold .*run what wrote it again"):
        tested(**{name: content})


@pytest.mark.parametrize(("limit", "unfamiliar"), [(1e-3, True), (1e9, False)])
def test_an_image_above_the_limit_is_remarked_on(tested, tmp_path, limit, unfamiliar):
    assert tested()["unfamiliar"] is None
    settings = experiment(threshold=0.1)
    model = vivid(settings)
    layers = pooled_layers(model, settings.backbone)
    square = resize(np.asarray(Image.open(tmp_path / "hand.png")), 32)[None, ..., None]
    (_, features) = with_pooled(model, layers).predict(square, verbose=0)
    rng = np.random.default_rng(0)
    train, validation = features * rng.uniform(0.9, 1.1, (2, 30, features.shape[1]))
    familiar = replace(fit_familiarity(layers, train, validation), limit=limit)

    result = tested(familiar=familiar)
    assert result["unfamiliar"] is unfamiliar
    assert result["probabilities"] == tested()["probabilities"]
    (score,) = familiar.scores(features)
    remarks = {remark["kind"]: remark["detail"] for remark in result["remarks"]}
    expected = (
        f"this image is unlike the run's training images (score {score:.2f}, limit 0.00): "
        "do not read its label"
    )
    assert remarks == ({"unfamiliar": expected} if unfamiliar else {})
    assert tested(complete=5, familiar=familiar)["unfamiliar"] is None


def test_heat_of_another_shape_of_the_image_is_not_drawn_on_it(monkeypatch):
    gray = np.zeros((100, 200), np.uint8)
    gray[:20, :20] = 255
    squares = {how: resize(gray, size, how) for how, size in (("pad", 64), ("stretch", 32))}
    views = [
        View(SimpleNamespace(name=how), square[np.newaxis, ..., np.newaxis] * 1.0, 1, None, how)
        for how, square in squares.items()
    ]
    of = SimpleNamespace(taught=False, classes=CLASSES)
    predictor = SimpleNamespace(views=lambda _: views, networks=of)
    monkeypatch.setattr("mura_utils.explain.layer_cam", lambda _, batch, __: batch[..., 0] / 255)
    shown, heat, share = _maps(predictor, [], np.eye(1, len(CLASSES)), None)
    assert share == "; of 1 of 2 networks, with resize = pad"
    np.testing.assert_allclose(heat, shown / 255)
    np.testing.assert_array_equal(shown[0], squares["pad"])


@pytest.mark.parametrize(
    ("scores", "why"),
    [
        ([[3.0]], "score 3.00, limit 2.00"),
        ([[1.0]], ""),
        ([[3.0], [1.0]], "so find 1 of 2 networks"),
        ([[3.0], [1.0], [1.0]], ""),
        ([[3.0], [1.0], [9.0]], "so find 2 of 3 networks"),
    ],
)
def test_half_of_the_networks_make_an_image_unfamiliar(scores, why):
    known = [Familiarity(["conv"], *np.ones((4, 1)), limit=2.0)] * len(scores)
    assert _unfamiliar(known, np.array(scores)) == [why]

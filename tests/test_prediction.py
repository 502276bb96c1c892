from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from mura_utils.errors import UserError
from mura_utils.experiments import validate_parameters
from mura_utils.images import ImageFault
from mura_utils.models import build_model
from mura_utils.paths import runs_dir, write_json
from mura_utils.prediction import predict_images
from mura_utils.sources.phantom import draw_radiograph

CLASSES = [f"{kind}-{part}" for kind in ("Abnormal", "Normal") for part in ("HAND", "WRIST")]


@pytest.fixture
def run():
    """A run with an untrained model of four classes."""
    folder = runs_dir() / "some"
    folder.mkdir(parents=True)
    experiment = validate_parameters({"image_size": 64}, "test")
    build_model(experiment, CLASSES).save(folder / "model.keras")
    write_json(folder / "training.json", {"classes": CLASSES})
    return "some"


@pytest.fixture
def radiograph():
    return draw_radiograph(np.random.default_rng(0), "HAND")[0]


def test_png_and_jpeg_give_probabilities_and_an_overlay_each(run, radiograph, tmp_path):
    paths = [tmp_path / "a" / "image1.png", tmp_path / "b" / "image1.png", tmp_path / "hand.jpg"]
    for path in paths:
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(radiograph).save(path, quality=95)
    results = predict_images(run, paths, tmp_path / "out")
    first, second, jpeg = results
    assert list(first["probabilities"]) == CLASSES
    assert sum(first["probabilities"].values()) == pytest.approx(1, abs=1e-4)
    abnormal = first["probabilities"]["Abnormal-HAND"] + first["probabilities"]["Abnormal-WRIST"]
    assert first["p_abnormal"] == pytest.approx(abnormal)
    assert first["label"] == max(CLASSES, key=first["probabilities"].get)
    assert first["probabilities"] == second["probabilities"]
    assert jpeg["p_abnormal"] == pytest.approx(first["p_abnormal"], abs=0.05)
    assert len({result["overlay"] for result in results}) == 3
    assert all(Image.open(result["overlay"]).mode == "RGB" for result in results)


def test_what_is_no_image_is_refused_before_anything_is_written(run, radiograph, tmp_path):
    good, bad = tmp_path / "good.png", tmp_path / "bad.png"
    Image.fromarray(radiograph).save(good)
    bad.write_text("no image")
    with pytest.raises(ImageFault, match=r"bad\.png"):
        predict_images(run, [good, bad], tmp_path / "out")
    with pytest.raises(ImageFault, match=r"nowhere\.png"):
        predict_images(run, [good, tmp_path / "nowhere.png"], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_run_is_also_found_by_its_folder(run, radiograph, tmp_path):
    Image.fromarray(radiograph).save(tmp_path / "hand.png")
    (result,) = predict_images(str(runs_dir() / run), [tmp_path / "hand.png"], tmp_path)
    assert result["body_part"] in ("HAND", "WRIST")
    with pytest.raises(UserError, match="no trained run 'other'"):
        predict_images("other", [tmp_path / "hand.png"], tmp_path)

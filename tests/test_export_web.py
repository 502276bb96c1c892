"""The page in a real browser: its answers, its silence, its keyboard. Firefox is not tested."""

from __future__ import annotations

import base64
import functools
import re
import threading
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import keras
import numpy as np
import PIL
import pytest
from PIL import Image
from small import experiment, with_head

from mura_utils.data.squares import resize
from mura_utils.errors import UserError
from mura_utils.evaluation.familiarity import fit_familiarity, write_familiarity
from mura_utils.experiments import save_experiment
from mura_utils.export.web import write_page
from mura_utils.frozen import with_pooled
from mura_utils.network.heads import LOGITS
from mura_utils.paths import REPOSITORY, write_json
from mura_utils.phantoms.dataset import draw_case
from mura_utils.prediction import predict_images
from mura_utils.runs.record import write_completed
from mura_utils.runs.stages import NOTEBOOKS

CHROMIUM = "/usr/bin/chromium"
CLASSES = [f"{kind}-{part}" for kind in ("Abnormal", "Normal") for part in ("HAND", "WRIST")]
SIZE = 64
ANSWERED, REFUSED = re.compile("the threshold"), re.compile("cannot be used")
SQUARES = """async (cases) => {
  const { toSquare } = await import(new URL("image.js", document.baseURI));
  const bytes = (text) => Uint8Array.from(atob(text), (letter) => letter.charCodeAt());
  return cases.map(({ gray, width, height, size, how }) =>
    [...toSquare(bytes(gray), width, height, size, how).square]);
}"""
EXACT = int(PIL.__version__.split(".")[0]) >= 13  # earlier ones have another order of passes


# --- a run, its page, and a browser -------------------------------------------------------------


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run of two convolutions, tested, that finds its own twelve phantoms familiar."""
    folder = tmp_path_factory.mktemp("runs") / "tiny"
    settings = experiment(name="tiny", image_size=SIZE, head="dense", dense_units=[], resize="pad")
    save_experiment(settings, folder / "experiment.yaml")
    phantoms = np.stack([resize(phantom(seed), SIZE, "pad") for seed in range(12)])
    phantoms = phantoms[..., None].astype("float32")
    model = with_head(settings, len(CLASSES))
    bias = model.get_layer(LOGITS).bias  # so that no probability is nearly 0 or 1
    logits = keras.Model(model.input, model.get_layer(LOGITS).output)
    bias.assign(-logits.predict(phantoms, verbose=0).mean(axis=0))
    model.save(folder / "model.keras")
    write_json(folder / "training.json", {"classes": CLASSES})
    write_json(folder / "calibration.json", {"temperature": 1.7})
    point = {"rule": "specificity", "target": 0.9, "threshold": 0.4}
    write_json(folder / "operating_point.json", point)
    features = with_pooled(model, ["fine"]).predict(phantoms, verbose=0)[1]
    familiar = fit_familiarity(["fine"], features, features, false_flags=0)
    write_familiarity(folder / "familiarity.npz", familiar)
    write_completed(folder, list(NOTEBOOKS[:6]))
    return folder


def phantom(seed):
    return draw_case(np.random.default_rng(seed), "HAND", "fracture", abnormal=True)[0]


@pytest.fixture(scope="module")
def site(run, tmp_path_factory):
    """The page's folder; ONNX Runtime Web is fetched into the project's cache once."""
    pytest.importorskip("tf2onnx")
    out = tmp_path_factory.mktemp("site")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MURA_CACHE_DIR", str(REPOSITORY / "cache"))
        try:
            write_page(str(run), out)
        except UserError as error:
            pytest.skip(str(error))
    return out


@pytest.fixture(scope="module")
def browser():
    playwright = pytest.importorskip("playwright.sync_api")
    if not Path(CHROMIUM).exists():
        pytest.skip(f"needs {CHROMIUM}")
    with playwright.sync_playwright() as started:
        chromium = started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield chromium
        chromium.close()


class Visit:
    """A page of a folder as ``python -m http.server`` serves it, watched."""

    def __init__(self, context, folder):
        quiet = type("Quiet", (SimpleHTTPRequestHandler,), {"log_message": lambda *a: None})
        server = ThreadingHTTPServer(("localhost", 0), functools.partial(quiet, directory=folder))
        threading.Thread(target=server.serve_forever, daemon=True).start()
        self.url, self.stop = f"http://localhost:{server.server_port}/", server.shutdown
        self.requests, self.complaints = [], []
        context.route(lambda url: not url.startswith(self.url), lambda route: route.abort())
        self.page = context.new_page()
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.on("console", lambda message: self.complaints.append(message.text))
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.goto(self.url)
        self.wait("Ready.")

    def wait(self, text):
        from playwright.sync_api import expect

        expect(self.page.locator("#status")).to_have_text(text, timeout=60_000)

    def choose(self, path, then=ANSWERED):
        self.page.set_input_files("#file", path)
        self.wait(re.compile(f"{re.escape(path.name)}.*{then.pattern}"))
        return self.page

    @property
    def away(self):
        """Requests that left for anywhere else; a blob is memory of the page itself."""
        return [url for url in self.requests if not url.startswith((self.url, f"blob:{self.url}"))]


@pytest.fixture
def visit(browser, site):
    context = browser.new_context(viewport={"width": 390, "height": 844})
    visited = Visit(context, site)
    yield visited
    context.close()
    visited.stop()


def radiographs(folder):
    """A hand as files of every kind that a browser and Pillow decode alike."""
    gray = Image.fromarray(phantom(0))
    large = gray.resize((2600, 1900), Image.Resampling.BICUBIC)
    tinted = Image.merge("RGB", [gray, gray.point(lambda v: v // 2), gray.rotate(3)])
    rng = np.random.default_rng(0)
    alpha = Image.fromarray(rng.integers(0, 256, gray.size[::-1], np.uint8))
    veiled = tinted.copy()
    veiled.putalpha(alpha)
    exif = Image.Exif()
    exif[0x0112] = 6
    profile = bytes(200)  # no profile at all: a decoder that minds it would complain
    written = {
        "gray.png": (gray, {}),
        "wide.png": (gray.resize((333, 61)), {}),
        "rgb.png": (tinted, {}),
        "palette.png": (tinted.quantize(100), {"transparency": 3}),
        "rgba.png": (veiled, {}),
        "la.png": (Image.merge("LA", [gray, alpha]), {}),
        "profile.png": (tinted, {"icc_profile": profile}),
        "large.jpg": (large, {"quality": 90}),
        "rgb.jpg": (tinted, {"quality": 90, "icc_profile": profile}),
        "turned.jpg": (gray, {"exif": exif}),
        "noise.png": (Image.fromarray(rng.integers(0, 256, (90, 80), np.uint8)), {}),
    }
    for name, (image, options) in written.items():
        image.save(folder / name, **options)
    return [folder / name for name in written]


# --- what it answers ----------------------------------------------------------------------------


def test_the_page_answers_as_mura_predict_and_asks_nobody(visit, run, tmp_path):
    paths = radiographs(tmp_path)
    results = predict_images(str(run), paths, tmp_path / "out", "grad_cam")
    assert {result["unfamiliar"] for result in results} == {True, False}
    assert {result["called"] for result in results} == {"abnormal", "normal"}
    for path, result in zip(paths, results, strict=True):
        page = visit.choose(path)
        assert values(page, "#p") == pytest.approx([result["p_abnormal"]], abs=1e-3), path.name
        calibrated = [result["p_abnormal_calibrated"]]
        assert values(page, "#calibrated") == pytest.approx(calibrated, abs=1e-3)
        assert page.text_content("#call").lower() == result["called"]
        assert page.text_content("#part") == result["body_part"].lower()
        assert result["label"] in page.text_content("#likeliest")
        assert page.is_visible("#warning") == result["unfamiliar"]
        for row in page.locator("#classes tr").all():
            part = row.locator("th").text_content().upper()
            expected = [
                result["probabilities"][f"{kind}-{part}"] for kind in ("Abnormal", "Normal")
            ]
            assert values(row, "td") == pytest.approx(expected, abs=1e-3), path.name
    assert visit.complaints == []
    assert visit.away == []
    names = {url.removeprefix(visit.url) for url in visit.requests}
    assert {"", "page.js", "model.onnx", "run.json"} < names


def values(place, selector):
    """The probabilities that an element shows, unrounded."""
    return [float(one.get_attribute("value")) for one in place.locator(f"{selector} data").all()]


def test_the_square_is_that_of_python_to_the_bit(visit):
    rng = np.random.default_rng(0)
    shapes = [(64, 64), (65, 63), (63, 65), (32, 400), (401, 33), (200, 193), (389, 1200), (40, 47)]
    shapes += [(900, 277), (50, 1)]
    cases, expected = [], []
    for height, width in shapes:
        image = rng.integers(0, 256, (height, width), np.uint8)
        for size, how in [(64, "stretch"), (64, "pad"), (33, "pad")]:
            case = {"gray": base64.b64encode(image).decode(), "width": width, "height": height}
            cases.append({**case, "size": size, "how": how})
            expected.append(resize(image, size, how))
    found = visit.page.evaluate(SQUARES, cases)
    for case, square, wanted in zip(cases, found, expected, strict=True):
        about = {key: case[key] for key in ("width", "height", "size", "how")}
        apart = np.abs(np.reshape(square, wanted.shape) - wanted.astype(int))
        assert apart.max() <= (0 if EXACT else 1), about


def test_what_is_no_radiograph_is_refused_in_a_sentence(visit, tmp_path):
    (tmp_path / "text.png").write_text("no image")
    Image.new("L", (100, 100), 90).save(tmp_path / "uniform.png")
    Image.fromarray(phantom(0)).resize((100, 20)).save(tmp_path / "small.png")
    Image.fromarray(phantom(0)).save(tmp_path / "whole.png")
    whole = (tmp_path / "whole.png").read_bytes()
    (tmp_path / "cut.png").write_bytes(whole[:60])
    for name, why in {
        "text.png": "neither PNG nor JPEG",
        "uniform.png": "at most 0 of 256 gray levels",
        "small.png": "100 × 20 pixels",
        "cut.png": "damaged",
    }.items():
        page = visit.choose(tmp_path / name, REFUSED)
        assert why in page.text_content("#status")
        assert page.is_hidden("#answer")
    assert visit.choose(tmp_path / "whole.png").is_visible("#answer")
    assert visit.complaints == []


def test_what_is_odd_is_a_remark(visit, tmp_path):
    deep, negative = tmp_path / "deep.png", tmp_path / "negative.png"
    Image.fromarray(phantom(0).astype(np.uint16) * 257).save(deep)
    Image.fromarray(255 - phantom(0)).save(negative)
    assert "16-bit PNG" in visit.choose(deep).text_content("#remarks")
    assert "as in a negative" in visit.choose(negative).text_content("#remarks")


# --- how it is used -----------------------------------------------------------------------------


def test_the_keyboard_is_enough_on_a_phones_width(visit, tmp_path):
    Image.fromarray(phantom(0)).save(tmp_path / "hand.png")
    page = visit.page
    page.keyboard.press("Tab")
    with page.expect_file_chooser() as chooser:
        page.keyboard.press("Space")
    chooser.value.set_files(tmp_path / "hand.png")
    visit.wait(ANSWERED)
    page.focus("#file")
    page.keyboard.press("Tab")
    before = page.locator("#heat").evaluate("(heat) => Number(heat.style.opacity)")
    page.keyboard.press("Home")
    assert page.locator("#heat").evaluate("(heat) => heat.style.opacity") == "0" != before
    assert page.evaluate("() => document.documentElement.scrollWidth") <= 390
    assert "Not a medical device" in page.text_content("header")


def test_the_policy_lets_nothing_out(visit):
    attempts = """async (url) => {
      const image = new Image();
      const asked = new Promise((done) => (image.onerror = () => done("refused")));
      image.src = `${url}pixels.png`;
      return [await fetch(url).then(() => "sent", () => "refused"), await asked];
    }"""
    assert visit.page.evaluate(attempts, "https://example.org/") == ["refused", "refused"]
    assert all("Content Security Policy" in line for line in visit.complaints), visit.complaints
    assert len(visit.complaints) >= 2

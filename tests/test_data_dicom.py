"""DICOM: what of its header is applied, what is refused, what is offered."""

import io
import json
import subprocess
import sys
import warnings

import numpy as np
import pandas as pd
import pytest
from dicoms import dataset, to_bytes
from PIL import Image

from mura_utils.data import dicom, dicom_pixels
from mura_utils.data.dicom import header_offers
from mura_utils.data.images import FAULTS, ImageFault, examine_image
from mura_utils.data.manifest import quality_report, scan
from mura_utils.data.sources.listing import Listing
from mura_utils.errors import UserError
from mura_utils.phantoms.dataset import draw_case

pydicom = pytest.importorskip("pydicom", minversion="3")
from pydicom import uid  # noqa: E402
from pydicom.data import get_testdata_file  # noqa: E402
from pydicom.dataset import Dataset  # noqa: E402
from pydicom.sequence import Sequence  # noqa: E402

GRAY = draw_case(np.random.default_rng(0), "ELBOW", "fracture", abnormal=False)[0]
DEEP = GRAY.astype(np.uint16) * 13 + 200  # 12 bits


@pytest.fixture
def look(tmp_path):
    """Gray image and inspection of bytes, of a data set, or of pixels and what `dataset` takes."""

    def examine(content, *args, name="image.dcm", **kwargs):
        if isinstance(content, np.ndarray):
            content = dataset(content, *args, **kwargs)
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else to_bytes(content))
        return examine_image(path)

    return examine


@pytest.fixture
def fault(look):
    """Kind and sentence of the fault."""

    def examine(*args, **kwargs):
        with pytest.raises(ImageFault) as found:
            look(*args, **kwargs)
        assert found.value.kind in FAULTS
        return found.value.kind, str(found.value)

    return examine


def as_png(tmp_path, pixels):
    path = tmp_path / "same.png"
    Image.fromarray(pixels).save(path)
    return examine_image(path)


def table(*values, first=0, bits=16):
    item = Dataset()
    item.LUTDescriptor = [len(values), first, bits]
    item.LUTData = np.array(values, "<u2").tobytes()
    return Sequence([item])


# --- the same picture as PNG and as DICOM ---------------------------------------------------------


@pytest.mark.parametrize("pixels", [GRAY, DEEP], ids=["8 bits", "12 bits"])
@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
def test_the_same_picture_is_the_same_as_png_and_as_dicom(tmp_path, look, pixels, photometric):
    gray, expected = as_png(tmp_path, pixels)
    top = 255 if pixels is GRAY else 4095
    stored = top - pixels if photometric == "MONOCHROME1" else pixels
    image, found = look(stored.astype(pixels.dtype), photometric)
    np.testing.assert_array_equal(image, gray)
    assert (found.mean, found.std) == (expected.mean, expected.std)
    assert (found.width, found.height) == (expected.width, expected.height)
    assert found.mode == ("DICOM L" if pixels is GRAY else "DICOM I;12")
    assert found.remarks == {} and found.sha256 != expected.sha256


def test_signed_pixels_are_shown_as_unsigned_ones(tmp_path, look):
    gray, _ = as_png(tmp_path, DEEP)
    image, _ = look((DEEP.astype(np.int16) - 1500), bits=16, RescaleSlope=1, RescaleIntercept=1500)
    np.testing.assert_array_equal(image, gray)
    gray, _ = as_png(tmp_path, GRAY)
    image, _ = look((GRAY.astype(int) - 128).astype(np.int8))
    np.testing.assert_array_equal(image, gray)


def test_a_rescale_that_falls_turns_dark_and_bright(tmp_path, look):
    gray, _ = as_png(tmp_path, DEEP)
    image, _ = look(4095 - DEEP, RescaleSlope=-1, RescaleIntercept=4095)
    np.testing.assert_array_equal(image, gray)
    twice, _ = look(DEEP, "MONOCHROME1", RescaleSlope=-1, RescaleIntercept=4095)
    np.testing.assert_array_equal(twice, gray)


def test_more_bits_than_the_header_says_are_read(tmp_path, look):
    header = dataset(DEEP, bits=16)
    header.BitsStored = 16
    header.compress(uid.JPEG2000Lossless)
    header.BitsStored, header.HighBit = 10, 9  # and a native decoder would cut the rest off
    gray, _ = as_png(tmp_path, DEEP)
    np.testing.assert_array_equal(look(header)[0], gray)


@pytest.fixture(scope="module")
def real():
    """An extremity: without loss as it is and as JPEG 2000, and with loss in both ways."""
    pytest.importorskip("openjpeg")
    found = {}
    for name in ("RG3_UNCR", "RG3_J2KR", "RG3_UNCI", "RG3_J2KI"):
        path = get_testdata_file(f"{name}.dcm", download=False)
        if path is None:
            pytest.skip("needs pydicom-data")
        found[name] = (path, *examine_image(path))
    return found


def test_a_real_radiograph_is_the_same_from_compressed_pixels(real):
    _, image, found = real["RG3_UNCR"]
    assert image.shape == (1760, 1760) and found.mode == "DICOM I;10"
    np.testing.assert_array_equal(real["RG3_J2KR"][1], image)
    np.testing.assert_array_equal(real["RG3_J2KI"][1], real["RG3_UNCI"][1])
    assert 0 < np.abs(real["RG3_UNCI"][1].astype(int) - image).max() < 5


def test_a_real_radiograph_has_bright_bones_and_a_bright_border(real):
    path, image, found = real["RG3_UNCR"]
    stored = pydicom.dcmread(path).pixel_array
    expected = 255 - np.clip((stored - 549.5) / 1023 + 0.5, 0, 1) * 255  # its window is 550, 1024
    assert np.abs(image - expected).max() <= 0.5001
    assert found.remarks["collimation"].startswith("a bright border around columns 409 to 1331")
    said = {"age": None, "sex": "F", "body_part": "EXTREMITY", "laterality": "R", "view": "AP"}
    assert header_offers(path) == said


# --- windows and tables ---------------------------------------------------------------------------


@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
def test_the_first_window_of_a_header_is_applied(look, photometric):
    window = {"WindowCenter": [1500, 40], "WindowWidth": [2001, 400]}
    image, found = look(DEEP, photometric, **window)
    expected = np.clip((DEEP - 1499.5) / 2000 + 0.5, 0, 1) * 255  # PS3.3 C.11.2.1.2.1
    expected = 255 - expected if photometric == "MONOCHROME1" else expected
    assert np.abs(image - expected).max() <= 0.5001 and "window" not in found.remarks


def test_a_window_is_in_units_of_the_modality(look):
    window = {"WindowCenter": 0, "WindowWidth": 1001}
    image, _ = look(DEEP, RescaleSlope=0.5, RescaleIntercept=-800, **window)
    expected = np.clip((DEEP * 0.5 - 800 + 0.5) / 1000 + 0.5, 0, 1) * 255
    assert np.abs(image - expected).max() <= 0.5001


@pytest.mark.parametrize("function", ["LINEAR_EXACT", "SIGMOID"])
def test_other_functions_of_a_window(look, function):
    image, _ = look(DEEP, WindowCenter=1500, WindowWidth=2000, VOILUTFunction=function)
    x = (DEEP - 1500.0) / 2000
    expected = np.clip(x + 0.5, 0, 1) if function == "LINEAR_EXACT" else 1 / (1 + np.exp(-4 * x))
    assert np.abs(image - expected * 255).max() <= 0.5001


def test_a_voi_table_comes_before_a_window(look):
    steps = table(*range(0, 3000, 1), first=600, bits=16)  # it claims 16 bits and uses 12
    image, _ = look(DEEP, VOILUTSequence=steps, WindowCenter=0, WindowWidth=5)
    expected = np.clip(DEEP.astype(int) - 600, 0, 2999) / 4095 * 255
    assert np.abs(image - expected).max() <= 0.5001


def test_a_modality_table_gives_the_levels(tmp_path, look):
    root = np.sqrt(np.arange(4096) / 4095) * 4095
    root = np.rint(root).astype(np.uint16)
    image, _ = look(DEEP, ModalityLUTSequence=table(*root, bits=12))
    gray, _ = as_png(tmp_path, root[DEEP])
    np.testing.assert_array_equal(image, gray)


@pytest.mark.parametrize(
    ("center", "width", "said"), [(2000, 0, "cannot be used"), (60000, 10, "have one gray level")]
)
def test_a_window_that_shows_nothing_is_remarked_and_not_used(tmp_path, look, center, width, said):
    gray, _ = as_png(tmp_path, DEEP)
    image, found = look(DEEP, WindowCenter=center, WindowWidth=width)
    np.testing.assert_array_equal(image, gray)
    assert said in found.remarks["window"] and "without one" in found.remarks["window"]


def test_an_empty_window_is_none(look):
    assert look(DEEP, WindowCenter=None, WindowWidth=None)[1].remarks == {}


@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
def test_padding_is_black_and_counts_for_nothing(tmp_path, look, photometric):
    stored = (4095 - DEEP if photometric == "MONOCHROME1" else DEEP).astype(np.int16)
    stored[:, :20], stored[:, 20:30] = -2000, -1990
    image, _ = look(stored, photometric, 16, PixelPaddingValue=-2000, PixelPaddingRangeLimit=-1990)
    rest, _ = as_png(tmp_path, DEEP[:, 30:])
    assert not image[:, :30].any()
    np.testing.assert_array_equal(image[:, 30:], rest)


# --- other kinds of pixels ------------------------------------------------------------------------


@pytest.mark.parametrize("photometric", ["RGB", "YBR_FULL"])
def test_color_becomes_luma(look, photometric):
    pixels = np.stack([GRAY, GRAY // 2, GRAY // 3], -1)
    expected = np.asarray(Image.fromarray(pixels).convert("L")).astype(int)
    stored = pixels
    if photometric == "YBR_FULL":
        stored = pydicom.pixels.convert_color_space(pixels, "RGB", "YBR_FULL")
    image, found = look(stored, photometric)
    assert found.mode == "DICOM RGB" and np.abs(image - expected).max() <= 2


def test_a_palette_is_looked_up(look):
    header = dataset(GRAY)
    header.PhotometricInterpretation = "PALETTE COLOR"
    for color in ("Red", "Green", "Blue"):
        setattr(header, f"{color}PaletteColorLookupTableDescriptor", [256, 0, 16])
        ramp = (np.arange(256)[::-1] * 257).astype("<u2").tobytes()
        setattr(header, f"{color}PaletteColorLookupTableData", ramp)
    image, found = look(header)
    np.testing.assert_array_equal(image, 255 - GRAY)
    assert found.mode == "DICOM P"


def test_of_several_frames_the_first_is_read(tmp_path, look):
    image, found = look(np.stack([DEEP, DEEP[::-1]]))
    np.testing.assert_array_equal(image, as_png(tmp_path, DEEP)[0])
    assert found.remarks == {"several-frames": "it holds several images; the first is read"}


@pytest.mark.parametrize(
    "syntax", [uid.RLELossless, uid.JPEG2000Lossless, uid.DeflatedExplicitVRLittleEndian]
)
def test_lossless_transfer_syntaxes(look, syntax):
    if syntax == uid.JPEG2000Lossless:
        pytest.importorskip("openjpeg")
    header = dataset(DEEP)
    expected, _ = look(header)
    if syntax.is_encapsulated:
        header.compress(syntax)
    header.file_meta.TransferSyntaxUID = syntax
    np.testing.assert_array_equal(look(header)[0], expected)


def test_without_preamble_and_in_both_orders_of_bytes(look):
    expected, _ = look(DEEP)
    header = dataset(DEEP)
    for implicit, little in ((True, True), (False, True), (False, False)):
        if not little:
            header.PixelData = DEEP.astype(">u2").tobytes()
        stream = io.BytesIO()
        bare = Dataset(header)
        pydicom.dcmwrite(stream, bare, implicit_vr=implicit, little_endian=little)
        assert dicom.is_dicom(stream.getvalue())
        np.testing.assert_array_equal(look(stream.getvalue())[0], expected)


def test_a_suffix_is_wrong_only_where_it_names_another_format(look):
    for name in ("a.dcm", "a.IMA", "IM0001", "1.2.840.4711"):
        assert look(GRAY, name=name)[1].remarks == {}
    mismatch = {"suffix-mismatch": "DICOM content under the suffix '.PNG'"}
    assert look(GRAY, name="a.PNG")[1].remarks == mismatch


def test_wrong_photometric_interpretation_is_remarked(look):
    assert "inverted" in look(255 - GRAY)[1].remarks
    assert "inverted" not in look(255 - GRAY, "MONOCHROME1")[1].remarks


def test_a_bright_border_is_remarked_and_not_cropped(look):
    framed = GRAY.copy()
    framed[:, :40] = framed[-25:] = 255
    image, found = look(framed)
    np.testing.assert_array_equal(image, framed)
    height, width = GRAY.shape
    box = f"columns 41 to {width} and rows 1 to {height - 25}"
    assert found.remarks["collimation"] == f"a bright border around {box}; nothing is cropped"


# --- faults ---------------------------------------------------------------------------------------


def changed(**attributes):
    header = dataset(DEEP)
    for name, value in attributes.items():
        setattr(header, name, value)
    return to_bytes(header)


def without(*names):
    header = dataset(DEEP)
    for name in names:
        delattr(header, name)
    return header


def with_syntax(syntax):
    header = dataset(DEEP)
    header.compress(uid.RLELossless)
    header.file_meta.TransferSyntaxUID = syntax
    return to_bytes(header)


def report(kind=uid.BasicTextSRStorage):
    header = without("PixelData", "Rows", "Columns", "BitsAllocated", "BitsStored", "HighBit")
    header.SOPClassUID = kind
    return to_bytes(header)


def floating():
    header = without("PixelData")
    header.FloatPixelData = DEEP.astype("<f4").tobytes()
    return to_bytes(header)


WHOLE = to_bytes(dataset(DEEP))
CASES = {
    "report": (report(), "wrong-format", "DICOM without pixels (Basic Text SR Storage)"),
    "pdf": (report(uid.EncapsulatedPDFStorage), "wrong-format", "(Encapsulated PDF Storage)"),
    "private class": (report("1.2.3"), "wrong-format", "DICOM without pixels."),
    "floating": (floating(), "unreadable", "floating-point"),
    "no rows": (to_bytes(without("Rows")), "unreadable", "no usable Rows"),
    "no bits": (to_bytes(without("BitsStored")), "unreadable", "no usable BitsStored"),
    "one bit": (changed(BitsAllocated=1, BitsStored=1), "unreadable", "1 bits stored"),
    "no photometric": (
        to_bytes(without("PhotometricInterpretation")), "unreadable", "not what its header says"
    ),
    "bad slope": (changed(RescaleSlope=0, RescaleIntercept=0), "unreadable", "RescaleSlope"),
    "bad table": (changed(ModalityLUTSequence=table(1)), "uniform", "one gray level"),
    "small": (changed(Rows=8), "too-small", "8 pixels"),
    "huge": (changed(Rows=60000, Columns=60000), "unreadable", "60,000 x 60,000 pixels"),
    "cut": (WHOLE[: len(WHOLE) // 2], "truncated", "ends before its image"),
    "no such syntax": (with_syntax("1.2.840.10008.1.2.4.999"), "unreadable", "1.2.4.999"),
    "video": (with_syntax(uid.MPEG2MPML), "unreadable", "MPEG2 Main Profile"),
    "wrong syntax": (with_syntax(uid.JPEG2000Lossless), "unreadable", "cannot be decoded"),
    "uniform": (to_bytes(dataset(np.full((50, 50), 900, np.uint16))), "uniform", "one gray level"),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_faults_are_one_sentence(fault, name):
    content, kind, said = CASES[name]
    found, sentence = fault(content)
    assert (found, said in sentence) == (kind, True), sentence
    assert sentence.endswith(".") and "\n" not in sentence


def test_cut_compressed_pixels_are_a_truncated_file(fault):
    header = dataset(DEEP)
    header.compress(uid.RLELossless)
    content = to_bytes(header)
    assert fault(content[: len(content) * 2 // 3])[0] == "truncated"
    header = dataset(DEEP)
    header.file_meta.TransferSyntaxUID = uid.DeflatedExplicitVRLittleEndian
    content = to_bytes(header)
    assert fault(content[: len(content) * 2 // 3])[0] == "truncated"


def test_a_missing_decoder_is_named(fault, monkeypatch):
    lossless = pydicom.pixels.get_decoder(uid.JPEGLosslessSV1)
    monkeypatch.setattr(type(lossless), "is_available", False)
    _, sentence = fault(with_syntax(uid.JPEGLosslessSV1))
    assert "JPEG Lossless" in sentence and "pip install python-gdcm" in sentence


def test_compressed_pixels_of_another_size_are_not_decoded(fault, monkeypatch):
    header = dataset(DEEP)
    header.compress(uid.JPEG2000Lossless)
    header.PixelData = header.PixelData.replace(
        np.array(DEEP.shape[::-1], ">u4").tobytes(), np.array([50000, 50000], ">u4").tobytes(), 1
    )
    monkeypatch.setattr("pydicom.pixels.pixel_array", None)
    kind, sentence = fault(to_bytes(header))
    assert kind == "unreadable" and "50,000 x 50,000" in sentence


def test_sizes_are_found_in_a_jpeg():
    stream = io.BytesIO()
    Image.fromarray(GRAY).save(stream, "JPEG")
    assert list(dicom_pixels._coded_sizes(stream.getvalue())) == [GRAY.shape[::-1]]


def test_a_deflated_bomb_is_not_inflated(fault, monkeypatch):
    header = dataset(np.zeros((2000, 2000), np.uint16))
    header.file_meta.TransferSyntaxUID = uid.DeflatedExplicitVRLittleEndian
    monkeypatch.setattr(dicom, "MAX_INFLATED", 10**6)
    assert "inflates to more than 1,000,000 bytes" in fault(to_bytes(header))[1]


def test_too_little_memory_is_a_fault(fault, monkeypatch):
    def exhausted(*_, **__):
        raise MemoryError

    monkeypatch.setattr("pydicom.pixels.pixel_array", exhausted)
    assert "not enough memory" in fault(GRAY)[1]


def test_dicom_without_pydicom_says_what_to_install(fault, monkeypatch):
    monkeypatch.setitem(sys.modules, "pydicom", None)
    kind, sentence = fault(WHOLE)
    assert kind == "unreadable" and "pip install -e .[dicom]" in sentence


def test_other_content_under_a_dicom_suffix(fault):
    assert fault(b"<html>" * 99) == fault(b"<html>" * 99)
    assert fault(b"<html>" * 99)[1].endswith("neither PNG nor JPEG, nor is it DICOM.")


def test_no_warning_of_pydicom_reaches_the_terminal(tmp_path):
    path = tmp_path / "image.dcm"
    header = dataset(DEEP)
    header.PixelData += bytes(2)
    path.write_bytes(to_bytes(header))
    with pytest.warns(UserWarning, match="excess padding"):
        examine_image(path)
    code = f"from mura_utils.data.images import inspect_image; inspect_image({str(path)!r})"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert (ended.stdout, ended.stderr) == ("", "")


# --- what a header offers -------------------------------------------------------------------------


def offers(tmp_path, **attributes):
    path = tmp_path / "image.dcm"
    path.write_bytes(to_bytes(dataset(DEEP, **attributes)))
    return header_offers(path)


def test_a_header_offers_codes_and_nothing_of_the_patient(tmp_path):
    said = {"PatientAge": "034Y", "PatientSex": "F", "BodyPartExamined": "wrist "}
    found = offers(tmp_path, **said, Laterality="L", ViewPosition="AP")
    expected = {"age": 34.0, "sex": "F", "body_part": "WRIST", "laterality": "L", "view": "AP"}
    assert found == expected
    assert offers(tmp_path) == dict.fromkeys(expected)


def test_what_is_no_code_is_not_offered(tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pydicom's, of what is written here
        said = {"PatientAge": "34", "PatientSex": "X", "BodyPartExamined": "arm of J. Doe (4711)"}
        assert offers(tmp_path, **said, ImageLaterality="U") == dict.fromkeys(
            ("age", "sex", "body_part", "laterality", "view")
        )


@pytest.mark.parametrize(("age", "years"), [("006M", 0.5), ("365D", 1), ("026W", 0.5)])
def test_ages_are_years(tmp_path, age, years):
    assert offers(tmp_path, PatientAge=age)["age"] == pytest.approx(years, abs=0.01)


def test_offers_of_what_is_no_dicom_are_refused(tmp_path):
    (tmp_path / "a.dcm").write_bytes(b"no")
    for path in (tmp_path / "a.dcm", tmp_path / "none.dcm", tmp_path):
        with pytest.raises(UserError, match="cannot be read"):
            header_offers(path)


@pytest.mark.parametrize(
    ("said", "listed", "remarked"),
    [("HAND", "WRIST", True), ("LOWERLEG", "LEG", False), ("EXTREMITY", "WRIST", False),
     ("WRIST", "wrist", False), (None, "WRIST", False), ("HAND", "", False)],
)  # fmt: skip
def test_another_body_part_than_the_header_says_is_remarked(tmp_path, said, listed, remarked):
    path = tmp_path / "image.dcm"
    path.write_bytes(to_bytes(dataset(DEEP, **({"BodyPartExamined": said} if said else {}))))
    expected = {"header-body-part": f"its header says {said}, its data set {listed}"}
    assert dicom.remark_body_part(path, listed) == (expected if remarked else {})


def test_the_quality_report_names_no_patient(tmp_path):
    rows = pd.DataFrame({"path": ["a.dcm", "b.dcm"], "official_split": "", "patient": ["1", "2"]})
    rows = rows.assign(body_part="WRIST", study=rows["patient"], label="Normal-WRIST")
    (tmp_path / "a.dcm").write_bytes(to_bytes(dataset(DEEP, BodyPartExamined="HAND")))
    (tmp_path / "b.dcm").write_bytes(WHOLE[: len(WHOLE) // 2])
    listing = Listing("table", tmp_path, rows, pd.DataFrame(columns=["path", "kind", "detail"]))
    inventory = scan(listing, progress=False)
    report = json.dumps(quality_report(listing, inventory)) + inventory.to_csv()
    assert "its header says HAND, its data set WRIST" in report and "truncated" in report
    assert "DICOM I;12" in report and not any(word in report for word in ("DOE", "SECRET"))

import json
import os
import re

import numpy as np
import pytest

from mura_utils.data.sources.coco import decode_runs, fill_runs, read_coco
from mura_utils.errors import UserError

IMAGE = {"id": 1, "file_name": "IMG1.jpg", "width": 40, "height": 30}
CATEGORIES = [{"id": 0, "name": "fractured"}]
OUTLINE = [[10, 5, 19, 5, 19, 24, 10, 24]]
BOX = [10, 5, 9, 19]


def write(tmp_path, annotations=(), images=(IMAGE,), categories=CATEGORIES, **more):
    entries = [{"id": 7, "image_id": 1, "category_id": 0, **entry} for entry in annotations]
    content = {"images": list(images), "annotations": entries, "categories": categories, **more}
    path = tmp_path / "coco.json"
    path.write_text(json.dumps(content))
    return path


def read(tmp_path, *annotations, **more):
    return read_coco(write(tmp_path, annotations, **more))


def encode_runs(runs):
    """COCO's compressed form, written from its description."""
    text = ""
    for place, run in enumerate(runs):
        value = run - runs[place - 2] if place > 2 else run
        while True:
            bits, value = value & 31, value >> 5
            more = value != (-1 if bits & 16 else 0)
            text += chr(48 + bits + 32 * more)
            if not more:
                break
    return text


def runs_of(mask):
    down = np.concatenate([[False], mask.T.ravel()])
    ends = np.flatnonzero(down[1:] != down[:-1])
    return np.diff([0, *ends.tolist(), mask.size]).tolist()


def test_outlines_are_read(tmp_path):
    coco = read(tmp_path, {"segmentation": OUTLINE}, {"segmentation": OUTLINE, "bbox": None})
    image = coco.images["img1.jpg"]
    assert (image.name, image.size, len(image.fractures)) == ("IMG1.jpg", (40, 30), 2)
    assert image.fractures[0].polygons == (tuple(map(float, OUTLINE[0])),)
    assert coco.remarks == ()


def test_an_image_without_annotations_is_not_among_the_images(tmp_path):
    assert read(tmp_path).images == {}


@pytest.mark.parametrize(
    ("text", "runs"), [("231N", [2, 3, 1, 1]), ("T3", [100]), ("", []), ("0P1", [0, 32])]
)
def test_compressed_runs_worked_out_by_hand(text, runs):
    assert decode_runs(text) == runs
    assert encode_runs(runs) == text


def test_runs_survive_compression():
    rng = np.random.default_rng(0)
    for share in (0.01, 0.5, 0.99):
        mask = rng.random((200, 300)) < share
        runs = runs_of(mask)
        assert decode_runs(encode_runs(runs)) == runs
        np.testing.assert_array_equal(fill_runs(tuple(runs), (300, 200)), mask)


def test_runs_go_down_the_columns():
    expected = np.array([[0, 1], [0, 1], [1, 0]], bool)
    np.testing.assert_array_equal(fill_runs((2, 3, 1), (2, 3)), expected)


@pytest.mark.parametrize("text", ["T", "\x1f", "é", "p", "T" * 99])
def test_what_is_no_compressed_run_is_refused(text):
    with pytest.raises(ValueError, match=r"run lengths|within a number"):
        decode_runs(text)


@pytest.mark.parametrize("compress", [list, encode_runs])
def test_both_forms_of_runs_are_read(tmp_path, compress):
    runs = [100, 20, 1080]
    segmentation = {"size": [30, 40], "counts": compress(runs)}
    coco = read(tmp_path, {"segmentation": segmentation})
    assert coco.images["img1.jpg"].fractures[0].runs == tuple(runs)
    assert coco.remarks == ()


BAD = {
    "an odd number": ({"segmentation": [[1, 2, 3, 4, 5, 6, 7]]}, "odd number of coordinates"),
    "two points": ({"segmentation": [[1, 2, 3, 4]]}, "fewer than three points"),
    "text": ({"segmentation": [[1, 2, 3, 4, "5", 6]]}, "no coordinate"),
    "truth values": ({"segmentation": [[1, 2, 3, 4, True, 6]]}, "no coordinate"),
    "not a number": ({"segmentation": [[1, 2, 3, 4, float("nan"), 6]]}, "no coordinate"),
    "infinite": ({"segmentation": [[1, 2, 3, 4, float("inf"), 6]]}, "no coordinate"),
    "huge": ({"segmentation": [[1, 2, 3, 4, 10**400, 6]]}, "no coordinate"),
    "elsewhere": ({"segmentation": [[50, 5, 60, 5, 60, 9]]}, "lies outside the image of 40 x 30"),
    "no list": ({"segmentation": [{"a": 1}]}, "polygon 1 is {'a': 1}"),
    "a word": ({"segmentation": "none"}, "its segmentation is 'none'"),
    "runs of another size": (
        {"segmentation": {"size": [40, 30], "counts": [1200]}},
        r"run lengths are for \[40, 30\]",
    ),
    "too short runs": ({"segmentation": {"size": [30, 40], "counts": [9, 9]}}, "add up to 18 pix"),
    "negative runs": ({"segmentation": {"size": [30, 40], "counts": [-1, 1201]}}, "no whole num"),
    "runs of text": ({"segmentation": {"size": [30, 40], "counts": "é"}}, "not compressed run"),
    "runs of nothing": ({"segmentation": {"size": [30, 40], "counts": [1200]}}, "hold no pixel"),
    "runs without counts": ({"segmentation": {"size": [30, 40]}}, "no whole numbers"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_outline_is_replaced_by_the_box_or_left_out(tmp_path, case):
    entry, reason = BAD[case]
    good = {"id": 8, "segmentation": OUTLINE}
    coco = read(tmp_path, {**entry, "bbox": BOX}, good)
    assert [bool(fracture.box) for fracture in coco.images["img1.jpg"].fractures] == [True, False]
    (remark,) = coco.remarks
    assert remark[0] == "bad-annotation"
    assert remark[1].startswith("annotation 7 of IMG1.jpg: ")
    assert remark[1].endswith("; its box counts")
    coco = read(tmp_path, {**entry, "bbox": None}, good)
    assert len(coco.images["img1.jpg"].fractures) == 1
    ((kind, detail),) = coco.remarks
    assert kind == "bad-annotation"
    assert detail.endswith("; its bbox is None; left out")
    assert re.search(reason, detail)


@pytest.mark.parametrize("outline", [None, [], [[]]])
@pytest.mark.parametrize(
    "box", [None, [1, 2, 3], [1, 2, 0, 4], [1, 2, -3, 4], ["a", 1, 1, 1], [99, 5, 9, 9], {}, "box"]
)
def test_neither_outline_nor_box_is_left_out(tmp_path, outline, box):
    coco = read(tmp_path, {"segmentation": outline, "bbox": box})
    ((kind, detail),) = coco.remarks
    assert (coco.images, kind) == ({}, "bad-annotation")
    assert "its bbox" in detail


@pytest.mark.parametrize("outline", [None, []])
def test_boxes_that_count_are_counted(tmp_path, outline):
    coco = read(tmp_path, *[{"segmentation": outline, "bbox": BOX}] * 2)
    assert coco.images["img1.jpg"].fractures[1].box == tuple(map(float, BOX))
    ((kind, detail),) = coco.remarks
    assert (kind, detail[:13]) == ("accepted-variant", "2 annotations")


def test_one_bad_polygon_of_several_is_left_out(tmp_path):
    coco = read(tmp_path, {"segmentation": [[1, 2, 3], *OUTLINE], "bbox": BOX})
    (fracture,) = coco.images["img1.jpg"].fractures
    assert (len(fracture.polygons), fracture.box) == (1, None)
    assert coco.remarks[0][1].endswith("polygon 1 has an odd number of coordinates (3)")


def test_a_flat_outline_is_one_polygon(tmp_path):
    coco = read(tmp_path, {"segmentation": OUTLINE[0]})
    assert len(coco.images["img1.jpg"].fractures[0].polygons) == 1


def test_an_outline_beyond_the_image_is_a_remark(tmp_path):
    coco = read(tmp_path, {"segmentation": [[30, 5, 45, 5, 30, 9]]})
    assert len(coco.images["img1.jpg"].fractures) == 1
    assert coco.remarks[0][1].endswith("goes beyond the image, and is cut there")
    assert read(tmp_path, {"segmentation": [[30, 5, 40.5, 5, 30, 9]]}).remarks == ()


@pytest.mark.parametrize(
    ("entry", "reason"),
    [
        ({"image_id": 2}, "image_id 2; left out"),
        ({"image_id": None}, "image_id None"),
        ({"image_id": [1]}, r"image_id [1]"),
        ({"image_id": True}, "image_id True"),
        ({"category_id": 3}, "category_id 3 is not listed"),
        ({"category_id": None}, "category_id None is not listed"),
    ],
)
def test_an_orphan_is_a_remark(tmp_path, entry, reason):
    coco = read(tmp_path, {"segmentation": OUTLINE, **entry})
    ((kind, detail),) = coco.remarks
    assert (coco.images, kind) == ({}, "bad-annotation")
    assert detail.startswith("annotation 7: ")
    assert reason in detail


@pytest.mark.parametrize("identity", ["1", 1.0, " 1 "])
def test_ids_may_be_of_another_type(tmp_path, identity):
    assert len(read(tmp_path, {"image_id": identity, "segmentation": OUTLINE}).images) == 1


@pytest.mark.parametrize("entry", [None, 5, "text", []])
def test_an_entry_that_is_no_object_is_a_remark(tmp_path, entry):
    path = tmp_path / "coco.json"
    content = {"images": [IMAGE, entry], "annotations": [entry], "categories": CATEGORIES}
    path.write_text(json.dumps(content))
    details = [detail for _, detail in read_coco(path).remarks]
    assert details[0].startswith("image entry 2: it is ")
    assert details[1].startswith("annotation entry 1: it is ")


@pytest.mark.parametrize(
    ("name", "fractures"),
    [
        ("fractured", 1),
        ("Bone Fracture", 1),
        ("fracture_mask", 1),
        ("nonunion fracture", 1),
        ("non_fractured", 0),
        ("No fracture", 0),
        ("no sign of a fracture", 0),
        ("Unfractured", 0),
        ("hardware", 0),
        (None, 0),
    ],
)
def test_only_fractures_are_fractures(tmp_path, name, fractures):
    categories = [{"id": 0, "name": name}]
    coco = read(tmp_path, {"segmentation": OUTLINE}, categories=categories)
    assert len(coco.images) == fractures
    assert [kind for kind, _ in coco.remarks] == ["other-category"] * (1 - fractures)


@pytest.mark.parametrize("categories", [None, [], {}, "fracture"])
def test_without_categories_everything_is_a_fracture(tmp_path, categories):
    coco = read(tmp_path, {"segmentation": OUTLINE, "category_id": 9}, categories=categories)
    assert len(coco.images) == 1
    ((kind, detail),) = coco.remarks
    assert (kind, "no categories" in detail) == ("accepted-variant", True)


@pytest.mark.parametrize("folder", ["images/Fractured/", "C:\\data\\", "../"])
def test_folders_before_a_file_name_are_ignored(tmp_path, folder):
    images = [{**IMAGE, "file_name": folder + "IMG1.jpg"}]
    coco = read(tmp_path, {"segmentation": OUTLINE}, images=images)
    assert list(coco.images) == ["img1.jpg"]
    assert [kind for kind, _ in coco.remarks] == ["accepted-variant"]


@pytest.mark.parametrize(
    "size", [{"width": None}, {"width": "40"}, {"height": 0}, {"height": 2.5}, {"width": 1e300}]
)
def test_a_size_that_is_none_is_a_remark(tmp_path, size):
    coco = read(tmp_path, {"segmentation": OUTLINE}, images=[{**IMAGE, **size}])
    assert coco.images["img1.jpg"].size is None
    assert coco.remarks[0][1].startswith("image IMG1.jpg: width and height are no sizes")


@pytest.mark.parametrize(
    ("entry", "reason"),
    [
        ({"id": None}, "its id is None"),
        ({"file_name": None}, "its file_name is None"),
        ({"file_name": ""}, "its file_name is ''"),
        ({"file_name": 5}, "its file_name is 5"),
    ],
)
def test_a_bad_image_entry_is_left_out(tmp_path, entry, reason):
    images = [{**IMAGE, "id": 2, **entry}, IMAGE]
    coco = read(tmp_path, {"segmentation": OUTLINE}, images=images)
    assert len(coco.images) == 1
    assert coco.remarks == (("bad-annotation", f"image entry 1: {reason}; left out"),)


def test_an_image_listed_twice_is_one(tmp_path):
    again = {**IMAGE, "id": 2, "file_name": "img1.JPG"}
    coco = read(
        tmp_path,
        {"segmentation": OUTLINE},
        {"segmentation": OUTLINE, "image_id": 2},
        images=[IMAGE, again, {**again, "id": 3, "width": 99}],
    )
    assert len(coco.images["img1.jpg"].fractures) == 2
    assert [detail for _, detail in coco.remarks] == [
        "image img1.JPG is listed twice",
        "image img1.JPG is listed twice with another size; the first counts",
    ]


def test_an_id_of_two_images_is_of_none(tmp_path):
    images = [IMAGE, {**IMAGE, "file_name": "IMG2.jpg"}]
    coco = read(tmp_path, {"segmentation": OUTLINE}, images=images)
    assert coco.images == {}
    assert [kind for kind, _ in coco.remarks] == ["bad-annotation"] * 2


def test_keys_that_stand_twice(tmp_path):
    path = write(tmp_path, [{"segmentation": OUTLINE}])
    text = path.read_text()
    path.write_text(text.replace('"id": 7', '"bbox": 1, "bbox": 2, "id": 7'))
    assert read_coco(path).remarks[0][1].endswith("it holds 'bbox' twice; left out")
    path.write_text(text.replace('"categories"', '"annotations"'))
    with pytest.raises(UserError, match="not a COCO file: it holds 'annotations' twice"):
        read_coco(path)


def test_names_that_no_text_can_hold_can_be_written(tmp_path):
    images = [{**IMAGE, "file_name": "\ud800.jpg", "id": "\udc80"}] * 2
    for _, detail in read(tmp_path, images=images).remarks:
        detail.encode()


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ("", "is empty"),
        ("{", "is not JSON"),
        ("[" * 200_000, "is not JSON"),
        ('{"images": ' + "1" * 5000 + "}", "is not JSON"),
        ("[]", r"not a COCO file: it holds \[\]; expected an object"),
        ("null", "not a COCO file"),
        ('{"images": []}', "'annotations' is missing; expected an object with lists"),
        ('{"images": {}, "annotations": []}', "'images' is {}"),
        ('{"images": [], "annotations": 3}', "'annotations' is 3"),
    ],
)
def test_what_is_no_coco_file_is_one_sentence(tmp_path, content, sentence):
    path = tmp_path / "coco.json"
    path.write_text(content)
    with pytest.raises(UserError, match=sentence) as caught:
        read_coco(path)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_a_byte_order_mark_is_accepted(tmp_path, encoding):
    path = write(tmp_path, [{"segmentation": OUTLINE}])
    path.write_text(path.read_text(), encoding=encoding)
    coco = read_coco(path)
    assert (len(coco.images), [kind for kind, _ in coco.remarks]) == (1, ["accepted-variant"])


def test_bytes_that_are_no_text_are_one_sentence(tmp_path):
    path = tmp_path / "coco.json"
    path.write_bytes(b'{"images": "\xff\xfe"}')
    with pytest.raises(UserError, match=r"is not JSON: .*can't decode byte"):
        read_coco(path)


def test_a_file_is_parsed_once_for_a_version(tmp_path):
    path = write(tmp_path, [{"segmentation": OUTLINE}])
    assert read_coco(path) is read_coco(path)
    write(tmp_path, [{"segmentation": OUTLINE}] * 2)
    assert len(read_coco(path).images["img1.jpg"].fractures) == 2


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (os.mkfifo, "it is a named pipe"),
        (os.mkdir, "it is a folder"),
        (lambda path: path.symlink_to(path.name), "Too many levels of symbolic links"),
        (lambda path: None, "there is no such file"),
    ],
)
def test_a_file_that_cannot_be_read_is_one_sentence(tmp_path, make, reason):
    make(tmp_path / "coco.json")
    with pytest.raises(UserError, match=rf"coco\.json cannot be read: .*{reason}"):
        read_coco(tmp_path / "coco.json")

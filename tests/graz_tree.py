"""GRAZPEDWRI-DX in its exact layout, drawn small: no pixel and no row is the data set's."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

HEADER = (
    "filestem,patient_id,study_number,timehash,gender,age,laterality,projection,initial_exam,"
    "ao_classification,cast,diagnosis_uncertain,osteopenia,fracture_visible,metal,pixel_spacing,"
    "device_manufacturer"
)
ROWS = [  # a fracture that one view shows; a cast; metal and an uncertain one; two normal wrists
    "0001_1297860395_01_WRI-L1_M014,1,1,1297860395,M,14.1,L,1,1,23r-M/2.1,,,,,,0.144,Siemens",
    "0001_1297860435_01_WRI-L2_M014,1,1,1297860435,M,14.1,L,2,1,23r-M/2.1,,,,1,,0.144,Siemens",
    "0002_0354485735_01_WRI-R1_F012,2,1,354485735,F,12,R,1,,23-M/3.1; 23u-E/7,1,,,1,,0.144,Siemens",
    "0002_0362485735_02_WRI-R3_F012,2,2,362485735,F,12.3,R,3,,23u-E/7,,1,1,,1,0.143,Agfa",
    "0003_0451485735_01_WRI-L1_F000,3,1,451485735,F,0.7,L,1,1,,,,,,,0.144,Siemens",
    "0004_0551485735_01_WRI-R2_M009,4,1,551485735,M,,R,2,1,,,,,,,0.144,Siemens",
]
BOXES = {  # class, center and size as shares of the image's; 8 is text, 3 a fracture
    "0001_1297860395_01_WRI-L1_M014": ["8 0.9 0.1 0.1 0.1"],
    "0001_1297860435_01_WRI-L2_M014": ["8 0.9 0.1 0.1 0.1", "3 0.25 0.5 0.2 0.2"],
    "0002_0354485735_01_WRI-R1_F012": ["3 0.5 0.5 0.2 0.2", "3 0.7 0.7 0.1 0.1", "5 0.5 0.5 1 1"],
    "0002_0362485735_02_WRI-R3_F012": ["4 0.5 0.5 0.3 0.3"],
    "0003_0451485735_01_WRI-L1_F000": ["8 0.1 0.1 0.1 0.1"],
    "0004_0551485735_01_WRI-R2_M009": [],
}
WIDTH, HEIGHT = 40, 60


def write_graz(
    root: Path, rows: Sequence[str] = ROWS, boxes: dict[str, Iterable[str]] = BOXES
) -> Path:
    """Images in the four parts' folders, 16-bit gray, boxes and a table; returns `root`."""
    labels = root / "folder_structure" / "yolov5" / "labels"
    labels.mkdir(parents=True)
    for number, row in enumerate(rows):
        stem = row.split(",")[0]
        part = root / f"images_part{1 + number * 4 // len(rows)}"
        part.mkdir(exist_ok=True)
        write_image(part / f"{stem}.png", number)
        (labels / f"{stem}.txt").write_text("\n".join(boxes[stem]))
    (root / "dataset.csv").write_text("\n".join([HEADER, *rows]) + "\n")
    return root


def write_image(path: Path, seed: int = 0) -> None:
    """Noise of 12 bits in a 16-bit PNG."""
    noise = np.random.default_rng(seed).integers(0, 4096, (HEIGHT, WIDTH), dtype=np.uint16)
    Image.fromarray(noise).save(path)

"""Stream the images of a folder through a run's networks: decoding in threads, ahead of them."""

from __future__ import annotations

import csv
import hashlib
import itertools
import json
import logging
import os
import sys
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import joblib
from tqdm.auto import tqdm

from mura_utils.batch.files import find_images
from mura_utils.batch.table import open_table
from mura_utils.data.images import ImageFault, examine_image
from mura_utils.evaluation.familiarity import FAMILIARITY
from mura_utils.labels import probability_columns
from mura_utils.paths import resolve
from mura_utils.predictor import (
    BATCH_SIZE,
    Inputs,
    Predictor,
    familiarity_file,
    missing_of_person,
    require_backend,
)
from mura_utils.runs.ensemble import Networks, Rules, networks_of
from mura_utils.runs.record import require_trained
from mura_utils.terminal import hide_bars

logger = logging.getLogger(__name__)

_AHEAD = 2 * BATCH_SIZE  # images that are decoded, at most, while the networks compute
_MOST_WORKERS = 8
_NICENESS = 19  # of decoding, the least urgent

_T, _R = TypeVar("_T"), TypeVar("_R")


class _Image(NamedTuple):
    path: str
    inputs: Inputs | None
    remarks: dict[str, str]
    fault: tuple[str, str] | None  # kind and detail


def predict_folder(
    run: str, folder: Path, out: Path, backend: str = "tensorflow", progress: bool = True
) -> None:
    """Write the probabilities of every radiograph in a folder, and below it, into one CSV file.

    The same numbers as of `prediction.predict_images`, in the order of the paths, without overlays.
    Memory does not grow with the number of images. After an interruption the same call goes on
    behind the last whole batch, and gives the same file. Where the run reads age and sex, they are
    treated as missing.

    The columns are path (relative to the folder), predicted and predicted_body_part (what
    `predict_images` calls label and body_part), p_abnormal, p_abnormal_calibrated, called,
    unfamiliar ("true", "false"), one ``p:<label>`` a class, remarks (JSON from kind to detail),
    fault and detail. A file that cannot be used has its fault, one of `data.images.FAULTS`, and no
    numbers. ``out.json`` says what the numbers depend on, the threshold among it.

    Args:
        run: the name of a run or an ensemble, or the path of its folder.
        folder: PNG, JPEG and DICOM files, in subfolders as well; anything else is counted.
        out: the CSV file.
        backend: one of `predictor.BACKENDS`; OpenVINO computes in float32.
        progress: show a progress bar.

    Raises:
        UserError: no trained run; the folder cannot be read, or holds no image; `out` cannot be
            written, or was begun with another run, model or folder; OpenVINO is not installed.
    """
    place = require_trained(run)
    networks = networks_of(place)
    require_backend(backend)
    folder = resolve(folder)
    found = find_images(folder)
    about = _about(place, networks, folder, backend)
    with open_table(out, about, _columns(networks), found.images, BATCH_SIZE) as table:
        for sentence in (f"{folder}: {found.sentence}", *found.left_out):
            logger.info(sentence)
        if missing := missing_of_person(networks, None, None):
            logger.info(missing)
        if table.done:
            logger.info(f"{table.done:,} rows were in {out} already.")
        waiting = found.images[table.done :]
        if waiting:
            predictor = Predictor(place, backend, padded=True)
            began = time.perf_counter()
            bar = tqdm(
                total=len(found.images),
                initial=table.done,
                desc="predicting",
                unit="image",
                disable=hide_bars(progress),
            )
            with bar:
                for rows in stream_rows(predictor, folder, waiting):
                    table.append(rows)
                    bar.update(len(rows))
            seconds = time.perf_counter() - began
            logger.info(
                f"{len(waiting):,} images with {predictor.computed_by} in {seconds:.0f} s "
                f"({len(waiting) / seconds:.1f} a second)."
            )
    if not about["familiarity"]:
        logger.info(
            f"The run {run} does not know which images are unlike its training images: it has no "
            f"{FAMILIARITY}, which notebook 06 writes."
        )
    for sentence in _summary(out):
        logger.info(sentence)


def _about(place: Path, networks: Networks, folder: Path, backend: str) -> dict[str, Any]:
    """What the numbers of a table depend on."""
    rules = Rules.of(place, networks)
    familiar = filter(None, map(familiarity_file, networks.files))
    return {
        "made_by": "mura predict",
        "run": place.name,
        "models": [_digest(file) for file in networks.files],
        "familiarity": [_digest(file) for file in familiar],
        "mirrored": networks.flip,
        "threshold": rules.threshold,
        "threshold_from": rules.threshold_from,
        "temperature": rules.temperature,
        "backend": backend,
        "batch_size": BATCH_SIZE,
        "folder": str(folder),
    }


def _digest(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _columns(networks: Networks) -> list[str]:
    return [
        *("path", "predicted", "predicted_body_part", "p_abnormal", "p_abnormal_calibrated"),
        *("called", "unfamiliar", *probability_columns(networks.classes)),
        *("remarks", "fault", "detail"),
    ]


def stream_rows(predictor: Predictor, folder: Path, paths: Sequence[str]) -> Iterator[list[list]]:
    """The rows of one batch of images after the other, decoded ahead of the networks.

    A batch is the same paths in every call that begins at a batch: faulty images leave their place
    in it empty, so that going on gives the same numbers, to the last bit.

    Args:
        predictor: made with `padded`.
        folder: that the paths are relative to.
        paths: of its images.

    Yields:
        `BATCH_SIZE` rows, at the end fewer, with the cells that `predict_folder` names.
    """

    def read(path: str) -> _Image:
        try:
            gray, inspection = examine_image(folder / path)
        except ImageFault as fault:
            return _Image(path, None, {}, (fault.kind, fault.detail))
        return _Image(path, predictor.prepare(gray), inspection.remarks, None)

    images = _ahead(read, paths, min(joblib.cpu_count(), _MOST_WORKERS), _AHEAD)
    compared = predictor.computed_by == "TensorFlow"
    while batch := [*itertools.islice(images, BATCH_SIZE)]:
        good = [image for image in batch if image.inputs is not None]
        if good and not compared:
            compared = True
            difference = predictor.difference_to_tensorflow([image.inputs for image in good])
            logger.info(
                f"{predictor.computed_by}: the largest difference of a probability to TensorFlow "
                f"is {difference:.1e} in the first {len(good)} images."
            )
        yield _rows(predictor, batch, good)


def _rows(predictor: Predictor, batch: Sequence[_Image], good: Sequence[_Image]) -> list[list]:
    """The rows of a batch, of which the networks see what is good."""
    answers = predictor.answer([image.inputs for image in good]) if good else None
    remarks = [image.remarks for image in good]
    results = iter(predictor.results(answers, remarks) if answers else ())
    empty = [None] * (len(_columns(predictor.networks)) - 3)
    return [
        _row(image.path, next(results))
        if image.inputs is not None
        else [image.path, *empty, *(image.fault or ())]
        for image in batch
    ]


def _row(path: str, result: dict[str, Any]) -> list[Any]:
    remarks = {remark["kind"]: remark["detail"] for remark in result["remarks"]}
    unfamiliar = result["unfamiliar"]
    return [
        *(path, result["label"], result["body_part"], result["p_abnormal"]),
        *(result["p_abnormal_calibrated"], result["called"]),
        None if unfamiliar is None else str(unfamiliar).lower(),
        *result["probabilities"].values(),
        json.dumps(remarks) if remarks else None,
        *(None, None),
    ]


def _ahead(work: Callable[[_T], _R], items: Iterable[_T], workers: int, most: int) -> Iterator[_R]:
    """Map in threads, in order, at most so many results ahead of who takes them."""
    waiting: deque[Future[_R]] = deque()
    with ThreadPoolExecutor(workers, initializer=_give_way) as pool:
        for item in items:
            waiting.append(pool.submit(work, item))
            if len(waiting) > most:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def _give_way() -> None:
    """Let this thread have only the time that the networks leave; Linux knows that of a thread."""
    if sys.platform == "linux":
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _NICENESS)


def _summary(path: Path) -> Iterator[str]:
    """What a complete table holds."""
    faults: Counter[str] = Counter()
    called: Counter[str] = Counter()
    unfamiliar = 0
    with path.open(encoding="utf-8", newline="") as stream:
        for row in csv.DictReader(stream):
            faults[row["fault"]] += 1
            called[row["called"]] += 1
            unfamiliar += row["unfamiliar"] == "true"
    predicted = faults.pop("", 0)
    yield (
        f"{predicted:,} images are predicted in {path}: {called['abnormal']:,} abnormal, "
        f"{called['normal']:,} normal, {unfamiliar:,} unlike the run's training images."
    )
    if faults:
        kinds = ", ".join(f"{kind} {count:,}" for kind, count in faults.most_common())
        yield f"{faults.total():,} files cannot be used ({kinds}): see the column fault."

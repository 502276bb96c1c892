"""Training batches a second: the pixel cache and one batched warp against ImageDataGenerator.

Both sides give augmented batches of 64 at 224 px with the report's ranges. ImageDataGenerator reads
PNG files, one image at a time, as the report's users run it; its batches have three channels in
[0, 1]. Ours have one channel in 0-255, because the network repeats and scales it. Making the cache
is a cost of its own, paid once.
"""

from __future__ import annotations

import itertools

import numpy as np
from _common import alternate, draw_manifest, machine, options, say, say_head, say_row, workspace
from _report import BATCH, SIZE, flow

from mura_utils.augmentation import Augmentation
from mura_utils.data.pixels import load_pixels
from mura_utils.generators import make_dataset
from mura_utils.report import AUGMENTATION


def main() -> None:
    """Measure both sides and print the ratios."""
    parser = options(__doc__)
    parser.add_argument("--images", type=int, default=1024)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    images, rounds = (64, 1) if arguments.quick else (arguments.images, arguments.rounds)

    with workspace() as folder:
        root, manifest, classes = draw_manifest(folder, images)
        report = flow(root, manifest, classes, training=True)
        pixels = load_pixels(root, manifest, SIZE, progress=False)
        one_hot = manifest["label"].to_numpy()[:, None] == np.asarray(classes)
        ours = make_dataset(
            pixels, np.arange(images), one_hot, BATCH, Augmentation(**AUGMENTATION), shuffle=True
        )
        fresh_caches = (folder / f"cache-{number}" for number in itertools.count())

        def run_report() -> None:
            for number in range(len(report)):
                report[number]
            report.on_epoch_end()

        def run_ours() -> None:
            for _ in ours:
                pass

        def make_cache() -> None:
            load_pixels(root, manifest, SIZE, cache_dir=next(fresh_caches), progress=False)

        seconds = alternate(
            {"ImageDataGenerator": run_report, "ours": run_ours, "pixel cache": make_cache}, rounds
        )

    theirs, own, cache = seconds.values()
    say_head(f"{images:,} images, {SIZE} px, batch {BATCH}", "seconds", "images/s")
    for name, value in seconds.items():
        say_row(name, f"{value:.2f}", f"{images / value:.0f}")
    say_head("ratio, ImageDataGenerator / ours", "times")
    say_row("an epoch, once the cache is there", f"{theirs / own:.1f}")
    for epochs in (1, 20):
        ratio = epochs * theirs / (cache + epochs * own)
        say_row(f"{epochs} epoch(s), making the cache included", f"{ratio:.1f}")
    say(f"\n{machine('tensorflow', 'keras', 'numpy', 'pillow', 'scipy')}")


if __name__ == "__main__":
    main()

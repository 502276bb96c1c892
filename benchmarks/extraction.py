"""How near the extraction comes to what the processor can multiply.

Images a second of DenseNet121 before `conv5_block14_2_conv` at 224 px, by each extractor, next to
the images a second that the machine's rate of a 4096 x 4096 float32 matrix product would allow. A
share above 100 % is possible: bfloat16 has a higher rate, and convolutions can be done with fewer
multiplications than they are counted with. Weights are random: the time does not depend on them.
"""

from __future__ import annotations

import numpy as np
import tensorflow as tf
from _common import (
    EXTRACTORS,
    alternate,
    draw_manifest,
    machine,
    options,
    say,
    say_head,
    say_row,
    workspace,
)

from mura_utils import frozen
from mura_utils.data.pixels import load_pixels
from mura_utils.experiments import load_experiment
from mura_utils.network.build import build_model

_BATCH = 64


def main() -> None:
    """Measure the matrix product and each extractor in turn, and print the shares."""
    parser = options(__doc__)
    parser.add_argument("--batches", type=int, default=4, help="batches of 64 a round")
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    side, batches, rounds = 4096, arguments.batches, arguments.rounds
    if arguments.quick:
        side, batches, rounds = 512, 1, 1

    experiment = load_experiment("exp6", weights="none")
    with workspace() as folder:
        root, manifest, classes = draw_manifest(folder, _BATCH)
        pixels = load_pixels(root, manifest, experiment.image_size, progress=False)
        images = tf.cast(pixels[..., np.newaxis], tf.float32)
    cut = frozen.split_network(build_model(experiment, classes))
    operations = 2 * sum(frozen.multiply_adds(cut.prefix).values())
    say(f"{operations / 1e9:.2f} GFLOP an image before {cut.first_trained}")

    matrix = np.random.default_rng(0).random((side, side), np.float32)
    sides = {"matrix product": lambda: matrix @ matrix}
    for choice in EXTRACTORS:
        changed = experiment.model_copy(update=choice)
        run, words, difference = frozen.extractor(cut, changed, pixels[..., np.newaxis])
        say(f"{words}: differs from float32 in TensorFlow by {difference:.2g} of the deviation")
        sides[words] = lambda run=run: [run(images) for _ in range(batches)]

    seconds = alternate(sides, rounds)
    rate = 2 * side**3 / seconds.pop("matrix product")
    allowed = rate / operations
    say_head("DenseNet121's frozen part, 224 px", "images/s", "share of the product's rate")
    say_row(f"float32 product, {rate / 1e9:.0f} GFLOP/s", f"{allowed:.1f}", "100 %")
    for words, value in seconds.items():
        speed = batches * _BATCH / value
        say_row(words, f"{speed:.1f}", f"{speed / allowed:.0%}".replace("%", " %"))
    say(f"\n{machine('tensorflow', 'keras', 'numpy', 'openvino')}")


if __name__ == "__main__":
    main()

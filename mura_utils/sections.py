"""The parameters of one experiment, section by section: names, defaults, bounds.

A function takes the section that it reads. An `experiments.Experiment` is all of them together, so
that it can be given for any.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from mura_utils.backbones import BACKBONES
from mura_utils.data.sources import SOURCES
from mura_utils.errors import shown
from mura_utils.parameter_types import (
    AnyCase,
    Attributes,
    BodyParts,
    Convolutions,
    Counts,
    FolderName,
    Fractions,
    Merge,
    Number,
    OnOff,
    OptionalPath,
    PathText,
    Poolings,
    Seed,
    Strides,
    Weights,
)


def _parameter(default: Any, notebook: str, description: str, **constraints: Any) -> Any:
    """A field that belongs to the first notebook that reads it (its two digits)."""
    return Field(
        default, description=description, json_schema_extra={"notebook": notebook}, **constraints
    )


class Section(BaseModel):
    """Values that belong together; unknown names and wrong types are errors of pydantic."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)

    def conditions(self) -> Iterator[tuple[bool, str]]:
        """What must hold between the values, each with a sentence if it does not."""
        yield from ()

    @model_validator(mode="after")
    def _parameters_fit_each_other(self) -> Section:
        for section in type(self).__mro__:
            if "conditions" in vars(section):
                for fits, sentence in section.conditions(self):
                    if not fits:
                        raise ValueError(sentence)
        return self


class Run(Section):
    """What a run is called."""

    name: FolderName = _parameter("demo", "01", "the run's name: its folder in runs/")


class Seeded(Section):
    """The seed of everything that is drawn in a training."""

    seed: Seed = _parameter(0, "05", "seed of initialization, order and augmentation")


class Data(Section):
    """Which images there are (notebooks 01 and 02)."""

    source: Annotated[Literal[("auto", *SOURCES)], AnyCase] = _parameter(
        "phantom", "01", "what the data folder holds; auto recognizes it from its content"
    )
    data_dir: PathText = _parameter("phantom", "01", "the data set's folder: absolute, or in data/")
    # Of fewer than 80 a class can miss a split; numbers of patients have five digits.
    phantom_patients: int = _parameter(
        360, "01", "patients to draw when the source is phantom", ge=80, le=99_999
    )
    phantom_seed: Seed = _parameter(0, "01", "seed of the phantoms")
    phantom_faults: bool = _parameter(
        True, "01", "plant damaged files and rows among the phantoms, about one in a hundred"
    )
    phantom_label_noise: Number = _parameter(
        0.0, "01", "share of the phantoms' studies with a wrong label", ge=0, le=0.5
    )
    phantom_age_effect: Number = _parameter(
        0.0, "01", "how strongly a phantom's age tells its finding: 0 not at all", ge=0, le=1
    )
    read_pixels: bool = _parameter(True, "01", "open every file; false lists the files only")
    exclude_duplicates: bool = _parameter(
        False, "02", "of identical files admit one, none if labels differ; false admits all"
    )
    body_parts: BodyParts = _parameter(
        [], "02", "the body parts to admit, such as [ELBOW, WRIST]; without any: all"
    )
    exclude: BodyParts = _parameter([], "02", "body parts to leave out, such as [FINGER]")
    merge: Merge = _parameter(
        {}, "02", "body parts that become one, such as {ARM: [FOREARM, HUMERUS]}"
    )

    def conditions(self) -> Iterator[tuple[bool, str]]:  # noqa: D102
        merged = {part for parts in self.merge.values() for part in parts}
        both = ", ".join(sorted({*self.body_parts} & {*self.exclude}))
        gone = ", ".join(sorted(merged & {*self.exclude}))
        absent = ", ".join(sorted(merged - {*self.body_parts})) if self.body_parts else ""
        yield not both, f"body_parts and exclude both name {shown(both)}: take it out of one"
        yield not gone, f"merge and exclude both name {shown(gone)}: take it out of one"
        yield not absent, f"merge names {shown(absent)}, which body_parts does not admit: add it"
        yield (
            self.read_pixels or not self.exclude_duplicates,
            "exclude_duplicates = True needs read_pixels = True: they are found by content",
        )


class Split(Section):
    """Which image is for training, validation or test (notebook 03)."""

    protocol: Annotated[
        Literal["official-patient", "official-image", "stratified-80-10-10", "patient"], AnyCase
    ] = _parameter("official-patient", "03", "how images are split")
    fractions: Fractions = _parameter(
        [0.8, 0.1, 0.1], "03", "train, validation, test shares of the protocol patient"
    )
    split_seed: Seed = _parameter(0, "03", "seed of the split")


class Pixels(Section):
    """What array a file becomes (notebook 04)."""

    # The backbones take no less, radiographs have no more.
    image_size: int = _parameter(
        224, "04", "side of the model's square input, pixels", ge=32, le=4096
    )
    resize: Annotated[Literal["stretch", "pad"], AnyCase] = _parameter(
        "stretch", "04", "stretch: to a square; pad: keep the sides' ratio and add black"
    )


class Components(Section):
    """The images that principal component analysis is tried on (notebook 04)."""

    pca_image_size: int = _parameter(
        64, "04", "side of the images given to PCA, pixels; 256 take gigabytes", ge=8, le=256
    )
    pca_images_per_class: Counts = _parameter(
        [10, 1000], "04", "training images a class for PCA (as many as there are)"
    )


class Augmentation(Section):
    """How a training image is varied (notebook 04)."""

    rotation_range: Number = _parameter(10.0, "04", "largest rotation, degrees", ge=0, le=360)
    width_shift_range: Number = _parameter(
        0.05, "04", "largest shift, share of the width", ge=0, le=1
    )
    height_shift_range: Number = _parameter(
        0.05, "04", "largest shift, share of the height", ge=0, le=1
    )
    shear_range: Number = _parameter(
        0.2, "04", "largest shear, degrees; 90 flattens the image to a line", ge=0, lt=90
    )
    zoom_range: Number = _parameter(0.1, "04", "largest zoom per axis, share", ge=0, lt=1)
    horizontal_flip: bool = _parameter(True, "04", "mirror half of the training images")
    grey_range: Number = _parameter(
        0.0, "04", "largest change of gamma, contrast and brightness, share", ge=0, lt=1
    )
    augment: bool = _parameter(True, "05", "augment the training images")


class Network(Pixels, Seeded):
    """The network, where its weights come from, and which of them are trained (notebook 05)."""

    backbone: Annotated[Literal[tuple(BACKBONES)], AnyCase] = _parameter(
        "densenet121", "05", "the network before the head"
    )
    # MobileNet's first layer has 32 filters, of which one must be left.
    alpha: Number = _parameter(1.0, "05", "width multiplier of mobilenet", ge=1 / 32, le=2)
    weights: Weights = _parameter(
        "phantom", "05", "phantom, imagenet, none, a weights file, or an earlier run's model.keras"
    )
    scaling: Annotated[Literal["unit", "backbone"], AnyCase] = _parameter(
        "backbone", "05", "unit: [0, 1] as in the report; backbone: as its weights expect"
    )
    freeze_batch_norm: bool = _parameter(
        False, "05", "keep the backbone's batch normalization as its weights have it"
    )
    unfreeze: Convolutions = _parameter(
        5, "05", "trainable convolutions of the backbone, counted from its end, or all"
    )
    head: Annotated[Literal["dense", "attention", "pooled"], AnyCase] = _parameter(
        "attention", "05", "dense: exp1-4; attention: exp5-6; pooled: several poolings side by side"
    )
    pooling: Poolings = _parameter(
        ["average", "max", "attention"], "05", "of the head pooled: average, max, lse, attention"
    )
    feature_strides: Strides = _parameter(
        [16, 32], "05", "pixels a cell of the maps that attention pools: [32] or [16, 32]"
    )
    tabular: Attributes = _parameter(
        [], "05", "what the head reads beside the image: age, sex, both, or nothing"
    )
    squeeze_excite: bool = _parameter(True, "05", "channel attention before the attention heads")
    dense_units: list[Annotated[int, Field(ge=1, le=8192)]] = _parameter(
        [1024], "05", "dense layers of the head dense", max_length=5
    )
    dropout: list[Annotated[Number, Field(ge=0, le=0.99)]] = _parameter(
        [0.2, 0.4, 0.4, 0.4, 0.4], "05", "rates: five for the head attention, else one"
    )
    fast_dropout: bool = _parameter(
        True, "05", "draw the dropout of the attended maps after their pooling, which is quicker"
    )
    l1: Number = _parameter(0.0, "05", "L1 factor on dense kernels", ge=0, le=1)
    l2: Number = _parameter(0.0001, "05", "L2 factor on dense kernels", ge=0, le=1)
    batch_norm_momentum: Number = _parameter(
        0.9, "05", "of moving statistics; Keras's 0.99 lags behind in short runs", ge=0, lt=1
    )

    def conditions(self) -> Iterator[tuple[bool, str]]:  # noqa: D102
        backbone, weights, unfreeze = self.backbone, self.weights, shown(self.unfreeze)
        facts = BACKBONES[backbone]
        rates, count = 5 if self.head == "attention" else 1, facts.convolutions
        yield (
            len(self.dropout) == rates,
            f"the head {self.head} takes {rates} dropout rate(s), not {shown(self.dropout)}",
        )
        yield (
            weights != "phantom" or facts.phantom,
            f"the weights phantom are densenet121's: with the backbone {backbone} give "
            "weights imagenet, none, or a file of `mura pretrain`",
        )
        yield (
            self.alpha == 1 or bool(facts.alphas),
            f"alpha = {self.alpha}, but the backbone {backbone} has one width: leave it at 1",
        )
        yield (
            not facts.alphas or self.alpha in facts.alphas or weights != "imagenet",
            f"alpha = {self.alpha}, but the weights imagenet exist for "
            f"{', '.join(map(str, facts.alphas))}: give one of these, or other weights",
        )
        yield (
            self.head != "pooled" or self.feature_strides == [32] or self.image_size % 32 == 0,
            f"image_size = {self.image_size}, but feature_strides = [16, 32] needs a multiple of "
            "32: give that, or feature_strides = [32]",
        )
        yield (
            self.unfreeze == "all" or self.unfreeze <= count,
            f"unfreeze = {unfreeze}, but {backbone} has {count} convolutions: give a smaller "
            "number, or all",
        )


def has_finding_map(network: Network) -> bool:
    """Whether the head has an attention map, the first of which masks can teach."""
    return network.head == "attention" or (
        network.head == "pooled" and "attention" in network.pooling
    )


class Training(Seeded):
    """Loss, optimizer and schedule, and what computes them (notebook 05)."""

    batch_size: int = _parameter(32, "05", "images a step, or all there are", ge=1, le=65_536)
    epochs: int = _parameter(20, "05", "epochs at most", ge=1, le=100_000)
    # Adam changes each weight by about this much in a step.
    learning_rate: Number = _parameter(3e-4, "05", "Adam's initial rate", ge=1e-12, le=1)
    early_stopping_patience: int = _parameter(
        10, "05", "epochs without a better validation loss before training stops", ge=1, le=100_000
    )
    keep_epoch: Annotated[Literal["best", "last"], AnyCase] = _parameter(
        "best", "05", "which epoch's weights: of the lowest validation loss, or of the last one"
    )
    reduce_lr_patience: int = _parameter(
        4, "05", "epochs without one before the learning rate is reduced", ge=1, le=100_000
    )
    reduce_lr_factor: Number = _parameter(0.2, "05", "factor of that reduction", gt=0, lt=1)
    min_learning_rate: Number = _parameter(
        1e-7, "05", "floor of the learning rate with the schedule plateau", ge=0, le=1
    )
    schedule: Annotated[Literal["plateau", "cosine"], AnyCase] = _parameter(
        "plateau", "05", "plateau: the rate falls as above; cosine: falls to 0 over all epochs"
    )
    warmup_epochs: int = _parameter(
        0, "05", "epochs over which the schedule cosine first raises the rate from 0", ge=0, le=1000
    )
    weight_decay: Number = _parameter(
        0.0, "05", "share of each weight that AdamW takes off, times the rate", ge=0, le=1
    )
    mask_supervision: Number = _parameter(
        0.0, "05", "weight of the loss that teaches an attention map the masks", ge=0, le=1000
    )
    second_look: bool = _parameter(
        False, "05", "learn from close-ups too, and read the hottest region of an image once more"
    )
    label_smoothing: Number = _parameter(
        0.0, "05", "probability that a label gives away to all classes", ge=0, lt=1
    )
    sampling: Annotated[Literal["natural", "balanced"], AnyCase] = _parameter(
        "natural", "05", "balanced: an epoch draws, with replacement, each class alike often"
    )
    class_weights: bool = _parameter(
        False, "05", "weigh training images by the rarity of their class"
    )
    focal_gamma: Number = _parameter(
        0.0, "05", "focal loss's exponent; 0 is plain cross-entropy", ge=0, le=100
    )
    precision: Annotated[Literal["float32", "mixed", "int8"], AnyCase] = _parameter(
        "float32", "05", "mixed: float16 on a GPU, bfloat16 on a CPU; int8: stored activations"
    )
    kernels: Annotated[Literal["fast", "keras"], AnyCase] = _parameter(
        "fast", "05", "what trains on a CPU: quicker kernels with the same results, or Keras's own"
    )
    deterministic: bool = _parameter(
        True, "05", "same seed, same history also on a GPU; false lets XLA compile there"
    )
    steps_per_execution: int = _parameter(
        1, "05", "steps a call, or all there are; more keep a GPU busier", ge=1, le=10_000
    )

    def conditions(self) -> Iterator[tuple[bool, str]]:  # noqa: D102
        yield (
            self.schedule != "plateau" or self.min_learning_rate <= self.learning_rate,
            f"min_learning_rate = {self.min_learning_rate} is above learning_rate = "
            f"{self.learning_rate}: lower it",
        )
        yield (
            not self.mask_supervision or not self.class_weights,
            "class_weights = True and mask_supervision: Keras weighs the classes of one loss only; "
            "give sampling = balanced instead",
        )
        yield (
            self.sampling == "natural" or not self.class_weights,
            "sampling = balanced and class_weights = True correct for rare classes twice: give one",
        )
        yield (
            self.schedule == "cosine" or not self.warmup_epochs,
            f"warmup_epochs = {self.warmup_epochs} belongs to the schedule cosine: give that, or 0",
        )
        yield (
            self.warmup_epochs < self.epochs,
            f"warmup_epochs = {self.warmup_epochs}, but there are {self.epochs} epochs: leave one",
        )


class Storage(Section):
    """Whether the frozen part's activations are stored, and how many versions (notebook 05)."""

    cache_features: Annotated[Literal["auto", "on", "off"], OnOff] = _parameter(
        "auto", "05", "compute the frozen part once and train on its stored activations"
    )
    views: int = _parameter(
        1, "05", "augmented views of a training image to store, an open file each", ge=1, le=100
    )
    view_seed: Seed = _parameter(0, "05", "seed of those views; runs of all seeds share them")
    stored_as: Annotated[Literal["float16", "uint8"], AnyCase] = _parameter(
        "float16", "05", "of activations: float16, or uint8 by channel, in about half the disk"
    )
    extractor: Annotated[Literal["auto", "tensorflow", "openvino"], AnyCase] = _parameter(
        "auto", "05", "what computes the activations to store; auto: OpenVINO if installed"
    )


class Evaluation(Section):
    """How predictions are judged (notebook 06)."""

    threshold: Number = _parameter(
        0.5, "06", "a study is abnormal above this probability", ge=0, le=1
    )
    operating_point: Annotated[
        Literal["threshold", "youden", "sensitivity", "specificity"], AnyCase
    ] = _parameter(
        "specificity", "06", "the rule that chooses a second threshold, on validation studies"
    )
    operating_target: Number = _parameter(
        0.9, "06", "what the rules sensitivity and specificity reach on validation", gt=0, le=1
    )
    bootstrap: int = _parameter(
        2000, "06", "patient-level resamples behind the intervals, in memory", ge=100, le=100_000
    )
    relabel: OptionalPath = _parameter(
        "", "06", "a CSV file of other labels to evaluate with as well: absolute, or in data/"
    )


class Explanation(Section):
    """How heat-maps are judged (notebook 07)."""

    scored_images: int = _parameter(
        24, "07", "abnormal test images whose heat-maps are scored, in memory", ge=2, le=10_000
    )
    checked_images: int = _parameter(
        6, "07", "test images that are hidden, shifted and explained again", ge=2, le=1000
    )

from __future__ import annotations

import os

import pytest
import yaml

from mura_utils.errors import UserError
from mura_utils.experiments import (
    EXPERIMENTS,
    Experiment,
    load_experiment,
    owner,
    parse_assignment,
    read_parameters,
    relabel_file,
    save_experiment,
    validate_parameters,
)

FILES = sorted(EXPERIMENTS.glob("*.yaml"))


@pytest.mark.parametrize(
    "path",
    [path for path in FILES if not path.stem.startswith("search")],
    ids=lambda path: path.stem,
)
def test_every_experiment_is_valid_and_named_after_its_file(path):
    assert load_experiment(path).name == path.stem


def test_the_demo_is_the_defaults():
    assert load_experiment("demo") == Experiment()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"backbnoe": "mobilenet"}, "unknown parameter 'backbnoe'; did you mean 'backbone'"),
        ({"epochs": "3"}, "epochs = '3': input should be a valid integer"),
        ({"epochs": 0}, "epochs = 0: .*greater than or equal to 1"),
        ({"fractions": [0.5, 0.5, 0.5]}, "fractions = .*three positive shares that sum to 1"),
        ({"name": "../demo"}, "name = '../demo': use letters"),
        ({"unfreeze": -1}, "unfreeze = -1: .*from 0 up, or all"),
        ({"head": "dense", "dropout": [0.5, 0.5]}, "the head dense takes 1 dropout rate"),
        ({"backbone": "mobilenet"}, "the weights phantom are densenet121's: with the backbone mob"),
    ],
)
def test_a_wrong_parameter_is_one_sentence_that_names_it(changes, message):
    with pytest.raises(UserError, match=message) as caught:
        validate_parameters(changes, "mine.yaml")
    assert str(caught.value).startswith("mine.yaml: ")
    assert "\n" not in str(caught.value)


NUMBERS = {
    "phantom_patients": (79, 100_000),
    "phantom_seed": (-1, 2**32),
    "phantom_label_noise": (-1e-9, 0.51),
    "exclude": ([""], ["HAND", "hand"]),
    "merge": (
        {"ARM": []},
        {" ": ["HAND"]},
        {"ARM": [" "]},
        {"ARM": ["HAND", "hand"]},
        {"ARM": ["HAND"], "LEG": ["Hand"]},
        {"ARM": ["HAND"], "arm": ["FOOT"]},
    ),
    "split_seed": (-1, 2**32),
    "image_size": (31, 4097),
    "rotation_range": (-1e-9, 360.1),
    "width_shift_range": (-1e-9, 1.1),
    "height_shift_range": (-1e-9, 1.1),
    "shear_range": (-1e-9, 90),
    "zoom_range": (-1e-9, 1),
    "grey_range": (-1e-9, 1),
    "phantom_age_effect": (-1e-9, 1.1),
    "tabular": (["weight"], ["age", "age"], ["AGE", "age"]),
    "pooling": ([], ["mean"], ["max", "max"]),
    "feature_strides": ([], [16], [8, 16]),
    "weight_decay": (-1e-9, 1.1),
    "warmup_epochs": (-1, 1001),
    "mask_supervision": (-1e-9, 1001),
    "pca_image_size": (7, 257),
    "pca_images_per_class": ([], [0], [1_000_001], [3, 3], [*range(1, 12)]),
    "seed": (-1, 2**32),
    "alpha": (0.031, 2.1),
    "dense_units": ([0], [-1], [8193], [8] * 6),
    "dropout": ([-0.1] * 5, [0.991] * 5, [float("nan")] * 5),
    "l1": (-1e-9, 1.1),
    "l2": (-1e-9, 1.1),
    "batch_norm_momentum": (-1e-9, 1),
    "batch_size": (0, 65_537, 10**12),
    "epochs": (0, 100_001),
    "learning_rate": (0, 1e-13, 1.1, 1e30),
    "early_stopping_patience": (0, 100_001),
    "reduce_lr_patience": (0, 100_001),
    "reduce_lr_factor": (0, 1),
    "min_learning_rate": (-1e-9, 1.1),
    "label_smoothing": (-1e-9, 1),
    "focal_gamma": (-1e-9, 101),
    "views": (0, 101),
    "view_seed": (-1, 2**32),
    "steps_per_execution": (0, 10_001),
    "threshold": (-1e-9, 1.1),
    "operating_target": (0, 1.1),
    "bootstrap": (99, 100_001),
    "scored_images": (1, 10_001),
    "checked_images": (1, 1001),
}


@pytest.mark.parametrize(
    ("name", "value"), [(name, value) for name, values in NUMBERS.items() for value in values]
)
def test_what_lies_outside_the_bounds_is_refused(name, value):
    others = {"backbone": "mobilenet", "weights": "none", "schedule": "cosine"}
    with pytest.raises(UserError, match=rf"^test: {name}(\[\d\])? = "):
        validate_parameters({**others, name: value}, "test")


@pytest.mark.parametrize("value", [float("inf"), float("-inf"), float("nan"), 10**400, True, "3"])
def test_numbers_are_finite_and_no_text(value):
    named = [name for name, field in Experiment.model_fields.items() if field.annotation is float]
    assert len(named) == 21
    for name in [*named, "epochs", "seed"]:
        with pytest.raises(UserError, match=f"^test: {name} = "):
            validate_parameters({name: value}, "test")


def test_every_number_has_bounds_that_are_tested():
    fields = Experiment.model_json_schema()["properties"]
    kinds = ("integer", "number", "array", "object")
    bounded = {name for name, field in fields.items() if field.get("type") in kinds}
    assert bounded - {"fractions", "body_parts"} == NUMBERS.keys()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"fractions": [0.9995, 0.0004, 0.0001]}, "each 0.001 or more"),
        ({"fractions": [0.8, 0.1, float("nan")]}, r"fractions\[2\] = nan: .*finite"),
        ({"fractions": []}, "three positive shares"),
        ({"unfreeze": True}, "from 0 up, or all"),
        ({"unfreeze": 121}, "unfreeze = 121, but densenet121 has 120 convolutions"),
        ({"unfreeze": "none"}, "unfreeze = 'none': give a number of convolutions"),
        ({"dropout": []}, r"the head attention takes 5 dropout rate\(s\), not \[\]"),
        ({"cache_features": "on", "unfreeze": "all"}, "leaves nothing frozen to store"),
        ({"cache_features": "on", "unfreeze": 120}, "leaves nothing frozen to store"),
        ({"sampling": "balanced", "class_weights": True}, "correct for rare classes twice"),
        ({"class_weights": True, "mask_supervision": 1}, "the classes of one loss only"),
        ({"alpha": 0.5}, "alpha = 0.5, but the backbone densenet121 has one width: leave it at 1"),
        (
            {"backbone": "mobilenet", "weights": "imagenet", "alpha": 0.3},
            "alpha = 0.3, but the weights imagenet exist for 0.25, 0.5, 0.75, 1.0",
        ),
        (
            {"learning_rate": 1e-8},
            "min_learning_rate = 1e-07 is above learning_rate = 1e-08: lower it",
        ),
        ({"exclude_duplicates": True, "read_pixels": False}, "needs read_pixels = True"),
        ({"body_parts": ["ELBOW", "elbow"]}, r"body_parts = .*: name each body part once"),
        ({"body_parts": [" "]}, "name each body part once"),
        ({"body_parts": "ELBOW"}, r"body_parts = 'ELBOW': .*list"),
        ({"body_parts": ["HAND"], "exclude": ["Hand"]}, "body_parts and exclude both name 'HAND'"),
        ({"exclude": ["HIP"], "merge": {"A": ["hip"]}}, "merge and exclude both name 'HIP': take"),
        ({"body_parts": ["HIP"], "merge": {"A": ["LEG"]}}, "'LEG', which body_parts does not adm"),
        ({"merge": {"ARM": "HAND"}}, r"merge\[ARM\] = 'HAND': .*list"),
        ({"merge": [["HAND"]]}, r"merge = \[\['HAND'\]\]: .*dictionary"),
        ({"name": ""}, "a letter or a digit first"),
        ({"name": ".demo"}, "a letter or a digit first"),
        ({"name": "a" * 201}, "at most 200 characters"),
        ({"name": "demo."}, "no folder on Windows can have this name"),
        ({"name": "Con.1"}, "no folder on Windows can have this name"),
        ({"data_dir": ""}, "data_dir = '': give a path"),
        ({"data_dir": "a\0b"}, r"data_dir = 'a\\x00b': give a path"),
        ({"data_dir": "\udcff"}, "no text in UTF-8"),
        ({"data_dir": "a/" + "é" * 128}, "names of 255 bytes"),
        ({"data_dir": "a/" * 2001}, "paths of 4,000"),
        ({"weights": " "}, "weights = ' ': give a path"),
        ({"protocol": None}, "protocol = None: input should be 'official-patient'"),
        ({"threshold": 2}, r"less than or equal to 1 \(a study is abnormal above this prob"),
        ({3: 4}, "unknown parameter '?3'?; known are name, source"),
    ],
)
def test_what_cannot_run_is_refused_with_its_bound(changes, message):
    with pytest.raises(UserError, match=message) as caught:
        validate_parameters(changes, "test")
    assert str(caught.value).startswith("test: ")


@pytest.mark.parametrize(
    "changes",
    [
        {"epochs": "x" * 10**6},
        {"epochs": ["\n\x1b[31m"] * 10**5},
        {"a\n" * 10**5: 1},
        {"seed": 10**5000},
    ],
)
def test_a_sentence_is_one_short_line_whatever_the_value(changes):
    with pytest.raises(UserError) as caught:
        validate_parameters(changes, "test")
    assert str(caught.value).isprintable() and len(str(caught.value)) < 1200


@pytest.mark.parametrize(
    ("changes", "kept"),
    [
        ({"unfreeze": "All"}, "all"),
        ({"backbone": "DenseNet121"}, "densenet121"),
        ({"source": "AUTO"}, "auto"),
        ({"protocol": "Official-Image"}, "official-image"),
        ({"weights": "Phantom"}, "phantom"),
        ({"weights": "/Weights/None.h5"}, "/Weights/None.h5"),
        ({"cache_features": "OFF"}, "off"),
        ({"cache_features": False}, "off"),  # what papermill reads from `cache_features: off`
        ({"cache_features": True}, "on"),
        ({"learning_rate": "1e-5"}, 1e-5),  # and from `learning_rate: 1e-5`
        ({"threshold": 1}, 1.0),
        ({"body_parts": ["wrist", "Elbow"]}, ["ELBOW", "WRIST"]),
        ({"merge": {"leg": ["b"], "Arm": ["Y", "x"]}}, {"ARM": ["X", "Y"], "LEG": ["B"]}),
    ],
)
def test_harmless_spellings_are_taken_and_one_is_kept(changes, kept):
    (name,) = changes
    assert getattr(validate_parameters(changes, "test"), name) == kept


def test_conditions_hold_only_where_they_matter():
    for changes in (
        {"learning_rate": 1e-8, "schedule": "cosine"},
        {"backbone": "mobilenet", "weights": "none", "alpha": 0.3, "unfreeze": 14},
        {"backbone": "densenet169", "weights": "imagenet", "unfreeze": 168},
        {"cache_features": "on", "unfreeze": 119},
        {"head": "dense", "dropout": [0.5], "dense_units": []},
    ):
        validate_parameters(changes, "test")


def test_an_unknown_experiment_lists_the_known():
    with pytest.raises(UserError, match=r"no experiment 'exp9'.*exp1.*exp6"):
        load_experiment("exp9")


def test_a_file_that_is_no_mapping_is_refused(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("- epochs: 3\n")
    with pytest.raises(UserError, match="one 'parameter: value' a line"):
        load_experiment(path)
    path.write_text("epochs: [3\n")
    with pytest.raises(UserError, match="is not YAML"):
        load_experiment(path)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("learning_rate: 1e-5\nl2: 1E5\nl1: -1.5e-3", [1e-5, 1e5, -1.5e-3]),
        ("a: 12\nb: -3\nc: 0\nd: 1_000", [12, -3, 0, 1000]),
        ("a: .5\nb: 1.\nc: 0.25\nd: -.inf", [0.5, 1.0, 0.25, float("-inf")]),
        ("a: true\nb: False\nc: ~\nd:", [True, False, None, None]),
        ("a: yes\nb: no\nc: on\nd: Off", ["yes", "no", "on", "Off"]),
        ("a: 12:30:00\nb: 2024-01-01\nc: 010\nd: 0x1F", ["12:30:00", "2024-01-01", "010", "0x1F"]),
        ("a: '1e-5'\nb: \"3\"\nc: 1e\nd: e5", ["1e-5", "3", "1e", "e5"]),
        ("a: [1, 1e-1, x]\nb: []\nc:\n- no", [[1, 0.1, "x"], [], ["no"]]),
        ("\ufeffa: 1", [1]),
        ("a: {ARM: [x, 1]}\nb: {}\nc:\n  no:\n  - 1", [{"ARM": ["x", 1]}, {}, {"no": [1]}]),
        ("a: &x [1, 2]\nb: *x", [[1, 2], [1, 2]]),
        ("a: " + "9" * 5000, ["9" * 5000]),
    ],
)
def test_values_are_those_of_yaml_1_2(tmp_path, text, expected):
    path = tmp_path / "mine.yaml"
    path.write_text(text, encoding="utf-8")
    read = list(read_parameters(path).values())
    assert read == expected and [type(v) for v in read] == [type(v) for v in expected]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("epochs: 3\nseed: 1\nepochs: 4", "epochs stands in line 1 and in line 3: keep one"),
        ("epochs: 3\n\tseed: 1", r"not YAML in line 2: .*'\\t'"),
        ("epochs: 3\n1: 2", "line 2: there is no parameter's name before the colon"),
        ("~: 2", "line 1: there is no parameter's name"),
        ("? [a]\n: 2", "line 1: there is no parameter's name"),
        ("base: &b {a: 1}\n<<: *b", "line 1: base: a value is text, a number"),
        ("epochs: {a: 1}", "line 1: epochs: a value is text"),
        ("epochs: [[1]]", "line 1: epochs: a value is text"),
        ("merge: {a: [{b: 1}]}", "line 1: merge: a value is text"),
        ("merge: {a: [b], a: [c]}", "line 1: merge: it gives a name twice"),
        ("merge: {[a]: [b]}", "line 1: merge: a value is text"),
        ("epochs: &a [*a]", "line 1: epochs: a value is text"),
        ("epochs: !!int many", "line 1: epochs: a value is text"),
        ("epochs: !!python/object:os.system 1", "line 1: epochs: a value is text"),
        ("epochs: *b", "not YAML in line 1: found undefined alias"),
        ("a: 1\n---\nb: 2", "not YAML in line 2: .*another document"),
        ("epochs: " + "[" * 50_000, "nested too deep"),
        ("epochs: 3\nname: a\x00", "not YAML: .*special characters"),
        ("", "must hold one 'parameter: value' a line"),
        ("epochs", "must hold one 'parameter: value' a line"),
        ("# " + "x" * 100_000, "more than 100,000 bytes"),
    ],
)
def test_a_file_that_is_wrong_is_refused_where_it_is_wrong(tmp_path, text, message):
    path = tmp_path / "mine.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(UserError, match=message) as caught:
        load_experiment(path)
    assert str(caught.value).startswith(f"{path}") and "\n" not in str(caught.value)


def test_aliases_cost_no_memory(tmp_path):
    path = tmp_path / "laughs.yaml"
    levels = [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 30)]
    path.write_text("a0: &a0 [x]\n" + "\n".join(levels))
    with pytest.raises(UserError, match="line 2: a1: a value is text, a number"):
        read_parameters(path)


def test_only_a_text_file_is_read(tmp_path):
    folder, pipe, binary = (tmp_path / name for name in ("folder", "pipe", "binary"))
    folder.mkdir()
    os.mkfifo(pipe)
    binary.write_bytes(b"\xff\xfe\x00a")
    for path, message in (
        (folder, "this is no regular file"),
        (pipe, "this is no regular file"),
        (binary, "this is no text in UTF-8"),
        (tmp_path / "absent", "No such file"),
    ):
        with pytest.raises(UserError, match=f"{path}: {message}"):
            read_parameters(path)
    for name in (folder, pipe, "\0", ""):
        with pytest.raises(UserError, match="There is no experiment"):
            load_experiment(name)
    with pytest.raises(UserError, match="File name too long"):
        load_experiment("a" * 300)


def test_a_record_of_an_earlier_version_takes_the_defaults(tmp_path):
    save_experiment(Experiment(), tmp_path / "all.yaml")
    lines = (tmp_path / "all.yaml").read_text().splitlines()
    kept = [line for line in lines if not line.startswith("body_parts")]
    assert len(kept) == len(lines) - 1
    (tmp_path / "old.yaml").write_text("\n".join(kept))
    assert load_experiment(tmp_path / "old.yaml") == Experiment()


@pytest.mark.parametrize("name", ["1e5", "010", "yes", "1_0", "2024-01-01", "null", "0x1F"])
def test_a_name_that_looks_like_a_number_is_recorded_as_text(tmp_path, name):
    save_experiment(Experiment(name=name, data_dir=name), tmp_path / "experiment.yaml")
    assert read_parameters(tmp_path / "experiment.yaml")["name"] == name
    assert yaml.safe_load((tmp_path / "experiment.yaml").read_text())["data_dir"] == name


def test_saved_and_loaded_are_equal(tmp_path):
    experiment = load_experiment("exp6", unfreeze="all", fractions=[0.6, 0.1, 0.3])
    save_experiment(experiment, tmp_path / "experiment.yaml")
    assert load_experiment(tmp_path / "experiment.yaml") == experiment


@pytest.mark.parametrize(
    ("typed", "expected"),
    [
        ("epochs=3", ("epochs", 3)),
        ("learning_rate=1e-5", ("learning_rate", 1e-5)),
        ("fractions=[0.6, 0.1, 0.3]", ("fractions", [0.6, 0.1, 0.3])),
        ("name=007", ("name", "007")),
        ("weights=/a=b/w.h5", ("weights", "/a=b/w.h5")),
        ("augment=false", ("augment", False)),
        ("unfreeze=all", ("unfreeze", "all")),
        ("cache_features=off", ("cache_features", "off")),
        ("body_parts=[ELBOW, no]", ("body_parts", ["ELBOW", "no"])),
        ("epochs=", ("epochs", None)),
    ],
)
def test_assignments_are_read_as_typed(typed, expected):
    assert parse_assignment(typed) == expected


def test_an_assignment_without_value_is_refused():
    with pytest.raises(UserError, match="write it as key=value"):
        parse_assignment("epochs")
    with pytest.raises(UserError, match=r"^-p 'epochs=\[3': is not YAML in line 1: "):
        parse_assignment("epochs=[3")
    with pytest.raises(UserError, match=r"^-p 'epochs=\{a: 1\}': a value is text, a number"):
        parse_assignment("epochs={a: 1}")


def test_every_parameter_has_an_owner_and_a_description():
    for name, field in Experiment.model_fields.items():
        assert owner(name) in {"01", "02", "03", "04", "05", "06", "07"}
        assert field.description


def test_the_reports_experiments_hold_the_reports_hyper_parameters():
    for number in range(1, 7):
        values = yaml.safe_load((EXPERIMENTS / f"exp{number}.yaml").read_text())
        expected = {
            "batch_size": 64,
            "epochs": 150,
            "learning_rate": 1e-5,
            "early_stopping_patience": 10,
            "reduce_lr_factor": 0.2,
            "reduce_lr_patience": 5,
            "min_learning_rate": 1e-7,
        }
        assert {name: values[name] for name in expected} == expected


def test_the_reports_rows_differ_in_their_first_block_only():
    marks = ("# What makes this row of Fig. 28:", "# What exp1 to exp6 have in common:")
    common = set()
    for number in range(1, 7):
        text = (EXPERIMENTS / f"exp{number}.yaml").read_text()
        assert all(text.count(mark) == 1 for mark in marks)
        common.add(text.split(marks[1])[1])
    assert len(common) == 1


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_the_head_of_an_experiment_says_what_to_expect(path):
    head = path.read_text().split("name:")[0]
    assert "Time:" in head and "Score:" in head


def test_a_file_of_other_labels_is_sought_in_the_data_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("MURA_DATA_DIR", str(tmp_path))
    given = validate_parameters({"relabel": "labels.csv"}, "test")
    with pytest.raises(UserError, match=r"^relabel: .*labels\.csv is no file; give a CSV file"):
        relabel_file(given)
    (tmp_path / "labels.csv").touch()
    assert relabel_file(given) == tmp_path / "labels.csv"
    assert relabel_file(Experiment()) is None

import json
import warnings

import numpy as np
import pandas as pd
import pytest
from planted import binary_by_sklearn
from sklearn import metrics as sk

from mura_utils import evaluation, report
from mura_utils.errors import UserError
from mura_utils.labels import body_part, p_abnormal
from mura_utils.paths import REPOSITORY, read_table, write_csv

PARTS = ("ELBOW", "HAND", "WRIST")
CLASSES = sorted(f"{a}-{part}" for a in ("Abnormal", "Normal") for part in PARTS)


def make_manifest(patients: int, seed: int = 0, parts=PARTS) -> pd.DataFrame:
    """Patients with one or two studies of one to four views, as MURA has them."""
    rng = np.random.default_rng(seed)
    rows = []
    for patient in range(patients):
        for study in range(rng.integers(1, 3)):
            part, abnormality = rng.choice(parts), rng.choice(["Abnormal", "Normal"])
            for view in range(rng.integers(1, 5)):
                rows.append(
                    {
                        "path": f"p{patient}/s{study}/{view}.png",
                        "patient": f"p{patient}",
                        "study": f"p{patient}/s{study}",
                        "view": view,
                        "body_part": part,
                        "abnormality": abnormality,
                        "label": f"{abnormality}-{part}",
                        "split": "test",
                    }
                )
    return pd.DataFrame(rows)


def make_predictions(manifest: pd.DataFrame, classes=CLASSES, seed: int = 1) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(len(manifest), len(classes)))
    logits[np.arange(len(manifest)), pd.Index(classes).get_indexer(manifest["label"])] += 1.5
    # rounding makes ties, which a rank sum has to get right
    probabilities = np.round(np.exp(logits) / np.exp(logits).sum(1, keepdims=True), 2)
    return evaluation.predictions_frame(
        manifest, classes, probabilities / probabilities.sum(axis=1, keepdims=True)
    )


@pytest.fixture(scope="module")
def predictions():
    return make_predictions(make_manifest(120))


@pytest.fixture(scope="module")
def metrics(predictions):
    return evaluation.evaluate(predictions, bootstrap=200)


def values(level: dict) -> dict:
    return {name: interval["value"] for name, interval in level.items()}


# --- predictions --------------------------------------------------------------------------------


def test_predictions_frame_has_the_columns_of_predictions_csv(predictions):
    known = ["path", "patient", "study", "body_part", "abnormality", "label", "predicted", "split"]
    assert list(predictions.columns) == known + [f"p:{label}" for label in CLASSES]
    best = predictions[[f"p:{label}" for label in CLASSES]].idxmax(axis=1)
    assert (best == "p:" + predictions["predicted"]).all()


def test_probabilities_are_summed_over_the_right_classes():
    manifest = make_manifest(1).head(1)
    row = evaluation.predictions_frame(manifest, CLASSES, [[0.1, 0.2, 0.3, 0.25, 0.1, 0.05]])
    assert p_abnormal(row).tolist() == pytest.approx([0.6])
    parts = evaluation.p_body_part(row)
    assert list(parts.columns) == list(PARTS)
    assert parts.iloc[0].tolist() == pytest.approx([0.35, 0.3, 0.35])


def test_a_study_is_the_mean_of_its_views(predictions):
    studies = evaluation.study_predictions(predictions).set_index("study")
    assert studies["views"].sum() == len(predictions)
    views = predictions[predictions["study"] == "p3/s0"]
    abnormal = views[[f"p:Abnormal-{part}" for part in PARTS]].sum(axis=1)
    assert studies.loc["p3/s0", "p_abnormal"] == pytest.approx(abnormal.mean())
    assert studies.loc["p3/s0", "abnormality"] == views["abnormality"].iloc[0]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda m, p: (m.drop(columns="split"), CLASSES, p), "lacks split"),
        (lambda m, p: (m, CLASSES, p[1:]), "shape"),
        (lambda m, p: (m, CLASSES, p * np.nan), "diverged"),
        (lambda m, p: (m.assign(label="Normal-HIP"), CLASSES, p), "does not know Normal-HIP"),
    ],
)
def test_unusable_predictions_are_refused(change, words):
    manifest = make_manifest(3)
    probabilities = np.full((len(manifest), len(CLASSES)), 1 / len(CLASSES))
    with pytest.raises(UserError, match=words):
        evaluation.predictions_frame(*change(manifest, probabilities))


# --- metrics ------------------------------------------------------------------------------------


def test_class_metrics_equal_sklearn(predictions, metrics):
    true, predicted = predictions["label"], predictions["predicted"]
    p = predictions[[f"p:{label}" for label in CLASSES]].to_numpy()
    expected = {
        "accuracy": sk.accuracy_score(true, predicted),
        "kappa": sk.cohen_kappa_score(true, predicted),
        "balanced_accuracy": sk.balanced_accuracy_score(true, predicted),
        "log_loss": sk.log_loss(true, np.clip(p, 1e-7, 1) / np.clip(p, 1e-7, 1).sum(1)[:, None]),
    }
    for average in ("macro", "weighted"):
        scores = sk.precision_recall_fscore_support(true, predicted, average=average)
        names = (f"{average}_{name}" for name in ("precision", "recall", "f1"))
        expected |= dict(zip(names, scores, strict=False))
    assert values(metrics["image"]) == pytest.approx(expected, rel=1e-5)
    assert np.array_equal(
        metrics["confusion"]["counts"], sk.confusion_matrix(true, predicted, labels=CLASSES)
    )


def test_binary_metrics_equal_sklearn_per_image_and_per_study(predictions, metrics):
    studies = evaluation.study_predictions(predictions)
    image = binary_by_sklearn(predictions["abnormality"], p_abnormal(predictions))
    study = binary_by_sklearn(studies["abnormality"], studies["p_abnormal"])
    given = predictions.apply(p_abnormal_of_the_true_part, axis=1)
    given_part = binary_by_sklearn(
        studies["abnormality"], given.groupby(predictions["study"]).mean()
    )
    assert values(metrics["binary_image"]) == pytest.approx(image, abs=1e-9)
    assert values(metrics["binary_study"]) == pytest.approx(study, abs=1e-9)
    assert values(metrics["binary_study_given_part"]) == pytest.approx(given_part, abs=1e-9)
    assert image["kappa"] != pytest.approx(study["kappa"])
    assert given_part["auroc"] > study["auroc"]


def p_abnormal_of_the_true_part(row) -> float:
    abnormal, normal = (row[f"p:{kind}-{row['body_part']}"] for kind in ("Abnormal", "Normal"))
    return abnormal / (abnormal + normal)


def test_a_part_that_is_ruled_out_is_counted_and_gives_no_evidence(predictions):
    frame = predictions.head(3).copy()
    frame[[f"p:{kind}-{frame['body_part'][0]}" for kind in ("Abnormal", "Normal")]] = 0.0
    given = evaluation.p_abnormal_given_part(frame)
    assert given.isna().tolist() == (frame["body_part"] == frame["body_part"][0]).tolist()
    metrics = evaluation.evaluate(frame, threshold=0.4, bootstrap=0)
    assert metrics["counts"]["part_ruled_out"] == given.isna().sum() > 0
    alone = frame[given.isna()]
    judged = evaluation.evaluate(alone, threshold=0.4, bootstrap=0)["binary_study_given_part"]
    assert judged["accuracy"]["value"] == (alone["abnormality"].iloc[0] == "Abnormal")


def test_each_body_part_is_judged_as_if_it_were_alone(predictions, metrics):
    studies = evaluation.study_predictions(predictions)
    assert list(metrics["by_body_part"]) == list(PARTS)
    for part, found in metrics["by_body_part"].items():
        rows = studies[studies["body_part"] == part]
        expected = binary_by_sklearn(rows["abnormality"], rows["p_abnormal"])
        assert found["counts"] == {
            "studies": len(rows),
            "abnormal": (rows["abnormality"] == "Abnormal").sum(),
            "patients": rows["patient"].nunique(),
        }
        for name in ("auroc", "sensitivity", "specificity", "kappa"):
            assert found[name]["value"] == pytest.approx(expected[name])
            assert found[name]["low"] < found[name]["value"] < found[name]["high"]


def test_the_rules_that_make_a_study_of_its_views(predictions, metrics):
    views = p_abnormal(predictions).groupby(predictions["study"])
    by_hand = {
        "mean": views.apply(np.mean),
        "maximum": views.apply(np.max),
        "noisy_or": views.apply(lambda p: 1 - np.prod(1 - p)),
    }
    abnormality = predictions.groupby("study")["abnormality"].first()
    assert list(metrics["study_rules"]) == list(by_hand)
    for rule, p in by_hand.items():
        expected = binary_by_sklearn(abnormality, p)
        found = values(metrics["study_rules"][rule])
        assert found == pytest.approx({name: expected[name] for name in found})
    assert metrics["study_rules"]["mean"]["auroc"] == metrics["binary_study"]["auroc"]


def test_body_part_accuracy_ignores_the_abnormality(predictions, metrics):
    answer = evaluation.p_body_part(predictions).idxmax(axis=1)
    expected = (answer == predictions["body_part"]).mean()
    assert metrics["body_part"]["accuracy"]["value"] == pytest.approx(expected)
    assert expected > metrics["image"]["accuracy"]["value"]


def test_roc_areas_equal_sklearn(predictions, metrics):
    p = predictions[[f"p:{label}" for label in CLASSES]].to_numpy()
    one_hot = (predictions["label"].to_numpy()[:, None] == np.array(CLASSES)).astype(int)
    areas = sk.roc_auc_score(one_hot, p, average=None)
    for row, area in zip(metrics["classes"], areas, strict=True):
        assert row["auc"] == metrics["roc"]["classes"][row["label"]]["auc"] == pytest.approx(area)
    assert metrics["roc"]["macro"]["auc"] == pytest.approx(areas.mean())
    micro = metrics["roc"]["micro"]
    assert micro["auc"] == pytest.approx(sk.roc_auc_score(one_hot, p, average="micro"))
    assert (micro["fpr"][0], micro["tpr"][0]) == (0, 0)
    assert (micro["fpr"][-1], micro["tpr"][-1]) == (1, 1)
    assert len(micro["fpr"]) <= 200


def test_threshold_moves_sensitivity_against_specificity(predictions):
    low = evaluation.evaluate(predictions, threshold=0.2, bootstrap=0)["binary_study"]
    high = evaluation.evaluate(predictions, threshold=0.8, bootstrap=0)["binary_study"]
    assert low["sensitivity"]["value"] > high["sensitivity"]["value"]
    assert low["specificity"]["value"] < high["specificity"]["value"]
    assert low["auroc"]["value"] == high["auroc"]["value"]


# --- intervals ----------------------------------------------------------------------------------


def test_intervals_equal_a_plain_bootstrap_over_patients(predictions, metrics):
    """The same draws as rows repeated and measured by sklearn, one resample after another."""
    patients = predictions["patient"].unique()
    draws = np.random.default_rng(0).multinomial(
        len(patients), [1 / len(patients)] * len(patients), 200
    )
    abnormal = p_abnormal(predictions)
    samples = {"kappa": [], "log_loss": [], "auroc": []}
    position = predictions["patient"].map({name: k for k, name in enumerate(patients)}).to_numpy()
    for draw in draws:
        rows = np.repeat(np.arange(len(predictions)), draw[position])
        part = predictions.iloc[rows]
        own = part.apply(lambda row: row[f"p:{row['label']}"], axis=1)
        samples["kappa"].append(sk.cohen_kappa_score(part["label"], part["predicted"]))
        samples["log_loss"].append(-np.log(own.clip(1e-7)).mean())
        samples["auroc"].append(
            sk.roc_auc_score(part["abnormality"] == "Abnormal", abnormal.iloc[rows])
        )
    found = {**metrics["image"], "auroc": metrics["binary_image"]["auroc"]}
    for name, sample in samples.items():
        low, high = np.quantile(sample, [0.025, 0.975])
        assert (found[name]["low"], found[name]["high"]) == pytest.approx((low, high)), name
        assert found[name]["low"] < found[name]["value"] < found[name]["high"]


def test_intervals_widen_when_images_belong_to_fewer_patients(predictions):
    def width(frame: pd.DataFrame) -> float:
        accuracy = evaluation.evaluate(frame, bootstrap=300)["image"]["accuracy"]
        return accuracy["high"] - accuracy["low"]

    copies = pd.concat([predictions] * 4, ignore_index=True)
    independent = copies.assign(patient=[f"n{row}" for row in range(len(copies))])
    assert width(copies) > 1.5 * width(independent)


def test_a_seed_gives_the_same_numbers_and_json(predictions, metrics):
    assert metrics == evaluation.evaluate(predictions, bootstrap=200)
    other = evaluation.evaluate(predictions, bootstrap=200, seed=1)
    assert other["image"]["kappa"]["low"] != metrics["image"]["kappa"]["low"]
    assert json.loads(json.dumps(metrics, allow_nan=False)) == metrics


def test_predictions_survive_csv(predictions, metrics, tmp_path):
    write_csv(tmp_path / "predictions.csv", predictions)
    again = evaluation.evaluate(read_table(tmp_path / "predictions.csv"), bootstrap=200)
    assert again == metrics


def test_every_key_is_documented(metrics):
    page = (REPOSITORY / "docs" / "metrics.md").read_text(encoding="utf-8")
    record = evaluation.metrics_record("phantom", metrics, {}, operating_point={})
    first_column = "".join(line.split("|")[1] for line in page.splitlines() if line[:1] == "|")
    assert [key for key in record if f"`{key}`" not in first_column] == []
    named = {name for level in evaluation.LEVELS for name in metrics[level]}
    kinds = ("macro_", "weighted_")
    assert [n for n in named if not n.startswith(kinds) and f"`{n}`" not in page] == []


# --- odd data -----------------------------------------------------------------------------------


def test_a_class_without_images_is_named_and_left_out_of_averages(predictions):
    classes = sorted([*CLASSES, "Abnormal-HIP", "Normal-HIP"])
    frame = make_predictions(make_manifest(40), classes)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        metrics = evaluation.evaluate(frame, bootstrap=50)
    assert metrics["classes_without_images"] == ["Abnormal-HIP", "Normal-HIP"]
    hip = metrics["classes"][classes.index("Abnormal-HIP")]
    assert (hip["precision"], hip["recall"], hip["f1"], hip["auc"]) == (None,) * 4
    assert hip["support"] == 0 < hip["predicted"]
    assert metrics["roc"]["classes"]["Normal-HIP"] is None
    present = sorted(frame["label"].unique())
    expected = sk.recall_score(frame["label"], frame["predicted"], labels=present, average="macro")
    assert metrics["image"]["macro_recall"]["value"] == pytest.approx(expected)
    json.dumps(metrics, allow_nan=False)


def test_what_does_not_exist_is_none_and_counted(predictions):
    normal = predictions[predictions["abnormality"] == "Normal"]
    metrics = evaluation.evaluate(normal, bootstrap=20)
    nothing = {"value": None, "low": None, "high": None, "undefined": 20}
    assert metrics["binary_study"]["auroc"] == nothing
    assert metrics["binary_study"]["sensitivity"] == nothing
    assert metrics["binary_study"]["specificity"]["undefined"] == 0


def test_resamples_without_both_kinds_are_counted(predictions):
    studies = predictions.drop_duplicates("patient")
    few = pd.concat(
        [studies[studies["abnormality"] == kind].head(2) for kind in ("Abnormal", "Normal")]
    )
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        auroc = evaluation.evaluate(few, bootstrap=400)["binary_study"]["auroc"]
    # all four draws from one pair: 2 * (1/2)^4
    assert auroc["undefined"] == pytest.approx(400 / 8, abs=25)
    assert auroc["low"] is not None


def test_one_image_is_enough(predictions):
    metrics = evaluation.evaluate(predictions.head(1), bootstrap=10)
    assert metrics["image"]["accuracy"]["value"] in (0, 1)
    assert metrics["roc"]["macro"] is None
    json.dumps(metrics, allow_nan=False)


def test_no_rows_is_one_sentence(predictions):
    with pytest.raises(UserError, match="no predictions"):
        evaluation.evaluate(predictions.head(0))


# --- tables -------------------------------------------------------------------------------------


def test_metrics_table_keeps_the_levels_apart(metrics):
    table = evaluation.metrics_table(metrics)
    assert list(table.columns) == ["level", "metric", "value", "low", "high", "interval"]
    kappas = table[table["metric"] == "kappa"]
    assert list(kappas["level"]) == list(evaluation.LEVELS.values())


def test_classification_report_stands_beside_the_report_where_classes_coincide(metrics):
    table = evaluation.classification_report(metrics, "ours")
    averages = ["macro average", "weighted average"]
    assert list(table.index) == [*CLASSES, *averages]
    assert table.loc["macro average", ("ours", "f1")] == metrics["image"]["macro_f1"]["value"]
    assert table.loc["Abnormal-HAND", ("the report, MURA", "recall")] == 0.42
    # six classes here, fourteen there: averages do not compare
    assert table.loc[averages, "the report, MURA"].isna().all(axis=None)


def test_classification_report_has_the_report_s_averages_for_its_own_classes():
    parts = sorted({body_part(label) for label in report.FIG_30["label"]})
    classes = list(report.FIG_30["label"])
    manifest = make_manifest(300, parts=parts)
    metrics = evaluation.evaluate(make_predictions(manifest, classes), bootstrap=0)
    table = evaluation.classification_report(metrics, "ours")
    assert table.loc["weighted average", "the report, MURA"].tolist() == [0.80, 0.79, 0.78, 3197]


def test_kappa_table_never_puts_other_data_on_our_level(metrics):
    table = evaluation.kappa_table(metrics, "this run", "phantom test split")
    ours = table[table["name"] == "this run"]
    assert set(ours["level"]).isdisjoint(table.drop(ours.index)["level"])
    study = ours.set_index("level").loc["binary, per study, phantom test split"]
    interval = metrics["binary_study"]["kappa"]
    assert study["kappa"] == interval["value"]
    assert study[["low", "high"]].tolist() == [interval["low"], interval["high"]]
    assert table["kappa"].notna().all()
    on_mura = evaluation.kappa_table(metrics, "this run", "MURA valid set")
    assert (on_mura["level"] == "binary, per study, MURA valid set").sum() == 4  # three peers, we

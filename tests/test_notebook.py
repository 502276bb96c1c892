from __future__ import annotations

import pandas as pd
import pytest
from PIL import Image

from mura_utils import notebook as nb
from mura_utils.errors import UserError
from mura_utils.experiments import Experiment, read_parameters
from mura_utils.paths import runs_dir, write_csv
from mura_utils.runs.record import completed
from mura_utils.runs.stages import NOTEBOOKS

OWN = '# Parameters: the demo\nname = "mine"  # the run\nsource = "mura"\n'


def test_parameters_are_those_of_the_last_own_cell_and_of_papermills_after_it():
    cells = ["import os", OWN, '# Parameters: edited\nname = "other"', "# Parameters\nepochs = 3"]
    assert nb.parameters_in(cells, "05") == {"name": "other", "epochs": 3}


def test_other_variables_are_no_parameters():
    assert nb.parameters_in(["name = 'x'\nfoo = 1", OWN], "01") == {
        "name": "mine",
        "source": "mura",
    }


@pytest.mark.parametrize("line", ["epochs = 2 * 3", "print(name)", "a, b = 1, 2"])
def test_a_parameter_cell_takes_literals_only(line):
    with pytest.raises(UserError, match="holds only 'name = literal' lines"):
        nb.parameters_in([OWN + line], "05_modeling")


def test_an_unknown_injected_parameter_stops_the_notebook():
    with pytest.raises(UserError, match="unknown parameter 'epoch'; did you mean 'epochs'"):
        nb.open_run("01_data_understanding", [OWN, "# Parameters\nepoch = 3"])
    assert not runs_dir().exists()


def test_a_run_records_every_value_and_what_is_complete():
    run = nb.open_run("01_data_understanding", [OWN])
    record = read_parameters(run.path("experiment.yaml"))
    assert (record["name"], record["source"], record["threshold"]) == ("mine", "mura", 0.5)
    assert completed(run.folder) == []
    assert "Next: 02_data_preprocessing" in run.complete()
    assert completed(run.folder) == ["01_data_understanding"]


def test_a_notebook_needs_the_one_before():
    with pytest.raises(UserError, match="run 01_data_understanding first, with name = 'mine'"):
        nb.open_run("02_data_preprocessing", ['# Parameters: x\nname = "mine"'])


def test_running_an_earlier_notebook_again_makes_the_later_ones_out_of_date():
    for name in NOTEBOOKS[:3]:
        nb.open_run(name, ['# Parameters: x\nname = "mine"']).complete()
    nb.open_run(NOTEBOOKS[1], ['# Parameters: x\nname = "mine"'])
    with pytest.raises(UserError, match="run 02_data_preprocessing first"):
        nb.open_run(NOTEBOOKS[2], ['# Parameters: x\nname = "mine"'])


def test_a_parameter_of_an_earlier_notebook_cannot_change_afterwards():
    nb.open_run("01_data_understanding", [OWN]).complete()
    later = ['# Parameters: x\nname = "mine"', "# Parameters\nsource = 'fracatlas'"]
    with pytest.raises(UserError, match=r"source = 'fracatlas', but the run mine .* notebook 01"):
        nb.open_run("02_data_preprocessing", later)


def test_another_spelling_of_a_value_is_no_change():
    spelled = "# Parameters\nsource = 'MURA'\nbody_parts = ['wrist', 'Elbow']"
    nb.open_run("01_data_understanding", [OWN, spelled]).complete()
    nb.open_run("02_data_preprocessing", [OWN, spelled]).complete()
    run = nb.open_run("03_data_preparation", [OWN, spelled.replace("Elbow", "elbow")])
    assert run.experiment.body_parts == ["ELBOW", "WRIST"]


def test_what_an_older_record_lacks_ran_as_the_default():
    nb.open_run("01_data_understanding", [OWN]).complete()
    record = runs_dir() / "mine" / "experiment.yaml"
    lines = record.read_text().splitlines(keepends=True)
    record.write_text("".join(line for line in lines if not line.startswith("source")))
    with pytest.raises(UserError, match="source = 'mura', but the run mine was made with 'phant"):
        nb.open_run("02_data_preprocessing", [OWN])
    nb.open_run("02_data_preprocessing", [OWN.replace("mura", "phantom")])


def test_a_later_notebook_takes_the_values_of_the_run():
    nb.open_run("01_data_understanding", [OWN]).complete()
    run = nb.open_run("02_data_preprocessing", ['# Parameters: x\nname = "mine"'])
    assert run.experiment.source == "mura"


def test_the_images_of_a_run_have_their_split_and_the_size_of_the_run_or_another(tmp_path):
    folder, data = tmp_path / "runs" / "mine", tmp_path / "data" / "hands"
    for each in (folder, data):
        each.mkdir(parents=True)
    gradient = Image.linear_gradient("L")
    gradient.point(lambda gray: gray // 3).save(data / "a.png")
    gradient.save(data / "b.png")
    (folder / "manifest.csv").write_text("path,sha256,patient\na.png,,007\nb.png,,008\n")
    (folder / "splits.csv").write_text("path,split\nb.png,test\na.png,train\n")
    experiment = Experiment(name="mine", data_dir="hands", image_size=36)
    run = nb.Run(experiment, folder, "04_data_transformation")
    images = run.images()
    assert images.root == data
    assert images.rows[["path", "patient", "split"]].to_numpy().tolist() == [
        ["a.png", "007", "train"], ["b.png", "008", "test"]
    ]  # fmt: skip
    assert images.pixels.shape == (2, 36, 36)
    assert images.pixels[0].mean() < 50 < 120 < images.pixels[1].mean()
    assert run.images(24).size == 24


def test_tables_keep_text_as_text(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text("path,patient,sha256,mean,fault\na.png,007,12e4,1.5,\n")
    row = nb.read_table(path).iloc[0]
    assert row.to_dict() == {
        "path": "a.png", "patient": "007", "sha256": "12e4", "mean": 1.5, "fault": "",
    }  # fmt: skip


def a_run(folder, splits: str) -> None:
    """Manifest and splits of images, one for each letter of `splits`, such as t for test."""
    names = {"l": "train", "v": "validation", "t": "test"}
    paths = [f"{letter}.png" for letter in "abcdefgh"[: len(splits)]]
    write_csv(folder / "manifest.csv", pd.DataFrame({"path": paths, "sha256": paths}))
    kept = [names[letter] for letter in splits]
    write_csv(folder / "splits.csv", pd.DataFrame({"path": paths, "split": kept}))


MINE = '# Parameters: x\nname = "mine"'


def split_run():
    """The run `mine`, with 01 to 04 complete."""
    for name in NOTEBOOKS[:4]:
        run = nb.open_run(name, [MINE])
        run.complete()
    return run


@pytest.mark.parametrize(("here", "seen"), [("lvtt", 0), ("llvt", 0), ("tllv", 1), ("vttl", 2)])
def test_weights_that_know_what_the_run_holds_back_are_refused(tmp_path, here, seen):
    run, earlier = split_run(), tmp_path / "earlier"
    earlier.mkdir()
    a_run(earlier, "lvtt")
    a_run(run.folder, here)
    (earlier / "model.keras").touch()
    cells = [f'{MINE}\nweights = "{earlier / "model.keras"}"']
    if seen:
        with pytest.raises(UserError, match=f"has learned from {seen} of this run's"):
            nb.open_run("05_modeling", cells)
        (earlier / "splits.csv").unlink()
    assert nb.open_run("05_modeling", cells).experiment.weights.endswith("model.keras")


def test_weights_of_a_run_whose_files_were_not_opened_are_refused(tmp_path):
    run, earlier = split_run(), tmp_path / "earlier"
    earlier.mkdir()
    for folder in (earlier, run.folder):
        a_run(folder, "lvtt")
    (earlier / "model.keras").touch()
    unread = pd.read_csv(earlier / "manifest.csv").assign(sha256="")
    write_csv(earlier / "manifest.csv", unread)
    with pytest.raises(UserError, match="is not known, as notebook 01 of earlier has opened no"):
        nb.open_run("05_modeling", [f'{MINE}\nweights = "{earlier / "model.keras"}"'])

"""A data source is one record in one module."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from mura_utils.data import sources
from mura_utils.data.sources import SOURCES, Source, load_mask, open_source
from mura_utils.data.sources.listing import make_listing
from mura_utils.errors import UserError
from mura_utils.experiments import Experiment


def toy(root):
    names = sorted(path.name for path in root.glob("*.toy"))
    rows = pd.DataFrame({"path": names, "patient": names, "study": names})
    fixed = {"official_split": "", "view": 1, "body_part": "TOE", "abnormality": "Normal"}
    return make_listing("toy", root, rows.assign(**fixed), [], has_patients=False)


@pytest.fixture
def source(monkeypatch):
    record = Source(
        name="toy",
        title="Toys",
        recognize=lambda root: any(root.glob("*.toy")),
        list=toy,
        mask=lambda root, path: np.eye(4, dtype=bool),
        terms="Toys may be shown to everyone.",
    )
    monkeypatch.setitem(sources.SOURCES, "toy", record)


def test_a_source_of_ten_lines_is_recognized_listed_and_masked(source, tmp_path):
    (tmp_path / "inside").mkdir()
    (tmp_path / "inside" / "a.toy").touch()
    listing = open_source(tmp_path / "inside")
    assert (listing.source, listing.rows["label"].tolist()) == ("toy", ["Normal-TOE"])
    assert "no patient ids" in str(listing)
    assert load_mask("toy", tmp_path, "a.toy").tolist() == np.eye(4, dtype=bool).tolist()
    with pytest.raises(UserError, match=r"source 'toys' is unknown; use 'auto', .*'toy'"):
        open_source(tmp_path, "toys")


def test_the_schema_takes_its_sources_from_the_records():
    schema = Experiment.model_json_schema()["properties"]["source"]
    names = {"fracatlas", "grazpedwri", "mura", "phantom", "table"}
    assert set(schema["enum"]) == {"auto", *SOURCES} == {"auto", *names}
    titles = {"FracAtlas", "GRAZPEDWRI-DX", "MURA", "phantom", "own data"}
    assert {record.title for record in SOURCES.values()} == titles

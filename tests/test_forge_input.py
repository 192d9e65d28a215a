"""What the forge refuses: settings that mean nothing, and folders that it must not touch."""
import json

import numpy as np
import pytest

from mmad_nb.core.runtime import DataError
from mmad_nb.forge import forge, forge_sample, synthetic_anomaly

NAN = float("nan")


@pytest.mark.parametrize("wrong", [{"extent": NAN}, {"extent": -1}, {"extent": 0}, {"extent": 1e9}, {"extent": "1"}, {"strength": 1e9}, {"strength": NAN},
                                   {"strength": -1}, {"strength": None}, {"size": 0}, {"size": None}, {"size": 64.5}, {"seed": -1}, {"seed": .5}, {"seed": "1"}])
def test_settings_of_a_capture(wrong):
    with pytest.raises(DataError): forge_sample("bracket", "crack", **{"size": 32, **wrong})


@pytest.mark.parametrize("wrong", [{"train": -1}, {"train": 1.5}, {"train": None}, {"validation": {"good": -1}}, {"test": {"crack": "2"}}, {"seed": -1}, {"size": 0},
                                   {"categories": "bracket"}])
def test_settings_of_a_data_set(tmp_path, wrong):
    with pytest.raises(DataError): forge(tmp_path / "set", **{"categories": ["bracket"], "train": 0, "validation": 0, "test": {}, "size": 32, **wrong})
    assert not (tmp_path / "set").exists()


@pytest.mark.parametrize("text", ["[]", "null", '"forge"', "5", "{", "{}"])
def test_folders_with_another_manifest_are_left_alone(tmp_path, text):
    (tmp_path / "manifest.json").write_text(text)
    with pytest.raises(DataError, match="files that the forge did not write"): forge(tmp_path, ["bracket"], 0, 0, {}, size=32)
    assert (tmp_path / "manifest.json").read_text() == text


@pytest.mark.parametrize("files", [None, 3, "abc", [3, None], ["../other.txt"], ["."], [""]])
def test_a_changed_list_of_files_removes_nothing_else(tmp_path, files):
    (tmp_path / "other.txt").write_text("mine")
    forge(tmp_path / "set", ["bracket"], 0, 0, {}, size=32)
    path = tmp_path / "set/manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"files": files}))
    forge(tmp_path / "set", ["bracket"], 0, 0, {}, size=32)
    assert (tmp_path / "other.txt").read_text() == "mine"


@pytest.mark.parametrize("wrong", [{"seed": -1}, {"seed": "1"}, {"cells": 3}, {"cells": (2,)}, {"cells": (2, NAN)}, {"cells": ("2", "3")}, {"opacity": 2}, {"opacity": "x"},
                                   {"strength": NAN}, {"strength": "x"}, {"threshold": NAN}, {"threshold": "x"}, {"kind": "both "}])
def test_settings_of_synthetic_anomalies(wrong):
    good = forge_sample("bracket", size=32)
    with pytest.raises(DataError): synthetic_anomaly(good, **wrong)
    with pytest.raises(DataError): synthetic_anomaly([good])
    assert np.isfinite(synthetic_anomaly(good).xyz).all()

"""The paper's tables from data sets on disk: both layouts, what is kept, what is refused, and the printed figures themselves."""
import json

import numpy as np
import pytest
import torch
from layouts import write_eyecandies, write_mvtec

from mmad_nb.core.runtime import DataError
from mmad_nb.experiments import published
from mmad_nb.detectors.base import Components, Detector, register
from mmad_nb.experiments.published import TABLES, columns, main, measured, render


@register("dark_spots")
class DarkSpots(Detector):
    "Learns nothing, takes a moment: dark is strange."
    defaults = {"seed": 0}
    fits = 0

    def fit(self, samples, checkpoint=None, cache=None):
        type(self).fits += 1
        self.fitted = True
        return self

    def components(self, samples, cache=None):
        maps = torch.stack([torch.from_numpy(1 - sample.rgb.mean(0)) for sample in samples])
        return Components({"dark": maps.float()}, torch.ones_like(maps, dtype=torch.bool))

    def combine(self, components): return components["dark"]
    def state(self): return {}


@pytest.fixture()
def mvtec(tmp_path):
    for category in ("bagel", "tire"): write_mvtec(tmp_path / "mvtec", category)
    return tmp_path / "mvtec"


@pytest.mark.parametrize("table", TABLES.values(), ids=lambda table: table.number)
def test_published_figures_are_whole(table):
    for method, rows in table.figures.items():
        assert len(rows) == 11 and list(rows)[-1] == "average", method
        assert all(len(row) == len(table.metrics) and all(0 < v < 100 for v in row) for row in rows.values()), method
    best = table.figures["text_guided"]["average"]
    others = [rows["average"] for method, rows in table.figures.items() if method != "text_guided"]
    assert all(best[i] >= max(other[i] for other in others) for i in range(len(best)))


def test_the_command_on_the_layout_of_mvtec(mvtec, tmp_path, capsys):
    arguments = ["--mvtec", str(mvtec), "--methods", "dark_spots", "--out", str(tmp_path / "out"), "--device", "cpu"]
    before = DarkSpots.fits
    main(arguments)
    printed = capsys.readouterr().out
    assert "Table I." in printed and "Table II." in printed and "Table III." not in printed
    assert DarkSpots.fits == before + 1
    main(arguments)                                                        # the results are there
    assert DarkSpots.fits == before + 1 and capsys.readouterr().out == printed
    kept = json.loads((tmp_path / "out/dark_spots-mvtec.json").read_text())
    assert sorted(kept["metrics"]) == ["bagel", "tire"] and kept["settings"]["options"] == {"seed": 0}
    row = next(line for line in printed.splitlines() if line.startswith("| tire | 90.02/97.04"))
    values = [float(v) for v in row.split("|")[-3].split("/")]
    assert np.allclose(values, [100 * kept["metrics"]["tire"][m] for m in ("image_auroc", "aupro@30")], atol=.006)
    with pytest.raises(DataError, match="Choose another folder"): main([*arguments, "--seed", "1"])


def test_the_command_on_the_layout_of_eyecandies(tmp_path, capsys):
    write_eyecandies(tmp_path / "candies", shape=(64, 64), public=(("good", False), ("bumps", True), ("bumps", True)))
    main(["--eyecandies", str(tmp_path / "candies"), "--methods", "dark_spots", "--out", str(tmp_path / "out")])
    printed = capsys.readouterr().out
    assert "Table III." in printed and "Table IV." in printed and "| CandyCane | 47.84/97.91 |" in printed
    assert next(line for line in printed.splitlines() if line.startswith("| Lollipop | 66.73")).count("–") == 1


def test_measured_columns_stand_beside_published_ones():
    one = {"image_auroc": .5, "aupro@30": .25, "aupro@30 legacy-99": .2, "aupro@1": .1, "aupro@1 legacy-99": .05,
           "pixel_auroc": .6}
    every = columns(TABLES["I"], {"cfm": {"bagel": one, "gear": one}})
    assert every["**cfm, measured**"]["average"] == pytest.approx((50, 25))
    assert every["**cfm, measured, 99 thresholds**"]["gear"] == pytest.approx((50, 20))
    assert list(columns(TABLES["III"], {"cfm": {"Lollipop": one}}))[-1] == "**cfm, measured**"  # no AUPRO, no second column
    assert "| gear | – | – | – | – | – | 50.00/25.00 | 50.00/20.00 |" in render(TABLES["I"], {"cfm": {"gear": one}})


def test_without_a_data_set_the_command_says_what_it_wants(capsys):
    with pytest.raises(SystemExit): main([])
    assert "--mvtec or --eyecandies" in capsys.readouterr().err


def test_unknown_data_set(tmp_path):
    with pytest.raises(DataError, match="data set 'mvtek'"): measured("dark_spots", "mvtek", tmp_path, tmp_path)
    assert set(published.DATASETS) == {"mvtec", "eyecandies"}

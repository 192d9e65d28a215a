"A grid of trainings: each is done once, whatever grid asks for it; other data, options or weights are another training."
from dataclasses import replace

import numpy as np
import pytest
from layouts import write_mvtec
from test_experiments_protocols import DarkSpots, small

from mmad_nb.core.runtime import DataError
from mmad_nb.detectors import create_detector
from mmad_nb.experiments import Grid, grid_study, run_protocol


@pytest.fixture()
def data(tmp_path):
    for category in ("bagel", "tire"): write_mvtec(tmp_path / "mvtec", category)
    DarkSpots.fits = 0
    return small(tmp_path / "mvtec")


def test_each_training_is_done_once(data, tmp_path):
    first = grid_study("dark_spots", data, {"gain": (1., 2.)}, seeds=(0, 1), folder=tmp_path / "grid")
    assert DarkSpots.fits == 4
    by_hand = run_protocol("unified", "dark_spots", data, seeds=(0, 1), gain=2.)
    assert first.values("image_auroc")[1] == by_hand.spread("image_auroc").mean and DarkSpots.fits == 6
    again = grid_study("dark_spots", data, {"gain": (3., 2.)}, seeds=(0, 1), folder=tmp_path / "grid")       # another order, one more
    assert DarkSpots.fits == 8 and again.study(gain=2.).records == first.study(gain=2.).records
    again.train(gain=2., seeds=(0, 1, 2))
    assert DarkSpots.fits == 9 and again.spread("image_auroc", gain=2.).count == 3
    again.train(gain=2.)
    assert DarkSpots.fits == 9


def test_other_data_options_weights_or_protocol_are_another_training(data, tmp_path):
    name = lambda data=data, **how: Grid("dark_spots", data, {"gain": (1.,)}, **how).names[(1.,)]
    other = replace(data, test=[replace(s, defect="good") if i == 0 else s for i, s in enumerate(data.test)])
    names = {name(), name(other), name(replace(data, train=list(data.train)[:-1])), name(protocol="per-class")}
    assert len(names) == 4 and name() == name(seeds=(5,)) == name(cache=tmp_path)
    cfm = lambda **how: Grid("cfm", data, {"epochs": (1,)}, device="cpu", **how).names[(1,)]
    assert len({cfm(), cfm(blocks=8), cfm(weights={"alpha": .3})}) == 3


def test_what_is_missing_and_what_is_kept(data, tmp_path):
    for folder in (None, tmp_path / "grid"):
        grid = Grid("dark_spots", data, {"gain": (1., 2.)}, seeds=(3, 4), folder=folder)
        assert grid.study(gain=1.) is None and grid.missing(gain=1.) == [3, 4] and grid.models(gain=1.) == []
        assert np.isnan(grid.values("image_auroc")).all() and "not trained" in grid.table()
        grid.train(gain=1., seeds=3)
        assert grid.missing(gain=1.) == [4] and np.isfinite(grid.values("image_auroc")[0]) and np.isnan(grid.values("image_auroc")[1])
        model, = grid.models(gain=1.)
        assert model.config()["gain"] == 1. and model.config()["seed"] == 3 and model.fitted
        grid.train(gain=1.)
        assert grid.missing(gain=1.) == [] and grid.spread("image_auroc", gain=1.).count == 2 and len(grid.models(gain=1., seed=4)) == 1
        done = DarkSpots.fits
        grid.train(gain=1.)
        assert DarkSpots.fits == done and len(grid.models(gain=1., seed=4)) == 1           # nothing is trained twice, in memory either


def test_an_interrupted_training_goes_on(data, tmp_path, monkeypatch):
    grid = Grid("dark_spots", data, {"gain": (1.,)}, seeds=(0,), folder=tmp_path / "grid")
    tested = create_detector("dark_spots").__class__.components
    def breaks(self, samples, cache=None):
        if samples[0].category == "tire": raise KeyboardInterrupt
        return tested(self, samples)
    monkeypatch.setattr(DarkSpots, "components", breaks)
    with pytest.raises(KeyboardInterrupt): grid.train()
    monkeypatch.undo()
    later = Grid("dark_spots", data, {"gain": (1.,)}, seeds=(0,), folder=tmp_path / "grid")
    assert later.missing() == [0]
    later.train()
    assert DarkSpots.fits == 1 and later.missing() == [] and len(later.study().records) == 2       # the model of the first run was tested on


def test_a_seed_with_fewer_records_is_missing(data, tmp_path):
    grid = grid_study("dark_spots", data, {"gain": (1.,)}, seeds=(0, 1), folder=tmp_path / "grid")
    grid.study().records.pop()                                     # as if only the file of an interrupted run had been copied
    assert grid.missing() == [1]


def test_per_class_keeps_a_model_for_each_training(data, tmp_path):
    grid = grid_study("dark_spots", data, {"gain": (1.,)}, protocol="per-class", folder=tmp_path / "grid")
    assert len(grid.models()) == 2


@pytest.mark.parametrize("options, more, words", [
    ({}, {}, "title|name -> values"), ({"gain": ()}, {}, "different values"), ({"gain": (1., 1.)}, {}, "different values"), ({"gian": (1.,)}, {}, "Did you mean 'gain'"),
    ({"gain": (1.,)}, {"gain": 2.}, "given twice"), ({"seed": (1,)}, {}, "seeds="), ({"gain": ("much",)}, {}, "number")], ids=str)
def test_bad_grids_are_refused_before_any_training(data, options, more, words):
    with pytest.raises(DataError, match=words): Grid("dark_spots", data, options, **more)
    assert DarkSpots.fits == 0


def test_bad_questions(data):
    grid = Grid("dark_spots", data, {"gain": (1., 2.)})
    with pytest.raises(DataError, match="one of"): grid.study(gain=3.)
    with pytest.raises(DataError, match="no value"): grid.study()
    with pytest.raises(DataError, match="Did you mean 'gain'"): grid.study(gian=1.)

"""Rows of an ablation: kept, resumed, compared only where they share seeds."""
import pytest
from layouts import write_mvtec
from test_experiments_protocols import DarkSpots, small

from mmad_nb.core.runtime import DataError
from mmad_nb.experiments.ablations import compare, comparison_table, component_rows, difference, difference_picture, difference_table

ROWS = {"plain": {"detector": "dark_spots"}, "louder, per class": {"detector": "dark_spots", "gain": 2.0, "protocol": "per-class"}}


@pytest.fixture()
def data(tmp_path):
    for category in ("bagel", "tire"): write_mvtec(tmp_path / "mvtec", category)
    return small(tmp_path / "mvtec")


def test_rows_are_kept_and_read_again(data, tmp_path):
    DarkSpots.fits = 0
    first = compare(ROWS, data, seeds=(0, 1), folder=tmp_path / "rows")
    assert DarkSpots.fits == 2 + 4                      # unified: one model a seed; per class: two
    again = compare(ROWS, data, seeds=(0, 1), folder=tmp_path / "rows")
    assert DarkSpots.fits == 6 and comparison_table(again) == comparison_table(first)
    assert len(list((tmp_path / "rows").glob("*.json"))) == 2
    assert "+0.000 ±0.000 ?" in difference_table(first, "plain", ["image_auroc"])       # twice as loud is no difference
    assert len(difference_picture(first, "plain").axes) == 4


def test_rows_without_shared_seeds_are_not_compared(data):
    one, other = (compare({"row": ROWS["plain"]}, data, seeds=(seed,))["row"] for seed in (0, 1))
    with pytest.raises(DataError, match="no seed that both have"): difference(one, other, "image_auroc")
    with pytest.raises(DataError, match="row 'plian'.*Did you mean 'plain'"): difference_table({"plain": one}, "plian")


def test_rows_of_table_five_are_options_of_the_detector():
    from mmad_nb.detectors import create_detector
    for row in component_rows().values():
        create_detector(row["detector"], device="cpu", **{name: value for name, value in row.items() if name != "detector"})

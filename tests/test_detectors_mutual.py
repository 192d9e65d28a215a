"""Mutual scoring on miniature encoders: who is asked, what counts, what is saved, and what it refuses."""
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from test_detectors_cfm import GOOD, TESTS, damage, miniature

from mmad_nb.core.runtime import DataError, write_tensors
from mmad_nb.detectors import create_detector, load_detector
from mmad_nb.detectors.mutual import MutualPanel, answers, lowest_mean
from mmad_nb.experiments import run_protocol
from mmad_nb.features.extract import extract, sample_hash
from mmad_nb.lab import AblationLab

BOX = [*GOOD, *TESTS]


def detector(**options):
    return create_detector("mutual", encoders=miniature(), device="cpu", **options)


@pytest.fixture(scope="module")
def cache(tmp_path_factory): return tmp_path_factory.mktemp("features")


@pytest.fixture(scope="module")
def fitted(cache): return detector().fit(BOX, cache=cache)


def brute(fitted, cache, name, i, share):
    "The formula, written out over all pairs."
    rows = [fitted.rows_of(f)[name] for f in extract(BOX, *fitted.pair, cache=cache)]
    said = torch.stack([torch.cdist(rows[i], rows[j]).amin(1) for j in range(len(BOX)) if j != i])
    count = int(np.ceil(round(share * len(said), 6)))
    return said.sort(0).values[:count].mean(0) / fitted.scales[name]


@pytest.mark.parametrize("share", [.05, .3, 1.])
def test_scores_are_those_of_the_formula(fitted, cache, share):
    one = detector(share=share).fit(BOX, cache=cache)
    for name in ("rgb1", "xyz"):
        rows = {name: one.rows_of(next(iter(extract([BOX[1]], *one.pair, cache=cache))))[name]}
        found = one.scores_of(rows, one.keys[1])[name]
        assert torch.allclose(found, brute(one, cache, name, 1, share), atol=1e-3)


def test_the_ceiling_is_not_fooled_by_rounding():
    assert lowest_mean(torch.arange(10.)[:, None], .3).item() == 1
    assert math.ceil(.07 * 100) == 8 and lowest_mean(torch.arange(100.)[:, None], .07).item() == 3     # the mean of 0 to 6
    assert lowest_mean(torch.arange(10.)[:, None], .31).item() == 1.5
    assert lowest_mean(torch.arange(10.)[:, None], 1e-6).item() == 0


def test_a_sample_is_not_asked_about_itself_nor_about_a_copy(fitted, cache):
    twice = detector(share=.05).fit([*BOX, replace(BOX[0], id="a copy")], cache=cache)
    parts = twice.components(BOX[:1], cache=cache)
    assert parts["rgb"][parts.valid].min() > 0 and parts["xyz"][parts.valid].min() > 0
    stranger = replace(BOX[0], rgb=(BOX[0].rgb * .9).astype(np.float32))
    assert sample_hash(stranger) not in fitted.keys
    shape = detector(share=.05).fit(BOX, cache=cache).components([stranger])["xyz"]       # its shape is in the set
    assert shape.abs().max() < 1e-3


def test_labels_play_no_part(fitted, cache):
    blind = detector().fit([replace(s, mask=None, defect="unknown") for s in BOX], cache=cache)
    assert all(torch.equal(a, b) for name in fitted.banks for a, b in zip(fitted.banks[name], blind.banks[name]))
    assert blind.keys == fitted.keys and blind.learns_from == "unlabelled"


def test_a_stain_is_strange_and_the_order_of_the_set_is_not(fitted, cache):
    parts, bad = fitted.components(TESTS, cache=cache), torch.from_numpy(TESTS[1].mask)
    assert parts["rgb"][1][bad].mean() > 1.3 * parts["rgb"][1][parts.valid[1] & ~bad].mean()
    other = detector().fit(BOX[::-1], cache=cache).components(TESTS, cache=cache)
    for name in parts: assert torch.allclose(parts[name], other[name], rtol=1e-3, atol=1e-4)


def test_windows_are_averaged(fitted, cache):
    wide = detector(window=3).fit(BOX, cache=cache)
    assert set(wide.banks) == {"rgb1", "rgb3", "xyz"}
    one = next(iter(extract(BOX[:1], *wide.pair, cache=cache)))
    scores = wide.scores_of(wide.rows_of(one), wide.keys[0])
    assert torch.allclose(scores["rgb1"], fitted.scores_of(fitted.rows_of(one), fitted.keys[0])["rgb1"])
    assert not torch.allclose(scores["rgb1"], scores["rgb3"])
    from mmad_nb.mapping.memory import seen_patches, spread
    wanted = spread((scores["rgb1"] + scores["rgb3"]) / 2, seen_patches(one).flatten(), one.image_matrix, one.valid)
    assert torch.allclose(wide.components(BOX[:1], cache=cache)["rgb"][0], wanted, atol=1e-5)


@pytest.mark.parametrize("options", [{}, dict(window=3, bank_dtype="float16")])
def test_save_and_load(tmp_path, cache, options):
    one = detector(**options).fit(BOX, cache=cache)
    one.save(tmp_path / "m")
    again = load_detector(tmp_path / "m", device="cpu", encoders=miniature())
    assert again.keys == one.keys and again.scales == pytest.approx(one.scales)
    a, b = one.components(TESTS, cache=cache), again.components(TESTS, cache=cache)
    assert all(torch.allclose(a[name], b[name], atol=1e-5) for name in a)
    state = one.state()
    for wrong in ({**state, "xyz_counts": state["xyz_counts"][:-1]}, {**state, "rgb1": state["rgb1"][:, 1:].contiguous()},
                  {**state, "keys": state["keys"][1:]}):
        one.save(tmp_path / "w")
        write_tensors(tmp_path / "w/weights.safetensors", wrong, {})
        with pytest.raises(DataError, match="weights.safetensors"): load_detector(tmp_path / "w", device="cpu", encoders=miniature())


def test_refusals(cache):
    for samples, words in ((BOX[:1], "two or more"), ([BOX[0], BOX[0]], "same sample"), ([], "no sample")):
        with pytest.raises(DataError, match=words): detector().fit(samples, cache=cache)
    for options in (dict(window=4), dict(window=0), dict(share=0), dict(share=1.5), dict(share="30%")):
        with pytest.raises(DataError, match="mutual option"): detector(**options)
    with pytest.raises(DataError, match="nothing learned yet"): detector().components(BOX)


def test_panel_and_lab(fitted, cache):
    panel = MutualPanel(fitted, BOX, cache)
    panel.sample.value = 1
    before = panel.map.clone()
    panel.share.value = 1.
    assert (panel.map >= before - 1e-6).all() and panel.map.sum() > before.sum()
    panel.sensor.value = "xyz"
    panel.share.value = .3
    assert torch.allclose(panel.map, fitted.components(BOX[1:2], cache=cache)["xyz"][0], atol=1e-4)
    lab = AblationLab(fitted, TESTS)
    assert lab is not None


def test_the_protocol_hides_what_must_not_be_known(tmp_path):
    from mmad_nb.forge import forge
    root = forge(tmp_path / "set", ["bagel"], train=1, test={"good": 2, "stain": 2}, seed=1, size=96)
    study = run_protocol("per-class", detector="mutual", data=root)
    assert len(study.records) == 1 and 0 <= study.records[0]["metrics"]["exact"]["image_auroc"] <= 1

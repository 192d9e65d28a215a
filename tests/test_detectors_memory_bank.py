"""The memory bank as a whole on miniature encoders: both geometries, one or many samples, save and load, and what it refuses."""
from dataclasses import replace

import numpy as np
import pytest
import torch
from test_detectors_cfm import GOOD, TESTS, damage, miniature

from mmad_nb.core.runtime import DataError, write_tensors
from mmad_nb.detectors import create_detector, list_detectors, load_detector
from mmad_nb.mapping.memory import patch_rows, remember, seen_patches, spread
from mmad_nb.features.extract import extract
from mmad_nb.lab import AblationLab


def detector(**options):
    return create_detector("memory_bank", encoders=miniature(), device="cpu", **options)


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    "Features of both geometries, computed once."
    return tmp_path_factory.mktemp("features")


@pytest.fixture(scope="module", params=["points", "fpfh"])
def fitted(request, cache):
    return detector(geometry=request.param, coreset=.3).fit(GOOD, cache=cache)


def test_shapes_and_units(fitted, cache):
    parts = fitted.components(TESTS, cache=cache)
    assert "memory_bank" in list_detectors() and set(parts) == {"rgb", "xyz"}
    assert fitted.banks["rgb"].shape[1] == 12 and fitted.banks["xyz"].shape[1] == fitted.point_encoder.dim
    assert not parts["rgb"][~parts.valid].any() and not parts["xyz"][~parts.valid].any()
    good = {name: m[0][parts.valid[0]].mean() for name, m in parts.items()}
    assert all(.4 < value < 2.5 for value in good.values()), good            # 1 is what a good patch usually has
    assert torch.equal(fitted.fuse(parts, rule="single", alpha=0.), fitted.fuse(parts, rule="add", alpha=0.) / 2)


def test_a_stain_is_seen_by_the_photo(fitted, cache):
    parts = fitted.components(TESTS, cache=cache)
    bad = torch.from_numpy(TESTS[1].mask)
    assert parts["rgb"][1][bad].mean() > 1.5 * parts["rgb"][1][parts.valid[1] & ~bad].mean()


def test_what_is_remembered_is_not_strange(cache):
    whole = detector(coreset=1.).fit(GOOD, cache=cache)
    parts = whole.components(GOOD, cache=cache)
    assert all(m.max() < 1e-4 for m in parts.values())


def test_cache_seed_and_order_of_calls(tmp_path, fitted):
    again = detector(geometry=fitted.options["geometry"], coreset=.3).fit(GOOD, cache=tmp_path)  # computed anew
    assert len(list(tmp_path.iterdir())) == len(GOOD)
    assert all(torch.equal(again.banks[name], bank) for name, bank in fitted.banks.items()) and again.scales == fitted.scales
    assert torch.equal(again.components(TESTS, cache=tmp_path)["xyz"], fitted.components(TESTS)["xyz"])
    other = detector(geometry=fitted.options["geometry"], coreset=.3, seed=1).fit(GOOD, cache=tmp_path)
    assert not torch.equal(other.banks["rgb"], fitted.banks["rgb"])


def test_geometries_do_not_share_cache_entries(tmp_path):
    for geometry in ("points", "fpfh"): detector(geometry=geometry).fit(GOOD[:1], cache=tmp_path)
    assert len(list(tmp_path.iterdir())) == 2


def test_options_change_what_they_should(cache):
    plain = detector(coreset=1.).fit(GOOD, cache=cache)
    assert plain.megabytes()["rgb"] == pytest.approx(plain.banks["rgb"].numel() * 4 / 1e6)
    assert len(detector(coreset=25).fit(GOOD, cache=cache).banks["rgb"]) == 25
    half = detector(coreset=1., bank_dtype="float16").fit(GOOD, cache=cache)
    assert half.banks["rgb"].dtype == torch.float16 and half.megabytes()["rgb"] == plain.megabytes()["rgb"] / 2
    a, b = plain.components(TESTS, cache=cache), half.components(TESTS, cache=cache)
    assert (a["rgb"] - b["rgb"]).abs().max() < .05
    more = detector(coreset=1., neighbours=4).fit(GOOD, cache=cache).components(TESTS, cache=cache)
    assert (more["rgb"] >= a["rgb"] - 1e-5).all() and more["rgb"].sum() > a["rgb"].sum()
    weighed = detector(coreset=1., reweight=True).fit(GOOD, cache=cache).components(TESTS, cache=cache)
    for i in range(len(TESTS)):
        ratio = weighed["xyz"][i][a.valid[i]] / a["xyz"][i][a.valid[i]]
        assert 0 < ratio[0] < 1 and torch.allclose(ratio, ratio[0].expand_as(ratio), atol=1e-3)


def test_one_sample_is_enough_to_begin_with(cache):
    alone = detector(coreset=.5).fit(GOOD[:1], cache=cache)
    parts = alone.components(TESTS, cache=cache)
    assert torch.isfinite(alone.fuse(parts)).all() and all(scale > 0 for scale in alone.scales.values())


def test_one_bank_for_two_categories(cache):
    other = [replace(s, rgb=1 - s.rgb, category="negative", id=f"negative/{s.id}") for s in GOOD]
    alone, shared = detector(coreset=1.).fit(GOOD, cache=cache), detector(coreset=1.).fit([*GOOD, *other], cache=cache)
    assert len(shared.banks["rgb"]) == 2 * len(alone.banks["rgb"])
    a, b = (d.components(TESTS, cache=cache)["rgb"] * d.scales["rgb"] for d in (alone, shared))
    assert (b <= a + 1e-4).all()                                  # a larger bank is never farther away


def test_save_and_load(tmp_path, fitted):
    fitted.save(tmp_path / "saved")
    again = load_detector(tmp_path / "saved", device="cpu", encoders=miniature())
    assert again.config() == fitted.config() and again.scales == pytest.approx(fitted.scales)
    assert torch.allclose(again.components(TESTS)["rgb"], fitted.components(TESTS)["rgb"], atol=1e-6)
    with pytest.raises(DataError, match="a broken file"):
        broken = damage(tmp_path / "saved", "weights.safetensors", lambda p: p.write_bytes(p.read_bytes()[:-9]))
        load_detector(broken, device="cpu", encoders=miniature())


def test_a_bank_of_other_encoders_is_refused(tmp_path, fitted):
    fitted.save(tmp_path / "saved")
    for state in ({"fc": torch.ones(2)}, {"rgb": torch.ones(3, 768), "xyz": torch.ones(3, 36), "scales": torch.ones(2)}):
        write_tensors(tmp_path / "saved/weights.safetensors", state)
        with pytest.raises(DataError, match="weights that fit config.json"):
            load_detector(tmp_path / "saved", device="cpu", encoders=miniature())


def test_the_lab_makes_its_sliders(fitted):
    lab = AblationLab(fitted, TESTS)
    assert {"rule", "alpha"} <= set(lab.controls)


def test_patches_at_the_rim_are_not_pulled_to_zero():
    features = extract(GOOD[:1], *miniature())[0]
    on = seen_patches(features).flatten()
    flat = spread(torch.ones(int(on.sum())), on, features.image_matrix, features.valid)
    assert torch.allclose(flat[features.valid], torch.tensor(1.)) and not flat[~features.valid].any()
    assert patch_rows(features)["rgb"].shape == (int(on.sum()), 12)


def test_accelerator_gives_the_same():
    from accelerate import Accelerator
    a, b = detector().fit(GOOD), detector().fit(GOOD, accelerator=Accelerator(cpu=True))
    assert all(torch.equal(a.banks[name], b.banks[name]) for name in a.banks)


def test_refused_input(fitted):
    with pytest.raises(DataError, match="good samples only"): detector().fit(TESTS)
    with pytest.raises(DataError, match="memory_bank.fit: found no sample"): detector().fit([])
    with pytest.raises(DataError, match="memory_bank.components: found no sample"): fitted.components([])
    with pytest.raises(DataError, match="nothing learned yet"): detector().components(TESTS)
    with pytest.raises(DataError, match="Did you mean 'fpfh'"): detector(geometry="fpf")
    with pytest.raises(DataError, match="Did you mean 'coreset'"): detector(core_set=.1)
    with pytest.raises(DataError, match="bank_dtype' 'float64'"): detector(bank_dtype="float64")
    with pytest.raises(DataError, match="encoder pair 'tinny'"): create_detector("memory_bank", "tinny", geometry="fpfh")
    with pytest.raises(DataError, match="an odd number"): detector(pool=2).fit(GOOD[:1])
    with pytest.raises(DataError, match="Did you mean 'random'"): detector(choice="randm").fit(GOOD[:1])
    for share in (0, -1, float("nan")):
        with pytest.raises(DataError, match="share: found"): remember([torch.ones(3, 2)], share)
    with pytest.raises(DataError, match="Did you mean 'alpha'"): fitted.fuse(fitted.components(TESTS), alhpa=.2)


def test_a_sample_with_nothing_measured_is_named():
    empty = replace(GOOD[0], valid=np.zeros_like(GOOD[0].valid), xyz=np.zeros_like(GOOD[0].xyz), id="disc/good/empty")
    with pytest.raises(DataError, match="disc/good/empty"): detector().fit([*GOOD[:2], empty])


def test_a_map_is_the_distance_to_the_nearest_row_in_usual_distances(cache):
    one = detector(coreset=.3).fit(GOOD, cache=cache)
    (_, features), = one.stream(TESTS[1:], cache)
    rows, seen = patch_rows(features)["rgb"], seen_patches(features)
    distance = torch.cdist(rows.double(), one.banks["rgb"].double()).min(1).values / one.scales["rgb"]
    by_hand = spread(distance.float(), seen.flatten(), features.image_matrix, features.valid)
    assert torch.allclose(one.components(TESTS[1:], cache=cache)["rgb"][0], by_hand, atol=1e-3)

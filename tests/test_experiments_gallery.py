"The gallery: who is measured where and by what, what its table says, what its panel shows; and that both labs take every detector of the package."
from dataclasses import replace

import numpy as np
import pytest
import torch
from lab_samples import make_sample

from mmad_nb.core.runtime import DataError
from mmad_nb.data import prepare
from mmad_nb.detectors.base import DETECTORS, Components, Detector, Weight, create_detector, list_detectors
from mmad_nb.experiments import Splits, run_protocol
from mmad_nb.experiments.protocols import spread_of
from mmad_nb.experiments.gallery import GalleryPanel, alone_markdown, gallery, good_scale, judged_alone, numbers_kept, protocols_of, rescaled, seconds_of, those_known
from mmad_nb.forge import forge_sample
from mmad_nb.forge.forge_clouds import forge_cloud
from mmad_nb.lab import AblationLab, Explorer

OURS = [name for name in list_detectors() if DETECTORS[name].__module__.startswith("mmad_nb.")]   # other tests register some of their own
SHORT = dict(epochs=1, steps=2, views=1, synergy_epochs=1, align_epochs=1, reweight_epochs=1, contrast_epochs=1, draws=1, batch_size=1)


# ---- both labs, every detector --------------------------------------------------------------------------------------

@pytest.fixture(scope="module")
def captures():
    take = lambda category, kind, seed: prepare(forge_sample(category, kind, seed=seed, size=112), 112)
    test = [take("bagel", kind, 50 + n) for n, kind in enumerate(("good", "stain"))]
    return {"good": [take("bagel", "good", n) for n in range(2)], "labelled": [take("gear", "good", 1), take("gear", "hole", 2)],
            "unlabelled": test, "nothing": []}, test


@pytest.fixture(scope="module")
def fitted(captures, tmp_path_factory):
    "A function from a detector's name to the fitted detector and its components of the test samples; each is made once."
    given, test = captures
    known, cache = {}, tmp_path_factory.mktemp("cache")

    def make(name):
        if name not in known:
            detector = create_detector(name, device="cpu", **those_known(name, **SHORT))
            detector.fit(given[detector.learns_from], cache=cache / name)
            known[name] = detector, detector.components(test, cache=cache / name)
        return known[name]

    return make


@pytest.mark.parametrize("name", OURS)
def test_both_labs_take_every_detector_with_nothing_written_for_one(name, captures, fitted):
    test, (detector, parts) = captures[1], fitted(name)
    lab = AblationLab(detector, test, parts)
    assert set(lab.controls) == {weight.name for weight in detector.weights} and torch.isfinite(lab.result.maps).all()
    for weight in detector.weights:                      # each control can be moved to another value, and something is fused
        other = weight.choices[-1] if weight.choices else weight.high if weight.default != weight.high else weight.low
        lab.set(**{weight.name: other})
        assert lab.weights[weight.name] == other and not lab.message.value
    lab.reset()
    assert torch.equal(lab.result.maps, lab.default.maps)
    weight = detector.weights[0]
    value = weight.choices[-1] if weight.choices else weight.high
    panel = Explorer(detector, (detector, {weight.name: value}), test, {detector: parts})
    before = panel.images["left"].value
    panel.sample.value = 1
    assert panel.images["left"].value != before and panel.right.weights[weight.name] == value
    lab.close(), panel.close()


def test_one_explorer_takes_all_detectors(captures, fitted):
    test, made = captures[1], {name: fitted(name) for name in OURS}
    panel = Explorer({name: detector for name, (detector, _) in made.items()}, test, dict(made.values()))
    before = panel.images["right"].value
    for name in OURS[2:]:
        panel.put(right=name)
        assert panel.images["right"].value != before and f"rank of {name}" in panel.titles["right"].value
        before = panel.images["right"].value
        torch.testing.assert_close(panel.right.now.maps, made[name][0].fuse(made[name][1]), rtol=1e-4, atol=1e-5)
    assert panel.overview.value.count("<tr>") == 1 + len(OURS) and not panel.message.value
    with pytest.raises(DataError, match="the only captures that it takes"): Explorer([one for one, _ in made.values()], [forge_cloud("knot0", "hole", points=300)])
    panel.close()


def test_detectors_of_clouds_in_one_explorer():
    train = [forge_cloud("ring0", kind, seed=n, points=1100) for n, kind in enumerate(("good", "bulge"))]
    test = [forge_cloud("knot0", kind, seed=n, points=1050 + 50 * n) for n, kind in enumerate(("good", "hole"))]
    one, other = (create_detector(name, device="cpu", **those_known(name, **SHORT)).fit(train) for name in ("pointad", "gs_clip"))
    panel = Explorer([one, other, (one, {"share": 1.0})], test)
    assert list(panel.sides) == ["pointad 1", "gs_clip", "pointad 2"] and not panel.photos and len(panel.link) == 2
    panel.sample.value = 1
    for name, side in panel.sides.items():
        panel.put(*((name, "gs_clip") if name != "gs_clip" else ("gs_clip", "pointad 1")))
        maps = side.now.maps
        assert [len(scores) for scores in maps] == [1050, 1100] and all(torch.isfinite(scores).all() for scores in maps)
        np.testing.assert_allclose(panel.plots["left"].points.attribute, np.interp(side.now.map(1, "rank"), (.9, 1), (0, 1)), atol=1e-6)
    assert "object AUROC" in panel.overview.value and "point AUROC" in panel.table.value
    panel.close()


# ---- who is measured where, by fakes that need no encoder ----------------------------------------------------------

class Dark(Detector):
    "Dark is strange; learns how dark good samples are, and how many there are."
    weights = (Weight("power", "p", 1., 0, 3, "of the darkness"),)
    defaults = {"seed": 0, "gain": 1.0}
    fits, caches = [], []

    def fit(self, samples, checkpoint=None, cache=None, accelerator=None):
        Dark.fits.append((self.name, [samples[i].id for i in range(len(samples))])), Dark.caches.append(cache)
        self.level, self.fitted = torch.tensor([float(samples[0].rgb.mean())]), True
        self.shots = len(samples)
        return self

    def components(self, samples, cache=None):
        maps = torch.stack([torch.from_numpy(1 - s.rgb.mean(0)) for s in samples]).float()
        return Components({"dark": maps + self.level + .1 * (self.options.get("seed", 0) + self.shots) * maps.roll(3, 2)}, torch.from_numpy(np.stack([s.valid for s in samples])))

    def combine(self, components, power): return components["dark"] ** power
    def state(self): return {"level": self.level, "count": torch.tensor([1, 2])}


@pytest.fixture
def fakes(monkeypatch):
    for name, learns, defaults in (("dark", "good", Dark.defaults), ("blind", "unlabelled", {}), ("judge", "labelled", Dark.defaults)):
        kind = type(name, (Dark,), {"name": name, "learns_from": learns, "defaults": defaults})
        monkeypatch.setitem(DETECTORS, name, kind)
    Dark.fits.clear(), Dark.caches.clear()
    return ["dark", "blind", "judge"]


def of(category, count): return [replace(make_sample(kind, n), category=category, id=f"{category}/{kind}/{n}") for n, kind in enumerate(count)]


TEST = ["good", "good", "dent", "crack"]
DATA = Splits([*of("cup", ["good"] * 2), *of("jar", ["good"] * 2)], [*of("cup", TEST), *of("jar", TEST)], "boxes")


@pytest.fixture
def found(fakes): return gallery(DATA, fakes, seeds=(0, 1), shots=(1, 2), train_on="jar", device="cpu", everywhere=True)


def test_each_is_measured_where_its_samples_are_given(fakes):
    assert protocols_of("dark") == ("unified",) and protocols_of("dark", True) == ("unified", "per-class", "few-shot")
    assert protocols_of("blind") == protocols_of("blind", True) == ("per-class",) and protocols_of("judge", True) == ("one-vs-rest",)
    assert protocols_of("cmds") == ("few-shot",) and "few-shot" in protocols_of("memory_bank")
    for name in OURS: assert set(protocols_of(name)) <= set(protocols_of(name, True)) and protocols_of(name)
    with pytest.raises(DataError, match="dork"): protocols_of("dork")
    with pytest.raises(DataError, match="dork"): those_known("dork")


def test_its_studies_are_those_of_the_protocols(found):
    assert {p: list(rows) for p, rows in found.studies.items()} == {
        "unified": ["dark"], "per-class": ["dark", "blind"], "few-shot": ["dark"], "one-vs-rest": ["judge"]}
    plain = lambda study: [{k: v for k, v in record.items() if "seconds" not in k} for record in study.records]
    for protocol, name, own in (("unified", "dark", {}), ("few-shot", "dark", {"shots": (1, 2)}), ("one-vs-rest", "judge", {"train_on": "jar"})):
        assert plain(found.studies[protocol][name]) == plain(run_protocol(protocol, name, DATA, seeds=(0, 1), device="cpu", **own))
    assert found.studies["per-class"]["blind"].every("seed") == [0]          # nothing in it has to do with chance


def test_the_models_are_those_that_were_measured(found):
    count = {}
    for protocol, name, task, seed, model in found.models:
        count[protocol, name] = count.get((protocol, name), 0) + 1
        assert model.name == name and model.fitted and model.options.get("seed", 0) == seed and task.test
    assert count == {("unified", "dark"): 2, ("per-class", "dark"): 4, ("per-class", "blind"): 2, ("few-shot", "dark"): 8, ("one-vs-rest", "judge"): 2}
    assert found.models[0][2].trained_on == "all categories"


def test_each_row_has_a_cache_of_its_own(fakes, tmp_path):
    gallery(DATA, fakes, seeds=0, train_on="jar", cache=tmp_path)
    assert {str(c.relative_to(tmp_path)) for c in Dark.caches} == {"unified/dark", "per-class/blind", "one-vs-rest/judge"}


def test_a_table_for_each_protocol(found):
    rows = found.rows("few-shot")
    study = found.studies["few-shot"]["dark"]
    assert [row[:3] for row in rows] == [("dark", "1-shot", "good samples"), ("dark", "2-shot", "good samples")]
    assert rows[0][3][1] != rows[1][3][1]
    assert rows[1][3][0] == study.spread("image_auroc", group="2-shot") and rows[0][6] == 1       # the integers are no learned numbers
    text = found.markdown(("image_auroc",))
    assert text.count("**") == 8 and "| judge | labelled samples, other categories |" in text
    assert f"| {study.spread('image_auroc', group='1-shot')} |" in text and "seeds 0, 1" in text
    with pytest.raises(DataError, match="cross-dataset"): found.rows("cross-dataset")


def test_seconds_are_those_before_the_cache_was_filled(found):
    study = found.studies["per-class"]["dark"]
    for record in study.records:
        record["fit_seconds"], record["seconds_per_sample"] = (8. if record["category"] == "cup" else 4., 2.) if record["seed"] == 0 else (1., 1.)
    assert seconds_of(study) == (6., 2.)
    for record in study.records: record["fit_seconds"] = None                # went on after an interruption
    assert np.isnan(seconds_of(study)[0]) and "| – | 2.00 |" in found.markdown()
    study = found.studies["unified"]["dark"]
    for record in study.records: record["fit_seconds"], record["seconds_per_sample"] = 3. + record["seed"], 1.
    assert seconds_of(study) == (3., 1.)


def test_what_was_measured_is_not_measured_again(fakes, tmp_path):
    how = dict(seeds=(0,), train_on="jar", folder=tmp_path)
    first = gallery(DATA, fakes, **how)
    Dark.fits.clear()
    again = gallery(DATA, fakes, **how)
    assert not Dark.fits and not again.models and again.studies["unified"]["dark"].records == first.studies["unified"]["dark"].records
    assert again.rows("unified")[0][6] is None and "| – |\n" in again.markdown()
    with pytest.raises(DataError, match="read from files has no models"): GalleryPanel(again, DATA.test)


def test_bad_input_is_refused_before_anything_is_trained(fakes):
    for names, options, words in ((fakes, {"blind": {"gian": 1}}, "gian"), (fakes, {"dork": {}}, "dork"), (["dork"], {}, "dork"), ([], {}, "no detector")):
        with pytest.raises(DataError, match=words): gallery(DATA, names, seeds=0, options=options, train_on="jar")
    assert not Dark.fits
    assert list(gallery(DATA, "dark", seeds=0, options={"dark": {"gain": 2.}}).studies) == ["unified"]


def test_numbers_kept(fakes):
    assert numbers_kept(create_detector("dark").fit(DATA.train)) == 1


# ---- the scale and the panel ----------------------------------------------------------------------------------------

def test_the_scale_is_that_of_good_pixels():
    maps = torch.arange(101.).reshape(1, 1, 101).repeat(2, 1, 1)
    good = np.zeros((2, 1, 101), bool); good[0] = True
    maps[1] = 1e6                                                           # defective: not asked
    assert good_scale(maps, good) == pytest.approx((50, 99))
    np.testing.assert_allclose(rescaled(np.array([[50., 99., 148.]]), (50, 99)), [[0, 1, 2]])
    assert not rescaled(torch.ones(3), (1, 1)).any()
    with pytest.raises(DataError, match="good pixels"): good_scale(maps, ~good & False)


def test_panel_shows_each_by_the_model_that_may_judge_the_sample(found):
    panel = GalleryPanel(found, DATA.test)
    assert {s.category for s in panel.samples} == {"cup"} and panel.names == ["dark", "blind", "judge"]   # judge has learned from jars
    panel.sample.value = 2
    sample = panel.samples[2]
    good = np.stack([s.valid & ~s.mask for s in panel.samples])
    for wanted, protocol in (("dark", "unified"), ("blind", "per-class"), ("judge", "one-vs-rest")):
        model = next(m for p, n, task, seed, m in found.models if (p, n, seed) == (protocol, wanted, 0) and "cup" in task.test)
        maps = model.fuse(model.components(panel.samples))
        assert panel.scales[wanted, "cup"] == pytest.approx(good_scale(maps, good)) and protocol in panel.titles[wanted]
        shown = panel.shown(wanted)
        assert np.isnan(shown[~sample.valid]).all()
        np.testing.assert_allclose(shown[sample.valid], rescaled(maps[2], good_scale(maps, good))[sample.valid], rtol=1e-4, atol=1e-5)
    before = panel.picture.value
    panel.top.value = 5
    assert panel.picture.value != before
    before = panel.picture.value
    panel.sample.value = 0
    assert panel.picture.value != before
    with pytest.raises(DataError, match="every detector"): GalleryPanel(found, [s for s in DATA.test if s.category == "jar"])


def test_weights_that_were_measured_are_those_that_are_shown(fakes):
    plain, squared = (gallery(DATA, "dark", seeds=0, options={"dark": {"weights": {"power": power}}}) for power in (1., 2.))
    assert squared.studies["unified"]["dark"].settings["weights"] == {"power": 2.}
    one, two = GalleryPanel(plain, DATA.test), GalleryPanel(squared, DATA.test)
    np.testing.assert_allclose(two.maps["dark", 1], one.maps["dark", 1] ** 2, rtol=1e-5)


def test_picture_has_a_dot_for_each_seed(found):
    axes = found.picture(("image_auroc", "aupro@30")).axes
    assert [ax.get_title() for ax in axes] == ["image_auroc", "aupro@30"] and [t.get_text() for t in axes[0].get_yticklabels()][2] == "per-class: blind"
    dots = [line for line in axes[1].lines if line.get_marker() == "o"]
    assert [len(line.get_xdata()) for line in dots] == [2, 2, 1, 2, 2]
    assert dots[0].get_xdata()[1] == found.studies["unified"]["dark"].spread("aupro@30", seed=1).mean


# ---- each component alone -------------------------------------------------------------------------------------------

def test_each_component_alone_is_judged_by_the_exact_rule(found):
    rows = {row[:4]: row[4] for row in found.alone()}
    assert [key for key in rows if key[0] == "unified"] == [("unified", "dark", "", "dark"), ("unified", "dark", "", "fused")]
    assert {key[2] for key in rows if key[0] == "few-shot"} == {"1-shot", "2-shot"}
    study = found.studies["unified"]["dark"]
    for n, metric in enumerate(("image_auroc", "pixel_auroc", "aupro@30")):       # by default the power is 1: fused is the component
        assert rows["unified", "dark", "", "fused"][n] == study.spread(metric)
        assert rows["unified", "dark", "", "dark"][n].mean == pytest.approx(study.spread(metric).mean, abs=1e-6)
        assert rows["unified", "dark", "", "dark"][n].count == 2                    # seeds
        assert rows["few-shot", "dark", "2-shot", "dark"][n].mean == pytest.approx(study_of(found, "2-shot", metric), abs=1e-6)


def study_of(found, group, metric): return found.studies["few-shot"]["dark"].spread(metric, group=group).mean


def test_a_number_for_a_picture_has_no_places():
    maps = torch.tensor([.3, .1, .2])[:, None, None].expand(3, 6, 6).clone()
    masks = np.zeros((3, 6, 6), bool)
    masks[0, 1:3, 1:3] = True
    parts = Components({"whole": maps, "map": maps + .01 * torch.rand(3, 6, 6)}, torch.ones(3, 6, 6, dtype=torch.bool))
    whole = judged_alone(parts, "whole", masks)
    assert whole[0] == 1 and np.isnan(whole[1:]).all() and not np.isnan(judged_alone(parts, "map", masks)).any()
    text = alone_markdown([("unified", "dark", "", "whole", [spread_of([v]) for v in whole])])
    assert "| unified | dark | whole | 1.000 | – | – |" in text


def test_a_gallery_from_files_has_no_components(fakes, tmp_path):
    give = lambda: gallery(DATA, ["dark"], seeds=0, folder=tmp_path, device="cpu")
    give()
    again = give()
    with pytest.raises(DataError, match="measure again"): again.alone()


def test_components_come_from_the_cache_that_the_gallery_filled(fakes, tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(Dark, "components", lambda self, samples, cache=None, before=Dark.components: (seen.append(cache), before(self, samples))[1])
    gallery(DATA, ["dark"], seeds=0, cache=tmp_path, device="cpu").alone(tmp_path)
    assert set(map(str, seen)) == {str(tmp_path / "unified/dark")}


def test_a_component_is_judged_in_all_categories(fakes):
    data = Splits(DATA.train, [*of("cup", TEST), *of("jar", ["good", "dent", "good", "stain", "dent"])], "boxes")
    made = gallery(data, ["dark"], seeds=0, device="cpu")
    rows = {row[3]: [spread.mean for spread in row[4]] for row in made.alone()}
    each = [made.studies["unified"]["dark"].spread("pixel_auroc", category=c).mean for c in ("cup", "jar")]
    assert abs(each[0] - each[1]) > 1e-6                                              # or the test proves nothing
    assert rows["dark"][1] == pytest.approx(np.mean(each), abs=1e-6)

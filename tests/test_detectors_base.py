"""What all detectors share: options, captures, encoders that stay whole, stages, streaming, one model for each category, files."""
import shutil
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from test_detectors_cfm import GOOD, TESTS, capture, miniature

from mmad_nb.core.runtime import DataError
from mmad_nb.data import Cloud
from mmad_nb.detectors import (Components, Detector, Option, PairDetector, Stage, Weight, create_detector, frozen, list_detectors,
                               load_detector)
from mmad_nb.detectors.base import DETECTORS, WeightPanel, register, weight_control
from mmad_nb.mapping import create_mappers, crossmodal_loss, distance_maps


def cfm(encoders=None, **options):
    return create_detector("cfm", encoders or miniature(), "cpu", **{"epochs": 2, "pixels": 60, "batch_size": 2, **options})


def same(a, b, tolerance=1e-6):
    return all((p - q).abs().max() <= tolerance for p, q in zip(a.mappers.parameters(), b.mappers.parameters()))


# options

@pytest.mark.parametrize("name, option", [
    ("cfm", {"lr": "1e-3"}), ("cfm", {"lr": -1.}), ("cfm", {"lr": 0}), ("cfm", {"batch_size": 0}), ("cfm", {"pixels": "some"}),
    ("cfm", {"pixels": 0}), ("cfm", {"pixels": -5}), ("cfm", {"seed": -1}), ("cfm", {"seed": 2 ** 64}), ("cfm", {"group_size": 2.5}),
    ("cfm", {"epochs": -1}), ("cfm", {"epochs": 0}), ("cfm", {"epochs": "3"}), ("cfm", {"epochs": True}), ("cfm", {"blur": "no"}),
    ("cfm", {"release_scores": "no"}), ("cfm", {"blocks": 11}), ("cfm", {"blocks": "8"}), ("cfm", {"compute_dtype": "float16"}),
    ("cfm", {"lr": float("nan")}), ("memory_bank", {"neighbours": 0}), ("memory_bank", {"neighbours": 1.5}),
    ("memory_bank", {"coreset": "10%"}), ("memory_bank", {"coreset": 0}), ("memory_bank", {"coreset": float("nan")}),
    ("memory_bank", {"projection": 0}), ("memory_bank", {"pool": 2}), ("memory_bank", {"choice": "randm"}),
    ("memory_bank", {"geometry": None}), ("text_guided", {"prompts": "cep"}), ("text_guided", {"psi_text": "chance"}),
    ("text_guided", {"balance": 1}), ("text_guided", {"group_size": None})], ids=str)
def test_options_are_refused_when_the_detector_is_made(name, option):
    with pytest.raises(DataError, match=f"{name} option '{next(iter(option))}'"): create_detector(name, device="cpu", **option)


def test_options_that_are_good():
    made = cfm(epochs=np.int64(3), lr=1, pixels="all", group_size=8)
    assert made.options["epochs"] == 3 and type(made.options["epochs"]) is int
    assert create_detector("cfm", miniature(), "cpu").options["epochs"] == 50                # the preset of full-size encoders
    assert create_detector("cfm", device="cpu").options["epochs"] == 30


@pytest.mark.parametrize("value", ["0.5", None, True, float("nan"), 2, -.1])
def test_weights_that_are_no_number(value):
    parts = Components({"rgb": torch.ones(1, 9, 9), "xyz": torch.ones(1, 9, 9)}, torch.ones(1, 9, 9, dtype=torch.bool))
    with pytest.raises(DataError, match="weight 'alpha'"): cfm().fuse(parts, alpha=value)


@pytest.mark.parametrize("epochs", [0, -1, 1.5, "3"])
def test_passes_named_in_fit(epochs):
    with pytest.raises(DataError, match="epochs"): cfm().fit(GOOD[:2], epochs=epochs)


# captures

@pytest.mark.parametrize("samples, message", [
    (GOOD[0], "found a Sample; expected a list"), (["a.png", "b.png"], "found a str; expected RGB-3D samples"), (None, "found a NoneType"),
    ("bagel", "found a str; expected a list"), ((s for s in GOOD), "found a generator"), ([], "found no sample"),
    ([Cloud(np.ones((5, 3), np.float32))], "found a Cloud; expected RGB-3D samples")], ids=lambda v: str(v)[:20])
@pytest.mark.parametrize("name", ["cfm", "memory_bank"])
def test_captures_that_are_refused(name, samples, message):
    made = create_detector(name, miniature(), "cpu", group_size=8)
    with pytest.raises(DataError, match=f"{name}.fit: {message}"): made.fit(samples)
    assert not made.fitted


def test_samples_of_two_sizes():
    from mmad_nb.data import square
    for mixed in ([GOOD[0], square(GOOD[1], 112)], [*GOOD[:4], square(GOOD[4], 112)]):          # in one batch, in two
        with pytest.raises(DataError, match="size"): cfm().fit(mixed)
        with pytest.raises(DataError, match="size"): cfm().fit(GOOD[:2]).components(mixed)


def test_labels_are_needed_where_a_detector_learns_from_them():
    class Labelled(Detector):
        learns_from, name = "labelled", "labelled"
        def learn(self, reading, **how): self.seen = [sample.id for sample in reading]

    assert Labelled().fit([*GOOD[:1], *TESTS]).seen == [GOOD[0].id, TESTS[0].id, TESTS[1].id]   # defective ones are welcome
    with pytest.raises(DataError, match="expected labelled samples"): Labelled().fit([replace(GOOD[0], mask=None)])


def test_one_that_learns_from_nothing():
    class Zero(Detector):
        learns_from, name, weights = "nothing", "zero", ()
        def maps_of(self, networks, sample, features): return {"zero": torch.zeros(sample.size)}
        def combine(self, components): return components["zero"]

    assert Zero().fit(GOOD).fuse(Zero().components(TESTS)).shape == (2, 56, 56)


# components

def test_components_of_clouds_slice_and_come_apart():
    flat = torch.arange(10.)
    parts = Components({"far": flat}, torch.ones(10, dtype=torch.bool), ["a", "b", "c"], sizes=(2, 5, 3))
    assert [one.tolist() for one in parts.apart(parts["far"])] == [[0, 1], [2, 3, 4, 5, 6], [7, 8, 9]]
    assert parts[1:].sizes == (5, 3) and parts[[2, 0]]["far"].tolist() == [7, 8, 9, 0, 1] and parts[-1].ids == ("c",)
    assert parts[[2, 0]].ids == ("c", "a")
    assert parts[torch.tensor([True, False, True])].sizes == (2, 3)


def test_components_that_are_not_finite():
    for value in (float("nan"), float("inf")):
        with pytest.raises(DataError, match="component 'rgb': found NaN or infinite"):
            Components({"rgb": torch.full((1, 4, 4), value)}, torch.ones(1, 4, 4, dtype=torch.bool))


def test_one_map_is_not_many():
    with pytest.raises(DataError, match="maps of shape"): cfm().image_scores(torch.rand(9, 9))
    with pytest.raises(DataError, match="found a dict"): cfm().fuse({"rgb": torch.rand(1, 9, 9)})


# encoders

def test_encoders_of_the_caller_stay_whole():
    pair = miniature()
    first = cfm(pair).fit(GOOD[:2])
    before = first.components(TESTS)["xyz"]
    cfm(pair, blocks=4), cfm(pair, compute_dtype="bfloat16")
    assert torch.equal(first.components(TESTS)["xyz"], before)
    assert len(pair[1].model.blocks["blocks"]) == 12 and pair[1].model.taps == (3, 7, 11)
    assert {p.dtype for encoder in pair for p in encoder.model.parameters()} == {torch.float32}
    assert len(cfm(pair, blocks=8).point_encoder.model.blocks["blocks"]) == 8


@pytest.mark.parametrize("encoders", [None, (), miniature()[::-1], miniature()[:1], ("tiny", "tiny")], ids=str)
def test_encoders_that_are_none(encoders):
    with pytest.raises(DataError, match=r"cfm\(encoders=...\)"): create_detector("cfm", encoders, "cpu")


def test_learning_and_testing_read_the_same_block():
    for blocks in (12, 8, 4):
        made = cfm(blocks=blocks)
        learned = made.features(GOOD[:1])[0]
        (_, tested), = made.stream(GOOD[:1])
        assert torch.equal(learned.image, tested.image) and torch.equal(learned.points, tested.points)
        assert torch.equal(learned.image, made.image_encoder.encode(torch.from_numpy(GOOD[0].rgb)[None], (blocks - 1,))[0][0])


def test_each_sample_has_its_own_note():
    notes = cfm().features(GOOD).notes
    assert [note.id for note in notes] == [sample.id for sample in GOOD] and all(note.mask is None for note in notes)


# checkpoints, stages, streaming

@pytest.mark.parametrize("encoders, options, samples", [
    (0, {}, [capture(100 + i) for i in range(5)]), (7, {}, GOOD), (0, {"pixels": 50}, GOOD), (0, {"group_size": 16}, GOOD),
    (0, {"blocks": 8}, GOOD), (0, {"lr": .1}, GOOD), (0, {}, GOOD[::-1])], ids=["samples", "encoders", "pixels", "groups", "blocks", "lr", "order"])
def test_a_checkpoint_of_another_run_is_refused(tmp_path, encoders, options, samples):
    cfm().fit(GOOD, checkpoint=tmp_path / "run.safetensors")
    with pytest.raises(DataError, match="another run"):
        cfm(miniature(encoders), **options).fit(samples, checkpoint=tmp_path / "run.safetensors")


class TwoStages(PairDetector):
    "The two directions of CFM, one after the other."
    name, weights = "two_stages", (Weight("alpha", "α", .5),)
    defaults = {**frozen.PAIR_OPTIONS, **frozen.TRAINING_OPTIONS}

    def begin(self, notes): self.modules = create_mappers(*self.dims, self.options["seed"])

    def stages(self):
        from mmad_nb.detectors.cfm import crossmodal_item
        make = partial(crossmodal_item, count=self.count)
        whole = lambda items: crossmodal_loss(self.modules, items)
        return [Stage({name: self.modules[name]}, make, whole, passes, 2, 1e-3, name)
                for name, passes in (("rgb_to_xyz", 2), ("xyz_to_rgb", 3))]

    def maps_of(self, networks, sample, features): return distance_maps(networks, features)
    def combine(self, components, alpha): return components["rgb"]


def test_stages_follow_one_another_and_resume(tmp_path, monkeypatch):
    make = lambda: TwoStages(miniature(), "cpu", pixels=60)
    whole = make().fit(GOOD)
    assert len(whole.curve) == 5
    usual, calls = frozen.train, []

    def stopping(*arguments, **options):
        calls.append(options["checkpoint"].name)
        if len(calls) == 2: raise KeyboardInterrupt
        return usual(*arguments, **options)

    monkeypatch.setattr(frozen, "train", stopping)
    with pytest.raises(KeyboardInterrupt): make().fit(GOOD, checkpoint=tmp_path / "run.safetensors")
    resumed = make().fit(GOOD, checkpoint=tmp_path / "run.safetensors")
    assert calls == ["run.safetensors", "run-xyz_to_rgb.safetensors"] * 2
    assert same(whole, resumed) and resumed.curve == pytest.approx(whole.curve)


@pytest.mark.parametrize("workers", [0, 1, 2])
def test_streamed_items_teach_the_same(monkeypatch, workers):
    held = cfm().fit(GOOD)
    monkeypatch.setattr(frozen, "HELD", 0)
    monkeypatch.setattr(frozen, "readers", lambda: workers)
    assert same(held, cfm().fit(GOOD), 1e-5)


def test_the_temporary_folder_goes_with_the_training(tmp_path, monkeypatch):
    import tempfile
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(frozen, "HELD", 0)
    cfm().fit(GOOD)
    assert [p.name for p in tmp_path.iterdir() if p.name.startswith("mmad_nb-")] == []


def test_a_disk_that_is_too_small(monkeypatch):
    usual = shutil.disk_usage
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usual(path)._replace(free=1000))
    with pytest.raises(DataError, match="GB for the features of 5 samples"): cfm().fit(GOOD)


# one model for each category

PAIRS = [replace(sample, category=("disc", "line1/b")[i % 2]) for i, sample in enumerate(GOOD)]
MIXED = [replace(capture(30, "stain"), category="line1/b"), *(replace(s, category="disc") for s in TESTS)]


def test_maps_and_validity_come_back_in_the_order_of_the_samples(tmp_path):
    each = cfm(per_category=True).fit(PAIRS, checkpoint=tmp_path / "run.safetensors")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["run-disc.safetensors", "run-line1%2Fb.safetensors"]
    shapes = [replace(s, valid=s.valid & (np.arange(56) < 30 + 8 * i)) for i, s in enumerate(MIXED)]
    shapes = [replace(s, xyz=s.xyz * s.valid) for s in shapes]
    parts = each.components(shapes)
    assert parts.ids == tuple(s.id for s in MIXED)
    for i, sample in enumerate(shapes):
        alone = each.models[sample.category].components([sample])
        assert torch.equal(parts.valid[i], alone.valid[0]) and torch.allclose(parts["xyz"][i], alone["xyz"][0], atol=1e-5)
    each.save(tmp_path / "saved")
    again = load_detector(tmp_path / "saved", "cpu", encoders=miniature())
    assert torch.allclose(again.components(shapes)["rgb"], parts["rgb"], atol=1e-6)
    assert "; fitted" in repr(each) and "not fitted" not in repr(each)


def test_what_was_learned_of_a_category_is_used_for_it():
    "`balance` divides by means that each category's model learned itself."
    from test_detectors_text_guided import Words
    even = create_detector("text_guided", (*miniature(), Words()), "cpu", per_category=True, balance=True, blur=False, epochs=2,
                           pixels=60, group_size=8).fit(PAIRS)
    assert not torch.equal(even.models["disc"].scale, even.models["line1/b"].scale)
    for category in even.models:
        parts = even.components([s for s in PAIRS if s.category == category])
        assert even.fuse(parts, alpha=1., beta=0.)[parts.valid].mean().item() == pytest.approx(1, abs=1e-3)


# files

def test_a_folder_of_somebody_else_is_not_touched(tmp_path):
    made = cfm().fit(GOOD[:2])
    (tmp_path / "bert/notes").mkdir(parents=True)
    (tmp_path / "bert/config.json").write_text('{"model_type": "bert"}')
    (tmp_path / "bert/notes/thesis.txt").write_text("my thesis")
    made.save(tmp_path / "mine")
    (tmp_path / "mine/notes.txt").write_text("mine, too")
    for folder in ("bert", "mine"):
        with pytest.raises(DataError, match="something else with this name"): made.save(tmp_path / folder)
    assert (tmp_path / "bert/notes/thesis.txt").exists() and (tmp_path / "mine/notes.txt").exists()
    (tmp_path / "empty").mkdir()
    made.save(tmp_path / "empty")
    made.save(tmp_path / "empty")


def test_names_that_are_no_detector(tmp_path):
    for path in (tmp_path / "nowhere", "/" + "x" * 300):
        with pytest.raises(DataError, match="no config.json"): load_detector(path)


def test_the_list_of_detectors():
    assert {"cfm", "memory_bank", "text_guided"} <= set(list_detectors())
    @register("toy")
    class Toy(Detector): defaults = {"a": Option(1, low=0), "b": True}
    try: assert create_detector("toy", device="cpu", a=3).config() == {"detector": "toy", "encoders": "tiny", "a": 3, "b": True}
    finally: del DETECTORS["toy"]


@pytest.mark.parametrize("low, high, default, step", [(0, 1, .5, .01), (0, 12, 4., .1), (0, 1, .33, .01), (-1, 3, .5, 4 / 120), (0, 1, .1234, .001), (2., 2., 2., .01)])
def test_a_default_lies_on_a_step_of_its_slider(low, high, default, step):
    "The browser moves a value that lies between two steps to the next one."
    slider = weight_control(Weight("a", "α", default, low, high))
    assert slider.value == default and slider.step == pytest.approx(step)


def test_a_control_is_switched_off_only_where_its_component_is_known_to_be_missing():
    free, bound = Weight("a", "α", .5), Weight("b", "β", "x", choices=("x", "y"), needs="photo")
    assert [weight_control(bound, parts).disabled for parts in ((), ["points"], ["points", "photo"])] == [False, True, False]
    assert not weight_control(free, ["points"]).disabled


def test_the_weight_panel_shows_the_score_of_its_sample():
    "Some scores look at the components, too, and some weights at the score alone."
    class Apart(Detector):
        weights = (Weight("alpha", "α", .5), Weight("share", "s", .5))
        def combine(self, components, alpha, share): return alpha * components["a"]
        def image_scores(self, maps, components=None, alpha=.5, share=.5): return share * maps.amax((1, 2)) + (1 - share) * components["a"].amin((1, 2))
    panel = WeightPanel(Apart(device="cpu"), Components({"a": torch.tensor([[[1., 3.]], [[5., 9.]]])}, torch.ones(2, 1, 2, dtype=torch.bool)))
    assert panel.score.value == "score: 1.250"                  # .5 * .5 * 3 + .5 * 1
    panel.controls["share"].value = 1.
    panel.controls["alpha"].value = 1.
    assert panel.score.value == "score: 3.000"


def test_a_panel_of_several_samples_shows_the_chosen_one_and_its_score():
    detector, draw = cfm(), torch.Generator().manual_seed(0)
    parts = Components({name: torch.rand(3, 9, 9, generator=draw) for name in ("rgb", "xyz")}, torch.ones(3, 9, 9, dtype=torch.bool), ("a", "b", "c"))
    panel = WeightPanel(detector, parts)
    assert panel.sample in panel.box.children[0].children and [name for name, _ in panel.sample.options] == ["a", "b", "c"]
    assert panel.brightest == detector.fuse(parts).max()
    before = panel.picture.value
    panel.sample.value, panel.controls["alpha"].value = 2, .25
    wanted = detector.fuse(parts[2], alpha=.25)
    assert torch.equal(panel.fused, wanted) and panel.picture.value != before
    assert panel.score.value == f"score: {detector.image_scores(wanted).item():.3f}"
    alone = WeightPanel(detector, parts[1], ["one"], brightest=5.)
    assert alone.sample not in alone.box.children[0].children and alone.brightest == 5. and alone.sample.options[0][0] == "one"
    with pytest.raises(DataError, match="2 names for 3"): WeightPanel(detector, parts, ["a", "b"])


def test_the_weight_panel_keeps_its_scale_and_says_what_that_hides():
    class Faint(Detector):
        weights = (Weight("alpha", "α", 1.), Weight("beta", "β", 0.))
        def combine(self, components, alpha, beta): return alpha * components["a"] + beta * components["b"]
    maps = {"a": torch.tensor([[[0., 1.], [2., 4.]]]), "b": torch.tensor([[[0., .01], [.02, .01]]])}
    parts, mask = Components(maps, torch.ones(1, 2, 2, dtype=torch.bool), ["x/1"]), np.array([[False, False], [False, True]])
    panel = WeightPanel(Faint(device="cpu"), parts, masks=[mask])
    words = lambda: next(c for c in panel.picture._dom_classes if c.startswith("mmad-alt:")).replace("\u00a0", " ")
    assert (panel.top, panel.note) == (4., "") and "x/1: 0 to 4, white at 4" in words()
    outlined, panel.line.value = panel.picture.value, False
    assert panel.picture.value != outlined                                   # the line can be switched off
    panel.controls["alpha"].value, panel.controls["beta"].value = 0., 1.
    assert panel.top == 4. and "200 times fainter" in panel.note and "200 times fainter" in panel.scale.value
    black = panel.picture.value
    panel.rescale(panel.buttons[0])
    assert panel.top == pytest.approx(.02) and panel.note == "" and panel.picture.value != black
    panel.controls["beta"].value = 0.
    assert "the same everywhere" in panel.note and "the same everywhere: 0" in panel.scale.value
    panel.rescale(panel.buttons[1])
    assert panel.top == 4.
    assert panel.line in panel.box.children[0].children and WeightPanel(Faint(device="cpu"), parts).line not in WeightPanel(Faint(device="cpu"), parts).box.children[0].children
    for wrong in ([mask, mask], [mask[:1]]):
        with pytest.raises(DataError, match="masks"): WeightPanel(Faint(device="cpu"), parts, masks=wrong)

"GS-CLIP: what learns in which stage, evaluation at test, each fault of the release by itself, files, and bad input."
import copy

import numpy as np
import open_clip
import pytest
import torch

from mmad_nb.core.runtime import DataError
from mmad_nb.core.training import drawn_from
from mmad_nb.data import prepare
from mmad_nb.detectors import create_detector, load_detector
from mmad_nb.detectors.base import Reading
from mmad_nb.detectors.frozen import Items
from mmad_nb.features.text import ClipEncoder
from mmad_nb.forge import forge_sample
from mmad_nb.forge.forge_clouds import forge_cloud

QUICK = dict(device="cpu", epochs=1, synergy_epochs=1, batch_size=2, lr=.01, synergy_lr=.01, k=4, vv="off", prior="tiny_pointnet2")


@pytest.fixture(scope="module")
def clip():
    "A CLIP of 3 x 3 patches with small random weights."
    with drawn_from(0):
        model = open_clip.CLIP(16, dict(image_size=48, patch_size=16, width=32, layers=2, head_width=16),
                               dict(context_length=40, vocab_size=49408, width=16, heads=2, layers=2))
    return ClipEncoder("small", model, "random", "cpu")


@pytest.fixture(scope="module")
def known(): return [forge_cloud("ring0", defect, seed=n, points=1200) for n, defect in enumerate(("good", "bulge"))]


@pytest.fixture(scope="module")
def unknown(): return [forge_cloud("pear0", "bulge", seed=5, points=1100)]


def make(clip, **options): return create_detector("gs_clip", encoders=clip, **{**QUICK, **options})


@pytest.fixture(scope="module")
def fitted(clip, known): return make(clip).fit(known)


def begun(clip, known, **options):
    "A detector before its first step, with the items of its stages."
    one = make(clip, **options)
    found = one.features(Reading(one, known, True))
    one.begin(found.notes)
    return one, [list(Items(found, stage.item)) for stage in one.stages()]


def state(module): return copy.deepcopy(module.state_dict())


def moved(module, before): return [name for name, value in module.state_dict().items() if not torch.equal(value, before[name])]


def test_each_stage_moves_its_own_parts(clip, known):
    one, (first, second) = begun(clip, known)
    frozen, parts = state(clip), {name: state(module) for name, module in one.modules.items()}
    def step(stage, items):
        parameters = [p for module in stage.modules.values() for p in module.parameters() if p.requires_grad]
        optimizer = stage.optimizer(parameters, stage.lr)
        for _ in range(2):
            optimizer.zero_grad()
            total, count = stage.loss(items)
            total.backward(); optimizer.step()
        assert count == len(items)
    prompts, synergy = one.stages()
    step(prompts, first)
    assert "context" in moved(one.modules["prompts"], parts["prompts"]) and "defect.prototypes" in moved(one.modules["prompts"], parts["prompts"])
    assert not moved(one.modules["tower"], parts["tower"]) and not moved(one.modules["srm"], parts["srm"])
    learned = state(one.modules["prompts"])
    step(synergy, second)
    assert not moved(one.modules["prompts"], learned)
    assert len(moved(one.modules["tower"], parts["tower"])) == len(parts["tower"]) == 2 * 2 * 2
    assert {"f1.weight", "f2.weight", "value_r.weight", "whole.2.weight", "patch.2.weight"} <= set(moved(one.modules["srm"], parts["srm"]))
    assert not moved(clip, frozen)


def test_a_bank_may_begin_where_labelled_points_lead_it(clip, known):
    from mmad_nb.features.pointnet2 import choose_points, create_pointnet2, outlier_scores
    one, (items, _) = begun(clip, known, bank="learned", prototypes=8)
    prompts = one.modules["prompts"]
    network, bank = create_pointnet2("tiny_pointnet2", device="cpu"), prompts.defect.prototypes.detach()
    assert bank.shape == (8, 128)
    bulge = next(item for item in items if item.anomalous)
    with torch.no_grad(): local = network(bulge.plan)[0][0]
    damaged = bulge.labels[choose_points(len(bulge.labels))]
    def gap(prototypes):
        scores = outlier_scores(local, prototypes)
        return (scores[damaged].mean() - scores[~damaged].mean()).item() / scores.std().item()
    drawn = begun(clip, known, prototypes=8)[0].modules["prompts"].defect.prototypes.detach()
    assert gap(bank) > gap(drawn) + .3
    before = one.start.clone()
    one.stages()[0].loss(items)[0].backward()
    assert prompts.defect.prototypes.grad.abs().max() > 0 and torch.equal(before, bank)      # it goes on learning
    few = one.learned_bank(one.features(Reading(one, known, True)), most=300)
    assert few.shape == bank.shape and not torch.equal(few, bank)


def test_a_detector_without_the_learned_bank_begins_at_random_again(clip, known):
    one, _ = begun(clip, known, bank="learned")
    saved = one.state()
    other = make(clip)
    assert other.start is None and not torch.equal(other.modules["prompts"].defect.prototypes, one.start)
    other.load_state(saved)
    assert torch.equal(other.modules["prompts"].defect.prototypes, one.start)


def test_the_tower_learns_at_a_tenth(clip, known):
    one, _ = begun(clip, known)
    optimizer = one.stages()[1].optimizer(None, .01)
    rates = {id(p): group["lr"] for group in optimizer.param_groups for p in group["params"]}
    assert {rates[id(p)] for p in one.modules["srm"].parameters()} == {.01}
    assert {rates[id(p)] for p in one.modules["tower"].parameters()} == {.001}


def test_the_strength_of_the_changes_is_alpha_by_rank(clip, known):
    tower = begun(clip, known, rank=4, lora_alpha=6., consistency=.7)[0].modules["tower"]
    assert {change.gamma for change in tower.changes} == {1.5} and {change.A.shape[0] for change in tower.changes} == {4}


def test_each_stage_has_its_own_passes_and_rate(clip, known):
    first, second = begun(clip, known, epochs=3, synergy_epochs=4, lr=.02, synergy_lr=.03)[0].stages()
    assert (first.epochs, first.lr, second.epochs, second.lr) == (3, .02, 4, .03)


def test_a_second_training_knows_nothing_of_the_first(clip, known):
    "Sentences are kept during stage 2, by the number of the capture."
    others = [forge_cloud("pear0", defect, seed=n, points=1200) for n, defect in enumerate(("good", "bulge"))]
    twice = make(clip).fit(known).fit(others)
    for name, value in make(clip).fit(others).state().items(): torch.testing.assert_close(twice.state()[name], value, rtol=1e-4, atol=1e-5)


def test_a_plan_has_all_points_up_to_three_thousand(fitted):
    from mmad_nb.detectors.gs_clip import plan_of
    for count in (1200, 4000):
        points = torch.rand(count, 3, generator=torch.Generator().manual_seed(0))
        assert plan_of(points, fitted.grouping).points[0].shape[1] == min(count, 3000)
    assert plan_of(points, None) is None


def test_an_interrupted_training_ends_in_the_same_numbers(clip, known, tmp_path):
    whole = make(clip, epochs=2, synergy_epochs=2).fit(known)
    run = make(clip, epochs=2, synergy_epochs=2)
    stop = run.synergy_loss
    class Interrupted(Exception): pass
    calls = []
    def breaks(items):
        calls.append(1)
        if len(calls) == 2: raise Interrupted
        return stop(items)
    run.synergy_loss = breaks
    with pytest.raises(Interrupted): run.fit(known, checkpoint=tmp_path / "run.safetensors")
    assert {p.name for p in tmp_path.iterdir()} >= {"run.safetensors", "run-synergy.safetensors"}
    again = make(clip, epochs=2, synergy_epochs=2).fit(known, checkpoint=tmp_path / "run.safetensors")
    for name, value in whole.state().items(): torch.testing.assert_close(again.state()[name], value, rtol=1e-4, atol=1e-5)


def test_judging_is_deterministic_and_changes_nothing(fitted, unknown):
    before = copy.deepcopy(fitted.state())
    first, second = fitted.components(unknown), fitted.components(unknown)
    for name in first: assert torch.equal(first[name], second[name])
    for name, value in fitted.state().items(): assert torch.equal(value, before[name])
    assert not any(module.training for module in fitted.modules.modules())


def test_train_mode_makes_two_results_of_two_calls_and_keeps_the_network(fitted, clip, unknown):
    other = make(clip, release="train_mode")
    other.load_state(fitted.state()); other.fitted = True
    first, second, right = other.components(unknown), other.components(unknown), fitted.components(unknown)
    assert not torch.equal(first["points"], second["points"]) and not torch.equal(first["points"], right["points"])
    for name, value in other.state().items(): assert torch.equal(value, fitted.state()[name])


def gradients(one, items):
    "Which parts get a gradient in stage 2."
    with torch.no_grad():
        for change in one.modules["tower"].changes: change.B.normal_(0, .1, generator=torch.Generator().manual_seed(0))
    total, _ = one.synergy_loss(items)
    total.backward()
    has = lambda p: p.grad is not None and bool(p.grad.abs().max() > 0)
    return {"tower": sum(has(p) for p in one.modules["tower"].parameters()), "keys": has(one.modules["srm"].f1.weight),
            "patches": has(one.modules["srm"].patch[0].weight), "total": total.item()}


def test_in_stage_2_everything_gets_a_gradient_unless_the_release_is_asked_for(clip, known):
    found = {release: gradients(*(lambda one, items: (one, items[1]))(*begun(clip, known, release=release, dropout=0.)))
             for release in ("none", "no_grad", "alone", "whole_only", "views_axis")}
    assert found["none"] | {"total": 0} == {"tower": 8, "keys": True, "patches": True, "total": 0}
    assert found["no_grad"]["tower"] == 0 and found["no_grad"]["keys"] and found["no_grad"]["patches"]
    assert not found["alone"]["keys"] and found["alone"]["tower"] == 8 and found["alone"]["patches"]
    assert not found["whole_only"]["patches"] and found["whole_only"]["tower"] == 8
    assert found["views_axis"]["tower"] == 8 and abs(found["views_axis"]["total"] - found["none"]["total"]) > 1e-3
    assert abs(found["no_grad"]["total"] - found["none"]["total"]) < 1e-5                 # the loss does not show it


def test_the_copy_before_the_weights_is_another_tower(clip, known):
    rgb, frozen = torch.rand(2, 3, 48, 48, generator=torch.Generator().manual_seed(0)), state(clip)
    right, wrong = (begun(clip, known, release=release)[0].modules["tower"] for release in ("none", "random_tower"))
    with torch.no_grad():
        torch.testing.assert_close(right(rgb).image, clip.encode_image(rgb).image)
        assert (wrong(rgb).image - clip.encode_image(rgb).image).abs().max() > .01
    assert not moved(clip, frozen)


def test_depth_and_renders_are_drawn_by_the_same_cameras(clip, known):
    right, wrong = (next(make(clip, release=release).recipe.encode(known[:1])) for release in ("none", "other_angles"))
    assert torch.equal(right.owner, wrong.owner) and not torch.equal(right.depth, wrong.depth)
    assert torch.equal(right.depth[right.owner < 0], torch.full_like(right.depth[right.owner < 0], 255))
    assert (wrong.depth[right.owner < 0] < 255).any()
    assert make(clip).recipe.key() != make(clip, release="other_angles").recipe.key()
    few = next(make(clip, views=2).recipe.encode(known[:1]))
    torch.testing.assert_close(few.depth, right.depth[[2, 0]])                    # x 0 and x -45, of both towers
    assert len(few) == len(next(make(clip, views=2, release="other_angles").recipe.encode(known[:1])).depth) == 2


def test_whole_only_leaves_the_patches(clip, known):
    for release in ("none", "whole_only"):
        one, items = begun(clip, known, release=release)
        made = one.refined(one.modules, items[1][0].features)
        assert torch.equal(made.patches, items[1][0].features.patches) == (release == "whole_only")
        assert not torch.equal(made.image, items[1][0].features.image)


def test_the_photo_is_read_by_both_towers(clip):
    samples = [prepare(forge_sample("brick", defect, seed=n), size=112) for n, defect in enumerate(("good", "hole"))]
    one, items = begun(clip, samples)
    features = items[1][0].features
    assert features.depth_pictures().shape == (9, 3, 48, 48) and features.depth_pictures(photo=True).shape == (10, 3, 48, 48)
    assert one.refined(one.modules, features).image.shape == (9, 16) and one.refined(one.modules, features, photo=True).image.shape == (10, 16)
    one.fit(samples)
    found = one.components([prepare(forge_sample("gear", "hole", seed=9), size=112)])
    assert set(found) == {"points", "view", "photo", "photo_view"} and found["points"].shape == (1, 112, 112)
    black = make(clip, photo=False)
    assert black.recipe.compute(samples[0])["photo"].shape == (0, 3, 48, 48)


@pytest.mark.parametrize("prompts", ["learned", "shape", "defect"])
def test_parts_can_be_left_out(clip, known, unknown, prompts):
    one = make(clip, prompts=prompts, synergy=prompts != "shape").fit(known)
    assert set(one.modules) == ({"prompts"} if prompts == "shape" else {"prompts", "tower", "srm"})
    assert len(one.curve) == (1 if prompts == "shape" else 2)
    kept = [name for name in ("shape", "defect") if getattr(one.modules["prompts"], name, None) is not None]
    assert kept == ([] if prompts == "learned" else [prompts])
    assert one.components(unknown)["points"].shape == (1100,)


def test_without_synergy_and_geometry_it_is_pointad(clip, known, unknown):
    options = {name: QUICK[name] for name in ("device", "epochs", "batch_size", "lr", "vv")}
    mine = make(clip, prompts="learned", synergy=False).fit(known)
    its = create_detector("pointad", encoders=clip, **options).fit(known)
    for name, value in its.components(unknown).items(): torch.testing.assert_close(mine.components(unknown)[name], value, rtol=1e-4, atol=1e-5)


def test_sentences_belong_to_a_cloud(fitted, known, unknown):
    from mmad_nb.detectors.gs_clip import plan_of
    said = [fitted.sentences(fitted.modules["prompts"], plan_of(torch.from_numpy(c.points), fitted.grouping)) for c in (known[0], unknown[0])]
    assert said[0].shape == (2, 16) and (said[0] - said[1]).abs().max() > 1e-6


def test_k_becomes_a_weight(clip, fitted, unknown):
    from mmad_nb.detectors.gs_clip import plan_of
    from mmad_nb.scoring import Evaluator
    many = make(clip, try_k=True)
    many.load_state(fitted.state()); many.fitted = True
    k, clouds = fitted.options["k"], [*unknown, forge_cloud("pear0", "good", seed=6, points=1300)]
    tried = many.weights[-1].choices
    assert tried == tuple(sorted({max(k // 4, 1), max(k // 2, 1), k, 2 * k, 4 * k})) and many.weights[-1].default == k
    assert [w.name for w in many.weights[:-1]] == [w.name for w in fitted.weights]
    found, plain = many.components(clouds), fitted.components(clouds)
    assert len(found) == len(plain) * len(tried)
    for name, values in plain.items(): torch.testing.assert_close(found[name], values)
    for one in tried:                                                      # as if the trained sentences had this k
        single = make(clip)
        single.load_state(fitted.state()); single.fitted = True
        said = single.sentences
        single.sentences = lambda prompts, plan, _=None, k=one: said(prompts, plan, k)
        its = single.components(clouds)
        maps, wanted = many.fuse(found, k=one, blur=1.), single.fuse(its, blur=1.)
        for a, b in zip(maps, wanted): torch.testing.assert_close(a, b)
        scores = many.image_scores(maps, found, k=one, share=.3, blur=1.)
        torch.testing.assert_close(scores, single.image_scores(wanted, its, share=.3, blur=1.))
        fused, (again,) = Evaluator([c.labels for c in clouds]).fused(found, many.fuse, dict(k=one, share=.3, blur=1.), many.image_scores)
        torch.testing.assert_close(again.float(), scores.float())
    assert max((found[f"points, k={one}"] - found["points"]).abs().max() for one in tried if one != k) > 1e-6
    with pytest.raises(DataError, match="k"): many.fuse(found, k=7 * k + 1)
    with pytest.raises(DataError, match="no such name|component"): many.fuse(plain, k=tried[0])
    with pytest.raises(DataError, match="maps alone"): many.image_scores(maps, k=k)
    with pytest.raises(DataError, match="weight"): fitted.fuse(plain, k=k)
    for prompts in ("learned", "shape"):
        with pytest.raises(DataError, match="a defect prompt"): make(clip, prompts=prompts, try_k=True)


def test_save_and_load(fitted, clip, unknown, tmp_path):
    fitted.save(tmp_path / "saved")
    again = load_detector(tmp_path / "saved", "cpu", encoders=clip)
    for name, value in fitted.components(unknown).items(): torch.testing.assert_close(again.components(unknown)[name], value)
    assert again.names == ["ring0"]


def test_bad_input(clip, known, fitted):
    for wrong in (dict(release="a"), dict(prompts="written"), dict(rank=0), dict(consistency=-1.), dict(prior="pointnet"), dict(k=0)):
        with pytest.raises(DataError): make(clip, **wrong)
    with pytest.raises(DataError, match="tokens"): make(clip, k=2, tokens=3)
    with pytest.raises(DataError, match="bank.*a defect prompt"): make(clip, bank="learned", prompts="shape")
    with pytest.raises(DataError): make(clip, bank="drawn")
    with pytest.raises(DataError, match="learned from"): fitted.components(known)
    with pytest.raises(DataError, match="pointad"): fitted.read_prompts("epoch_15.pth", ["carrot"])
    with pytest.raises(DataError, match="capture .*1024"): fitted.components([forge_cloud("pear0", "bulge", seed=5, points=500)])
    with pytest.raises(DataError, match="training capture .*1024"): make(clip).fit([forge_cloud("pear0", d, seed=5, points=500) for d in ("good", "bulge")])
    with pytest.raises(DataError, match="both kinds"): make(clip).fit(known[:1])

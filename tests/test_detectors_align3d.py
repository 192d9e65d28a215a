"""Align3D-AD on a miniature CLIP: what each stage learns, what is read at test, scores by hand, files, and what it refuses."""
from dataclasses import replace

import pytest
import torch
from test_detectors_pointad import clip, clouds, known, small_clip, unknown  # noqa: F401 (fixtures)

from mmad_nb.core.runtime import DataError
from mmad_nb.detectors import create_detector, load_detector
from mmad_nb.detectors.align3d import RELEASE_SETTINGS
from mmad_nb.detectors.pointad import PointAD, gaussian_blur, view_losses
from mmad_nb.features.views import ViewRecipe, note_labels, view_item
from mmad_nb.lab import AblationLab
from mmad_nb.mapping.alignment import alignment_loss, patch_weights
from mmad_nb.prompts.multimodal import dual_contrast

QUICK = dict(device="cpu", vv="off", deep=2, align_epochs=2, reweight_epochs=1, epochs=1, contrast_epochs=1, lr=1e-2)


def make(clip, **options): return create_detector("align3d", (clip,), **{**QUICK, **options})


@pytest.fixture(scope="module")
def fitted(clip, known): return make(clip).fit(known)


@pytest.fixture(scope="module")
def parts(fitted, unknown): return fitted.components(unknown)


@pytest.fixture(scope="module")
def items(clip, known):
    one = make(clip)
    one.coloured = True
    return [view_item(f, note_labels(s, f), n) for n, (s, f) in enumerate(zip(known, one.recipe.encode(known)))]


def test_a_capture_is_seen_in_grey_and_in_colour(items, clip, known):
    grey, colored = (next(ViewRecipe(clip, picture=picture, photo=False).encode(known[1:2])) for picture in ("shade", "color"))
    one = items[1].features
    assert torch.allclose(one.image, grey.image, atol=1e-5) and torch.allclose(one.patches, grey.patches, atol=1e-5)
    assert torch.allclose(one.colored, colored.image, atol=1e-5) and torch.allclose(one.colored_patches, colored.patches, atol=1e-5)


def test_four_stages_learn_what_they_should(clip, items):
    one = make(clip); one.begin([])
    names = [stage.name for stage in one.stages()]
    assert names == ["align", "reweight", "prompts", "contrast"]
    assert [stage.epochs for stage in one.stages()] == [2, 1, 1, 1]
    for stage in one.stages():
        one.modules.zero_grad()
        stage.loss(items[:2])[0].backward()
        learned = {name for name, module in one.modules.items() if any(p.grad is not None and p.grad.any() for p in module.parameters())}
        assert learned == set(stage.modules), stage.name


def test_losses_are_the_sums_of_their_parts(clip, items):
    one = make(clip, contrast=.7, strength=2., direction="differ"); one.begin([])
    align = one.modules["aligner"]
    for strength, stage in zip((0., 2.), one.stages()):
        wanted = 0
        for item in items:
            f = item.features
            weights = patch_weights(f.patches, f.colored_patches, strength, "differ")
            wanted += alignment_loss(align(f.image, f.patches), f.colored, f.colored_patches, weights).item()
        assert stage.loss(items)[0].item() == pytest.approx(wanted, rel=1e-5)
    a, r = one.modules["aligned"].vectors(), one.modules["rendered"].vectors()
    moved = []
    for item in items:
        image, patches = align(item.features.image, item.features.patches)
        moved.append(item._replace(features=replace(item.features, image=image, patches=patches)))
    branches = sum(view_losses(a, moved).values()) + sum(view_losses(r, items).values())
    for c, stage in zip((0., .7), one.stages()[2:]):
        total, count = stage.loss(items)
        assert total.item() / count == pytest.approx((branches + c * (dual_contrast(a, r) + dual_contrast(r, a))).item(), rel=1e-5)


def test_colours_teach_and_are_not_asked_at_test(fitted, unknown, clouds):
    plain = [replace(s, rgb=s.rgb * 0) for s in unknown]
    a, b = fitted.components(unknown), fitted.components(plain)
    assert all(torch.equal(a[name], b[name]) for name in a)
    found = fitted.components([replace(c, colors=None) for c in clouds])
    assert set(found) == {f"{n}{e}" for n in ("aligned", "rendered") for e in ("", "_near", "_view")}
    maps = fitted.fuse(found, share=.25, blur=2.)
    wanted = .25 * found["aligned"] + .75 * found["rendered"]
    near = .25 * found["aligned_near"] + .75 * found["rendered_near"]
    assert torch.allclose(torch.cat(maps), (wanted + near) / 2, atol=1e-6)
    assert len(fitted.image_scores(maps, found)) == len(clouds)


def test_each_branch_reads_its_own(fitted, parts, unknown):
    features, v = next(iter(fitted.recipe.encode(unknown[1:2]))), fitted.networks()
    image, patches = fitted.modules["aligner"](features.image, features.patches)
    a = PointAD.maps_of(fitted, v["aligned"], unknown[1], replace(features, image=image.detach(), patches=patches.detach()))
    r = PointAD.maps_of(fitted, v["rendered"], unknown[1], features)
    for name, wanted in (("aligned", a["points"]), ("aligned_view", a["view"]), ("rendered", r["points"]), ("rendered_view", r["view"])):
        assert torch.allclose(parts[name][1], wanted, atol=1e-5)


@pytest.mark.parametrize("weights", [{}, dict(share=0., whole=1.), dict(share=.3, whole=.8, blur=1.)])
def test_fusion_and_scores_by_hand(fitted, parts, weights):
    w = dict(share=.5, whole=.5, blur=4.) | weights
    maps = fitted.fuse(parts, **weights)
    assert torch.allclose(maps, gaussian_blur(w["share"] * parts["aligned"] + (1 - w["share"]) * parts["rendered"], w["blur"]), atol=1e-6)
    said = w["whole"] * parts["aligned_view"][:, 0, 0] + (1 - w["whole"]) * parts["rendered_view"][:, 0, 0]
    assert torch.allclose(fitted.image_scores(maps, parts, **weights), maps.flatten(1).amax(1) + said, atol=1e-6)
    with pytest.raises(DataError, match="maps alone"): fitted.image_scores(maps)


def test_resume_save_and_load(tmp_path, clip, known, unknown):
    whole = make(clip).fit(known, checkpoint=tmp_path / "c.safetensors", cache=tmp_path / "f")
    again = make(clip).fit(known, checkpoint=tmp_path / "c.safetensors", cache=tmp_path / "f")     # nothing is left to do
    fresh = make(clip).fit(known, cache=tmp_path / "f")
    for other in (again, fresh):
        for a, b in zip(whole.modules.state_dict().values(), other.modules.state_dict().values()): assert torch.allclose(a, b, atol=1e-6)
    whole.save(tmp_path / "m")
    read = load_detector(tmp_path / "m", device="cpu", encoders=(clip,))
    a, b = whole.components(unknown[:1]), read.components(unknown[:1])
    assert all(torch.allclose(a[name], b[name], atol=1e-6) for name in a) and read.names == ["key", "star"]


def test_the_same_cache_serves_both_ways_of_reading(tmp_path, clip, known):
    seen = make(clip, seen=True).fit(known, cache=tmp_path)
    a, b = seen.components(known, cache=tmp_path), seen.components(known)
    assert all(torch.allclose(a[name], b[name], atol=1e-5) for name in a)


def test_refusals(clip, known, unknown, clouds):
    with pytest.raises(DataError, match="no colours"): make(clip).fit([replace(c, colors=None) for c in clouds])
    with pytest.raises(DataError, match="only flawless"): make(clip).fit(known[::2][:1])
    with pytest.raises(DataError, match="learned from"): make(clip).fit(known).components(known)
    for options in (dict(strength=-1.), dict(direction="agreed"), dict(contrast=-1.), dict(epochs=0), dict(photo=True)):
        with pytest.raises(DataError): make(clip, **options)
    with pytest.raises(DataError, match="a training"): make(clip).read_prompts("x.pth", ["a"])


def test_the_releases_table_and_the_lab(fitted, unknown, clip, known):
    assert RELEASE_SETTINGS["dowel"][2:] == (0., 0.) and all(0 <= x <= 1 for row in RELEASE_SETTINGS.values() for x in row)
    assert {"share", "whole", "blur"} == {w.name for w in AblationLab(make(clip).fit(known), unknown).detector.weights}

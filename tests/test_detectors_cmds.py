"CMDS-AD assembled: options, streams, what each of them sees, files, bad input."
import math
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch

from mmad_nb.core.runtime import DataError
from mmad_nb.data import prepare
from mmad_nb.detectors import create_detector, load_detector
from mmad_nb.detectors import cmds as module
from mmad_nb.detectors.cmds import CosineAdamW, StreamPictures, Variants, fuse_streams, squashed, stream_item, training_steps
from mmad_nb.features.image import ImageEncoder, tiny_vit
from mmad_nb.features.normals import normal_colours, surface_normals
from mmad_nb.forge import forge_sample
from mmad_nb.streams.estimator import NormalEstimator


class Shading(NormalEstimator):
    "An estimator made up for these tests: a normal leans where the photo's brightness changes."
    seen = None

    def __init__(self): super().__init__("shading", None, "shading", "an estimator made up for tests")

    def __call__(self, rgb):
        grey = rgb.mean(1)
        down, right = torch.gradient(grey, dim=(1, 2))
        return torch.nn.functional.normalize(torch.stack([4 * right, 4 * down, -torch.ones_like(grey)], 1), dim=1)


def small():
    "An encoder of blocks that cost little."
    from mmad_nb.features.image import ViT, drawn_from
    with drawn_from(0): return ImageEncoder("small", ViT(dim=32, heads=2, depth=12, patch=8, size=64), "random", "cpu")


ENCODERS = (small(), Shading())
GOOD = [prepare(forge_sample("bagel", "good", seed=n, size=64), 64) for n in range(3)]
BAD = prepare(forge_sample("bagel", "crack", seed=9, size=64), 64)


def make(encoders=ENCODERS, **options): return create_detector("cmds", encoders, "cpu", **{"steps": 2, "lr": 1e-3, "draws": 1, "batch_size": 2} | options)


@pytest.fixture(scope="module")
def fitted(): return make().fit(GOOD)


def test_four_maps_and_their_fusion(fitted):
    parts = fitted.components([*GOOD[:1], BAD])
    assert set(parts) == {"rgb_real", "xyz_real", "rgb_est", "xyz_est"}
    from mmad_nb.scoring.fusion import box_blur
    wanted = box_blur((parts["rgb_real"] + .3 * parts["rgb_est"]) * (parts["xyz_real"] + .7 * parts["xyz_est"]))
    torch.testing.assert_close(fitted.fuse(parts, lambda1=.3, lambda2=.7), wanted)
    torch.testing.assert_close(fitted.image_scores(wanted), wanted.flatten(1).amax(1))
    for values in parts.values(): assert not values[~parts.valid].any() and values[parts.valid].mean() > 0
    torch.testing.assert_close(make(blur=False).combine(parts, rule="3D", lambda1=0., lambda2=1., streams="both"), parts["xyz_real"] + parts["xyz_est"])


def test_the_encoder_sees_photo_and_normals_as_the_release_feeds_them(fitted):
    "Blocks 4, 7, 11 without the final LayerNorm; the normal picture raw, the photo with mean and std."
    features = next(fitted.recipe.encode(GOOD[:1]))
    sample, encoder = GOOD[0], fitted.image_encoder
    normals = normal_colours(surface_normals(torch.from_numpy(sample.xyz), torch.from_numpy(sample.valid)))
    photo = torch.from_numpy(sample.rgb)
    for name, picture, kind in (("rgb", photo, True), ("real", normals, False), ("est", normal_colours(Shading()(photo[None])[0]), False)):
        wanted = torch.cat(encoder.encode(picture[None], (4, 7, 11), photo=kind, norm=False), 1)[0]
        torch.testing.assert_close(features.maps[name], wanted, rtol=1e-4, atol=1e-4)
    assert fitted.blocks == (4, 7, 11)


def test_the_real_stream_does_not_depend_on_the_estimated_one(fitted):
    alone, parts = make(encoders=ENCODERS[:1], estimator=None).fit(GOOD), fitted.components([BAD])
    found = alone.components([BAD])
    assert set(found) == {"rgb_real", "xyz_real"} and [w.name for w in alone.weights] == ["rule"]
    torch.testing.assert_close(found["xyz_real"], parts["xyz_real"], rtol=1e-4, atol=1e-5)
    with pytest.raises(DataError, match="lambda1"): alone.fuse(found, lambda1=.5)
    torch.testing.assert_close(alone.fuse(found), fitted.fuse(parts, streams="real"), rtol=1e-4, atol=1e-5)
    only = make(streams="est").fit(GOOD)
    torch.testing.assert_close(only.components([BAD])["rgb_est"], parts["rgb_est"], rtol=1e-4, atol=1e-5)


def test_masks_belong_to_the_real_stream(fitted):
    features = next(fitted.recipe.encode(GOOD[:1]))
    assert torch.equal(stream_item(features, None, 0, "real").mask, features.valid) and stream_item(features, None, 0, "est").mask is None
    assert torch.equal(stream_item(features, None, 0, "est").normals, features.maps["est"])


def test_noise_goes_where_it_belongs():
    std = torch.tensor([.2, .3, .4]).view(3, 1, 1)
    paper = StreamPictures(("real", "est"), Shading(), std, noise=.01, draws=2)(GOOD[0])
    both = StreamPictures(("real", "est"), Shading(), std, noise=.01, draws=1, noise_on="both")(GOOD[0])
    assert set(paper) == {"rgb", "real", "est", "rgb~0", "rgb~1"} and set(both) == {"rgb", "real", "est", "rgb~0", "real~0", "est~0"}
    spread = lambda a, b: (a[0] - b[0]).std((1, 2))
    torch.testing.assert_close(spread(paper["rgb~0"], paper["rgb"]), .01 * std[:, 0, 0], rtol=.05, atol=0)
    torch.testing.assert_close(spread(both["est~0"], both["est"]), torch.full((3,), .01), rtol=.05, atol=0)
    torch.testing.assert_close(both["est"][0], paper["est"][0])            # the estimator sees the photo without noise
    keys = [StreamPictures(("real",), None, std, **how).key for how in ({}, {"noise": .01, "draws": 1}, {"noise": .02, "draws": 1},
            {"noise": .01, "draws": 2}, {"noise": .01, "draws": 1, "noise_on": "both"}, {"window": 7})]
    assert len({str(key) for key in keys}) == len(keys)
    assert "noise" in str(StreamPictures(("real",), noise=.0, draws=3)(GOOD[0]).keys()) or len(StreamPictures(("real",), noise=.0, draws=3)(GOOD[0])) == 2


def test_the_version_with_noise_is_asked_and_the_clean_one_is_guessed():
    detector = make()
    detector.begin([])
    features = next(detector.looking_at(("real", "est"), noise=.05, draws=2, noise_on="both").encode(GOOD[:1]))
    item = stream_item(features, None, 0, "real")
    assert len(item.noisy_rgb) == len(item.noisy_normals) == 2 and torch.equal(item.rgb, features.maps["rgb"])
    seen = []
    hooks = [mapper.register_forward_pre_hook(lambda m, x: seen.append(x[0])) for mapper in detector.modules.values()]
    torch.manual_seed(0); detector.loss("real", [item])
    for hook in hooks: hook.remove()
    versions = [*item.noisy_rgb, *item.noisy_normals]
    assert all(any(torch.equal(x[0], version) for version in versions) for x in seen) and len(seen) == 2


def test_options_reach_the_loss():
    losses = []
    for options in ({}, {"alpha": 0.}, {"beta": 0.}, {"gamma": 0.}, {"side": 16}):
        detector = make(streams="real", **options)
        detector.begin([])
        item = stream_item(next(detector.recipe.encode(GOOD[:1])), None, 0, "real")
        item.noisy_rgb, item.noisy_normals = item.noisy_rgb[None] if item.noisy_rgb.ndim == 3 else item.noisy_rgb, item.noisy_normals
        losses.append(detector.loss("real", [item])[0].item())
    assert len({round(v, 4) for v in losses}) == 5


def test_release_behaviour(fitted):
    parts, release = fitted.components([BAD]), make(est_target="real", joined=False, release_scores=True, blur="release").fit(GOOD)
    theirs = release.components([BAD])
    assert not torch.allclose(parts["xyz_est"], theirs["xyz_est"]) and release.category == "bagel"
    target = make(est_target="real").fit(GOOD).components([BAD])
    torch.testing.assert_close(target["rgb_est"], parts["rgb_est"]); torch.testing.assert_close(target["xyz_real"], parts["xyz_real"])
    assert not torch.allclose(target["xyz_est"], parts["xyz_est"])
    maps = release.fuse(theirs)
    from mmad_nb.scoring.fusion import box_blur, image_score
    torch.testing.assert_close(maps, box_blur(fuse_streams(theirs), ((3, 5), (5, 3))))
    torch.testing.assert_close(release.image_scores(maps), image_score(maps, "release"))
    release.category = "carrot"
    torch.testing.assert_close(release.fuse(theirs), box_blur(fuse_streams(theirs)))


def test_steps_rate_and_stages(monkeypatch):
    assert [training_steps("release", k) for k in (1, 2, 4, 8)] == [3000, 1500, 750, 375] and training_steps(70, 4) == 70
    detector = make(steps=7, augment=True, generated=2)
    detector.good, detector.asked = 3, None
    detector.begin([])
    real, est = detector.stages()
    assert (real.name, real.samples, real.epochs, est.samples, est.epochs) == ("real", 3, 4, 9, 2)   # ceil(7 / ceil(3 / 2)), ceil(7 / ceil(9 / 2))
    assert set(real.modules) == {"rgb_to_xyz_real", "xyz_to_rgb_real"} and set(est.modules) == {"rgb_to_xyz_est", "xyz_to_rgb_est"}
    weight = torch.nn.Parameter(torch.ones(1))
    optimiser = real.optimizer([weight], 1e-4)
    assert isinstance(optimiser, CosineAdamW) and optimiser.total == 8 and optimiser.defaults["weight_decay"] == 1e-4
    rates = []
    for _ in range(9):
        weight.grad = torch.ones(1); rates.append(optimiser.rate()); optimiser.step()
    assert rates[0] == 1e-4 and rates[4] == pytest.approx(1e-6 + 99e-6 * (1 + math.cos(math.pi / 2)) / 2) and rates[8] == pytest.approx(1e-6)
    assert optimiser.param_groups[0]["lr"] == pytest.approx(1e-6)


def test_a_resumed_training_ends_where_an_undisturbed_one_does(tmp_path, monkeypatch):
    whole = make(steps=6, streams="real").fit(GOOD)
    calls, loss = [], module.CMDS.loss
    def stop(self, stream, items):
        calls.append(1)
        if len(calls) == 5: raise KeyboardInterrupt
        return loss(self, stream, items)
    monkeypatch.setattr(module.CMDS, "loss", stop)
    with pytest.raises(KeyboardInterrupt): make(steps=6, streams="real").fit(GOOD, checkpoint=tmp_path / "run.safetensors")
    monkeypatch.undo()
    again = make(steps=6, streams="real").fit(GOOD, checkpoint=tmp_path / "run.safetensors")
    for a, b in zip(whole.modules.parameters(), again.modules.parameters()): torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)


def test_save_and_load(tmp_path, fitted):
    fitted.save(tmp_path / "model")
    again = load_detector(tmp_path / "model", "cpu", ENCODERS)
    assert again.category == "bagel"
    for name, values in fitted.components([BAD]).maps.items(): torch.testing.assert_close(again.components([BAD])[name], values)
    other = Shading(); other.fingerprint = "other"
    with pytest.raises(DataError, match="other encoders"): load_detector(tmp_path / "model", "cpu", (ENCODERS[0], other))


def test_generated_photos_teach_the_estimated_stream_alone(monkeypatch, tmp_path):
    asked = []
    def augment(photos, n, generator, cache=None, **how):
        assert generator.name == "tiny_diffusion" and generator.device.type == "cpu"
        asked.append((photos, n, generator))
        return torch.stack([photos * (1 - .1 * (i + 1)) for i in range(n)], 1)
    monkeypatch.setattr(module, "augment", augment)
    detector, plain = make(augment=True, generated=2, generator="tiny_diffusion").fit(GOOD[:2]), make().fit(GOOD[:2])
    (photos, n, name), = asked
    assert torch.equal(photos, torch.stack([torch.from_numpy(s.rgb) for s in GOOD[:2]])) and n == 2    # the k given ones, and nothing else
    same = lambda name: all(torch.equal(a, b) for a, b in zip(detector.modules[name].parameters(), plain.modules[name].parameters()))
    assert same("rgb_to_xyz_real") and not same("rgb_to_xyz_est")
    twins = Variants(GOOD[:2], 2, detector.generator_for("bagel"))
    assert len(twins) == 4 and [t.id for t in twins] == [f"{GOOD[i].id}, generated {j}" for i in (0, 1) for j in (0, 1)]
    assert np.allclose(twins[3].rgb, GOOD[1].rgb * .8, atol=1e-6)


def test_photo_and_points_of_a_squashed_capture_do_not_fit():
    raw = forge_sample("carrot", "crack", seed=3, size=128)
    half = slice(32, 96)
    wide = replace(raw, rgb=raw.rgb[:, half], xyz=raw.xyz[:, half], valid=raw.valid[half], mask=raw.mask[half])
    right, wrong = prepare(wide, 64), squashed(wide, 64)
    assert np.array_equal(right.xyz, wrong.xyz) and np.array_equal(right.valid, wrong.valid)
    assert wrong.rgb.shape == (3, 64, 64) and not np.array_equal(right.mask, wrong.mask)
    assert np.array_equal(wrong.rgb[:, 0], wide.rgb[:, 0, ::2][:, :64]) or np.array_equal(wrong.rgb[:, 0], wide.rgb[:, 0, 1::2][:, :64])


@pytest.mark.parametrize("options, found", [
    (dict(lr="1e-4"), "lr"), (dict(steps=0), "steps"), (dict(steps="all"), "steps"), (dict(streams="reel"), "streams"), (dict(mapper="mpl"), "mapper"),
    (dict(noise=-1), "noise"), (dict(est_target="none"), "est_target"), (dict(blur="large"), "blur"), (dict(side=4), "side"),
    (dict(estimator="marigold"), "estimator"), 
    (dict(generated=0), "generated"), (dict(group_size=32), "group_size")])
def test_bad_options(options, found):
    with pytest.raises(DataError, match=found): make(**options)


def test_bad_encoders_and_samples():
    for options, found in ((dict(augment=True), "augment"), (dict(streams="est"), "streams")):
        with pytest.raises(DataError, match=found): make(encoders=ENCODERS[:1], estimator=None, **options)
    from mmad_nb.features.image import ViT
    shallow = ImageEncoder("shallow", ViT(dim=32, heads=2, depth=8, patch=8, size=64), "random", "cpu")
    with pytest.raises(DataError, match="at least 12"): make(encoders=(shallow,), estimator=None)
    with pytest.raises(DataError, match="ImageEncoder"): make(encoders=(Shading(),))
    with pytest.raises(DataError, match=r"found \(ImageEncoder, ImageEncoder\).*NormalEstimator"): make(encoders=(small(), small()))
    with pytest.raises(DataError, match="huge"): create_detector("cmds", "huge", "cpu")
    nothing = replace(GOOD[0], xyz=np.zeros_like(GOOD[0].xyz), valid=np.zeros_like(GOOD[0].valid))
    with pytest.raises(DataError, match="no point with a surface normal"): make().fit([nothing])
    with pytest.raises(DataError, match="good samples only"): make().fit([BAD])
    other = prepare(forge_sample("bagel", "good", seed=4, size=64), 56)
    with pytest.raises(DataError, match="size"): make().fit([GOOD[0], other])
    with pytest.raises(DataError, match="one category"): make(blur="release").fit([GOOD[0], replace(GOOD[1], category="cookie")])


def test_more_shots_than_samples_and_a_checkpoint_of_another_k(tmp_path):
    from mmad_nb.experiments import Splits, run_protocol
    with pytest.raises(DataError, match="shots"):
        run_protocol("few-shot", "cmds", Splits(GOOD, [GOOD[0], BAD], "forged"), shots=8, encoders=ENCODERS, device="cpu", steps=1, lr=1e-3, draws=1)
    make(streams="real").fit(GOOD[:2], checkpoint=tmp_path / "run.safetensors", cache=tmp_path)
    with pytest.raises(DataError, match="another run"): make(streams="real").fit(GOOD[:1], checkpoint=tmp_path / "run.safetensors", cache=tmp_path)


def test_few_shot_protocol_runs_it():
    from mmad_nb.experiments import Splits, run_protocol
    study = run_protocol("few-shot", "cmds", Splits(GOOD, [GOOD[0], BAD], "forged"), shots=(1, 2), seeds=(0, 1), encoders=ENCODERS, device="cpu",
                         steps=1, lr=1e-3, draws=1)
    assert study.every("group") == ["1-shot", "2-shot"] and len(study.records) == 4


def test_the_tiny_vit_has_the_blocks(): assert len(tiny_vit().blocks) == 12


def test_by_default_the_tiny_estimator_guesses_normals():
    detector = create_detector("cmds", device="cpu")
    assert detector.estimator.name == "tiny_normals" and detector.fingerprints()["estimator"] == detector.estimator.fingerprint
    assert detector.streams == ("real", "est") and "tiny_normals" in detector.provenance
    assert (detector.options["steps"], detector.options["batch_size"], detector.options["lr"]) == (200, 1, 2e-3)
    alone = create_detector("cmds", device="cpu", estimator=None)
    assert alone.streams == ("real",) and "estimator" not in alone.fingerprints()


@pytest.mark.parametrize("package", ["diffusers", "peft"])
def test_without_its_packages_augment_says_so(monkeypatch, package):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(DataError, match=f"{package}.*pip install"): make(augment=True)   # before anything is computed


def test_stable_diffusion_needs_a_name_and_is_told_the_category(monkeypatch):
    with pytest.raises(DataError, match="OWNER/NAME"): make(augment=True, generator="stable-diffusion-2-1").fit(GOOD[:1])
    asked = []
    monkeypatch.setattr(module, "create_generator", lambda *about, **config: asked.append((about, config)))
    make(augment=True, generator="stable-diffusion-2-1", generator_weights="some/folder").generator_for("rope")
    make(augment=True, generator="tiny_diffusion").generator_for("rope")
    (first, says), (second, nothing) = asked
    assert first[:2] == ("stable-diffusion-2-1", "some/folder") and says == {"says": "a photo of a rope"}
    assert second[:2] == ("tiny_diffusion", None) and nothing == {}


def test_paper_parts_from_published_folders(tmp_path, monkeypatch):
    "Marigold and Stable Diffusion, small and random, read from folders in their published layouts: the road that encoders='paper' takes."
    from layouts import write_stable_diffusion
    from mmad_nb.streams.augment import StableDiffusion
    from mmad_nb.streams.estimator import create_estimator, write_tiny_marigold
    monkeypatch.setattr(StableDiffusion, "defaults", {"steps": 1, "lr": 1e-4, "batch_size": 1})   # the real one takes 1000
    estimator = create_estimator("marigold-normals-v1-1", write_tiny_marigold(tmp_path / "marigold"), "cpu", steps=1, ensemble=1, resolution=64)
    detector = make((small(), estimator), augment=True, generated=1, generator="stable-diffusion-2-1", steps=1,
                    generator_weights=str(write_stable_diffusion(tmp_path, "v_prediction"))).fit(GOOD[:1])
    parts = detector.components([BAD])
    assert set(parts) == {"rgb_real", "rgb_est", "xyz_real", "xyz_est"} and all(values.isfinite().all() for values in parts.values())
    assert "Marigold" in detector.provenance and detector.stages()[1].samples == 2


def test_a_real_generator_makes_the_twins(tmp_path):
    detector = make(augment=True, generated=2, generator="tiny_diffusion", steps=1).fit(GOOD[:1], cache=tmp_path)
    assert detector.stages()[1].samples == 3 and set(detector.components([BAD])) == {"rgb_real", "rgb_est", "xyz_real", "xyz_est"}


def test_encoders_of_ones_own_take_the_estimator_of_their_size():
    from mmad_nb.features.zoo import create_encoder
    assert create_detector("cmds", (create_encoder("tiny_vit", "random", device="cpu"),), "cpu", steps=1, lr=1e-3, batch_size=1, draws=1).estimator.name == "tiny_normals"

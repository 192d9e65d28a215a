"The estimated stream: one interface for two estimators, what is refused, and transfer curves of filters that are known."
import importlib.util
import json
import shutil
import socket
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.ndimage import gaussian_filter

from mmad_nb.core.runtime import DataError, WeightsError
from mmad_nb.data import prepare
from mmad_nb.features.normals import normal_colours
from mmad_nb.forge import forge_sample
from mmad_nb.pretraining.encoders import save_half
from mmad_nb.pretraining.normals import NormalUNet
from mmad_nb.streams import estimator as S
from mmad_nb.streams import create_estimator, list_estimators

diffusion = pytest.mark.skipif(not (importlib.util.find_spec("diffusers") and importlib.util.find_spec("transformers")), reason="needs the extra diffusion")
pytestmark = pytest.mark.usefixtures("offline")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    "A small random Marigold in the published layout."
    if not importlib.util.find_spec("diffusers"): pytest.skip("needs the extra diffusion")
    return S.write_tiny_marigold(tmp_path_factory.mktemp("marigold"))


@pytest.fixture(scope="module")
def photos(): return torch.from_numpy(np.stack([forge_sample(name, seed=3, size=64).rgb for name in ("bagel", "gear", "carrot")]))


# ---- the interface ----

@pytest.mark.parametrize("name", ["tiny", pytest.param("paper", marks=diffusion)])
def test_shape_length_and_independence(name, photos):
    more = {} if name == "tiny" else {"steps": 2, "ensemble": 3}
    estimate = create_estimator(name, "random", "cpu", **more)
    found = estimate(photos)
    assert found.shape == photos.shape and found.dtype == torch.float32 and not found.requires_grad
    assert torch.allclose(found.norm(dim=1), torch.ones(3, 64, 64), atol=1e-4)
    assert torch.allclose(estimate(photos[2:]), found[2:], atol=1e-5)                       # whatever stands beside it
    assert torch.allclose(estimate(photos.numpy()[:1]), found[:1], atol=1e-5)               # NumPy, too
    assert estimate(photos[:1, :, :41, :56]).shape == (1, 3, 41, 56)
    assert "random" in estimate.provenance and estimate.name in list_estimators()


def test_names():
    assert list_estimators() == ["tiny_normals", "marigold-normals-v1-1"]
    assert create_estimator("tiny", device="cpu").name == create_estimator(device="cpu").name == "tiny_normals"
    with pytest.raises(DataError, match="Did you mean 'tiny_normals'"): create_estimator("tiny_normal")
    with pytest.raises(DataError, match="Did you mean 'seed'"): create_estimator("tiny", sed=3)
    with pytest.raises(DataError, match="option of tiny 'steps'"): create_estimator("tiny", steps=3)


def test_fingerprint_is_that_of_the_weights(tmp_path):
    shipped, again, drawn, other = (create_estimator("tiny", w, "cpu", seed=s) for w, s in ((None, 0), (None, 5), ("random", 0), ("random", 1)))
    assert shipped.fingerprint == again.fingerprint and len({e.fingerprint for e in (shipped, drawn, other)}) == 3
    assert all(len(e.fingerprint) == 16 and int(e.fingerprint, 16) >= 0 for e in (shipped, drawn))
    save_half(NormalUNet(seed=1), tmp_path / "mine.safetensors")
    mine = create_estimator("tiny", tmp_path / "mine.safetensors", "cpu")
    assert "mine.safetensors, given by the user" in mine.provenance and mine.fingerprint not in (shipped.fingerprint, drawn.fingerprint)


@pytest.mark.parametrize("wrong, says", [
    (torch.rand(3, 8, 8), "B,3,H,W"), (torch.rand(1, 1, 8, 8), "B,3,H,W"), (torch.rand(0, 3, 8, 8), "B,3,H,W"),
    (torch.zeros(1, 3, 8, 8, dtype=torch.uint8), "divided by 255"), (torch.rand(1, 3, 8, 8) * 255, "Divide bytes"),
    (torch.randn(1, 3, 8, 8), "do not subtract"), (torch.full((1, 3, 8, 8), float("nan")), "finite")])
def test_bad_photos(wrong, says):
    with pytest.raises(DataError, match=says): create_estimator("tiny", "random", "cpu")(wrong)


def test_normals_that_are_not_finite_are_refused():
    broken = S.NormalEstimator("broken", lambda photo: photo * float("nan"), "0" * 16, "")
    with pytest.raises(DataError, match="broken: found normals that are not finite"): broken(torch.rand(1, 3, 4, 4))


def test_any_length_becomes_one():
    "A network whose vectors have other lengths, such as a mean of several guesses."
    found = S.NormalEstimator("long", lambda photo: torch.tensor([0., 3, -4]).view(1, 3, 1, 1).expand_as(photo), "0" * 16, "")(torch.rand(1, 3, 2, 2))
    assert torch.allclose(found[0, :, 1, 1], torch.tensor([0, .6, -.8]))


# ---- Marigold ----

@diffusion
def test_layout_is_the_published_one(folder):
    index = json.loads((folder / "model_index.json").read_text())
    assert index["_class_name"] == "MarigoldNormalsPipeline"
    assert index.get("prediction_type", "normals") == "normals"  # diffusers 0.30 does not write it
    for part in ("unet/diffusion_pytorch_model.safetensors", "vae/diffusion_pytorch_model.safetensors", "text_encoder/model.safetensors",
                 "tokenizer/vocab.json", "scheduler/scheduler_config.json"): assert (folder / part).is_file()


@diffusion
def test_marigold_turns_y_and_z_and_nothing_else(folder, photos):
    "What diffusers gives for the same noise, in its axes, against ours."
    from diffusers import MarigoldNormalsPipeline
    pipe = MarigoldNormalsPipeline.from_pretrained(folder, local_files_only=True)
    pipe.set_progress_bar_config(disable=True)
    theirs = pipe(photos[:1], num_inference_steps=2, ensemble_size=3, generator=torch.Generator().manual_seed(42), output_type="pt").prediction
    ours = create_estimator("paper", folder, "cpu", steps=2, ensemble=3)(photos[:1])
    assert torch.allclose(ours, F.normalize(theirs.float(), dim=1) * torch.tensor([1., -1, -1]).view(3, 1, 1), atol=1e-4)
    assert torch.allclose(normal_colours(ours)[0], (theirs[0] + 1) / 2, atol=1e-3)          # painted as diffusers paints


@diffusion
def test_options_of_marigold_matter(folder, photos):
    make = lambda **more: create_estimator("paper", folder, "cpu", **{"steps": 2, "ensemble": 3} | more)
    first = make()
    base = first(photos[:1])
    assert torch.allclose(make()(photos[:1]), base, atol=1e-5) and make().fingerprint == first.fingerprint
    for change in ({"seed": 7}, {"steps": 4}, {"ensemble": 4}, {"resolution": 128}):
        other = make(**change)
        assert other.fingerprint != first.fingerprint and (other(photos[:1]) - base).abs().max() > 1e-3, change
    for wrong in ({"steps": 0}, {"ensemble": True}, {"seed": -1}, {"steps": 2.5}):
        with pytest.raises(DataError, match="whole number"): make(**wrong)


def test_defaults_are_those_of_the_release():
    import inspect
    defaults = {name: p.default for name, p in inspect.signature(S.marigold_estimator).parameters.items()}
    assert (defaults["steps"], defaults["ensemble"], defaults["seed"], defaults["dtype"]) == (10, 10, 42, torch.float32)


@diffusion
def test_local_cache_is_used(folder, tmp_path, photos):
    shutil.copytree(folder, tmp_path / "cache/weights/marigold-normals-v1-1")
    assert create_estimator("paper", device="cpu", steps=1, ensemble=1)(photos[:1]).shape == (1, 3, 64, 64)


@diffusion
def test_cache_of_the_hub_is_used_without_a_network(folder, tmp_path):
    commit = tmp_path / "hub/models--prs-eth--marigold-normals-v1-1/snapshots/abc"
    shutil.copytree(folder, commit)
    refs = commit.parents[1] / "refs"
    refs.mkdir()
    (refs / "main").write_text("abc")
    assert S.find_marigold() == commit


@diffusion
@pytest.mark.parametrize("weights", [None, "somebody/another-marigold"])
def test_no_network_is_told_within_seconds(weights, monkeypatch, tmp_path):
    "Against a server that never answers, the slowest way to have no network."
    from huggingface_hub import constants
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{silent.getsockname()[1]}")
        asked, wait = [], S.unreachable
        monkeypatch.setattr(S, "unreachable", lambda *args, **more: asked.append(args) or wait(*args, **more))
        start = time.perf_counter()
        with pytest.raises(WeightsError) as error: create_estimator("paper", weights)
    assert len(asked) == 1 and time.perf_counter() - start < 60                              # 3 s of waiting; a minute is for the slowest machine
    for word in (weights or S.MARIGOLD, "no answer within 3 s", "snapshot_download", "weights=FOLDER", 'create_estimator("tiny")', str(tmp_path / "cache/weights")):
        assert word in str(error.value)


@diffusion
def test_hub_offline_switch(monkeypatch):
    from huggingface_hub import constants
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(S, "unreachable", lambda *a: pytest.fail("the network was asked"))
    with pytest.raises(WeightsError, match="HF_HUB_OFFLINE is set"): create_estimator("paper")


@diffusion
def test_a_download_that_breaks_off_is_told(monkeypatch):
    import huggingface_hub
    monkeypatch.setattr(S, "unreachable", lambda url: "")
    def fails(*args, **more): raise OSError("connection reset")
    monkeypatch.setattr(huggingface_hub, "snapshot_download", fails)
    with pytest.raises(WeightsError, match="connection reset"): create_estimator("paper")


@pytest.mark.parametrize("name", ["diffusers", "transformers"])
def test_missing_packages_name_the_line_that_brings_them(name, monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, name, None)                                             # as if it were not installed
    for make in (lambda: create_estimator("paper"), lambda: create_estimator("paper", "random"), lambda: S.write_tiny_marigold(tmp_path)):
        with pytest.raises(DataError, match=rf'{name}: found it cannot be imported.*pip install "mmad_nb\[diffusion\]"'): make()
    create_estimator("tiny", "random", "cpu")                                                # this one needs neither


def test_folders_that_are_no_marigold(tmp_path):
    for weights in ("nowhere", "./nowhere/else", str(tmp_path / "nothing"), 5):
        with pytest.raises(WeightsError, match="a folder, or OWNER/NAME"): create_estimator("paper", weights)
    with pytest.raises(WeightsError, match="no model_index.json"): create_estimator("paper", tmp_path)
    for text in ("", "[]", "{}", "null", '"x"', "\udcff"):
        (tmp_path / "model_index.json").write_bytes(text.encode(errors="surrogateescape"))
        with pytest.raises(WeightsError, match="names no pipeline"): create_estimator("paper", tmp_path)
    (tmp_path / "model_index.json").write_text('{"_class_name": "MarigoldDepthPipeline"}')   # would load, and give wrong numbers
    with pytest.raises(WeightsError, match="found a MarigoldDepthPipeline"): create_estimator("paper", tmp_path)


@diffusion
@pytest.mark.parametrize("damage", ["missing", "short", "empty"])
def test_half_written_folders(folder, tmp_path, damage):
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    file = copy / "unet/diffusion_pytorch_model.safetensors"
    if damage == "missing": file.unlink()
    else: file.write_bytes(file.read_bytes()[:5000 if damage == "short" else 0])
    with pytest.raises(WeightsError, match="files that diffusers cannot read"): create_estimator("paper", copy, "cpu")


def test_import_is_light():
    code = "import sys, mmad_nb.streams; print([m for m in ('diffusers', 'transformers', 'huggingface_hub', 'matplotlib', 'ipywidgets') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "[]"


# ---- the filter ----

EDGES = np.geomspace(4, 80, 9) / 160
MIDDLE = np.sqrt(EDGES[1:] * EDGES[:-1])


def test_gaussian_by_hand():
    assert S.gaussian_transfer(0, 3) == 1 and S.gaussian_transfer(1 / 16, 2) == pytest.approx(np.exp(-np.pi**2 / 32), rel=1e-6)
    assert S.gaussian_transfer(.1, 0) == 1


def test_blur_keeps_to_the_valid_pixels():
    "Two halves with normals of their own: a blur of one half does not hear of the other."
    left = torch.arange(40).expand(40, 40) < 20
    normals = torch.where(left, torch.tensor([1., 0, 0]).view(3, 1, 1), torch.tensor([0., 1, 0]).view(3, 1, 1)).clone()
    found = S.blurred(normals, left, 3)
    assert torch.allclose(found[:, left], torch.tensor([[1.], [0], [0]]).expand(3, 800), atol=1e-5) and (found[:, ~left] == 0).all()
    assert torch.equal(S.blurred(normals, left | True, 0), normals)
    mixed = S.blurred(normals, left | True, 3)
    assert torch.allclose(mixed.norm(dim=0), torch.ones(40, 40), atol=1e-5) and torch.allclose(mixed[0, :, 19], mixed[1, :, 20], atol=1e-5)


def test_taper_falls_to_nothing_at_the_rim():
    disc = np.hypot(*np.mgrid[-32:32, -32:32]) < 28
    window = S.taper(disc, 8)
    assert (window[~disc] == 0).all() and window.max() == 1 and window[32, 32] == 1
    row = window[32, 4:33]
    assert (np.diff(row) >= -1e-12).all() and np.diff(row).max() < .25 and window[32, 5] < .15
    full = S.taper(np.ones((32, 32), bool), 8)                                               # the picture's edge is a rim, too
    assert full[0].max() < .1 and full[16, 16] == 1


@pytest.mark.parametrize("sigma", [1, 2.5])
def test_a_known_filter_is_found(sigma):
    before = np.random.default_rng(0).normal(size=(3, 160, 160))
    gain, coherence = S.transfer(S.band_sums(before, gaussian_filter(before, (0, sigma, sigma)), S.taper(np.ones((160, 160), bool)), EDGES))
    assert np.allclose(gain, S.gaussian_transfer(MIDDLE, sigma), atol=.06) and coherence[:3].min() > .95


def test_gain_and_coherence_by_hand():
    one, other = np.random.default_rng(1).normal(size=(2, 3, 160, 160))
    window = S.taper(np.ones((160, 160), bool))
    at = lambda after: S.transfer(S.band_sums(one, after, window, EDGES))
    for after, gain, coherence in ((one, 1, 1), (-2 * one, -2, 1), (other, 0, 0), (one + other, 1, .5), (one + 2 * other, 1, .2)):
        found = at(after)
        assert np.allclose(found[0][3:], gain, atol=.15) and np.allclose(found[1][3:], coherence, atol=.1), (gain, coherence)
    assert np.allclose(at(one + 5)[0], 1, atol=1e-9)                                         # a constant beside it is no wave


def test_sums_over_pictures_and_bands():
    "One wave of 16 pixels lies in its band and in no other; sums of two pictures are the sums of each."
    row, column = np.mgrid[:160, :160]
    wave, window = np.cos(2 * np.pi * column / 16)[None], np.ones((160, 160))
    sums = S.band_sums(wave, .25 * wave, window, EDGES)
    place = np.searchsorted(EDGES, 1 / 16) - 1
    assert sums[0].argmax() == place and sums[0, place] > 1e6 * np.delete(sums[0], place).max()
    assert S.transfer(sums)[0][place] == pytest.approx(.25)
    rng = np.random.default_rng(2)
    a, b = rng.normal(size=(2, 2, 3, 160, 160))
    both = sum(S.band_sums(x, y, window, EDGES) for x, y in zip(a, b))
    assert np.allclose(both, S.band_sums(a.reshape(6, 160, 160), b.reshape(6, 160, 160), window, EDGES))


def test_matching_sigma_finds_the_blur():
    tilt = .4 * torch.from_numpy(gaussian_filter(np.random.default_rng(0).normal(size=(2, 64, 64)), (0, 1.5, 1.5))).float() / .15
    normals, valid = F.normalize(torch.cat([tilt, -torch.ones(1, 64, 64)]), dim=0), torch.ones(64, 64, dtype=torch.bool)
    near = S.matching_sigma([normals], [S.blurred(normals, valid, 4)], [valid], (0, 2, 4, 8))
    assert min(near, key=near.get) == 4 and near[4] < .1 < near[2] and list(near) == [0, 2, 4, 8]


# ---- the panel ----

def test_panel():
    samples = [prepare(forge_sample(name, seed=3), size=64) for name in ("bagel", "carrot")]
    calls = []
    estimator = S.NormalEstimator("counted", lambda photo: calls.append(1) or torch.tensor([0., 0, -1]).view(1, 3, 1, 1).expand_as(photo), "0" * 16, "")
    panel = S.BlurPanel(samples, estimator)
    picture = panel.picture.value
    panel.sigma.value = 12
    assert len(calls) == 1 and panel.picture.value != picture and panel.picture.value[:4] == b"\x89PNG"     # a slider asks no network
    assert panel.apart["blurred"] < panel.apart["real"] and f"{panel.apart['blurred']:.1f}" in panel.label.value
    panel.sigma.value = 0
    assert panel.apart["blurred"] == pytest.approx(panel.apart["real"], abs=1e-3)
    panel.capture.value = 1
    assert len(calls) == 2 and panel.sample is samples[1]

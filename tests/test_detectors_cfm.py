"""CFM as a whole on miniature encoders: stop and resume, save and load, two processes, and everything it refuses."""
import json
import shutil
import subprocess
import sys
import textwrap
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from mmad_nb.core.runtime import DataError, read_tensors, write_tensors
from mmad_nb.data import Sample
from mmad_nb.detectors import Components, create_detector, list_detectors, load_detector
from mmad_nb.detectors import cfm as cfm_module
from mmad_nb.features.image import ImageEncoder
from mmad_nb.features.points import PointEncoder, PointMAE

SIZE = 56


def miniature(seed=0):
    "A pair of encoders with 12 blocks and some thousand weights."
    from timm.models.vision_transformer import VisionTransformer
    torch.manual_seed(seed)
    image = VisionTransformer(img_size=SIZE, patch_size=8, embed_dim=12, depth=12, num_heads=2, num_classes=0)
    points = PointMAE(dim=12, heads=2, groups=24, group_size=8)
    return (ImageEncoder("mini", image, "seeded random weights, not trained", device="cpu"),
            PointEncoder("mini", points, "seeded random weights, not trained", device="cpu"))


def capture(seed, defect="good"):
    "A bumpy disc in front of nothing; colour follows height, apart from a dark spot where it is defective."
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:SIZE, :SIZE].astype(np.float32) / SIZE - .5
    valid = (x ** 2 + y ** 2 < .4 ** 2)
    z = .5 + .02 * np.sin(9 * x + rng.uniform(0, 6)) * np.cos(8 * y)
    mask = ((x - .1) ** 2 + y ** 2 < .08 ** 2) if defect != "good" else np.zeros_like(valid)
    rgb = np.stack([20 * (z - .47), 15 * (z - .45), np.full_like(z, .4)]) + .01 * rng.normal(size=(3, SIZE, SIZE))
    rgb = np.where(mask, .02, rgb).clip(0, 1).astype(np.float32)
    xyz = (np.stack([x / 5, y / 5, z]) * valid).astype(np.float32)
    return Sample(rgb, xyz, valid, mask, "disc", defect, f"disc/{defect}/{seed:03d}")


def detector(**options):
    return create_detector("cfm", encoders=miniature(), device="cpu", **{"epochs": 3, "pixels": 200, "batch_size": 2, **options})


GOOD, TESTS = [capture(i) for i in range(5)], [capture(20), capture(21, "stain")]


@pytest.fixture(scope="module")
def fitted():
    return detector(epochs=20).fit(GOOD)


def same_weights(a, b, tolerance=0.0):
    return all((p - q).abs().max() <= tolerance for p, q in zip(a.mappers.parameters(), b.mappers.parameters()))


def test_it_learns_and_finds_the_spot(fitted):
    parts = fitted.components(TESTS)
    assert fitted.curve[-1] < fitted.curve[0] / 2
    fused, mask = fitted.fuse(parts), torch.from_numpy(TESTS[1].mask)
    assert fused.shape == (2, SIZE, SIZE) and fused.dtype == torch.float32
    for rule in ("mul", "add", "max"):
        values = detector(blur=False).fuse(parts, rule=rule)[1]
        assert values[mask].mean() > 1.5 * values[parts.valid[1] & ~mask].mean()
    scores = fitted.image_scores(fused)
    assert scores.shape == (2,) and scores[1] > scores[0]


def test_components_are_zero_off_the_object_and_keep_names(fitted):
    parts = fitted.components(TESTS)
    assert list(parts) == ["rgb", "xyz"] and parts.ids == ("disc/good/020", "disc/stain/021")
    assert not parts["rgb"][~parts.valid].any() and not parts["xyz"][~parts.valid].any()
    assert torch.equal(fitted.components(TESTS[1:])["rgb"][0], parts["rgb"][1])  # samples do not influence each other
    assert "seeded random weights" in repr(parts) and "seeded random weights" in repr(fitted)


def test_release_scores_change_scores_alone(fitted):
    released, fused = detector(release_scores=True), fitted.fuse(fitted.components(TESTS))
    expected = [m.max() / m[m != 0].mean().sqrt() for m in fused]
    assert torch.allclose(released.image_scores(fused), torch.stack(expected))
    assert torch.allclose(fitted.image_scores(fused), fused.flatten(1).amax(1))


@pytest.mark.parametrize("stop", [1, 4, 5])  # before the first step, inside the second epoch, at its end
def test_interrupted_training_resumes_to_the_same_weights(tmp_path, monkeypatch, stop):
    whole = detector().fit(GOOD)
    usual, calls = cfm_module.crossmodal_loss, []

    def stopping(mappers, items):
        calls.append(1)
        if len(calls) == stop: raise KeyboardInterrupt
        return usual(mappers, items)

    monkeypatch.setattr(cfm_module, "crossmodal_loss", stopping)
    resumed = detector()
    with pytest.raises(KeyboardInterrupt): resumed.fit(GOOD, checkpoint=tmp_path / "run.safetensors")
    assert not resumed.fitted
    with pytest.raises(DataError, match="nothing learned yet"): resumed.components(TESTS)
    monkeypatch.setattr(cfm_module, "crossmodal_loss", usual)
    again = detector().fit(GOOD, checkpoint=tmp_path / "run.safetensors")
    assert same_weights(whole, again) and again.curve == whole.curve
    if stop == 5: assert len(calls) == 5


def test_feature_cache_gives_the_same(tmp_path, fitted):
    first = detector().fit(GOOD, cache=tmp_path)
    count = len(list(tmp_path.iterdir()))
    second = detector().fit(GOOD, cache=tmp_path)
    assert count == len(GOOD) == len(list(tmp_path.iterdir())) and same_weights(first, second)
    assert torch.equal(fitted.components(TESTS, cache=tmp_path)["xyz"], fitted.components(TESTS)["xyz"])


@pytest.mark.parametrize("blocks, taps", [(12, (3, 7, 11)), (8, (1, 4, 7)), (4, (1, 2, 3))])
def test_pruning(blocks, taps):
    pruned = detector(blocks=blocks, epochs=1).fit(GOOD[:2])
    assert pruned.point_encoder.model.taps == taps and len(pruned.point_encoder.model.blocks["blocks"]) == blocks
    assert pruned.mappers["rgb_to_xyz"].output.out_features == 36
    assert torch.isfinite(pruned.fuse(pruned.components(TESTS))).all()


def test_two_byte_weights(tmp_path):
    half, full = (detector(compute_dtype=name, seed=1, epochs=20).fit(GOOD) for name in ("bfloat16", "float32"))
    stored = [{v.dtype for v in e.model.parameters()} for e in (half.image_encoder, half.point_encoder)]
    assert stored == [{torch.bfloat16}] * 2 and next(half.mappers.parameters()).dtype == torch.float32
    a, b = (d.components(TESTS) for d in (half, full))
    assert np.corrcoef(a["rgb"][a.valid], b["rgb"][b.valid])[0, 1] > .99 and not torch.equal(a["rgb"], b["rgb"])
    half.save(tmp_path / "half")
    again = load_detector(tmp_path / "half", encoders=miniature(), device="cpu")
    assert torch.equal(again.components(TESTS)["xyz"], a["xyz"])
    with pytest.raises(DataError, match="compute_dtype' 'float16'"): detector(compute_dtype="float16")


def test_save_and_load(tmp_path, fitted):
    fitted.save(tmp_path / "saved")
    config = json.loads((tmp_path / "saved/config.json").read_text())
    assert config["detector"] == "cfm" and config["epochs"] == 20 and config["encoders"] == "custom"
    with pytest.raises(DataError, match="encoders of its own"): load_detector(tmp_path / "saved", device="cpu")
    again = load_detector(tmp_path / "saved", device="cpu", encoders=miniature())
    assert again.config() == fitted.config() and torch.equal(again.components(TESTS)["rgb"], fitted.components(TESTS)["rgb"])


def damage(folder, name, change):
    copy = folder.parent / "copy"
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(folder, copy)
    change(copy / name)
    return copy


@pytest.mark.parametrize("name, change, message", [
    ("weights.safetensors", Path.unlink, "no weights.safetensors"),
    ("config.json", Path.unlink, "no config.json"),
    ("weights.safetensors", lambda p: p.write_bytes(p.read_bytes()[:-9]), "a broken file"),
    ("config.json", lambda p: p.write_text("{"), "not JSON"),
    ("config.json", lambda p: p.write_text("[1]"), "settings of another kind"),
    ("config.json", lambda p: p.write_text(p.read_text().replace('"format": 2', '"format": 99')), "settings of another kind"),
    ("config.json", lambda p: p.write_text(p.read_text().replace('"cfm"', '"cmf"')), "Did you mean 'cfm'"),
    ("config.json", lambda p: p.write_text(p.read_text().replace('"pixels"', '"pixel"')), "Did you mean 'pixels'"),
    ("config.json", lambda p: p.write_text(p.read_text().replace('"epochs": 20', '"epochs": 21')), "not those the detector was saved with"),
])
def test_folders_that_are_not_a_whole_detector(tmp_path, fitted, name, change, message):
    fitted.save(tmp_path / "saved")
    with pytest.raises(DataError, match=message):
        load_detector(damage(tmp_path / "saved", name, change), device="cpu", encoders=miniature())


def test_weights_of_other_encoders_are_refused(tmp_path, fitted):
    fitted.save(tmp_path / "saved")
    with pytest.raises(DataError, match=r"learned on other encoders \(image, points\)"):
        load_detector(tmp_path / "saved", device="cpu", encoders=miniature(7))
    write_tensors(tmp_path / "saved/weights.safetensors", {"fc.weight": torch.ones(2, 2)})
    with pytest.raises(DataError, match="weights that fit config.json"):
        load_detector(tmp_path / "saved", device="cpu", encoders=miniature())


@pytest.mark.parametrize("value, message", [(float("nan"), "NaN or infinite"), (float("inf"), "NaN or infinite")])
def test_weights_that_are_not_finite_are_refused(tmp_path, fitted, value, message):
    fitted.save(tmp_path / "saved")
    tensors, _ = read_tensors(tmp_path / "saved/weights.safetensors")
    name = next(iter(tensors))
    write_tensors(tmp_path / "saved/weights.safetensors", {**tensors, name: tensors[name] * value})
    with pytest.raises(DataError, match=message): load_detector(tmp_path / "saved", device="cpu", encoders=miniature())


def test_nothing_else_is_overwritten(tmp_path, fitted):
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis/chapter.txt").write_text("years of work")
    with pytest.raises(DataError, match="something else with this name"): fitted.save(tmp_path / "thesis")
    with pytest.raises(DataError, match="something else with this name"): fitted.save(tmp_path / "thesis/chapter.txt")
    assert (tmp_path / "thesis/chapter.txt").read_text() == "years of work"
    fitted.save(tmp_path / "new")
    fitted.save(tmp_path / "new")


def test_refused_input(fitted):
    with pytest.raises(DataError, match="good samples only"): detector().fit(TESTS)
    with pytest.raises(DataError, match="cfm.fit: found no sample"): detector().fit([])
    with pytest.raises(DataError, match="cfm.components: found no sample"): fitted.components([])
    with pytest.raises(DataError, match="nothing learned yet"): detector().components(TESTS)
    with pytest.raises(DataError, match="nothing learned yet"): detector().save("never")
    with pytest.raises(DataError, match="Did you mean 'alpha'"): fitted.fuse(fitted.components(TESTS), alhpa=.2)
    with pytest.raises(DataError, match="a number from 0 to 1"): fitted.fuse(fitted.components(TESTS), alpha=1.1)
    with pytest.raises(DataError, match="Did you mean 'mul'"): fitted.fuse(fitted.components(TESTS), rule="mull")
    with pytest.raises(DataError, match="Did you mean 'cfm'"): create_detector("cmf")
    with pytest.raises(DataError, match="Did you mean 'blocks'"): create_detector("cfm", block=8)
    with pytest.raises(DataError, match="expected one of 12, 8, 4"): detector(blocks=11)
    with pytest.raises(DataError, match="encoder pair 'tinny'"): create_detector("cfm", encoders="tinny")
    assert "cfm" in list_detectors()


def test_a_sample_with_nothing_measured_is_named():
    empty = replace(GOOD[0], valid=np.zeros_like(GOOD[0].valid), xyz=np.zeros_like(GOOD[0].xyz), id="disc/good/empty")
    with pytest.raises(DataError, match="disc/good/empty"): detector().fit([*GOOD[:2], empty])


def test_components_of_unequal_shapes_are_refused():
    valid = torch.ones(2, 4, 4, dtype=torch.bool)
    with pytest.raises(DataError, match="component 'xyz'"):
        Components({"rgb": torch.ones(2, 4, 4), "xyz": torch.ones(2, 4, 5)}, valid)
    with pytest.raises(DataError, match="Did you mean 'rgb'"): Components({"rgb": torch.ones(2, 4, 4)}, valid)["rgbb"]


def trained_by_two(tmp_path, module):
    "Folder of the detector that two processes train on `GOOD` of the test module called `module`."
    script = f"""
        import sys
        sys.path.insert(0, {str(Path(__file__).parent)!r})
        import torch
        from accelerate import Accelerator
        from {module} import GOOD, detector
        torch.set_num_threads(1)
        accelerator = Accelerator(cpu=True)
        learned = detector(batch_size=3).fit(GOOD, accelerator=accelerator)
        assert accelerator.num_processes == 2
        if accelerator.is_main_process: learned.save({str(tmp_path / 'two')!r})
        accelerator.wait_for_everyone(); accelerator.end_training()   # a process that just stops may abort over its open connections
    """
    (tmp_path / "script.py").write_text(textwrap.dedent(script))
    done = subprocess.run([sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2",
                           str(tmp_path / "script.py")], capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr[-3000:]
    return tmp_path / "two"


def test_two_processes_give_the_weights_of_one(tmp_path):
    two = load_detector(trained_by_two(tmp_path, "test_detectors_cfm"), device="cpu", encoders=miniature())
    assert same_weights(detector(batch_size=3).fit(GOOD), two, tolerance=1e-4)

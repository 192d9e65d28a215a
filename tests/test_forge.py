"The forge: files in published layouts, bad input, determinism, and the samples that come with the package."
import json
import os
import subprocess
import sys
import time

import numpy as np
import pytest
from PIL import Image
from tifffile import imread

from mmad_nb.core import DataError
from mmad_nb.data import AnomalyShapeNet, MVTec3D, prepare
from mmad_nb.forge import forge, forge_cloud, forge_clouds, forge_sample, list_categories, list_cloud_categories, list_cloud_defects, list_defects, sample_data
from mmad_nb.forge.camera import STEP
from mmad_nb.forge.forge import LEVELS, Level, forged_once, level_at
from scipy.ndimage import binary_dilation


@pytest.fixture(scope="module")
def forged(tmp_path_factory):
    return forge(tmp_path_factory.mktemp("forge") / "set", ["bagel", "bolt"], train=2, validation=1, test={"good": 1, "hole": 1, "stain": 1}, seed=3, size=80)


def test_families_and_kinds():
    sample, auxiliary = list_categories("sample"), list_categories("auxiliary")
    assert len(sample) + len(auxiliary) >= 12 and not set(sample) & set(auxiliary)
    kinds = [set(list_defects(k)) for k in ("geometry", "colour", "both")]
    assert len(set.union(*kinds)) == sum(map(len, kinds)) == len(list_defects()) >= 7


def test_layout_of_mvtec(forged):
    files = {p.relative_to(forged).as_posix() for p in forged.rglob("*") if p.is_file()}
    expected = {f"{c}/{folder}/{kind}/{k:03d}.{'tiff' if kind == 'xyz' else 'png'}" for c in ("bagel", "bolt")
                for folder, count, kinds in (("train/good", 2, ("rgb", "xyz")), ("validation/good", 1, ("rgb", "xyz")), ("test/good", 1, ("rgb", "xyz", "gt")),
                                             ("test/hole", 1, ("rgb", "xyz", "gt")), ("test/stain", 1, ("rgb", "xyz", "gt")))
                for kind in kinds for k in range(count)}
    assert files == expected | {"manifest.json"}


def test_contents_of_files(forged):
    xyz = imread(forged / "bolt/test/hole/xyz/000.tiff")
    assert xyz.shape == (80, 80, 3) and xyz.dtype == np.float32
    lost = (xyz == 0).all(-1)
    assert 0 < lost.mean() < .3 and .4 < xyz[~lost][:, 2].min() < xyz[~lost][:, 2].max() < .55
    gt = np.asarray(Image.open(forged / "bolt/test/hole/gt/000.png"))
    assert set(np.unique(gt)) == {0, 255} and not np.asarray(Image.open(forged / "bolt/test/good/gt/000.png")).any()
    assert Image.open(forged / "bolt/test/hole/rgb/000.png").mode == "RGB"


def test_reader_gives_what_was_forged(forged):
    entry = next(e for e in json.loads((forged / "manifest.json").read_text())["captures"] if (e["category"], e["defect"]) == ("bagel", "stain"))
    again = forge_sample("bagel", "stain", entry["strength"], entry["extent"], entry["seed"], 80)
    read = next(s for s in MVTec3D(forged, "bagel", "test", prepared=False) if s.defect == "stain")
    assert np.array_equal(read.xyz, again.xyz) and np.array_equal(read.mask, again.mask) and np.abs(read.rgb - again.rgb).max() < 1 / 255


def test_tiff_is_read_without_imagecodecs(forged):
    code = "import sys; sys.modules['imagecodecs'] = None; from tifffile import imread; print(imread(sys.argv[1]).shape)"
    out = subprocess.run([sys.executable, "-c", code, str(forged / "bagel/train/good/xyz/000.tiff")], capture_output=True, text=True)
    assert out.stdout.strip() == "(80, 80, 3)", out.stderr


def test_forging_again_replaces_only_its_own(tmp_path):
    root = tmp_path / "set"
    forge(root, ["washer"], train=2, validation=0, test={}, size=32)
    (root / "notes.txt").write_text("mine")
    before = (root / "washer/train/good/rgb/000.png").read_bytes()
    forge(root, ["washer"], train=1, validation=0, test={}, size=32)
    assert (root / "notes.txt").read_text() == "mine"
    assert [p.name for p in (root / "washer/train/good/rgb").iterdir()] == ["000.png"]
    assert (root / "washer/train/good/rgb/000.png").read_bytes() == before     # fewer captures, but the same first one


@pytest.mark.parametrize("writer", [forge, forge_clouds])
def test_foreign_folder_is_refused(tmp_path, writer):
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(DataError, match="thesis|did not write.*Choose another folder; nothing was changed"):
        writer(tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.txt"]
    with pytest.raises(DataError, match="did not write"):
        writer(tmp_path / "thesis.txt")                                          # a file where the folder should be
    (tmp_path / "manifest.json").write_text("{broken")
    with pytest.raises(DataError, match="did not write"):
        writer(tmp_path)


def test_manifest_cannot_delete_outside(tmp_path):
    victim = tmp_path / "victim.txt"
    victim.write_text("keep")
    root = tmp_path / "set"
    root.mkdir()
    (root / "manifest.json").write_text(json.dumps({"made_by": "mmad_nb.forge.forge", "files": ["../victim.txt", str(victim)]}))
    forge(root, ["washer"], train=1, validation=0, test={}, size=32)
    assert victim.read_text() == "keep"


@pytest.mark.parametrize("call, near", [
    (lambda: forge_sample("bagle"), "'bagel'"), (lambda: forge_sample("bagel", "crak"), "'crack'"), (lambda: list_categories("sampel"), "'sample'"),
    (lambda: list_defects("color"), "'colour'"), (lambda: forge_cloud("ringo"), "'ring0'"), (lambda: forge_cloud("ring0", "buldge"), "'bulge'")])
def test_unknown_names(call, near):
    with pytest.raises(DataError, match=f"Did you mean .*{near}"):
        call()


def test_unknown_names_write_nothing(tmp_path):
    for call in (lambda r: forge(r, ["bagel", "gaer"]), lambda r: forge(r, ["bagel"], test={"god": 1}), lambda r: forge_clouds(r, ["ring0"], test={"bulgee": 1})):
        with pytest.raises(DataError, match="Did you mean"):
            call(tmp_path / "set")
    assert not (tmp_path / "set").exists()


def test_same_seed_same_sample_in_another_process():
    code = "from mmad_nb.forge import forge_sample as f; s = f('gear', 'crack', seed=7, size=64); print(s.rgb.sum(dtype=float), s.xyz.sum(dtype=float), s.mask.sum())"
    s = forge_sample("gear", "crack", seed=7, size=64)
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env={**os.environ, "PYTHONHASHSEED": "5"})
    assert out.stdout.split() == [str(s.rgb.sum(dtype=float)), str(s.xyz.sum(dtype=float)), str(s.mask.sum())], out.stderr
    assert not np.array_equal(s.xyz, forge_sample("gear", "crack", seed=8, size=64).xyz)


@pytest.mark.parametrize("category", list_categories())
def test_every_defect_on_every_category(category):
    good = forge_sample(category, seed=1, size=96)
    assert not good.mask.any() and .9 < good.valid.mean() < 1 and (good.xyz[:, ~good.valid] == 0).all()
    for name in list_defects():
        bad = forge_sample(category, name, seed=1, size=96)
        assert bad.mask.any() and bad.mask.mean() < .1, name
        seen = bad.mask & bad.valid & good.valid
        moved = np.abs(bad.xyz[2] - good.xyz[2])
        if name in list_defects("colour"):
            assert moved[seen].max() < .0015, name                               # noise may differ where glare blinds the sensor; the surface may not
            assert np.abs(bad.rgb - good.rgb).max(0)[bad.mask].mean() > .05, name
        elif name in list_defects("geometry"):
            assert moved[seen].mean() > .0006, name


def test_mask_is_where_the_surface_moved():
    good, bad = forge_sample("potato", seed=4), forge_sample("potato", "bump", strength=1.5, seed=4)
    nearer = np.where(good.valid & bad.valid, good.xyz[2] - bad.xyz[2], 0)
    clear = nearer > .001                                                        # ten times the noise
    assert clear.sum() > 200 and bad.mask[clear].mean() > .99
    assert (nearer[~bad.mask] < .001).all()
    assert not forge_sample("potato", "bump", strength=0, seed=4).mask.any()


@pytest.mark.parametrize("size", [64, 200, 800])
def test_sizes_show_the_same_scene(size):
    s, reference = forge_sample("carrot", "stain", seed=2, size=size), forge_sample("carrot", "stain", seed=2, size=400)
    assert s.size == (size, size)
    to = lambda a: np.asarray(Image.fromarray((a * 255).astype(np.uint8)).resize((32, 32), Image.BOX), float)
    photo = lambda s: np.stack([to(c) for c in s.rgb])
    assert np.corrcoef(photo(s).ravel(), photo(reference).ravel())[0, 1] > .98
    assert abs(s.mask.mean() / reference.mask.mean() - 1) < .25
    assert abs(s.xyz[2][s.valid].mean() - reference.xyz[2][reference.valid].mean()) < .001


def test_prepare_keeps_object_and_defect():
    for category in list_categories("sample"):
        kept = []
        for k, name in enumerate(("dent", "bump", "hole", "stain")):
            raw = forge_sample(category, name, seed=k, size=224)
            s = prepare(raw, size=224)
            assert .04 < s.valid.mean() < .4, category
            kept.append((s.mask & s.valid).sum() / raw.mask.sum())
        assert np.median(kept) > .7 and min(kept) > .4, (category, kept)


def test_speed():
    forge_sample("cookie", "crack")
    times = []
    for seed in range(5):
        start = time.process_time(); forge_sample("cookie", "crack", seed=seed, size=256); times.append(time.process_time() - start)
    assert min(times) < .15, times


def test_sample_data_is_small_complete_and_free():
    root = sample_data()
    files = [p for p in root.rglob("*") if p.is_file()]
    assert sum(p.stat().st_size for p in files) < 12e6
    assert {"README.md", "LICENSE", "manifest.json"} <= {p.name for p in files} and "CC0" in (root / "LICENSE").read_text()
    manifest = json.loads((root / "manifest.json").read_text())
    assert sorted(manifest["files"]) == sorted(p.relative_to(root).as_posix() for p in files if p.parent != root)


def test_sample_data_can_be_forged_again(tmp_path):
    root = sample_data()
    arguments = json.loads((root / "manifest.json").read_text())["arguments"]
    assert str(arguments["size"]) in (root / "README.md").read_text()
    again = forge(tmp_path / "again", **{**arguments, "categories": ["carrot"], "train": 2, "test": {"good": 1, "crack": 1, "hole": 1}})
    for path in sorted(p for p in again.rglob("*.*") if p.suffix in (".png", ".tiff")):
        shipped = root / path.relative_to(again)
        if path.suffix == ".tiff":                                               # other NumPy versions may round the last digit otherwise
            assert np.abs(imread(path) - imread(shipped)).max(-1).mean() < STEP / 10, path
        else:
            assert np.abs(np.asarray(Image.open(path), int) - np.asarray(Image.open(shipped), int)).mean() < .05, path


def test_clouds_in_the_files_of_anomaly_shapenet(tmp_path):
    root = forge_clouds(tmp_path / "clouds", ["knot0", "spool0"], train=2, test={"positive": 1, "crack": 1, "concavity": 1}, points=2000)
    files = {p.relative_to(root).as_posix() for p in root.rglob("*") if p.is_file()}
    assert files == {"manifest.json"} | {f"{c}/{f}" for c in ("knot0", "spool0") for f in (f"train/{c}_template0.pcd", f"train/{c}_template1.pcd", f"test/{c}_positive0.pcd",
        f"test/{c}_crack0.pcd", f"test/{c}_concavity0.pcd", f"GT/{c}_crack0.txt", f"GT/{c}_concavity0.txt")}
    first = (root / "knot0/GT/knot0_crack0.txt").read_text().splitlines()[0].split(",")
    assert len(first) == 4 and first[3] in "01"
    test = AnomalyShapeNet(root, "spool0", split="test")
    assert sorted(c.defect for c in test) == ["concavity", "crack", "good"]
    assert all(c.labels.any() == c.anomalous and len(c) == 2000 for c in test)


@pytest.mark.parametrize("category", list_cloud_categories())
def test_cloud_defects(category):
    for name in list_cloud_defects():
        cloud = forge_cloud(category, name, seed=5, points=4000)
        assert .002 < cloud.labels.mean() < .3, name
        assert np.allclose(np.linalg.norm(cloud.normals, axis=1), 1, atol=1e-3) and np.isfinite(cloud.points).all()
    good = forge_cloud(category, seed=5, points=4000)
    assert not good.labels.any() and (good.points * good.normals).sum(1).mean() > 0   # the normals point outwards
    assert np.array_equal(good.points, forge_cloud(category, seed=5, points=4000).points)


# ---- levels ---------------------------------------------------------------------------------------------------------

def test_the_standard_level_is_what_it_was():
    "The shipped samples are of this level: a Level() of our own, the name and no argument give the same numbers."
    one = forge_sample("key", "dent", seed=3, size=64)
    for level in ("standard", Level(), level_at(0)):
        other = forge_sample("key", "dent", seed=3, size=64, level=level)
        assert all(np.array_equal(getattr(one, name), getattr(other, name)) for name in ("rgb", "xyz", "valid", "mask"))


@pytest.mark.parametrize("category", list_categories("auxiliary"))
def test_a_hard_defect_is_weaker_and_can_be_seen(category):
    smaller = 0
    for name in list_defects():
        easy, hard = (forge_sample(category, name, .8, .8, seed=2, size=128, level=level) for level in LEVELS)
        assert hard.mask.sum() * (160 / 128) ** 2 > 8, name                        # mm2; 15 on the object's own grid
        smaller += hard.mask.sum() < easy.mask.sum()
    assert smaller >= 5


def test_hard_individuals_differ_more():
    def spread(level):
        photos, depths = zip(*((s.rgb, s.xyz[2]) for s in (forge_sample("brick", seed=k, size=64, level=level) for k in range(6))))
        return np.std(photos, 0).mean(), np.std(depths, 0).mean()
    assert all(np.array(spread("hard")) > 1.1 * np.array(spread("standard")))
    def noise(level):
        steps = np.abs(np.diff(forge_sample("brick", seed=1, size=96, level=level).xyz[2, :12, :12], 2))
        return steps[steps < .005].mean()                                             # without lost pixels
    assert noise("hard") > 1.2 * noise("standard")


def test_hard_twins_are_twins():
    good, bad = (forge_sample("peach", d, seed=5, size=96, level="hard") for d in ("good", "dent"))
    far = good.valid & bad.valid & ~binary_dilation(bad.mask, iterations=8)
    assert np.array_equal(good.xyz[:, far], bad.xyz[:, far])


@pytest.mark.parametrize("call", [lambda r: forge_sample("bagel", level="hrad"), lambda r: forge(r / "set", ["bagel"], level="hrad"), lambda r: sample_data("hrad")])
def test_an_unknown_level_is_named(call, tmp_path):
    with pytest.raises(DataError, match="level 'hrad'.*Did you mean 'hard'"): call(tmp_path)
    assert not (tmp_path / "set").exists()


def test_a_forged_set_says_its_level(tmp_path):
    for k, level in enumerate(("hard", Level(strength=.5))):
        root = forge(tmp_path / str(k), ["bolt"], train=1, validation=0, test={"hole": 1}, size=48, level=level)
        manifest = json.loads((root / "manifest.json").read_text())
        wanted = manifest["arguments"]["level"]
        e = manifest["captures"][-1]
        again = forge_sample("bolt", "hole", e["strength"], e["extent"], e["seed"], 48, level=wanted if k == 0 else Level(**wanted))
        assert np.array_equal(imread(root / "bolt/test/hole/xyz/000.tiff"), again.xyz.transpose(1, 2, 0))


def test_hard_samples_are_forged_once(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("MMAD_NB_CACHE", str(tmp_path))
    few = {"categories": ["carrot"], "train": 1, "validation": {"dent": 1}, "test": {"stain": 1}, "seed": 0, "size": 48}
    one = forged_once("hard", few)
    assert capsys.readouterr().out.count("\n") == 1 and json.loads((one / "manifest.json").read_text())["arguments"]["level"] == "hard"
    stamps = {p: p.stat().st_mtime_ns for p in one.rglob("*")}
    assert forged_once("hard", few) == one and capsys.readouterr().out == ""          # found, not forged again
    assert stamps == {p: p.stat().st_mtime_ns for p in one.rglob("*")}
    assert [p.name for p in one.parent.iterdir()] == [one.name]                       # nothing left beside it
    assert forged_once("hard", few | {"seed": 1}) != one                              # other arguments, another folder


def test_a_forge_that_dies_leaves_no_samples(tmp_path, monkeypatch):
    import mmad_nb.forge.forge  # noqa: F401  (the name `mmad_nb.forge.forge` is the function)
    monkeypatch.setenv("MMAD_NB_CACHE", str(tmp_path))
    module = sys.modules["mmad_nb.forge.forge"]
    monkeypatch.setattr(module, "write_capture", lambda *a: (_ for _ in ()).throw(KeyboardInterrupt()))
    with pytest.raises(KeyboardInterrupt): sample_data("hard")
    assert not list((tmp_path / "samples").iterdir())
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("MMAD_NB_CACHE", str(tmp_path / "file"))
    with pytest.raises(DataError, match="MMAD_NB_CACHE"): sample_data("hard")


def test_validation_has_defects_of_its_own_individuals(tmp_path):
    root = forge(tmp_path / "set", ["bagel"], train=1, validation={"good": 1, "crack": 2}, test={"crack": 2}, size=48)
    validation, test = (MVTec3D(root, "bagel", split, prepared=False) for split in ("validation", "test"))
    assert validation.defects == ["crack", "crack", "good"] and all(s.mask.any() == s.anomalous for s in validation)
    seeds = [e["seed"] for e in json.loads((root / "manifest.json").read_text())["captures"]]
    assert len(set(seeds)) == len(seeds) == 6
    assert not (root / "bagel/validation/good/gt").exists()                           # as MVTec has it
    few = forge(tmp_path / "few", ["bagel"], train=1, test={"good": 1}, size=32)      # the default: good ones and every defect
    assert sorted(MVTec3D(few, split="validation", prepared=False).defects) == sorted(["good", "good", *list_defects()])
    shipped = MVTec3D(sample_data(), split="validation", prepared=False)
    assert sorted(set(shipped.defects)) == ["crack", "dent", "good", "stain"]


def test_preview_shades_by_slope_and_not_by_the_fineness_of_the_grid():
    from mmad_nb.forge.shapes import Surface, picture
    def tilted(step):                                            # 0.2 mm of height for each mm to the right
        height = np.tile(10 + .2 * np.arange(0, 8, step), (6, 1))
        return Surface(height, np.full((3, *height.shape), .5), np.zeros(height.shape))
    coarse, fine = (picture(tilted(step), step)[2, 2] for step in (1., .25))
    assert (coarse == fine).all() and (coarse == int(255 * .5 * (.85 + .3 * .2))).all()
    assert (picture(tilted(.25))[2, 2] < fine).all()             # without the step a fine grid looks flat

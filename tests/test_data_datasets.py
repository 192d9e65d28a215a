"""Readers: published layouts written by tests/layouts.py, real files of ../shared/data, and bad input."""
import errno
import json
import shutil
import struct

import numpy as np
import pytest
import tifffile
from layouts import lzf_as_is, scene, sphere, write_capture, write_clouds, write_eyecandies, write_mvtec, write_pcd
from PIL import Image
from real_data import kinect_to_mvtec, shared

from mmad_nb.core.runtime import DataError
from mmad_nb.data import (AnomalyShapeNet, Eyecandies, MVTec3D, Real3D, prepare_dataset, read_depth, read_manifest, read_mask, read_pcd, read_rgb,
                          read_xyz, unproject)
from mmad_nb.data.clouds import lzf_decompress


def says(do, *words):
    "`do` raises a DataError whose message contains all `words`."
    with pytest.raises(DataError) as caught: do()
    for word in words: assert word in str(caught.value), str(caught.value)


@pytest.fixture
def root(tmp_path):
    return write_mvtec(tmp_path / "mvtec")


# ---------------------------------------------------------------- MVTec 3D-AD

def test_order_slices_and_repr(root):
    write_mvtec(root, "rope", (40, 90))
    test = MVTec3D(root, split="test", prepared=False)
    assert [e.id for e in test.entries] == [f"{c}/test/{d}/{i:03}" for c in ("bagel", "rope") for d, n in (("good", 1), ("hole", 2), ("stain", 1)) for i in range(n)]
    assert test.categories == ["bagel", "rope"] and test[-1].id == "rope/test/stain/000"
    assert [s.id for s in test[4:6]] == ["rope/test/good/000", "rope/test/hole/000"] and test[4:].categories == ["rope"]
    assert test.defects.count("good") == 2 and isinstance(test[:1], MVTec3D) and len(test[::-1]) == 8
    assert test[-1].size == (40, 90) and "rope         1 good, 2 hole, 1 stain" in repr(test)
    with pytest.raises(IndexError): test[8]
    assert MVTec3D(root, "rope").categories == ["rope"] and len(MVTec3D(root, ["rope", "bagel"])) == 6


def test_nothing_is_read_before_it_is_asked_for(root, monkeypatch):
    read = []
    import mmad_nb.data.datasets as module
    monkeypatch.setattr(module, "read_sample", lambda **files: read.append(files["id"]))
    dataset = MVTec3D(root, split="test", prepared=False)
    dataset[1:3], len(dataset), repr(dataset), dataset.defects
    assert read == []
    dataset[1:3][0]
    assert read == ["bagel/test/hole/000"]


def test_class_ids_are_masks_and_good_needs_none(root):
    shutil.rmtree(root / "bagel/test/good/gt")
    for sample in MVTec3D(root, split="test", prepared=False):
        expected = scene(seed=len(f"test/{sample.defect}") + int(sample.id[-3:]))[2] & (sample.defect != "good")
        assert (sample.mask == expected).all() and sample.anomalous == expected.any()
    assert not MVTec3D(root, prepared=False)[0].mask.any()


def test_a_mask_in_colour_and_in_one_bit(tmp_path):
    spot = scene()[2]
    Image.fromarray(np.repeat(spot[..., None] * np.uint8(254), 3, -1)).save(tmp_path / "rgb.png")
    Image.fromarray(spot).save(tmp_path / "bit.png")
    for name in ("rgb.png", "bit.png"): assert (read_mask(tmp_path / name) == spot).all()


def test_prepared_samples_are_square(root):
    write_mvtec(root, "rope", (40, 90)), write_mvtec(root, "tire", (80, 60))
    for sample in MVTec3D(root, split="test", size=56): assert sample.size == (56, 56) and sample.valid.any()
    assert {s.size for s in MVTec3D(root, ["rope", "tire"], size=None)} == {(90, 90), (80, 80)}


@pytest.mark.parametrize("size", [0, 3, 8, 100, 2000, 20_000])
def test_a_truncated_tiff(root, size):
    path = root / "bagel/train/good/xyz/001.tiff"
    path.write_bytes(path.read_bytes()[:size])
    says(lambda: MVTec3D(root)[1], "001.tiff", "cannot be read", "copy or download it again")
    MVTec3D(root)[0]                                                # the others are not affected


def test_tiffs_of_other_content(root):
    path = root / "bagel/train/good/xyz/000.tiff"
    xyz = read_xyz(path)[0].transpose(1, 2, 0)
    for array, found in ((np.ones((60, 60, 3), np.uint16), "uint16 of shape (60, 60, 3)"), (np.ones((60, 60), np.float32), "float32 of shape (60, 60)"),
                         (np.ones((60, 60, 4), np.float32), "float32 of shape (60, 60, 4)")):
        tifffile.imwrite(path, array, photometric="minisblack")
        says(lambda: MVTec3D(root)[0], "000.tiff", found, "H x W x 3 floating-point")
    tifffile.imwrite(path, xyz.astype(np.float64), photometric="rgb")
    sample = MVTec3D(root, prepared=False)[0]
    assert sample.xyz.dtype == np.float32 and (sample.xyz == xyz.transpose(2, 0, 1)).all()


def test_nan_and_infinite_coordinates_are_not_measured(root):
    path = root / "bagel/train/good/xyz/000.tiff"
    xyz = read_xyz(path)[0].transpose(1, 2, 0).copy()
    xyz[0], xyz[1], xyz[2, :, 1] = 0, np.nan, np.nan
    tifffile.imwrite(path, xyz, photometric="rgb")
    sample = MVTec3D(root, prepared=False)[0]                       # NaN is what sensors write: no warning
    assert not sample.valid[:3].any() and sample.valid[3:].all() and (sample.xyz[:, :3] == 0).all()
    xyz[3, :7, 2] = np.inf; xyz[4, :2, 0] = -np.inf
    tifffile.imwrite(path, xyz, photometric="rgb")
    with pytest.warns(UserWarning, match="000.tiff: 9 pixels hold infinite coordinates"): sample = MVTec3D(root, prepared=False)[0]
    assert not sample.valid[3, :7].any() and sample.valid[3, 7:].all() and np.isfinite(sample.xyz).all()


def test_a_capture_with_no_valid_point(root):
    for value in (0, np.nan):
        tifffile.imwrite(root / "bagel/train/good/xyz/000.tiff", np.full((60, 60, 3), value, np.float32), photometric="rgb")
        says(lambda: MVTec3D(root)[0], "000.tiff", "no valid point", "Leave this capture out")


def test_shapes_that_disagree(root):
    tifffile.imwrite(root / "bagel/train/good/xyz/000.tiff", np.ones((50, 60, 3), np.float32), photometric="rgb")
    says(lambda: MVTec3D(root)[0], "000.tiff", "50 x 60 pixels", "60 x 60 as in", "000.png")
    Image.fromarray(np.zeros((60, 61), np.uint8)).save(root / "bagel/test/hole/gt/000.png")
    says(lambda: MVTec3D(root, split="test")[1], "gt/000.png", "60 x 61 pixels", "60 x 60 as in")


def test_broken_pictures(root):
    path = root / "bagel/train/good/rgb/000.png"
    path.write_bytes(path.read_bytes()[:60])
    says(lambda: MVTec3D(root)[0], "rgb/000.png", "cannot be read")
    path.write_text("not a picture")
    says(lambda: read_rgb(path), "000.png", "UnidentifiedImageError")
    says(lambda: read_mask(path), "000.png", "0 where nothing is wrong")


def test_missing_files_are_noticed_when_listing(root):
    (root / "bagel/test/hole/gt/001.png").unlink()
    says(lambda: MVTec3D(root, split="test"), "test/hole", "capture 001 without its file in gt/")
    MVTec3D(root)                                                   # training is whole
    (root / "bagel/train/good/rgb/002.png").unlink()
    says(lambda: MVTec3D(root), "train/good", "capture 002 without its file in rgb/")


def test_names_that_do_not_exist(root, tmp_path):
    says(lambda: MVTec3D(root, "bagle"), "category 'bagle'", "Did you mean 'bagel'?")
    says(lambda: MVTec3D(root, split="tset"), "split 'tset'", "Did you mean 'test'?")
    says(lambda: MVTec3D(tmp_path / "nowhere"), "nowhere", "no such folder", "Check the path")
    says(lambda: MVTec3D(root / "bagel"), "one category itself", "Give the folder above")
    (tmp_path / "photos/holiday").mkdir(parents=True)
    says(lambda: MVTec3D(tmp_path / "photos"), "holiday", "one folder per category")
    (tmp_path / "empty").mkdir()
    says(lambda: MVTec3D(tmp_path / "empty"), "an empty folder")


def test_an_empty_split(root):
    shutil.rmtree(root / "bagel/validation")
    says(lambda: MVTec3D(root, split="validation"), "no capture in split 'validation' of bagel", "layout of MVTec3D")
    shutil.rmtree(root / "bagel/train/good"); (root / "bagel/train/good").mkdir()
    says(lambda: MVTec3D(root), "no capture in split 'train'")


def test_temporary_and_foreign_files_are_no_captures(root):
    for name in (".001.png.77.tmp.png", "Thumbs.db"): (root / "bagel/train/good/rgb" / name).write_bytes(b"")
    assert len(MVTec3D(root)) == 3


# ---------------------------------------------------------------- prepare_dataset

def everything(root):
    return {p.relative_to(root): p.read_bytes() for p in sorted(root.rglob("*")) if p.is_file()}


def test_prepare_dataset_writes_a_new_tree(root, tmp_path):
    before = everything(root)
    target = prepare_dataset(root, tmp_path / "ready", eps=0.005)
    assert everything(root) == before
    manifest = read_manifest(target)
    assert set(manifest["captures"]) == {e.id for split in MVTec3D.splits for e in MVTec3D(root, split=split).entries}
    assert manifest["how"]["settings"]["eps"] == 0.005 and manifest["how"]["package"]
    facts = manifest["captures"]["bagel/test/hole/000"]
    assert set(facts["sources"]) == {"rgb", "xyz", "gt"} and 0.3 < facts["removed"] < 0.9 and abs(facts["plane"]["normal"][2]) > 0.9
    import hashlib
    assert facts["sources"]["xyz"] == hashlib.sha256((root / "bagel/test/hole/xyz/000.tiff").read_bytes()).hexdigest()
    for stored, fresh in zip(MVTec3D(target, split="test", size=48), MVTec3D(root, split="test", size=48, eps=0.005)):
        assert (stored.xyz == fresh.xyz).all() and (stored.valid == fresh.valid).all() and (stored.mask == fresh.mask).all()
        assert stored.id == fresh.id and abs(stored.rgb - fresh.rgb).max() < 0.02


def test_a_prepared_tree_is_not_prepared_again(root, tmp_path, monkeypatch):
    target = prepare_dataset(root, tmp_path / "ready")
    import mmad_nb.data.datasets as module
    monkeypatch.setattr(module, "find_foreground", lambda *a, **k: pytest.fail("prepared twice"))
    assert MVTec3D(target)[0].size == (224, 224) and MVTec3D(target, prepared=False)[0].size == (60, 60)
    says(lambda: prepare_dataset(target, tmp_path / "again"), "prepared already", "Read it with MVTec3D")
    assert not (tmp_path / "again").exists()
    says(lambda: MVTec3D(target, eps=0.01), "settings ['eps']", "prepared with its own")


def test_targets_that_would_do_harm(root, tmp_path):
    before = everything(root)
    for target in (root, root / "ready", root.parent): says(lambda: prepare_dataset(root, target), "Raw data must stay raw")
    (tmp_path / "thesis").mkdir(); (tmp_path / "thesis/text.tex").write_text("...")
    says(lambda: prepare_dataset(root, tmp_path / "thesis"), "a folder with other files in it", "Choose another target")
    says(lambda: prepare_dataset(tmp_path / "nowhere", tmp_path / "t"), "no such folder")
    assert everything(root) == before and not (tmp_path / "t").exists()


@pytest.mark.parametrize("stop", [KeyboardInterrupt, OSError(errno.ENOSPC, "no space")])
def test_an_interrupted_run_resumes(root, tmp_path, monkeypatch, stop):
    whole, target = prepare_dataset(root, tmp_path / "whole"), tmp_path / "ready"
    real, calls = tifffile.imwrite, []
    def failing(path, *args, **kwargs):
        calls.append(path)
        real(path, *args, **kwargs)
        if len(calls) == 4: raise stop
    monkeypatch.setattr(tifffile, "imwrite", failing)
    with pytest.raises((KeyboardInterrupt, DataError)) as caught: prepare_dataset(root, target)
    if stop is not KeyboardInterrupt: assert "a full disk" in str(caught.value)
    assert not list(target.rglob(".*"))                             # nothing half-written is left
    says(lambda: MVTec3D(target), "half prepared", "it resumes")
    monkeypatch.setattr(tifffile, "imwrite", lambda path, *a, **k: (calls.append(path), real(path, *a, **k)))
    calls.clear()
    prepare_dataset(root, target)
    assert len(calls) == len(read_manifest(whole)["captures"]) - 3  # three were done
    assert {k: v for k, v in everything(target).items()} == everything(whole)


def test_other_settings_do_not_mix(root, tmp_path):
    target = prepare_dataset(root, tmp_path / "ready", size=32)
    says(lambda: prepare_dataset(root, target), "prepared with size 32 instead of None")
    says(lambda: prepare_dataset(root, target, size=32, eps=0.01), "prepared with settings")
    other = write_mvtec(tmp_path / "other")
    says(lambda: prepare_dataset(other, target, size=32), "prepared with source")


def test_a_changed_source_is_prepared_anew(root, tmp_path):
    target = prepare_dataset(root, tmp_path / "ready")
    old = (target / "bagel/train/good/xyz/000.tiff").read_bytes(), (target / "bagel/train/good/xyz/001.tiff").stat().st_mtime_ns
    photo, xyz, _ = scene(seed=99)
    write_capture(root / "bagel/train/good", "000", photo, xyz)
    prepare_dataset(root, target)
    assert (target / "bagel/train/good/xyz/000.tiff").read_bytes() != old[0] and (target / "bagel/train/good/xyz/001.tiff").stat().st_mtime_ns == old[1]


def test_foreign_manifests_are_not_ours(root):
    (root / "manifest.json").write_text(json.dumps({"made_by": "somebody else"}))
    assert read_manifest(root) is None and MVTec3D(root).manifest is None
    (root / "manifest.json").write_text("{")
    says(lambda: MVTec3D(root), "manifest.json", "cannot be read")


# ---------------------------------------------------------------- point clouds

@pytest.mark.parametrize("data", ["ascii", "binary", "binary_compressed"])
def test_pcd_encodings(tmp_path, data):
    rng = np.random.default_rng(0)
    color = np.array([0xFF8000, 0x0000FF] * 5, np.uint32)
    fields = {"x": rng.normal(size=10).astype("f4"), "y": rng.normal(size=10).astype("f8"), "z": np.append(rng.normal(size=9), np.nan).astype("f4"),
              "_": rng.integers(0, 255, (10, 3)).astype("u1"), "rgb": color.view("f4") if data != "ascii" else color, "label": np.arange(10, dtype="i2") - 5,
              "fpfh": rng.normal(size=(10, 33)).astype("f4")}
    write_pcd(tmp_path / "a.pcd", fields, data, width=5, height=2)
    cloud = read_pcd(tmp_path / "a.pcd")
    assert (cloud.width, cloud.height, len(cloud)) == (5, 2, 10) and cloud.viewpoint == (0, 0, 0, 1, 0, 0, 0)
    assert sorted(cloud.fields) == ["fpfh", "label", "rgb", "x", "y", "z"]
    for name, values in cloud.fields.items():
        assert values.dtype == fields[name].dtype
        np.testing.assert_array_equal(values, fields[name])
    np.testing.assert_allclose(cloud.colors[:2], [[1, 128 / 255, 0], [0, 0, 1]])
    assert np.isnan(cloud.points[9, 2]) and cloud.normals is None


@pytest.mark.parametrize("data", ["ascii", "binary", "binary_compressed"])
def test_truncated_pcds(tmp_path, data):
    points, _ = sphere(50)
    write_pcd(tmp_path / "a.pcd", dict(zip("xyz", points.T)), data)
    whole = (tmp_path / "a.pcd").read_bytes()
    for size in range(0, len(whole) - 40, 37):
        (tmp_path / "a.pcd").write_bytes(whole[:size])
        with pytest.raises(DataError, match="a.pcd: found"): read_pcd(tmp_path / "a.pcd")


def test_corrupt_pcds(tmp_path):
    path, points = tmp_path / "a.pcd", sphere(50)[0]
    def broken(old, new, *words, data="binary_compressed"):
        write_pcd(path, dict(zip("xyz", points.T)), data)
        assert old in path.read_bytes()
        path.write_bytes(path.read_bytes().replace(old, new, 1))
        says(lambda: read_pcd(path), "a.pcd", *words)
    broken(b"DATA binary_compressed", b"DATA zip", "DATA zip")
    broken(b"SIZE 4 4 4", b"SIZE 4 4", "one F, I or U")
    broken(b"SIZE 4 4 4", b"SIZE 4 4 3", "one F, I or U")
    broken(b"TYPE F F F", b"TYPE F F X", "TYPE ['F', 'F', 'X']")
    broken(b"FIELDS x y z", b"FIELDS x y", "2 fields and 3 types")
    broken(b"POINTS 50", b"POINTS 51", "POINTS 51", "WIDTH x HEIGHT = 50")
    broken(b"WIDTH 50\n", b"", "no WIDTH in the header")
    broken(struct.pack("<II", len(lzf_as_is(points.T.tobytes())), 600), struct.pack("<II", 700, 600), "numbers that do not fit the header")
    broken(b"\x1f", b"\xff", "numbers that do not fit the header")  # a copy instruction that points before the beginning
    broken(b"DATA ascii\n", b"DATA ascii\nzero ", "numbers that do not fit the header", data="ascii")
    says(lambda: read_pcd(tmp_path / "none.pcd"), "no such file")
    path.write_text("solid cube\nfacet normal 0 0 1\n")
    says(lambda: read_pcd(path), "no line 'DATA")


def test_lzf_against_a_compressor_that_looks_back():
    def compress(data):
        "Greedy LZF: the longest match, wherever it is."
        out, plain, i = bytearray(), bytearray(), 0
        def flush():
            for k in range(0, len(plain), 32): out.extend([len(plain[k:k + 32]) - 1, *plain[k:k + 32]])
            plain.clear()
        while i < len(data):
            best, where = 0, 0
            for back in range(1, min(i, 8192) + 1):
                length = 0
                while length < 264 and i + length < len(data) and data[i + length] == data[i + length - back]: length += 1
                if length > best: best, where = length, back
            if best < 3: plain.append(data[i]); i += 1; continue
            flush()
            short, low = best - 2, where - 1
            out.extend([(min(short, 7) << 5) | (low >> 8)] + ([short - 7] if short >= 7 else []) + [low & 255])
            i += best
        flush()
        return bytes(out)
    rng = np.random.default_rng(0)
    for data in (b"", b"a", b"ab" * 400, bytes(rng.integers(0, 4, 700).astype(np.uint8)), bytes(rng.integers(0, 256, 300).astype(np.uint8)) * 2, b"x" * 265):
        assert lzf_decompress(compress(data), len(data)) == data


def test_real3d(tmp_path):
    root = write_clouds(tmp_path, "airplane", ["1_template", "2_prototype"],
                        {"1_good": None, "2_bulge": "2_bulge", "10_sink_cut": "10_sink_cut", "3_good_copy": None, "4_temp": None})
    train, test = Real3D(root), Real3D(root, "airplane", "test")
    assert [e.stem for e in train.entries] == ["1_template", "2_prototype"] and not train[0].labels.any() and not train[0].anomalous
    assert {e.stem: e.defect for e in test.entries} == {"10_sink_cut": "sink", "1_good": "good", "2_bulge": "bulge", "3_good_copy": "good"}
    bulge = test[[e.stem for e in test.entries].index("2_bulge")]
    points, labels = sphere(bump=1.0, seed=51)
    np.testing.assert_allclose(bulge.points, points, atol=1e-5)     # from the text file, in its order
    assert (bulge.labels == labels).all() and labels.any() and bulge.id == "airplane/test/bulge/2_bulge"


@pytest.mark.parametrize("gt,separator", [("gt", " "), ("GT", ","), ("GT", " "), ("gt", ",")])
def test_both_spellings_and_both_separators(tmp_path, gt, separator):
    root = write_clouds(tmp_path, "duck", ["1_template"], {"2_bulge": "2_bulge"}, gt, separator)
    for reader in (Real3D, AnomalyShapeNet): assert reader(root, split="test")[0].labels.any()


def test_anomaly_shapenet(tmp_path):
    write_clouds(tmp_path / "pcd", "ashtray0", ["ashtray0_template0"], {"ashtray0_positive1": None, "ashtray0_concavity2": "ashtray0_sink2", "ashtray0_bulge2": "ashtray0_bulge2"}, "GT", ",")
    write_clouds(tmp_path / "pcd", "bowl1", ["bowl1_template0"], {"bowl1_crack0": "bowl1_crack0"}, "GT", ",")
    test = AnomalyShapeNet(tmp_path, split="test")
    assert test.categories == ["ashtray0", "bowl1"] and test.defects == ["bulge", "concavity", "good", "crack"]
    assert (test[1].labels == sphere(bump=1.0, seed=51)[1]).all()   # the file that is called sink
    assert len(AnomalyShapeNet(tmp_path, "bowl1")) == 1
    says(lambda: AnomalyShapeNet(tmp_path, "bowl2"), "Did you mean 'bowl1'")


def test_rows_that_do_not_match_the_cloud(tmp_path):
    root = write_clouds(tmp_path, "duck", ["1_template"], {"2_bulge": "2_bulge"})
    path = root / "duck/gt/2_bulge.txt"
    path.write_text("".join(path.read_text().splitlines(True)[:150]))
    with pytest.warns(UserWarning, match="duck/test/bulge/2_bulge: 2_bulge.pcd has 200 points, 2_bulge.txt has 150 rows"): cloud = Real3D(root, split="test")[0]
    assert len(cloud) == 150


def test_bad_cloud_data(tmp_path):
    root = write_clouds(tmp_path, "duck", ["1_template"], {"2_bulge": "2_bulge", "3_good": None})
    write_pcd(root / "duck/test/3_good.pcd", dict(zip("xyz", np.full((3, 5), np.nan, "f4"))))
    says(lambda: Real3D(root, split="test")[1], "duck/test/3_good.pcd", "no valid point")
    gt = root / "duck/gt/2_bulge.txt"
    gt.write_text("0 0 0\n1 1 1\n")
    says(lambda: Real3D(root, split="test")[0], "2_bulge.txt", "3 numbers a line")
    gt.write_text("0 0 0 one\n")
    says(lambda: Real3D(root, split="test")[0], "2_bulge.txt", "cannot be read")
    gt.rename(root / "duck/gt/20_bulge.txt")
    says(lambda: Real3D(root, split="test"), "2_bulge.pcd", "no label file among 20_bulge.txt", "gt/2_bulge.txt")
    (root / "duck/train/1_template.pcd").rename(root / "duck/train/1_scan.pcd")
    says(lambda: Real3D(root), "1_scan.pcd", "'template' or 'prototype'")


def test_nan_points_of_a_cloud_are_dropped(tmp_path):
    root = write_clouds(tmp_path, "duck", ["1_template"], {"2_good": None})
    points = sphere(20)[0]; points[3] = np.nan; points[4, 1] = np.inf
    write_pcd(root / "duck/train/1_template.pcd", dict(zip("xyz", points.T)) | {"rgb": np.arange(20, dtype="u4")})
    cloud = Real3D(root)[0]
    assert len(cloud) == 18 and len(cloud.labels) == len(cloud.colors) == 18
    np.testing.assert_allclose(cloud.colors[3] * 255, [0, 0, 5])    # the colours moved up with the points


# ---------------------------------------------------------------- Eyecandies

def test_eyecandies(tmp_path):
    root = write_eyecandies(tmp_path)
    train, test, private = (Eyecandies(root, split=s, size=None) for s in ("train", "test_public", "test_private"))
    assert [e.stem for e in train.entries] == ["000", "001"] and [e.stem for e in test.entries] == ["00", "01", "02"]
    assert test.defects == ["good", "bumps", "dents"] and [bool(s.mask.any()) for s in test] == [False, True, False] and [s.anomalous for s in test] == [False, True, True]
    assert private.defects == ["unknown"] and private[0].mask is None
    block = np.zeros((32, 32), bool); block[32 // 3:16, 32 // 3:16] = True
    assert (train[0].valid == block).all()                          # the belt is gone
    np.testing.assert_allclose(train[0].xyz[2][block], -0.02, atol=1e-5)        # 20 cm above the belt, a tenth of it, towards the lens
    assert np.ptp(train[0].xyz[0][block]) == pytest.approx(0.1 * 2.8 * 5 / (711.11 / 16), rel=1e-4)       # six columns at 2.8 m
    raw = Eyecandies(root, prepared=False, light=0)[0]
    assert raw.valid.all() and raw.rgb.max() > 2 * Eyecandies(root, prepared=False)[0].rgb.max()
    np.testing.assert_allclose(Eyecandies(root).normals(0)[:, 0, 0], [0, -0.6, -0.8], atol=0.01)    # leans away from us, faces up: towards the lens
    assert len(Eyecandies(root, split="test")) == 3 and Eyecandies(root, size=64)[0].size == (64, 64)


def test_eyecandies_without_metadata_asks_the_masks(tmp_path):
    root = write_eyecandies(tmp_path)
    for path in root.rglob("*_metadata.yaml"): path.unlink()
    assert Eyecandies(root, split="test").defects == ["good", "anomalous", "good"]


def test_bad_eyecandies(tmp_path):
    root = write_eyecandies(tmp_path)
    data = root / "CandyCane/train/data"
    Image.fromarray(np.zeros((32, 32), np.uint8)).save(data / "000_depth.png")
    says(lambda: Eyecandies(root)[0], "000_depth.png", "uint8 of shape (32, 32)", "16 bits")
    (data / "001_info_depth.yaml").write_text("normalization: {min: 1}")
    says(lambda: Eyecandies(root)[1], "001_info_depth.yaml", "found min 1, max None")
    (data / "001_info_depth.yaml").unlink()
    says(lambda: Eyecandies(root), "no 001_info_depth beside it")
    says(lambda: Eyecandies(root, "candy_cane"), "Did you mean 'CandyCane'?")
    says(lambda: Eyecandies(root, split="val"), "no capture in split 'val'")


# ---------------------------------------------------------------- real files

def test_real_mvtec_tire(tmp_path):
    tire = shared("mvtec3d_tire", "tire")
    shutil.copytree(tire, tmp_path / "tire", copy_function=shutil.copy)
    says(lambda: MVTec3D(tmp_path, split="test"), "without its file in xyz/")   # the real positions could not be had
    for path in tmp_path.glob("tire/*/*/rgb/*.png"):
        xyz = np.stack([*np.mgrid[:800, :600][::-1] * 0.0003, np.full((800, 600), 0.6)], -1)
        xyz[250:550, 150:450, 2] -= 0.03                            # a block on a table
        path.parents[1].joinpath("xyz").mkdir(exist_ok=True)
        tifffile.imwrite(path.parents[1] / "xyz" / f"{path.stem}.tiff", xyz.astype(np.float32), photometric="rgb")
    raw = MVTec3D(tmp_path, split="test", prepared=False)
    assert raw.defects == ["combined", "contamination", "cut", "good", "hole"] and raw[0].size == (800, 600)
    assert {s.defect: int(s.mask.sum()) for s in raw} == {"combined": 1348, "contamination": 650, "cut": 947, "good": 0, "hole": 683}   # ids 253, 254, 255
    ready = MVTec3D(tmp_path, split="test", size=800)[4]
    assert ready.size == (800, 800) and ready.mask.sum() == 683
    np.testing.assert_array_equal(ready.mask[:, 100:700], raw[4].mask)          # padded left and right
    np.testing.assert_array_equal(ready.rgb[:, :, 100:700], raw[4].rgb)
    np.testing.assert_array_equal(np.argwhere(ready.valid).min(0), [250, 250])
    assert ready.valid.sum() == 300 * 300 and len(MVTec3D(tmp_path)) == 3


def test_real_pcd_files():
    expected = {"bun0": 397, "car6": 10031, "colored_cloud": 1000, "ism_train_cat": 3400, "ism_train_horse": 3400, "milk": 12575, "milk_color": 13704, "points": 32087, "sac_plane_test": 3283}
    clouds = {name: read_pcd(shared("pcd", f"{name}.pcd")) for name in expected}
    assert {name: len(cloud) for name, cloud in clouds.items()} == expected
    for cloud in clouds.values(): assert np.isfinite(cloud.points).all() and np.ptp(cloud.points, axis=0).min() > 0.01
    np.testing.assert_allclose(clouds["bun0"].points[0], [0.0054215998, 0.11349, 0.040748999], rtol=1e-6)     # the first line of the file
    for name in ("bun0", "colored_cloud"): np.testing.assert_allclose(np.linalg.norm(clouds[name].normals, axis=1), 1, atol=1e-3)
    assert (clouds["colored_cloud"].width, clouds["colored_cloud"].height) == (1, 1000)
    for name in ("colored_cloud", "milk_color"): assert clouds[name].colors.std() > 0.05
    np.testing.assert_array_equal(clouds["milk"].colors, np.tile([0, 0, 1], (12575, 1)))        # painted blue


def test_real_organised_and_unorganised_kinect(tmp_path):
    cloud = read_pcd(shared("organised_rgbd", "learn", "learn0.pcd"))
    assert (cloud.width, cloud.height) == (640, 480) and cloud.fields["label"].dtype == np.uint32
    measured = np.isfinite(cloud.points).all(1)
    assert (measured == (cloud.fields["label"] > 0)).all()          # "label 0: all infinite (NaN) points"
    v, u = np.divmod(np.flatnonzero(measured), 640)                 # a pinhole camera: x/z is linear in the column
    x, y, z = cloud.points[measured].T
    assert np.corrcoef(x / z, u)[0, 1] > 0.999 and np.corrcoef(y / z, v)[0, 1] > 0.999
    loose = read_pcd(shared("organised_rgbd", "test", "test43.pcd"))
    assert (loose.width, loose.height) == (170986, 1) and np.isfinite(loose.points).all()
    root = kinect_to_mvtec(tmp_path, {"test/objects": ["learn/learn0"]})
    sample = MVTec3D(root, split="test", prepared=False)[0]
    assert (sample.valid == measured.reshape(480, 640)).all()
    np.testing.assert_array_equal(sample.cloud().points, cloud.points[measured])
    np.testing.assert_allclose(sample.cloud().colors, cloud.colors[measured], atol=1e-6)


def test_real_depth_frames_agree_with_each_other():
    frames = shared("rgbd_frames", "rgbd-frames")
    camera = np.loadtxt(shared("rgbd_frames", "camera-intrinsics.txt"))
    def read(name):
        depth = np.asarray(Image.open(frames / f"frame-{name}.depth.png")) / 1000.0
        return depth, np.linalg.inv(np.loadtxt(frames / f"frame-{name}.pose.txt"))              # the files hold camera to world
    (depth, pose), (other, other_pose) = read("000150"), read("000160")
    points = unproject(depth, camera[0, 0], pose, (camera[0, 2], camera[1, 2]))[:, depth > 0]
    x, y, z = other_pose[:3, :3] @ points + other_pose[:3, 3:]
    column, row = np.round(camera[0, 0] * x / z + camera[0, 2]).astype(int), np.round(camera[1, 1] * y / z + camera[1, 2]).astype(int)
    inside = (column >= 0) & (column < 640) & (row >= 0) & (row < 480) & (z > 0)
    seen = other[row[inside], column[inside]]
    difference = abs(seen - z[inside])[seen > 0]
    assert inside.mean() > 0.3 and np.median(difference) < 0.02     # metres; the pose used the wrong way round gives ten times that
    wrong = unproject(depth, camera[0, 0], np.linalg.inv(pose), (camera[0, 2], camera[1, 2]))[:, depth > 0]
    x, y, z = other_pose[:3, :3] @ wrong + other_pose[:3, 3:]
    column, row = (np.clip(np.round(585 * a / np.maximum(z, 0.1) + c), 0, n - 1).astype(int) for a, c, n in ((x, 320, 640), (y, 240, 480)))
    assert np.median(abs(other[row, column] - z)) > 0.1


def test_a_real_depth_png_as_eyecandies_depth(tmp_path):
    path = shared("rgbd_frames", "rgbd-frames", "frame-000150.depth.png")
    (tmp_path / "info.yaml").write_text("normalization: {min: 0.0, max: 65.535}")               # so that one step is one millimetre
    np.testing.assert_allclose(read_depth(path, tmp_path / "info.yaml"), np.asarray(Image.open(path)) / 1000.0, atol=1e-5)

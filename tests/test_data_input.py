"""Strangers' files: what is wrong with them is said, or they are read right. Nothing wrong passes in silence."""
import io
import lzma
import os
import struct
import subprocess
import sys
import warnings
import zlib
from dataclasses import replace

import numpy as np
import pytest
import tifffile
from layouts import scene, sphere, write_capture, write_clouds, write_eyecandies, write_mvtec, write_pcd, write_ply
from PIL import Image
from real_data import shared
from test_data_datasets import says

from mmad_nb.data import (AnomalyShapeNet, Cloud, Eyecandies, MVTec3D, Real3D, Sample, find_foreground, prepare, prepare_dataset, read_depth,
                          read_labelled_points, read_manifest, read_mask, read_pcd, read_ply, read_rgb, read_table, read_xyz, square, unproject)
from mmad_nb.data.clouds import lzf_decompress, near_origin, read_cloud
from mmad_nb.data.datasets import BrowsePanel, png_bits
from mmad_nb.data.prepare import find_table, fit_plane
from mmad_nb.data.sample import check_amount

SPOT = scene()[2]


@pytest.fixture
def root(tmp_path):
    return write_mvtec(tmp_path / "mvtec")


def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width, height, raw, bits=8, color=2, interlace=0):
    "A PNG whose pixels unpack to `raw`."
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, color, 0, 0, interlace)) + chunk(b"IDAT", zlib.compress(raw, 9)) + chunk(b"IEND", b"")


def peak(code):
    "Peak memory in MB of a Python that runs `code`, and what it printed; it may not take more than 6 GB. (getrusage would count what we hold ourselves.)"
    status = "[line.split()[1] for line in open('/proc/self/status') if line.startswith('VmHWM')]" if os.path.exists("/proc/self/status") else "[0]"
    code = f"import resource; resource.setrlimit(resource.RLIMIT_DATA, (6 << 30, 6 << 30))\n{code}\nprint(int({status}[0]) >> 10)"
    *said, memory = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, timeout=60).stdout.splitlines()
    return int(memory), "\n".join(said)


def refused(call):
    "Code that prints the DataError of a call."
    return f"from mmad_nb.data import *\nfrom mmad_nb.core.runtime import DataError\ntry: {call}; print('read')\nexcept DataError as error: print(error)"


# ---------------------------------------------------------------- masks

def test_masks_with_transparency_palette_and_many_depths(tmp_path):
    grey, opaque = Image.fromarray((SPOT * 255).astype(np.uint8)), Image.fromarray(np.full(SPOT.shape, 255, np.uint8))
    classes = Image.fromarray((SPOT * np.uint8(2)).astype(np.uint8)).convert("P")
    classes.putpalette([0, 0, 0, 0, 255, 0, 128, 0, 0] + [9, 9, 9] * 253)
    white_first = Image.fromarray((~SPOT).astype(np.uint8)).convert("P")                # index 0 is white: defective
    white_first.putpalette([255, 255, 255, 0, 0, 0] + [0] * 762)
    painted = Image.merge("RGBA", [opaque, opaque, opaque, grey])                       # white paint where defective, nothing elsewhere
    for name, picture in {"RGBA": Image.merge("RGBA", [grey, grey, grey, opaque]), "LA": Image.merge("LA", [grey, opaque]), "classes": classes,
                          "white first": white_first, "painted": painted, "1 bit": grey.convert("1"),
                          "16 bits": Image.fromarray(SPOT.astype(np.uint16) * 3)}.items():
        picture.save(tmp_path / "mask.png")
        assert (read_mask(tmp_path / "mask.png") == SPOT).all(), name


def test_masks_that_cannot_be_understood(tmp_path):
    path = tmp_path / "mask.png"
    black = Image.fromarray(np.zeros_like(SPOT, np.uint8))
    Image.merge("LA", [black, Image.fromarray((SPOT * 255).astype(np.uint8))]).save(path)
    says(lambda: read_mask(path), "mask.png", "black pixels, some of them transparent")
    Image.merge("LA", [black, black]).save(path)
    assert not read_mask(path).any()                                # nothing was painted at all
    Image.fromarray((SPOT * 255).astype(np.uint8)).save(path, "JPEG")
    says(lambda: read_mask(path), "JPEG smears")
    Image.fromarray(np.full((4, 4), 9, np.uint8)).save(path)
    with pytest.warns(UserWarning, match="marks every pixel"): read_mask(path)


# ---------------------------------------------------------------- photos

def test_photos_of_16_and_12_bits(tmp_path):
    path, values = tmp_path / "a.png", np.linspace(0, 65535, 60).astype(np.uint16).reshape(6, 10)
    Image.fromarray(values).save(path)
    np.testing.assert_allclose(read_rgb(path), np.repeat(values[None] / 65535, 3, 0), atol=1e-6)
    Image.fromarray(values // 16).save(path)
    says(lambda: read_rgb(path), "a.png", "16-bit photo whose largest value is 4095", "Multiply it by 16")
    colour = np.stack([values, values[::-1], values // 2], -1)
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in colour)
    path.write_bytes(png(10, 6, rows, 16))
    np.testing.assert_allclose(read_rgb(path).transpose(1, 2, 0), colour / 65535, atol=1 / 255)
    path.write_bytes(png(10, 6, b"".join(b"\0" + (row // 16).astype(">u2").tobytes() for row in colour), 16))
    says(lambda: read_rgb(path), "Is it a photo of 12 bits?")


@pytest.mark.parametrize("mode", ["RGBA", "L", "LA", "P", "1", "CMYK"])
def test_photos_in_other_modes(tmp_path, mode):
    picture = Image.fromarray(scene()[0]).convert(mode)
    path = tmp_path / ("a.jpg" if mode == "CMYK" else "a.png")
    picture.save(path)
    expected = np.asarray(Image.open(path).convert("RGB")).transpose(2, 0, 1) / 255
    np.testing.assert_allclose(read_rgb(path), expected, atol=1e-6)


def test_missing_rows_of_a_png(tmp_path):
    path, row = tmp_path / "a.png", b"\0" + bytes([200]) * 30
    path.write_bytes(png(10, 8, row * 8))
    assert read_rgb(path).shape == (3, 8, 10)
    for rows in (0, 1, 7):
        path.write_bytes(png(10, 8, row * rows))
        for read in (read_rgb, read_mask): says(lambda: read(path), "a.png", "cannot be read")
    assert png_bits(png(5, 3, b"\0" * 300, 1, 0)) == 1
    with pytest.raises(ValueError, match="5 of 6 bytes"): png_bits(png(5, 3, b"\0" * 5, 1, 0))


def test_interlaced_pngs_are_whole(tmp_path):
    """The seven passes of an 8 x 8 picture, one byte a pixel: rows x (1 + columns) = 2 + 2 + 3 + 6 + 10 + 20 + 36."""
    assert png_bits(png(8, 8, b"\0" * 79, 8, 0, 1)) == 8
    with pytest.raises(ValueError, match="78 of 79"): png_bits(png(8, 8, b"\0" * 78, 8, 0, 1))
    assert png_bits(png(1, 1, b"\0\0", 8, 0, 1)) == 8               # passes without pixels have no rows


def test_pictures_that_unpack_to_gigabytes(tmp_path):
    path = tmp_path / "bomb.png"
    path.write_bytes(png(13000, 13000, bytes(13001) * 13000, 8, 0))
    memory, said = peak(refused(f"read_rgb({str(path)!r})"))
    assert "bomb.png: found a size of 507,000,000 numbers" in said and memory < 300
    path.write_bytes(png(20, 20, bytes(300_000_000)))               # more pixels than it declares
    memory, said = peak(refused(f"read_rgb({str(path)!r})"))
    assert memory < 300


def test_the_limit_can_be_changed(monkeypatch, tmp_path):
    Image.fromarray(scene()[0]).save(tmp_path / "a.png")
    monkeypatch.setenv("MMAD_NB_MAX_NUMBERS", "10000")
    says(lambda: read_rgb(tmp_path / "a.png"), "10,800 numbers", "at most 10,000", "set MMAD_NB_MAX_NUMBERS higher")
    monkeypatch.setenv("MMAD_NB_MAX_NUMBERS", "10800")
    read_rgb(tmp_path / "a.png")
    monkeypatch.setenv("MMAD_NB_MAX_NUMBERS", "many")
    says(lambda: check_amount("x", 1), "MMAD_NB_MAX_NUMBERS", "'many'")


def test_a_picture_that_is_another_format(tmp_path):
    Image.fromarray(scene()[0]).save(tmp_path / "a.gif")
    (tmp_path / "a.gif").rename(tmp_path / "a.png")
    says(lambda: read_rgb(tmp_path / "a.png"), "a.png", "UnidentifiedImageError")


# ---------------------------------------------------------------- TIFF

XYZ = (np.random.default_rng(0).normal(1, 0.1, (20, 30, 3))).astype(np.float32)


@pytest.mark.parametrize("options", [{}, {"rowsperstrip": 7}, {"tile": (16, 16)}, {"compression": "zlib", "rowsperstrip": 7}, {"compression": "lzma"},
                                     {"compression": "zlib", "tile": (16, 32)}, {"byteorder": ">"}, {"bigtiff": True, "byteorder": ">", "rowsperstrip": 3}], ids=str)
@pytest.mark.parametrize("form", ["H x W x 3", "3 x H x W", "three pages", "a page for each row"])
def test_every_way_to_store_positions(tmp_path, options, form):
    path = tmp_path / "a.tiff"
    array, photometric = {"H x W x 3": (XYZ, "rgb"), "3 x H x W": (XYZ.transpose(2, 0, 1), "rgb"), "three pages": (XYZ.transpose(2, 0, 1), "minisblack"),
                          "a page for each row": (XYZ, "minisblack")}[form]
    tifffile.imwrite(path, np.ascontiguousarray(array), photometric=photometric, **options)
    np.testing.assert_array_equal(read_xyz(path)[0].transpose(1, 2, 0), XYZ)


def test_big_endian_double_and_long_double(tmp_path):
    for dtype in ("f8", ">f8"):
        tifffile.imwrite(tmp_path / "a.tiff", XYZ.astype(dtype), photometric="rgb")
        xyz, _ = read_xyz(tmp_path / "a.tiff")
        assert xyz.dtype == np.float32
        np.testing.assert_array_equal(xyz.transpose(1, 2, 0), XYZ)
    Image.fromarray(XYZ[..., 0]).save(tmp_path / "lzw.tiff", compression="tiff_lzw")
    says(lambda: read_xyz(tmp_path / "lzw.tiff"), "LZW compression", "Install imagecodecs")
    tifffile.imwrite(tmp_path / "four.tiff", np.dstack([XYZ, XYZ[..., :1]]), photometric="minisblack", planarconfig="contig")
    says(lambda: read_xyz(tmp_path / "four.tiff"), "float32 of shape (20, 30, 4)", "the first three channels? Save those alone")
    tifffile.imwrite(tmp_path / "mm.tiff", (XYZ * 1000).astype(np.uint16), photometric="rgb")
    says(lambda: read_xyz(tmp_path / "mm.tiff"), "uint16", "Convert the numbers to metres")


def entries_of(data):
    "Tag -> where its 12 bytes lie, of a little-endian TIFF."
    first, = struct.unpack_from("<I", data, 4)
    count, = struct.unpack_from("<H", data, first)
    return {struct.unpack_from("<H", data, first + 2 + 12 * i)[0]: first + 2 + 12 * i for i in range(count)}


@pytest.mark.parametrize("options", [{"rowsperstrip": 5}, {"rowsperstrip": 5, "compression": "zlib"}, {"tile": (16, 16)}, {"tile": (16, 16), "compression": "zlib"}], ids=str)
def test_missing_strips_and_tiles(tmp_path, options):
    path, file = tmp_path / "a.tiff", io.BytesIO()
    tifffile.imwrite(file, XYZ, photometric="rgb", **options)
    whole = file.getvalue()
    tags = entries_of(whole)
    for tag in [t for t in (273, 279, 324, 325) if t in tags]:      # offsets and byte counts of strips and tiles
        at, = struct.unpack_from("<I", whole, tags[tag] + 8)
        size = 4 if struct.unpack_from("<H", whole, tags[tag] + 2)[0] == 4 else 2
        data = bytearray(whole); data[at:at + size] = bytes(size)   # the first one is gone
        path.write_bytes(data)
        says(lambda: read_xyz(path), "a.tiff", "cannot be read", "copy or download it again")
        data = bytearray(whole); struct.pack_into("<I", data, tags[tag] + 4, 1)     # the list ends after one
        path.write_bytes(data)
        says(lambda: read_xyz(path), "a.tiff", "cannot be read")


def test_a_strip_that_unpacks_to_something_else(tmp_path):
    path = tmp_path / "a.tiff"
    for compression, pack in (("zlib", zlib.compress), ("lzma", lzma.compress)):
        tifffile.imwrite(path, XYZ, photometric="rgb", compression=compression)
        with tifffile.TiffFile(path) as file: offset, count = file.pages[0].dataoffsets[0], file.pages[0].databytecounts[0]
        for amount in (XYZ.nbytes - 4, XYZ.nbytes + 4, 300_000_000 if compression == "zlib" else 3_000_000):
            data = path.read_bytes()[:offset] + pack(bytes(amount))
            at = entries_of(data)[279]
            data = bytearray(data); struct.pack_into("<HII", data, at + 2, 4, 1, len(data) - offset)
            (tmp_path / "b.tiff").write_bytes(data)
            memory, said = peak(refused(f"read_xyz({str(tmp_path / 'b.tiff')!r})")) if amount > 10**8 else (0, None)
            assert memory < 300
            says(lambda: read_xyz(tmp_path / "b.tiff"), "strip 0 has")


def test_a_tiff_that_declares_gigabytes(tmp_path):
    path = tmp_path / "a.tiff"
    tifffile.imwrite(path, np.zeros((6000, 6000, 3), np.float32), photometric="rgb", compression="zlib")
    memory, said = peak(refused(f"read_xyz({str(path)!r})"))
    assert "found a size of 108,000,000 numbers" in said and memory < 300
    tifffile.imwrite(path, XYZ, photometric="rgb", tile=(16, 16))
    data = bytearray(path.read_bytes())
    for tag in (322, 323): struct.pack_into("<HII", data, entries_of(data)[tag] + 2, 4, 1, 2**20)    # tiles of 2^20 x 2^20
    path.write_bytes(data)
    says(lambda: read_xyz(path), "a.tiff")


def test_a_tiff_that_names_another_file(tmp_path):
    other = tmp_path / "other" / "secret.tiff"
    other.parent.mkdir()
    tifffile.imwrite(other, XYZ * 0 + 42, photometric="rgb", metadata=None)
    ome = f"""<?xml version="1.0"?><OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06" UUID="urn:uuid:1"><Image ID="Image:0"><Pixels ID="Pixels:0" DimensionOrder="XYCZT"
    SizeX="30" SizeY="20" SizeC="3" SizeZ="1" SizeT="1" Type="float"><Channel ID="c" SamplesPerPixel="3"/><TiffData IFD="0" PlaneCount="1"><UUID FileName="{other}">urn:uuid:2</UUID></TiffData></Pixels></Image></OME>"""
    tifffile.imwrite(tmp_path / "a.tiff", XYZ, photometric="rgb", description=ome, metadata=None)
    np.testing.assert_array_equal(read_xyz(tmp_path / "a.tiff")[0].transpose(1, 2, 0), XYZ)


def test_absurd_and_far_coordinates(tmp_path):
    path = tmp_path / "a.tiff"
    for array, word in ((XYZ * np.float32(1e37), "coordinates up to"), (XYZ.astype(np.float64) * 1e300, "coordinates up to"),
                        (XYZ.astype(np.float64) / 20 + [492818, 5527515, 120], "Subtract the position of the sensor"),
                        ((XYZ / 20 + np.float32([0, 90000, 0])).astype(np.float32), "Subtract the position of the sensor")):
        tifffile.imwrite(path, array, photometric="rgb")
        says(lambda: read_xyz(path), "a.tiff", word)
    tifffile.imwrite(path, XYZ * 1000, photometric="rgb")           # millimetres are fine for the reader
    read_xyz(path)


def test_a_file_cut_off_while_it_is_read(tmp_path):
    path = tmp_path / "a.tiff"
    tifffile.imwrite(path, XYZ, photometric="rgb")
    xyz, _ = read_xyz(path)
    write_pcd(tmp_path / "a.pcd", dict(zip("xyz", sphere(50)[0].T)), "binary")
    cloud = read_pcd(tmp_path / "a.pcd")
    for name in ("a.tiff", "a.pcd"): os.truncate(tmp_path / name, 0)
    assert np.isfinite(xyz).all() and np.isfinite(cloud.points).all()      # nothing maps the file into memory


# ---------------------------------------------------------------- names of files

def test_endings_in_capitals_and_jpeg(root):
    folder = root / "bagel/train/good"
    (folder / "rgb/001.png").rename(folder / "rgb/001.PNG")
    (folder / "xyz/001.tiff").rename(folder / "xyz/001.TIFF")
    Image.open(folder / "rgb/002.png").save(folder / "rgb/002.jpeg")
    (folder / "rgb/002.png").unlink()
    (folder / "xyz/002.tiff").rename(folder / "xyz/002.TIF")
    assert [e.stem for e in MVTec3D(root).entries] == ["000", "001", "002"] and MVTec3D(root, size=32)[2].size == (32, 32)


@pytest.mark.parametrize("kind,name", [("rgb", "001.bmp"), ("rgb", "001.webp"), ("xyz", "001.exr"), ("xyz", "001.npy"), ("xyz", "001.png")])
def test_a_capture_in_another_format_is_named(root, kind, name):
    folder = root / "bagel/train/good"
    next((folder / kind).glob("001.*")).rename(folder / kind / name)
    says(lambda: MVTec3D(root), "capture 001 without its file in " + kind, name)


def test_a_capture_whose_files_all_have_other_endings_is_not_passed_over(root):
    folder = root / "bagel/train/good"
    (folder / "rgb/001.png").rename(folder / "rgb/001.bmp"), (folder / "xyz/001.tiff").rename(folder / "xyz/001.exr")
    says(lambda: MVTec3D(root), "capture 001", "001.bmp")


def test_nothing_but_other_files(root):
    for path in root.glob("bagel/train/good/*"): path.rename(path.with_name(path.name.upper()))
    says(lambda: MVTec3D(root), "train/good", "RGB, XYZ", "folders rgb, xyz")
    clouds = write_clouds(root / "clouds", "toy", ["toy_template0"], {"toy_good": None})
    for path in clouds.rglob("*.pcd"): path.rename(path.with_suffix(".asc"))
    says(lambda: Real3D(clouds), "toy_template0.asc", "a cloud as .asc", "PCD or PLY")
    for path in clouds.rglob("*.asc"): path.rename(path.with_suffix(".dat"))
    says(lambda: Real3D(clouds), "only files such as toy_template0.dat", ".pcd, .ply")


@pytest.mark.parametrize("kind,other", [("rgb", "000.jpg"), ("rgb", "000.PNG"), ("xyz", "000.tif")])
def test_two_files_for_one_capture(root, kind, other):
    folder = root / "bagel/train/good" / kind
    (folder / other).write_bytes(next(folder.glob("000.*")).read_bytes())
    says(lambda: MVTec3D(root), str(folder), "000.", other, "one file for each capture")


def test_a_mask_without_its_capture(root):
    for kind in ("rgb", "xyz"): next((root / "bagel/test/hole" / kind).glob("001.*")).unlink()
    says(lambda: MVTec3D(root, split="test"), "capture 001 without its file in rgb/")


def test_hidden_companions(root, tmp_path):
    candy, clouds = write_eyecandies(tmp_path / "candy"), write_clouds(tmp_path / "clouds", "ashtray0", ["ashtray0_template0"], {"ashtray0_concavity0": "ashtray0_sink0"}, "GT", ",")
    roots = [(MVTec3D, root), (Eyecandies, candy), (AnomalyShapeNet, clouds)]
    counts = [[len(reader(folder, split=split)) for split in ("train", "test")] for reader, folder in roots]
    for _, folder in roots:
        for path in [p for p in folder.rglob("*") if p.is_file()]: (path.parent / f"._{path.name}").write_bytes(b"\0\5\x16\7")
        (folder / ".Trash").mkdir()
    assert counts == [[len(reader(folder, split=split)) for split in ("train", "test")] for reader, folder in roots]


def test_capitals_of_folders_and_of_good(root):
    (root / "bagel/test/good").rename(root / "bagel/test/Good")
    assert MVTec3D(root, split="test").defects == ["good", "hole", "hole", "stain"]


def test_gt_and_GT(tmp_path):
    for reader, gt, other in ((Real3D, "gt", "GT"), (AnomalyShapeNet, "GT", "gt")):
        root = write_clouds(tmp_path / gt, "vase0", ["vase0_template0"], {"vase0_bulge0": "vase0_bulge0"}, gt)
        (root / "vase0" / other).symlink_to(gt)                     # what a file system that ignores capitals shows
        assert reader(root, split="test")[0].labels.any()
        (root / "vase0" / other).unlink()
        (root / "vase0" / other).mkdir()
        (root / "vase0" / other / "vase0_bulge0.txt").write_text("0 0 0 1\n")
        says(lambda: reader(root, split="test"), "vase0_bulge0", "one label file for each cloud")
        (root / "vase0" / other / "vase0_bulge0.txt").rename(root / "vase0" / other / "vase0_sink0.TXT")
        assert reader(root, split="test").defects == ["bulge"]


def test_a_category_that_sounds_like_a_template(tmp_path):
    root = write_clouds(tmp_path, "temple0", ["temple0_template0"], {"temple0_bulge0": "temple0_bulge0", "temple0_positive0": None})
    assert Real3D(root, split="test").defects == ["bulge", "good"] and len(Real3D(root)) == 1


# ---------------------------------------------------------------- point clouds

def pcd_text(**changes):
    header = {"VERSION": "0.7", "FIELDS": "x y z", "SIZE": "4 4 4", "TYPE": "F F F", "COUNT": "1 1 1", "WIDTH": "4", "HEIGHT": "1", "VIEWPOINT": "0 0 0 1 0 0 0", "POINTS": "4", "DATA": "ascii"}
    body = changes.pop("body", "1 2 3\n4 5 6\n7 8 9\n1 1 1\n")
    return ("".join(f"{key} {value}\n" for key, value in {**header, **changes}.items()).encode() + (body if isinstance(body, bytes) else body.encode()))


@pytest.mark.parametrize("changes,words", [
    ({"POINTS": "abc"}, "POINTS abc"), ({"POINTS": "1e9"}, "POINTS 1e9"), ({"POINTS": ""}, "POINTS"), ({"HEIGHT": ""}, "no HEIGHT"), ({"HEIGHT": "0"}, "HEIGHT 0"),
    ({"WIDTH": "-4", "HEIGHT": "-1"}, "WIDTH -4"), ({"WIDTH": "-1", "POINTS": "-1"}, "WIDTH -1"), ({"VIEWPOINT": "a"}, "VIEWPOINT"), ({"SIZE": "4 4 16"}, "one F, I or U"),
    ({"WIDTH": str(10**26), "POINTS": str(10**26), "DATA": "binary"}, "WIDTH 1000"), ({"WIDTH": "99999999999", "POINTS": "99999999999", "DATA": "binary"}, "299,999,999,997 numbers"),
    ({"COUNT": f"{2**63} 1 1", "DATA": "binary_compressed"}, "COUNT"), ({"COUNT": "0 1 1"}, "COUNT"), ({"COUNT": "-1 1 1"}, "COUNT"),
    ({"FIELDS": "a y z"}, "the fields a, y, z"), ({"FIELDS": "x y y"}, "two fields called y"), ({"FIELDS": "x X z"}, "two fields called x"),
    ({"COUNT": "2 1 1", "body": "1 2 3 4\n" * 4}, "2 numbers a point in x"), ({"FIELDS": "vfh", "SIZE": "4", "TYPE": "F", "COUNT": "3"}, "the fields vfh"),
    ({"FIELDS": "x y z rgb", "SIZE": "4 4 4 1", "TYPE": "F F F U", "COUNT": "1 1 1 1", "body": "1 2 3 4\n" * 4}, "one number of 4 bytes"),
    ({"FIELDS": "x y z rgb", "SIZE": "4 4 4 8", "TYPE": "F F F F", "COUNT": "1 1 1 1", "body": "1 2 3 4\n" * 4}, "one number of 4 bytes"),
    ({"FIELDS": "x y z n", "SIZE": "4 4 4 1", "TYPE": "F F F U", "COUNT": "1 1 1 1", "body": "1 2 3 256\n" * 4}, "no uint8"),
    ({"FIELDS": "x y z n", "SIZE": "4 4 4 4", "TYPE": "F F F U", "COUNT": "1 1 1 1", "body": "1 2 3 -1\n" * 4}, "no uint32"),
    ({"FIELDS": "x y z n", "SIZE": "4 4 4 4", "TYPE": "F F F I", "COUNT": "1 1 1 1", "body": "1 2 3 nan\n" * 4}, "no int32"),
    ({"body": "1 2 3 4\n5 6\n7 8 9\n1 1 1\n"}, "numbers that do not fit the header"), ({"body": "1 2 3\n" * 5}, "5 lines"), ({"body": "1 2 " + "9" * 10**6 + "\n" + "1 2 3\n" * 3}, "an endless line"),
    ({"DATA": "binary", "body": bytes(60)}, "60 bytes instead of 48"), ({"DATA": "binary", "body": bytes(47)}, "47 bytes instead of 48"),
    ({"DATA": "binary_compressed", "body": struct.pack("<2I", 2, 4000) + b"\0a"}, "4000 bytes after unpacking instead of 48"),
    ({"DATA": "binary_compressed", "body": struct.pack("<2I", 3, 48) + b"\x00a\xe0"}, "cut off"), ({"DATA": "binary_compressed", "body": b"abc"}, "numbers that do not fit"),
], ids=lambda value: str(value)[:40])
def test_pcd_headers_that_make_no_sense(tmp_path, changes, words):
    (tmp_path / "a.pcd").write_bytes(pcd_text(**changes))
    says(lambda: read_cloud(tmp_path / "a.pcd"), *(() if words.startswith("one number") else ("a.pcd",)), words)


def test_pcd_headers_that_are_only_odd(tmp_path):
    path, expected = tmp_path / "a.pcd", [[1, 2, 3], [4, 5, 6], [7, 8, 9], [1, 1, 1]]
    plain, rows = pcd_text(), np.float32(expected).tobytes()
    for name, data in {"capitals": plain.replace(b"x y z", b"X Y Z"), "long": b"# comment\n" * 5000 + plain, "Windows": plain.replace(b"\n", b"\r\n"), "old": plain.replace(b"FIELDS", b"COLUMNS"),
                       "DATA in capitals": plain.replace(b"ascii", b"ASCII"), "no line end": plain[:-1], "doubles": plain.replace(b"SIZE 4 4 4", b"SIZE 8 4 8"),
                       "whole numbers": plain.replace(b"TYPE F F F", b"TYPE I I U"), "binary, Windows": pcd_text(DATA="binary\r", body=rows), "a line end too much": pcd_text(DATA="binary", body=rows + b"\n")}.items():
        path.write_bytes(data)
        cloud = read_cloud(path)
        assert (cloud.points == expected).all() and cloud.points.dtype == np.float32, name
    gt = tmp_path / "gt.txt"
    np.savetxt(gt, np.c_[np.float32(expected), [0, 1, 0, 1]])
    path.write_bytes(b"# comment\n" * 5000 + plain)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert read_cloud(path, gt).labels.tolist() == [False, True, False, True]


def test_colours_in_their_many_forms(tmp_path):
    red_blue = [[1, 0, 0], [0, 0, 1]]
    forms = {"packed": {"rgb": np.array([0xFF0000, 0xFF], np.uint32)}, "packed as float": {"rgb": np.array([0xFF0000, 0xFF], np.uint32).view("f4")}, "signed": {"rgba": np.array([-65536, -16776961], np.int32)},
             "the number as float": {"rgb": np.array([16711680, 255], np.float32)}, "bytes": dict(zip("rgb", np.array([[255, 0], [0, 0], [0, 255]], np.uint8))),
             "floats": dict(zip(("red", "green", "blue"), np.array([[1, 0], [0, 0], [0, 1]], np.float32))), "16 bits": dict(zip("RGB", np.array([[65535, 0], [0, 0], [0, 65535]], np.uint16)))}
    for name, colors in forms.items():
        for data in ("ascii", "binary"):
            write_pcd(tmp_path / "a.pcd", dict(zip("xyz", np.float32([[1, 2], [3, 4], [5, 6]]))) | colors, data)
            np.testing.assert_allclose(read_cloud(tmp_path / "a.pcd").colors, red_blue, atol=1e-6, err_msg=name)
    write_pcd(tmp_path / "a.pcd", dict(zip("xyz", np.float32([[1, 2], [3, 4], [5, 6]]))) | dict(zip("rgb", np.float32([[300, 0], [0, 0], [0, 1]]))))
    says(lambda: read_cloud(tmp_path / "a.pcd"), "colours from 0.0 to 300.0")


def test_normals_have_length_one_or_are_not_used(tmp_path):
    normals = np.float32([[0, 0, 2], [3, 4, 0]])
    columns = dict(zip("xyz", np.float32([[1, 2], [3, 4], [5, 6]])))
    for names in (("normal_x", "normal_y", "normal_z"), ("nx", "ny", "nz")):
        write_pcd(tmp_path / "a.pcd", columns | dict(zip(names, normals.T)))
        np.testing.assert_allclose(read_cloud(tmp_path / "a.pcd").normals, [[0, 0, 1], [0.6, 0.8, 0]], atol=1e-6)
    write_pcd(tmp_path / "a.pcd", columns | dict(zip(names, 0 * normals.T)))
    with pytest.warns(UserWarning, match="some normals are zero"): assert read_cloud(tmp_path / "a.pcd").normals is None


@pytest.mark.parametrize("data", ["ascii", "binary_little_endian", "binary_big_endian"])
@pytest.mark.parametrize("lists", [False, True])
def test_ply_encodings(tmp_path, data, lists):
    points = sphere(30)[0]
    write_ply(tmp_path / "a.ply", points, data, lists)
    table = read_table(tmp_path / "a.ply")
    np.testing.assert_array_equal(table.points, points)
    assert sorted(table.fields) == ["blue", "extra", "green", "red", "x", "y", "z"] and table.fields["extra"].tolist() == list(range(30)) and len(table) == 30
    assert table.fields["extra"].dtype == np.uint16 and table.fields["y"].dtype == np.float64
    np.testing.assert_allclose(table.colors * 255, [[i, 0, 255] for i in range(30)], atol=1e-4)
    whole, stop = (tmp_path / "a.ply").read_bytes(), 40
    for size in range(0, len(whole) - stop, 43):
        (tmp_path / "a.ply").write_bytes(whole[:size])
        says(lambda: read_table(tmp_path / "a.ply"), "a.ply: found")


@pytest.mark.parametrize("old,new,words", [(b"element vertex 30", b"element vertex 31", "31 points"), (b"element vertex 30", b"element vertex -1", "element vertex -1"), (b"element vertex 30", b"element vertex 0", "points in one `vertex`"),
                                           (b"element vertex 30", b"element vertex 99999999999", "numbers"), (b"property float x", b"property float128 x", "property float128 x"), (b"property float z", b"property float x", "two fields called x"),
                                           (b"format ascii 1.0\n", b"", "end_header"), (b"end_header", b"end", "'end' in the header"), (b"element vertex", b"element points", "elements points, face")])
def test_ply_headers_that_make_no_sense(tmp_path, old, new, words):
    write_ply(tmp_path / "a.ply", sphere(30)[0])
    (tmp_path / "a.ply").write_bytes((tmp_path / "a.ply").read_bytes().replace(old, new))
    says(lambda: read_ply(tmp_path / "a.ply"), "a.ply", words)


def test_real3d_as_ply(tmp_path):
    root = write_clouds(tmp_path, "toy", ["toy_template0"], {"toy_good": None, "toy_bulge": "toy_bulge"})
    expected = [len(cloud) for split in ("train", "test") for cloud in Real3D(root, split=split)]
    for path in root.rglob("*.pcd"):
        write_ply(path.with_suffix(".PLY"), read_pcd(path).points, "binary_big_endian")
        path.unlink()
    assert [len(cloud) for split in ("train", "test") for cloud in Real3D(root, split=split)] == expected
    write_pcd(root / "toy/train/toy_template0.pcd", dict(zip("xyz", sphere()[0].T)))
    says(lambda: Real3D(root), "toy_template0.PLY and toy_template0.pcd")


def test_a_real_ply_file():
    mesh = read_table(shared("meshes_cad", "cycloidal.ply"))
    assert len(mesh) == 21384 and np.isfinite(mesh.points).all() and np.ptp(mesh.points, axis=0).min() > 0.001 and mesh.colors.shape == (21384, 3)
    says(lambda: read_table(shared("meshes_cad", "featuretype.STL")), "featuretype.STL")


def test_clouds_far_from_the_origin(tmp_path):
    near = np.random.default_rng(0).uniform(0, 0.05, (400, 3))
    far = near + [492818, 5527515, 120]
    write_pcd(tmp_path / "a.pcd", dict(zip("xyz", far.T)), "binary")
    np.savetxt(tmp_path / "a.txt", np.c_[far, np.zeros(400)], "%.7f")
    for read in (lambda: read_cloud(tmp_path / "a.pcd").points, lambda: read_labelled_points(tmp_path / "a.txt")[0]):
        with pytest.warns(UserWarning, match="5527515.* was subtracted"): points = read()
        np.testing.assert_allclose(points - points.mean(0), near - near.mean(0), atol=1e-6)
    write_pcd(tmp_path / "a.pcd", dict(zip("xyz", far.T.astype(np.float32))), "binary")
    says(lambda: read_cloud(tmp_path / "a.pcd"), "a.pcd", "in double precision")         # the detail is lost in the file
    write_pcd(tmp_path / "a.pcd", dict(zip("xyz", 1e30 * near.T)), "binary")
    says(lambda: read_cloud(tmp_path / "a.pcd"), "a.pcd", "coordinates up to")
    shifted = near_origin(np.concatenate([far, np.full((1, 3), np.nan)]))
    assert shifted.shape == (401, 3) and np.isnan(shifted[-1]).all()


@pytest.mark.parametrize("row", ["nan 2 3 1", "inf 2 3 1", "1e400 2 3 1"])
def test_label_rows_without_a_place(tmp_path, row):
    (tmp_path / "gt.txt").write_text(f"1 2 3 0\n2 2 3 1\n{row}\n")
    with pytest.warns(UserWarning, match="gt.txt: 1 rows without finite coordinates are left out, 1 of them defective"): points, labels = read_labelled_points(tmp_path / "gt.txt")
    assert len(points) == 2 and labels.tolist() == [False, True]


@pytest.mark.parametrize("text,words", [("1 2 3 nan\n", "the label nan"), ("1 2 3 -1\n", "the label -1"), ("1 2 3 0.5\n", "the label 0.5"), ("1 2 3 7\n", "the label 7"), ("", "an empty file"), ("\n \n", "an empty file"),
                                        ("1 2 " + "9" * 10**6 + " 1\n", "an endless line"), ("nan 0 0 1\n", "no valid point"), ("1 2 3\n", "3 numbers a line"), ("1;2;3;1\n", "cannot be read")])
def test_labels_that_are_none(tmp_path, text, words):
    (tmp_path / "gt.txt").write_text(text)
    says(lambda: read_labelled_points(tmp_path / "gt.txt"), "gt.txt", words)


def test_a_byte_order_mark_and_windows_lines(tmp_path):
    (tmp_path / "gt.txt").write_bytes(b"\xef\xbb\xbf1, 2, 3, 0\r\n4, 5, 6, 1\r\n")
    points, labels = read_labelled_points(tmp_path / "gt.txt")
    assert points.tolist() == [[1, 2, 3], [4, 5, 6]] and labels.tolist() == [False, True]


def test_lzf_stops_at_the_declared_size():
    bomb = b"\0a" + b"\xe0\xff\0" * 1_000_000                        # 264 bytes out of 3
    with pytest.raises(ValueError, match="instead of 10"): lzf_decompress(bomb, 10)


# ---------------------------------------------------------------- Eyecandies

def candy(root):
    return root / "CandyCane/test_public/data"


@pytest.mark.parametrize("text", [b"", b"- bumps\n", b"anomalous: [1\n", b"\0\0\0\0", b"anomalous: 1 # \xe9\n", b"colors:00\nbumps: 1\n", b"hello", b"5", b"a: 1\n---\nb: 1\n", b"? [a]\n: 1\n", b"[" * 3000, b"bumps: " + b"9" * 4000,
                                  b"!!python/object/apply:os.system ['true']", b"anomalous: \n", b"anomalous: 2\n", b"anomalous: 0\nbumps: 1\n", b"other: 1\n", b"bumps: yes please\n", b"a: &a [1]\nb: *a\n"], ids=lambda t: repr(t[:20]))
def test_metadata_that_says_nothing(tmp_path, text):
    root = write_eyecandies(tmp_path)
    (candy(root) / "01_metadata.yaml").write_bytes(text)
    says(lambda: Eyecandies(root, split="test"), "01_metadata.yaml")


def test_long_yaml_is_not_parsed(tmp_path):
    root = write_eyecandies(tmp_path)
    for name in ("00_metadata.yaml", "00_info_depth.yaml"):
        (candy(root) / name).write_text("- a\n" * 200_000)
        says(lambda: Eyecandies(root, split="test")[0], name, "800000 bytes instead of about a hundred")
        (candy(root) / "00_metadata.yaml").write_text("anomalous: 0\n")


def depth_files(folder, low, high, numbers=((0, 65535),)):
    Image.fromarray(np.array(numbers, np.uint16)).save(folder / "d.png")
    (folder / "d.yaml").write_text(f"normalization: {{min: {low}, max: {high}}}")
    return folder / "d.png", folder / "d.yaml"


def test_the_ends_of_the_depth_range_are_exact(tmp_path):
    depth = read_depth(*depth_files(tmp_path, 2, 4))
    assert depth.tolist() == [[2, 4]]                                # dividing by 65536 gives 3.99997
    np.testing.assert_allclose(read_depth(*depth_files(tmp_path, 0, 65.535, [[1000, 20000]])), [[1, 20]], rtol=1e-6)


@pytest.mark.parametrize("low,high", [(4, 2), (2, 2), (-5, -1), ("true", "false"), (0, 1e30), (0, ".inf"), (".nan", 2), ("a", "b"), ("[1]", 2)])
def test_depth_ranges_that_are_none(tmp_path, low, high):
    says(lambda: read_depth(*depth_files(tmp_path, low, high)), "d.yaml", "0 <= min < max < 1000")


def test_poses_that_are_none(tmp_path):
    root = write_eyecandies(tmp_path)
    path = candy(root) / "00_pose.txt"
    pose = np.loadtxt(path)
    for bad in (pose * 0, pose * 1e30, pose * 1.1, pose * np.nan, pose[:3], pose + np.eye(4) * 0.2):
        np.savetxt(path, bad)
        says(lambda: Eyecandies(root, split="test")[0], "00_pose.txt", "a rotation, a shift in metres")
    turned = np.eye(4); turned[:3, :3] = np.linalg.qr(np.random.default_rng(0).normal(size=(3, 3)))[0]
    np.savetxt(path, turned)
    from mmad_nb.data.eyecandies import read_pose
    np.testing.assert_allclose(read_pose(path), turned)


def test_candies_without_anything_on_the_belt(tmp_path):
    root = write_eyecandies(tmp_path)
    Image.fromarray(np.full((32, 32), 30000, np.uint16)).save(candy(root) / "00_depth.png")
    says(lambda: Eyecandies(root, split="test")[0], "00_depth.png", "no point above the belt")
    (candy(root) / "00_info_depth.yaml").write_text("normalization: {min: 0, max: 2}")
    Image.fromarray(np.zeros((32, 32), np.uint16)).save(candy(root) / "00_depth.png")
    says(lambda: Eyecandies(root, split="test", prepared=False)[0], "00_depth.png", "no point above the belt")


def test_candies_whose_files_disagree_or_are_missing(tmp_path):
    root = write_eyecandies(tmp_path)
    folder = candy(root)
    Image.fromarray(np.full((32, 32), 9, np.uint8)).save(folder / "00_mask.png")
    with pytest.warns(UserWarning, match="called good, and its mask marks 1024 pixels"): Eyecandies(root, split="test")[0]
    Image.fromarray(np.zeros((16, 32), np.uint8)).save(folder / "00_mask.png")
    says(lambda: Eyecandies(root, split="test")[0], "00_mask.png", "16 x 32 pixels", "32 x 32 as in")
    (folder / "01_mask.png").rename(folder / "01_mask.bmp")
    says(lambda: Eyecandies(root, split="test"), "01_depth.png", "no 01_mask beside it")
    (folder / "01_mask.bmp").rename(folder / "01_mask.png")
    (folder / "02_depth.png").rename(folder / "02_depth.exr")
    says(lambda: Eyecandies(root, split="test"), "no 02_depth beside it (but 02_depth.exr)")
    (folder / "02_depth.exr").rename(folder / "02_depth.PNG")
    (folder / "00_mask.png").unlink(), (folder / "README.txt").write_text("read_me"), (folder / "read_me.txt").write_text("")
    assert Eyecandies(root, split="test").defects == ["good", "bumps", "dents"]
    (folder / "02_depth.png").write_bytes((folder / "02_depth.PNG").read_bytes())
    says(lambda: Eyecandies(root, split="test"), "02_depth.PNG and 02_depth.png")
    (folder / "02_depth.png").unlink(), (folder / "00_normals.png").unlink()
    says(lambda: Eyecandies(root, split="test").normals(0), "no picture of normals")
    for light in (6, -1, "4"): says(lambda: Eyecandies(root, light=light), "light", "0 to 5")


@pytest.mark.parametrize("options", [{"focal": 0}, {"focal": -1}, {"focal": float("nan")}, {"focal": "7"}, {"pose": np.eye(3)}, {"pose": np.eye(4) * np.nan}, {"center": (1, 2, 3)}, {"depth": np.ones(4)}], ids=str)
def test_unproject_checks_its_arguments(options):
    says(lambda: unproject(**{"depth": np.ones((4, 4)), **options}), *options)


# ---------------------------------------------------------------- arguments

def test_sizes_and_settings_are_checked_before_anything_is_read(root):
    for size in (0, -1, "224", 2.5, True, 100_000): says(lambda: MVTec3D(root, size=size), "size")
    for size in (0, -1, "224", 100_000):
        says(lambda: square(MVTec3D(root, prepared=False)[0], size), "size")
        says(lambda: Eyecandies(root, size=size), "size")
    for settings, word in (({"epps": 1}, "Did you mean 'eps'?"), ({"seed": -1}, "seed"), ({"threshold": -1}, "threshold"), ({"border": -3}, "border"), ({"border": 2.5}, "border"), ({"eps": float("nan")}, "eps"),
                           ({"eps": float("inf")}, "eps"), ({"distance": "5"}, "distance"), ({"min_points": 0}, "min_points"), ({"remove_plane": "no"}, "remove_plane"), ({"prepared": "no"}, "prepared")):
        says(lambda: MVTec3D(root, **settings), word)
    says(lambda: MVTec3D(root, remove_plane=False, eps=1), "settings ['eps']", "no object is looked for")
    says(lambda: MVTec3D(root, prepared=False, eps=1), "settings ['eps']")
    says(lambda: prepare(MVTec3D(root, prepared=False)[0], remove_plane=False, eps=1), "no effect")
    says(lambda: prepare_dataset(root, root.parent / "p", epps=1), "Did you mean 'eps'?")
    says(lambda: prepare_dataset(root, root.parent / "p", size="x"), "size")
    assert not (root.parent / "p").exists()


def test_roots_and_categories(root, tmp_path):
    long = str(tmp_path / ("x" * 300))
    for reader in (MVTec3D, Eyecandies, Real3D, AnomalyShapeNet):
        for bad in (None, 3, ["a"]): says(lambda: reader(bad), "root")
        says(lambda: reader(long), "no such folder")
    for category in (3, [], {}, ("bagel", 3)): says(lambda: MVTec3D(root, category), "bagel")
    for split in (None, 3, ["train"]): says(lambda: MVTec3D(root, split=split), "split")
    assert len(MVTec3D(root, ["bagel", "bagel"])) == len(MVTec3D(root, ("bagel",))) == 3
    for path in (None, 3, root, long, tmp_path / "none"):
        for read in (read_rgb, read_mask, read_xyz, read_pcd, read_ply, read_table, read_labelled_points):
            says(lambda: read(path))


def test_wide_strips_do_not_become_huge_squares():
    strip = Sample(np.zeros((3, 1, 20_000), np.float32), np.zeros((3, 1, 20_000), np.float32), np.ones((1, 20_000), bool))
    says(lambda: square(strip, 224), "padded to a square", "1,200,000,000 numbers")


def test_samples_and_clouds_check_their_arrays():
    rgb, xyz, valid = np.zeros((3, 4, 4), np.float32), np.ones((3, 4, 4), np.float32), np.ones((4, 4), bool)
    for bad in ((rgb * np.nan, xyz, valid), (rgb + 255, xyz, valid), (rgb - 1, xyz, valid), (rgb.astype(">f4"), xyz, valid), (rgb.astype(np.float64), xyz, valid), (rgb, xyz.astype(np.longdouble), valid), ([[1]], [[1]], [[1]]),
                (rgb, xyz, valid[0]), (rgb[:, :0], xyz[:, :0], valid[:0]), (rgb, xyz, valid.astype(int)), (rgb, xyz, None), (None, xyz, valid), (rgb, xyz + np.inf, valid)): says(lambda: Sample(*bad), "sample")
    says(lambda: Sample(rgb, xyz, valid, [[True] * 4] * 4), "mask a list")
    points = np.zeros((3, 3), np.float32)
    for bad in ({"points": points * np.nan}, {"points": points[:, :2]}, {"points": None}, {"points": [[0, 0, 0]]}, {"points": points.astype(int)}, {"labels": np.zeros(3)}, {"labels": [True] * 3}, {"normals": points + np.nan},
                {"colors": np.zeros((3, 3), np.uint8)}, {"pixel": np.zeros((3, 2))}): says(lambda: Cloud(**{"points": points, **bad}), "cloud")


def test_what_is_no_sample(tmp_path):
    clouds = Real3D(write_clouds(tmp_path, "toy", ["toy_template0"], {}))
    for call in (lambda: prepare(clouds[0]), lambda: square([1]), lambda: find_foreground(None), lambda: BrowsePanel(clouds)): says(call, "a Sample")


@pytest.mark.parametrize("text", ["[]", "null", "5", '"x"', '{"made_by": "mmad_nb.data.prepare"}', '{"made_by": "mmad_nb.data.prepare", "how": [], "captures": {}}', "{", "\0"])
def test_manifests_of_another_form(root, tmp_path, text):
    (root / "manifest.json").write_text(text)
    says(lambda: MVTec3D(root), "manifest.json")
    (root / "manifest.json").unlink()
    target = tmp_path / "target"; target.mkdir()
    (target / "manifest.json").write_text(text)
    says(lambda: prepare_dataset(root, target), "manifest.json")


def test_logs_of_another_form(root, tmp_path):
    target = tmp_path / "target"; target.mkdir()
    for text in ("garbage\n", "[1]\n", '{"a": 1}\n[1, 2, 3]\n', '{"a": 1}\n["a", 1]\n', "5\n\n"):
        (target / "manifest.unfinished.jsonl").write_text(text)
        says(lambda: prepare_dataset(root, target), "target")
    (tmp_path / "file").write_text("")
    says(lambda: prepare_dataset(root, tmp_path / "file"), "file", "found a file")
    says(lambda: prepare_dataset(None, tmp_path / "x"), "source")
    assert read_manifest(root) is None


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0 and not hasattr(os, "setuid"), reason="needs permissions")
def test_files_without_permission(root, tmp_path):
    clouds, sweets = write_clouds(tmp_path / "clouds", "toy", ["toy_template0"], {"toy_good": None, "toy_bulge": "toy_bulge"}), write_eyecandies(tmp_path / "candy")
    closed = [root / "bagel/train/good/rgb/000.png", clouds / "toy/test/toy_good.pcd", clouds / "toy/gt/toy_bulge.txt", candy(sweets) / "00_metadata.yaml", root / "bagel/test"]
    os.chmod(tmp_path, 0o755)
    for path in (p for p in tmp_path.parents if str(p).startswith("/tmp/")): os.chmod(path, 0o755)
    for path in closed: os.chmod(path, 0)
    code = f"""
import os
if os.geteuid() == 0: os.setgroups([]); os.setgid(65534); os.setuid(65534)
from pathlib import Path
for number, call in enumerate([lambda: MVTec3D({str(root)!r})[0], lambda: Real3D({str(clouds)!r}, split='test')[1], lambda: Real3D({str(clouds)!r}, split='test')[0], lambda: Eyecandies({str(sweets)!r}, split='test'), lambda: MVTec3D({str(root)!r}, split='test')]):
    try: call(); print('read')
    except DataError as error: print(error)"""
    done = subprocess.run([sys.executable, "-c", "import PIL.PngImagePlugin, tifffile, yaml\nfrom mmad_nb.data import *\nfrom mmad_nb.core.runtime import DataError" + code], capture_output=True, text=True)
    for path in closed: os.chmod(path, 0o755)
    said = done.stdout.splitlines()
    assert len(said) == 5 and all("permission" in line.lower() for line in said), done.stdout + done.stderr


# ---------------------------------------------------------------- prepare

def capture(height, width=0.02, table=True, seed=0, shape=(90, 90)):
    "A flat disc of this height (metres) on a table, 1 mm a pixel."
    y, x = (np.mgrid[:shape[0], :shape[1]] - np.array(shape)[:, None, None] // 2) * 0.001
    disc = np.hypot(x, y) < width
    z = 0.5 - disc * height + np.random.default_rng(seed).normal(0, 0.0003, shape)
    xyz = np.stack([x, y, z]).astype(np.float32)
    return Sample(np.full((3, *shape), 0.5, np.float32), xyz, np.ones(shape, bool), disc, "cookie", "crack", "cookie/test/crack/000"), disc


def test_a_flat_object_that_is_mostly_removed_is_said():
    sample, disc = capture(0.006)
    with pytest.warns(UserWarning, match=r"cookie/test/crack/000: .*smaller distance") as said: prepare(sample)
    assert len(said) == 1
    assert "smaller distance (now 0.005)" in find_foreground(sample).note or "a smaller distance keeps" in find_foreground(sample).note
    assert find_foreground(sample, distance=0.002).note == ""        # the advice works
    assert find_foreground(sample, distance=0.002).kept[disc].mean() > 0.99


def test_an_object_in_pieces_is_said():
    sample, disc = capture(0.02, 0.03)
    xyz = sample.xyz.copy()
    column = np.arange(90) // 10 % 2 == 0
    xyz[2] += np.where(disc & column, -0.03, 0).astype(np.float32)   # strips 3 cm higher: steps that eps does not take
    seen = find_foreground(replace(sample, xyz=xyz))
    assert seen.kept.sum() < 0.25 * disc.sum() and "a larger eps (now 0.006) joins pieces" in seen.note
    assert find_foreground(replace(sample, xyz=xyz), eps=0.04).note == ""


def test_little_of_the_picture_is_said():
    sample, disc = capture(0.02, 0.006)
    seen = find_foreground(sample)
    assert disc.mean() < 0.02 and "of the picture is left" in seen.note
    assert find_foreground(capture(0.02, 0.02)[0]).note == ""


def test_prepare_dataset_says_it_once(tmp_path):
    for i in range(3):
        sample, _ = capture(0.006, seed=i)
        write_capture(tmp_path / "raw/cookie/train/good", f"{i:03}", (sample.rgb.transpose(1, 2, 0) * 255).astype(np.uint8), sample.xyz.transpose(1, 2, 0))
    with pytest.warns(UserWarning, match="3 of 3 captures need a look.*cookie/train/good/000") as said: prepare_dataset(tmp_path / "raw", tmp_path / "ready")
    assert len(said) == 1


def test_millimetres_are_named():
    sample, _ = capture(0.02)
    with pytest.warns(UserWarning, match="metres unless you say otherwise; is this capture in millimetres"): prepare(replace(sample, xyz=sample.xyz * 1000))
    assert find_foreground(replace(sample, xyz=sample.xyz * 1000), threshold=4, distance=5, eps=6).note == ""


def test_the_table_is_removed_on_both_sides_and_what_lies_deeper_is_kept():
    sample, disc = capture(-0.02)                                    # a round pit in the table, 2 cm deep
    seen = find_foreground(sample)
    assert seen.kept[disc].mean() > 0.99, "below the table is not on the table"
    noise = sample.xyz[2] - 0.5
    for side in (noise < 0, noise > 0): assert seen.on_plane[side & ~disc].mean() > 0.99, "noise goes both ways"


def test_the_object_is_looked_for_once(root, monkeypatch):
    import pickle

    import mmad_nb.data.datasets as module
    calls, real = [], module.find_foreground
    monkeypatch.setattr(module, "find_foreground", lambda sample, **settings: calls.append(sample.id) or real(sample, **settings))
    data = MVTec3D(root, split="test", size=48)
    first = [data[i] for i in range(4)]
    again = [*data[:2], *pickle.loads(pickle.dumps(data))[2:]]
    assert len(calls) == 4
    for a, b in zip(first, again):
        for name in ("rgb", "xyz", "valid", "mask"): np.testing.assert_array_equal(getattr(a, name), getattr(b, name))
    photo, xyz, spot = scene(seed=77)
    write_capture(root / "bagel/test/hole", "000", photo, xyz, (spot * 255).astype(np.uint8))
    changed = data[1]
    assert len(calls) == 5 and calls[-1] == "bagel/test/hole/000" and (changed.xyz != first[1].xyz).any()


def test_a_plane_that_leaves_the_border_is_not_taken():
    y, x = np.mgrid[:120, :120] * 0.001
    ramp = np.zeros((120, 120))
    ramp[10:-10, 10:-10] = np.linspace(0, 0.008, 100)               # a wedge that begins at the table's height: settling would climb it
    z = 0.5 - ramp + np.random.default_rng(0).normal(0, 0.0003, ramp.shape)
    plane, _ = find_table(np.stack([x, y, z]).astype(np.float32), np.ones((120, 120), bool))
    assert plane.share > 0.99
    np.testing.assert_allclose(plane.normal, [0, 0, -1], atol=0.002)


def test_the_table_settles_on_the_whole_capture():
    """Only the upper edge shows the table at the border, and the table is bent up there by 3 mm (less than the threshold). The plane must fit the 500 rows below."""
    y, x = np.mgrid[:600, :300] * 0.001
    bend = 0.003 * np.clip(1 - y / 0.08, 0, None)**2
    xyz = np.stack([x, y, 0.5 - bend + np.random.default_rng(0).normal(0, 0.0003, y.shape)]).astype(np.float32)
    valid = np.zeros((600, 300), bool)
    valid[:580, 20:-20] = True
    far_end = np.array([0.15, 0.57, 0.5])
    assert abs(fit_plane(xyz[:, :10, 20:-20].reshape(3, -1).T).distance(far_end)) > 0.02
    assert abs(find_table(xyz, valid)[0].distance(far_end)) < 0.001


def test_eyecandies_frame_and_focal_length_of_a_wide_picture(tmp_path):
    """The focal length goes with the width. A pixel in the upper half looks further away from the near end: `forward`, which is `back` turned round."""
    root = write_eyecandies(tmp_path, shape=(32, 48), train=1)
    raw = Eyecandies(root, prepared=False)[0]
    focal = 711.11 * 48 / 512
    assert raw.size == (32, 48)
    np.testing.assert_allclose(raw.xyz[0, 0], (np.arange(48) - 24) * 3 / focal / 10, atol=1e-4)     # 3 m to the belt, a tenth
    np.testing.assert_allclose(raw.xyz[1, :, 0], (np.arange(32) - 16) * 3 / focal / 10, atol=1e-4)  # rows go back, towards the near end
    np.testing.assert_allclose(raw.xyz[2, 0], 0, atol=1e-4)                                         # the belt is the height zero of its world

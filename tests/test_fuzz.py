"""Damaged files of every kind: each is read, or refused with a DataError, in under 5 seconds and under 2 GB.

`pytest tests/test_fuzz.py --fuzz 2000` tries that many of each kind. A new kind is one function with @kind: it gets a random generator and an empty
folder, writes one damaged file there and returns a call that reads it. Each kind runs in a process of its own, so that a crash is seen, too.
`python tests/test_fuzz.py KIND N SEED` prints what happened; with one more number, only that try is made, without a net."""
import io
import json
import logging
import re
import resource
import struct
import subprocess
import sys
import tempfile
import time
import traceback
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
import tifffile
from layouts import scene, sphere, write_clouds, write_eyecandies, write_pcd, write_ply
from PIL import Image

from mmad_nb.core.runtime import MmadError

SECONDS, GIGABYTES = 5, 2
KINDS = {}


def kind(function):
    "Register a kind of damaged file under the function's name."
    KINDS[function.__name__] = function
    return function


# ---------------------------------------------------------------- damage

WORDS = ["", "0", "-1", "1", "2", "3", "255", "256", "65536", "2147483647", "4294967296", "9" * 18, "9" * 400, "1e9", "1e39", "1e400", "nan", "-inf", "0.5", "abc",
         "#", "x", "_", "é", "\0", "x y", ",", "[", "{", "&a", "*a", "!!python/object:x", "true", "null", "F", "U", "I", "list", "double", "ascii", "binary",
         "binary_compressed", "binary_big_endian", "vertex", "property", "end_header", "DATA"]
NUMBERS = [0, 1, 2, 3, 4, 7, 8, 16, 32, 127, 128, 255, 256, 4095, 32767, 32768, 65535, 65536, 2**20, 2**24, 2**31 - 1, 2**31, 2**32 - 1]


def damaged(data: bytes, rng, head=400) -> bytes:
    "A few random changes: cut, flip, overwrite with awkward numbers, exchange words or lines, double or drop a piece. Most fall into the head."
    data = bytearray(data)
    for _ in range(1 + rng.integers(4)):
        if not data: break
        at = int(rng.integers(min(len(data), head) if rng.random() < 0.7 else len(data)))
        what = rng.integers(8)
        if what == 0: del data[at:]
        elif what == 1: data[at] ^= 1 << int(rng.integers(8))
        elif what == 2:
            number = struct.pack("<I", NUMBERS[rng.integers(len(NUMBERS))])
            number = number if rng.random() < 0.5 else number[::-1]
            number = number[:2] if rng.random() < 0.5 else number
            data[at:at + len(number)] = number
        elif what == 3: data[at:at] = data[at:at + int(rng.integers(1, 64))]
        elif what == 4: del data[at:at + int(rng.integers(1, 64))]
        elif what == 5: data[at:at + 8] = rng.bytes(8)
        elif what == 6:                                             # a word of text
            pieces = bytes(data[:head]).split(b" ")
            pieces[rng.integers(len(pieces))] = WORDS[rng.integers(len(WORDS))].encode()
            data[:head] = b" ".join(pieces)
        else:                                                       # two lines change places
            lines = bytes(data[:head]).split(b"\n")
            i, j = rng.integers(len(lines), size=2)
            lines[i], lines[j] = lines[j], lines[i]
            data[:head] = b"\n".join(lines)
    return bytes(data)


def with_words(text: str, rng) -> bytes:
    "A text with one to three of its words exchanged, line ends kept."
    lines = [line.split(" ") for line in text.split("\n")]
    for _ in range(1 + rng.integers(3)):
        line = lines[rng.integers(len(lines))]
        line[rng.integers(len(line))] = WORDS[rng.integers(len(WORDS))]
    return "\n".join(map(" ".join, lines)).encode()


def some(rng, *choices):
    return choices[rng.integers(len(choices))]


def finite(*arrays):
    for array in arrays: assert array is None or np.isfinite(array).all()


# ---------------------------------------------------------------- one function for each kind of file

@kind
def pcd(rng, folder):
    from mmad_nb.data.clouds import read_cloud
    path, (points, _), data = folder / "a.pcd", sphere(30), some(rng, "ascii", "binary", "binary_compressed")
    fields = dict(zip(("x", "y", "z"), points.T))
    if rng.random() < 0.5: fields |= {"rgb": np.arange(30, dtype=some(rng, "u4", "f4", "u1")), "normal": points, "label": np.arange(30, dtype="i2")}
    write_pcd(path, fields, data)
    whole = path.read_bytes()
    head, numbers = whole.split(b"DATA", 1)
    path.write_bytes(with_words(head.decode(), rng) + b"DATA" + numbers if rng.random() < 0.5 else damaged(whole, rng))
    def read():
        cloud = read_cloud(path)
        finite(cloud.points, cloud.normals, cloud.colors)
    return read


@kind
def ply(rng, folder):
    from mmad_nb.data.clouds import read_cloud
    path = folder / "a.ply"
    write_ply(path, sphere(20)[0], some(rng, "ascii", "binary_little_endian", "binary_big_endian"), lists=rng.random() < 0.5)
    whole = path.read_bytes()
    head, numbers = whole.split(b"end_header", 1)
    path.write_bytes(with_words(head.decode(), rng) + b"end_header" + numbers if rng.random() < 0.5 else damaged(whole, rng))
    def read():
        cloud = read_cloud(path)
        finite(cloud.points, cloud.normals, cloud.colors)
    return read


@kind
def labels(rng, folder):
    from mmad_nb.data import Real3D
    write_clouds(folder, "toy", ["toy_template0"], {"toy_bulge": "toy_bulge"}, some(rng, "gt", "GT"), some(rng, " ", ","))
    path = next(folder.glob("toy/*/toy_bulge.txt"))
    text = "\n".join(path.read_text().split("\n")[:40])
    path.write_bytes(with_words(text, rng) if rng.random() < 0.5 else damaged(text.encode(), rng, 2000))
    def read():
        cloud = Real3D(folder, split="test")[0]
        finite(cloud.points)
        assert cloud.labels.dtype == bool
    return read


def sealed(data: bytes) -> bytes:
    "A PNG whose check sums are right, so that damage gets as far as the decoder."
    out, at = bytearray(data[:8]), 8
    while at + 12 <= len(data):
        length, name = struct.unpack_from(">I4s", data, at)
        body = data[at + 8:at + 8 + length]
        out += struct.pack(">I", length) + name + body + struct.pack(">I", zlib.crc32(name + body))
        at += 12 + length
    return bytes(out) + data[at:]


def any_picture(rng):
    values = rng.integers(0, 256, (12, 15, 4), dtype=np.uint8)
    picture = Image.fromarray(values)
    return Image.fromarray((values[..., 0].astype(np.uint16) * 257)) if rng.random() < 0.2 else picture.convert(some(rng, "RGB", "RGBA", "L", "LA", "P", "1"))


@kind
def png(rng, folder):
    from mmad_nb.data import read_mask, read_rgb
    path, file = folder / "a.png", io.BytesIO()
    any_picture(rng).save(file, "PNG")
    data = damaged(file.getvalue(), rng, 60)
    path.write_bytes(sealed(data) if rng.random() < 0.6 else data)
    def read():
        photo, mask = read_rgb(path), read_mask(path)
        assert photo.shape == (3, *mask.shape) and 0 <= photo.min() <= photo.max() <= 1
    return read


@kind
def tiff(rng, folder):
    from mmad_nb.data import read_xyz
    path, file = folder / "a.tiff", io.BytesIO()
    xyz = rng.normal(1, 0.1, (16, 20, 3)).astype(some(rng, "f4", "f8", "f2", "u2"))
    options = some(rng, {}, {"compression": "zlib"}, {"compression": "lzma"}, {"tile": (16, 16)}, {"rowsperstrip": 5}, {"bigtiff": True}, {"byteorder": ">"})
    if rng.random() < 0.2: tifffile.imwrite(file, xyz.transpose(2, 0, 1), photometric=some(rng, "minisblack", "rgb"), **options)
    else: tifffile.imwrite(file, xyz, photometric="rgb", **options)
    path.write_bytes(damaged(file.getvalue(), rng, 450))
    def read():
        points, valid = read_xyz(path)
        finite(points)
        assert valid.any() and (points[:, ~valid] == 0).all()
    return read


@kind
def eyecandies(rng, folder):
    from mmad_nb.data import Eyecandies
    write_eyecandies(folder, shape=(16, 16), train=0, public=[("bumps", True)], private=0)
    files = sorted(folder.rglob("00_*"))
    path = files[rng.integers(len(files))]
    data = path.read_bytes()
    if path.suffix != ".png" and rng.random() < 0.6: data = with_words(data.decode(), rng)
    elif rng.random() < 0.1: path.rename(path.with_name(some(rng, "00_depth.PNG", "._00_depth.png", "00_pose.TXT", "00.png", "_depth.png")))
    else: data = damaged(data, rng, 100)
    if path.exists(): path.write_bytes(sealed(data) if path.suffix == ".png" and data[:4] == b"\x89PNG" and rng.random() < 0.5 else data)
    def read():
        sample = Eyecandies(folder, split="test", size=None, prepared=bool(rng.random() < 0.5))[0]
        finite(sample.rgb, sample.xyz)
        assert sample.anomalous and sample.valid.any()
    return read


@kind
def capture(rng, folder):
    "The folder of an MVTec capture: files renamed, doubled, emptied, hidden, moved."
    from layouts import write_capture

    from mmad_nb.data import MVTec3D
    photo, xyz, spot = scene((24, 24))
    for i in range(3): write_capture(folder / "bagel/test/hole", f"{i:03}", photo, xyz, (spot * 255).astype(np.uint8))
    for _ in range(1 + rng.integers(2)):
        files = [p for p in sorted(folder.rglob("*")) if p.is_file()]
        path, what = files[rng.integers(len(files))], rng.integers(6)
        if what == 0: path.rename(path.with_suffix(some(rng, path.suffix.upper(), ".jpg", ".bmp", ".txt", "")))
        elif what == 1: path.with_suffix(some(rng, ".jpg", ".tif", ".PNG", ".TIFF")).write_bytes(path.read_bytes())
        elif what == 2: path.write_bytes(b"")
        elif what == 3: path.with_name("._" + path.name).write_bytes(b"\0\5\x16\7")
        elif what == 4: path.unlink()
        else: path.rename(path.with_name(some(rng, "001.png", "000.tiff", "good", ".hidden")))
    def read():
        dataset = MVTec3D(folder, split="test", size=16, prepared=bool(rng.random() < 0.5))
        assert [sample.defect for sample in dataset] == ["hole"] * len(dataset)
    return read


@kind
def manifest(rng, folder):
    from mmad_nb.data import MVTec3D
    from mmad_nb.data.datasets import _begun
    (folder / "bagel/train").mkdir(parents=True)
    name = some(rng, "manifest.json", "manifest.unfinished.jsonl")
    lines = '{"made_by": "mmad_nb.data.prepare", "how": {"size": 3}, "captures": {"a": {"plane": null}}}\n["a", {"b": 1}]\n["c", {"d": 2}]\n'
    (folder / name).write_bytes(with_words(lines, rng) if rng.random() < 0.5 else damaged(lines.encode(), rng))
    return lambda: (MVTec3D(folder), _begun(folder, {"size": 3})) if rng.random() < 0.5 else _begun(folder, {"size": 3})


# ---------------------------------------------------------------- files of our own, which carry a checksum: right to the last bit, or refused

def hurt(path, rng):
    "Damage a file: its text exchanged, its bytes changed, cut, emptied, or replaced by nonsense of another kind."
    data, what = path.read_bytes(), rng.random()
    if what < 0.05: data = some(rng, b"", b"{}", b"[]", b"null", b"\0" * 64, b"PK\3\4", b"\x80\2}q\0.")
    elif what < 0.5 and path.suffix == ".json": data = with_words(data.decode(), rng)
    else: data = damaged(data, rng, 600)
    path.write_bytes(data)


def hurt_or_replaced(path, rng, other):
    "As `hurt`; sometimes the whole, sound file of another thing."
    if rng.random() < 0.1: path.write_bytes(other)
    else: hurt(path, rng)


def learn(seed, checkpoint=None, epochs=2):
    "A training of seven numbers."
    import torch
    from mmad_nb.core.training import train
    torch.manual_seed(seed)
    module = torch.nn.Linear(3, 2, bias=seed % 2 == 0)
    loss = lambda items: (sum((module(item) - item[:2]).square().sum() for item in items), len(items))
    items = list(torch.randn(6, 3, generator=torch.Generator().manual_seed(1)))
    return train({"m": module}, items, loss, epochs=epochs, batch_size=2, checkpoint=checkpoint), module.state_dict()


def same_numbers(one, other):
    import torch
    assert one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one), "other numbers, and not a word about it"


@kind
def checkpoint(rng, folder):
    path, other = folder / "run.safetensors", folder / "other.safetensors"
    learn(0, path, 1)
    learn(1, other, 1)
    curve, wanted = learn(0)
    hurt_or_replaced(path, rng, other.read_bytes())
    def read():
        found, module = learn(0, path)
        assert found == curve
        same_numbers(module, wanted)
    return read


class Sums:
    "Made once: a detector with little to learn, which is saved to be damaged."
    made = None

    @classmethod
    def get(cls):
        if cls.made is None:
            import torch
            from test_detectors_cfm import GOOD, TESTS, miniature

            from mmad_nb.detectors import create_detector
            torch.set_num_threads(1)
            encoders = miniature()
            found = create_detector("memory_bank", encoders, "cpu", group_size=8, coreset=10).fit(GOOD[:2])
            cls.made = encoders, found, found.state(), TESTS
        return cls.made


@kind
def detector(rng, folder):
    from mmad_nb.detectors import load_detector
    encoders, made, state, _ = Sums.get()
    made.save(folder / "saved")
    files = sorted(p for p in (folder / "saved").rglob("*") if p.is_file())
    path = files[rng.integers(len(files))]
    if rng.random() < 0.1: path.unlink()
    else: hurt_or_replaced(path, rng, files[rng.integers(len(files))].read_bytes())
    def read():
        found = load_detector(folder / "saved", "cpu", encoders=encoders)
        same_numbers(found.state(), state)
        assert found.config() == made.config(), "another configuration, and not a word about it"
    return read


@kind
def cache_entry(rng, folder):
    "Never refused: what is damaged is computed again, with a warning."
    import torch
    from mmad_nb.core.runtime import DataError, DiskCache
    cache, key = DiskCache(folder), {"photo": "a", "block": 3}
    right = {"x": torch.arange(12.).reshape(3, 4), "n": torch.tensor(7), "half": torch.ones(5, dtype=torch.bfloat16)}
    cache.get(key, lambda: right)
    cache.get({"photo": "b"}, lambda: {"y": torch.zeros(3)})
    path = cache.path(key)
    hurt(path, rng)
    def read():
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            same_numbers(cache.get(key, lambda: right), right)
        if told: raise DataError(path, "a broken entry", "a warning and the right numbers", "This is how it has to be.")
    return read


# ---------------------------------------------------------------- the run

def tried(name, number, seed):
    "One try: what came out of it, and the seconds it took."
    rng = np.random.default_rng([seed, number, *name.encode()])
    with tempfile.TemporaryDirectory() as folder:
        read, start = KINDS[name](rng, Path(folder)), time.monotonic()
        try: read()
        except MmadError: return "refused", time.monotonic() - start
        except Exception: return traceback.format_exc().strip(), time.monotonic() - start
        return "read", time.monotonic() - start


def run(name, count, seed):
    "All tries of one kind; a JSON line."
    logging.disable(logging.CRITICAL)
    warnings.simplefilter("ignore")
    tried(name, 10**6, seed)                                        # what is imported does not count
    counts, foreign, slowest, start = {"read": 0, "refused": 0}, [], 0.0, time.monotonic()
    for number in range(count):
        outcome, seconds = tried(name, number, seed)
        if outcome in counts: counts[outcome] += 1
        else: foreign.append(f"try {number}: {outcome}")
        slowest = max(slowest, seconds)
    memory = peak_memory()
    print(json.dumps({**counts, "foreign": foreign, "slowest": round(slowest, 2), "GB": round(memory, 2), "seconds": round(time.monotonic() - start, 1)}))


def peak_memory() -> float:
    "The most that this process has held, in GB. (On Linux `ru_maxrss` also counts what its parent held when it was started.)"
    status = Path("/proc/self/status")
    if status.exists(): return int(re.search(r"VmHWM:\s+(\d+) kB", status.read_text())[1]) / 1e6
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1e9 if sys.platform == "darwin" else 1e6)


@pytest.mark.parametrize("name", KINDS)
def test_damaged_files(name, request):
    count = request.config.getoption("--fuzz")
    done = subprocess.run([sys.executable, __file__, name, str(count), "0"], capture_output=True, text=True, timeout=60 + count)
    assert done.returncode == 0, f"Python died: {done.returncode} {done.stderr[-2000:]}"
    said = json.loads(done.stdout.splitlines()[-1])
    print(f"{name:12} {said['read']:5} read {said['refused']:5} refused {len(said['foreign']):3} foreign, slowest {said['slowest']} s, {said['GB']} GB, {said['seconds']} s")
    assert not said["foreign"], f"{len(said['foreign'])} foreign exceptions, such as {said['foreign'][0]}"
    assert said["slowest"] < SECONDS and said["GB"] < GIGABYTES
    assert said["refused"] > count / 10, "the damage does nothing"


if __name__ == "__main__":
    if len(sys.argv) == 5: print(tried(sys.argv[1], int(sys.argv[4]), int(sys.argv[3]))[0])
    else: run(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))

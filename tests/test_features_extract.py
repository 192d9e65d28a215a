"Features: the published way with whole pictures, cache keys, broken entries, two processes equal to one."
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from mmad_nb.core.runtime import DataError, DiskCache
from mmad_nb.data import Sample
from mmad_nb.features import PointEncoder, PointMAE, encoder_pair, extract
from mmad_nb.features.extract import Mixing, PixelPanel, encoder_key, image_matrix, pixel_recipe, point_matrix, sample_hash, smoothing

TENSORS = ("image", "centers", "points", "index", "weight", "pixel")


def hill(seed, size=64):
    "A hill seen from above, with random colours; the rim was not measured."
    draw = np.random.default_rng(seed)
    y, x = np.mgrid[:size, :size] / size - 0.5
    valid = x ** 2 + y ** 2 < 0.16
    xyz = np.stack([x, y, 0.2 * np.cos(4 * x) + draw.normal(0, 1e-3, x.shape)]).astype(np.float32) * valid
    return Sample(draw.random((3, size, size), np.float32), xyz, valid, id=f"hill/{seed}")


@pytest.fixture(scope="module")
def pair():
    image, _ = encoder_pair("tiny", device="cpu")
    torch.manual_seed(0)
    return image, PointEncoder("small", PointMAE(dim=24, heads=2, groups=40, group_size=16), "seeded random weights", device="cpu")


@pytest.fixture(scope="module")
def samples():
    return [hill(seed) for seed in range(3)]


@pytest.fixture(scope="module")
def features(samples, pair):
    return extract(samples, *pair)


def same(a, b): return all(torch.equal(getattr(a, n), getattr(b, n)) for n in TENSORS) and a.size == b.size


def test_too_few_points_name_the_sample(samples, pair):
    from mmad_nb.features.fpfh import FpfhEncoder
    thin = np.zeros_like(samples[1].valid); thin[32, 30:32] = True
    almost = replace(samples[1], valid=thin, xyz=samples[1].xyz * thin, id="hill/almost empty")
    for encoder in (pair[1], FpfhEncoder(device="cpu")):
        with pytest.raises(DataError, match="hill/almost empty.*2 points"): extract([samples[0], almost], pair[0], encoder)


@pytest.mark.parametrize("part", ["image", "points"])
def test_features_of_two_roads_of_bfloat16_are_not_mixed(samples, tmp_path, monkeypatch, part):
    "Multiplied in bfloat16 on one machine, only stored so on another: two entries in the cache."
    from mmad_nb.features import ImageEncoder, image
    def pair_of(pays):
        monkeypatch.setattr(image, "bfloat16_pays", lambda device: pays)
        torch.manual_seed(0)
        make = dict(image=lambda dtype: ImageEncoder("i", image.ViT(12, 2, 2, 8, 64), "", "cpu", dtype),
                    points=lambda dtype: PointEncoder("p", PointMAE(dim=24, heads=2, groups=40, group_size=16), "", device="cpu", dtype=dtype))
        return [make[name](torch.bfloat16 if name == part else torch.float32) for name in ("image", "points")]
    here, there = pair_of(True), pair_of(False)
    assert encoder_key(*here, (0,)) != encoder_key(*there, (0,)) and [e.identity for e in here] == [e.identity for e in there]
    cache = DiskCache(tmp_path)
    for pair in (here, there, here): extract(samples[:1], *pair, cache=cache)
    assert (cache.misses, cache.hits) == (2, 1)


def test_mixing_against_a_full_matrix():
    draw = np.random.default_rng(0)
    full = draw.random((30, 12)) * (draw.random((30, 12)) < 0.2)
    row, column = np.nonzero(full)
    start = torch.from_numpy(np.searchsorted(row, np.arange(31)))
    S = Mixing(start, torch.from_numpy(column), torch.from_numpy(full[row, column]).float(), 12)
    V, full = torch.rand(12, 5), torch.from_numpy(full).float()
    assert torch.allclose(S @ V, full @ V, atol=1e-6)
    chosen = torch.tensor([29, 3, 3, 0, 17])
    assert torch.allclose(S.rows(chosen) @ V, full[chosen] @ V, atol=1e-6)
    assert torch.equal(S.filled, (full != 0).any(1))
    assert (S.rows(torch.tensor([], dtype=torch.long)) @ V).shape == (0, 5)


def test_mixing_passes_gradients():
    S = Mixing(torch.tensor([0, 2, 3]), torch.tensor([0, 2, 1]), torch.tensor([.25, .75, 1.]).double(), 3)
    assert torch.autograd.gradcheck(lambda v: S @ v, (torch.rand(3, 2, dtype=torch.double, requires_grad=True),))


@pytest.mark.parametrize("side", [3, 4, 9, 64, 224])
def test_smoothing_is_the_published_pooling(side):
    line = torch.rand(1, 1, side, generator=torch.Generator().manual_seed(side))
    want = F.adaptive_avg_pool1d(F.avg_pool1d(line, 3, stride=1), side)[0, 0]
    assert np.allclose(smoothing(side) @ line[0, 0].numpy(), want, atol=1e-6)


def test_maps_are_those_of_the_published_way(samples, features, pair):
    "CFM with whole pictures: bilinear photo features; scattered, pooled and stretched point features; invalid where they are zero."
    for sample, found in zip(samples, features):
        photo = pair[0].encode(torch.from_numpy(sample.rgb)[None])[0]
        want = F.interpolate(photo, sample.size, mode="bilinear", align_corners=False)[0]
        assert torch.allclose(found.image_at().T.reshape(want.shape), want, atol=1e-4)
        centers, vectors = pair[1].encode(torch.from_numpy(sample.cloud().points))
        distance, index = torch.cdist(torch.from_numpy(sample.cloud().points).double(), centers.double()).topk(3, largest=False)
        weight = 1 / (distance ** 2 + 1e-8)
        mixed = (vectors[index] * (weight / weight.sum(1, keepdim=True))[..., None].float()).sum(1)
        picture = torch.zeros(vectors.shape[1], *sample.size)
        picture[:, torch.from_numpy(sample.valid)] = mixed.T
        want = F.adaptive_avg_pool2d(F.avg_pool2d(picture[None], 3, stride=1), sample.size)[0]
        assert torch.allclose(found.point_at().T.reshape(want.shape), want, atol=1e-3)
        assert torch.equal(found.valid, want.abs().sum(0) != 0)


def test_features_at_chosen_pixels(features):
    f, pixels = features[0], torch.tensor([5 * 64 + 9, 32 * 64 + 32, 4095, 0])
    assert torch.allclose(f.image_at(pixels), f.image_at()[pixels], atol=1e-6)
    assert torch.allclose(f.point_at(pixels), f.point_at()[pixels], atol=1e-6)
    assert (f.point_at(pixels[3:]) == 0).all() and not f.valid[0, 0]


def test_nothing_of_pixels_times_channels_is_kept(features):
    f = features[0]
    f.point_matrix, f.image_matrix, f.valid
    kept = [v for v in vars(f).values() if isinstance(v, torch.Tensor)] + [t for t in vars(f.point_matrix).values() if isinstance(t, torch.Tensor)]
    assert max(t.untyped_storage().nbytes() for t in kept) < 64 * 64 * f.points.shape[1] * 4 / 4
    assert f.image.untyped_storage().nbytes() == f.image.numel() * 4  # not a view that keeps its whole batch alive


def test_several_blocks_stand_one_after_the_other(samples, pair):
    found = extract(samples[:1], *pair, blocks=(3, 11))[0].image
    maps = pair[0].encode(torch.from_numpy(samples[0].rgb)[None], (3, 11))
    assert found.shape == (384, 8, 8) and torch.equal(found, torch.cat(maps, 1)[0])


def test_cache_computes_once_and_gives_the_same(tmp_path, samples, features, pair, monkeypatch):
    first = extract(samples, *pair, cache=tmp_path)
    monkeypatch.setattr(type(pair[0]), "encode", None)  # whoever computes now, fails
    cache = DiskCache(tmp_path)
    second = extract(samples, *pair, cache=cache)
    assert (cache.hits, cache.misses) == (3, 0)
    assert all(map(same, features, first)) and all(map(same, first, second))


def test_a_broken_entry_is_computed_again(tmp_path, samples, features, pair):
    extract(samples, *pair, cache=tmp_path)
    victim = sorted(tmp_path.glob("*.safetensors"))[1]
    victim.write_bytes(victim.read_bytes()[:-100])
    with pytest.warns(UserWarning, match="broken"): again = extract(samples, *pair, cache=(cache := DiskCache(tmp_path)))
    assert all(map(same, features, again)) and (cache.hits, cache.misses) == (2, 1)


def test_the_key_follows_everything_that_matters(samples, pair):
    image, points = pair
    key = encoder_key(image, points, (11,))
    assert key == encoder_key(image, points, (11,)) != encoder_key(image, points, (3,))
    other = PointEncoder("small", points.model, "", groups=20, device="cpu")
    assert key != encoder_key(image, other, (11,))
    assert key != encoder_key(encoder_pair("tiny", "random", device="cpu", seed=1)[0], points, (11,))
    one = samples[0]
    for part in ("rgb", "xyz"):
        changed = getattr(one, part).copy(); changed[0, 30, 30] += 1e-3
        assert sample_hash(replace(one, **{part: changed})) != sample_hash(one)
    valid = one.valid.copy(); valid[30, 30] = False
    assert sample_hash(replace(one, valid=valid)) != sample_hash(one) == sample_hash(replace(one, id="other", mask=valid))


def test_an_interrupted_run_keeps_what_it_had(tmp_path, samples, pair):
    class Stops(list):
        def __getitem__(self, n):
            if n == 2: raise KeyboardInterrupt
            return super().__getitem__(n)
    with pytest.raises(KeyboardInterrupt): extract(Stops(samples), *pair, cache=tmp_path, batch_size=1)
    cache = DiskCache(tmp_path)
    extract(samples, *pair, cache=cache, batch_size=1)
    assert (cache.hits, cache.misses) == (2, 1)


def test_samples_of_two_sizes_or_without_a_point_are_refused(samples, pair):
    with pytest.raises(DataError, match="same size"): extract([samples[0], hill(9, size=72)], *pair)
    nothing = replace(samples[0], xyz=np.zeros_like(samples[0].xyz), valid=np.zeros_like(samples[0].valid), id="empty/7")
    with pytest.raises(DataError, match="empty/7"): extract([nothing], *pair)
    assert len(extract([], *pair)) == 0


def test_recipe_and_panel(features):
    f = features[1]
    recipe = pixel_recipe(f, 32, 30)
    for kind, patches, found in (("image", f.image.flatten(1).T, f.image_at), ("points", f.points, f.point_at)):
        assert torch.allclose(sum(w * patches[p] for p, w in recipe[kind]), found(torch.tensor([32 * 64 + 30]))[0], atol=1e-5)
    panel = PixelPanel(f)
    assert "not measured" in panel.label.value
    panel.row.value, panel.column.value = 32, 30
    assert panel.recipe == recipe and "not measured" not in panel.label.value


def test_matrices_of_one_size_are_shared(features):
    assert features[0].image_matrix is features[1].image_matrix
    assert image_matrix((2, 2), (4, 4)).patches == 4
    alone = point_matrix(torch.tensor([[0, 1, 2]]), torch.tensor([[.5, .3, .2]]), torch.tensor([2 * 6 + 3]), 3, (5, 6))
    assert torch.allclose(alone @ torch.eye(3), (alone @ torch.ones(3, 1)) * torch.tensor([[.5, .3, .2]]), atol=1e-6)


SCRIPT = """
import sys, torch; torch.set_num_threads(1)
sys.path.insert(0, {tests!r})
from accelerate import Accelerator
from test_features_extract import TENSORS, hill
from mmad_nb.features import PointEncoder, PointMAE, encoder_pair, extract
accelerator = Accelerator(cpu=True)
image, _ = encoder_pair("tiny", device="cpu")
torch.manual_seed(0)
points = PointEncoder("small", PointMAE(dim=24, heads=2, groups=40, group_size=16), "", device="cpu")
found = extract([hill(seed) for seed in range(5)], image, points, accelerator=accelerator, batch_size=2, cache={cache!r})
print(f"process {{accelerator.process_index}} of {{accelerator.num_processes}}: {{len(found)}}")
few = extract([hill(0)], image, points, accelerator=accelerator, cache={cache!r})  # fewer batches than processes
assert len(few) == 1
accelerator.wait_for_everyone()
torch.save([{{n: getattr(f, n) for n in TENSORS}} for f in found], {folder!r} + f"/{{accelerator.process_index}}.pt")
accelerator.wait_for_everyone(); accelerator.end_training()   # a process that just stops may abort over its open connections
"""


def test_two_processes_give_exactly_the_features_of_one(tmp_path, pair):
    from pathlib import Path
    script = tmp_path / "script.py"
    script.write_text(SCRIPT.format(tests=str(Path(__file__).parent), folder=str(tmp_path), cache=str(tmp_path / "cache")))
    done = subprocess.run([sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", str(script)],
                          capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "process 0 of 2: 5" in done.stdout and "process 1 of 2: 5" in done.stdout
    assert len(list((tmp_path / "cache").glob("*.safetensors"))) == 5  # shared, nothing computed twice under another key
    threads = torch.get_num_threads(); torch.set_num_threads(1)
    alone = extract([hill(seed) for seed in range(5)], *pair, batch_size=2)
    torch.set_num_threads(threads)
    for process in (0, 1):
        found = torch.load(tmp_path / f"{process}.pt", weights_only=True)
        assert all(torch.allclose(f[n], getattr(a, n), atol=1e-5) for f, a in zip(found, alone) for n in TENSORS)

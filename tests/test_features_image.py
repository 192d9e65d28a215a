"Image encoder: agreement with timm, stopping, bad input, upsampling against PyTorch, the real photo of ../shared/data."
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from mmad_nb.core.runtime import DataError
from mmad_nb.features import image
from mmad_nb.features.image import (Attention, ImageEncoder, SimilarityPanel, ViT, bilinear, mix, pca_colours, similarity, tiny_vit,
                                    upsample)

TIRE = Path(__file__).parents[2] / "shared" / "data" / "mvtec3d_tire"


@pytest.fixture(scope="module")
def encoder():
    return ImageEncoder("tiny_vit", tiny_vit(0), "seeded random weights", device="cpu")


@pytest.fixture(scope="module")
def photo():
    return torch.rand(2, 3, 224, 224, generator=torch.Generator().manual_seed(0))


def by_hand(model, photo, last):
    "The blocks one by one, written out."
    mean, std = torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1), torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)
    with torch.no_grad():
        tokens = model.patch_embed.proj((photo - mean) / std).flatten(2).transpose(1, 2)
        tokens = torch.cat([model.cls_token.expand(len(photo), -1, -1), tokens], 1) + model.pos_embed
        for block in model.blocks[:last + 1]: tokens = block(tokens)
        return model.norm(tokens)[:, 1:].transpose(1, 2).reshape(len(photo), -1, 28, 28)


def test_every_block_agrees_with_the_network_written_out(encoder, photo):
    maps = encoder.encode(photo, blocks=(11, 0, 7))
    for block, found in zip((11, 0, 7), maps):
        assert found.shape == (2, 192, 28, 28) and found.dtype == torch.float32
        assert torch.allclose(found, by_hand(encoder.model, photo, block), atol=1e-4)


@pytest.mark.parametrize("size", [(64, 64), (96, 40), (32, 48)])
def test_our_network_is_timms(size):
    "The same names, and with the same weights the same features, also where the positions are stretched."
    from timm.models.vision_transformer import VisionTransformer
    torch.manual_seed(1)
    timms = VisionTransformer(img_size=64, patch_size=8, embed_dim=48, depth=4, num_heads=3, num_classes=0, dynamic_img_size=True)
    for value in timms.parameters(): value.data += torch.randn_like(value) / 10  # norms and biases too
    ours, x = ViT(48, 3, depth=4, size=64), torch.randn(2, 3, *size)
    ours.load_state_dict(timms.state_dict())
    with torch.no_grad():
        found = ours.eval()(x, (1, 3))
        wanted = timms.eval().forward_intermediates(x, indices=[1, 3], norm=True, intermediates_only=True)
    assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(found, wanted))


def test_the_paper_encoder_has_the_names_and_shapes_of_timms(monkeypatch):
    import timm
    monkeypatch.setattr(torch, "linspace", partial(torch.linspace, device="cpu"))   # older timm looks at its numbers
    with torch.device("meta"):
        ours, timms = ViT(dim=768, heads=12), timm.create_model("vit_base_patch8_224.dino", pretrained=False, num_classes=0)
    shapes = lambda network: {name: value.shape for name, value in network.state_dict().items()}
    assert shapes(ours) == shapes(timms) and ours.norm.eps == timms.norm.eps == ours.blocks[0].norm1.eps


@pytest.mark.parametrize("bias", [False, True])
def test_attention_by_the_formula(bias):
    torch.manual_seed(3)
    layer, x = Attention(12, 3, bias=bias).requires_grad_(False), torch.randn(2, 7, 12)
    offset = layer.qkv.bias.chunk(3) if bias else (0, 0, 0)
    q, k, v = (x @ w.T + b for w, b in zip(layer.qkv.weight.chunk(3), offset))
    heads = [torch.softmax(q[..., s] @ k[..., s].transpose(1, 2) / 2, -1) @ v[..., s] for s in (slice(0, 4), slice(4, 8), slice(8, 12))]
    torch.testing.assert_close(layer(x), layer.proj(torch.cat(heads, -1)), atol=1e-5, rtol=1e-4)


def test_default_is_the_last_block_in_evaluation_mode_without_gradient(encoder, photo):
    found, = encoder.encode(photo[:1])
    assert torch.equal(found, encoder.encode(photo[:1], (11,))[0]) and not found.requires_grad
    assert not encoder.model.training


def test_gradient_on_request(encoder, photo):
    x = photo[:1].clone().requires_grad_()
    encoder.encode(x, (0,), grad=True)[0].sum().backward()
    assert x.grad.abs().sum() > 0 and all(p.grad is None for p in encoder.parameters())


def test_blocks_after_the_highest_asked_for_do_not_run(encoder, photo):
    ran = []
    hooks = [b.register_forward_hook(lambda *_, n=n: ran.append(n)) for n, b in enumerate(encoder.model.blocks)]
    encoder.encode(photo[:1], (5, 2))
    for hook in hooks: hook.remove()
    assert ran == list(range(6))


@pytest.mark.parametrize("bad, words", [
    (torch.rand(1, 3, 225, 224), "divisible by the patch of 8"),
    (torch.rand(3, 224, 224), "(B, 3, H, W)"),
    (torch.rand(1, 4, 224, 224), "(1, 4, 224, 224)"),
    (torch.rand(1, 3, 224, 224) * 255, "by 255"),
    (torch.rand(1, 3, 224, 224) - 1, "do not normalise"),
    (torch.rand(1, 3, 224, 224) * float("nan"), "from nan to nan"),
    (torch.rand(0, 3, 224, 224), "at least one photo"),
    (np.zeros((1, 3, 224, 224), "f4"), "a ndarray"),
])
def test_wrong_photos_are_refused(encoder, bad, words):
    with pytest.raises(DataError) as error: encoder.encode(bad)
    assert words in str(error.value) and "tiny_vit" in str(error.value)


@pytest.mark.parametrize("blocks", [(12,), (-1,), (), 3, "ab", (1.5,)])
def test_wrong_blocks_are_refused(encoder, photo, blocks):
    with pytest.raises(DataError, match="from 0 to 11"): encoder.encode(photo, blocks)


def test_other_sizes_and_networks(photo):
    import timm
    for name, patch in (("vit_tiny_patch16_224", 16), ("deit_tiny_patch16_224", 16), ("vit_small_patch14_dinov2", 14)):
        model = timm.create_model(name, pretrained=False, num_classes=0, dynamic_img_size=True, depth=2)
        encoder = ImageEncoder(name, model, "random", device="cpu")
        size = 10 * patch
        assert encoder.encode(photo[:1, :, :size, :2 * patch], (0, 1))[1].shape == (1, encoder.dim, 10, 2)


def test_colour_statistics_are_those_of_the_network():
    import timm
    model = timm.create_model("vit_tiny_patch16_224", pretrained=False, num_classes=0, dynamic_img_size=True, depth=1)
    encoder = ImageEncoder("x", model, "random", device="cpu")
    assert encoder.mean.flatten().tolist() == pytest.approx(list(model.pretrained_cfg["mean"]))
    assert model.pretrained_cfg["mean"] != (0.485, 0.456, 0.406)  # otherwise this test says nothing


def test_fingerprint_and_seed(encoder):
    same, other = (ImageEncoder("tiny_vit", tiny_vit(seed), "", device="cpu") for seed in (0, 1))
    assert same.fingerprint == encoder.fingerprint != other.fingerprint
    torch.manual_seed(7); before = torch.rand(1); torch.manual_seed(7); tiny_vit(3)
    assert torch.equal(torch.rand(1), before)  # building it leaves the global generator alone


@pytest.mark.parametrize("kind", ["ours", "timm"])
def test_the_number_of_heads_is_part_of_what_an_encoder_is(kind):
    def made(heads):
        "The same weights, cut into so many heads."
        import timm
        torch.manual_seed(0)
        if kind == "ours": network = image.ViT(24, heads, 2, 8, 32)
        else: network = timm.create_model("vit_tiny_patch16_224", pretrained=False, num_classes=0, dynamic_img_size=True, depth=2, num_heads=heads)
        return ImageEncoder("x", network, "", device="cpu")
    three, same, six = made(3), made(3), made(6)
    rgb = torch.rand(1, 3, 32, 32)
    assert not torch.allclose(three.encode(rgb)[0], six.encode(rgb)[0])
    assert three.identity == same.identity != six.identity and three.fingerprint == same.fingerprint != six.fingerprint


@pytest.mark.parametrize("seed", [2**64, -1, 1.5, "0", True, None])
def test_a_seed_that_is_none_is_refused(seed):
    with pytest.raises(DataError, match="seed of random weights"): tiny_vit(seed)


@pytest.mark.parametrize("dtype", ["float32", torch.int64, None, torch.complex64, float])
def test_a_type_that_cannot_calculate_is_refused(dtype):
    with pytest.raises(DataError, match="without quotes"): ImageEncoder("x", image.ViT(12, 2, 1, 8, 16), "", device="cpu", dtype=dtype)


def test_bfloat16_stays_close(encoder, photo):
    half = ImageEncoder("tiny_vit", tiny_vit(0), "", device="cpu", dtype=torch.bfloat16)
    a, b = (e.encode(photo[:1, :, :96, :96])[0] for e in (half, encoder))
    assert a.dtype == torch.float32 and F.cosine_similarity(a, b, dim=1).min() > 0.995


@pytest.mark.parametrize("pays", [False, True])
def test_two_byte_weights_are_multiplied_only_where_the_hardware_can(photo, pays, monkeypatch):
    monkeypatch.setattr(image, "bfloat16_pays", lambda device: pays)
    half = ImageEncoder("tiny_vit", tiny_vit(0), "", device="cpu", dtype=torch.bfloat16)
    stored = {value.dtype for value in half.model.state_dict().values()}
    read = half.model.blocks[3].mlp.fc1.weight.dtype
    assert (stored, read) == ({torch.bfloat16}, torch.bfloat16 if pays else torch.float32)
    by_hand = tiny_vit(0)
    for p in by_hand.parameters(): p.data = p.data.bfloat16().float()       # rounded weights, long products
    exact = ImageEncoder("tiny_vit", by_hand, "", device="cpu").encode(photo[:1, :, :64, :64])[0]
    rounded = lambda encoder: (encoder.encode(photo[:1, :, :64, :64])[0] - exact).abs().max().item() > 1e-3   # short products
    assert rounded(half) is pays
    again = ImageEncoder("tiny_vit", half.model, "", device="cpu", dtype=torch.bfloat16)      # placed twice
    assert rounded(again) is pays
    monkeypatch.setattr(image, "bfloat16_pays", lambda device: not pays)
    elsewhere = ImageEncoder("tiny_vit", tiny_vit(0), "", device="cpu", dtype=torch.bfloat16)
    moved = ImageEncoder("tiny_vit", half.model, "", device="cpu", dtype=torch.bfloat16)     # as to a GPU that can, or back
    assert F.cosine_similarity(moved.encode(photo[:1, :, :64, :64])[0], exact, dim=1).min() > .99
    assert again.identity == half.identity == elsewhere.identity == moved.identity           # the weights', not the hardware's
    assert again.fingerprint == half.fingerprint != elsewhere.fingerprint                    # but their features must not be mixed


@pytest.mark.parametrize("grid, size", [((28, 28), (224, 224)), ((5, 7), (40, 63)), ((1, 3), (4, 9)), ((6, 6), (3, 4))])
def test_bilinear_lists_equal_pytorch(grid, size):
    maps = torch.rand(4, *grid, generator=torch.Generator().manual_seed(1))
    want = F.interpolate(maps[None], size, mode="bilinear", align_corners=False)[0]
    index, weight = bilinear(grid, size)
    assert torch.allclose(mix(maps.flatten(1).T.contiguous(), index, weight).T.reshape(4, *size), want, atol=1e-6)
    torch.testing.assert_close(upsample(maps, size), want)
    torch.testing.assert_close(upsample(maps[None], size)[0], want)
    assert torch.allclose(weight.sum(1), torch.ones(size[0] * size[1]))


def test_mix_is_differentiable():
    features = torch.rand(6, 3, dtype=torch.double, requires_grad=True)
    index, weight = torch.tensor([[0, 5], [2, 2]]), torch.tensor([[.25, .75], [.5, .5]], dtype=torch.double)
    assert torch.autograd.gradcheck(lambda f: mix(f, index, weight), (features,))


def test_similarity_and_colours():
    features = torch.randn(5, 4, 6, generator=torch.Generator().manual_seed(2))
    want = torch.tensor([[F.cosine_similarity(features[:, i, j], features[:, 2, 3], dim=0) for j in range(6)] for i in range(4)])
    assert torch.allclose(similarity(features, 2, 3), want, atol=1e-6)
    colours = pca_colours(features)
    assert colours.shape == (4, 6, 3) and 0 <= colours.min() and colours.max() <= 1
    assert torch.equal(colours, pca_colours(features.clone()))
    assert torch.isfinite(pca_colours(torch.ones(5, 4, 4))).all()  # all patches alike


def test_panel_follows_its_sliders():
    features = torch.randn(5, 4, 6, generator=torch.Generator().manual_seed(3))
    panel = SimilarityPanel(features)
    first = panel.picture.value
    panel.column.value = 4
    assert torch.equal(panel.map, similarity(features, 0, 4)) and panel.picture.value != first


@pytest.mark.skipif(not TIRE.is_dir(), reason="the real photos of ../shared/data are not here")
def test_a_real_photo_gives_finite_and_varied_features(encoder):
    from PIL import Image
    file = next(f for f in sorted(TIRE.rglob("*.png")) if "gt" not in f.parts)
    photo = np.asarray(Image.open(file).convert("RGB").resize((224, 224))).astype(np.float32).transpose(2, 0, 1) / 255
    features = encoder.encode(torch.from_numpy(photo)[None])[0][0]
    assert torch.isfinite(features).all() and similarity(features, 14, 14).std() > 0.01

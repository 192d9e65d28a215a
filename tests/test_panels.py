"""Panels: a scale stays while a control moves, until somebody rescales; every picture has a title and words that follow it."""
import io
import re
from types import SimpleNamespace

import ipywidgets as W
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from test_mapping_text_adaptor import toy_features

from mmad_nb.core import DataError
from mmad_nb.core.charts import color_bar, title_row, titled
from mmad_nb.data import Sample
from mmad_nb.mapping import create_text_mappers
from mmad_nb.mapping.alignment import WeightsPanel
from mmad_nb.mapping.crossmodal import PatchPanel, create_mappers
from mmad_nb.mapping.text_adaptor import AnchorPanel
from mmad_nb.prompts import states
from mmad_nb.scoring.aupro import AuproPanel
from mmad_nb.scoring.fusion import FusionPanel
from mmad_nb.streams.synergy import AttentionPanel


def unit(*shape, seed=0): return F.normalize(torch.randn(*shape, generator=torch.Generator().manual_seed(seed)), dim=1)
def words(widget): return next(c for c in widget._dom_classes if c.startswith("mmad-alt:"))[9:].replace("\u00a0", " ")
def scale(html): return [float(v) for v in re.findall(r"<span>([-\d.e+]+)</span>", html.value)]      # the ends of a bar


def toy_sample(seed=0, size=(8, 8)):
    rng = np.random.default_rng(seed)
    mask = np.zeros(size, bool)
    mask[4:7, 4:7] = True
    return Sample(rng.random((3, *size), np.float32), rng.random((3, *size), np.float32), np.ones(size, bool), mask, "a", "dent", str(seed))


def test_bar_and_titles():
    bar = color_bar(-1, 2.5, "°C < 3", "viridis", 300, values=(0, 1))
    assert "#440154" in bar and "#fde725" in bar and "width:300px" in bar
    assert "<span>-1</span>" in bar and "<span>2.5</span>" in bar and "°C &lt; 3; here 0 to 1" in bar
    assert "<b>here the same everywhere: 2</b>" in color_bar(0, 3, values=(2, 2))
    for wrong in ((1, 1), (2, 1), (0, float("nan"))):
        with pytest.raises(DataError, match="limits"): color_bar(*wrong)
    foot, image = W.HTML(), W.Image(width=120)
    box = titled(image, "a & b", "c", foot=foot)
    assert box.children[1:] == (image, foot) and "width:120px" in box.children[0].value and "a &amp; b" in box.children[0].value
    assert "width:80px" in titled(W.Image(layout=W.Layout(width="80px")), "x").children[0].value and len(titled(image, "x").children) == 2
    assert title_row(["x"], 50).count("flex:1 1 0") == 1


def test_anchor_panel_keeps_the_scale_of_a_sample():
    modules = create_text_mappers(6, 6, 6).eval()
    vectors = {name: unit(3, 6, seed=n) for n, name in enumerate("ab")}
    panel = AnchorPanel(modules, [toy_sample(0), toy_sample(1)], [toy_features(0, True, 0), toy_features(0, True, 1)], vectors)
    before = scale(panel.scale)
    assert before[1] == pytest.approx(panel.map.max().item(), rel=1e-2)
    panel.called.value = "b"
    assert scale(panel.scale) == before and "called b" in words(panel.pictures[2])
    panel.rescale()
    assert panel.tops[0] == panel.map.max().item()
    panel.sample.value = 1
    assert set(panel.tops) == {0, 1} and panel.tops[1] > 0 and "dent called b" in words(panel.pictures[2])


def test_alignment_weights_keep_their_colours_until_rescaled():
    pair = SimpleNamespace(patches=unit(2, 4, 3, 3)), SimpleNamespace(patches=unit(2, 4, 3, 3, seed=1))
    class Views(SimpleNamespace):
        def __len__(self): return 2
    pair = tuple(Views(patches=one.patches) for one in pair)
    panel = WeightsPanel(["one"], [pair], [torch.rand(2, 3, 8, 8)])
    assert panel.top == 1.1
    panel.strength.value = 2.
    assert panel.top == 1.1 and panel.label.value in words(panel.picture)
    before = panel.picture.value
    panel.rescale()
    assert panel.top == 3. and panel.picture.value != before


def test_contrast_panel_keeps_its_scale_while_the_temperature_moves(monkeypatch):
    def psi(mode, modules, text, seen, score, temperature):
        if mode == "none": raise DataError("mode", "no anchor", "two", "Take another.")
        return temperature * torch.arange(64.).reshape(8, 8)
    monkeypatch.setattr(states, "psi_text", psi)
    texts = {name: SimpleNamespace(of=lambda n: n) for name in ("words", "none")}
    panel = states.ContrastPanel({"words": None, "none": None}, texts, ["a"], [toy_sample()], [toy_features()])
    assert scale(panel.scale) == [0, pytest.approx(.07 * 63, abs=.01)]
    panel.temperature.value = .01
    assert scale(panel.scale) == [0, pytest.approx(.07 * 63, abs=.01)] and "0 to 0.63" in words(panel.view)
    panel.rescale()
    assert scale(panel.scale) == [0, .63]
    picture = panel.view.value
    panel.mode.value = "none"
    assert words(panel.view) == "no map" and panel.view.value != picture and panel.scale.value == ""


def test_attention_has_one_scale_for_all_patches_of_a_picture():
    views = SimpleNamespace(names=["front"], size=16, shade=torch.rand(1, 3, 16, 16), depth=torch.rand(1, 3, 16, 16))
    scores = torch.randn(1, 17, 17, generator=torch.Generator().manual_seed(0))
    panel = AttentionPanel({"thing": (views, scores)})
    before = scale(panel.scale)
    panel.row.value = 0
    assert scale(panel.scale) == before and f"{panel.map.max():.1%}" in words(panel.right) and "row 0" in words(panel.left)
    panel.back.value = True
    assert scale(panel.scale) != before


def test_patch_panel_tells_the_numbers_that_its_scale_hides():
    panel = PatchPanel(create_mappers(6, 6).eval(), toy_features())
    panel.strength.value = 3.
    for name, html in panel.scales.items():
        assert scale(html) == [0, panel.tops[name]] and f"{panel.maps[name].max():.2f}" in words(panel.pictures[name])


def test_patch_panel_marks_the_patch_it_moves():
    panel = PatchPanel(create_mappers(6, 6).eval(), toy_features(), row=1, column=0)
    assert (panel.row.value, panel.column.value) == (1, 0)
    before = {name: bytes(picture.value) for name, picture in panel.pictures.items()}
    panel.column.value = 1                                       # strength 0: only the outline of the patch moves
    assert all(bytes(picture.value) != before[name] for name, picture in panel.pictures.items())


def test_fusion_keeps_the_limits_of_the_default_share():
    panel = FusionPanel(torch.rand(1, 9, 9), 5 * torch.rand(1, 9, 9))
    panel.rule.value = "add"
    before = scale(panel.scale)
    panel.alpha.value = 1.
    assert scale(panel.scale) == before and "α = 1.00" in words(panel.picture)


def test_aupro_panel_shows_the_scores_of_small_and_large_defects():
    panel = AuproPanel()
    panel.large.value, panel.small.value = 0., 4.
    picture = np.asarray(Image.open(io.BytesIO(panel.map.value))).astype(int).sum(-1)
    assert picture.shape == (256, 256)                                        # 64 x 64 pixels, each drawn as 4 x 4
    assert picture[176:184, 160:224].mean() > picture[32:144, 32:144].mean() + 100


def test_aupro_panel_zooms_to_its_limit():
    panel = AuproPanel()
    panel.limit.value = .01
    assert panel.chart.frame.x_range == (0, 1)
    panel.zoom.value = True
    assert panel.chart.frame.x_range == (0, .01) and f"{panel.aupro:.3f}" in panel.chart.html.value
    line = re.search(r"<path d='M([^']+)' fill='none' stroke='#0072b2' stroke-width='2'", panel.chart.html.value)[1]
    assert float(line.split("L")[-1].split()[0]) == pytest.approx(545)        # up to the edge, and not beyond

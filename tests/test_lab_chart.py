"Plots as text: where a value lies, what is left out, what a click and a key tell the kernel; and that the widget which waits is made once, and only in a notebook."
import re
import sys
from types import SimpleNamespace

import numpy as np
import pytest
from lab_samples import make_sample

from mmad_nb.core import DataError, widgets
from mmad_nb.lab.decide import ScoreStrip
from mmad_nb.core.charts import Chart, Frame, axis_ticks, band_svg, dot_svg, frame_svg, line_svg
from mmad_nb.lab.figures import curve_plot

FRAME = Frame((2, 6), (-1, 1), "weight <α>", "metric", width=475, height=250, left=60)   # 400 x 200 pixels of plane


def test_corners_of_the_frame():
    assert (FRAME.x(2), FRAME.x(6), FRAME.x(3)) == (60, 460, 160)
    assert (FRAME.y(-1), FRAME.y(1), FRAME.y(.5)) == (210, 10, 60)
    text = frame_svg(FRAME)
    assert "weight &lt;α&gt;" in text and "<α>" not in text
    places = dict(re.findall(r"<text x='([\d.]+)' y='226.0'[^>]*>([^<]+)<", text))
    assert places == {"60.0": "2", "160.0": "3", "260.0": "4", "360.0": "5", "460.0": "6"}
    assert ">first<" in frame_svg(Frame((0, 1), (-.5, 1.5), rows=("first", "second")))


@pytest.mark.parametrize("low, high, ticks", [(0, 1, [0, .2, .4, .6, .8, 1]), (-3, 3, [-2, 0, 2]), (0, .012, [0, .005, .01]), (995, 1005, [996, 998, 1000, 1002, 1004])])
def test_ticks_are_round(low, high, ticks): assert axis_ticks(low, high) == pytest.approx(ticks)


def test_what_is_not_known_is_left_out():
    assert line_svg(FRAME, [2, 3, 6], [-1, np.nan, 1], "red").count("L") == 1 and "nan" not in line_svg(FRAME, [2, 3, 6], [-1, np.nan, 1], "red")
    assert line_svg(FRAME, [2, 3], [np.nan] * 2, "red") == "" == dot_svg(FRAME, 3, np.nan, "red") == dot_svg(FRAME, np.nan, 0, "red")
    band = band_svg(FRAME, [2, 4, 6], [0, np.nan, 0], [1, 1, 1], "red")
    assert re.findall(r"[\d.]+ [\d.]+", band) == ["60.0 110.0", "460.0 110.0", "460.0 10.0", "60.0 10.0"]     # there and back


def test_a_dot_that_can_be_chosen_is_a_button_with_a_name():
    dot = dot_svg(FRAME, 4, 0, "red", label="3: gear's 'dent'", number=3, thick=True)
    assert "role='button' tabindex='0'" in dot and "aria-label='3: gear&#x27;s &#x27;dent&#x27;'" in dot and "aria-pressed='true'" in dot
    assert "data-number='3'" in dot and "button" not in dot_svg(FRAME, 4, 0, "red", label="x")
    chart = Chart("dots", chosen=print)
    chart.draw(FRAME, dot)
    text = chart.html.value
    assert text.count("f.value=g.dataset.number+' '+Date.now()") == 2 and "onclick=" in text and "onkeydown=" in text and "event.key==='Enter'" in text
    assert all(f"'{kind}'" in text for kind in ("input", "change")) and "{{" not in text                   # what ipywidgets 7 and 8 listen to
    assert "if(c?.dataset.held" in text                                                                    # drawn once more before its pixel arrived: there is no chart around it
    plain = Chart("dots")
    plain.draw(FRAME, dot)
    assert "onclick" not in plain.html.value


def test_a_click_on_the_plane_is_a_value_of_x():
    told = []
    chart = Chart("plane", pointed=told.append)
    chart.field.value = "0.5 0"                                            # before anything is drawn
    chart.draw(FRAME)
    for text in ("0 1", "0.25 2", "1 3", "1.2 4", "-0.1 5", "x 6", ""): chart.field.value = text
    assert told == pytest.approx([2, 3, 6, 6, 2])
    rect = re.search(r"<rect x='(\d+)' y='10' width='(\d+)' height='(\d+)'", chart.html.value)
    assert list(map(int, rect.groups())) == [60, 400, 200]
    assert "<rect" not in Chart("dots", chosen=told.append).html.value


def test_the_chosen_dot_lies_on_top_and_rows_are_kinds():
    samples = [make_sample(kind, n) for n, kind in enumerate(("dent", "good", "crack"))]
    strip = ScoreStrip(samples, lambda i: None)
    for chosen in range(3):
        strip.show(np.array([.3, .1, .2]), chosen)
        labels = re.findall(r"<title>(\d):", strip.chart.html.value)
        assert len(labels) == 3 and labels[-1] == str(chosen)
    assert strip.rows == ("good", "crack", "dent") and strip.chart.frame.rows == strip.rows


def test_curves_up_to_a_limit_reach_the_edge():
    chart = curve_plot({"one": ([0, .02, 1], [0, .5, 1])}, "pro", upto=.01)
    path = re.search(r"<path d='M([^']+)' fill='none' stroke='#0072b2' stroke-width='2'", chart.html.value)[1]
    points = [tuple(map(float, p.split())) for p in path.split("L")]
    assert points[0] == (60, 260) and points[-1] == pytest.approx((445, 260 - .25 * 250))
    again = curve_plot({"one": ([0, 1], [0, 1])}, "pro", chart=chart)
    assert again is chart and path not in chart.html.value
    with pytest.raises(DataError, match="upto"): curve_plot({}, "roc", upto=2)


def test_the_widget_that_waits(monkeypatch):
    pytest.importorskip("anywidget")
    monkeypatch.setattr(widgets, "_made", [])
    shell = lambda kernel: SimpleNamespace(get_ipython=lambda: SimpleNamespace(kernel=kernel))
    for module in (None, shell(None)):                                     # plain Python, IPython in a terminal
        if module is None: monkeypatch.delitem(sys.modules, "IPython", raising=False)
        else: monkeypatch.setitem(sys.modules, "IPython", module)
        assert widgets.patient_widgets() is None
    monkeypatch.setitem(sys.modules, "IPython", shell(object()))
    try:
        first = widgets.patient_widgets()
        assert first is widgets.patient_widgets() and len(widgets._made) == 1 and "AbortSignal.timeout" in first._esm
    finally: [one.close() for one in widgets._made]


def test_words_for_a_picture():
    "One text at a time, without a space in the class that carries it; other classes stay."
    import ipywidgets as W
    image = W.Image()
    image.add_class("own")
    assert widgets.described(image, "a map,\n brightest 1") is image
    widgets.described(image, "a map, brightest 2")
    assert image._dom_classes == ("own", widgets.ALT + "a\u00a0map,\u00a0brightest\u00a02")
    with pytest.raises(DataError, match="no words"): widgets.described(image, " ")

"""The published tables are whole, and what is not measured by a table's rule is not compared with it."""
import json

import pytest

from mmad_nb.core.runtime import DataError
from mmad_nb.detectors import list_detectors
from mmad_nb.experiments.protocols import LAYOUTS, PROTOCOLS, RULES, Study
from mmad_nb.experiments.published import CATEGORIES, DETECTORS, TABLES, average_errors, columns, find_tables, load_tables, render, table_dots


@pytest.mark.parametrize("table", TABLES, ids=lambda table: table.name)
def test_published_figures_are_whole(table):
    assert table.dataset in LAYOUTS and table.protocol in PROTOCOLS and (table.rule is None or table.rule in RULES)
    assert bool(table.group) == (table.protocol == "few-shot")
    for method, rows in table.figures.items():
        assert list(rows)[-1] == "average" and len(rows) in (1, 1 + CATEGORIES[table.dataset]), method
        assert list(rows) == table.rows, method
        for row in rows.values():
            assert len(row) == len(table.metrics)
            assert all(0 < v <= 100 for metric, v in zip(table.metrics, row) if metric not in ("memory_mb", "fps"))


def test_detectors_that_are_ours_are_called_as_ours():
    printed = {DETECTORS.get(method, method) for table in TABLES for method in table.figures}
    assert set(list_detectors()) & {"cfm", "text_guided", "cmds", "pointad", "gs_clip", "mcl", "align3d", "mutual"} <= printed


def study(rule="release", forged=False, group="", protocol="unified", detector="cfm", metrics=("image_auroc", "aupro@30")):
    record = lambda c: {"group": group, "trained_on": "all", "category": c, "seed": 0, "defects": {}, "metrics": {rule: dict.fromkeys(metrics, .5)}}
    [table] = find_tables(key="text_guided", number="I")
    return Study({"protocol": protocol, "detector": {"detector": detector}}, {"title": "", "layout": "mvtec", "forged": forged},
                 [record(c) for c in table.rows if c != "average"])


def test_only_the_rule_of_the_table_is_compared():
    [table] = find_tables(key="text_guided", number="I")
    assert columns(table, [study()])["cfm, difference"]["average"] == pytest.approx([50 - 91.58, 50 - 96.42])
    assert "–/–" in render(table, [study(rule="exact")]).splitlines()[-1]            # nothing was measured by `release`
    unknown = find_tables(key="mutual", dataset="mvtec")[0]
    beside = columns(unknown, [study(rule="exact", protocol="per-class", detector="mutual")])
    assert list(beside) == ["MuSc-V2", "**mutual, measured**"]                       # shown, and not subtracted


def test_forged_figures_stand_in_rows_of_their_own():
    [table] = find_tables(key="text_guided", number="I")
    measured = columns(table, [study(forged=True)])["**cfm, measured**"]
    assert all(row.startswith("forged ") for row in measured) and not set(measured) & set(table.rows)
    assert "cfm, difference" not in columns(table, [study(forged=True)]) or not columns(table, [study(forged=True)])["cfm, difference"]


def test_groups_are_not_mixed():
    tables = {t.group: t for t in find_tables(key="cmds", number="1")}
    few = study(group="2-shot", protocol="few-shot")
    assert [group for group, table in tables.items() if len(columns(table, [few])) > len(table.figures)] == ["2-shot"]


def test_a_copying_mistake_is_found(tmp_path):
    content = {"paper": "p", "source": "s", "rule_said": "r", "tables": [
        {"number": "1", "title": "t", "dataset": "mvtec", "protocol": "unified", "group": "", "metrics": ["image_auroc"], "rule": None, "note": "",
         "figures": {"right": {"a": [90.1], "b": [80.2], "average": [85.2]}, "wrong": {"a": [91.1], "b": [80.2], "average": [85.2]}}}]}
    (tmp_path / "p.json").write_text(json.dumps(content))
    [table] = load_tables(tmp_path)
    assert average_errors(table) == [("wrong", "image_auroc", 85.65, 85.2)]
    with pytest.raises(DataError, match="metric 'aupro@30'"): table_dots(table, "aupro@30")


@pytest.mark.parametrize("table", TABLES, ids=lambda table: table.name)
def test_every_table_can_be_drawn(table):
    for metric in table.metrics: assert table_dots(table, metric, [study()]).axes

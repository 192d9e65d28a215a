"""CMDS-AD by the few-shot protocol on forged copies of both of its data sets' layouts, printed beside its Tables 1 and 2."""
import pytest
from layouts import write_eyecandies, write_mvtec

from mmad_nb.experiments.command import main
from mmad_nb.experiments.published import find_tables


@pytest.mark.parametrize("write, number, category, layout, methods", [
    (write_mvtec, "1", "bagel", "mvtec", 9), (write_eyecandies, "2", "CandyCane", "eyecandies", 5)])
def test_both_tables_stand_beside_what_was_measured(tmp_path, capsys, write, number, category, layout, methods):
    data, out = write(tmp_path / "data"), tmp_path / "out"
    call = ["evaluate", "--data", str(data), "--detector", "cmds", "--protocol", "few-shot", "--shots", "1,2", "--options", "steps=1,draws=1", "--out", str(out), "--device", "cpu"]
    assert main(call) == 0, capsys.readouterr()
    measured = capsys.readouterr().out
    assert category in measured and "1-shot" in measured and "2-shot" in measured
    assert main(["tables", "--out", str(out), "--paper", "cmds", "--number", number]) == 0
    printed = capsys.readouterr().out
    for shots in ("1-shot", "2-shot"):
        [table] = [t for t in find_tables(key="cmds", number=number) if t.group == shots]
        assert table.dataset == layout and len(table.figures) == methods
        part = next(block for block in printed.split("cmds, Table ") if block.startswith(f"{number}:") and shots in block.splitlines()[0])
        row = next(line for line in part.splitlines() if line.startswith(f"| {category}"))
        assert "cmds, measured" in part and part.count("|") > 10 and row.count("/") >= methods + 1
        assert all(method in part for method in table.figures)

"""One list for all parts of `make test`: minutes, the slowest notebooks, what failed, and the sum.

    python .ci/summary.py FOLDER drift notebooks unit browser

Each part has left FOLDER/<part>.xml, in the format of pytest's --junitxml; one that did not get that far counts as failed.
"""
import sys
from pathlib import Path
from xml.etree import ElementTree

SLOW = 60   # seconds that a notebook should stay under


def cases(part: str, folder: Path) -> tuple[float, list]:
    "Seconds that a part took, and (name, outcome, seconds, what went wrong) of its cases."
    try:
        root = ElementTree.parse(folder / f"{part}.xml").getroot()
    except (OSError, ElementTree.ParseError):
        return 0., [(part, "failed", 0., "did not come to its end")]
    found = []
    for case in root.iter("testcase"):
        bad, skipped = case.find("failure"), case.find("skipped")
        if bad is None: bad = case.find("error")
        outcome = "failed" if bad is not None else "skipped" if skipped is not None else "passed"
        name = "::".join(filter(None, (case.get("classname"), case.get("name"))))
        found.append((name, outcome, float(case.get("time")), "" if bad is None else (bad.get("message") or "").split("\n")[0][:200]))
    suites = [root] if root.tag == "testsuite" else root.findall("testsuite")
    return sum(float(suite.get("time")) for suite in suites), found or [(part, "failed", 0., "ran no test")]


def main(folder: str, *parts: str):
    count, slowest, failed = dict.fromkeys(("passed", "failed", "skipped"), 0), [], []
    print("\n" + "=" * 100)
    for part in parts:
        seconds, found = cases(part, Path(folder))
        outcomes = [outcome for _, outcome, *_ in found]
        for outcome in outcomes: count[outcome] += 1
        failed += [(part, name, why) for name, outcome, _, why in found if outcome == "failed"]
        if part == "notebooks": slowest = sorted(((took, name) for name, _, took, _ in found), reverse=True)[:10]
        print(f"{part:10}{seconds / 60:6.1f} minutes" + "".join(f", {outcomes.count(o)} {o}" for o in count if o in outcomes))
    if slowest: print("\nslowest notebooks")
    for took, name in slowest: print(f"{took:6.0f} s  {name}" + (f"  OVER {SLOW} s" if took > SLOW else ""))
    if failed: print("\nfailed")
    for part, name, why in failed: print(f"  {part}: {name}\n      {why}")
    print(f"\n{count['passed']} passed, {count['failed']} failed" + (f", {count['skipped']} skipped" if count["skipped"] else ""))
    sys.exit(bool(failed))


if __name__ == "__main__":
    main(*sys.argv[1:])

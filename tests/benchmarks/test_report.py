import json
from xml.etree import ElementTree

import pytest

from benchmarks.kit.harness import RESULTS_DIR, Benchmark
from benchmarks.kit.headlines import HEADLINES, headline_table
from benchmarks.kit.report import write_report


def run_benchmark(results, name="fetch", value=1.25, **more):
    bench = Benchmark(name, f"How fast is {name}?", ["--json", str(results / f"{name}.json"), *more.get("argv", [])])
    bench.table(
        "Ten megabytes", ["contender", "ms", "count"], [["ours", value, 12345], ["a < b", None, 7]], note="A note."
    )
    bench.plot("lines", "Over size", [0.1, 1, 10], {"ours": [1, 2.5, 9], "theirs": [3, None, 40]}, log_x=True)
    bench.plot("bars", "At once", ["ours", "a & b"], {"ms": [value, 0.0]}, y_label="ms")
    bench.plot("stacked", "In parts", ["ours", "theirs"], {"read": [2, 1], "wait": [3, None]}, y_label="ms")
    return bench.finish(f"It takes {value} ms.", {"ms": value})


def test_the_page_tells_every_figure_that_the_line_holds(tmp_path):
    results = tmp_path / "results"
    line = run_benchmark(results)
    page = write_report(results, ["fetch"]).read_text()
    assert "## How fast is fetch?" in page
    assert "[How fast is fetch?](#how-fast-is-fetch)" in page
    assert "It takes 1.25 ms." in page
    assert "| ours | 1.25 | 12,345 |" in page
    assert "| a < b | – | 7 |" in page
    assert "A note." in page
    assert line["command"] in page
    assert line["machine"]["cpu"] in page
    assert f"took {line['seconds']} s" in page
    assert "![Over size](results/fetch-1.svg)" in page
    assert "![At once](results/fetch-2.svg)" in page


def test_plots_are_well_formed_and_show_each_point(tmp_path):
    results = tmp_path / "results"
    run_benchmark(results)
    write_report(results, [])
    lines = ElementTree.parse(results / "fetch-1.svg")
    assert len(lines.findall(".//{*}circle")) == 5
    bars = ElementTree.parse(results / "fetch-2.svg")
    assert "a & b" in [text.text for text in bars.findall(".//{*}text")]


def test_stacked_parts_stand_on_each_other(tmp_path):
    results = tmp_path / "results"
    run_benchmark(results)
    write_report(results, [])
    drawn = ElementTree.parse(results / "fetch-3.svg").findall(".//{*}rect")
    bars = [{name: float(rect.get(name)) for name in ("x", "y", "width", "height")} for rect in drawn]
    read, wait = (bar for bar in bars if bar["x"] == bars[0]["x"])
    assert wait["y"] + wait["height"] == pytest.approx(read["y"], abs=0.1)
    assert wait["height"] == pytest.approx(1.5 * read["height"], abs=0.2)


def test_the_last_run_counts_and_sections_follow_the_order(tmp_path):
    results = tmp_path / "results"
    run_benchmark(results, "late", 1.0)
    run_benchmark(results, "early", 2.0)
    run_benchmark(results, "late", 3.0)
    page = write_report(results, ["early", "late"]).read_text()
    assert "It takes 3.0 ms." in page
    assert "It takes 1.0 ms." not in page
    assert page.index("## How fast is early?") < page.index("## How fast is late?")


def test_a_plot_that_is_no_longer_made_does_not_stay(tmp_path):
    results = tmp_path / "results"
    run_benchmark(results)
    (results / "gone-1.svg").write_text("<svg/>")
    write_report(results, [])
    assert sorted(path.name for path in results.glob("*.svg")) == ["fetch-1.svg", "fetch-2.svg", "fetch-3.svg"]


def test_results_without_tables_are_shown_flat(tmp_path):
    bench = Benchmark("plain", "What else?", ["--json", str(tmp_path / "results" / "plain.json")])
    bench.finish("This.", {"a": {"b": 0.5}, "c": [1]})
    page = write_report(tmp_path / "results", []).read_text()
    assert "| a.b | 0.5 |" in page
    assert "| c.0 | 1 |" in page


@pytest.mark.parametrize(("kind", "x"), [("lines", [1, 2]), ("bars", ["a", "b"])])
def test_plots_of_equal_or_absent_values_are_drawn(tmp_path, kind, x):
    for number, values in enumerate(([5, 5], [0, 0], [None, None], [-1, 1])):
        bench = Benchmark("odd", "?", ["--json", str(tmp_path / "results" / f"odd{number}.json")])
        bench.plot(kind, "t", x, {"s": values}, log_y=number == 0)
        bench.finish("", {})
    write_report(tmp_path / "results", [])
    for path in (tmp_path / "results").glob("*.svg"):
        ElementTree.parse(path)


def test_the_command_does_not_say_where_the_line_was_written(tmp_path, capsys):
    file = str(tmp_path / "x.json")
    for argv in (["--json", file, "--quick"], [f"--json={file}", "--quick"], ["--quick", "--json", file]):
        line = Benchmark("fetch", "?", argv).finish("", {})
        assert line["command"] == "python -m benchmarks fetch --quick"
    assert len((tmp_path / "x.json").read_text().splitlines()) == 3
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["quick"] is True


def overload_record(goodput, date):
    runs = {"1": {"goodput": 10.0}, "10": {"goodput": goodput}}
    return {"benchmark": "overload", "question": "?", "date": date, "results": {"runs": runs}}


def test_the_page_begins_with_figures_in_plain_words_and_what_they_were():
    speeds = {"Sluice": 4.5, "torchcodec": 2}
    records = {
        "overload": [overload_record(8.0, "2026-01-01"), overload_record(9.0, "2026-02-02")],
        "media": [{"date": "2026-01-01", "results": {"speeds": {"1080p 60 s, GOP 250": speeds}}}],
        "fetch": [{"date": "2026-01-01", "results": {}}],
    }
    table = headline_table(records)
    assert [row[1:] for row in table["rows"]] == [
        ["90 %", "", "80 on 2026-01-01"],
        ["4.5 x", "torchcodec 2", "first record"],
    ]


def test_records_that_asked_another_question_have_no_figure_to_compare():
    old = {"date": "2026-01-01", "results": {"capacity": 5}}
    (row,) = headline_table({"overload": [old, overload_record(9.0, "2026-02-02")]})["rows"]
    assert row[-1] == "first record"


def test_the_page_of_the_repository_has_all_its_headlines():
    records = {
        path.stem: [json.loads(line) for line in path.read_text().splitlines()] for path in RESULTS_DIR.glob("*.json")
    }
    assert len(headline_table(records)["rows"]) == len(HEADLINES)

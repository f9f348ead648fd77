"""What `benchmarks.serving.laptop` decides and says; its servers and weights take minutes, and are for its own runs."""

from benchmarks.kit.harness import Benchmark
from benchmarks.kit.shapes import SHAPES
from benchmarks.serving import laptop


def test_bfloat16_is_for_cpus_that_compute_in_it():
    assert laptop.best_dtype("flags : fpu avx2 avx512f") == "float32"
    assert laptop.best_dtype("flags : fpu avx512f avx512_bf16 amx_bf16") == "bfloat16"


def test_each_server_has_a_row_and_each_medium_a_column(capsys):
    shape = SHAPES["Qwen3-VL-2B"]
    runs = {name: {"token_rate": 2.5, "ttft_s": {"p50": 0.5}} for name in ("1 user", "8 users", *shape.media)}
    found = {name: {**runs, "facts": {"said": ""}} for name in ("Sluice", "monolith")}
    bench = Benchmark("laptop", laptop.QUESTION, ["--dtype", "float32"], laptop._options)
    laptop._show(bench, shape, found)
    line = bench.finish(laptop._answer({shape.name: found}), {})
    (table,) = line["tables"]
    assert table["columns"][-1] == "TTFT s of 360p@2s"
    assert [row[0] for row in table["rows"]] == ["Sluice", "monolith"]
    assert "Sluice 2.5 tokens/s for 1 user, 2.5 tokens/s for 8 users" in line["answer"]

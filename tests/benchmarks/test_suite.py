"""The suite of benchmarks: its list, its runner, what results say of themselves, and the page of them."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))

import limits
import record
import step_phases
import step_profile
import suite
import table
from catalogue import BENCHMARKS, GROUPS, Benchmark, Result

from adit_scale.atoms import PackedLayout
from adit_scale.models.config import DenoiserConfig
from adit_scale.models.dit import Denoiser
from adit_scale.models.ladder import LADDER, forward_flops

OLD = {  # as results were before machines had kinds and commits were written down
    "benchmark": "x",
    "command": "python benchmarks/x.py",
    "date": "2026-11-22T05:29:33+00:00",
    "machine": {"processor": "AMD EPYC", "cores": 2, "threads": 2},
    "versions": {"python": "3.11.7", "torch": "2.13.0+cpu"},
    "rows": [record.row("step", 1155.5, "dense", 712.0, "atoms/s", ratio_range=[1.5, 1.75])],
}


# -- the list ------------------------------------------------------------------------------------------


def test_every_result_with_rows_has_its_place_on_the_page():
    named = {result.name for benchmark in BENCHMARKS for result in benchmark.results}
    found = {path.stem for path in record.RESULTS.glob("*.json") if "rows" in json.loads(path.read_text())}
    assert not found - named - {"ratios", "parity_table"}  # a test's, and a table of docs/operations.md


def test_the_list_names_each_benchmark_once_with_a_script_that_is_there():
    names = [benchmark.name for benchmark in BENCHMARKS]
    assert len(set(names)) == len(names)
    for benchmark in BENCHMARKS:
        assert benchmark.group in GROUPS
        assert (record.REPO / "benchmarks" / benchmark.command.split()[0]).is_file(), benchmark.name
        assert benchmark.usual <= (benchmark.where == "cpu")


def test_a_plain_run_ends_within_a_quarter_of_an_hour():
    assert sum(benchmark.about_s for benchmark in suite.choose([], [], long=False)) <= 15 * 60


# -- the runner ----------------------------------------------------------------------------------------


@pytest.fixture
def three(tmp_path, monkeypatch) -> Path:
    """A repository of three benchmarks, the first of which fails; its folder of logs."""
    scripts = {"bad": "raise SystemExit('it broke')", "good": "print('fine')", "later": "print('long')"}
    (tmp_path / "benchmarks").mkdir()
    for name, code in scripts.items():
        (tmp_path / "benchmarks" / f"{name}.py").write_text(code)
    made = [
        Benchmark(name, "data", f"{name}.py", 1, (Result(name, name),), usual=name != "later")
        for name in scripts
    ]
    made.append(Benchmark("far", "data", "far.py", 1, (Result("far", "far"),), where="slurm"))
    monkeypatch.setattr(suite, "BENCHMARKS", made)
    monkeypatch.setattr(suite, "REPO", tmp_path)
    monkeypatch.setattr(suite, "LOGS", tmp_path / "logs")
    return tmp_path / "logs"


def test_one_that_fails_does_not_lose_the_others(three, capsys):
    assert suite.main(["--no-table"]) == 1
    printed = capsys.readouterr()
    assert "[1/2] bad" in printed.out
    assert "FAILED with status 1" in printed.out
    assert "[2/2] good" in printed.out
    assert "failed: bad; see logs/" in printed.err
    assert (three / "good.log").read_text() == "fine\n"
    assert "it broke" in (three / "bad.log").read_text()
    assert not (three / "later.log").exists()


def test_long_ones_and_named_ones(three, capsys):
    assert suite.main(["--no-table", "--long"]) == 0
    assert [path.name for path in three.iterdir()] == ["later.log"]
    assert suite.main(["--no-table", "--only", "good", "far"]) == 0
    assert "far: skipped, it needs SLURM (make dev-cluster)" in capsys.readouterr().out
    assert suite.main(["--only", "godo"]) == 2
    assert capsys.readouterr().err == "suite.py: --only is 'godo'; expected one of bad, good, later\n"


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU is there")
def test_without_a_gpu_its_benchmarks_are_refused_in_a_line(capsys):
    assert suite.main(["--gpu", "--parts", "check"]) == 2
    printed = capsys.readouterr().err
    assert printed == "suite.py: no CUDA device is visible; on a machine with one: make bench-gpu\n"


# -- results -------------------------------------------------------------------------------------------


def test_a_result_says_what_ran_where_on_what_and_when(tmp_path, capsys):
    result = record.record("x", ["torch"], OLD["rows"], {"copy_bytes_per_s": 1e10})
    record.write("x", result, tmp_path)
    printed = capsys.readouterr()
    kept = json.loads((tmp_path / "x.json").read_text())
    assert json.loads(printed.out) == kept
    assert kept["machine"]["kind"].endswith(f"{kept['machine']['cores']} cores") or "gpu" in kept["machine"]
    assert kept["machine"]["threads"] == torch.get_num_threads()
    assert kept["limits"] == {"copy_bytes_per_s": 1e10}
    assert kept["took_s"] >= 0
    for line in ("command   python", "machine   ", "versions  python ", f"date      {kept['date']}"):
        assert line in printed.err
    assert "  step: 1,156 atoms/s; 1.62 x dense" in printed.err


def test_the_commit_is_written_down_and_whether_files_differ(tmp_path):
    def git(*words: str) -> str | None:
        return record._git(tmp_path, "-c", "user.name=a", "-c", "user.email=a@b", *words)

    assert record.git_state(tmp_path) is None
    git("init")
    (tmp_path / "code.py").write_text("1")
    git("add", ".")
    git("commit", "-m", "first")
    commit = git("rev-parse", "HEAD")
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "page.md").write_text("made by a benchmark")
    assert record.git_state(tmp_path) == {"commit": commit, "dirty": False}
    (tmp_path / "code.py").write_text("2")
    assert record.git_state(tmp_path) == {"commit": commit, "dirty": True}


def test_limits_are_rates_of_products_and_copies_measured_once(monkeypatch):
    monkeypatch.setattr(limits, "SIZES_CPU", (64, 128))
    monkeypatch.setattr(limits, "COPY_BYTES", {"cpu": 2**20})
    limits.measured_limits.cache_clear()
    threads = torch.get_num_threads()
    try:
        found = limits.measured_limits("cpu", 1)
        assert limits.measured_limits("cpu", 1) is found
        assert [row["unit"] for row in limits.rows("cpu", 1)] == ["GFLOP/s", "GFLOP/s", "GB/s"]
    finally:
        limits.measured_limits.cache_clear()
    assert found["matmul_fp32_size"] == found["matmul_bf16_size"] == 128
    assert min(found[key] for key in found if key.endswith("_per_s")) > 1e6
    assert torch.get_num_threads() == threads


# -- the page ------------------------------------------------------------------------------------------


def test_old_and_new_results_become_rows_and_what_is_not_measured_a_command(tmp_path):
    (tmp_path / "loop_overhead-dit_192.json").write_text(json.dumps(OLD))
    new = record.record("y", ["torch"], [record.row("start", 0.5, "torch", 2.0, "s", note="25% of it")])
    (tmp_path / "start_up.json").write_text(json.dumps(new))
    lines = table.tables(tmp_path).splitlines()
    assert "| step | 1,156 atoms/s | 1.62 (1.50 to 1.75) | dense: 712 atoms/s | 1 |" in lines
    assert "| start: 25% of it | 0.5 s | 0.25 | torch: 2 s | 2 |" in lines
    missing = "| limits of this machine, CPU | not measured | | `python benchmarks/limits.py --threads 2` | |"
    assert missing in lines
    assert "1. `python benchmarks/x.py`: AMD EPYC, 2 cores, 2 threads; python 3.11.7" in "\n".join(lines)
    assert [f"### {heading}" for heading in GROUPS.values()] == [
        line for line in lines if line.startswith("### ") and line not in ("### Targets", "### Runs")
    ]


def test_shown_and_least_keep_the_page_short(tmp_path, monkeypatch):
    rows = [record.row(f"case {i}", float(i), "b", 1.0, "") for i in (3, 1, 2)]
    (tmp_path / "x.json").write_text(json.dumps({**OLD, "rows": rows}))
    for result, expected in (
        (Result("x", "X", least=True), ["| X, least of 3 cases: case 1 | 1 | 1.00 | b: 1 | 1 |"]),
        (Result("x", "X", titled=True, shown="[3]"), ["| X: case 3 | 3 | 3.00 | b: 1 | 1 |",
         "| 2 more rows in [x.json](../benchmarks/results/x.json) | | | | 1 |"]),
    ):  # fmt: skip
        benchmark = Benchmark("x", "data", "x.py", 1, (result,))
        assert table._result_lines(benchmark, result, tmp_path, []) == expected


def test_the_page_is_made_from_the_results_that_are_there():
    assert table.remade(table.PAGE.read_text()) == table.PAGE.read_text(), "python benchmarks/table.py"


# -- the profile of a step -----------------------------------------------------------------------------


class Sleeping(torch.autograd.Function):
    """Takes 10 ms forward and 30 ms backward."""

    @staticmethod
    def forward(ctx, x: Tensor) -> Tensor:
        time.sleep(0.01)
        return x.clone()

    @staticmethod
    def backward(ctx, gradient: Tensor) -> Tensor:
        time.sleep(0.03)
        return gradient


def test_time_is_counted_to_the_phase_whose_operation_it_is(monkeypatch):
    net = Denoiser(DenoiserConfig(width=32, depth=2, heads=1))
    for block in net.blocks:
        assert isinstance(block, nn.Module)
        fc2 = block.mlp.fc2
        block.mlp.fc2 = nn.Sequential(fc2)
        fc2.register_forward_hook(lambda module, args, out: Sleeping.apply(out))
    layout = PackedLayout.from_sizes([3, 4])
    x_td, labels_s = torch.randn(7, 8), torch.ones(2, dtype=torch.int64)

    def run() -> None:
        with step_phases.phase(step_phases.STEP):
            with torch.no_grad():
                net(x_td, None, torch.rand(2), labels_s, labels_s, layout)
            net(x_td, x_td, torch.rand(2), labels_s, labels_s, layout).sum().backward()

    with step_phases.phases_of_network(net):
        found = step_phases.profiled(run, torch.device("cpu"))
    assert found[step_phases.SELF] > 0.02
    # Lower bounds: a busy machine makes everything longer, and each sleep is counted once.
    assert found[step_phases.MLP] > 0.02
    assert found[f"{step_phases.MLP}, backward"] > 0.06
    assert set(found) <= set(step_phases.PHASES)
    others = set(found) - {step_phases.SELF, step_phases.MLP, f"{step_phases.MLP}, backward"}
    assert {f"{step_phases.ATTENTION}, backward", f"{step_phases.NORM}, backward"} <= others
    assert not net._forward_hooks


def test_products_of_the_phases_add_up_to_the_forward_of_the_ladder():
    config, sizes = LADDER["dit_192"], np.array([9, 20, 44])
    flops = step_profile.phase_flops(config, sizes)
    in_blocks = (step_phases.PRODUCTS, step_phases.MLP, step_phases.ATTENTION, step_phases.MODULATION)
    whole = forward_flops(config, sizes.tolist())
    assert 0.97 * whole < sum(flops[key] for key in in_blocks) < whole
    assert all(flops[f"{key}, backward"] == 2 * flops[key] for key in in_blocks)
    assert flops[step_phases.SELF] == whole / 2

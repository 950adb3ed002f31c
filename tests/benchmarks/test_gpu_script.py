"""The one script of all GPU numbers, and the parts of it that a CPU can run."""

from __future__ import annotations

import json
import re
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
sys.path.insert(0, str(BENCHMARKS))

import dense_denoiser  # noqa: E402
import gpu  # noqa: E402
import gpu_check  # noqa: E402
import gpu_sweep  # noqa: E402
import targets  # noqa: E402
import training_step  # noqa: E402
from training_step import VARIANTS, StepOptions, compare_steps  # noqa: E402

# A benchmark of its own: two rows, the second of which takes longer than it is given.
FAKE = """
import json, pathlib, sys, time
out = pathlib.Path(sys.argv[sys.argv.index("--out") + 1])
def row(what):
    return {"what": what, "value": 2.0, "baseline": "one", "baseline_value": 1.0, "unit": "s", "ratio": 2.0}
def write(rows, partial):
    (out / "fake.json").write_text(json.dumps({"rows": rows, "partial": partial}))
write([row("first")], True)
if "--fail" in sys.argv:
    sys.exit("it broke")
time.sleep(60 if "--slow" in sys.argv else 0)
write([row("first"), row("second")], False)
"""


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "benchmarks").mkdir()
    (tmp_path / "benchmarks" / "fake.py").write_text(FAKE)
    monkeypatch.setattr(gpu, "REPO", tmp_path)
    return tmp_path / "out"


def run(monkeypatch: pytest.MonkeyPatch, out: Path, *words: str, more: tuple[str, ...] = ()) -> int:
    task = gpu.Task("check", "fake", lambda call: ["fake.py", *words], about_s=1)
    monkeypatch.setattr(gpu, "TASKS", (task,))
    return gpu.main(["--out", str(out), "--device", "cpu", "--parts", "check", *more])


def test_a_task_is_run_once_and_what_it_wrote_is_bundled(fake, tmp_path, monkeypatch, capsys):
    archive = tmp_path / "all.tar.gz"
    assert run(monkeypatch, fake, more=("--bundle", str(archive))) == 0
    said = capsys.readouterr().out
    assert "check: fake: done" in said
    assert "    second: 2 s; 2 x one" in said
    with tarfile.open(archive) as file:
        assert sorted(file.getnames()) == ["fake.json", "logs/fake.log"]
    assert run(monkeypatch, fake) == 0
    assert "check: fake: kept from before" in capsys.readouterr().out
    assert run(monkeypatch, fake, more=("--again",)) == 0
    assert "check: fake: done" in capsys.readouterr().out


def test_a_task_cut_short_keeps_what_it_had_and_is_run_again(fake, monkeypatch, capsys):
    assert run(monkeypatch, fake, "--slow", more=("--limit-s", "3")) == 0
    said = capsys.readouterr().out
    assert "check: fake: cut short" in said
    assert "    first: 2 s; 2 x one" in said
    assert "second" not in said
    assert run(monkeypatch, fake) == 0
    assert "check: fake: done" in capsys.readouterr().out


def test_a_task_that_fails_says_why_and_one_without_time_is_left(fake, monkeypatch, capsys):
    assert run(monkeypatch, fake, "--fail") == 1
    assert "    | it broke" in capsys.readouterr().out
    assert run(monkeypatch, fake, more=("--limit-s", "0.1")) == 0
    assert "left for another call: fake" in capsys.readouterr().out
    assert gpu.main(["--parts", "chek"]) == 2
    assert capsys.readouterr().err == (
        "gpu.py: --parts has 'chek'; expected some of "
        "check,step,zero,sampling,modulation,memory,profile,study\n"
    )


def test_every_task_names_a_script_and_parts_come_in_order():
    call = gpu.Call(Path("out"), "cuda", tiny=False, data=Path("shards"), left_s=500)
    scripts = {task.command(call)[0] for task in gpu.TASKS}
    assert [name for name in sorted(scripts) if not (BENCHMARKS / name).is_file()] == []
    parts = [task.part for task in gpu.TASKS]
    assert parts == sorted(parts, key=gpu.PARTS.index)
    assert len({task.result for task in gpu.TASKS}) == len(gpu.TASKS)
    assert {task.part for task in gpu.chosen_tasks(gpu.PARTS, None)} == set(gpu.PARTS) - {"study"}


def test_the_step_goes_on_at_the_capacity_that_the_sweep_found_best(tmp_path):
    sweep = {"rows": [], "best": {"mfu": 0.4, "atoms": 32768}}
    (tmp_path / "training_step-gpu-dit_b-sweep.json").write_text(json.dumps(sweep))
    call = gpu.Call(tmp_path, "cuda", tiny=False, data=None)
    (task,) = (task for task in gpu.TASKS if task.result == "training_step-gpu-dit_b-qm9_mp20")
    words = task.command(call)
    assert words[words.index("--atoms") + 1] == "32768"


def test_targets_read_the_rows_that_are_written(tmp_path):
    """Of every target of the training step, the rows that count are those of the packed bf16 sides."""
    for target in targets.TARGETS:
        if not target.result.startswith("training_step-"):
            continue
        _, _, rung, mix = target.result.split("-")
        wanted = [v.name for v in VARIANTS.values() if v.packed and v.dtype == torch.bfloat16]
        mfu = ", MFU" if target.name.startswith("MFU") else ""
        written = [f"{rung} step, {mix}, {v.name}{end}" for v in VARIANTS.values() for end in ("", ", MFU")]
        found = [what for what in written if re.search(target.rows, what)]
        assert found == [f"{rung} step, {mix}, {name}{mfu}" for name in wanted], target.name
    rows = [{"what": f"dit_b step, ZeRO {i}, bf16, 9 atoms", "ratio": r} for i, r in ((1, 0.97), (2, 0.9))]
    (tmp_path / "gpu-zero-dit_b.json").write_text(json.dumps({"rows": rows}))
    (zero,) = (v for v in targets.judge(tmp_path, "gpu") if v.found is not None)
    assert (zero.found, zero.met) == (0.9, False)  # the worse of the two counts
    lines = targets.table(targets.judge(tmp_path)).splitlines()
    assert sum("not measured" in line for line in lines) == len(targets.TARGETS) - 1
    assert "| at least 0.95 times | 0.9 times | no |" in "\n".join(lines)


def test_sizes_are_those_of_the_data_sets():
    rng = np.random.default_rng(0)
    assert len(dense_denoiser.GEOM_DRUGS_HISTOGRAM) == 176
    drugs, domains = dense_denoiser.draw_sets(rng, "geom_drugs", 50_000)
    assert drugs.mean() == pytest.approx(46.7, abs=0.2)
    assert (drugs > 90).mean() == pytest.approx(0.0019, abs=0.0008)
    assert set(domains) == {2}
    mixed, domains = dense_denoiser.draw_sets(rng, "qm9_mp20", 50_000)
    assert mixed[domains == 2].mean() == pytest.approx(18.2, abs=0.1)
    assert mixed[domains == 1].mean() == pytest.approx(9.6, abs=0.1)
    assert (domains == 1).mean() == pytest.approx(0.5, abs=0.01)


def test_packed_and_dense_steps_compute_the_same(monkeypatch):
    keys = ("matmul_fp32_size", "matmul_fp32_flops_per_s", "matmul_bf16_size", "matmul_bf16_flops_per_s")
    monkeypatch.setattr(training_step, "measured_limits", lambda *_: dict.fromkeys(keys, 10**12))
    options = StepOptions(
        rung="dit_32", threads=torch.get_num_threads(), atoms=300, batches=4, sides=("dense", "fp32", "bf16")
    )
    found = compare_steps(options)
    assert found["largest_output_difference"] < 1e-5
    parity = found["loss_parity"]
    assert parity["steps"] == 5
    assert parity["largest_relative_difference"]["dense padded, fp32"] < 1e-5
    assert parity["within"]
    assert parity["loss_last"] != parity["loss_first"]
    names = [row["what"] for row in found["rows"]]
    assert "dit_32 step, qm9_mp20, packed, bf16" in names
    assert "dit_32 step, qm9_mp20, packed, fp32, MFU" in names
    assert all(row["value"] > 0 for row in found["rows"])


def test_compiled_blocks_would_see_one_shape():
    for mix in dense_denoiser.MIXES:
        rng = np.random.default_rng(0)
        batches = training_step.draw_batches(rng, mix, 8, 512, 8, torch.device("cpu"))
        shapes = {(b.fixed.n_atoms, b.fixed.n_sets, b.fixed.max_atoms) for b in batches}
        assert len(shapes) == 1
        assert all(int(b.fixed.sizes_s.max()) <= b.fixed.max_atoms for b in batches)
        assert all(b.n_atoms == b.layout.n_atoms <= b.fixed.n_atoms for b in batches)
        assert all((np.diff(b.sizes) >= 0).all() for b in batches)


def test_a_padded_batch_that_does_not_fit_is_halved_and_a_packed_side_leaves(monkeypatch):
    rng = np.random.default_rng(0)
    batches = training_step.draw_batches(rng, "qm9_mp20", 1, 400, 8, torch.device("cpu"))
    weights = training_step.Denoiser(training_step.LADDER["dit_32"])
    sides = {key: training_step.Side(VARIANTS[key], weights) for key in ("dense", "fp32")}
    largest = training_step.dense_loss

    def loss(model, sets):
        if len(sets.t_s) > 8:
            raise torch.cuda.OutOfMemoryError
        return largest(model, sets)

    monkeypatch.setattr(training_step, "dense_loss", loss)
    assert training_step.fit_dense_sets(sides, batches, 64) == 8
    assert max(len(s.t_s) for s in batches[0].padded_sets) <= 8
    assert sum(len(s.atoms) for s in batches[0].padded_sets) == batches[0].n_atoms

    def too_large(*_, **__):
        raise torch.cuda.OutOfMemoryError

    monkeypatch.setattr(sides["fp32"], "turn", too_large)
    assert training_step.warm_up(sides, batches) == ["fp32"]
    assert list(sides) == ["dense"]
    monkeypatch.setattr(sides["dense"], "turn", too_large)
    with pytest.raises(torch.cuda.OutOfMemoryError):
        training_step.warm_up(sides, batches)


def test_a_sweep_ends_where_memory_ends_and_keeps_the_best(tmp_path, monkeypatch):
    def measured(options: StepOptions) -> dict:
        if options.atoms > 200:
            raise torch.cuda.OutOfMemoryError
        share = {100: 0.5, 200: 0.4}[options.atoms]
        return {"rows": [{"what": "MFU", "value": 1.0, "baseline": "b", "baseline_value": 1.0, "unit": "",
                          "ratio": share}]}  # fmt: skip

    monkeypatch.setattr(gpu_sweep, "compare_steps", measured)
    monkeypatch.setattr(gpu_sweep, "measured_limits", lambda *_: {"device": "cpu"})
    options = [StepOptions(atoms=atoms) for atoms in (100, 200, 300, 400)]
    found = gpu_sweep.sweep(options, "sweep", tmp_path)
    assert (found["best"]["atoms"], found["does_not_fit"], found["partial"]) == (100, 300, False)
    assert [row["what"] for row in found["rows"]] == ["MFU, 100 atoms", "MFU, 200 atoms"]
    assert json.loads((tmp_path / "sweep.json").read_text())["best"] == found["best"]


def test_the_check_sees_right_and_wrong_numerics(monkeypatch):
    rows = gpu_check.numerics(["fp32", "bf16"], torch.device("cpu"))
    assert len(rows) == 8
    assert all(0 < row["value"] < row["baseline_value"] for row in rows)
    monkeypatch.setattr(gpu_check, "prepared", _off_by_a_percent(gpu_check.prepared))
    rows = gpu_check.numerics(["fp32"], torch.device("cpu"))
    assert all(row["value"] > row["baseline_value"] for row in rows)


def _off_by_a_percent(prepared):
    def changed(weights, key, device):
        model = prepared(weights, key, device)
        with torch.no_grad():
            model.final.head.weight.mul_(1.01)
        return model

    return changed

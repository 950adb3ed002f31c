"""What a study will cost: by hand, against runs that were measured, and what the budget refuses."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from adit_scale.config import StudyConfig
from adit_scale.errors import ConfigError
from adit_scale.jobs.node import NodeFolder, Result
from adit_scale.models.ladder import autoencoder_flops, denoiser_parameters, encoder_flops, training_flops
from adit_scale.scaling import costs
from adit_scale.scaling.config import BudgetConfig
from adit_scale.scaling.points import EpochContents, epoch_contents
from adit_scale.training.memory import plan_memory
from launchers.compose import Study, compose_study
from launchers.cost_table import table_text
from launchers.costs import check_budget, plan, steps_done, study_costs
from launchers.graph import Graph, freeze, study_graph

# 3 sets of 2 atoms twice an epoch, 4 sets of 12 atoms half as often: 12 + 24 atoms, 6 + 2 sets an epoch.
STORED = np.bincount([2] * 3 + [12] * 4)
EPOCH = EpochContents(2.0 * np.bincount([2] * 3, minlength=13) + 0.5 * np.bincount([12] * 4), STORED)


def config_of(*words: str) -> StudyConfig:
    return compose_study(["model/denoiser=dit_64", *words]).points[0].config


def study_of(tmp_path: Path, *words: str) -> tuple[Study, Graph]:
    study = compose_study(["sweep=scaling_demo", f"runs={tmp_path}/runs", *words])
    return study, study_graph(study.config, study.points, study.folder, study.launcher)


def finish(graph: Graph, *nodes_in_order: str) -> None:
    """Mark nodes as done, by name, as their jobs would."""
    for name in nodes_in_order:
        node = next(n for n in graph.nodes if n.name == name)
        freeze([node], graph.study)
        (node.folder / "out.txt").write_text(name)
        NodeFolder.load(node.folder).succeed(Result((node.folder / "out.txt",)), 1.0)


# -- arithmetic ------------------------------------------------------------------------------------------


def test_flops_of_a_run_by_hand():
    words = ("diffusion.steps=10", "diffusion.atom_budget=360", "diffusion.latent_cache=0")  # 100 epochs
    config = config_of(*words)
    flops, total = costs.diffusion_flops(config, EPOCH)
    sizes = [2] * 6 + [12] * 2
    np.testing.assert_allclose(flops, 100 * training_flops(config.model.denoiser, sizes, 0.5), rtol=1e-12)
    encoder = 100 * encoder_flops(config.model.autoencoder, sizes)
    np.testing.assert_allclose(total - flops, encoder, rtol=1e-12)


def test_a_latent_cache_takes_the_encoder_out_of_the_steps():
    config = config_of("diffusion.latent_cache=3")
    flops, total = costs.diffusion_flops(config, EPOCH)
    assert flops == total
    stored = [2] * 3 + [12] * 4  # each once, however often it is visited
    once = encoder_flops(config.model.autoencoder, stored)
    np.testing.assert_allclose(costs.latent_cache_flops(config, EPOCH), 3 * once, rtol=1e-12)
    assert costs.latent_cache_bytes(config, EPOCH) == 3 * 8 * config.model.autoencoder.latent * (6 + 48)


def test_flops_of_sampling_count_guidance_and_decoding():
    words = ("sampling.crystals=5", "sampling.molecules=2", "sampling.steps=10", "sampling.atoms='4'")
    guided = costs.sampling_flops(config_of(*words), EPOCH)
    plain = costs.sampling_flops(config_of(*words, "sampling.guidance_scale=1"), EPOCH)
    config = config_of(*words)
    decoding = autoencoder_flops(config.model.autoencoder, [4]) - encoder_flops(config.model.autoencoder, [4])
    np.testing.assert_allclose(guided - plain, plain - 7 * decoding, rtol=1e-12)
    heun = costs.sampling_flops(config_of(*words, "sampling.guidance_scale=1", "sampling.solver=heun"), EPOCH)
    np.testing.assert_allclose((heun - 7 * decoding) / (plain - 7 * decoding), 18 / 10, rtol=1e-12)


def test_flops_against_a_measured_study():
    """The journals of a finished demo study; a step stops short of its budget, so the plan is above."""
    study = compose_study(["sweep=scaling_demo", "diffusion.latent_cache=0"])
    config = next(p.config for p in study.points if p.label == "dit_128")
    epoch = epoch_contents(config.data)
    flops, total = costs.diffusion_flops(config, epoch)
    assert 1.0 <= flops / 24718011609088 < 1.01
    assert 1.0 <= total / 31494998507008 < 1.01
    assert 1.0 <= costs.autoencoder_run_flops(config, epoch) / 12045532823040 < 1.01


def test_bytes_of_a_run():
    config = config_of("model/denoiser=dit_128", "diffusion=demo")
    n = denoiser_parameters(config.model.denoiser)
    # Measured: a checkpoint of dit_128 on one rank, and the exported weights.
    assert abs(20869488 / (16 * n) - 1) < 0.002
    assert abs(5216440 / (4 * n) - 1) < 0.002
    # Two last ones, one before the decay, one being written; 4 snapshots that wait; the export.
    assert costs.training_bytes(config.diffusion, n, 1.0) == 4 * 16 * n + 4 * 4 * n + 4 * n
    few = replace(config.diffusion, steps=600, samples_every_steps=0, branch_steps=[100])
    assert costs.training_bytes(few, n, 1.0) == 4 * 16 * n + 4 * n  # 2 by the interval, 1 branch, 1 decay
    hourly = replace(few, steps=100_000, keep_every_hours=0.5, keep_best="validation/loss")
    assert costs.training_bytes(hourly, n, 2.1) == (4 + 1 + 1 + 5) * 16 * n + 4 * n


def test_memory_of_a_rank():
    config = config_of("model/denoiser=dit_s")
    on_gpu, precision = costs.rank_memory(config, "diffusion", True)
    assert precision == "bf16"
    parallel = replace(config.parallel, precision="bf16")
    assert on_gpu == plan_memory(config.model, parallel, "diffusion", True).peak_bytes
    parallel = replace(config.parallel, precision="fp32")
    cpu = plan_memory(config.model, parallel, "diffusion", False)
    assert costs.rank_memory(config, "diffusion", False) == (cpu.peak_bytes + cpu.host_bytes, "fp32")
    whole = replace(config, parallel=replace(config.parallel, zero_stage=0))
    assert costs.rank_memory(whole, "diffusion", True)[1] == "fp32"  # which ZeRO 0 must be


def test_assumed_sizes_cost_about_as_much_as_others():
    config = config_of("model/denoiser=dit_s")
    assumed = costs.diffusion_flops(config, costs.ASSUMED)[0]
    for n in (7, 30, 200):
        one = costs.diffusion_flops(config, EpochContents(np.eye(n + 1)[n]))[0]
        assert abs(one / assumed - 1) < 0.06


# -- studies ---------------------------------------------------------------------------------------------


def test_gpu_hours_of_a_study(tmp_path):
    study, graph = study_of(tmp_path, "budget.gpu=a100", "budget.mfu=0.5", "diffusion.latent_cache=0")
    found = study_costs(study, graph)
    point = found.points[0]
    assert point.run.gpu_hours == pytest.approx(point.run.flops / (0.5 * 312e12 * 3600))
    assert point.run.flops > point.flops  # with the encoder
    assert [job.name for job in found.shared] == ["autoencoder"]
    assert found.gpu_hours_left == found.gpu_hours == pytest.approx(sum(j.gpu_hours for j in found.jobs))
    assert not found.estimated
    assert found.rate == "50% of A100 bf16 312T"


def test_hours_of_a_known_network_are_those_of_the_step_model(tmp_path):
    plain, graph = study_of(tmp_path, "parallel.world_size=16", "parallel.zero_stage=1")
    study, _ = study_of(
        tmp_path, "parallel.world_size=16", "parallel.zero_stage=1", "budget.network=nvlink_ib"
    )
    before, found = study_costs(plain, graph), study_costs(study, graph)
    for point, old, own in zip(found.points, before.points, study.points, strict=True):
        contents = epoch_contents(graph.node_of("diffusion", point.point).config.data)
        time = costs.diffusion_step(own.config, study.config.budget, contents)
        assert point.hours == pytest.approx(own.config.diffusion.steps * time.step_s / 3600)
        assert point.run.gpu_hours == pytest.approx(16 * point.hours)
        assert point.hours > old.hours  # exchange and the host come on top of FLOPs
    assert [job.gpu_hours for job in found.shared] == [job.gpu_hours for job in before.shared]
    assert "of the step model over nvlink_ib" in table_text(found)
    assert "step model" not in table_text(before)


def test_only_what_is_left_counts(tmp_path):
    study, graph = study_of(tmp_path)
    before = study_costs(study, graph)
    finish(graph, "shards demo", "autoencoder", "diffusion dit_32", "evaluation dit_32", "diffusion dit_64")
    running = graph.node_of("diffusion", "dit_96").folder / "checkpoints"
    for step, marker in ((500, True), (1000, True), (1500, False)):
        (running / f"step-{step:08d}").mkdir(parents=True)
        if marker:
            (running / f"step-{step:08d}" / "COMMITTED").write_text("{}")
    assert steps_done(running.parent) == 1000
    found = study_costs(study, graph)
    shares = [p.run.gpu_hours_left / p.run.gpu_hours for p in found.points]
    assert shares == [0, 0, 0.75, 1]
    assert [p.scoring.gpu_hours_left > 0 for p in found.points] == [False, True, True, True]
    assert [p.status for p in found.points] == ["done", "trained", "not started", "not started"]
    assert found.shared[0].gpu_hours_left == 0
    assert found.gpu_hours == before.gpu_hours
    assert found.points[0].run.disk_left_bytes == 0
    assert "not started, 25% trained" in table_text(found)


def test_points_that_share_a_run_cost_it_once(tmp_path):
    study, graph = study_of(tmp_path, "model/denoiser=dit_32", "diffusion.log_every_steps=10,20")
    found = study_costs(study, graph)
    assert len(found.points) == 2
    runs = [job for job in found.jobs if job.name.startswith("diffusion")]
    assert len(runs) == 1


def test_a_latent_cache_is_shared_by_the_points(tmp_path):
    study, graph = study_of(tmp_path, "diffusion.latent_cache=2")
    found = study_costs(study, graph)
    assert [job.name for job in found.shared] == ["autoencoder", "latents"]
    finish(graph, "shards demo", "autoencoder", "diffusion dit_64")
    assert study_costs(study, graph).shared[1].gpu_hours_left == 0


def test_ranks_are_those_that_slurm_gives(tmp_path):
    words = ("launcher=slurm", "launcher.gpus_per_node=4", "+launcher.by_size.dit_128={nodes:2,zero_stage:2}")
    study, graph = study_of(tmp_path, *words)
    found = study_costs(study, graph)
    small, large = found.points[0], found.points[-1]
    assert (small.resources.world_size, large.resources.world_size) == (4, 8)
    assert large.hours == pytest.approx(large.run.gpu_hours / 8)
    assert large.on_gpu
    parallel = replace(study.config.parallel, precision="bf16", zero_stage=2, world_size=8)
    model = study.points[-1].config.model
    assert large.memory_bytes == plan_memory(model, parallel, "diffusion", True).peak_bytes


def test_without_gpus_the_plan_says_so(tmp_path):
    study, graph = study_of(tmp_path, "launcher=slurm", "launcher.gpus_per_node=0")
    text = table_text(study_costs(study, graph))
    assert "GiB/rank" in text
    assert "No GPUs are asked for" in text
    assert "fp32" in text


# -- budget ----------------------------------------------------------------------------------------------


def test_over_budget_is_one_line(tmp_path):
    study, graph = study_of(tmp_path, "budget.gpu_hours=1e-6")
    with pytest.raises(ConfigError) as error:
        check_budget(study_costs(study, graph))
    line = str(error.value)
    assert "budget.gpu_hours is 1e-06" in line
    assert "largest points: dit_128" in line
    assert "40% of H100 SXM bf16 989T" in line
    assert "\n" not in line


def test_the_budget_is_for_what_is_left(tmp_path):
    study, graph = study_of(tmp_path)
    need = study_costs(study, graph).gpu_hours
    study.config.budget.gpu_hours = 0.99 * need
    with pytest.raises(ConfigError, match="needs"):
        check_budget(study_costs(study, graph))
    study.config.budget.gpu_hours = 1.01 * need
    check_budget(study_costs(study, graph))
    study.config.budget.gpu_hours = 0.99 * need
    finish(graph, "shards demo", "autoencoder")
    check_budget(study_costs(study, graph))


def test_the_budget_is_no_part_of_an_identity(tmp_path):
    _, graph = study_of(tmp_path)
    _, other = study_of(
        tmp_path, "budget.gpu_hours=5", "budget.gpu=b200", "budget.mfu=0.1", "budget.network=pcie"
    )
    assert [n.id for n in graph.nodes] == [n.id for n in other.nodes]


@pytest.mark.parametrize(
    ("budget", "said"),
    [
        (BudgetConfig(gpu="tpu"), "budget.gpu is 'tpu'; expected one of a100, b200"),
        (BudgetConfig(mfu=0), "budget.mfu is 0"),
        (BudgetConfig(mfu=40), "budget.mfu is 40"),
        (BudgetConfig(network="tokens"), "budget.network is 'tokens'; expected one of nvlink_ib"),
        (BudgetConfig(gpu="h100 pcie", network="nvlink_ib"), "expected budget.network=pcie"),
        (BudgetConfig(gpu_hours=-1), "budget.gpu_hours is -1"),
        (BudgetConfig(price_per_gpu_hour=-2), "budget.price_per_gpu_hour is -2"),
    ],
)
def test_a_bad_budget_is_named(budget, said):
    with pytest.raises(ConfigError, match=said):
        budget.validate()


# -- text ------------------------------------------------------------------------------------------------


def test_a_wide_table_folds_what_all_points_share(tmp_path):
    words = (
        "launcher=slurm",
        "launcher.partition=accelerated-h100-long",
        "launcher.time_min=720",
        "seed=0,1",
        "diffusion.optim.lr=1e-3,2e-3",
    )
    study, graph = study_of(tmp_path, *words)
    text = table_text(study_costs(study, graph))
    assert "partition accelerated-h100-long, limit 12:00" in text
    assert max(map(len, text.splitlines()[1:])) <= 120
    assert sum(line.startswith("dit_") for line in text.splitlines()) == 16


def test_prices_and_a_budget_in_the_plan(tmp_path):
    study, graph = study_of(tmp_path, "sweep=scaling", "budget.price_per_gpu_hour=2.5", "budget.gpu_hours=9")
    found = study_costs(study, graph)
    text = table_text(found)
    assert f"{found.gpu_hours * 2.5:.2f} at 2.5 a GPU-hour" in text
    assert "over budget.gpu_hours=9: submit will refuse" in text


def test_plan_without_shards(tmp_path, capsys):
    (tmp_path / "a.xyz").write_text("1\n\nHe 0 0 0\n")
    words = [f"data.sources=[{tmp_path}/a.xyz]", f"data.shards={tmp_path}/none", f"runs={tmp_path}/runs"]
    assert plan(["sweep=scaling_demo", *words]) == 0
    text = capsys.readouterr().out
    row = next(line.split() for line in text.splitlines() if line.startswith("dit_128"))
    assert row[5:7] == ["?", "~" + row[6].removeprefix("~")]
    assert "? and ~ need the shards" in text
    assert not (tmp_path / "runs").exists()


def test_plan_as_json(tmp_path, capsys):
    assert plan(["sweep=scaling_demo", f"runs={tmp_path}/runs"], as_json=True) == 0
    record = json.loads(capsys.readouterr().out)
    assert [p["point"] for p in record["points"]] == ["dit_32", "dit_64", "dit_96", "dit_128"]
    point = record["points"][-1]
    assert (point["parameters"], point["steps"], point["status"]) == (1302920, 4000, "not started")
    assert point["resources"]["nodes"] == 1
    jobs = [job for p in record["points"] for job in (p["run"], p["scoring"])] + record["shared"]
    assert record["totals"]["gpu_hours"] == pytest.approx(sum(job["gpu_hours"] for job in jobs))
    assert record["estimated"] is False

"""Settings of speed: what each may be, what is found by itself, and one line for what cannot work."""

from __future__ import annotations

import json
import os
import resource
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from adit_scale.config import StudyConfig, from_tree
from adit_scale.errors import ConfigError
from adit_scale.models.autoencoder import Autoencoder
from adit_scale.models.config import DenoiserConfig
from adit_scale.training import backends, memory_limits, micro_batch, out_of_memory
from adit_scale.training.config import ParallelConfig
from adit_scale.training.feed import Beside, Feed
from adit_scale.training.micro_batch import MicroBatch, largest_fitting
from adit_scale.training.out_of_memory import Sizes, fits_or_says, plan_of
from adit_scale.training.stage import StepTotals
from adit_scale.training.stages import DiffusionStage
from tests.training import runs

CPU = torch.device("cpu")
GIB = 2**30
SIZES = Sizes(np.bincount([3, 3, 5, 12]).astype(float))


def study(**parallel) -> StudyConfig:
    parallel = {"micro_batch_atoms": 0, "precision": "fp32", **parallel}
    return runs.small_study(Path("unused"), **parallel)


def diffusion_stage(config: StudyConfig) -> DiffusionStage:
    torch.manual_seed(0)
    autoencoder = Autoencoder(config.model.autoencoder)
    return DiffusionStage(config.model.denoiser, config.diffusion, 0, ["a", "b"], autoencoder)


@pytest.fixture
def alone(monkeypatch):
    """One rank, without a process group."""
    monkeypatch.setattr(micro_batch.dist, "get_rank", lambda: 0)
    monkeypatch.setattr(micro_batch.dist, "all_reduce", lambda tensor, op: None)
    monkeypatch.setattr(micro_batch.dist, "broadcast_object_list", lambda objects, src: None)


# -- names and devices -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("key", "known"),
    [
        ("attention", "auto, flash, grouped"),
        ("kernels", "auto, torch, triton"),
        ("micro_batch", "fixed, auto"),
    ],
)
def test_an_unknown_name_is_refused_with_those_there_are(key, known):
    with pytest.raises(ConfigError) as caught:
        from_tree({"parallel": {key: "fast"}})
    assert str(caught.value) == f"parallel.{key} is 'fast'; expected one of {known}"


def test_defaults_are_a_fixed_micro_batch_of_4096_atoms_everywhere():
    parallel = from_tree({}).parallel
    assert (parallel.attention, parallel.kernels, parallel.micro_batch) == ("auto", "auto", "fixed")
    assert parallel.capacity_atoms == 4096
    assert from_tree({"parallel": {"micro_batch_atoms": 512}}).parallel.capacity_atoms == 512


@pytest.mark.parametrize(
    ("parallel", "says"),
    [
        (
            {"attention": "flash"},
            r"^parallel\.attention=flash needs a CUDA device.*set parallel\.attention=auto$",
        ),
        ({"kernels": "triton"}, r"^parallel\.kernels.*triton.*cpu.*set parallel\.kernels=auto$"),
    ],
)
def test_a_fast_path_without_its_device_is_refused_in_one_line(parallel, says):
    config = study(**parallel)
    with pytest.raises(ConfigError, match=says):
        backends.choose_backends(config.parallel, diffusion_stage(config), CPU)


def test_a_head_width_that_flash_lacks_is_named(monkeypatch):
    config = study(attention="flash", precision="bf16")
    config.model.denoiser = DenoiserConfig(name="odd", width=36, depth=1, heads=3)
    monkeypatch.setattr("adit_scale.models.attention._compute_capability", lambda device: (9, 0))
    with pytest.raises(ConfigError, match=r"width / heads .* got 12; .*parallel\.attention=auto"):
        backends.choose_backends(config.parallel, diffusion_stage(config), torch.device("cuda"))


def test_the_choice_reaches_every_module_and_is_said_in_one_line(alone, tmp_path):
    config = study()
    stage = diffusion_stage(config)
    decided, setup = backends.decide(tmp_path, config, stage, SIZES, CPU)
    for module in (stage.module, stage.autoencoder, stage.encoder):
        found = {part.backend for part in module.modules() if hasattr(part, "backend")}
        assert found == {"grouped"}
    assert setup.line == (
        "device CPU, fp32, attention grouped, kernels torch, compile off, micro-batch 4,096 atoms x 1"
    )
    assert decided.parallel == setup.parallel
    assert (decided.parallel.attention, decided.parallel.micro_batch_atoms) == ("grouped", 4096)
    assert setup.tags == {
        "adit.device": "CPU",
        "adit.precision": "fp32",
        "adit.attention": "grouped",
        "adit.kernels": "torch",
        "adit.compile": "off",
        "adit.micro_batch": "4096 x 1",
        "adit.encoder": "fp32",
    }
    slow = replace(setup, device="NVIDIA H200", micro_batch=MicroBatch(32768, 2, 0))
    assert slow.line.endswith(
        "micro-batch 32,768 atoms x 2, encoder fp32 (diffusion.encoder_precision=bf16 is faster)"
    )
    assert "attention grouped (parallel.precision=bf16 is faster)," in slow.line


# -- the largest micro-batch -------------------------------------------------------------------------------


@pytest.mark.parametrize("guess", [10, 40_000, 3_000_000])
@pytest.mark.parametrize("fails_at", [10**9, 60_000])
def test_the_search_comes_near_the_largest_that_fits_in_eight_trials(guess, fails_at):
    tried = []

    def measure(atoms: int) -> int | None:
        tried.append(atoms)
        return 5_000 + 7 * atoms if atoms < fails_at else None

    found = largest_fitting(measure, 700_000, 12, 1_000_000, guess)
    best = min((700_000 - 5_000) // 7, fails_at - 1)
    assert found is not None
    assert 0.9 * best < found[0] <= best
    assert found[1] == 5_000 + 7 * found[0]
    assert len(tried) <= micro_batch.TRIALS


def test_the_search_stops_at_its_ends():
    assert largest_fitting(lambda atoms: atoms, 10**6, 12, 4000, 10**9) == (4000, 4000)
    assert largest_fitting(lambda atoms: None, 10**6, 12, 4000, 2000) is None
    assert largest_fitting(lambda atoms: atoms, 13, 12, 4000, 4000) == (12, 12)


def test_auto_divides_the_share_evenly_and_is_kept(alone, tmp_path, monkeypatch):
    config = study(micro_batch="auto")
    config.diffusion.atom_budget = 100_000
    stage = diffusion_stage(config)
    plan = plan_of(config, stage, CPU, 40_000)
    monkeypatch.setattr(micro_batch, "usable_bytes", lambda device: int(plan.peak_bytes / 0.92) + 1000)
    weights, rng = stage.module.state_dict(), torch.get_rng_state()
    before = {name: value.clone() for name, value in weights.items()}
    chosen = micro_batch.choose(tmp_path, config, stage, SIZES, CPU)
    assert chosen.rounds == 3  # 40,000 fit, 3 x 33,334 are level
    assert 33_334 <= chosen.atoms <= 33_352
    assert chosen.n_bytes <= plan.peak_bytes
    assert torch.equal(rng, torch.get_rng_state())
    assert all(torch.equal(value, before[name]) for name, value in weights.items())
    record = json.loads((tmp_path / micro_batch.FILE).read_text())
    assert record["key"]["device"] == "CPU"

    monkeypatch.setattr(micro_batch, "usable_bytes", lambda device: 10**15)
    assert micro_batch.choose(tmp_path, config, stage, SIZES, CPU) == chosen  # without a search
    other = replace(config, parallel=replace(config.parallel, precision="bf16"))
    assert micro_batch.choose(tmp_path, other, stage, SIZES, CPU).rounds == 1
    limited = replace(config, parallel=replace(config.parallel, micro_batch_atoms=20_000))
    found = micro_batch.choose(tmp_path, limited, stage, SIZES, CPU)
    assert found.atoms <= 20_000
    assert found.rounds == 6


def test_auto_where_nothing_fits_names_the_largest_set(alone, tmp_path, monkeypatch):
    config = study(micro_batch="auto")
    monkeypatch.setattr(micro_batch, "usable_bytes", lambda device: 1000)
    with pytest.raises(ConfigError, match=r"no micro-batch fits CPU: one of 12 atoms .*checkpointing=true"):
        micro_batch.choose(tmp_path, config, diffusion_stage(config), SIZES, CPU)


def test_trial_sets_have_the_datas_sizes_and_the_worst_of_it():
    sizes = SIZES.example(1200)
    assert set(sizes) == {3, 5, 12}
    assert sizes.sum() <= 1200
    assert sizes.sum() > 1180
    assert sizes[sizes == 12].sum() == 600 + 312  # half of the atoms, and their part (12/23) of the rest
    assert (np.diff(sizes) >= 0).all()
    batch = micro_batch.example_batch(sizes)
    config = study()
    stage = diffusion_stage(config)
    step = stage.heaviest_step()
    assert stage.self_conditions(step)
    totals = StepTotals(step, 1, 1)
    loss, _ = stage.loss(stage.module, stage.prepare(batch, totals), totals)
    assert torch.isfinite(loss)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_a_trial_on_cuda_measures_more_for_more_atoms_and_leaves_the_run_alone():
    config = study(precision="bf16")
    stage = diffusion_stage(config)
    device = torch.device("cuda", 0)
    stage.autoencoder.to(device)
    rng = torch.cuda.get_rng_state(device)
    trial = micro_batch.Trial(config, stage, SIZES, device)
    small, large = trial.n_bytes(20_000), trial.n_bytes(40_000)
    assert small is not None
    assert large is not None
    assert 1.7 * small < large < 2.3 * small
    assert next(stage.module.parameters()).device.type == "cpu"
    assert torch.equal(rng, torch.cuda.get_rng_state(device))


# -- what does not fit -------------------------------------------------------------------------------------


def refusal(config: StudyConfig, usable: int, monkeypatch, error: BaseException) -> str:
    monkeypatch.setattr(out_of_memory, "usable_bytes", lambda device: usable)
    with pytest.raises(ConfigError) as caught, fits_or_says(config, diffusion_stage(config), SIZES, CPU):
        raise error
    return str(caught.value)


def test_memory_that_runs_out_is_one_line_with_settings_that_fit(monkeypatch):
    config = study(micro_batch_atoms=65_536)
    plan = plan_of(config, diffusion_stage(config), CPU, 65_536)
    usable = plan.peak_bytes // 4
    text = refusal(config, usable, monkeypatch, torch.OutOfMemoryError("CUDA out of memory"))
    assert text.startswith("parallel.micro_batch_atoms=65536 needs about ")
    assert text.endswith(", parallel.activation_checkpointing=true or parallel.micro_batch=auto")
    offered = int(text.split("set parallel.micro_batch_atoms=")[1].split()[0])
    assert plan_of(config, diffusion_stage(config), CPU, offered).peak_bytes <= 0.93 * usable
    assert "\n" not in text
    # The plan held it possible, and still memory ran out: half of it is offered.
    text = refusal(config, 10 * plan.peak_bytes, monkeypatch, torch.OutOfMemoryError("CUDA out of memory"))
    assert "more than the " in text
    assert "micro_batch_atoms=32768 (fits by the plan)" in text
    with (
        pytest.raises(RuntimeError, match="of another kind"),
        fits_or_says(config, diffusion_stage(config), SIZES, CPU),
    ):
        raise RuntimeError("of another kind")


def test_the_cpu_allocators_own_refusal_is_understood():
    """In a child process with little room, from the real allocator."""
    config = study(micro_batch_atoms=65_536)
    stage = diffusion_stage(config)
    receive, send = os.pipe()
    child = os.fork()
    if child == 0:
        said = b"nothing was refused"
        try:
            with open("/proc/self/statm") as statm:
                held = int(statm.read().split()[0]) * os.sysconf("SC_PAGE_SIZE")
            resource.setrlimit(resource.RLIMIT_AS, (held + GIB // 4, resource.RLIM_INFINITY))
            with fits_or_says(config, stage, SIZES, CPU):
                torch.zeros(GIB, dtype=torch.uint8)
        except BaseException as error:  # noqa: BLE001 (whatever it is, the parent compares its text)
            said = f"{type(error).__name__}: {error}".encode()
        finally:
            os.write(send, said)
            os._exit(0)
    os.close(send)
    with os.fdopen(receive) as stream:
        text = stream.read()
    os.waitpid(child, 0)
    assert text.startswith("ConfigError: parallel.micro_batch_atoms=65536 needs about ")
    assert "on CPU; set parallel." in text


def test_a_plan_far_over_a_cpus_memory_is_refused_before_the_start(alone, tmp_path, monkeypatch):
    config = study(micro_batch_atoms=65_536)
    stage = diffusion_stage(config)
    peak = plan_of(config, stage, CPU, 65_536).peak_bytes
    monkeypatch.setattr(out_of_memory, "usable_bytes", lambda device: peak // 2)
    with pytest.raises(ConfigError, match=r"^parallel\.micro_batch_atoms=65536 needs about .* on CPU; set "):
        micro_batch.choose(tmp_path, config, stage, SIZES, CPU)
    monkeypatch.setattr(out_of_memory, "usable_bytes", lambda device: int(peak / 1.4))
    assert micro_batch.choose(tmp_path, config, stage, SIZES, CPU).atoms == 65_536  # may be: it is tried


@pytest.mark.parametrize("version", [1, 2])
def test_a_cgroups_limit_counts_and_reclaimable_pages_do_not(tmp_path, version, monkeypatch):
    base = tmp_path / "memory" if version == 1 else tmp_path
    names = memory_limits._CGROUP_FILES[2 - version]
    folder = base / "job" / "step"
    folder.mkdir(parents=True)
    for place, limit in ((folder, "max" if version == 2 else str(2**62)), (folder.parent, str(8 * GIB))):
        (place / names[0]).write_text(limit + "\n")
        (place / names[1]).write_text(str(3 * GIB))
        (place / "memory.stat").write_text(f"anon 5\n{names[2]} {GIB}\n")
    membership = tmp_path / "cgroup"
    membership.write_text("4:memory:/job/step\n3:cpu:/x\n" if version == 1 else "0::/job/step\n")
    assert min(memory_limits._cgroup_left(tmp_path, membership)) == 6 * GIB
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    monkeypatch.setattr(memory_limits, "_available", lambda: 12 * GIB)
    monkeypatch.setattr(memory_limits, "CGROUPS", tmp_path / "none")
    assert memory_limits.usable_bytes(CPU) == 3 * GIB


# -- feeding ahead -----------------------------------------------------------------------------------------


class Recorder:
    """A stage, a loader and a side stream that write down what happens."""

    ahead = True

    def __init__(self) -> None:
        self.said: list[str] = []
        self.is_ready = True

    def prepare(self, batch, totals) -> str:
        self.said.append(f"prepare {totals.step}.{batch.name}")
        return f"{totals.step}.{batch.name}"

    def step(self, step: int):
        self.said.append(f"load {step}")
        names = [SimpleNamespace(name=i, to=lambda device, i=i: SimpleNamespace(name=i)) for i in range(2)]
        return SimpleNamespace(batches=names, n_sets=2, n_atoms=9)

    def ready(self, step: int) -> bool:
        return self.is_ready

    def begin(self, work):
        self.said.append("beside")
        result = work()
        return lambda: result

    def run(self, feed: Feed, step: int) -> None:
        batches = feed.step(step)
        for prepared, last in feed.prepared(batches, StepTotals(step, 2, 9)):
            self.said.append(f"compute {prepared}{' last' if last else ''}")
        self.said.append("wait for the norm")


def test_the_next_micro_batch_begins_before_this_one_is_computed():
    r = Recorder()
    feed = Feed(r, r, CPU, n_steps=2, side=r)
    r.run(feed, 0)
    r.run(feed, 1)
    assert r.said == [
        "load 0", "beside", "prepare 0.0", "beside", "prepare 0.1", "compute 0.0", "compute 0.1 last",
        "load 1", "beside", "prepare 1.0", "wait for the norm",
        "beside", "prepare 1.1", "compute 1.0", "compute 1.1 last", "wait for the norm",
    ]  # fmt: skip


def test_a_step_that_is_not_loaded_yet_is_not_waited_for():
    r = Recorder()
    r.is_ready = False
    feed = Feed(r, r, CPU, n_steps=2, side=r)
    r.run(feed, 0)
    assert r.said[-2:] == ["compute 0.1 last", "wait for the norm"]
    r.run(feed, 1)
    assert r.said[8:11] == ["load 1", "beside", "prepare 1.0"]


def test_without_a_device_the_same_work_is_done_in_turn():
    r = Recorder()
    feed = Feed(r, r, CPU, n_steps=2)
    for prepared, _ in feed.prepared(feed.step(0), StepTotals(0, 2, 9)):
        r.said.append(f"compute {prepared}")
    assert r.said == ["load 0", "prepare 0.0", "compute 0.0", "prepare 0.1", "compute 0.1"]


@dataclass
class MadeOf:
    first: torch.Tensor
    second: object


def test_the_main_stream_waits_for_the_side_stream_and_keeps_its_memory(monkeypatch):
    said: list[str] = []

    class Stream:
        def __init__(self, name) -> None:
            self.name, self.device = str(name), CPU

        def wait_stream(self, other) -> None:
            said.append(f"{self.name} waits for {other.name}")

        def wait_event(self, event) -> None:
            said.append(f"{self.name} waits for the event of {event.stream}")

        def __enter__(self) -> None:
            said.append(f"on {self.name}")

        def __exit__(self, *_) -> None:
            said.append(f"off {self.name}")

    class Event:
        def record(self, stream) -> None:
            self.stream = stream.name

    main = Stream("main")
    monkeypatch.setattr(torch.cuda, "Stream", lambda device: Stream("side"))
    monkeypatch.setattr(torch.cuda, "stream", lambda stream: stream)
    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device=None: main)
    monkeypatch.setattr(torch.Tensor, "record_stream", lambda self, s: said.append(f"kept for {s.name}"))
    side = Beside(CPU)

    def work() -> MadeOf:
        said.append("work")
        return MadeOf(torch.ones(1), MadeOf(torch.ones(2), None))

    ready = side.begin(work)
    said.append("computing")
    assert ready().first.shape == (1,)
    assert said == [
        "side waits for main", "on side", "work", "off side", "computing",
        "main waits for the event of side", "kept for main", "kept for main",
    ]  # fmt: skip


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_a_stream_beside_gives_what_the_main_stream_would():
    config = study()
    stage = diffusion_stage(config)
    device = torch.device("cuda", 0)
    stage.autoencoder.to(device)
    batch = micro_batch.example_batch(SIZES.example(5000)).pin_memory()
    totals = StepTotals(0, 1, 1)
    expected = stage.prepare(batch.to(device), totals)
    found = Beside(device).begin(lambda: stage.prepare(batch.to(device), totals))()
    assert torch.equal(found.x_t_td, expected.x_t_td)


def test_settings_of_speed_are_no_part_of_an_id():
    from launchers.identity import science

    config = study()
    fast = replace(config, parallel=ParallelConfig(attention="grouped", kernels="torch", micro_batch="auto"))
    assert science("diffusion", config) == science("diffusion", fast)

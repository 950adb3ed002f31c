"""Runs on one domain: which sets, in which steps, with which noise, against the joint run."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from adit_scale.atoms import CRYSTAL, DOMAIN_NAMES, MOLECULE
from adit_scale.data.config import DOMAINS, DataConfig
from adit_scale.data.loader import BatchLoader
from adit_scale.data.manifest import Manifest
from adit_scale.errors import ConfigError
from adit_scale.scaling.points import epoch_contents
from tests.data.indices import make_index, make_plan
from tests.data.test_loader import contents, visits

CODES = [CRYSTAL, MOLECULE]
BUDGET = 300


def loader(folder: Path, **changes) -> BatchLoader:
    own = {key: changes.pop(key) for key in list(changes) if key in ("domain", "domain_match", "repeat")}
    options = {"seed": 7, "atom_budget": BUDGET, "micro_batch_atoms": 160} | changes
    return BatchLoader(DataConfig(shards=str(folder), **{"repeat": {"mols": 1.5}} | own), **options)


def step_visits(source: BatchLoader, step: int) -> list[list[int]]:
    return sorted(visits(source.step(step).batches))


def test_codes_are_those_of_atoms():
    assert {code: name for name, code in DOMAINS.items() if name} == DOMAIN_NAMES


@pytest.mark.parametrize("domain", ["molecule", "crystal"])
@pytest.mark.parametrize("repeat", [{}, {"mols": 1.5}])
def test_equal_samples_are_the_joint_steps_without_the_other_domain(small_data, domain, repeat):
    with (
        loader(small_data, repeat=repeat) as joint,
        loader(small_data, repeat=repeat, domain=domain, domain_match="samples") as alone,
    ):
        for step in range(25):  # an epoch is about 14 steps
            both, own = joint.step(step), alone.step(step)
            expected = {
                visit: values
                for visit, values in contents(both.batches).items()
                if alone.manifest.split("train").domain[visit[2]] == DOMAINS[domain]
            }
            found = contents(own.batches)
            assert found == expected  # the same sets, augmentations and noise, bit for bit
            assert own.n_sets == len(expected) == len(own.sizes)


@pytest.mark.parametrize("domain", ["molecule", "crystal"])
def test_equal_flops_fill_the_steps_with_one_domain(small_data, domain):
    manifest = Manifest.load(small_data)
    index = manifest.split("train")
    own = np.flatnonzero(index.domain == DOMAINS[domain])
    rate = 1.5 if domain == "molecule" else 1.0
    with loader(small_data, domain=domain) as source:
        seen: list[tuple[int, ...]] = []
        step = 0
        while not seen or seen[-1][0] < 2:  # two epochs
            batches = source.step(step)
            assert all((b.domain_s[b.layout.real_s] == DOMAINS[domain]).all() for b in batches.batches)
            assert batches.n_atoms > BUDGET - 31  # full but for what no further set fitted into
            seen += sorted(visits(batches.batches))
            step += 1
    first_two = [visit for visit in seen if visit[0] < 2]
    counts = np.bincount([visit[2] for visit in first_two], minlength=len(index))
    assert counts.sum() == int(2 * rate) * len(own)
    assert (counts[own] == int(2 * rate)).all()


def test_a_visit_draws_the_same_noise_in_every_run(small_data):
    found = []
    for changes in ({}, {"domain": "crystal"}):
        with loader(small_data, **changes) as source:
            found.append({k: v for s in range(12) for k, v in contents(source.step(s).batches).items()})
    shared = found[0].keys() & found[1].keys()
    assert len(shared) > 30
    assert all(found[0][visit] == found[1][visit] for visit in shared)


@pytest.mark.parametrize("match", ["flops", "samples"])
def test_world_size_changes_no_step(small_data, match):
    with loader(small_data, domain="crystal", domain_match=match) as alone:
        expected = [step_visits(alone, s) for s in range(6)]
    ranks = [
        loader(small_data, domain="crystal", domain_match=match, rank=r, world_size=3, capacity=True)
        for r in range(3)
    ]
    for step, wanted in enumerate(expected):
        assert sorted(v for source in ranks for v in visits(source.step(step).batches)) == wanted
    for source in ranks:
        source.close()


def test_a_step_may_be_empty_and_a_cursor_is_of_its_domain():
    index = make_index(np.random.default_rng(3), 60)
    index.all_rows["domain"] = np.where(np.arange(60) < 5, MOLECULE, CRYSTAL)
    plan = make_plan(index, atom_budget=60, domain=MOLECULE, domain_match="samples")
    joint = make_plan(index, atom_budget=60)
    sizes = [len(plan.step(s).set_index) for s in range(20)]
    assert 0 in sizes
    assert max(sizes) > 0
    assert plan.cursor(9) == joint.cursor(9)  # the same walk
    alone = make_plan(index, atom_budget=60, domain=MOLECULE)
    assert set(alone.step(0).set_index) <= set(range(5))
    assert alone.cursor(3)["plan"] != joint.cursor(3)["plan"]


def test_an_empty_step_has_a_loss_without_gradient():
    from adit_scale.data.packing import pack_sets
    from adit_scale.models.autoencoder import Autoencoder
    from adit_scale.models.config import AutoencoderConfig, DenoiserConfig
    from adit_scale.training.config import DiffusionStageConfig
    from adit_scale.training.stages import DiffusionStage, StepTotals

    autoencoder = Autoencoder(AutoencoderConfig(32, 1, 1, 2, feedforward=64))
    shape = DenoiserConfig("tiny", 32, 2, 2)
    stage = DiffusionStage(shape, DiffusionStageConfig(), 0, ["mols"], autoencoder)
    totals = StepTotals(0, 0, 0)
    loss, _ = stage.loss(stage.module, stage.prepare(pack_sets([]), totals), totals)
    loss.backward()
    assert loss.item() == 0
    gradients = [p.grad for p in stage.module.parameters() if p.grad is not None]
    assert all(bool(torch.isfinite(g).all()) and not g.any() for g in gradients)


@pytest.mark.parametrize("match", ["flops", "samples"])
def test_a_domain_without_sets_is_named(match):
    index = make_index(np.random.default_rng(3), 20)  # crystals
    with pytest.raises(ConfigError, match=r"no set of data.domain=molecule of split 'train' is ever visited"):
        make_plan(index, domain=MOLECULE, domain_match=match)
    with pytest.raises(ConfigError, match=r"no set of data.domain=crystal of split 'train'"):
        make_plan(index, domain=CRYSTAL, domain_match=match, repeat={"a": 0, "b": 0, "c": 0})


def test_wrong_words_are_named():
    with pytest.raises(ConfigError, match=r"data.domain is liquid; expected crystal or molecule"):
        DataConfig(domain="liquid").validate()
    with pytest.raises(ConfigError, match=r"data.domain_match is steps; expected flops or samples"):
        DataConfig(domain_match="steps").validate()


def test_what_an_epoch_shows(small_data):
    parts = {
        (domain, match): epoch_contents(
            DataConfig(shards=str(small_data), repeat={"mols": 1.5}, domain=domain, domain_match=match)
        )
        for domain in ("", "molecule", "crystal")
        for match in ("flops", "samples")
    }
    joint = parts["", "flops"]
    assert joint.passed_over == 0
    for match in ("flops", "samples"):
        own = [parts[domain, match] for domain in ("molecule", "crystal")]
        assert sum(part.atoms for part in own) == pytest.approx(joint.atoms)
        assert sum(part.sets for part in own) == pytest.approx(joint.sets)
    molecules = parts["molecule", "samples"]
    assert molecules.passed_over == pytest.approx(parts["crystal", "flops"].atoms)
    assert molecules.epochs(10, 300) == pytest.approx(joint.epochs(10, 300))  # the same steps, fewer atoms
    assert parts["molecule", "flops"].epochs(10, 300) == pytest.approx(3000 / molecules.atoms)

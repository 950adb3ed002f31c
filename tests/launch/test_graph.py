"""Who is the same node: what science changes an id, and what does not."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from adit_scale.atoms import AtomSet
from adit_scale.data.build import build_from_sets
from adit_scale.data.config import DataConfig
from adit_scale.errors import DataError
from launchers.compose import compose_study
from launchers.graph import Graph, freeze, study_graph


@pytest.fixture(scope="module")
def shards(tmp_path_factory) -> Path:
    """A data set of 40 water molecules."""
    water = np.array([[0.0, 0.0, 0.1], [0.0, 0.8, -0.5], [0.0, -0.8, -0.5]])
    sets = [
        AtomSet(np.array([8, 1, 1]), water * (1 + i / 1000), np.zeros((3, 3)), False, "water", id=str(i))
        for i in range(40)
    ]
    folder = tmp_path_factory.mktemp("shards") / "water"
    build_from_sets(sets, folder, DataConfig())
    return folder


def graph_of(shards: Path, *words: str) -> Graph:
    study = compose_study([f"data.shards={shards}", "model/denoiser=dit_32,dit_64", *words])
    return study_graph(study.config, study.points, study.folder)


def ids(graph: Graph) -> dict[str, str]:
    return {node.name: node.id for node in graph.nodes}


def changed(shards: Path, *words: str) -> set[str]:
    """Kinds of nodes whose ids change with these overrides."""
    before, after = ids(graph_of(shards)), ids(graph_of(shards, *words))
    assert before.keys() == after.keys()
    return {name.split()[0] for name in before if before[name] != after[name]}


def test_the_graph_of_a_study(shards):
    graph = graph_of(shards)
    assert [node.name for node in graph.nodes] == [
        "shards demo",
        "autoencoder",
        "reference",
        "diffusion dit_32",
        "evaluation dit_32",
        "diffusion dit_64",
        "evaluation dit_64",
        "report",
    ]
    evaluation = graph.node_of("evaluation", "dit_64")
    assert list(evaluation.inputs) == ["shards", "autoencoder", "diffusion"]
    assert evaluation.folder.name == f"evaluation-dit_64-{evaluation.id[:8]}"


@pytest.mark.parametrize(
    "word",
    [
        "launcher.parallel=7",
        "launcher=slurm",
        "parallel=gpu8",
        "parallel.zero_stage=3",
        "parallel.micro_batch_atoms=512",
        "tracking=none",
        "runs=/elsewhere",
        "diffusion.checkpoint_every_steps=3",
        "sampling.batch_atoms=64",
        "sampling.cuda_graphs=off",
        "sampling.compile=true",
    ],
)
def test_ids_stand_whatever_the_machine(shards, word):
    assert changed(shards, word) == set()


@pytest.mark.parametrize(
    ("word", "kinds"),
    [
        ("diffusion.steps=3", {"diffusion", "evaluation", "report"}),
        ("diffusion.optim.lr=0.5", {"diffusion", "evaluation", "report"}),
        ("sampling.steps=3", {"evaluation", "report"}),
        ("evaluation.oxidation_states=icsd24", {"reference", "evaluation", "report"}),
        ("evaluation.reference_sets=3", {"reference", "report"}),
        ("sweep.bootstrap=200", {"report"}),
        ("autoencoder.steps=3", {"autoencoder", "reference", "diffusion", "evaluation", "report"}),
        ("model/autoencoder=tiny", {"autoencoder", "reference", "diffusion", "evaluation", "report"}),
        ("seed=1", {"autoencoder", "reference", "diffusion", "evaluation", "report"}),
        ("+data.repeat.water=2", {"autoencoder", "reference", "diffusion", "evaluation", "report"}),
    ],
)
def test_ids_follow_the_science(shards, word, kinds):
    assert changed(shards, word) == kinds


def test_seeds_of_points_share_one_autoencoder(shards):
    graph = graph_of(shards, "seed=0,1,2")
    assert len(graph.of_kind("autoencoder")) == 1
    assert len(graph.of_kind("diffusion")) == 6
    assert len({node.id for node in graph.of_kind("diffusion")}) == 6


def test_sources_are_known_by_content_not_by_place(tmp_path):
    texts = {"a": "1\n\nHe 0 0 0\n", "b": "1\n\nNe 0 0 0\n"}
    found = {}
    for folder, text in (("x", "a"), ("y", "a"), ("z", "b")):
        path = tmp_path / folder / "atoms.xyz"
        path.parent.mkdir()
        path.write_text(texts[text])
        study = compose_study(["data=files", f"data.sources=[{path}]"])
        node = study_graph(study.config, study.points, study.folder).nodes[0]
        found[folder] = node.id
        assert node.config.data.shards.endswith(f"shards/files-{node.id[:8]}")
    assert found["x"] == found["y"] != found["z"]


def shards_node(*words: str):
    study = compose_study(["data=files", *words])
    return study_graph(study.config, study.points, study.folder).nodes[0]


def test_what_decides_the_shards(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("a.xyz").write_text("1\n\nHe 0 0 0\n")
    Path("cifs").mkdir()
    Path("cifs/a.cif").write_text("data_a\n")
    Path("val.txt").write_text("0\n")
    plain = shards_node("data.sources=[a.xyz]")
    for same in (
        "data.build_workers=3",
        "data.workers=2",
        "data.cache=/x",
        "data.cache_gib=3",
        "+data.repeat={a:2}",
    ):
        assert shards_node("data.sources=[a.xyz]", same).id == plain.id, same
    settings = (
        "split_by=composition", "conformers=2", "remove_hydrogens=true", "spacegroups=found", "max_atoms=5",
        "symprec_angstrom=0.1", "deduplicate=true", "qm9_uncharacterized=true",
    )  # fmt: skip
    different = [f"data.{setting}" for setting in settings] + ["+data.split_lists={val:val.txt}"]
    ids = [shards_node("data.sources=[a.xyz]", word).id for word in different]
    words = ("'b=a.xyz'", "'a:val=a.xyz'", "cifs", "cifs,a.xyz")
    ids += [shards_node(f"data.sources=[{word}]").id for word in words]
    assert len({plain.id, *ids}) == 1 + len(different) + len(words)
    Path("val.txt").write_text("1\n")
    assert shards_node("data.sources=[a.xyz]", "+data.split_lists={val:val.txt}").id not in ids
    Path("cifs/a.cif").write_text("data_b\n")
    assert shards_node("data.sources=[cifs]").id not in ids
    node = shards_node("data.sources=['b:val=a.xyz',cifs]", "+data.split_lists={val:val.txt}")
    assert node.config.data.sources == [f"b:val={tmp_path}/a.xyz", f"{tmp_path}/cifs"]
    assert node.config.data.split_lists == {"val": f"{tmp_path}/val.txt"}


def test_missing_sources_and_shards_are_named(tmp_path):
    study = compose_study(["data=files", "data.sources=[/nowhere/a.xyz]"])
    with pytest.raises(DataError, match=r"data.sources: /nowhere/a.xyz: no such file"):
        study_graph(study.config, study.points, study.folder)
    study = compose_study([f"data.shards={tmp_path}/none"])
    with pytest.raises(DataError, match=r"no such file; build the shards or set data.shards"):
        study_graph(study.config, study.points, study.folder)


def test_settings_are_frozen_in_the_nodes_folder(shards, tmp_path):
    graph = graph_of(shards, f"runs={tmp_path}", "diffusion.steps=11")
    freeze(graph.nodes, graph.study)
    diffusion = graph.node_of("diffusion", "dit_32")
    text = (diffusion.folder / "config.yaml").read_text()
    assert "steps: 11" in text
    assert str(shards) in text
    record = json.loads((diffusion.folder / "node.json").read_text())
    assert record["id"] == diffusion.id
    assert record["inputs"]["autoencoder"] == str(graph.of_kind("autoencoder")[0].folder)


def test_what_may_run_at_once(shards):
    graph = graph_of(shards)
    names = {node.name: {n.name for n in graph.beside(node)} for node in graph.nodes}
    assert names["autoencoder"] == names["report"] == set()
    assert names["diffusion dit_32"] == {"reference", "diffusion dit_64", "evaluation dit_64"}
    assert names["reference"] == {f"{kind} dit_{n}" for kind in ("diffusion", "evaluation") for n in (32, 64)}

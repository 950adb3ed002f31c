"""``adit train``: one training run outside a study, in the foreground of this terminal.

    adit train stage=diffusion autoencoder=RUN out=FOLDER [key=value ...]    begin a run
    adit train resume=RUN [key=value ...]                                    go on with one that was stopped
    adit train resume=CHECKPOINT schedule=decay [steps=+600] [out=FOLDER]    begin a decay branch

A run's folder is that of a study's node. The same words again go on with the run that is there.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path

from omegaconf import OmegaConf

from adit_scale import config as settings
from adit_scale.config import StudyConfig, from_tree
from adit_scale.errors import ConfigError
from adit_scale.jobs.node import CONFIG, NODE, NodeFolder, running_lock

STAGES = ("autoencoder", "diffusion")
OWN_WORDS = ("stage", "autoencoder", "out", "resume", "schedule", "steps", "decay_fraction")
USAGE = (__doc__ or "").partition("\n\n")[2]


def main(words: Sequence[str], prog: str = "adit train") -> int:
    """Returns 0 when the run is done; a run that was asked to stop and saved exits with EXIT_REQUEUE.

    Raises AditError.
    """
    if not words or {"-h", "--help"} & set(words):
        print(f"usage: {prog} KEY=VALUE ...\n\n{USAGE}", end="")
        return 0
    own, overrides = _sorted_words(words)
    if "resume" not in own:
        node = _fresh(own, overrides)
    elif "schedule" in own:
        node = _branch(own, overrides)
    else:
        node = _old(own, overrides)
    return _train(node)


def _train(node: NodeFolder) -> int:
    from adit_scale.jobs import training

    config = settings.load(node.path / CONFIG)
    if not config.parallel.threads:
        os.environ.setdefault("OMP_NUM_THREADS", str(max(1, _cores() // config.parallel.world_size)))
    with running_lock(node.path):
        result = training.run(node, config)
    print(f"weights in {result.outputs[0].parent}")
    return 0


def _sorted_words(words: Sequence[str]) -> tuple[dict[str, str], list[str]]:
    """This command's own words, and the overrides of settings."""
    own: dict[str, str] = {}
    overrides: list[str] = []
    for word in words:
        key, equals, value = word.partition("=")
        if not equals:
            raise ConfigError(f"{word}: not key=value; see adit train --help")
        # `autoencoder=paper` is also a group of settings: a choice has no file of its own here.
        if key in OWN_WORDS and not (key == "autoencoder" and value in _choices("autoencoder")):
            own[key] = value
        else:
            overrides.append(word)
    return own, overrides


def _choices(group: str) -> list[str]:
    from launchers.compose import choices

    return choices().get(group, [])


def one_run(words: Sequence[str]) -> StudyConfig:
    """The settings of a single run: of a sweep's file (the paper's unless another is named) without its grid.

    Raises ConfigError for a word with several values.
    """
    from launchers.compose import compose_run

    named = any(word.startswith("sweep=") for word in words)
    return compose_run([*([] if named else ["sweep=scaling"]), *words])


# -- the three ways in -----------------------------------------------------------------------------------


def _fresh(own: dict[str, str], overrides: list[str]) -> NodeFolder:
    _only(own, "stage", "autoencoder", "out")
    stage = own.get("stage", "")
    if stage not in STAGES:
        raise ConfigError(f"stage is {stage!r}; expected {' or '.join(STAGES)}, or resume=RUN")
    if "out" not in own:
        raise ConfigError("out is missing; expected out=FOLDER for the run")
    config = one_run(overrides)
    inputs = {"autoencoder": _autoencoder(own, {})} if stage == "diffusion" else {}
    return _made(Path(own["out"]), stage, config, inputs, None)


def _branch(own: dict[str, str], overrides: list[str]) -> NodeFolder:
    from adit_scale.training.branches import plan_branch

    _only(own, "resume", "schedule", "steps", "decay_fraction", "out", "autoencoder")
    if own["schedule"] != "decay":
        raise ConfigError(f"schedule is {own['schedule']!r}; expected decay, the only one a branch can take")
    trunk = Path(own["resume"]).absolute()
    branch = plan_branch(trunk, own.get("steps", ""), _fraction(own))
    config = _changed(branch.config, overrides)
    run = trunk.parent.parent
    total = getattr(config, branch.stage).steps
    out = Path(own.get("out", run / "branches" / f"{trunk.name}-to-{total:08d}"))
    known = NodeFolder.load(run).inputs if (run / NODE).is_file() else {}
    inputs = {"autoencoder": _autoencoder(own, known)} if branch.stage == "diffusion" else {}
    return _made(out, branch.stage, config, inputs, trunk)


def _old(own: dict[str, str], overrides: list[str]) -> NodeFolder:
    _only(own, "resume")
    run = Path(own["resume"]).absolute()
    if run.name.startswith("step-"):
        raise ConfigError(
            f"{run}: is one checkpoint; expected a run's folder to go on with, or schedule=decay beside it"
        )
    node = NodeFolder.load(run)
    if node.kind not in STAGES:
        raise ConfigError(f"{run}: holds a node of kind {node.kind}; expected {' or '.join(STAGES)}")
    settings.save(_changed(settings.load(run / CONFIG), overrides), run / CONFIG)
    return replace(node, path=run)


def _made(
    out: Path, stage: str, config: StudyConfig, inputs: dict[str, Path], start_from: Path | None
) -> NodeFolder:
    """The folder with its settings, new or as these words made it before. Raises ConfigError for another."""
    out = out.absolute()
    contents = json.dumps([stage, _science(config, stage)], sort_keys=True)
    id_ = hashlib.sha256(contents.encode()).hexdigest()
    node = NodeFolder(out, stage, id_, out.name, "", inputs, start_from=start_from)
    if (out / NODE).is_file():
        before = NodeFolder.load(out)
        if before.id != id_ and (out / "checkpoints").is_dir():  # else nothing was trained yet
            raise ConfigError(
                f"{out}: holds another run ({before.kind}, id {before.id[:8]}; these words make {id_[:8]}); "
                "expected a new folder, or resume=RUN to go on with that one"
            )
    out.mkdir(parents=True, exist_ok=True)
    settings.save(config, out / CONFIG)
    node.save()
    return node


def _science(config: StudyConfig, stage: str) -> dict:
    from launchers.identity import science

    return {**science(stage, config), "shards": config.data.shards}


def _autoencoder(own: dict[str, str], known: Mapping[str, Path]) -> Path:
    """The run that made the latents. Raises ConfigError where neither words nor trunk name one."""
    if "autoencoder" in own:
        run = Path(own["autoencoder"]).absolute()
    elif "autoencoder" in known:
        run = known["autoencoder"]
    else:
        raise ConfigError("autoencoder is missing; expected autoencoder=RUN, the run that makes the latents")
    if not (run / "weights").is_dir():
        raise ConfigError(f"{run}: has no folder weights; expected the folder of a finished autoencoder run")
    return run


def _changed(config: StudyConfig, overrides: list[str]) -> StudyConfig:
    """The settings with dotted overrides laid over them, every key of which must exist."""
    base = OmegaConf.create(asdict(config))
    return from_tree(OmegaConf.merge(base, OmegaConf.from_dotlist(overrides)))


def _fraction(own: dict[str, str]) -> float | None:
    if "decay_fraction" not in own:
        return None
    try:
        return float(own["decay_fraction"])
    except ValueError:
        raise ConfigError(f"decay_fraction is {own['decay_fraction']!r}; expected a number") from None


def _only(own: dict[str, str], *known: str) -> None:
    for key in own:
        if key not in known:
            raise ConfigError(f"{key}={own[key]}: not expected here; expected {', '.join(known)}")


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1

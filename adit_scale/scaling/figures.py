"""The figures of a study's report, in their order: each a chart (charts.py) built from fits and points."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

from adit_scale.scaling import (
    figures_checks,
    figures_compute,
    figures_domains,
    figures_loss,
    figures_rates,
    figures_runs,
)
from adit_scale.scaling.charts import Chart
from adit_scale.scaling.table import Ceilings

if TYPE_CHECKING:
    from adit_scale.scaling.study_fit import StudyFit


class Figure(NamedTuple):
    """build: None where the study has nothing to draw; ``given_by`` then says which design gives it."""

    key: str
    title: str
    build: Callable[[StudyFit, Ceilings], Chart | None]
    given_by: str


FIGURES: tuple[Figure, ...] = (
    Figure("loss_vs_compute", "Loss against training compute", figures_compute.curves,
           "any run that has validated (sweep=scaling)"),
    Figure("isoflop", "IsoFLOP profiles", figures_compute.isoflop,
           "several sizes at each of two or more budgets of compute (sweep=isoflop)"),
    Figure("loss_vs_size_and_data", "Loss against size and data", figures_loss.law,
           "any finished run; a law takes four sizes (sweep=scaling), one of data too sweep=chinchilla"),
    Figure("held_out", "Held-out sizes: predicted and measured", figures_checks.held_out,
           "a law and one size more than it takes: four, better six (sweep=scaling)"),
    Figure("residuals", "Residuals of the law", figures_checks.residuals,
           "a law: at least three sizes with a usable loss (sweep=scaling)"),
    Figure("learning_rates", "Learning rates", figures_runs.basins,
           "three or more learning rates at one size (sweep=lr)"),
    Figure("rates", "Validity, uniqueness and novelty", figures_rates.rates,
           "finished runs with samples scored (sweep=scaling, with sweep.evaluate=true)"),
    Figure("loss_and_rates", "Loss against validity", figures_rates.links,
           "scored runs at three or more losses (sweep=scaling, with sweep.evaluate=true)"),
    Figure("domains", "Losses and exponents by domain", figures_domains.domains,
           "joint runs on molecules and crystals at several sizes (sweep=scaling)"),
    Figure("transfer", "Joint training against one domain alone", figures_domains.transfer,
           "runs on one domain alone beside the joint ones (sweep=transfer)"),
    Figure("epochs", "Epochs, and training against validation", figures_runs.epochs,
           "any run that has validated; rates take diffusion.samples_every_steps (sweep=scaling)"),
    Figure("seeds", "Noise between seeds", figures_runs.seeds,
           "runs that differ in seed alone (sweep=seeds)"),
    Figure("throughput", "Throughput and utilisation", figures_runs.throughput,
           "any run that logged its speed"),
    Figure("cost", "Device hours planned and used, restarts", figures_runs.cost,
           "any run whose attempts were recorded"),
    Figure("sampling", "Sampling steps against quality", figures_rates.sampling,
           "one run sampled with several numbers of steps (sweep=sampling)"),
    Figure("autoencoders", "The autoencoder's part", figures_rates.autoencoders,
           "one denoiser over several autoencoders (sweep=autoencoder)"),
)  # fmt: skip

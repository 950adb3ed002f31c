"""Shapes of the two networks. No heavy imports: the command line and the planner read this file."""

from __future__ import annotations

from dataclasses import dataclass, field

from adit_scale.errors import ConfigError, check_range


@dataclass
class AutoencoderConfig:
    """The VAE of docs/method.md; defaults are the paper's."""

    width: int = 512
    encoder_depth: int = 8
    decoder_depth: int = 8
    heads: int = 8
    feedforward: int = 2048
    latent: int = 8

    def validate(self) -> None:
        for key in ("width", "encoder_depth", "decoder_depth", "heads", "feedforward", "latent"):
            check_range(f"model.autoencoder.{key}", getattr(self, key), 1)
        if self.width % self.heads or self.width % 2:
            raise ConfigError(
                f"model.autoencoder.width is {self.width}; expected an even multiple of heads ({self.heads})"
            )


@dataclass
class DenoiserConfig:
    """The DiT. ``name`` is a rung of models/ladder.py, or free for a hand-made size.

    base_head_width: 0 scales the scores of attention by D^-1/2, D the head width; another number b by
        b^1/2 / D, which is the same at D = b. Set by ``optim.parametrization=mup`` (models/mup.py).
    """

    name: str = "dit_s"
    width: int = 384
    depth: int = 12
    heads: int = 6
    mlp_ratio: int = 4
    latent: int = 8
    spacegroup_conditioning: bool = False
    base_head_width: int = 0

    def validate(self) -> None:
        for key in ("width", "depth", "heads", "mlp_ratio", "latent"):
            check_range(f"model.denoiser.{key}", getattr(self, key), 1)
        check_range("model.denoiser.base_head_width", self.base_head_width, 0)
        if self.width % self.heads or self.width % 2:
            raise ConfigError(
                f"model.denoiser.width is {self.width}; expected an even multiple of heads ({self.heads})"
            )


@dataclass
class ModelConfig:
    autoencoder: AutoencoderConfig = field(default_factory=AutoencoderConfig)
    denoiser: DenoiserConfig = field(default_factory=DenoiserConfig)

    def validate(self) -> None:
        self.autoencoder.validate()
        self.denoiser.validate()
        if self.autoencoder.latent != self.denoiser.latent:
            raise ConfigError(
                f"model.denoiser.latent is {self.denoiser.latent}, model.autoencoder.latent is "
                f"{self.autoencoder.latent}; expected the same number"
            )

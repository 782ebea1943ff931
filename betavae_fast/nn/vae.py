"""The complete β-VAE: encoder, latent layer, decoder."""

from __future__ import annotations

import os
from typing import Any, NamedTuple, get_args

import torch
from torch import Generator, Tensor, nn

from betavae_fast.choices import Architecture, Initialization, Likelihood
from betavae_fast.functional import reparameterize
from betavae_fast.nn.architectures import build
from betavae_fast.nn.initialization import initialize
from betavae_fast.nn.latent import GaussianLatent, LatentOutput
from betavae_fast.nn.pixels import to_float
from betavae_fast.ops.backends import Backend
from betavae_fast.settings import check_scale


class BetaVAEOutput(NamedTuple):
    """The output of the model; ``decoded`` holds logits for a Bernoulli likelihood, means otherwise."""

    decoded: Tensor  # (B, C, H, W)
    z: Tensor  # (B, D)
    kl: Tensor  # (D,), nats, mean over the batch
    mu: Tensor  # (B, D)
    logvar: Tensor  # (B, D)


class BetaVAE(nn.Module):
    """A β-VAE with a published encoder/decoder pair (see :mod:`betavae_fast.nn.architectures`).

    Args:
        image_shape: (channels, height, width). The convolutional architectures take square images whose side
            is a power of two of at least 8; "mlp" takes any.
        latent_dim: number of latent dims D.
        architecture: "burgess" (Burgess et al. 2018), "locatello" (Locatello et al. 2019) or "mlp" (Higgins
            et al. 2017).
        likelihood: meaning of the decoder's output, as in :class:`betavae_fast.BetaVAELoss`; here only
            :meth:`pixels` and :meth:`sample` depend on it.
        scale: width of a Gaussian or Laplace likelihood, for the losses that are measured on the model.
        initialization: rule for the initial weights: "torch", "glorot" or "kaiming", as in
            :func:`betavae_fast.nn.initialize`.
        logvar_range, backend: passed to :class:`betavae_fast.GaussianLatent`.

    Raises: ValueError for a size or a name the architecture cannot take, or a scale that the likelihood cannot.

    >>> vae = BetaVAE((1, 32, 32), latent_dim=4)
    >>> vae(torch.zeros(2, 1, 32, 32, dtype=torch.uint8)).decoded.shape
    torch.Size([2, 1, 32, 32])
    """

    def __init__(
        self,
        image_shape: tuple[int, int, int] = (1, 64, 64),
        latent_dim: int = 10,
        architecture: Architecture = "burgess",
        *,
        likelihood: Likelihood = "bernoulli",
        scale: float = 1.0,
        initialization: Initialization = "torch",
        logvar_range: tuple[float, float] | None = None,
        backend: Backend = "auto",
    ) -> None:
        super().__init__()
        if likelihood not in get_args(Likelihood):
            raise ValueError(
                f"likelihood must be one of {', '.join(get_args(Likelihood))}; got {likelihood!r}"
            )
        check_scale(likelihood, scale)
        channels, height, width = image_shape
        self.image_shape = (channels, height, width)
        self.latent_dim = latent_dim
        self.architecture: Architecture = architecture
        self.likelihood: Likelihood = likelihood
        self.scale = scale
        self.encoder, self.decoder = build(architecture, self.image_shape, latent_dim)
        if initialization != "torch":  # torch's layers have drawn their weights themselves
            initialize(self.encoder, initialization)
            initialize(self.decoder, initialization)
        self.latent = GaussianLatent(logvar_range=logvar_range, backend=backend)

    def encode(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Encode images (B, C, H, W) to posterior mean and log-variance, (B, D) each.

        Images are bool, uint8 (divided by 255) or floating point in [0, 1].

        Raises: ValueError for images of another shape; TypeError for another dtype.
        """
        if images.dim() != 4 or images.shape[1:] != self.image_shape:
            raise ValueError(
                f"images must have shape (B, {', '.join(map(str, self.image_shape))}), "
                f"got {tuple(images.shape)}"
            )
        dtype = next(self.parameters()).dtype
        # The moments get the parameters' dtype under autocast, too, so that sample and KL keep their precision.
        mu, logvar = self.encoder(to_float(images, dtype)).to(dtype).chunk(2, dim=1)
        return mu, logvar

    def decode(self, z: Tensor) -> Tensor:
        """Decode latents (B, D) to logits (Bernoulli) or means (Gaussian, Laplace), (B, C, H, W).

        Raises: ValueError for latents of another shape.
        """
        if z.dim() != 2 or z.shape[1] != self.latent_dim:
            raise ValueError(f"z must have shape (B, {self.latent_dim}), got {tuple(z.shape)}")
        decoded: Tensor = self.decoder(z)
        return decoded

    def pixels(self, decoded: Tensor) -> Tensor:
        """The expected image E[x | z] of a decoder output: its sigmoid (Bernoulli), or the output itself."""
        return decoded.sigmoid() if self.likelihood == "bernoulli" else decoded

    def forward(
        self,
        images: Tensor,
        *,
        seed: int | Tensor | None = None,
        generator: Generator | None = None,
        noise: Tensor | None = None,
        first_row: int = 0,
    ) -> BetaVAEOutput:
        """Encode, sample (or take the mean, in evaluation) and decode.

        ``seed``, ``generator``, ``noise`` and ``first_row`` determine the noise, as in
        :func:`betavae_fast.reparameterize_kl`: shards of a batch that are called with the same ``seed`` and their
        ``first_row`` draw the noise of the whole batch.
        """
        latent: LatentOutput = self.latent(
            *self.encode(images), seed=seed, generator=generator, noise=noise, first_row=first_row
        )
        return BetaVAEOutput(self.decode(latent.z), *latent)

    @torch.no_grad()
    def sample(
        self, n: int, *, seed: int | Tensor | None = None, generator: Generator | None = None
    ) -> Tensor:
        """Decode ``n`` latents drawn from the prior N(0, I) to images of expected pixel values, (n, C, H, W).

        The noise follows the same contract as in training: the same ``seed`` gives the same latents on any device.
        """
        parameter = next(self.parameters())
        standard = torch.zeros(n, self.latent_dim, dtype=parameter.dtype, device=parameter.device)
        z = reparameterize(standard, standard, seed=seed, generator=generator, backend=self.latent.backend)
        return self.pixels(self.decode(z))

    def arguments(self) -> dict[str, Any]:
        """The keyword arguments that build this model, apart from those that have no effect once it has weights.

        >>> BetaVAE((1, 8, 8), 3).arguments()["image_shape"]
        [1, 8, 8]
        """
        return {
            "image_shape": list(self.image_shape),
            "latent_dim": self.latent_dim,
            "architecture": self.architecture,
            "likelihood": self.likelihood,
            "scale": self.scale,
            "logvar_range": self.latent.logvar_range,
        }

    def save_pretrained(self, folder: str | os.PathLike[str], *, card: str | None = None) -> None:
        """Write the model into ``folder`` in the form of the Hugging Face Hub.

        The files are config.json (see `arguments`), model.safetensors (the weights in their dtype) and README.md (the
        model card). Each is complete or not there. Existing ones are replaced.

        Args:
            folder: the folder, which is made if missing.
            card: the text of README.md. By default one that says how to load the model is written, unless there is a
                README.md already.
        Raises: OSError if nothing can be written there.

        >>> import tempfile
        >>> vae, folder = BetaVAE((1, 8, 8), 3), tempfile.mkdtemp()
        >>> vae.save_pretrained(folder)
        >>> images = torch.zeros(2, 1, 8, 8)
        >>> torch.equal(BetaVAE.from_pretrained(folder).encode(images)[0], vae.encode(images)[0])
        True
        """
        from betavae_fast.nn import pretrained

        pretrained.save(self, folder, card)

    @classmethod
    def from_pretrained(cls, source: str | os.PathLike[str], *, revision: str | None = None) -> BetaVAE:
        """Load the model that `save_pretrained` or ``betavae-fast export --format hub`` wrote.

        Args:
            source: a folder, or the name of a repository on the Hugging Face Hub ("user/name"), which is downloaded
                with huggingface_hub. A folder comes first. Nothing is ever unpickled.
            revision: branch, tag or commit on the Hub.
        Returns: the model on the CPU, in evaluation mode, in the dtype of its weights.
        Raises: FileNotFoundError, which names the file that is missing; ValueError, which names the file that is
            damaged or does not fit, or for the ``revision`` of a folder; RuntimeError if huggingface_hub is needed and
            not installed; the errors of huggingface_hub.
        """
        from betavae_fast.nn import pretrained

        return pretrained.load(cls, source, revision)

    def push_to_hub(
        self,
        repo_id: str,
        *,
        card: str | None = None,
        private: bool | None = None,
        commit_message: str | None = None,
        token: str | None = None,
    ) -> str:
        """Upload the files of `save_pretrained` to the Hugging Face Hub, in one commit. Needs huggingface_hub.

        Args:
            repo_id: name of the repository ("user/name"), which is created if missing.
            card: the text of README.md, which is replaced; by default one that says how to load the model.
            private: whether a new repository is private; by default as the user's settings on the Hub say.
            commit_message: by default the Hub's own.
            token: by default the one that ``hf auth login`` stored.
        Returns: the address of the commit.
        Raises: RuntimeError if huggingface_hub is not installed; its errors.
        """
        from betavae_fast.nn import pretrained

        return pretrained.push(self, repo_id, card, private, commit_message, token)

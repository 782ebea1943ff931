"""Lightning's Trainer on our module, and the logs of the callbacks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

lightning = pytest.importorskip("lightning", reason="lightning is not installed")

from betavae_fast import BetaVAELoss  # noqa: E402
from betavae_fast.integrations.lightning import CapacityLogger, LitBetaVAE, TraversalLogger  # noqa: E402
from betavae_fast.training import precision  # noqa: E402


@pytest.fixture
def images() -> Tensor:
    """Variations of one image that is easy to learn."""
    g = torch.Generator().manual_seed(0)
    one, noise = (
        200 * torch.randint(0, 2, (1, 8, 8), generator=g),
        torch.randint(0, 20, (64, 1, 8, 8), generator=g),
    )
    return (one + noise).to(torch.uint8)


def trainer(folder: Path, *callbacks: Any, logger: Any = False, epochs: int = 1, **settings: Any) -> Any:
    return lightning.Trainer(
        max_epochs=epochs,
        accelerator="cpu",
        callbacks=list(callbacks),
        logger=logger,
        log_every_n_steps=1,
        default_root_dir=folder,
        enable_checkpointing=False,
        enable_model_summary=False,
        enable_progress_bar=False,
        **settings,
    )


def module() -> LitBetaVAE:
    torch.manual_seed(0)
    return LitBetaVAE((1, 8, 8), latent_dim=3, architecture="mlp", beta=2.0)


@pytest.mark.parametrize("speedup, expected", [(2.0, "bf16-mixed"), (1.0, "32-true")])
def test_auto_precision_is_that_of_the_command_line(
    images: Tensor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, speedup: float, expected: str
) -> None:
    monkeypatch.setattr(precision, "bf16_speedup", lambda model, rows: speedup)
    lit = module()
    chosen = lit.auto_precision(64, "cpu")
    assert chosen == expected
    trainer(tmp_path, precision=chosen).fit(lit, DataLoader(TensorDataset(images), 64))


def test_a_step_is_the_loss_of_a_hand_written_one(images: Tensor) -> None:
    lit = module()
    torch.manual_seed(1)
    step = lit.training_step([images], 0)
    torch.manual_seed(1)
    out = lit.model(images)
    expected = BetaVAELoss(2.0)(out.decoded, images, out.kl)
    assert torch.equal(step["loss"], expected.total) and torch.equal(step["kl_per_dim"], expected.kl_per_dim)
    torch.manual_seed(1)
    assert torch.equal(lit.training_step(images, 0)["loss"], expected.total)


def test_it_trains_and_logs(images: Tensor, tmp_path: Path) -> None:
    lit = module()
    run = trainer(tmp_path, CapacityLogger(), TraversalLogger(images[0], every_n_epochs=2), epochs=5)
    loader = DataLoader(TensorDataset(images), batch_size=32)
    first = lit.training_step(images, 0)["loss"].item()
    run.fit(lit, loader, loader)
    logged = {name: value.item() for name, value in run.callback_metrics.items()}
    assert logged.keys() == {
        *(prefix + name for prefix in ("", "val_") for name in ("loss", "reconstruction", "kl")),
        *(f"capacity/{d:02d}" for d in range(3)),
    }
    assert sum(logged[f"capacity/{d:02d}"] for d in range(3)) == pytest.approx(logged["kl"], rel=1e-5)
    assert logged["loss"] == pytest.approx(logged["reconstruction"] + 2 * logged["kl"], rel=1e-5)
    assert logged["val_loss"] < 0.9 * first
    assert sorted(path.name for path in tmp_path.glob("*.png")) == [
        "traversal-0001.png",
        "traversal-0003.png",
    ]


def test_it_tests_and_predicts_codes(images: Tensor, tmp_path: Path) -> None:
    lit, run = module(), trainer(tmp_path)
    loader = DataLoader(TensorDataset(images), batch_size=32)
    run.test(lit, loader, verbose=False)
    assert run.callback_metrics.keys() == {"test_loss", "test_reconstruction", "test_kl"}
    mu, logvar = (torch.cat(parts) for parts in zip(*run.predict(lit, loader), strict=True))
    for found, expected in zip((mu, logvar), lit.model.encode(images), strict=True):
        torch.testing.assert_close(found, expected)


def test_pixels_of_another_range_end_the_training(images: Tensor, tmp_path: Path) -> None:
    validation = DataLoader(images, batch_size=32)
    for training, found in ((images.float(), "0 to 219"), (images.double() / 127.5 - 1, r"-1 to 0\.717")):
        loader = DataLoader(TensorDataset(training), batch_size=64)
        with pytest.raises(ValueError, match=rf"^BetaVAELoss: targets must lie in \[0, 1\], got {found}"):
            trainer(tmp_path).fit(module(), loader, validation)
    gaussian = LitBetaVAE((1, 8, 8), 3, architecture="mlp", likelihood="gaussian")
    loader = DataLoader(TensorDataset(images.float()), batch_size=32)
    with pytest.warns(UserWarning) as warnings:
        trainer(tmp_path, epochs=2).fit(gaussian, loader)
    assert sum("targets from 0 to" in str(warning.message) for warning in warnings) == 1


def test_figures_go_to_a_logger_that_takes_them(images: Tensor, tmp_path: Path) -> None:
    from lightning.pytorch.loggers import TensorBoardLogger
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    logger = TensorBoardLogger(tmp_path)
    run = trainer(tmp_path, TraversalLogger(images[0]), CapacityLogger(), logger=logger)
    run.fit(module(), DataLoader(images, batch_size=32))
    events = EventAccumulator(logger.log_dir)
    logger.experiment.flush()
    events.Reload()
    assert events.Tags()["images"] == ["traversal"]
    assert {"capacity/00", "capacity/01", "capacity/02"} <= set(events.Tags()["scalars"])
    assert not list(tmp_path.glob("*.png"))


def test_spatial_capacity_is_summed_over_space(tmp_path: Path) -> None:
    per_dim = torch.rand(4, 2, 3)

    class Spatial(lightning.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.weight = torch.nn.Parameter(torch.zeros(()))

        def training_step(self, batch: Any, batch_idx: int) -> dict[str, Tensor]:
            return {"loss": self.weight, "kl_per_dim": per_dim}

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.SGD(self.parameters(), lr=0.1)

    run = trainer(tmp_path, CapacityLogger())
    run.fit(Spatial(), DataLoader(torch.zeros(2, 1)))
    logged = [run.callback_metrics[f"capacity/{d:02d}"] for d in range(4)]
    torch.testing.assert_close(torch.stack(logged), per_dim.sum((1, 2)))


def test_malformed_arguments_are_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="got 0"):
        TraversalLogger(torch.zeros(1, 8, 8), every_n_epochs=0)

    class Bare(LitBetaVAE):
        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            return super().training_step(batch, batch_idx)["loss"]

    with pytest.raises(ValueError, match="must return a dict with 'kl_per_dim'"):
        trainer(tmp_path, CapacityLogger()).fit(Bare((1, 8, 8)), DataLoader(torch.zeros(2, 1, 8, 8)))

"""A risk certificate for an equilibrium network: prior from one half of the training set, posterior and bound from the other."""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from wellposed.data import ImageData
from wellposed.errors import check, check_number, require
from wellposed.generalisation.risk import RiskCertificate, risk_certificate
from wellposed.training.config import TrainConfig
from wellposed.training.files import make_folder, write_json
from wellposed.training.loaders import build_model, load_data, training_batches

_ROWS = 500  # samples on which each draw is judged


@dataclass(frozen=True)
class RiskRecord:
    """What the experiment showed.

    Attributes:
        certificate: the bound and what it is made of.
        prior_samples: training samples that the prior depends on, none of which the bound counts.
        test_error: mean error of draws on the test set: what the certificate bounds, measured.
        prior_error: error of the prior's mean on the test set.
        seconds: of everything.
    """

    certificate: RiskCertificate
    prior_samples: int
    test_error: float
    prior_error: float
    seconds: float


def certify_risk(
    config: TrainConfig,
    out: Path,
    *,
    data_root: Path | None,
    scale: float,
    epochs: int,
    learning_rate: float,
    draws: int,
    delta: float,
    done: Callable[[int], None],
) -> RiskRecord:
    """Train prior and posterior, evaluate the certificate, and write ``risk.json``.

    Args:
        config: family, data, and how the prior is trained.
        out: folder of the result.
        data_root: see `load_images`.
        scale: the prior's relative standard deviation, chosen beforehand.
        epochs: passes of the posterior's training, over all samples.
        learning_rate: of that training.
        draws: of weights, for the certificate.
        delta: its probability of failure.
        done: called with the number of finished draws.
    """
    check(draws >= 1, "draws", draws, "must be positive")
    check_number("scale", scale, 0.0, math.inf, "must be positive and finite")
    check(epochs >= 0, "epochs", epochs, "must not be negative")
    check_number("learning_rate", learning_rate, 0.0, math.inf, "must be positive and finite")
    check_number("delta", delta, 0.0, 1.0, "must lie between 0 and 1")
    require("lightning", "train")
    from wellposed.training.trainer import same_generators_and_seed

    make_folder(out)
    with same_generators_and_seed():
        record = _measured(config, data_root, scale, epochs, learning_rate, draws, delta, done)
    write_json(out / "risk.json", asdict(record), indent=1)
    return record


def _measured(
    config: TrainConfig, data_root: Path | None, scale: float, epochs: int, learning_rate: float, draws: int, delta: float,
    done: Callable[[int], None],
) -> RiskRecord:  # fmt: skip
    """What `certify_risk` writes."""
    import lightning

    from wellposed.training.posterior import Posterior, PosteriorModule

    start = time.monotonic()
    data = load_data(config, data_root).as_images(f"data={config.data!r}")
    lightning.seed_everything(config.seed, workers=True, verbose=False)
    # Samples come in no order that depends on them, so the first half is as good as a random one.
    half = len(data.train_y) // 2
    samples = len(data.train_y) - half
    model = _prior(config, data, half)
    posterior = Posterior(model, scale)  # from here on, nothing that the network keeps may change
    prior_error = float((model(data.test_x).argmax(1) != data.test_y).double().mean())
    if epochs:
        batches = training_batches(data, config)
        _fit(PosteriorModule(posterior, samples, delta, learning_rate, batches, epochs), batches, epochs)
    generator = torch.Generator().manual_seed(config.seed)
    errors = _draws(posterior, (data.train_x[half:], data.train_y[half:]), draws, generator, done)
    test = _draws(posterior, (data.test_x, data.test_y), max(1, draws // 10), generator, lambda _: None)
    posterior.check_buffers()
    certificate = risk_certificate(errors, posterior.kl_upper_bound(), samples, delta=delta)
    return RiskRecord(certificate, half, float(test.mean()), prior_error, time.monotonic() - start)


def _prior(config: TrainConfig, data: ImageData, half: int) -> nn.Module:
    """The network that the prior is around, trained on the first samples only."""
    from wellposed.training.module import TaskModule

    model = build_model(config, data)
    first = replace(data, train_x=data.train_x[:half], train_y=data.train_y[:half])
    batches = training_batches(first, config)
    _fit(TaskModule(model, config, batches, data.task), batches, config.epochs)
    return model


def _fit(module: Any, batches: Any, epochs: int) -> None:
    import lightning

    from wellposed.training.trainer import quietly

    with quietly():
        trainer = lightning.Trainer(
            max_epochs=epochs, logger=False, enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
            accelerator="cpu", devices=1, limit_val_batches=0,
        )  # fmt: skip
        trainer.fit(module, batches)


@torch.no_grad()
def _draws(
    posterior: Any, samples: tuple[Tensor, Tensor], draws: int, generator: torch.Generator, done: Callable[[int], None]
) -> Tensor:
    """Error rates of independent draws, each on samples drawn uniformly; a solve that does not converge is an error."""
    x, labels = samples
    found = []
    for count in range(1, draws + 1):
        rows = torch.randint(len(labels), (_ROWS,), generator=generator, device="cpu")
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            logits = posterior.logits(posterior.draw(generator), x[rows])
        wrong = (logits.argmax(1) != labels[rows]) | ~torch.isfinite(logits).all(1)
        # A warning that solves did not converge does not say which, so all samples count.
        found.append(1.0 if caught else float(wrong.double().mean()))
        done(count)
    return torch.tensor(found, dtype=torch.float64, device="cpu")


def as_text(record: RiskRecord) -> str:
    """The certificate in words."""
    found = record.certificate
    return (
        f"risk at most {100 * found.value:.2f} % with probability {1 - found.delta:g}: mean error {100 * found.empirical:.2f} %\n"
        f"of {found.draws} draws (at most {100 * found.empirical_bound:.2f} % of all), divergence {found.kl:.4g} nats, "
        f"{found.samples} samples\n"
        f"measured on the test set: {100 * record.test_error:.2f} % for draws, {100 * record.prior_error:.2f} % for the prior's "
        f"mean; {record.seconds:.0f} s"
    )

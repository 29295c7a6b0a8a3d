"""`wellposed.train`: a model and data of a user's own, from Python, to a network that certificates take."""

from __future__ import annotations

import inspect
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from wellposed.certificates import Certificate, certify
from wellposed.data import TensorData, from_arrays, load_file
from wellposed.data.tasks import beside_a_constant
from wellposed.errors import InputError, OptionError, check, checked_options, choices, require
from wellposed.experiments.radii import radii_of
from wellposed.experiments.robustness import certified_on
from wellposed.experiments.tables import Row, Summary, as_text
from wellposed.layers.options import solving_modules
from wellposed.models.families import FAMILIES, Family
from wellposed.models.units import InUnits, settle
from wellposed.names import TASKS
from wellposed.network.modes import evaluating
from wellposed.solvers.solution import Tolerance
from wellposed.training.about import described
from wellposed.training.batches import suited
from wellposed.training.folder import RunFolder
from wellposed.training.loaders import held_out

_BATCH = 1000
OwnData = TensorData | str | Path | Mapping[str, Any] | Sequence[Any] | torch.utils.data.Dataset[Any]


class Trained(nn.Module):
    """A trained model with the data that it was trained on; `wellposed.certify` and all else take it for its model.

    Args:
        model: the trained model.
        data: the set.
        metrics: of the epoch that was kept, and of the test part.
        epoch: that was kept, counted from one.
    """

    def __init__(self, model: nn.Module, data: TensorData, metrics: Mapping[str, float], epoch: int) -> None:
        super().__init__()
        self.model, self.data, self.metrics, self.epoch = model, data, dict(metrics), epoch
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        """The model's outputs."""
        outputs: Tensor = self.model(x)
        return outputs

    @property
    def output_unit(self) -> float:
        """What errors of the outputs are measured by: see `wellposed.data.Task.unit`."""
        return self.data.task.unit

    def certify(self, **options: Any) -> Certificate:
        """`wellposed.certify` of the model, with some test inputs to look for a lower bound at.

        Args:
            options: of `wellposed.certify`.
        """
        return certify(self, inputs=self.data.test_x[:64], **options)

    def table(self, certificate: Certificate, radii: Sequence[float] = ()) -> str:
        """Certified accuracy of the test part per radius, with the units of the radii.

        Args:
            certificate: of this model, Euclidean and with a lower bound, as `Trained.certify` gives it.
            radii: none for those that suit the data.

        Raises:
            InputError: the model estimates numbers, or the certificate is about another norm or has no lower bound.
        """
        check(
            self.data.task.has_logits, "task", "regression", "has no certified accuracy; the certificate says the slope"
        )
        check(certificate.norm == "2", "certificate", certificate.norm, "tables are about the Euclidean norm")
        if certificate.lower_bound is None:
            raise InputError("certificate: has no lower bound; give inputs to wellposed.certify")
        about, x, y = described(self.data), self.data.test_x, self.data.test_y
        batches = zip(x.split(_BATCH), y.split(_BATCH), strict=True)
        found = certified_on(batches, certificate.network, certificate, certificate.lower_bound, "", lambda count: None)
        rows = [
            Row(radius, 1.0 - found.test_error, found.accuracy(radius, "paper"), found.accuracy(radius), None)
            for radius in radii or radii_of(about)
        ]
        return as_text(
            Summary(
                self.data.name, len(y), about.inputs, found.test_error, found.lipschitz, found.lower_bound, rows,
                [*found.remarks, *about.remarks], len(y), about.units, found.warning,
            )
        )  # fmt: skip


@checked_options
def train(
    model: nn.Module | Family | str,
    data: OwnData,
    *,
    task: str | None = None,
    target: str = "",
    epochs: int | None = None,
    batch_size: int | None = None,
    learning_rate: float = 3e-3,
    weight_decay: float = 0.0,
    validation: float = 0.1,
    patience: int = 0,
    loss: Any = None,
    seed: int = 0,
    trainer: Mapping[str, Any] | None = None,
) -> Trained:
    """Train a model on a user's own data, and keep the epoch with the best score on validation samples.

    Args:
        model: any module, which is trained as it is and in place; a family's settings, such as ``MonDEQFamily(width=20)``, or its
            name: its network then has the data's normalisation inside.
        data: a data set; a path, see `wellposed.data.load_file`; arrays or tensors by name, see `wellposed.data.from_arrays`; a
            pair of inputs and targets, of which a fifth becomes the test part; or a torch ``Dataset`` of such pairs.
        task: ``"classification"`` or ``"regression"``, None for the former; a data set has its own.
        target: the column of a table, see `wellposed.data.load_file`.
        epochs: passes over the training part; None for 20, or as many as make a thousand steps where samples are few.
        batch_size: samples per step; None for 128, or a tenth of the training part where that is less.
        learning_rate: see `TrainingModule`.
        weight_decay: see `TrainingModule`.
        validation: share of the training part to choose the epoch by, where there is no validation part; 0 for the last epoch.
        patience: stop after so many epochs without a better score; 0 for never.
        loss: see `TrainingModule`; `wellposed.losses` has parts of one.
        seed: of the fresh weights of a family and of the order of the samples.
        trainer: options of ``lightning.Trainer``: devices, logger, callbacks, …

    Raises:
        DataError: the data are unusable; the message names file and array.
        InputError: an argument is unusable, or the model does not fit the data.

    Example:
        >>> result = wp.train("mondeq", (x := torch.randn(60, 2), (x[:, 0] > 0).long()), epochs=2)
        >>> "certified" in result.table(wp.certify(result, inputs=result.data.test_x))
        True
    """
    lightning = require("lightning", "train")
    _check_counts(epochs, batch_size, patience, seed)
    check(loss is None or callable(loss), "loss", loss, "must be a function of model, inputs and targets")
    samples = _samples(data, task, target, validation, patience)
    from wellposed.training.trainer import same_generators_and_seed

    steps = {"learning_rate": learning_rate, "weight_decay": weight_decay, "loss": loss}
    options = {"logger": False, "done": None, **_trainer_options(lightning, trainer or {})}
    with same_generators_and_seed():
        lightning.seed_everything(seed, workers=True, verbose=False)
        module, own = _model(model, samples)
        size, passes = suited(len(samples.train_y), batch_size, epochs)
        metrics, epoch = _fitted(module, own, samples, passes, patience, (size, seed), steps, options)
    for part in () if own else solving_modules(module):
        part.tolerance = Tolerance()  # the family's is for training
    return Trained(module.cpu(), samples, metrics, epoch)


def _trainer_options(lightning: Any, given: Mapping[str, Any]) -> dict[str, Any]:
    """Options that a ``lightning.Trainer`` has, and that are not set by `train` itself.

    Raises:
        OptionError: there is none of a name, with those that there are.
    """
    known = [
        name
        for name in inspect.signature(lightning.Trainer).parameters
        if name not in ("max_epochs", "default_root_dir")
    ]
    for name in given:
        if name not in known:
            mend = "; give epochs of wellposed.train" if name == "max_epochs" else ""
            raise OptionError(f"trainer has no option {name!r}{mend}; it has {', '.join(known)}")
    return dict(given)


def _check_counts(epochs: int | None, batch_size: int | None, patience: int, seed: int) -> None:
    """Refuse numbers that no training can have; see `train`."""
    check(epochs is None or epochs >= 1, "epochs", epochs, "must be at least 1")
    check(batch_size is None or batch_size >= 1, "batch_size", batch_size, "must be at least 1")
    check(patience >= 0, "patience", patience, "must not be negative")
    check(0 <= seed < 2**32, "seed", seed, "must lie in 0…2³² − 1")


def _fitted(
    model: nn.Module, own: bool, data: TensorData, epochs: int, patience: int, batches: tuple[int, int],
    steps: dict[str, Any], given: dict[str, Any],
) -> tuple[dict[str, float], int]:  # fmt: skip
    """Train in place.

    Args:
        model: to train.
        own: whether it is the user's own, which gives outputs in the units of the targets.
        data: the set.
        epochs: see `train`.
        patience: see `train`.
        batches: their size, and the seed of their order.
        steps: options of `TrainingModule`.
        given: options of the trainer.

    Returns:
        Metrics, and the epoch that was kept, counted from one.
    """
    from wellposed.training.best_epoch import BestEpoch
    from wellposed.training.own import TrainingData, TrainingModule
    from wellposed.training.trainer import early_stopping, fit, quietly, test, trainer_of

    best = BestEpoch(model, choose=bool(data.evaluated), task=data.task)
    loaders = TrainingData(data, batch_size=batches[0], seed=batches[1])
    module = TrainingModule(model if own else InUnits(model, data.task), data.task, **steps)
    callbacks = [*given.pop("callbacks", []), *early_stopping(data.task, patience)]
    with tempfile.TemporaryDirectory() as place, quietly():
        training = loaders.train_dataloader()
        trainer = trainer_of(RunFolder(Path(place)), best, epochs, len(training), callbacks=callbacks, **given)
        fit(trainer, module, training, loaders.val_dataloader() or None, None)
        best.restore()
        if not own:
            settle(model, data.task)
            module.model = model
        tested = test(trainer, module, loaders.test_dataloader(), best.epoch)
    return {**best.metrics, **tested, **beside_a_constant(data.task, data.test_y)}, best.epoch + 1


def _samples(data: OwnData, task: str | None, target: str, validation: float, patience: int) -> TensorData:
    """The data set, with its validation part."""
    check(0.0 <= validation < 1.0, "validation", validation, "must lie in [0, 1)")
    check(patience == 0 or validation > 0.0, "patience", patience, "needs validation samples")
    return held_out(data_set(data, task, target), validation)


def data_set(data: OwnData, task: str | None = None, target: str = "") -> TensorData:
    """Data of any kind that `train` takes as a data set.

    Args:
        data: see `train`.
        task: see `train`.
        target: see `train`.

    Raises:
        DataError: the data are unusable.
        InputError: they are of another kind.
    """
    given, task = task, task or TASKS[0]
    choices("task", task, TASKS)
    if isinstance(data, str | Path):
        return load_file(Path(data), task=task, target=target)
    check(not target, "target", target, "is the column of a table, and the data are not the path of one; leave it out")
    if hasattr(data, "as_tensors"):
        found: TensorData = data.as_tensors("data")
        own = TASKS[0] if found.task.has_logits else TASKS[1]
        check(given in (None, own), "task", given, f"the data set is for {own}; leave it out")
        return found
    if isinstance(data, Mapping):
        return from_arrays(data, task=task)
    if isinstance(data, tuple | list) and len(data) == 2:
        return from_arrays({"x_train": data[0], "y_train": data[1]}, task=task)
    if hasattr(data, "__getitem__") and hasattr(data, "__len__"):
        pairs = [data[place] for place in range(len(data))]
        if not pairs or any(not isinstance(pair, tuple | list) or len(pair) != 2 for pair in pairs):
            raise InputError(f"data: is a {type(data).__name__} whose samples are no pairs of an input and a target")
        inputs, targets = ([np.asarray(pair[side]) for pair in pairs] for side in (0, 1))
        return from_arrays({"x_train": inputs, "y_train": targets}, task=task)
    raise InputError(
        f"data: is a {type(data).__name__}; needs a data set, a path, arrays by name, or inputs and targets"
    )


def _model(model: nn.Module | Family | str, samples: TensorData) -> tuple[nn.Module, bool]:
    """The module to train, and whether it is the user's own."""
    if isinstance(model, nn.Module):
        _check_fit(model, samples)
        return model, True
    if isinstance(model, str):
        choices("model", model, tuple(FAMILIES))
        model = FAMILIES[model]()
    if not hasattr(model, "domains"):
        raise InputError(
            f"model: is a {type(model).__name__}; needs a torch.nn.Module, a family's settings or its name"
        )
    check(
        samples.inputs in model.domains,
        "model",
        model.name,
        f"takes {' or '.join(model.domains)}, and the data are {samples.inputs}",
    )
    module = model.model(samples)
    for part in solving_modules(module):
        part.max_steps = model.max_steps
    return module, False


def _check_fit(model: nn.Module, data: TensorData) -> None:
    """Refuse a model that does not give as many outputs as the data need, for inputs of their shape."""
    wanted, shape = data.task.outputs, tuple(data.train_x.shape[1:])
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise InputError("model: has no parameter that can be trained; call requires_grad_() of those that should be")
    try:
        with torch.no_grad(), evaluating(model):
            outputs = model(data.train_x[:2])
    except (RuntimeError, ValueError, TypeError, IndexError) as error:
        first = str(error).partition("\n")[0][:200]
        raise InputError(
            f"model: does not take inputs of shape (batch, {', '.join(map(str, shape))}): {first}"
        ) from error
    given = f"the shape {tuple(outputs.shape)}" if isinstance(outputs, Tensor) else f"a {type(outputs).__name__}"
    if not isinstance(outputs, Tensor) or tuple(outputs.shape) != (2, wanted):
        raise InputError(f"model: gives {given} for two inputs; the data need a tensor of shape (2, {wanted})")

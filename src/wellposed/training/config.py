"""The settings of a run: checked dataclasses, presets and TOML."""

from __future__ import annotations

import dataclasses
import hashlib
import tomllib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from wellposed.errors import (
    CheckpointError,
    InputError,
    OptionError,
    WellposedError,
    check,
    check_fields,
    choices,
    require,
)
from wellposed.models.families import FAMILIES, Family, MonDEQFamily
from wellposed.names import DATA_SETS, FOLDS, TASKS, inputs_of, is_own
from wellposed.training.files import write_text
from wellposed.training.shipped import shipped_presets

_SEAL = "sha256 = "


@dataclass(frozen=True)
class TrainConfig:
    """Everything that decides the outcome of a training run."""

    family: Family = field(default_factory=MonDEQFamily)
    """The layer and its hyper-parameters."""
    data: str = ""
    """Data set: digits, mnist, fashion-mnist, cifar10, cifar10-jpeg, cifar10-lossless or svhn; function-estimation, a function of
    one number, by regression; for graphs MUTAG, PTC_MR, COX2, PROTEINS or NCI1. By default the smallest. Or a path to
your own: an archive FILE.npz with x_train and y_train, a table FILE.csv, or a folder of images."""
    target: str = ""
    """Of a table of your own: the column to tell from all others."""
    task: str = "classification"
    """Of data of your own: classification or regression."""
    fold: int = 0
    """Which tenth of a graph set is for testing; image sets have their own test images."""
    validation: float = 0.1
    """Share of the training samples that is held out to choose the epoch with; 0 trains on all and keeps the last epoch, as
    presets do. Graph sets are divided into tenths, one of them for this choice; files of your own may have a validation part."""
    patience: int = 0
    """Stop after so many epochs without a better score on the validation samples; 0 for never."""
    epochs: int = 20
    """Passes over the training set; over few samples of your own, unless this is given, as many as make a thousand steps."""
    batch_size: int = 128
    """Samples per step; of few samples of your own, unless this is given, a tenth."""
    learning_rate: float = 3e-3
    """Peak of the one-cycle schedule of Adam."""
    weight_decay: float = 0.0
    """Decoupled weight decay (AdamW)."""
    lipschitz_penalty: float = 0.0
    """Weight in the loss of a Lipschitz constant: accuracy for a smaller one."""
    penalty_norm: str = "2"
    """Of that constant: 2 for the product of the linear layers' spectral norms; inf or 1, for NEMON, for the largest row or
    column of its sensitivities."""
    box_radius: float = 0.0
    """Train on the worst logits while every pixel may move so far, by intervals; for nemon and nemon-conv."""
    temperature: float = 1.0
    """Factor on the logits in the loss only: networks with a fixed Lipschitz constant need a large one for a margin."""
    augment: bool = False
    """Shift training images by up to four pixels and mirror half of them; for photographs."""
    seed: int = 0
    """Seed of the initialisation and of the order of the samples."""

    def __post_init__(self) -> None:
        check_fields(self)
        known = tuple(name for inputs in self.family.domains for name in DATA_SETS[inputs])
        if not self.data:
            object.__setattr__(self, "data", known[0])
        choices("task", self.task, TASKS)
        if self.is_own:
            object.__setattr__(self, "data", str(Path(self.data).resolve()))
        else:
            choices("data", self.data, known)
            check(not self.target, "target", self.target, "is a column of a table of your own")
            check(self.task == TASKS[0], "task", self.task, f"{self.data} has a task; this is for data of your own")
            self.check_inputs(self.inputs)
        check(self.patience >= 0, "patience", self.patience, "must not be negative")
        chosen = not self.patience or self.validation > 0.0
        check(chosen, "patience", self.patience, "needs validation samples; give --validation too")
        check(0 <= self.fold < FOLDS, "fold", self.fold, f"must lie in 0…{FOLDS - 1}")
        check(self.temperature > 0, "temperature", self.temperature, "must be positive")
        check(0 <= self.seed < 2**32, "seed", self.seed, "must lie in 0…2³² − 1")
        check(0.0 <= self.validation < 1.0, "validation", self.validation, "must lie in [0, 1)")
        check(self.epochs >= 1, "epochs", self.epochs, "must be at least 1")
        check(self.batch_size >= 1, "batch_size", self.batch_size, "must be at least 1")
        check(self.learning_rate > 0, "learning_rate", self.learning_rate, "must be positive")
        check(self.weight_decay >= 0, "weight_decay", self.weight_decay, "must not be negative")
        check(self.lipschitz_penalty >= 0, "lipschitz_penalty", self.lipschitz_penalty, "must not be negative")
        choices("penalty_norm", self.penalty_norm, ("2", "inf", "1"))
        check(0.0 <= self.box_radius <= 1.0, "box_radius", self.box_radius, "must lie in 0…1")
        bounded = self.family.has_intervals or not self.box_radius
        check(bounded, "box_radius", self.box_radius, f"no intervals are known for {self.family.name}")
        tells = self.task == "classification" or not self.box_radius
        check(tells, "box_radius", self.box_radius, "bounds the logits of classes, and regression has none")
        known_norms = self.family.penalty_norms
        words = f"no such constant is known for {self.family.name}, only {', '.join(known_norms)}"
        check(self.penalty_norm in known_norms, "penalty_norm", self.penalty_norm, words)

    @property
    def inputs(self) -> str:
        """What one sample of a set known by name is: ``"images"``, ``"vectors"`` or ``"graphs"``."""
        return inputs_of(self.data)

    @property
    def is_own(self) -> bool:
        """Whether the data are a user's own file, whose samples only the file tells."""
        return is_own(self.data)

    def check_inputs(self, inputs: str) -> None:
        """Refuse settings that are not for such samples.

        Args:
            inputs: what one sample of the data is: ``"images"``, ``"vectors"`` or ``"graphs"``.

        Raises:
            InputError: names the setting.
        """
        domains = self.family.domains
        words = f"has {inputs}, and {self.family.name} takes {' or '.join(domains)}"
        check(inputs in domains, "data", self.data, words)
        check(not self.augment or inputs == "images", "augment", self.augment, "is for images")
        plain = inputs == "images" or not self.box_radius
        check(plain, "box_radius", self.box_radius, "is for images, whose pixels lie in [0, 1]")

    def to_toml(self) -> str:
        """The settings as TOML, with the family's name beside its options."""
        content = dataclasses.asdict(self)
        chosen = {name: value for name, value in content["family"].items() if value is not None}  # TOML has no null
        content["family"] = {"name": self.family.name, **chosen}
        return str(require("tomli_w", "train").dumps(content))

    @classmethod
    def from_dict(cls, content: dict[str, Any]) -> TrainConfig:
        """Read what `to_toml` wrote, now or before there was a choice of the epoch: without ``validation``, it is 0.

        Raises:
            OptionError: an option does not exist.
            InputError: a value is unusable.
        """
        content = dict(content)
        options = dict(content.pop("family", {}))
        name = options.pop("name", MonDEQFamily.name)
        choices("family", name, tuple(FAMILIES))
        return _construct(cls, {"validation": 0.0, **content, "family": _construct(FAMILIES[name], options)})


def _construct(cls: type[Any], options: dict[str, Any]) -> Any:
    names = {entry.name for entry in dataclasses.fields(cls)}
    for name in options:
        if name not in names:
            raise OptionError(f"{cls.__name__} has no option {name!r}; it has {', '.join(sorted(names))}")
    try:
        return cls(**options)
    except TypeError as error:
        raise InputError(f"{cls.__name__}: {error}") from error


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode(errors="surrogateescape")).hexdigest()


def write_config(config: TrainConfig, path: Path) -> None:
    """Write a run's ``config.toml``, whose first line is the SHA-256 of the others.

    Raises:
        CheckpointError: it cannot be written.
    """
    text = config.to_toml()
    write_text(path, f'{_SEAL}"{_digest(text)}"\n{text}')


def read_config(path: Path) -> TrainConfig:
    """Read a run's ``config.toml``; one without the line of its SHA-256 was written by hand, or before there was that line.

    Raises:
        CheckpointError: it is missing or damaged.
    """
    try:
        text = path.read_bytes().decode("utf-8", errors="surrogateescape")  # names of files may be no UTF-8
        first, _, rest = text.partition("\n")
        if first.startswith(_SEAL):
            if first != f'{_SEAL}"{_digest(rest)}"':
                mend = "restore it or, if you changed it on purpose, delete its first line"
                raise CheckpointError(f"{path}: its content is not that of its SHA-256; {mend}")
            text = rest
        content = tomllib.loads(text)
        if "family" not in content:
            raise InputError("it names no family")
        return TrainConfig.from_dict(content)
    except CheckpointError:
        raise
    except (OSError, ValueError, WellposedError) as error:
        raise CheckpointError(f"{path}: not a readable configuration ({error}); restore it, or train anew") from error


def presets() -> dict[str, TrainConfig]:
    """The presets that ship with the package, by name; names of networks as large as published ones begin with ``papers/``."""
    return {name: TrainConfig.from_dict(preset.settings) for name, preset in shipped_presets().items()}

"""``wellposed train``: a run folder with a trained network."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wellposed.cli.options import parse, show
from wellposed.cli.progress import counting
from wellposed.errors import InputError, choices
from wellposed.models.families import FAMILIES
from wellposed.training.shipped import shipped_presets
from wellposed.training.writer import is_main_process

if TYPE_CHECKING:
    from wellposed.cli.train_options import Train
    from wellposed.training.config import TrainConfig


def train(arguments: list[str]) -> int:
    """``wellposed train [FAMILY]``."""
    if not arguments or arguments[0] in ("-h", "--help"):
        print(
            "usage: wellposed train FAMILY [--preset NAME] [OPTIONS]\n       wellposed train --preset NAME [OPTIONS]\n\n"
            f"families: {', '.join(FAMILIES)}\npresets:  {', '.join(shipped_presets())}\n\n"
            f"wellposed train {next(iter(FAMILIES))} --help lists all options; a preset's values are their defaults.\n"
            "wellposed presets says what every preset shows and takes."
        )
        return 0 if arguments else 2
    options = _options(arguments)
    config = options.config
    out = Path("runs") / f"{config.family.name}-{Path(config.data).stem}" if options.out is None else options.out
    from wellposed.training.folder import RunFolder, read_environment
    from wellposed.training.run import train as train_run

    there = RunFolder(out).is_finished
    finished, replaced = options.resume and there, there and not options.resume
    if replaced and is_main_process():
        print(
            f"{out}: a finished run is there, which this training replaces, with all that was made of it, once it begins",
            file=sys.stderr,
        )
    try:
        with counting("steps", quiet=options.json or not is_main_process()) as done:
            metrics = train_run(
                config, out, data_root=options.data_root, resume=options.resume, done=done, accelerator=options.accelerator,
                strategy=options.strategy, logger=options.logger, command=["wellposed", "train", *arguments],
                devices=int(options.devices) if options.devices.isdigit() else options.devices, free=_free(arguments),
            )  # fmt: skip
    except KeyboardInterrupt as stop:
        raise KeyboardInterrupt(f"continue with the same command and --resume --out {out}") from stop
    if not is_main_process():
        return 0
    result = {
        "run": str(out),
        "seconds": read_environment(out).get("seconds"),
        "finished_before": finished,
        "replaced": replaced,
        **metrics,
    }
    if not options.certify:
        return show(result, _text(out, result, config), options)
    if not options.json:
        show(result, _text(out, result, config), options)
    from wellposed.cli.certify import certify

    root = [] if options.data_root is None else ["--data-root", str(options.data_root)]
    return certify([str(out), *root, *(["--json"] if options.json else [])])


def _free(arguments: list[str]) -> tuple[str, ...]:
    """The settings that nothing was said of, neither by an option nor by a preset or a run to go on with."""
    given = {word.partition("=")[0].replace("_", "-") for word in arguments}
    if given & {"--preset", "--resume"}:
        return ()
    return tuple(name for name in ("batch_size", "epochs") if f"--{name.replace('_', '-')}" not in given)


def _text(out: Path, result: dict[str, Any], config: TrainConfig) -> str:
    """What training gave, in words."""
    from wellposed.data.tasks import in_words, nothing_learned

    if result["finished_before"]:
        text = f"{out}: this run is finished, and nothing was changed"
    else:
        text = f"{out}: trained in {result['seconds']} s"
    if "epoch" in result:
        text += f"; test {in_words(result, 'test')}"
        if config.validation:
            text += f", of epoch {result['epoch']:g}, which had the best validation {in_words(result, 'validation')}"
    said = [words] if (words := nothing_learned(result)) else []
    if config.is_own:
        from wellposed.training.about import about_run
        from wellposed.training.config import read_config
        from wellposed.training.folder import RunFolder

        used = read_config(RunFolder(out).config)
        if (used.batch_size, used.epochs) != (config.batch_size, config.epochs):
            epochs = f"{used.epochs} {'epoch' if used.epochs == 1 else 'epochs'}"
            said.append(f"{epochs} in batches of {used.batch_size}, as the training samples are few")
        said += about_run(out).remarks
    return "; ".join([text, *said])


def _options(arguments: list[str]) -> Train:
    """The options, whose defaults are those of a preset, of the run to resume, or of the family.

    Raises:
        InputError: no family, one that does not exist, or another one than that of the preset or run.
    """
    named = None if arguments[0].startswith("-") else arguments[0]
    if named is not None:
        choices("family", named, tuple(FAMILIES))
    preset, rest = _taken("--preset", arguments if named is None else arguments[1:])
    out, _ = _taken("--out", rest)
    saved = Path(out) / "config.toml" if out is not None and "--resume" in rest else None
    known = shipped_presets()
    if preset is not None:
        choices("preset", preset, tuple(known))
        _check_family(f"preset={preset!r}", known[preset].family, named)
    elif named is None and saved is not None and not saved.exists():
        raise InputError(f"out={out!r}: no run is there to go on with; give the --out of an interrupted one")
    elif named is None and saved is None:
        raise InputError(f"family: give one of {', '.join(FAMILIES)}, a --preset, or --resume with --out of a run")
    from wellposed.cli.train_options import Train
    from wellposed.training.config import TrainConfig, presets, read_config

    if preset is not None:
        config = presets()[preset]
    elif saved is not None and saved.exists():
        config = read_config(saved)
        _check_family(f"out={out!r}", config.family.name, named)
    else:
        assert named is not None  # checked above
        config = TrainConfig(family=FAMILIES[named]())
    options: Train = parse(Train, rest, f"wellposed train {config.family.name} [--preset NAME]", Train(config=config))
    return options


def _check_family(owner: str, family: str, named: str | None) -> None:
    if named not in (None, family):
        raise InputError(f"{owner}: belongs to the family {family!r}, not {named!r}")


def _taken(option: str, arguments: list[str]) -> tuple[str | None, list[str]]:
    """The value of an option, given as ``--option VALUE`` or ``--option=VALUE``, and the other arguments.

    Raises:
        InputError: it has no value.
    """
    for place, argument in enumerate(arguments):
        if argument.startswith(f"{option}="):
            return argument.partition("=")[2], arguments[:place] + arguments[place + 1 :]
        if argument == option:
            if place + 1 == len(arguments):
                raise InputError(f"{option}: needs a value")
            return arguments[place + 1], arguments[:place] + arguments[place + 2 :]
    return None, arguments

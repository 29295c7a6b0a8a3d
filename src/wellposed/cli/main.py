"""``wellposed``: train, certify, attack, compare, report, reproduce, export, verify, import, bench.

Exit codes: 0 success; 1 a certificate, checkpoint or solve failed; 2 unusable arguments or data; 130 interrupted.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence

from wellposed.errors import DataError, InputError, MissingExtraError, OptionError, WellposedError

_USAGE = """usage: wellposed COMMAND [OPTIONS]      (wellposed COMMAND --help for the options)

  train FAMILY        train a classifier into a run folder       wellposed train mondeq --data mnist --m 20
  certify RUN         Lipschitz certificate, certified accuracy  wellposed certify runs/mnist
  attack RUN          foolbox attacks, accuracy under attack     wellposed attack runs/mnist --eps 0.1 0.2
  compare RUN RUN …   one table for several runs                 wellposed compare runs/a runs/b
  report RUN          plots and one self-contained HTML page     wellposed report runs/mnist
  reproduce NAME      a paper's experiment                       wellposed reproduce graphs --data MUTAG
  export RUN          the network as one ONNX file               wellposed export runs/mnist
  verify CERT MODEL   check a certificate file independently     wellposed verify NET/certificate.json NET/model.onnx
  import FILE         published weights as a run folder          wellposed import mon_h40_m20.0.pt --as locuslab-mondeq --m 20
  bench               speed against named rivals                 wellposed bench --only fixed-point

Results go to standard output (as JSON with --json), progress and messages to standard error.
Exit codes: 0 success, 1 a check failed, 2 unusable arguments or data, 130 interrupted."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point of the ``wellposed`` command."""
    sys.exit(run(list(sys.argv[1:] if arguments is None else arguments)))


def run(arguments: list[str]) -> int:
    """Run one command line and return its exit code."""
    if not arguments or arguments[0] in ("-h", "--help"):
        print(_USAGE)
        return 0 if arguments else 2
    if arguments[0] == "--version":
        from importlib.metadata import version

        print(f"wellposed {version('wellposed')}")
        return 0
    name, *rest = arguments
    try:
        return _command(name)(rest)
    except BrokenPipeError:  # whoever read the output has seen enough
        sys.stderr.close()
        return 0
    except KeyboardInterrupt:
        print("wellposed: interrupted", file=sys.stderr)
        return 130
    except (InputError, OptionError, DataError, MissingExtraError) as error:
        print(f"wellposed: {error}", file=sys.stderr)
        return 2
    except WellposedError as error:
        print(f"wellposed: {error}", file=sys.stderr)
        return 1


def _command(name: str) -> Callable[[list[str]], int]:
    from wellposed.errors import choices, require

    choices(
        "command",
        name,
        ("train", "certify", "attack", "compare", "report", "reproduce", "export", "verify", "import", "bench"),
    )
    if name == "verify":  # which works without any extra
        from wellposed import checker

        return checker.main
    require("tyro", "train")
    from wellposed.cli import commands

    return commands.COMMANDS[name]


if __name__ == "__main__":
    main()

"""``wellposed``: train, presets, certify, attack, compare, report, reproduce, export, verify, import, bench.

Exit codes: 0 success; 1 a certificate or a solve failed; 2 unusable arguments, files or data; 130 interrupted.
"""

from __future__ import annotations

import contextlib
import os
import re
import sys
import warnings
from collections.abc import Sequence

from wellposed.cli.memory import keep_memory
from wellposed.errors import CheckpointError, DataError, InputError, MissingExtraError, OptionError, WellposedError

_USAGE = """usage: wellposed COMMAND [OPTIONS]      (wellposed COMMAND --help for the options)

  train FAMILY        train a classifier into a run folder       wellposed train mondeq --data mnist --m 20
  presets             what can be trained by one name            wellposed train --preset digits
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
Exit codes: 0 success, 1 a check failed, 2 unusable arguments, files or data, 130 interrupted."""

_NO_ROOM = "out of memory; use a smaller network, fewer inputs at a time (--batch-size), or a larger machine"
# What torch says of memory that cannot be had, on processors and on GPUs, or that no machine has.
_OUT_OF_MEMORY = re.compile(r"can't allocate memory|out of memory|[Ss]torage size calculation overflowed")


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point of the ``wellposed`` command."""
    # Threads that wait in turns take the processor from others, and from each other where cores are fewer: read with torch.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    warnings.formatwarning = _one_line
    given = list(sys.argv[1:] if arguments is None else arguments)
    if given[:1] != ["bench"]:  # whose times are those of any process
        keep_memory()
    sys.exit(run(given))


def _one_line(message: Warning | str, *_: object, **__: object) -> str:
    """A warning without the place in the code that gives it, which users of the command did not write."""
    return f"wellposed: {message}\n"


def run(arguments: list[str]) -> int:
    """Run one command line and return its exit code."""
    for stream in (sys.stdout, sys.stderr):
        change = getattr(stream, "reconfigure", None)
        if change is not None:  # a terminal that knows fewer characters shows their codes
            change(errors="backslashreplace")
    try:
        code = _dispatched(arguments)
        sys.stdout.flush()
        return code
    except BrokenPipeError:  # whoever read the output has seen enough
        _silence(sys.stdout)
        return 0
    except KeyboardInterrupt as stop:
        print("wellposed: interrupted" + "".join(f"; {words}" for words in stop.args), file=sys.stderr)
        return 130
    except (InputError, OptionError, DataError, MissingExtraError, CheckpointError) as error:
        return _failed(error, 2)
    except WellposedError as error:
        return _failed(error, 1)
    except OSError as error:
        place = "a file or standard output" if error.filename is None else error.filename
        code = _failed(f"{place}: {error.strerror or error}; make room there, or give a place that can be used", 2)
        _silence(sys.stdout)
        return code
    except MemoryError:
        return _failed(_NO_ROOM, 2)
    except RuntimeError as error:
        if not _OUT_OF_MEMORY.search(str(error)):
            raise
        return _failed(_NO_ROOM, 2)


def _dispatched(arguments: list[str]) -> int:
    if not arguments or arguments[0] in ("-h", "--help"):
        print(_USAGE)
        return 0 if arguments else 2
    if arguments[0] == "--version":
        import wellposed

        print(f"wellposed {wellposed.__version__}")
        return 0
    _refuse_empty(arguments)
    from wellposed.cli.commands import command

    name, *rest = arguments
    return command(name)(rest)


def _refuse_empty(arguments: list[str]) -> None:
    """Refuse empty words, as of a variable of the shell that is not set."""
    for place, word in enumerate(arguments):
        name, separator, value = word.partition("=")
        if not word:
            raise InputError(
                f"arguments: what follows {' '.join(arguments[:place])!r} is empty; give a value, or leave it out"
            )
        if name.startswith("--") and separator and not value:
            raise InputError(f"{name}: is empty; give a value, or leave it out")


def _failed(error: object, code: int) -> int:
    with contextlib.suppress(OSError):
        print(f"wellposed: {error}", file=sys.stderr)
    return code


def _silence(stream: object) -> None:
    """Let what a stream could not write go nowhere, so that Python does not complain of it at its end."""
    with contextlib.suppress(OSError, AttributeError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())  # type: ignore[attr-defined]


if __name__ == "__main__":
    main()

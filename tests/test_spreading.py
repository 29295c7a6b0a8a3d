"""Verification spread over processes and machines: the same verdicts as one process, whoever is killed, and nothing lost."""

from __future__ import annotations

import json
import os
import pickle
import signal
import socket
import subprocess
import sys
import time
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
from torch import nn

import wellposed as wp
from harness.damage import write_anew
from wellposed import testing
from wellposed.cli.main import run as command
from wellposed.errors import InputError, MissingExtraError, WellposedError, check
from wellposed.experiments.image_verdicts import ImageVerdicts, Outcome
from wellposed.experiments.spreading import spread
from wellposed.experiments.verdict_journal import VerdictJournal
from wellposed.experiments.verification import Verified, read_verified, verify_run
from wellposed.network import materialise
from wellposed.training.files import sealed, unsealed
from wellposed.verification import verifier_of

pytestmark = pytest.mark.float32

RADII = (0.02, 0.06)
NORM = "inf"
OPTIONS = ["--method", "ladder", "--norm", f"l{NORM}", "--eps", *map(str, RADII)]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "digits"
    settings = ["--epochs", "4", "--width", "10", "--m", "1.0", "--learning-rate", "0.02", "--batch-size", "64"]
    assert command(["train", "mondeq", "--data", "digits", "--out", str(folder), "--json", *settings]) == 0
    return folder


@pytest.fixture(scope="module")
def expected(run):
    """By one process, without a break."""
    return verified(run)


def verified(run, *, limit=80, done=lambda count: None, norm=NORM, **how) -> Verified:
    found = verify_run(
        run, data_root=None, norm=norm, radii=RADII, limit=limit, seconds=60.0, done=lambda count, _: done(count), **how
    )  # fmt: skip
    assert not journal_of(run, norm).exists() and json.loads((run / f"verified-{norm}.json").read_text())
    return found


def verdicts_of(found: Verified):
    return found.status, found.methods


def journal_of(run, norm=NORM) -> Path:
    return run / f"verified-{norm}.partial.jsonl"


def stopping_after(count):
    """For `done`: an interruption once so many images are finished."""

    def done(finished):
        if finished >= count:
            raise KeyboardInterrupt

    return done


@pytest.fixture
def calls(monkeypatch):
    """The number of images in every piece of work that this process does."""
    noted, usual = [], ImageVerdicts.__call__
    monkeypatch.setattr(ImageVerdicts, "__call__", lambda self, few: (noted.append(len(few[0])), usual(self, few))[1])
    return noted


def children_of(pid):
    """Processes that a process began, and those that they began."""
    found = []
    for entry in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, parent = entry.read_text().rpartition(")")[2].split()[:2]
        except OSError:
            continue
        if int(parent) == pid and state != "Z":
            found += [int(entry.parent.name), *children_of(int(entry.parent.name))]
    return found


def wait_until(condition, seconds=150.0):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it never happened"
        time.sleep(0.05)


def alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_the_images_give_all_kinds_of_verdicts(expected):
    assert len(expected.status[0]) == 80
    assert {status for row in expected.status for status in row} >= {"certified", "falsified", "misclassified"}
    assert len({method for row in expected.methods for method in row}) >= 3


def test_two_processes_give_the_same_verdicts(run, expected):
    assert verdicts_of(verified(run, jobs=2)) == verdicts_of(expected)


def test_a_stopped_verification_goes_on_where_it_was(run, expected, calls):
    with pytest.raises(KeyboardInterrupt):
        verified(run, done=stopping_after(40))
    assert sum(calls) == 40
    counts = []
    found = verified(run, done=counts.append)
    assert calls == [20, 20, 20, 20] and counts == [60, 80]
    assert verdicts_of(found) == verdicts_of(expected)
    assert sum(calls) == 80 and verdicts_of(verified(run)) == verdicts_of(expected) and sum(calls) == 160


def test_images_that_an_earlier_call_of_another_limit_finished_are_kept(run, expected, calls):
    with pytest.raises(KeyboardInterrupt):
        verified(run, limit=30, done=stopping_after(30))
    assert verdicts_of(verified(run)) == verdicts_of(expected)
    assert calls == [20, 10, 20, 20, 20]


@pytest.mark.parametrize("same", [False, True])
def test_a_journal_of_another_network_is_not_used(run, expected, calls, same):
    with pytest.raises(KeyboardInterrupt):
        verified(run, done=stopping_after(20))
    head, line = journal_of(run).read_text().splitlines()
    about, outcome = unsealed(head.encode()), unsealed(line.encode())
    assert set(about) == {"weights_sha256", "data_sha256", "norm", "radii", "seconds"}
    if not same:
        about["weights_sha256"] = "of another network"
    outcome["status"] = [["unknown"] * 20] * 2
    journal_of(run).write_text(f"{sealed(about)}\n{sealed(outcome)}\n")
    found = verified(run)
    assert (verdicts_of(found) == verdicts_of(expected)) == (not same)
    assert calls == [20] * (4 if same else 5)


@pytest.mark.parametrize("key", ["weights_sha256", "data_sha256", "norm", "radii", "seconds"])
def test_a_journal_is_about_everything_that_verdicts_depend_on(tmp_path, key):
    about = {"weights_sha256": "1", "data_sha256": "2", "norm": "2", "radii": [0.1], "seconds": 1.0}
    outcome = Outcome([["certified"]], [["global"]], 0.5)
    VerdictJournal(tmp_path / "journal", about).keep(0, outcome)
    assert VerdictJournal(tmp_path / "journal", dict(about)).outcome(0, 1, 1) == outcome
    assert VerdictJournal(tmp_path / "journal", about | {key: "other"}).outcome(0, 1, 1) is None
    assert VerdictJournal(tmp_path / "journal", about).outcome(0, 1, 1) is None  # it was begun anew


def test_a_journal_may_be_cut_anywhere(tmp_path):
    path, about = tmp_path / "journal", {"weights_sha256": "1"}
    outcomes = [Outcome([["certified"]], [["global"]], 0.5), Outcome([["unknown"]], [["attack"]], 1.5)]
    journal = VerdictJournal(path, about)
    for place, outcome in enumerate(outcomes):
        journal.keep(place, outcome)
    whole = path.read_bytes()
    ends = [place for place, byte in enumerate(whole) if byte == ord("\n")]
    for length in range(len(whole) + 1):
        write_anew(path, whole[:length])
        journal = VerdictJournal(path, about)
        noted = [journal.outcome(place, 1, 1) for place in range(2)]
        assert noted == [outcome if length >= end else None for outcome, end in zip(outcomes, ends[1:], strict=True)]
        journal.keep(7, outcomes[0])
        again = VerdictJournal(path, about)
        assert [again.outcome(place, 1, 1) for place in (0, 1, 7)] == [*noted, outcomes[0]]
        assert again.outcome(7, 2, 1) is None and again.outcome(7, 1, 2) is None


@pytest.mark.parametrize("garbage", [b"\xff\xfe", b"[]", b"12", b'"text"', b'{"first": 0}', b'{"status": []}', b"{}"])
def test_lines_that_say_nothing_are_passed_over(tmp_path, garbage):
    path = tmp_path / "journal"
    VerdictJournal(path, {}).keep(0, Outcome([["certified"]], [["global"]], 0.5))
    path.write_bytes(path.read_bytes() + garbage + b"\n")
    journal = VerdictJournal(path, {})
    assert journal.outcome(0, 1, 1) is not None and path.read_bytes().endswith(garbage + b"\n")


MODELS = {
    "affine": lambda: nn.Sequential(nn.Flatten(), wp.MonDEQ(16, 6, m=0.5), nn.Linear(6, 3)),
    "chain": lambda: nn.Sequential(wp.ConvMonDEQ(1, 2, (4, 4)), nn.Flatten(), nn.Linear(32, 3)),
    "positive": lambda: nn.Sequential(nn.Flatten(), wp.PcDEQ(16, 8, activation="tanh"), nn.Linear(8, 3)),
    "intervals": lambda: nn.Sequential(nn.Flatten(), wp.NEMON(16, 8, activation="tanh"), nn.Linear(8, 3)),
}


@pytest.mark.parametrize("name", MODELS)
def test_every_kind_of_verifier_travels(name):
    network = materialise(nn.Sequential(wp.Normalize((0.5,), (0.25,)), *MODELS[name]()).eval(), (1, 4, 4))
    work = ImageVerdicts(network, verifier_of(network), "inf", [1e-3, 0.03], 60.0)
    images = testing.rand(6, 1, 4, 4)
    items = [(images[k : k + 2].clone(), testing.tensor([0, 1])) for k in (0, 2, 4)]
    there = pickle.loads(pickle.dumps(work))
    for item in items:
        assert replace(there(item), seconds=0.0) == replace(work(item), seconds=0.0)


def test_a_killed_process_of_this_machine_is_an_error():
    with pytest.raises(WellposedError, match="what was finished is kept"):
        list(spread(os._exit, [1, 1, 1], jobs=2))
    assert sorted(spread(abs, [-1, -2, -3], jobs=2)) == [(0, 1), (1, 2), (2, 3)]


def start(run, *arguments):
    """The command as a program of its own, whose processes are a group of their own."""
    words = [sys.executable, "-m", "wellposed", "certify", str(run), *OPTIONS, "--seconds", "60", *arguments]
    return subprocess.Popen(
        words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
        env={**os.environ, "PYTHONPATH": str(Path(wp.__file__).parents[1])},
    )  # fmt: skip


def finished_lines(run):
    return journal_of(run).read_bytes().count(b"\n") - 1 if journal_of(run).exists() else 0


@pytest.mark.parametrize("how", [signal.SIGKILL, pytest.param(signal.SIGINT, marks=pytest.mark.slow)])
def test_a_killed_command_loses_nothing_and_leaves_no_processes(run, calls, how):
    program = start(run, "--limit", "300", "--jobs", "2")
    wait_until(lambda: finished_lines(run) >= 2)
    workers = children_of(program.pid)
    if how == signal.SIGKILL:
        program.kill()
    else:
        os.killpg(program.pid, how)  # as a terminal does
    out, err = program.communicate(timeout=150)
    assert out == "" and program.returncode == {signal.SIGKILL: -9, signal.SIGINT: 130}[how]
    assert len(workers) >= 2
    wait_until(lambda: not any(map(alive, workers)))
    if how == signal.SIGINT:
        assert "Traceback" not in err and "wellposed: interrupted" in err
    kept = finished_lines(run)
    assert 2 <= kept < 15
    found = verified(run, limit=300)
    assert len(calls) == 15 - kept
    assert verdicts_of(found) == verdicts_of(verified(run, limit=300))


@pytest.mark.parametrize("method", [[], ["--method", "ladder"]])
def test_no_processes_are_refused(run, capsys, method):
    assert command(["certify", str(run), "--jobs", "0", *method]) == 2
    assert "jobs=0" in capsys.readouterr().err


def test_only_the_ladder_is_spread(run, capsys):
    assert command(["certify", str(run), "--jobs", "2"]) == 2
    assert "ladder" in capsys.readouterr().err


def test_a_missing_package_is_named(monkeypatch):
    for module, extra, how in (("ray", "cluster", {"ray": "auto"}), ("joblib", "train", {"jobs": 2})):
        monkeypatch.setitem(sys.modules, module, None)
        with pytest.raises(MissingExtraError, match=rf"wellposed\[{extra}\]"):
            spread(abs, [1, 2], **how)


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def test_where_no_cluster_is_the_command_says_so(run, capsys):
    pytest.importorskip("ray")
    for address in (f"127.0.0.1:{free_port()}", "nonsense", "no-such-host.invalid:6379"):
        capsys.readouterr()
        assert command(["certify", str(run), *OPTIONS, "--ray", address]) == 2
        told = capsys.readouterr()
        (line,) = told.err.splitlines()
        assert f"ray={address!r}: no cluster answers there" in line and "ray start --head" in line and not told.out


@pytest.fixture
def two_nodes():
    """A Ray cluster of two nodes of this machine with one core each, of which nothing is left afterwards."""
    pytest.importorskip("ray", reason="the extra cluster is not installed")
    from ray.cluster_utils import Cluster

    memory = {"num_cpus": 1, "object_store_memory": 80 * 2**20}
    before = set(children_of(os.getpid()))
    cluster = Cluster(initialize_head=True, head_node_args={**memory, "include_dashboard": False})
    try:
        yield cluster, cluster.add_node(**memory)
    finally:
        begun = set(children_of(os.getpid())) - before
        cluster.shutdown()
        wait_until(lambda: not any(map(alive, begun)))


def test_two_nodes_give_the_same_verdicts_though_one_is_lost(run, expected, two_nodes, capfd):
    cluster, second = two_nodes
    killed = []

    def lose_a_node(count):
        if not killed:
            killed.append(count)
            cluster.remove_node(second, allow_graceful=False)

    capfd.readouterr()
    found = verified(run, done=lose_a_node, ray=cluster.address)
    assert killed == [20] and capfd.readouterr().out == ""
    assert verdicts_of(found) == verdicts_of(expected)
    with pytest.raises(InputError, match="x=3: is refused"):  # a worker's error keeps its kind and its words
        list(spread(partial(check, False, "x", 3), ["is refused"], ray=cluster.address))
    with pytest.raises(WellposedError, match="lost 4 times"):
        list(spread(os._exit, [1], ray=cluster.address))


@pytest.fixture(scope="module")
def mnist(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "mnist"
    settings = ["--epochs", "1", "--width", "20", "--m", "1.0", "--json"]
    assert command(["train", "mondeq", "--data", "mnist", "--out", str(folder), *settings]) == 0
    return folder


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("lost", ["node", "worker", "driver"])
def test_400_images_on_two_nodes(mnist, two_nodes, calls, lost):
    cluster, second = two_nodes
    program = start(mnist, "--limit", "400", "--ray", cluster.address)
    wait_until(lambda: finished_lines(mnist) >= 3, 300.0)
    if lost == "node":
        cluster.remove_node(second, allow_graceful=False)
    elif lost == "worker":
        os.kill(worker_of_ray(), signal.SIGKILL)
    else:
        program.kill()
    assert program.wait(timeout=600) == (-9 if lost == "driver" else 0)
    if lost == "driver":
        kept = finished_lines(mnist)
        assert 3 <= kept < 20
        found = verified(mnist, limit=400, ray=cluster.address)
    else:
        found = read_verified(mnist, NORM)
    assert not calls  # nothing was done in this process
    one = verified(mnist, limit=400)
    assert len(calls) == 20 and verdicts_of(found) == verdicts_of(one)


def worker_of_ray():
    """A process that is at a piece of work."""
    for pid in children_of(os.getpid()):
        if b"ray::_by_fetched" in Path(f"/proc/{pid}/cmdline").read_bytes():
            return pid
    raise AssertionError("no worker is there")

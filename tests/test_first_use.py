"""What is true however little of the library was imported before, each in a process of its own."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

REFUSED = """
try:
    wp.certify(model)
except wp.CertificateError as error:
    assert "was replaced" in str(error), error
else:
    raise AssertionError("a changed class was certified")
"""
CHANGED_CLASSES = {
    "layer": """
import torch, wellposed as wp
before = wp.MonDEQ.forward
wp.MonDEQ.forward = lambda self, x: 100 * before(self, x)
model = torch.nn.Sequential(wp.MonDEQ(4, 5), torch.nn.Linear(5, 2)).eval()
""",
    "layer of another": """
import torch
from wellposed.layers import DEQ, MonDEQ
MonDEQ.forward = DEQ.forward
import wellposed as wp
model = torch.nn.Sequential(MonDEQ(4, 5), torch.nn.Linear(5, 2)).eval()
""",
    "code without a module": """
import torch
exec("import wellposed as wp; before = wp.MonDEQ.forward; wp.MonDEQ.forward = lambda self, x: 100 * before(self, x)", {})
import wellposed as wp
model = torch.nn.Sequential(wp.MonDEQ(4, 5), torch.nn.Linear(5, 2)).eval()
""",
    "torch before": """
import torch
before = torch.nn.ReLU.forward
torch.nn.ReLU.forward = lambda self, x: 100 * before(self, x)
import wellposed as wp
model = torch.nn.Sequential(torch.nn.Linear(4, 5), torch.nn.ReLU(), torch.nn.Linear(5, 2)).eval()
""",
    "torch after": """
import wellposed as wp
import torch
torch.nn.Linear.forward = lambda self, x: 100 * torch.nn.functional.linear(x, self.weight, self.bias)
model = torch.nn.Sequential(torch.nn.Linear(4, 5), torch.nn.ReLU(), torch.nn.Linear(5, 2)).eval()
""",
    "torch of another": """
import torch
torch.nn.ReLU.forward = torch.nn.Softplus.forward
import wellposed as wp
model = torch.nn.Sequential(torch.nn.Linear(4, 5), torch.nn.ReLU(), torch.nn.Linear(5, 2)).eval()
""",
    "part": """
import torch, wellposed as wp
layer = wp.MonDEQ(4, 5)
type(layer.injection).forward = lambda self, x: 100 * torch.nn.functional.linear(x, self.weight)
model = torch.nn.Sequential(layer, torch.nn.Linear(5, 2)).eval()
""",
    "activation": """
import torch, wellposed as wp
from wellposed.activations import ReLU
ReLU.__call__ = lambda self, x: 100 * x.clamp_min(0)
model = torch.nn.Sequential(wp.MonDEQ(4, 5), torch.nn.Linear(5, 2)).eval()
""",
    "property": """
import torch, wellposed as wp
wp.NEMON.mu = property(lambda self: 0.0)
wp.MonDEQ.state_features = property(lambda self: 5)
model = torch.nn.Sequential(wp.MonDEQ(4, 5), torch.nn.Linear(5, 2)).eval()
""",
}  # fmt: skip


# Torch takes most of the time of a new process: code that begins with it runs in a copy of a process that has just imported it.
COPIES = """
import json, os, sys, traceback
import torch
for line in sys.stdin:
    copy = os.fork()
    if not copy:
        try:
            exec(json.loads(line), {"__name__": "__main__"})
        except BaseException:
            print(json.dumps(traceback.format_exc()), flush=True)
            os._exit(1)
        print(json.dumps(""), flush=True)
        os._exit(0)
    os.waitpid(copy, 0)
"""


@pytest.fixture(scope="module")
def run():
    """Runs code where nothing of the library was imported, and fails with what it says if it does."""
    with subprocess.Popen(
        [sys.executable, "-c", COPIES], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as copies:

        def run_code(code: str) -> None:
            if code.lstrip().startswith("import torch"):
                print(json.dumps(code), file=copies.stdin, flush=True)
                assert (said := json.loads(copies.stdout.readline())) == "", said
            else:
                done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
                assert done.returncode == 0, done.stderr

        yield run_code
        copies.stdin.close()


@pytest.mark.parametrize("name", CHANGED_CLASSES)
def test_classes_that_were_changed_before_anything_was_certified_are_refused(name: str, run) -> None:
    run(CHANGED_CLASSES[name] + REFUSED)


def test_embeddings_are_found_by_a_layer_alone(run) -> None:
    run(
        "import torch, wellposed as wp\n"
        "network = torch.nn.Sequential(torch.nn.Linear(4, 5), torch.nn.ReLU(), torch.nn.Linear(5, 2)).double()\n"
        "x = torch.rand(6, 4, dtype=torch.float64)\n"
        "assert (wp.LBEN.from_network(network)(x) - network(x)).abs().max() < 1e-6"
    )


@pytest.mark.parametrize(
    ("call", "wanted"),
    [
        ("wp.certify(m, norm='inf')", "NEMON(4, 5)"), ("wp.certify(m, norm=1)", "PcDEQ(4, 5)"),
        ("wp.well_posedness(m[0])", "MonDEQ(4, 5)"), ("wp.materialise(m).bounded(torch.rand(2, 4))", "OrthogonalDEQ(4, 6)"),
        ("wp.Verifier(m)", "MonDEQ(4, 5)"), ("wp.embed(m)", "MonDEQ(4, 5)"), ("wp.deployable(m, 9)", "MonDEQ(4, 5)"),
    ],
)  # fmt: skip
def test_names_work_first(call: str, wanted: str, run) -> None:
    width = 6 if "6" in wanted else 5
    run(
        "import torch, wellposed as wp\n"
        f"m = torch.nn.Sequential(wp.{wanted}, torch.nn.Linear({width}, 2)).eval()\n{call}\n"
    )

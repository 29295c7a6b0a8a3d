"""Modules with forwards of their own: what is certified of them is true, and what cannot be read is refused."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import wellposed as wp
from harness.changed_models import REFUSALS
from harness.module_graphs import count, exceeded, judge
from wellposed import testing
from wellposed.falsification.module_graphs import UserModule, user_module
from wellposed.falsification.slopes import sampled_slopes
from wellposed.falsification.unusual_statements import UNUSUAL


@pytest.mark.parametrize("plain", [True, False])
def test_constants_of_random_modules(plain):
    found = count((seed, user_module(seed, plain=plain)) for seed in range(200))
    assert not found.faults
    if plain:
        assert found.certified >= 0.6, found.outcomes


@pytest.mark.slow
@pytest.mark.timeout(2000)
def test_constants_of_ten_thousand_random_modules():
    plain = count((seed, user_module(seed, plain=True)) for seed in range(200, 5_200))
    unusual = count((seed, user_module(seed, plain=False)) for seed in range(200, 5_200))
    print(f"plain: {plain.outcomes}, unusual: {unusual.outcomes}, certified of them: {unusual.unusual}")
    assert not plain.faults and not unusual.faults
    assert plain.certified >= 0.6, plain.outcomes


@pytest.mark.parametrize("construct", UNUSUAL)
def test_every_unusual_construct_is_refused_or_read_rightly(construct):
    for seed in range(2):
        _, fault = judge(user_module(seed, plain=False, construct=construct))
        assert fault is None, fault


def test_the_generator_knows_the_constants_of_what_it_writes():
    missed = 0
    for seed in range(100):
        written = user_module(seed, plain=True)
        assert exceeded(written, float(written.constants[0])) is None, written.source
        missed += exceeded(written, float(written.constants[1:].min())) is not None
    assert missed > 5  # readers who overlook branches are found out


def test_the_judge_sees_what_is_false():
    loud = user_module(0, plain=False, construct="active dropout")
    assert "two outputs" in exceeded(loud, 1e9) or "slope" in exceeded(loud, 1e9)
    steep = user_module(0, plain=True)
    assert "slope" in exceeded(steep, 0.5 * sampled_slopes(steep.module, steep.points(6, torch.Generator())).largest)


class Residual(nn.Module):
    """``x + B relu(A x)``, which can be told to compute something else."""

    def __init__(self, how="branch"):
        super().__init__()
        self.how = how
        self.first, self.second = nn.Linear(4, 6).double(), nn.Linear(6, 4).double()
        self.calls = 0
        self.norm = nn.BatchNorm1d(4).double()

    def forward(self, x, gain=2.0, *, shift=0.5):
        return getattr(self, f"_{self.how}")(x, gain, shift)

    def _branch(self, x, gain, shift):
        return x + self.second(torch.relu(self.first(x)))

    def _augmented(self, x, gain, shift):
        h = self.second(torch.relu(self.first(x)))
        h += x
        return h

    def _augmented_input(self, x, gain, shift):
        x += self.second(torch.relu(self.first(x)))
        return x

    def _augmented_elsewhere(self, x, gain, shift):
        h = self.first(x)
        g = torch.tanh(h)
        k = h
        k += 5.0 * g
        return self.second(h)

    def _augmented_view(self, x, gain, shift):
        h = self.first(x)
        h.view(-1, 6).mul_(7.0)
        return self.second(h)

    def _values(self, x, gain, shift):
        h = self.first(x)
        return self.second(5.0 * h) if h.sum() > 0 else self.second(h)

    def _dropout(self, x, gain, shift):
        return self.second(F.dropout(self.first(x), 0.5))

    def _random(self, x, gain, shift):
        return self.second(self.first(x) + testing.rand(6, dtype=torch.float64))

    def _stateful(self, x, gain, shift):
        self.calls += 1
        return self.calls * self.second(self.first(x))

    def _twice(self, x, gain, shift):
        return self.second(torch.relu(self.first(self.second(torch.relu(self.first(x))))))

    def _defaults(self, x, gain, shift):
        return gain * self.second(torch.relu(self.first(x))) + shift

    def _eval_dropout(self, x, gain, shift):
        return self.second(F.dropout(self.first(x), 0.5, self.training))

    def _product(self, x, gain, shift):
        return x * self.second(self.first(x))


def written(how: str) -> UserModule:
    torch.manual_seed(0)
    module = Residual(how).eval()
    return UserModule(module, (4,), "", (how,), testing.full((3,), torch.nan))


@pytest.mark.parametrize("how", ["branch", "augmented", "twice", "defaults", "eval_dropout"])
@pytest.mark.parametrize("inside", [False, True])
def test_ordinary_forwards_are_certified_rightly(how, inside):
    subject = written(how)
    model = (
        nn.Sequential(nn.Linear(4, 4).double(), subject.module, nn.Linear(4, 2).double()) if inside else subject.module
    )
    claimed = wp.certify(model.eval()).lipschitz
    assert exceeded(UserModule(model, (4,), "", (), subject.constants), claimed) is None
    norms = [float(torch.linalg.matrix_norm(part.weight, 2)) for part in (subject.module.first, subject.module.second)]
    both = norms[0] * norms[1]
    largest = {
        "branch": 1.0 + both,
        "augmented": 1.0 + both,
        "twice": both**2,
        "defaults": 2.0 * both,
        "eval_dropout": both,
    }
    if not inside:
        assert claimed <= largest[how] * (1.0 + 1e-6)  # no worse than the product and the sum of norms


@pytest.mark.parametrize(
    "how",
    ["augmented_input", "augmented_elsewhere", "augmented_view", "values", "dropout", "random", "stateful", "product"],
)
def test_forwards_that_cannot_be_read_are_refused(how):
    with pytest.raises(wp.CertificateError):
        wp.certify(written(how).module)


def test_a_refusal_names_the_module_and_the_operation():
    inner = written("values").module
    with pytest.raises(wp.CertificateError, match=r"(?s)(1|block).*(if|bool|values|control)"):
        wp.certify(nn.Sequential(nn.Linear(4, 4).double(), inner).eval())


def right_or_refused(model) -> bool:
    try:
        claimed = wp.certify(model).lipschitz
    except REFUSALS:
        return True
    return exceeded(UserModule(model, (4,), "", (), testing.zeros(3)), claimed) is None


def test_a_forward_patched_on_the_instance():
    module = written("branch").module
    before = module.forward
    module.forward = lambda x: 30.0 * before(x)
    assert right_or_refused(module)


def test_a_call_of_its_own():
    class Loud(Residual):
        def __call__(self, x):
            return 30.0 * super().__call__(x)

    torch.manual_seed(0)
    assert right_or_refused(Loud().eval())
    assert right_or_refused(nn.Sequential(Loud()).eval())


def test_a_module_in_two_places():
    module = written("branch").module
    assert right_or_refused(nn.Sequential(module, module).eval())


def test_training_mode_of_a_module_is_part_of_what_it_computes():
    class Switch(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(4, 4).double()

        def forward(self, x):
            return 20.0 * self.linear(x) if self.training else self.linear(x)

    torch.manual_seed(0)
    for model in (Switch().train(), Switch().eval(), nn.Sequential(Switch())):
        assert right_or_refused(model)

# %% [markdown]
# # A family of your own in thirty lines
#
# A family of equilibrium networks is a *constraint*: free parameters become a state matrix W that satisfies a
# theorem. Solvers, gradients, error bounds, certificates and deployment then follow; nothing else has to be written.
#
# Needs `pip install 'wellposed[train]'`.

# %%
import matplotlib.pyplot as plt
import torch
from sklearn.datasets import load_wine
from torch import nn

import wellposed as wp
from wellposed.constraints import Constraint
from wellposed.guarantee.monotone import ProvedMonotone
from wellposed.operators import Dense

EPOCHS = 30

# %% [markdown]
# Here W is symmetric, W = (1 − m)·I − AᵀA, so that the equilibrium is the minimum of an energy. As I − W ⪰ m·I,
# Winston & Kolter's theorem holds: exactly one equilibrium exists for every A. `ProvedMonotone` proves the constant
# again for the numbers as they are stored, so rounding in `materialise` needs no thought; m is what it is told to
# expect. `@wp.register` says that you vouch for this class.


# %%
@wp.register
class Energy(Constraint):
    """W = (1 − m)·I − AᵀA."""

    def __init__(self, size: int, m: float) -> None:
        super().__init__()
        self.A = nn.Parameter(torch.randn(size, size) / size**0.5)
        self.m = m

    @property
    def state_features(self) -> int:
        return self.A.shape[0]

    def materialise(self):
        eye = torch.eye(self.state_features, dtype=self.A.dtype, device=self.A.device)
        operator = Dense((1.0 - self.m) * eye - self.A.t() @ self.A)
        return operator, ProvedMonotone(operator, self.m)


layer = wp.Equilibrium(nn.Linear(13, 16), Energy(16, m=0.5))

# %% [markdown]
# Every solve has its evidence.

# %%
x = torch.randn(5, 13)
solution = layer.solve(x)
print("steps", solution.steps.tolist(), "error at most", [f"{float(bound):.1e}" for bound in solution.error_bound])

# %% [markdown]
# It trains, and is certified, as any other: the wine of three cultivars, by 13 measurements.

# %%
found = load_wine()
scaled = (found.data - found.data.mean(0)) / found.data.std(0)
model = wp.train(
    nn.Sequential(layer, nn.Linear(16, 3)), (scaled, found.target), epochs=EPOCHS, batch_size=32, learning_rate=1e-2
)
certificate = model.certify()
print(model.table(certificate, radii=(0.1, 0.2, 0.4)))

# %% [markdown]
# The promise, seen: eigenvalues of the trained I − W, all of them real, and the border m that none may cross.

# %%
with torch.no_grad():
    matrix = layer.operator().dense()
eigenvalues = torch.linalg.eigvalsh(torch.eye(16) - matrix)
figure, axes = plt.subplots(figsize=(6, 1.8), layout="constrained")
axes.eventplot(eigenvalues.numpy(), lineoffsets=0, linelengths=0.8)
axes.axvline(0.5, color="red", label="m")
axes.set(xlabel="eigenvalues of I − W", yticks=[])
axes.legend()
plt.show()
print(f"smallest eigenvalue of I − W: {float(eigenvalues.min()):.6f}")

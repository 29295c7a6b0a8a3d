# %% [markdown]
# # From torchdeq
#
# A module f(z, x) that was written for torchdeq becomes a layer here by one call. Where the parts of f prove that it
# contracts, the layer has one equilibrium and bounds its error; where they do not, it says so and solves as well as
# it can.
#
# Needs `pip install 'wellposed[train]'`; with torchdeq installed as well, both are compared.

# %%
import importlib.util

import matplotlib.pyplot as plt
import torch
from torch import nn

import wellposed as wp

STEPS = 300
HAS_TORCHDEQ = importlib.util.find_spec("torchdeq") is not None

# %% [markdown]
# The same f for both.


# %%
class Cell(nn.Module):
    def __init__(self, width=16):
        super().__init__()
        self.state, self.inject = nn.Linear(width, width), nn.Linear(2, width)

    def forward(self, z, x):
        return torch.tanh(0.9 * self.state(z) + self.inject(x))


# %% [markdown]
# In torchdeq a layer builds a solver, forms the start, passes a closure, and takes the last of a list of iterates.
# Here the layer is `wp.wrap` of f.


# %%
class WithTorchdeq(nn.Module):
    def __init__(self, cell):
        super().__init__()
        from torchdeq import get_deq

        self.cell = cell
        self.deq = get_deq(
            f_solver="anderson", f_max_iter=100, f_tol=1e-5, b_solver="anderson", b_max_iter=100, b_tol=1e-5
        )

    def forward(self, x):
        z0 = torch.zeros(len(x), 16)
        iterates, _ = self.deq(lambda z: self.cell(z, x), z0)
        return iterates[-1]


def with_wellposed(cell):
    return wp.wrap(cell, (2,), state_shape=(16,))


# %% [markdown]
# Both learn two interleaved moons of points, from the same weights. Nothing keeps f from expanding meanwhile; where a
# solve does not converge, wellposed warns with the number of samples and what to do about it.


# %%
def moons(count, seed):
    generator = torch.Generator().manual_seed(seed)
    angle, side = torch.pi * torch.rand(count, generator=generator), torch.arange(count) % 2
    points = torch.stack([angle.cos(), angle.sin()], 1) * (1 - 2 * side)[:, None] + side[:, None] * torch.tensor(
        [1.0, 0.5]
    )
    return points + 0.1 * torch.randn(count, 2, generator=generator), side


def fitted(make):
    torch.manual_seed(0)
    model = nn.Sequential(make(Cell()), nn.Linear(16, 2))
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    losses = []
    for step in range(STEPS):
        x, y = moons(64, step)
        loss = nn.functional.cross_entropy(model(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return model.eval(), losses


ours, our_losses = fitted(with_wellposed)
results = {"wellposed": (ours, our_losses)}
if HAS_TORCHDEQ:
    results["torchdeq"] = fitted(WithTorchdeq)

# %%
x, y = moons(1000, 10_000)
figure, axes = plt.subplots(figsize=(6, 3), layout="constrained")
for name, (model, losses) in results.items():
    with torch.no_grad():
        accuracy = float((model(x).argmax(1) == y).float().mean())
    axes.plot(losses, label=name, ls="-" if name == "wellposed" else "--")
    print(f"{name}: test accuracy {100 * accuracy:.1f} %")
axes.set(xlabel="step", ylabel="loss")
axes.legend()
plt.show()

# %% [markdown]
# What is new is what can be said afterwards. First of the layer that was trained freely:

# %%
print(ours[0])
solution = ours[0].solve(x[:5])
print("converged", solution.converged.tolist(), "error bound", solution.error_bound)

# %% [markdown]
# Where nothing is guaranteed, training has made f expand. torch's own spectral norm on the state map keeps it from
# that. The proof does not trust it, and reads the constant off the weights that it gives; every solve then bounds its
# distance from the one equilibrium.


# %%
def contracting(cell):
    nn.utils.parametrizations.spectral_norm(cell.state, n_power_iterations=20)
    return with_wellposed(cell)


kept, _ = fitted(contracting)
with torch.no_grad():
    accuracy = float((kept(x).argmax(1) == y).float().mean())
print(kept[0])
solution = kept[0].solve(x)
print(f"test accuracy {100 * accuracy:.1f} %")
if solution.error_bound is not None:
    print(
        f"{len(x)} solves, {int(solution.steps.max())} steps at most, error at most {float(solution.error_bound.max()):.1e}"
    )

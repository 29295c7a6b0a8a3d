# %% [markdown]
# # A Lipschitz-bounded state estimator
#
# A pendulum is seen through noisy angle readings; an estimator tells angle and angular velocity from the last few of
# them, to a controller that acts on it. How much may a disturbed sensor move the estimate? For an `LBEN` layer with
# bound γ the answer is built in: at most γ times the disturbance, for every weight, before, while and after it
# learns.
#
# Needs `pip install 'wellposed[train]'`.

# %%
import matplotlib.pyplot as plt
import numpy as np
import torch
from scipy.integrate import solve_ivp
from torch import nn

import wellposed as wp

PENDULUMS = 600
EPOCHS = 60
WINDOW = 12  # readings, 0.1 s apart
NOISE = 0.05  # standard deviation of a reading, in radians

# %% [markdown]
# A damped pendulum, θ″ = −sin θ − 0.1 θ′, from random starts. The estimator sees the readings, and learns the true
# state at the last one.


# %%
def swings(count, seed):
    random = np.random.default_rng(seed)
    times = 0.1 * np.arange(WINDOW)
    starts = random.uniform(-1.5, 1.5, size=(count, 2))

    def slopes(_, state):
        angle, speed = state.reshape(2, -1)
        return np.concatenate([speed, -np.sin(angle) - 0.1 * speed])

    paths = solve_ivp(slopes, (0.0, times[-1]), starts.T.ravel(), t_eval=times, rtol=1e-8).y.reshape(2, count, WINDOW)
    readings = paths[0] + NOISE * random.normal(size=(count, WINDOW))
    return torch.tensor(readings, dtype=torch.float32), torch.tensor(paths[:, :, -1].T, dtype=torch.float32)


train_x, train_y = swings(PENDULUMS, 0)
test_x, test_y = swings(400, 1)
arrays = {"x_train": train_x, "y_train": train_y, "x_test": test_x, "y_test": test_y}

# %% [markdown]
# Estimators with several bounds γ, and an ordinary network of two hidden layers beside them. All are in the units of
# the problem: radians in, radians and radians per second out.


# %%
def estimator(model):
    torch.manual_seed(0)
    return wp.train(model, arrays, task="regression", epochs=EPOCHS, batch_size=64, learning_rate=1e-2)


BOUNDS = (0.5, 1.0, 2.0, 4.0)
models = {f"γ = {gamma:g}": estimator(wp.LBEN(WINDOW, 24, gamma=gamma, out_features=2)) for gamma in BOUNDS}
plain = nn.Sequential(nn.Linear(WINDOW, 24), nn.ReLU(), nn.Linear(24, 24), nn.ReLU(), nn.Linear(24, 2))
models["ordinary network"] = estimator(plain)

# %% [markdown]
# For each estimator: its error on new pendulums; the constant that is proved for the stored weights; and what the
# worst disturbance of size 0.5 rad (all readings together) that gradient steps find does to the estimate, over that
# size.

# %%
SIZE = 0.5


def worst_gain(model, x):
    """The largest change of the estimate over the size of the disturbance, by projected gradient ascent."""
    with torch.no_grad():
        before = model(x)
    step = torch.randn(x.shape, generator=torch.Generator().manual_seed(0))
    for _ in range(30):
        step = (SIZE * step / step.norm(dim=1, keepdim=True)).requires_grad_()
        change = (model(x + step) - before).norm(dim=1)
        (gradient,) = torch.autograd.grad(change.sum(), step)
        step = step.detach() / SIZE + gradient
    step = SIZE * step / step.norm(dim=1, keepdim=True)
    with torch.no_grad():
        return float(((model(x + step) - before).norm(dim=1) / SIZE).max())


rows = []
print(f"{'':18} {'error':>8} {'proved':>8} {'attacked':>9}")
for name, model in models.items():
    with torch.no_grad():
        error = float((model(test_x) - test_y).norm(dim=1).square().mean().sqrt())
    proved = wp.certify(model, inputs=test_x[:32]).lipschitz
    attacked = worst_gain(model, test_x)
    assert attacked <= proved * (1 + 1e-4)
    rows.append((name, error, proved, attacked))
    print(f"{name:18} {error:8.3f} {proved:8.2f} {attacked:9.2f}")

# %%
figure, axes = plt.subplots(figsize=(6, 3.5), layout="constrained")
places = range(len(rows))
axes.bar([k - 0.2 for k in places], [row[2] for row in rows], 0.4, label="proved")
axes.bar([k + 0.2 for k in places], [row[3] for row in rows], 0.4, label="found by attack")
axes.set_xticks(list(places), [f"{row[0]}\nerror {row[1]:.3f}" for row in rows], fontsize=8)
axes.set(ylabel="gain from readings to estimate")
axes.legend()
plt.show()

# %% [markdown]
# A bound below what the task needs costs accuracy: speed is a difference of readings, and needs gain. Which of the
# larger ones is best, and whether the ordinary network is better, is a matter of this run, and said by its numbers;
# what is proved of them holds in any run.

# %%
*bounded, free = rows
best = min(bounded, key=lambda row: row[1])
print(
    f"best bounded estimator: {best[0]}, error {best[1]:.3f}, gain at most {best[2]:.2f}; "
    f"ordinary network: error {free[1]:.3f}, gain at most {free[2]:.2f} (proved), at least {free[3]:.2f} (attacked)"
)

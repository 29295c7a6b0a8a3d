# %% [markdown]
# # Graphs
#
# Sensors stand in a hall, and each hears its neighbours; in half of the halls there is a source of heat. An implicit
# graph network decides whether there is one, by an equilibrium over the whole graph. A certified radius says by how
# much all readings together may be wrong before the decision could change.
#
# Needs `pip install 'wellposed[train,graph]'`.

# %%
import matplotlib.pyplot as plt
import torch
from torch import nn
from torch_geometric.data import Batch, Data

import wellposed as wp
from wellposed.layers.graph_classifier import GraphClassifier, NodeSum
from wellposed.lower_bounds.graph_witness import graph_slope

HALLS = 300
EPOCHS = 25

# %% [markdown]
# A hall has 15 to 30 sensors at random places, with an edge between two that are near. A reading is noise, and with a
# source also warmth that falls off with the distance from it. The features of a node are its reading and one, which
# tells how many neighbours there are.


# %%
def hall(generator, warm):
    count = int(torch.randint(15, 31, (1,), generator=generator))
    places = torch.rand(count, 2, generator=generator)
    near = torch.cdist(places, places) < 0.3
    edges = (near & ~torch.eye(count, dtype=torch.bool)).nonzero().t()
    source = torch.rand(2, generator=generator)
    warmth = torch.exp(-20.0 * (places - source).square().sum(1)) if warm else torch.zeros(count)
    readings = warmth + 0.3 * torch.randn(count, generator=generator)
    return Data(
        x=torch.stack([readings, torch.ones(count)], 1), edge_index=edges, y=torch.tensor([int(warm)]), places=places
    )


def halls(count, seed):
    generator = torch.Generator().manual_seed(seed)
    return [hall(generator, k % 2 == 1) for k in range(count)]


train, test = halls(HALLS, 0), halls(200, 1)

# %% [markdown]
# The variant `"lipschitz"` has W and Ω orthogonal up to factors, so that node features to states are 1-Lipschitz on
# every graph, whatever is learned. The sum over nodes is divided by the root of their number, which keeps it so.

# %%
torch.manual_seed(0)
model = GraphClassifier(
    (wp.ImplicitGraph(2, 16, variant="lipschitz", kappa=1.0, omega=0.5, activation="group_sort"), NodeSum(by_root=True)),
    nn.Sequential(wp.OrthogonalLinear(16, 16), wp.GroupSort(), nn.Linear(16, 2)),
)  # fmt: skip
optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
for epoch in range(EPOCHS):
    order = torch.randperm(len(train), generator=torch.Generator().manual_seed(epoch))
    for chosen in order.split(50):
        batch = Batch.from_data_list([train[k] for k in chosen.tolist()])
        loss = nn.functional.cross_entropy(model(batch), batch.y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
model.eval()

# %%
batch = Batch.from_data_list(test)
certificate = wp.certify(model)
slope = graph_slope(model, Batch.from_data_list(test[:20]))
radii = certificate.evaluate(batch, batch.y)
print(
    f"Lipschitz constant at most {certificate.lipschitz:.3f}, at least {slope:.3f}, for changes in the Frobenius norm"
)
with torch.no_grad():
    logits = model(batch)
margins = (logits[:, 1] - logits[:, 0]) * (2 * batch.y - 1)

# %% [markdown]
# Left, the hall with a source that is certified furthest, and its readings; right, how certified accuracy falls with
# the size of a change of all readings. It is compared with the share of the larger class: a certificate of a network
# that has learned nothing says nothing.

# %%
sizes = torch.linspace(0.0, float(radii.max()), 60)
larger = 100 * float(torch.bincount(batch.y).max() / len(test))
figure, axes = plt.subplots(1, 2, figsize=(8, 3.5), layout="constrained")
most = int(torch.where(batch.y == 1, radii, -1.0).argmax())
shown = test[most]
for start, end in shown.edge_index.t().tolist():
    axes[0].plot(*shown.places[[start, end]].t(), color="lightgray", lw=0.8, zorder=0)
dots = axes[0].scatter(*shown.places.t(), c=shown.x[:, 0], cmap="coolwarm")
figure.colorbar(dots, ax=axes[0], label="reading")
axes[0].set_title(f"certified up to {float(radii[most]):.2f}")
axes[1].plot(sizes, [100 * float((radii > size).double().mean()) for size in sizes])
axes[1].axhline(larger, color="gray", ls=":", label="larger class")
axes[1].set(xlabel="size of the change", ylabel="certified accuracy in %", ylim=(0, 100))
axes[1].legend()
plt.show()

# %%
accuracy = 100 * float((margins > 0).float().mean())
one_sensor = 100 * float((radii > 0.3).double().mean())
print(
    f"accuracy {accuracy:.1f} % on {len(test)} halls (larger class: {larger:.1f} %); "
    f"{one_sensor:.1f} % stay right if readings are wrong by 0.3 in all, the noise of one sensor"
)

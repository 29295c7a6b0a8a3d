# %% [markdown]
# # A table of measurements, certified
#
# Two tables of real measurements: chemical analyses of wines from three cultivars, and cell nuclei of breast tumours.
# How far may the measured values be wrong before a prediction could change? A certified radius answers for every row.
#
# Needs `pip install 'wellposed[train]'`.

# %%
import matplotlib.pyplot as plt
import torch
from sklearn.datasets import load_breast_cancer, load_wine

import wellposed as wp

EPOCHS = 40

# %% [markdown]
# Columns have different units: proline is in hundreds, hue is about one. A radius in the columns' own units would be
# decided by the finest of them, so here the columns are scaled to standard deviation one first, and radii are in
# *standard deviations of a column*, all columns' changes together in the Euclidean norm. A file of your own goes to
# `wp.train` by its path.


# %%
def certified(load):
    found = load()
    scaled = (found.data - found.data.mean(0)) / found.data.std(0)

    def loss(model, x, y):
        return torch.nn.functional.cross_entropy(model(x), y) + 0.02 * wp.losses.product_of_norms(model)

    family = wp.families.MonDEQFamily(width=20, m=1.0)
    model = wp.train(family, (scaled, found.target), epochs=EPOCHS, batch_size=32, learning_rate=1e-2, loss=loss)
    certificate = model.certify()
    print(model.table(certificate, radii=(0.1, 0.25, 0.5, 1.0)))
    return model, certificate


wine, wine_certificate = certified(load_wine)

# %%
cancer, cancer_certificate = certified(load_breast_cancer)

# %% [markdown]
# The share of test rows whose prediction is right and provably stays right under every change up to a size. The
# height at zero is the accuracy itself.

# %%
figure, axes = plt.subplots(figsize=(6, 3.5), layout="constrained")
results = {}
for name, model, certificate in (("wine", wine, wine_certificate), ("breast cancer", cancer, cancer_certificate)):
    radii = certificate.evaluate(model.data.test_x, model.data.test_y)
    results[name] = radii
    sizes = torch.linspace(0.0, 2.0, 81)
    axes.step(sizes, [100 * float((radii > size).double().mean()) for size in sizes], where="post", label=name)
axes.set(xlabel="size of the change, in standard deviations", ylabel="certified accuracy in %", ylim=(0, 102))
axes.legend()
plt.show()

# %% [markdown]
# Rows with a small radius, or none, are those that a person should look at: for these the table alone does not
# decide.

# %%
for name, radii in results.items():
    wrong, doubtful = int((radii == 0).sum()), int(((radii > 0) & (radii < 0.25)).sum())
    print(
        f"{name}: of {len(radii)} test rows {wrong} are wrong, {doubtful} are right with a radius below 0.25, "
        f"{len(radii) - wrong - doubtful} are right and stay so; median radius {float(radii.median()):.2f}"
    )

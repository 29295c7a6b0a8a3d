# %% [markdown]
# # Certified digits
#
# A monotone equilibrium network learns small real images of digits. Then one certificate, for the whole network,
# gives every image a radius within which its prediction cannot change, and attacks try to show the opposite.
#
# Needs `pip install 'wellposed[train,attack]'`.

# %%
import matplotlib.pyplot as plt
import numpy as np
import torch
from sklearn.datasets import load_digits

import wellposed as wp
from wellposed.attacks import adversarial_distances

EPOCHS = 40
IMAGES = 120  # of the test set, for the attack

# %% [markdown]
# The data are 1,797 images of 8 × 8 pixels, scaled to [0, 1]. `wp.train` splits a fifth off for testing and a tenth
# of the rest to choose the epoch by. The penalty on the product of the linear maps' norms is what keeps the network
# smooth.

# %%
pixels, labels = load_digits(return_X_y=True)
images = (pixels / 16.0).reshape(-1, 1, 8, 8).astype(np.float32)


def loss(model, x, y):
    return torch.nn.functional.cross_entropy(model(x), y) + 0.03 * wp.losses.product_of_norms(model)


family = wp.families.MonDEQFamily(width=40, m=1.0)
network = wp.train(family, (images, labels), epochs=EPOCHS, batch_size=64, learning_rate=1e-2, loss=loss)
print(f"test accuracy {100 * network.metrics['test/accuracy']:.1f} %, of epoch {network.epoch}")

# %% [markdown]
# The certificate is proved for the stored float32 weights, all rounding counted. Beside the upper bound of the
# Lipschitz constant stands a lower one, from two inputs that are that far apart: what lies between them is all that
# remains unknown.

# %%
certificate = network.certify()
print(f"Lipschitz constant at most {certificate.lipschitz:.3f}, at least {certificate.lower_bound:.3f}")
print(network.table(certificate))

# %% [markdown]
# Attacks look for the nearest image of another class. They search, and the certificate proves, so no distance that is
# found can be below the radius of its image.

# %%
x, y = network.data.test_x[:IMAGES], network.data.test_y[:IMAGES]
radii = certificate.evaluate(x, y)
eps = torch.linspace(0.0, 1.0, 41)
distances, examples = adversarial_distances(network, x, y, [0.1, 0.3, 0.5])
assert (distances >= radii).all(), "an attack within a certified radius: this would be a fault of the library"

figure, axes = plt.subplots(figsize=(6, 3.5), layout="constrained")
axes.fill_between(
    eps,
    [100 * float((radii > e).double().mean()) for e in eps],
    [100 * float((distances > e).double().mean()) for e in eps],
    color="tab:gray", alpha=0.3, label="neither proved nor attacked",
)  # fmt: skip
axes.plot(eps, [100 * float((radii > e).double().mean()) for e in eps], label="certified")
axes.plot(eps, [100 * float((distances > e).double().mean()) for e in eps], label="withstands the attacks")
axes.set(xlabel="radius (Euclidean, pixels in [0, 1])", ylabel="accuracy in %", ylim=(0, 100))
axes.legend()
plt.show()

# %% [markdown]
# The image with the smallest positive radius and the one with the largest, and below each the nearest adversarial
# example that was found.

# %%
right = torch.nonzero(radii > 0).flatten()
shown = [int(right[radii[right].argmin()]), int(right[radii[right].argmax()])]
figure, axes = plt.subplots(2, 2, figsize=(5, 5), layout="constrained")
for column, k in enumerate(shown):
    with torch.no_grad():
        other = int(network(examples[k : k + 1]).argmax())
    axes[0, column].set_title(f"{int(y[k])}, certified up to {float(radii[k]):.2f}")
    axes[0, column].imshow(x[k, 0], cmap="gray_r", vmin=0, vmax=1)
    axes[1, column].set_title(f"seen as {other}, at {float(distances[k]):.2f}")
    axes[1, column].imshow(examples[k, 0], cmap="gray_r", vmin=0, vmax=1)
for place in axes.flat:
    place.axis("off")
plt.show()

# %%
middle = 0.3
proved, withstood = (100 * float((values > middle).double().mean()) for values in (radii, distances))
print(
    f"at radius {middle}: {proved:.1f} % proved, at most {withstood:.1f} % possible, {withstood - proved:.1f} points unknown"
)

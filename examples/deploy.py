# %% [markdown]
# # Deploy to onnxruntime, and check the certificate there
#
# A trained network leaves Python as one ONNX file. Any ONNX runtime executes it, with a bound on the error of every
# answer; a certificate lies beside it, which a program that shares no code with this library proves again from the
# file alone.
#
# Needs `pip install 'wellposed[train,deploy]'`.

# %%
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import onnxruntime
import torch
from sklearn.datasets import load_digits

import wellposed as wp
from wellposed.checker.claim import sealed

EPOCHS = 20

# %%
pixels, labels = load_digits(return_X_y=True)
images = (pixels / 16.0).reshape(-1, 1, 8, 8).astype(np.float32)


def loss(model, x, y):
    return torch.nn.functional.cross_entropy(model(x), y) + 0.03 * wp.losses.product_of_norms(model)


family = wp.families.MonDEQFamily(width=30, m=1.0)
trained = wp.train(family, (images, labels), epochs=EPOCHS, batch_size=64, learning_rate=1e-2, loss=loss)
x, y = trained.data.test_x, trained.data.test_y

# %% [markdown]
# `wp.save` writes a folder: the network, a certificate for each norm, its evidence, and a card that says what it is.

# %%
accuracy = trained.metrics["test/accuracy"]
folder = Path(tempfile.mkdtemp()) / "network"
network = wp.save(
    trained,
    folder,
    input_shape=trained.data.shape,
    figures={"test accuracy": f"{accuracy:.3f}"},
)
for path in sorted(folder.iterdir()):
    print(f"{path.name:32} {path.stat().st_size:>8} bytes")

# %% [markdown]
# Here nothing of `wellposed` runs: only onnxruntime. Each answer comes with a bound on its distance from what
# exact arithmetic gives for the numbers in the file; an answer that the file cannot vouch for would have an infinite
# one.

# %%
session = onnxruntime.InferenceSession(folder / "model.onnx")
logits, error_bound = session.run(["logits", "error_bound"], {"x": x.numpy()})
print(
    f"onnxruntime: accuracy {100 * np.mean(logits.argmax(1) == y.numpy()):.1f} %, largest error bound {error_bound.max():.2e}"
)

# %% [markdown]
# How good is that bound? `network.exact` is the same network in float64, number for number, so the true errors can be
# seen.

# %%
with torch.no_grad():
    true_errors = np.linalg.norm(logits - network.exact(x.double()).numpy(), axis=1)
assert (true_errors <= error_bound + 1e-9).all()

figure, axes = plt.subplots(figsize=(4.5, 4), layout="constrained")
axes.loglog(np.maximum(true_errors, 1e-9), error_bound, ".", alpha=0.6)
edges = [min(true_errors.min(), error_bound.min()), error_bound.max()]
axes.loglog(edges, edges, "k--", lw=1, label="bound = error")
axes.set(xlabel="true error of the logits", ylabel="error bound that the file gave")
axes.legend()
plt.show()

# %% [markdown]
# The certificate is proved again from the file, by the checker, in a process of its own. It believes nothing that is
# claimed.

# %%
CHECK = [sys.executable, "-m", "wellposed.checker", str(folder / "certificate.json"), str(folder / "model.onnx")]
checked = subprocess.run(CHECK, capture_output=True, text=True)
print(checked.stdout)

# %% [markdown]
# And it says no where it should: here someone claims constants that are one percent smaller, and knows how to make
# the digests of the files fit. What is claimed is then no longer what can be proved.

# %%
honest = json.loads((folder / "certificate.json").read_text())
claim = {name: part for name, part in honest.items() if name != "sha256"}
forged = sealed({**claim, "lipschitz": 0.99 * claim["lipschitz"]})
(folder / "certificate.json").write_text(forged)
refused = subprocess.run(CHECK, capture_output=True, text=True)
print(f"exit code {refused.returncode}: {(refused.stdout + refused.stderr).strip().splitlines()[-1]}")
(folder / "certificate.json").write_text(sealed(claim))

# %% [markdown]
# `wp.load` proves the certificates before it gives a network back. Radii then hold for the answers of the file
# itself: its own error at this input and the largest admissible one at any other input are both counted.

# %%
loaded = wp.load(folder)
radii = loaded.radii(x, y)
share = 100 * float((radii > 0.1).double().mean())
print(f"{share:.1f} % of the test images are right for every change up to 0.1, in onnxruntime")

# %% [markdown]
# # Lightning with mixed precision, on several processes
#
# `wp.TrainingModule` and `wp.TrainingData` go into any `lightning.Trainer`, so precision, devices and strategies are
# Lightning's own. Here two processes train one network together (DDP, on the CPU by gloo), and everything around the
# equilibrium runs in bfloat16.
#
# Needs `pip install 'wellposed[train]'`.

# %%
import lightning
import matplotlib.pyplot as plt
import torch
from sklearn.datasets import load_digits
from torch import nn

import wellposed as wp
from wellposed.data import from_arrays

EPOCHS = 15
DEVICES = 2
STRATEGY = "ddp_notebook"  # starts processes from a notebook or a script; in a program of your own "ddp"
PRECISION = "bf16-mixed"

# %%
pixels, labels = load_digits(return_X_y=True)
images = (pixels / 16.0).reshape(-1, 1, 8, 8).astype("float32")
data = from_arrays({"x_train": images, "y_train": labels}, name="digits").divided(0.1)


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.features = nn.Conv2d(1, 8, 3, stride=2, padding=1)
        self.equilibrium = wp.MonDEQ(8 * 4 * 4, 40, m=1.0)
        self.head = nn.Linear(40, 10)

    def forward(self, x):
        return self.head(self.equilibrium(torch.relu(self.features(x)).flatten(1)))


# %% [markdown]
# Each process takes every second sample of an epoch's order, and half of the batch; gradients are averaged. With a
# batch of 32 samples for each of two processes, this is the training with a batch of 64 on one. Layers take what
# comes in bfloat16 and solve in float32, the precision of their own weights.

# %%
torch.manual_seed(0)
model = wp.normalised(Model(), data)
module = wp.TrainingModule(model, data.task, learning_rate=5e-3)
trainer = lightning.Trainer(
    max_epochs=EPOCHS, accelerator="cpu", devices=DEVICES, strategy=STRATEGY, precision=PRECISION, logger=False,
    enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
)  # fmt: skip
trainer.fit(module, datamodule=wp.TrainingData(data, batch_size=64 // DEVICES))
logged = {name: round(float(value), 3) for name, value in trainer.callback_metrics.items()}
print(f"{trainer.world_size} processes: {logged}")

# %% [markdown]
# What was trained is an ordinary module in this process, in float32. Its certificate is about these weights and
# float32 answers; that it was trained in bfloat16 does not matter to a proof.

# %%
model.eval()
certificate = wp.certify(model, inputs=data.test_x[:64])
radii = certificate.evaluate(data.test_x, data.test_y)
print(f"Lipschitz constant at most {certificate.lipschitz:.2f}, at least {certificate.lower_bound:.2f}")

# %% [markdown]
# What bfloat16 does to answers is another matter: how often, and for images of which radii, do both precisions
# disagree?

# %%
with torch.no_grad():
    in_float32 = model(data.test_x)
    with torch.autocast("cpu", torch.bfloat16):
        in_bfloat16 = model(data.test_x).float()
moved = (in_float32 - in_bfloat16).norm(dim=1)
differ = in_float32.argmax(1) != in_bfloat16.argmax(1)
figure, axes = plt.subplots(figsize=(6, 3.5), layout="constrained")
axes.plot(radii, moved, ".", label="same class in both")
axes.plot(radii[differ], moved[differ], "rx", label="another class in bfloat16")
axes.set(xlabel="certified radius in float32", ylabel="difference of the logits")
axes.legend()
plt.show()
for name, logits in (("float32", in_float32), ("bfloat16", in_bfloat16)):
    print(f"test accuracy in {name}: {100 * float((logits.argmax(1) == data.test_y).float().mean()):.1f} %")
print(f"another class in bfloat16: {int(differ.sum())} of {len(differ)} images")

"""Networks as files that run elsewhere."""

from wellposed.deployment.export import export as export

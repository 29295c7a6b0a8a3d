"""Networks as files that run elsewhere."""

from wellposed.deployment.export import export as export
from wellposed.deployment.module import deployable as deployable

"""Networks as files that run elsewhere."""

from wellposed.deployment.certifying import certify_file as certify_file
from wellposed.deployment.export import export as export
from wellposed.deployment.folder import NetworkFolder as NetworkFolder
from wellposed.deployment.folder import load as load
from wellposed.deployment.folder import save as save
from wellposed.deployment.module import deployable as deployable

"""The functions of deployed networks, by name; the checker of deployed files holds them, as they are the format's definition."""

from wellposed.deployed_checker.functions import DOMAIN as DOMAIN
from wellposed.deployed_checker.functions import IR_VERSION as IR_VERSION
from wellposed.deployed_checker.functions import OPSET as OPSET
from wellposed.deployed_checker.functions import VERSION as VERSION
from wellposed.deployed_checker.functions import called as called
from wellposed.deployed_checker.functions import function as function

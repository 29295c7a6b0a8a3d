"""What a certificate file says of each block, and the numbers that let a stranger check it; see `wellposed.checker`."""

from wellposed.certificates.evidence.claims import claims as claims
from wellposed.certificates.evidence.witness import describe_witness as describe_witness

"""Certificate files: a claim in JSON, and beside it the numbers that let a stranger check it; see `wellposed.checker`."""

from wellposed.certificates.filing.content import filed_as as filed_as
from wellposed.certificates.filing.content import read_fields as read_fields
from wellposed.certificates.filing.file import write as write

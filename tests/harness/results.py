"""Files of results as they were before they had digests, for tests that change what is in them."""

import json


def unsealed(path):
    """The content of a JSON file without its digest."""
    content = json.loads(path.read_text(encoding="utf-8"))
    del content["sha256"]
    return content


def unseal_config(path):
    """Remove the line with the digest of a config.toml, as a person does who changes it on purpose."""
    first, _, rest = path.read_text(encoding="utf-8").partition("\n")
    assert first.startswith("sha256")
    path.write_text(rest, encoding="utf-8")

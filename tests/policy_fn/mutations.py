"""Damages that a bundle may suffer, some by accident and some by somebody who knows the format."""

import hashlib
import json

from rlhive.policy_fn.bundle_files import spec_text


def mutate(bundle, originals, rng):
    """Writes the originals with one mutation; says which it was."""
    for name, content in originals.items():
        (bundle / name).write_bytes(content)
    name = rng.choice(sorted(originals))
    kind = rng.choice([truncate, flip, overwrite, swap, insert, rename_key, change_value, other_hash])
    content = kind(bundle, originals, name, rng)
    if content is not None:
        (bundle / name).write_bytes(content)
        if name != "spec.json" and rng.random() < 0.5:
            bind(bundle, originals, name, content)
    return kind.__name__, name


def truncate(bundle, originals, name, rng):
    return originals[name][: rng.randrange(len(originals[name]))]


def flip(bundle, originals, name, rng):
    """One bit; in a file of tensors it falls into the header as often as into the numbers."""
    content = bytearray(originals[name])
    end = len(content) if rng.random() < 0.5 else min(len(content), 4000)
    content[rng.randrange(end)] ^= 1 << rng.randrange(8)
    (bundle / name).write_bytes(content)  # with its hash made to fit, a bit of a weight is another policy


def overwrite(bundle, originals, name, rng):
    content = bytearray(originals[name])
    start = rng.randrange(min(len(content), 4000))
    content[start : start + 16] = rng.randbytes(16)
    (bundle / name).write_bytes(content)


def swap(bundle, originals, name, rng):
    return originals[rng.choice([other for other in sorted(originals) if other != name])]


def insert(bundle, originals, name, rng):
    content, start = originals[name], rng.randrange(len(originals[name]))
    (bundle / name).write_bytes(content[:start] + rng.randbytes(rng.randrange(1, 64)) + content[start:])


def rename_key(bundle, originals, name, rng):
    """A name of the same length in the header of the tensors, the file's hash made to fit."""
    if name == "spec.json":
        return originals[name].replace(b"qp_robot", b"qp_rabot", rng.randrange(1, 4))
    old, new = rng.choice(
        [(b'"actor/', b'"octor/'), (b"weight", b"weighs"), (b"layer_1", b"layer_3")]
        if name.startswith("params")
        else [(b"/scale", b"/scala"), (b"/loc", b"/lok"), (b'"observation/', b'"observations')]
    )
    return originals[name].replace(old, new)


def change_value(bundle, originals, name, rng):
    """A value somewhere in the description becomes another, the hash made to fit."""
    values = json.loads(originals["spec.json"])
    del values["sha256"]
    where = values
    path = []
    while isinstance(where, dict | list) and where:
        key = rng.choice(list(where) if isinstance(where, dict) else range(len(where)))
        path.append(key)
        parent, where = where, where[key]
    while path[0] in ("exported_by", "versions") or path[:2] == ["run", "versions"] or path[0] == "encoder":
        return change_value(bundle, originals, name, rng)
    others = [None, -1, 1e308, "x" * 1000, [], {}, True, float("nan"), 10**30, [[]], "\x00", 3, 0.5]
    parent[path[-1]] = rng.choice([value for value in others if repr(value) != repr(where)])
    (bundle / "spec.json").write_text(spec_text(values))


def other_hash(bundle, originals, name, rng):
    text = originals["spec.json"].decode()
    values = json.loads(text)
    old = rng.choice([values["sha256"], *(record["sha256"] for record in values["files"].values())])
    (bundle / "spec.json").write_text(text.replace(old, rng.randbytes(32).hex()))


def bind(bundle, originals, name, content):
    """The description with the hash of this content."""
    values = json.loads(originals["spec.json"])
    del values["sha256"]
    values["files"][name] = {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    (bundle / "spec.json").write_text(spec_text(values))

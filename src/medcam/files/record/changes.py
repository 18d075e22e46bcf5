"""What changed between two records: versions, device, weights, files, input, layer and target."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from medcam.files.record.named_files import last_part, shown


@dataclass(frozen=True)
class Change:
    """A difference between two records.

    Attributes:
        what: What changed, e.g. ``"torch"`` or ``"weights 'w.pt'"``.
        then: The value in the earlier record.
        now: The value in the later record; None if it is not there any more.
    """

    what: str
    then: Any
    now: Any

    def __str__(self) -> str:
        return f"{self.what}: {shown(self.then, 80)}, now {shown(self.now, 80)}"


def changes(then: Mapping[str, Any], now: Mapping[str, Any]) -> list[Change]:
    """Return the differences between two records of the same maps.

    What only one of them names, as records of an earlier version name less, is no difference. The
    values of the maps are compared elsewhere.

    Args:
        then: The earlier record; it may be damaged.
        now: The later record.

    Example:
        >>> then, now = ({"versions": {"torch": version}} for version in ("2.4.0", "2.5.1"))
        >>> [str(change) for change in changes(then, now)]
        ['torch: 2.4.0, now 2.5.1']
    """
    pairs = [
        *_of_mappings(then, now, "versions"),
        *_of_mappings(then, now, "environment"),
        *_of_model(then, now),
        *_of_files(then, now),
        *_of_inputs(then, now),
        *_of_mappings(then, now, "windows", "windows: "),
        *_of_maps(then, now),
    ]
    return [Change(what, old, new) for what, old, new in pairs if old is not None and old != new]


Pair = tuple[str, Any, Any]
"""What is compared, then and now."""


def _of_mappings(
    then: Mapping[str, Any], now: Mapping[str, Any], key: str, before: str = ""
) -> Iterator[Pair]:
    old, new = _mapping(then.get(key)), _mapping(now.get(key))
    for name, value in old.items():
        yield f"{before}{shown(name, 80)}", value, new.get(name)


def _of_model(then: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[Pair]:
    old, new = _mapping(then.get("model")), _mapping(now.get("model"))
    yield "the model's class", old.get("class"), new.get("class")
    yield "the model's weights, sha256", old.get("state_sha256"), new.get("state_sha256")


def _of_files(then: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[Pair]:
    """Yield the digests of the files that the recipes name, matched by their order in each role."""
    old, new = (
        _mapping(_mapping(_mapping(record.get("extra")).get("recipe")).get("files"))
        for record in (then, now)
    )
    for role, entries in old.items():
        for entry, other in _in_pairs(entries, new.get(role)):
            if "sha256" in entry:
                name = shown(last_part(str(entry.get("path"))), 80)
                yield f"{shown(role, 80)} '{name}', sha256", entry["sha256"], other.get("sha256")
            if "state_sha256" in entry:
                what = f"weights of fold {shown(entry.get('fold'), 80)}, sha256"
                yield what, entry["state_sha256"], other.get("state_sha256")


def _of_inputs(then: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[Pair]:
    for entry, other in _in_pairs(then.get("inputs"), now.get("inputs")):
        if entry.get("of") == "array":
            yield "the model's input, sha256", entry.get("sha256"), other.get("sha256")


def _of_maps(then: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[Pair]:
    """Yield what the maps are of, matched by their order."""
    for entry, other in _in_pairs(then.get("maps"), now.get("maps")):
        before = f"{shown(entry.get('method'), 80)}: "
        yield f"{before}method", entry.get("method"), other.get("method")
        yield f"{before}layer", entry.get("layer"), other.get("layer")
        old, new = _mapping(entry.get("target")), _mapping(other.get("target"))
        for name, value in old.items():
            yield f"{before}target, {shown(name, 80)}", value, new.get(name)
        yield f"{before}placement", entry.get("placement"), other.get("placement")
        yield f"{before}shape", entry.get("shape"), other.get("shape")


def _in_pairs(then: object, now: object) -> Iterator[tuple[Mapping[str, Any], Mapping[str, Any]]]:
    """Yield the entries of a list with those of the other list; an empty one for each missing."""
    new = now if isinstance(now, list) else []
    for number, entry in enumerate(then if isinstance(then, list) else []):
        yield _mapping(entry), _mapping(new[number] if number < len(new) else None)


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}

"""Classes of ours in front of a family's own: same modules and parameters, another forward."""

_made: dict[tuple[type, type], type] = {}


def in_front(ours: type, theirs: type) -> type:
    """A class that looks in `ours` first; the same one each time, so that two layers of a model share it."""
    if (ours, theirs) not in _made:
        name = f"Document{theirs.__name__}"
        _made[ours, theirs] = type(name, (ours, theirs), {"__module__": __name__})
    return _made[ours, theirs]

"""What every workspace must do, as a pytest suite that other packages run over their own.

```python
from m2gym.workspaces.conformance import Conformance


class TestMine(Conformance):
    kind = "mine"
```

Each check runs against real boxes of that kind. One that needs a capability the workspace does not
declare is skipped and says so; a capability that is declared must hold. Only pytest is needed.
"""

from __future__ import annotations

from m2gym.workspaces.conformance.boxes import Boxes, needs
from m2gym.workspaces.conformance.commands import Commands
from m2gym.workspaces.conformance.files import Files
from m2gym.workspaces.conformance.isolation import Isolation
from m2gym.workspaces.conformance.life import Life
from m2gym.workspaces.conformance.shells import Shells

__all__ = ["Boxes", "Commands", "Conformance", "Files", "Isolation", "Life", "Shells", "needs"]


class Conformance(Commands, Shells, Files, Isolation, Life):
    """The whole suite. ``kind`` names a registered workspace, ``spec`` what all its boxes get."""

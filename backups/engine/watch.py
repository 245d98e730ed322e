from typing import Any, Protocol


class Watch(Protocol):
    """How long work is told to stop, and tells how far it is."""

    def check(self) -> None:
        """Raises Interrupted. Called often, and only where stopping is safe."""

    def report(self, **progress: Any) -> None: ...

"""A script with one thing wrong, to see a model find it out."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Mutant:
    """One thing that is wrong: this text of the scripts is replaced by that."""

    name: str
    right: str
    wrong: str

    def rewrite(self, _script: str, text: str) -> str:
        """As :class:`support.store.Store` takes it."""
        return text.replace(self.right, self.wrong)

"""The bundles on this machine that can be audited."""

from dataclasses import dataclass
from pathlib import Path

from hardrank.models.bundle import CARD, BundleError, load_card
from hardrank.models.card import Card

_BENIGN, _ROBUST = "-benign", "-robust"


@dataclass(frozen=True, kw_only=True)
class BundleEntry:
    """A bundle and its card."""

    folder: Path
    card: Card

    @property
    def name(self) -> str:
        """Name of the bundle."""
        return self.card.name


@dataclass(frozen=True, kw_only=True)
class BundleList:
    """The bundles of a folder."""

    entries: tuple[BundleEntry, ...]
    """The newest first."""
    problems: tuple[str, ...]
    """Errors of the bundles that cannot be read."""

    def default(self) -> tuple[BundleEntry, ...]:
        """Return the default selection: the newest benign and robust model of one run, else the newest bundle."""
        folders = {entry.folder.name: entry for entry in self.entries}
        for entry in self.entries:
            name = entry.folder.name
            stem = name.removesuffix(_ROBUST).removesuffix(_BENIGN)
            pair = [folders.get(stem + _BENIGN), folders.get(stem + _ROBUST)]
            if name != stem and all(pair):
                return tuple(one for one in pair if one)
        return self.entries[:1]


def list_bundles(zoo: Path) -> BundleList:
    """List the bundles in the folder `zoo`; a folder that does not exist has none."""
    entries, problems = [], []
    for card in sorted(zoo.glob(f"*/{CARD}")):
        try:
            entries.append(BundleEntry(folder=card.parent, card=load_card(card.parent)))
        except BundleError as error:
            problems.append(str(error))
    entries.sort(key=lambda entry: entry.card.created, reverse=True)
    return BundleList(entries=tuple(entries), problems=tuple(problems))

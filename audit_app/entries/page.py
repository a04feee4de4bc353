"""The leaderboard: one static page of the admitted entries, which works offline and without scripts."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from hardrank.audit_app.drawing.markup import page_templates
from hardrank.audit_app.entries.admission import ACROSS, RULES, comparable_key, refusal, repeated
from hardrank.audit_app.entries.entry import EntryError, LeaderboardEntry, read_entry
from hardrank.audit_app.results.schema import ENTRY_SUFFIX
from hardrank.trainer.attacks.gtm import gtm_text

_TEMPLATES: Final = Path(__file__).parent / "templates"


@dataclass(frozen=True, kw_only=True)
class Leaderboard:
    """The entries of a folder."""

    admitted: Mapping[str, LeaderboardEntry]
    """By file name."""
    refused: Mapping[str, str]
    """File name → why."""


def read_leaderboard(folder: Path) -> Leaderboard:
    """Read the entries of a folder, its files `*.json`.

    Raises:
        EntryError: The folder does not exist, or has no JSON files.
    """
    files = sorted(path for path in folder.glob("*.json") if path.is_file()) if folder.is_dir() else []
    if not files:
        raise EntryError(f"{folder} has no entries; put the files NAME{ENTRY_SUFFIX} of audits there")
    admitted, refused = {}, {}
    for path in files:
        try:
            entry = read_entry(path)
        except EntryError as error:
            refused[path.name] = str(error).replace(str(path), path.name)
            continue
        problem = refusal(entry)
        if problem is None:
            admitted[path.name] = entry
        else:
            refused[path.name] = f"{path.name}: {problem}"
    for file, other in repeated(admitted).items():
        refused[file] = f"{file}: {other} is an entry of the same model with a lower strong ERS"
        del admitted[file]
    return Leaderboard(admitted=admitted, refused=refused)


@dataclass(frozen=True)
class ComparableEntries:
    """Entries with the same gallery and threat model, the best first and unreliable ones last."""

    entries: Sequence[LeaderboardEntry]

    @property
    def budget(self) -> str:
        """The budget in words."""
        threat = self.entries[0].threat_model
        return f"L∞, ε = {255 * threat.epsilon:.4g}/255" if threat.norm == "linf" else f"L2, ε = {threat.epsilon:.4g}"

    @property
    def gtm(self) -> str:
        """Which item GTM moves towards, in words."""
        return gtm_text({"unmatched": self.entries[0].threat_model.gtm})


def comparable_entries(entries: Sequence[LeaderboardEntry]) -> list[ComparableEntries]:
    """Group entries by what must agree; the largest group comes first."""
    groups: dict[object, list[LeaderboardEntry]] = {}
    for entry in entries:
        groups.setdefault(comparable_key(entry), []).append(entry)
    for group in groups.values():
        group.sort(key=lambda entry: (bool(entry.unreliable), -entry.attacked.strong_ers.value, entry.about.name))
    return [ComparableEntries(group) for group in sorted(groups.values(), key=len, reverse=True)]


def render_leaderboard(board: Leaderboard) -> str:
    """Render the page; all text of the entries is escaped."""
    environment = page_templates(_TEMPLATES)
    environment.filters["fixed"] = lambda value, digits=1: f"{value:.{digits}f}"
    return environment.get_template("leaderboard.html").render(
        groups=comparable_entries(list(board.admitted.values())),
        refused=board.refused,
        rules=[rule.sentence for rule in RULES] + list(ACROSS),
    )

"""Pages of the site that are made rather than written: the front page, the configuration, the API reference."""

import re
from collections.abc import Iterable
from pathlib import Path

import mkdocs_gen_files

from hardrank.audit_app.blackbox import SEARCHES
from hardrank.trainer.attacks.options import Option, declared_options
from hardrank.trainer.attacks.registry import ATTACKS
from hardrank.trainer.evaluation.robustness import RobustnessOptions

ROOT = Path(__file__).resolve().parents[2]

PACKAGES = ("models", "trainer", "serving", "audit_app")
CONFIGURATION = (
    "hardrank.trainer.config",
    "hardrank.trainer.data.dataset.DataOptions",
    "hardrank.models.preprocessing.Preprocessing",
    "hardrank.models.embedder.Architecture",
    "hardrank.trainer.runtime.launch.MainLaunch",
    "hardrank.trainer.studies.plan",
    "hardrank.serving.settings",
    "hardrank.audit_app.audit.options",
    "hardrank.serving.store.manifest",
)
_BEGINNING = """# Configuration

Every field of a recipe, of the server, of indexes and of audits, as the dataclasses say it.

"""


def write(path: str, text: str) -> None:
    """Write a page."""
    with mkdocs_gen_files.open(path, "w") as page:
        page.write(text)


def front_page() -> str:
    """The README, with its links as they are from here."""
    text = (ROOT / "README.md").read_text(encoding="utf-8").replace("](docs/", "](")
    elsewhere = r"(?!https?:|images/)(?!(?!CHANGELOG|CONTRIBUTING)[\w-]+\.md\))"
    return re.sub(rf"\[([^\]]*)\]\({elsewhere}[^)]*\)", r"\1", text)


def modules(package: str) -> list[str]:
    """Dotted names of the modules of a package that hold something public."""
    found = []
    for path in sorted((ROOT / package).rglob("*.py")):
        name = path.relative_to(ROOT).with_suffix("").parts
        if name[-1] != "__init__" and not any(part.startswith("_") for part in name) and "screens" not in name:
            found.append(".".join(("hardrank", *name)))
    return found


def references(names: tuple[str, ...] | list[str]) -> str:
    """Ask for the docstrings of modules or classes."""
    return "\n\n".join(f"::: {name}" for name in names) + "\n"


def table(title: str, options: Iterable[Option]) -> str:
    """What options declare of themselves, as a table; empty where there are none."""
    rows = [f"| `{o.name}` | `{_default(o)}` | {_range(o)} | {o.help} |" for o in options]
    head = f"### {title}\n\n| option | default | values | |\n|---|---|---|---|\n"
    return head + "\n".join(rows) + "\n\n" if rows else ""


def _default(option: Option) -> str:
    return f"{option.default:.4g}" if isinstance(option.default, float) else str(option.default)


def _range(option: Option) -> str:
    if option.choices:
        return ", ".join(f"`{choice}`" for choice in option.choices)
    low = "" if option.minimum is None else f"≥ {option.minimum:g}"
    high = "" if option.maximum is None else f"≤ {option.maximum:g}"
    return " ".join(part for part in (low, high, option.unit) if part)


def attack_options() -> str:
    """The options of the scorecard, of each attack, and of the searches without gradients."""
    parts = [table("The scorecard and its engine", declared_options(RobustnessOptions))]
    parts += [table(name, kind.options) for name, kind in ATTACKS.items()]
    parts += [table(f"Without gradients: {name}", kind.options) for name, kind in SEARCHES.items()]
    return "\n## Options of attacks\n\n" + "".join(parts)


write("index.md", front_page())
write("configuration.md", _BEGINNING + references(CONFIGURATION) + attack_options())
for package in PACKAGES:
    write(f"reference/{package}.md", f"# {package}\n\n{references(modules(package))}")

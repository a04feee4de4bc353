"""Generate pages of the site: the front page, the configuration and the API reference."""

import re
from collections.abc import Iterable
from pathlib import Path

import mkdocs_gen_files

from hardrank.audit_app.blackbox import SEARCHES
from hardrank.trainer.attacks.options import Option, declared_options
from hardrank.trainer.attacks.registry import ATTACKS
from hardrank.trainer.evaluation.robustness import RobustnessOptions
from hardrank.trainer.evaluation.threats import THREATS

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
_CONFIGURATION_HEAD = """# Configuration

All settings of recipes, the server, indexes and audits, generated from their dataclasses.

"""


def write(path: str, text: str) -> None:
    """Write a page."""
    with mkdocs_gen_files.open(path, "w") as page:
        page.write(text)


def front_page() -> str:
    """Return the README with its links relative to `docs`. Links to files outside the site become plain text."""
    text = (ROOT / "README.md").read_text(encoding="utf-8").replace("](docs/", "](")
    outside = r"(?!https?:|images/)(?!(?!CHANGELOG|CONTRIBUTING)[\w-]+\.md\))"
    return re.sub(rf"\[([^\]]*)\]\({outside}[^)]*\)", r"\1", text)


def modules(package: str) -> list[str]:
    """Return the dotted names of the public modules of a package."""
    found = []
    for path in sorted((ROOT / package).rglob("*.py")):
        name = path.relative_to(ROOT).with_suffix("").parts
        if name[-1] != "__init__" and not any(part.startswith("_") for part in name) and "screens" not in name:
            found.append(".".join(("hardrank", *name)))
    return found


def references(names: tuple[str, ...] | list[str]) -> str:
    """Return the mkdocstrings directives that insert the docstrings of modules or classes."""
    return "\n\n".join(f"::: {name}" for name in names) + "\n"


def table(title: str, options: Iterable[Option]) -> str:
    """Return a table of options, or an empty string if there are none."""
    rows = [f"| `{option.name}` | `{_default(option)}` | {_range(option)} | {option.help} |" for option in options]
    head = f"### {title}\n\n| option | default | values | meaning |\n|---|---|---|---|\n"
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
    """Return the options of the scorecard, of each attack, threat model and black-box search."""
    parts = [table("Scorecard", declared_options(RobustnessOptions))]
    parts += [table(name, kind.options) for name, kind in ATTACKS.items()]
    parts += [table(f"Threat model: {name}", kind.options) for name, kind in THREATS.items()]
    parts += [table(f"Black-box search: {name}", kind.options) for name, kind in SEARCHES.items()]
    return "\n## Attack options\n\n" + "".join(parts)


write("index.md", front_page())
write("reference/configuration.md", _CONFIGURATION_HEAD + references(CONFIGURATION) + attack_options())
for package in PACKAGES:
    write(f"reference/{package}.md", f"# {package}\n\n{references(modules(package))}")

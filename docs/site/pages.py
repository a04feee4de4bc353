"""Pages of the site that are made rather than written: the front page, the configuration, the API reference."""

import re
from pathlib import Path

import mkdocs_gen_files

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("models", "trainer", "serving", "audit_app")
CONFIGURATION = (
    "trainer.config",
    "trainer.data.dataset.DataOptions",
    "models.preprocessing.Preprocessing",
    "models.embedder.Architecture",
    "trainer.launch.Launch",
    "trainer.studies.plan",
    "serving.settings",
)


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
        if name[-1] != "__init__" and not any(part.startswith("_") for part in name) and "pages" not in name:
            found.append(".".join(name))
    return found


def references(names: tuple[str, ...] | list[str]) -> str:
    """Ask for the docstrings of modules or classes."""
    return "\n\n".join(f"::: {name}" for name in names) + "\n"


write("index.md", front_page())
write(
    "configuration.md", f"# Configuration\n\nEvery field of a recipe and of the server.\n\n{references(CONFIGURATION)}"
)
for package in PACKAGES:
    write(f"reference/{package}.md", f"# {package}\n\n{references(modules(package))}")

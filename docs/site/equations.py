"""Convert equations (LaTeX in code blocks named `math`, which GitHub renders too) to MathML for browsers."""

from typing import Any

from latex2mathml.converter import convert
from mkdocs.config.defaults import MkDocsConfig


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Register the converter for code blocks named `math`."""
    blocks = config.mdx_configs.setdefault("pymdownx.superfences", {})
    blocks["custom_fences"] = [{"name": "math", "class": "math", "format": equation}]
    return config


def equation(source: str, language: str, css_class: str, options: dict[str, Any], md: Any, **rest: Any) -> str:
    """Return a block as MathML. The signature is that of pymdownx.superfences."""
    return f'<div class="{css_class}">{convert(source.strip(), display="block")}</div>'

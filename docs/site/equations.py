"""Equations of the pages: LaTeX between fences of `math`, which GitHub shows too, to MathML, which browsers draw."""

from typing import Any

from latex2mathml.converter import convert
from mkdocs.config.defaults import MkDocsConfig


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Have the blocks of code that are called `math` made into equations."""
    blocks = config.mdx_configs.setdefault("pymdownx.superfences", {})
    blocks["custom_fences"] = [{"name": "math", "class": "math", "format": equation}]
    return config


def equation(source: str, language: str, css_class: str, options: dict[str, Any], md: Any, **rest: Any) -> str:
    """Turn a block into MathML; the interface is that of pymdownx.superfences."""
    return f'<div class="{css_class}">{convert(source.strip(), display="block")}</div>'

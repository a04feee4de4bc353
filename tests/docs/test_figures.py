"""The sketches in docs/images are current, and there is one for each attack and defense."""

import re
from xml.etree import ElementTree

from docs.figures.draw_sketches import IMAGES, attacks, defenses
from hardrank.trainer.attacks.registry import ATTACKS
from hardrank.trainer.defenses.registry import DEFENSES
from hardrank.trainer.runtime.launch import ROOT


def test_sketches_are_current() -> None:
    for folder, sketches in (("attacks", attacks()), ("defenses", defenses())):
        drawn = {f"{name}.svg": sketch.svg() for name, sketch in sketches.items()}
        assert drawn == {path.name: path.read_text(encoding="utf-8") for path in (IMAGES / folder).glob("*.svg")}
        for text in drawn.values():
            ElementTree.fromstring(text)


def test_every_attack_and_defense_has_a_section_with_a_sketch() -> None:
    for page, names in (("attacks", ATTACKS), ("defenses", DEFENSES)):
        text = (ROOT / "docs" / f"{page}.md").read_text(encoding="utf-8")
        assert all(name in text for name in names)
        sections = re.split(r"^### ", text, flags=re.MULTILINE)[1:]
        pictured = [section for section in sections if f"images/{page}/" in section]
        assert len(pictured) == len(list((IMAGES / page).glob("*.svg")))
        assert all("```math" in section for section in pictured)

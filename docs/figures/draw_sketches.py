"""Draw the sketches of docs/attacks.md and docs/defenses.md: python -m docs.figures.draw_sketches"""

from pathlib import Path

import tyro

from docs.figures.svg import Arrow, Color, Dot, Ring, Sketch

IMAGES = Path(__file__).resolve().parents[1] / "images"

# The gallery of every attack: the query's class on the left, another class on the right.
_QUERY = Dot(70, 90, "q", Color.QUERY)
_OWN = (Dot(45, 65, "", Color.OWN), Dot(48, 115, "", Color.OWN), Dot(95, 70, "", Color.OWN))
_OTHERS = (Dot(215, 60, "", Color.OTHER), Dot(245, 100, "", Color.OTHER), Dot(205, 120, "", Color.OTHER))
_GALLERY = (*_OWN, *_OTHERS, Dot(150, 35), Dot(140, 140))
_MOVED = Color.QUERY


def _moved(x: float, y: float, label: str = "q̃") -> Dot:
    return Dot(x, y, label, _MOVED, hollow=True)


def attacks() -> dict[str, Sketch]:
    """Return the sketches of the attacks by file name."""
    far = Dot(270, 140, "c", Color.OTHER)
    near = Dot(95, 70, "c", Color.OWN)
    target = Dot(245, 100, "t", Color.OTHER)
    top = Dot(95, 70, "t", Color.OWN)
    nearest_other = Dot(190, 95, "u", Color.OTHER)
    a, b, c = Dot(150, 60, "c₁", Color.OTHER), Dot(180, 110, "c₂", Color.OTHER), Dot(235, 75, "c₃", Color.OTHER)
    rise, fall = _moved(92, 108, "c̃"), _moved(262, 60, "c̃")
    towards, away, gone = _moved(238, 138), _moved(165, 158), _moved(165, 22)
    misled = _moved(183, 90)
    hub, shifted, patched = _moved(152, 92, "c̃"), (_moved(118, 55, ""), _moved(143, 80, "")), _moved(172, 40)
    beside, over, turned = _moved(228, 92), _moved(172, 82), _moved(118, 82)
    return {
        "ca-plus": Sketch(
            title="CA+: the candidate c rises to the top for the query q",
            dots=(_QUERY, *_GALLERY, far, rise),
            arrows=(Arrow(far, rise, color=_MOVED),),
            rings=(Ring(70, 90, 31),),
        ),
        "ca-minus": Sketch(
            title="CA−: the candidate c falls from the top to the end of the ranking",
            dots=(_QUERY, *_GALLERY[:2], *_GALLERY[3:], near, fall),
            arrows=(Arrow(near, fall, color=_MOVED),),
            rings=(Ring(70, 90, 193),),
        ),
        "qa-plus": Sketch(
            title="QA+: the query moves so that the candidate c rises to the top",
            dots=(_QUERY, *_GALLERY, far, towards),
            arrows=(Arrow(_QUERY, towards, color=_MOVED), Arrow(towards, far, dashed=True)),
        ),
        "qa-minus": Sketch(
            title="QA−: the query moves so that the candidate c falls from the top",
            dots=(_QUERY, *_GALLERY[:2], *_GALLERY[3:], near, away),
            arrows=(Arrow(_QUERY, away, color=_MOVED), Arrow(away, near, dashed=True)),
        ),
        "tma": Sketch(
            title="TMA: the query moves to the embedding of another image t",
            dots=(_QUERY, *_OWN, _OTHERS[0], _OTHERS[2], target, beside),
            arrows=(Arrow(_QUERY, beside, color=_MOVED),),
        ),
        "es": Sketch(
            title="ES: the query moves as far as possible from its own embedding",
            dots=(_QUERY, *_GALLERY, gone),
            arrows=(Arrow(_QUERY, gone, color=_MOVED),),
            rings=(Ring(70, 90, 108),),
        ),
        "ltm": Sketch(
            title="LTM: items of other classes rank before the query's own class",
            dots=(_QUERY, *_GALLERY, misled),
            arrows=(
                Arrow(_QUERY, misled, color=_MOVED),
                Arrow(misled, _OTHERS[1], dashed=True, color=Color.OTHER),
                Arrow(misled, _OWN[2], dashed=True, color=Color.OWN),
            ),
        ),
        "gtm": Sketch(
            title="GTM: the query moves to u, the nearest item of another class",
            dots=(_QUERY, *_GALLERY, nearest_other, over),
            arrows=(Arrow(_QUERY, over, color=_MOVED),),
        ),
        "gtt": Sketch(
            title="GTT: the top-1 item t drops out of the first four",
            dots=(_QUERY, *_GALLERY[:2], *_GALLERY[3:], top, away),
            arrows=(Arrow(_QUERY, away, color=_MOVED), Arrow(away, top, dashed=True)),
        ),
        "margin": Sketch(
            title="MARGIN: u, of another class, comes nearer than every item of the query's class",
            dots=(_QUERY, *_GALLERY, nearest_other, over),
            arrows=(
                Arrow(_QUERY, over, color=_MOVED),
                Arrow(over, nearest_other, dashed=True),
                Arrow(over, _OWN[0], dashed=True),
            ),
        ),
        "spqa": Sketch(
            title="SPQA: as QA, but the original top items (in the ring) stay at the top",
            dots=(_QUERY, *_GALLERY, far, turned),
            arrows=(Arrow(_QUERY, turned, color=_MOVED), Arrow(turned, far, dashed=True)),
            rings=(Ring(64, 86, 48),),
        ),
        "hub": Sketch(
            title="HUB: the candidate c̃ comes among the nearest items (in the rings) of as many queries as possible",
            dots=(*_OWN[:2], *_OTHERS, Dot(150, 35), Dot(140, 140), near, hub),
            arrows=(Arrow(near, hub, color=_MOVED),),
            rings=(Ring(205, 120, 64), Ring(140, 140, 58), Ring(150, 35, 66)),
        ),
        "universal": Sketch(
            title="Universal: the same perturbation moves all images",
            dots=(_QUERY, *_OWN, *_OTHERS, *shifted, _moved(168, 60, "")),
            arrows=(
                Arrow(_QUERY, shifted[1], color=_MOVED),
                Arrow(_OWN[0], shifted[0], color=_MOVED),
                Arrow(_OWN[2], _moved(168, 60), color=_MOVED),
            ),
        ),
        "patch": Sketch(
            title="Patch: a square of any pixels moves the image far, and the rest of the image stays",
            dots=(_QUERY, *_GALLERY, patched),
            arrows=(Arrow(_QUERY, patched, color=_MOVED),),
            rings=(Ring(70, 90, 112),),
        ),
        "order": Sketch(
            title="ORDER: the candidates are ranked c₃, c₁, c₂ instead of c₁, c₂, c₃",
            dots=(_QUERY, *_OWN, a, b, c, _moved(225, 32)),
            arrows=(
                Arrow(_QUERY, _moved(225, 32), color=_MOVED),
                Arrow(_moved(225, 32), c, dashed=True),
                Arrow(_moved(225, 32), a, dashed=True),
            ),
        ),
    }


def defenses() -> dict[str, Sketch]:
    """Return the sketches of the defenses by file name."""
    anchor, positive = Dot(70, 60, "a", Color.QUERY), Dot(60, 125, "p", Color.OWN)
    negative = Dot(235, 90, "n", Color.OTHER)

    def pulled(dot: Dot, x: float, y: float) -> tuple[Dot, Arrow]:
        end = Dot(x, y, f"{dot.label}̃", dot.color, hollow=True)
        return end, Arrow(dot, end, color=dot.color)

    triplet = (anchor, positive, negative)
    lines = (Arrow(anchor, positive, dashed=True), Arrow(anchor, negative, dashed=True))
    a_hm, a_hm_arrow = pulled(anchor, 115, 50)
    p_hm, p_hm_arrow = pulled(positive, 60, 155)
    n_hm, n_hm_arrow = pulled(negative, 190, 75)
    p_act, p_act_arrow = pulled(positive, 132, 122)
    n_act, n_act_arrow = pulled(negative, 170, 102)
    a_far, a_far_arrow = pulled(anchor, 35, 30)
    p_far, p_far_arrow = pulled(positive, 100, 155)
    n_far, n_far_arrow = pulled(negative, 275, 55)
    a_max, a_max_arrow = pulled(anchor, 200, 80)
    p_max, p_max_arrow = pulled(positive, 25, 160)
    n_max, n_max_arrow = pulled(negative, 212, 88)
    hm = (*triplet, a_hm, p_hm, n_hm)
    return {
        "regular": Sketch(title="Regular: the benign triplet; a is nearer to p than to n", dots=triplet, arrows=lines),
        "hm": Sketch(
            title="HM: all three move until the triplet reaches its destination hardness",
            dots=hm,
            arrows=(*lines, a_hm_arrow, p_hm_arrow, n_hm_arrow),
        ),
        "ics": Sketch(
            title="ICS: the perturbed anchor must stay nearer to the anchor than the positive is",
            dots=(anchor, positive, a_hm),
            arrows=(a_hm_arrow, lines[0]),
            rings=(Ring(70, 60, 66),),
        ),
        "act": Sketch(
            title="ACT: positive and negative move towards each other, the anchor stays",
            dots=(*triplet, p_act, n_act),
            arrows=(p_act_arrow, n_act_arrow),
        ),
        "est": Sketch(
            title="EST: every image moves away from its own embedding",
            dots=(*triplet, a_far, p_far, n_far),
            arrows=(a_far_arrow, p_far_arrow, n_far_arrow),
        ),
        "minmax": Sketch(
            title="Min-max: the triplet becomes as hard as the budget allows",
            dots=(*triplet, a_max, p_max, n_max),
            arrows=(a_max_arrow, p_max_arrow, n_max_arrow),
        ),
        "tride": Sketch(
            title="TRIDE: candidates and anchor are perturbed alternately",
            dots=(*triplet, p_act, n_act, a_hm),
            arrows=(p_act_arrow, n_act_arrow, Arrow(anchor, a_hm, dashed=True, color=Color.QUERY)),
        ),
    }


def main(out: Path = IMAGES) -> None:
    """Draw the sketches of the attacks and defenses as SVG files.

    Args:
        out: Folder for the files, in the subfolders `attacks` and `defenses`.
    """
    for folder, sketches in (("attacks", attacks()), ("defenses", defenses())):
        for name, sketch in sketches.items():
            path = out / folder / f"{name}.svg"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(sketch.svg(), encoding="utf-8")


if __name__ == "__main__":
    tyro.cli(main, prog="python -m docs.figures.draw_sketches")

import hashlib
import json
import shutil
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from hardrank.models.errors import HardrankError
from hardrank.trainer.data import load_dataset
from hardrank.trainer.data.dataset import DataOptions, DatasetError
from hardrank.trainer.data.demo import (
    DemoClass,
    DemoDamagedError,
    DemoFolderError,
    DemoOptionError,
    DemoOptions,
    Half,
    Material,
    Nuisance,
    Palette,
    Pattern,
    Shape,
    classes,
    ensure,
    generate,
    load,
    picture,
    read_manifest,
    verify,
)
from hardrank.trainer.data.demo.fields import noise, smooth, triangle
from hardrank.trainer.data.demo.frame import Pose, frame
from hardrank.trainer.data.demo.palettes import colors, graded
from hardrank.trainer.data.demo.patterns import PATTERNS
from hardrank.trainer.data.demo.shapes import SHAPES, Form
from hardrank.trainer.data.demo.surfaces import Paint, disc, inflated, lathe

SMALL = DemoOptions(seed=3, images_per_class=2, side=24)


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("demo") / "set"
    generate(root, SMALL)
    return root


@pytest.fixture
def copy(small: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(small, tmp_path / "set"))


def _bytes(root: Path) -> dict[str, bytes]:
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in root.rglob("*") if path.is_file()}


# The specification.


def test_there_are_enough_classes_and_images() -> None:
    assert len(classes()) == 64
    assert DemoOptions().images_per_class >= 24
    assert DemoOptions().side == 64
    names = [one.name for one in classes()]
    assert names == sorted(set(names))
    assert "teapot-mustard-stripes-matte" in names


def test_the_halves_are_disjoint_and_each_has_every_attribute() -> None:
    halves = {half: [one for one in classes() if one.half is half] for half in Half}
    assert [len(members) for members in halves.values()] == [32, 32]
    for members in halves.values():
        assert Counter(one.shape for one in members) == dict.fromkeys(Shape, 2)
        assert {one.pattern for one in members} == set(Pattern)
        assert {one.palette for one in members} == set(Palette)
        assert {one.material for one in members} == set(Material)
    assert not {one.name for one in halves[Half.TRAIN]} & {one.name for one in halves[Half.TEST]}
    for shape in Shape:
        trained, tested = ([one for one in members if one.shape is shape] for members in halves.values())
        assert not {one.pattern for one in trained} & {one.pattern for one in tested}
        assert not {one.palette for one in trained} & {one.palette for one in tested}


@pytest.mark.parametrize("half", list(Half))
def test_no_single_attribute_tells_classes_apart(half: Half) -> None:
    members = [one for one in classes() if one.half is half]
    but_shape = Counter((one.pattern, one.palette, one.material) for one in members)
    assert sum(count >= 2 for count in but_shape.values()) >= 8
    assert max(Counter((one.shape, one.pattern) for one in members).values()) == 2
    assert max(Counter((one.shape, one.palette) for one in members).values()) == 2


def test_every_name_has_its_drawing() -> None:
    assert set(SHAPES) == set(Shape)
    assert set(PATTERNS) == set(Pattern)


@pytest.mark.parametrize("wrong", [{"seed": -1}, {"images_per_class": 0}, {"side": 8}])
def test_options_out_of_range_are_named(wrong: dict[str, int]) -> None:
    with pytest.raises(DemoOptionError, match=next(iter(wrong))):
        replace(DemoOptions(), **wrong)  # type: ignore[arg-type]


# The pictures.


@pytest.mark.parametrize("which", classes()[::5], ids=lambda one: one.name)
def test_pictures_are_64_pixel_rgb_and_full_of_detail(which: DemoClass) -> None:
    made = picture(which, side=64, nuisance=Nuisance(), rng=np.random.default_rng(5))
    assert made.shape == (64, 64, 3)
    assert made.dtype == np.uint8
    assert made.std() > 12
    assert len(np.unique(made.reshape(-1, 3), axis=0)) > 500
    # Nothing is washed out or drowned.
    assert 25 < made.mean() < 225


def test_without_nuisance_only_the_scene_and_the_light_change() -> None:
    still = Nuisance(
        rotation=0,
        scale=0,
        translation=0,
        shear=0,
        perspective=0,
        form=0,
        mirror=False,
        hue=0,
        tone=0,
        exposure=0,
        warmth=0,
        light=0,
        texture=0,
        scene=0,
        grain=0,
    )
    which = next(one for one in classes() if one.shape is Shape.CUSHION and one.material is Material.MATTE)

    def difference(nuisance: Nuisance) -> float:
        one, other = (picture(which, side=64, nuisance=nuisance, rng=np.random.default_rng(s)) for s in (1, 2))
        return float(np.abs(one.astype(int) - other).mean())

    assert difference(still) < 12 < difference(Nuisance())


def test_colors_turn_about_the_grey_axis() -> None:
    rgb = colors(Palette.TEAL)
    np.testing.assert_allclose(graded(rgb, hue=0, saturation=1, lightness=1), rgb, atol=1e-6)
    gray = np.full((1, 3), 0.4, dtype=np.float32)
    np.testing.assert_allclose(graded(gray, hue=77, saturation=0.3, lightness=1), gray, atol=1e-6)
    red = np.array([[0.6, 0.1, 0.1]], dtype=np.float32)
    np.testing.assert_allclose(graded(red, hue=120, saturation=1, lightness=1), red[:, [1, 0, 2]], atol=1e-6)


def test_fields() -> None:
    x = np.array([-1.0, 0.0, 0.25, 0.5, 0.75, 1.0, 2.0], dtype=np.float32)
    np.testing.assert_allclose(triangle(x), [1, 1, 0.5, 0, 0.5, 1, 1], atol=1e-6)
    np.testing.assert_allclose(smooth(x)[[0, 1, 3, 5, 6]], [0, 0, 0.5, 1, 1], atol=1e-6)
    s, t = np.meshgrid(np.linspace(-9, 9, 50, dtype=np.float32), np.linspace(0, 5, 40, dtype=np.float32))
    assert noise(s, t).dtype == np.float32
    assert 0 <= noise(s, t).min() < noise(s, t).max() <= 1


@pytest.mark.parametrize("pattern", list(Pattern))
def test_patterns_are_shares_and_use_all_three_colors(pattern: Pattern) -> None:
    s, t = np.meshgrid(np.linspace(0, 3, 150, dtype=np.float32), np.linspace(-1, 1, 150, dtype=np.float32))
    for share in PATTERNS[pattern](s, t):
        assert share.dtype == np.float32
        assert share.min() >= 0
        assert share.max() <= 1
        assert share.max() - share.min() > 0.5


_STRAIGHT = Pose(turn=0, scale=0.8, center=(0, 0), shear=0, keystone=(0, 0), mirrored=False)


def test_the_frame_undoes_the_pose() -> None:
    pose = Pose(turn=0.4, scale=0.7, center=(0.1, -0.2), shear=0.1, keystone=(0, 0), mirrored=True)
    looked = frame(pose, 60)
    row, column = 11, 41
    u, v = float(looked.u[row, column]), float(looked.v[row, column])
    x, y = pose.scale * -(u + pose.shear * v), pose.scale * v
    x, y = x * looked.cos - y * looked.sin + 0.1, x * looked.sin + y * looked.cos - 0.2
    assert x == pytest.approx((column + 0.5) / 30 - 1, abs=1e-5)
    assert y == pytest.approx(1 - (row + 0.5) / 30, abs=1e-5)


def test_a_lathed_ball_has_the_normals_and_the_area_of_a_ball() -> None:
    looked = frame(_STRAIGHT, 120)
    heights = np.sin(np.linspace(-np.pi / 2, np.pi / 2, 41)) * 0.6
    profile = [(float(y), float(np.sqrt(0.36 - y * y + 1e-12))) for y in heights]
    ball = lathe(looked, profile, tilt=0.0, spin=0.0, paint=Paint.BASE)
    inside = np.hypot(looked.u, looked.v) < 0.5
    np.testing.assert_allclose(ball.normal[0][inside], looked.u[inside] / 0.6, atol=0.06)
    np.testing.assert_allclose(ball.normal[1][inside], looked.v[inside] / 0.6, atol=0.06)
    assert ball.cover.sum() * looked.pixel**2 == pytest.approx(np.pi * 0.36, rel=0.02)


def test_an_inflated_disc_is_covered_and_leans_outwards() -> None:
    looked = frame(_STRAIGHT, 120)
    part = inflated(looked, disc(looked.u, looked.v, 0.6), radius=0.6, paint=Paint.BASE)
    assert part.cover.sum() * looked.pixel**2 == pytest.approx(np.pi * 0.36, rel=0.01)
    ring = np.abs(np.hypot(looked.u, looked.v) - 0.3) < 0.02
    np.testing.assert_allclose(part.normal[0][ring], looked.u[ring] / 0.6, atol=0.03)
    inside = part.cover == 1
    np.testing.assert_allclose(sum(n[inside] ** 2 for n in part.normal), 1, atol=1e-4)


@pytest.mark.parametrize("shape", list(Shape))
def test_shapes_fill_the_frame_with_unit_normals_and_a_pattern(shape: Shape) -> None:
    looked = frame(_STRAIGHT, 96)
    parts = list(SHAPES[shape](looked, Form(spin=1.0, tilt=0.25, a=0.3, b=-0.3)))
    cover = np.max([part.cover for part in parts], axis=0)
    assert 0.12 < cover.mean() < 0.75
    for part in parts:
        assert 0 <= part.cover.min() <= part.cover.max() <= 1
        seen = part.cover > 0.99
        length = np.sqrt(sum(np.broadcast_to(n, cover.shape)[seen] ** 2 for n in part.normal))
        np.testing.assert_allclose(length, 1, atol=0.02)
    patterned = sum(part.cover.sum() for part in parts if part.paint is Paint.PATTERN)
    assert patterned > 0.3 * cover.sum()


# The set on disk.


def test_same_seed_same_bytes_other_seed_other_bytes(small: Path, tmp_path: Path) -> None:
    generate(tmp_path / "again", SMALL)
    assert _bytes(tmp_path / "again") == _bytes(small)
    generate(tmp_path / "other", DemoOptions(seed=4, images_per_class=1, side=24))
    first, other = _bytes(small), _bytes(tmp_path / "other")
    pictures = [name for name in other if name.endswith(".png")]
    assert pictures
    assert all(first[name] != other[name] for name in pictures)


def test_a_picture_does_not_depend_on_how_many_there_are(small: Path, tmp_path: Path) -> None:
    generate(tmp_path / "fewer", DemoOptions(seed=3, images_per_class=1, side=24))
    fewer, more = _bytes(tmp_path / "fewer"), _bytes(small)
    assert all(more[name] == data for name, data in fewer.items() if name.endswith(".png"))


def test_the_test_images_do_not_depend_on_the_number_of_training_images(small: Path, tmp_path: Path) -> None:
    manifest = generate(tmp_path / "more", replace(SMALL, train_images_per_class=3))
    assert (manifest["counts"]["train_images"], manifest["counts"]["test_images"]) == (96, 64)
    few, more = ({n: d for n, d in _bytes(one).items() if n.endswith(".png")} for one in (small, tmp_path / "more"))
    assert set(few) < set(more)
    assert all(more[name] == data for name, data in few.items())
    assert {name.split("/")[0] for name in set(more) - set(few)} == {"train"}


@pytest.mark.parametrize("extra", [16, 96, 256])
def test_further_classes_train_and_leave_the_combinations_of_the_test_classes_unseen(extra: int) -> None:
    made = classes(extra)
    assert made[:64] == classes()
    assert len({one.name for one in made}) == 64 + extra
    assert {one.half for one in made[64:]} == {Half.TRAIN}
    assert Counter(one.shape for one in made[64:]) == dict.fromkeys(Shape, extra // 16)
    for shape in Shape:
        train, test = ([one for one in made if one.shape is shape and one.half is half] for half in Half)
        assert not {one.pattern for one in train} & {one.pattern for one in test}
        assert not {one.palette for one in train} & {one.palette for one in test}
    if extra >= 96:
        for attribute, values in (("pattern", Pattern), ("palette", Palette), ("material", Material)):
            counts = Counter(getattr(one, attribute) for one in made[64:])
            assert set(counts) == set(values)
            assert max(counts.values()) <= 2 * min(counts.values())


def test_further_classes_change_no_image_of_the_others(small: Path, tmp_path: Path) -> None:
    manifest = generate(tmp_path / "more", replace(SMALL, extra_train_classes=16))
    assert (manifest["counts"]["train_classes"], manifest["counts"]["test_classes"]) == (48, 32)
    few, more = ({n: d for n, d in _bytes(one).items() if n.endswith(".png")} for one in (small, tmp_path / "more"))
    assert len(more) == len(few) + 32
    assert all(more[name] == data for name, data in few.items())


@pytest.mark.parametrize("extra", [-16, 8, 272])
def test_a_number_of_further_classes_that_cannot_be_drawn_is_refused(extra: int) -> None:
    with pytest.raises(DemoOptionError, match="multiple of 16"):
        DemoOptions(extra_train_classes=extra)


def test_the_manifest_is_complete(small: Path) -> None:
    manifest = json.loads((small / "manifest.json").read_text())
    assert manifest["seed"] == 3
    assert manifest["generator_version"]
    assert manifest["options"]["nuisance"]["hue"] == Nuisance().hue
    assert manifest["counts"] == {
        "classes": 64,
        "images": 128,
        "train_classes": 32,
        "test_classes": 32,
        "train_images": 64,
        "test_images": 64,
    }
    assert [one["name"] for one in manifest["classes"]] == [one.name for one in classes()]
    assert set(manifest["classes"][0]) == {"name", "half", "shape", "pattern", "palette", "material"}
    files = {path.relative_to(small).as_posix(): path for path in small.rglob("*.png")}
    hashes = {name: hashlib.sha256(path.read_bytes()).hexdigest() for name, path in files.items()}
    assert hashes == manifest["files"]
    for path in files.values():
        with Image.open(path) as image:
            assert (image.mode, image.size, image.format) == ("RGB", (24, 24), "PNG")
            assert np.asarray(image).std() > 5
    verify(small)


def test_progress_counts_every_image(tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    generate(tmp_path / "set", DemoOptions(images_per_class=1, side=16), progress=lambda *at: seen.append(at))
    assert seen == [(done, 64) for done in range(1, 65)]


class _StopError(Exception):
    pass


def _stop_at_20(done: int, total: int) -> None:
    if done == 20:
        raise _StopError


def test_a_stopped_generation_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(_StopError):
        generate(tmp_path / "set", SMALL, progress=_stop_at_20)
    assert list(tmp_path.iterdir()) == []


def test_a_stopped_regeneration_leaves_the_old_set(copy: Path) -> None:
    before = _bytes(copy)
    with pytest.raises(_StopError):
        ensure(copy, DemoOptions(seed=9, images_per_class=1, side=16), progress=_stop_at_20)
    assert _bytes(copy) == before
    assert [path.name for path in copy.parent.iterdir()] == ["set"]


@pytest.mark.parametrize("error", [OSError("no space"), KeyboardInterrupt()])
def test_a_failed_replacement_keeps_the_old_set(
    copy: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    before, rename, calls = _bytes(copy), Path.rename, []

    def faulty(self: Path, target: Path) -> Path:
        calls.append(self)
        if len(calls) == 2:
            raise error
        return rename(self, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", faulty)
        with pytest.raises(type(error)):
            generate(copy, DemoOptions(seed=9, images_per_class=1, side=16))
    assert _bytes(copy) == before
    assert [path.name for path in copy.parent.iterdir()] == ["set"]


def _must_not_draw(done: int, total: int) -> None:
    raise AssertionError("drawn again")


def test_the_right_set_is_reused_and_another_replaced(copy: Path) -> None:
    assert ensure(copy, SMALL, progress=_must_not_draw) == read_manifest(copy)
    other = DemoOptions(seed=9, images_per_class=1, side=16)
    assert ensure(copy, other)["seed"] == 9
    assert len(list(copy.rglob("*.png"))) == 64
    verify(copy)


def _change(root: Path) -> None:
    path = next(iter(sorted(root.rglob("*.png"))))
    data = bytearray(path.read_bytes())
    data[-20] ^= 1
    path.write_bytes(bytes(data))


def _remove(root: Path) -> None:
    next(iter(sorted(root.rglob("*.png")))).unlink()


def _add(root: Path) -> None:
    path = next(iter(sorted(root.rglob("*.png"))))
    shutil.copy(path, path.with_name("99.png"))


def _garble(root: Path) -> None:
    (root / "manifest.json").write_text("{")


@pytest.mark.parametrize(
    ("damage", "word"),
    [(_change, "changed"), (_remove, "missing"), (_add, "not in the manifest"), (_garble, "delete")],
)
def test_damage_is_noticed(copy: Path, damage: Callable[[Path], None], word: str) -> None:
    damage(copy)
    for look in (lambda: verify(copy), lambda: ensure(copy, SMALL)):
        with pytest.raises(DemoDamagedError, match=word) as caught:
            look()
        assert isinstance(caught.value, HardrankError)


def test_generating_mends_damage(copy: Path, small: Path) -> None:
    _change(copy)
    generate(copy, SMALL)
    assert _bytes(copy) == _bytes(small)


def test_what_is_not_ours_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "mine.png").write_bytes(b"precious")
    for make in (generate, ensure):
        with pytest.raises(DemoFolderError, match="photos"):
            make(tmp_path / "photos", SMALL)
    assert (tmp_path / "photos" / "mine.png").read_bytes() == b"precious"


# The set as training sees it.


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two small images a class where training asks for the whole set."""
    monkeypatch.setattr(
        "hardrank.trainer.data.demo.reader.DemoOptions",
        lambda **options: DemoOptions(**options, images_per_class=2, side=16),
    )


@pytest.mark.usefixtures("few")
def test_load_gives_the_two_halves(tmp_path: Path) -> None:
    calls: list[tuple[int, int]] = []
    data = load(DataOptions(root=tmp_path, seed=2), lambda *at: calls.append(at))
    assert data.name == "demo"
    assert calls[-1] == (128, 128)
    assert data.problems == ()
    for half, split in ((Half.TRAIN, data.train), (Half.TEST, data.test)):
        assert split.classes == tuple(one.name for one in classes() if one.half is half)
        assert len(split.paths) == len(split.labels) == 64
        assert [path.parent.name for path in split.paths] == [split.classes[label] for label in split.labels]
        assert all(path.is_file() for path in split.paths)
    again = load(DataOptions(root=tmp_path, seed=2))
    assert again.digest == data.digest
    assert load(DataOptions(root=tmp_path, seed=3)).digest != data.digest
    assert sorted(path.name for path in tmp_path.iterdir()) == ["manifest.json", "test", "train"]


@pytest.mark.usefixtures("few")
def test_load_splits_otherwise_where_asked(tmp_path: Path) -> None:
    data = load(DataOptions(root=tmp_path, train_classes=10))
    assert (len(data.train.classes), len(data.test.classes)) == (10, 54)
    assert data.train.classes == tuple(one.name for one in classes())[:10]
    shuffled = load(DataOptions(root=tmp_path, split_seed=1))
    assert len(shuffled.train.classes) == 32
    assert shuffled.train.classes != load(DataOptions(root=tmp_path)).train.classes
    with pytest.raises(DatasetError):
        load(DataOptions(root=tmp_path, train_classes=64))


@pytest.mark.usefixtures("few")
def test_load_makes_its_folder_but_not_those_above(tmp_path: Path) -> None:
    with pytest.raises(DemoOptionError, match=r"absent does not exist.*folder --data\.root"):
        load(DataOptions(root=tmp_path / "absent" / "demo"))
    assert list(tmp_path.iterdir()) == []
    assert load(DataOptions(root=tmp_path / "demo")).root == tmp_path / "demo"


def test_load_names_the_recipe_for_the_images_that_lie_there(tmp_path: Path) -> None:
    (tmp_path / "mine.png").write_bytes(b"precious")
    with pytest.raises(DemoFolderError, match=rf"folder --data\.root {tmp_path}"):
        load(DataOptions(root=tmp_path))


def test_options_of_other_data_sets_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"does not use --data\.csv .*folder --data\.csv a\.csv"):
        load_dataset(DataOptions(root=tmp_path, csv=Path("a.csv")))

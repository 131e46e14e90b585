"""Images of known factors: that what is drawn has the factors it is said to have."""

import click.testing
import numpy as np
import pytest

from separationfactor_lab import cli, data, synthetic_images

ROWS, COLUMNS = np.mgrid[:28, :28] + 0.5


def area(image):
    return image.sum()


def centre(image):
    """Returns x and y, downwards, from the image's own centre."""
    return np.array([(image * COLUMNS).sum(), (image * ROWS).sum()]) / image.sum() - 14


def direction(image):
    """Returns the direction of the longest axis, in degrees counterclockwise, in [0, 180)."""
    x, y = COLUMNS - 14 - centre(image)[0], -(ROWS - 14 - centre(image)[1])
    moments = [(image * p).sum() for p in (x * x, y * y, x * y)]
    return np.rad2deg(0.5 * np.arctan2(2 * moments[2], moments[0] - moments[1])) % 180


@pytest.fixture
def bar():
    """A level bar of 12 by 4 pixels in the middle."""
    image = np.zeros((28, 28), np.float32)
    image[12:16, 8:20] = 1
    return image


def test_what_is_not_moved_stays(bar):
    np.testing.assert_allclose(synthetic_images.move(bar), bar, atol=0.2)
    assert area(synthetic_images.move(bar)) == pytest.approx(48, rel=0.03)


def test_a_shift(bar):
    np.testing.assert_allclose(
        centre(synthetic_images.move(bar, shift_x=2.5, shift_y=-1.5)), [2.5, -1.5], atol=0.05
    )


def test_a_scale(bar):
    assert area(synthetic_images.move(bar, scale=1.5)) == pytest.approx(1.5**2 * 48, rel=0.03)
    np.testing.assert_allclose(centre(synthetic_images.move(bar, scale=1.5)), 0, atol=0.05)


@pytest.mark.parametrize("angle", [-30, 10, 45])
def test_an_angle(bar, angle):
    assert direction(synthetic_images.move(bar, angle=angle)) == pytest.approx(angle % 180, abs=1)
    assert area(synthetic_images.move(bar, angle=angle)) == pytest.approx(48, rel=0.03)


def test_a_shear(bar):
    standing = bar.T
    sheared = synthetic_images.move(standing, shear=0.5)
    assert centre(sheared[:14].repeat(2, axis=0))[0] > 1  # its upper half is moved to the right
    # From foot to head, 12 pixels, it leans by 6; and no area is lost.
    rows = [centre(np.tile(row, (28, 1)))[0] for row in sheared[9:19]]
    np.testing.assert_allclose(np.diff(rows), -0.5, atol=0.15)
    assert area(sheared) == pytest.approx(48, rel=0.06)


def test_a_thickness(bar):
    # A pixel on each side: 14 by 6, with round corners.
    assert area(synthetic_images.move(bar, thickness=1)) == pytest.approx(14 * 6 - (4 - np.pi), rel=0.03)
    assert area(synthetic_images.move(bar, thickness=-1)) == pytest.approx(10 * 2, rel=0.05)
    # It is of the result, not scaled.
    assert area(synthetic_images.move(bar, scale=0.5, thickness=1)) == pytest.approx(
        8 * 4 - (4 - np.pi), rel=0.05
    )


def test_all_of_a_move_is_in_order(bar):
    moved = synthetic_images.move(bar, angle=90, shift_x=3)
    np.testing.assert_allclose(centre(moved), [3, 0], atol=0.05)  # shifted after it was turned
    assert direction(moved) == pytest.approx(90, abs=1)


def test_moved_digits_are_of_their_classes_and_parts():
    digits = data.load("digits")
    arrays = synthetic_images.moved_digits(digits, train=20, test=10, seed=1)
    assert arrays["x_train"].shape == (20, 28, 28)
    assert arrays["x_test"].shape == (10, 28, 28)
    assert arrays["factors_train"].shape == (20, 6)
    low, high = np.transpose(list(synthetic_images.DIGIT_FACTORS.values()))
    assert (arrays["factors_train"] >= low).all()
    assert (arrays["factors_train"] <= high).all()
    for part in ("train", "test"):
        assert (arrays[f"x_{part}"].reshape(len(arrays[f"y_{part}"]), -1).max(axis=1) > 200).all()
    again = synthetic_images.moved_digits(digits, train=20, test=10, seed=1)
    for name in arrays:
        np.testing.assert_array_equal(arrays[name], again[name])
    other = synthetic_images.moved_digits(digits, train=20, test=10, seed=2)
    assert (other["factors_train"] != arrays["factors_train"]).all()


# Sprites


@pytest.mark.parametrize(("shape", "of_radius_1"), [(0, 1.6**2), (1, np.pi / 2)])
@pytest.mark.parametrize("scale", [0.5, 1])
def test_the_area_of_a_sprite(shape, of_radius_1, scale):
    (image,) = synthetic_images.draw_sprites(shape, scale, 0.3, 0.4, 0.6)
    assert area(image) == pytest.approx(of_radius_1 * (scale * 28 / 6) ** 2, rel=0.02)


@pytest.mark.parametrize(("x", "y"), [(0, 0), (1, 0.5), (0.25, 1)])
def test_the_place_of_a_sprite(x, y):
    (image,) = synthetic_images.draw_sprites(0, 1, 0.7, x, y)
    np.testing.assert_allclose(centre(image), 0.58 * 28 * (np.array([x, y]) - 0.5), atol=0.05)


@pytest.mark.parametrize("degrees", [0, 40, 110])
def test_the_orientation_of_a_sprite(degrees):
    (image,) = synthetic_images.draw_sprites(1, 1, np.deg2rad(degrees), 0.5, 0.5)
    assert direction(image) == pytest.approx(degrees, abs=1)


def test_a_heart_stands_on_its_tip():
    (image,) = synthetic_images.draw_sprites(2, 1, 0, 0.5, 0.5)
    widths = image.sum(axis=1)
    widths = widths[widths > 0]
    assert widths[:3].sum() > 2 * widths[-3:].sum()
    np.testing.assert_allclose(image, image[:, ::-1], atol=0.1)


@pytest.mark.parametrize("shape", range(3))
@pytest.mark.parametrize("size", [28, 64])
def test_sprites_are_whole(shape, size):
    corners = [(x, y) for x in (0, 1) for y in (0, 1)]
    turns = np.linspace(0, 2 * np.pi, 8)
    whole = synthetic_images.draw_sprites(shape, 1, turns, 0.5, 0.5, size=size).sum(axis=(1, 2))
    for x, y in corners:
        images = synthetic_images.draw_sprites(shape, 1, turns, x, y, size=size)
        np.testing.assert_allclose(images.sum(axis=(1, 2)), whole, rtol=0.1)


def test_sprites_repeat_and_cover_their_values():
    arrays = synthetic_images.sprites(300, 20, seed=3)
    again = synthetic_images.sprites(300, 20, seed=3)
    for name in arrays:
        np.testing.assert_array_equal(arrays[name], again[name])
    assert set(arrays["y_train"]) == {0, 1, 2}
    for column, values in zip(
        arrays["factors_train"].T, synthetic_images.SPRITE_FACTORS.values(), strict=True
    ):
        assert set(column) <= set(values.astype(np.float32))


# As data sets


@pytest.mark.parametrize(
    ("name", "names"),
    [("sprites", synthetic_images.SPRITE_FACTORS), ("digits", synthetic_images.DIGIT_FACTORS)],
)
def test_the_command_writes_what_load_reads(name, names, tmp_path):
    path = tmp_path / "made" / "images.npz"
    arguments = ["factors", name, "--train", "30", "--test", "8", "--output", str(path)]
    result = click.testing.CliRunner().invoke(cli.main, arguments)
    assert result.exit_code == 0, result.output
    dataset = data.load(path)
    assert dataset.factor_names == tuple(names)
    assert dataset.factors_train.shape == (30, len(names))
    assert dataset.factors_test.shape == (8, len(names))
    assert dataset.image_shape == (28, 28, 1)

    with np.load(path) as file:
        arrays = dict(file)
    arrays["factors_test"] = arrays["factors_test"] + 1
    np.savez(path, **arrays)
    assert data.load(path).fingerprint != dataset.fingerprint
    arrays["factors_test"] = arrays["factors_test"][1:]
    np.savez(path, **arrays)
    with pytest.raises(data.DatasetError, match=r"factors_test must hold finite numbers of shape \(8, "):
        data.load(path)
    del arrays["factors_test"]
    np.savez(path, **arrays)
    with pytest.raises(data.DatasetError, match="Missing: factors_test"):
        data.load(path)

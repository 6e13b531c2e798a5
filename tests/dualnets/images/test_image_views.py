"""Views of pictures: every operation against a direct computation, numbers by address, names as flags."""

import colorsys
import pickle

import numpy as np
import pytest
import torch

from dualnets.images import OPERATIONS, PRESETS, ImageAugmentation, parse_views
from dualnets.images import operations as ops
from hltm.sampling.philox import Stream

GENERATOR = torch.Generator().manual_seed(0)
COLOUR = torch.rand(40, 3, 12, 10, generator=GENERATOR)
GREY = COLOUR[:, :1].contiguous()
ADDRESS = {"seed": 3, "stream": Stream.DATA, "view": 2}
EVERY = [
    "crop:0.3", "shift:3", "flip", "blur", "light:0.4", "colour", "jitter:0.4:0.4:0.1", "grey", "solarise",
    "noise:0.1", "simclr", "byol", "default", "none", "flip+flip+crop:0.5+flip:0.1",
]  # fmt: skip


def draws(*columns, rows=40):
    """Given uniforms, the same for all pictures, and no normals."""
    uniforms = torch.tensor([*columns, *[0.5] * (4 - len(columns))]).expand(rows, 4)
    return ops.Draws(uniforms, lambda count: torch.ones(rows, count))


@pytest.mark.parametrize("text", EVERY)
@pytest.mark.parametrize("threads", [1, 2])
def test_a_view_is_a_function_of_its_address(text, threads):
    augment = parse_views(text)
    torch.set_num_threads(threads)
    try:
        whole = augment.views(COLOUR, members=[0, 1, 2], **ADDRESS)
        assert whole.shape == (3, *COLOUR.shape)
        rows = [31, 2, 17]
        some = augment.views(COLOUR[rows], members=[2, 0], rows=rows, **ADDRESS)
        assert some.equal(whole[[2, 0]][:, rows])
        one = augment.views(COLOUR[5:6], members=[1], rows=torch.tensor([5]), **ADDRESS)
        assert one.equal(whole[1:2, 5:6])
    finally:
        torch.set_num_threads(1)
    assert whole.min() > -1e-6
    assert whole.max() < 1 + 1e-6
    if text == "none":
        assert whole.equal(COLOUR.expand(3, *COLOUR.shape))
    else:  # members, views, seeds and streams differ
        others = [
            ADDRESS | change for change in ({"view": 3}, {"seed": 4}, {"stream": Stream.EVALUATION})
        ]
        drawn = [augment.views(COLOUR, members=[0], **address)[0] for address in others]
        for other in (whole[1], *drawn):
            assert not other.equal(whole[0])


def test_chunks_have_the_bits_of_the_whole(monkeypatch):
    from dualnets.images import views

    augment = parse_views("simclr")
    whole = augment.views(COLOUR, members=[0, 1], **ADDRESS)
    monkeypatch.setattr(views, "CHUNK", 7 * 2 * COLOUR[0].numel())
    assert augment.views(COLOUR, members=[0, 1], **ADDRESS).equal(whole)


def test_an_operation_draws_the_same_beside_others_and_others_when_it_comes_again():
    alone = parse_views("crop:0.3").views(GREY, members=[0], **ADDRESS)
    before = parse_views("crop:0.3+flip:0+light:0").views(GREY, members=[0], **ADDRESS)
    torch.testing.assert_close(before, alone, atol=1e-6, rtol=0)
    twice = parse_views("flip+flip").views(GREY, members=[0], **ADDRESS)[0]
    changed = ~(twice == GREY).flatten(1).all(1)
    assert 5 < changed.sum() < 35  # with the same coin both times none would be


def test_bytes_are_read_as_shares_of_white():
    given = (COLOUR * 255).to(torch.uint8)
    a = parse_views("crop:0.5").views(given.numpy(), members=[0], **ADDRESS)
    b = parse_views("crop:0.5").views(given.float() / 255, members=[0], **ADDRESS)
    assert a.equal(b)


def test_addresses_of_operations_differ():
    addresses = [kind.address for kind in OPERATIONS.values()]
    assert len(set(addresses)) == len(addresses)
    assert set(addresses) <= set(range(16))
    assert [kind.word for kind in OPERATIONS.values()] == list(OPERATIONS)


def test_a_crop_interpolates_a_part_of_the_picture():
    area, stretch = 0.3 + 0.7 * 0.2, np.exp((2 * 0.9 - 1) * np.log(4 / 3) / 2)
    height, width = np.sqrt(area) / stretch, np.sqrt(area) * stretch
    found = ops.Crop(0.3)(COLOUR, draws(0.2, 0.9, 0.4, 0.7))
    # torch's own sampler, told where the part lies
    grid = [
        (start * (1 - side) + (torch.arange(n) + 0.5) / n * side) * 2 - 1
        for start, side, n in ((0.4, height, 12), (0.7, width, 10))
    ]
    y, x = torch.meshgrid(*grid, indexing="ij")
    places = torch.stack([x, y], -1).float().expand(40, -1, -1, -1)
    expected = torch.nn.functional.grid_sample(
        COLOUR, places, padding_mode="border", align_corners=False
    )
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)
    whole = ops.Crop(1.0)(COLOUR, draws(0.0, 0.5, 0.3, 0.3))
    torch.testing.assert_close(whole, COLOUR, atol=1e-6, rtol=0)


def test_a_shift_moves_whole_pixels_and_is_uniform():
    found = ops.Shift(2)(COLOUR, draws(0.99, 0.0))  # two down the rows, two back along the columns
    expected = torch.zeros_like(COLOUR)
    expected[..., :-2, 2:] = COLOUR[..., 2:, :-2]
    assert found.equal(expected)
    marked = torch.zeros(4000, 1, 9, 9)
    marked[:, :, 4, 4] = 1
    seen = parse_views("shift:2").views(marked, members=[0], **ADDRESS)[0, :, 0].mean(0)
    assert seen[2:7, 2:7].sum() == pytest.approx(1)
    assert seen[2:7, 2:7] == pytest.approx(1 / 25, abs=5 * np.sqrt(0.04 / 4000))


def test_a_blur_is_a_gaussian_and_keeps_constants():
    impulse = torch.zeros(1, 1, 33, 33)
    impulse[..., 16, 16] = 1
    found = ops.Blur(1)(impulse, draws(0.0, 0.5, rows=1))[0, 0]
    deviation = 0.1 + 0.5 * 1.9
    weights = np.exp(-0.5 * (np.arange(-16, 17) / deviation) ** 2)
    weights /= weights.sum()
    assert found.numpy() == pytest.approx(np.outer(weights, weights), abs=1e-6)
    constant = torch.full((1, 1, 8, 8), 0.7)
    assert ops.Blur(1)(constant, draws(0.0, 1.0, rows=1)).numpy() == pytest.approx(0.7, abs=1e-6)
    assert ops.Blur(0.5)(COLOUR, draws(0.6)).equal(COLOUR)


def test_light_is_brightness_and_contrast():
    found = ops.Light(0.4)(COLOUR, draws(0.75, 0.25)).numpy()
    bright = np.clip(COLOUR.numpy() * 1.2, 0, 1)
    grey = np.tensordot([0.299, 0.587, 0.114], bright, (0, 1))
    mean = grey.mean((1, 2))[:, None, None, None]
    assert found == pytest.approx(np.clip(mean + 0.8 * (bright - mean), 0, 1), abs=1e-4)
    assert ops.Light(0.4, 0.5)(COLOUR, draws(0.75, 0.25, 0.6)).numpy() == pytest.approx(
        COLOUR.numpy(), abs=1e-6
    )


def test_colour_is_saturation_and_hue():
    found = ops.Colour(0.4, 0.1)(COLOUR[:2], draws(0.75, 0.75, 0.0, rows=2))
    for picture, result in zip(COLOUR[:2].flatten(2), found.flatten(2), strict=True):
        for pixel, its in zip(picture.T.tolist(), result.T.tolist(), strict=True):
            grey = np.dot([0.299, 0.587, 0.114], pixel)
            vivid = np.clip(grey + 1.2 * (np.array(pixel) - grey), 0, 1)
            hue, saturation, value = colorsys.rgb_to_hsv(*vivid)
            assert its == pytest.approx(
                colorsys.hsv_to_rgb((hue + 0.05) % 1, saturation, value), abs=2e-5
            )
    constant = torch.full((1, 3, 4, 4), 0.3)  # a grey has no hue
    turned = ops.Colour(0.4, 0.5)(constant, draws(0.7, 0.9, rows=1))
    assert turned.numpy() == pytest.approx(0.3, abs=1e-6)


def test_a_jitter_is_light_and_colour_under_one_coin():
    found = ops.Jitter(0.4, 0.4, 0.1, 0.8)(COLOUR, draws(0.6, 0.25, 0.75, 0.75))
    light = ops.Light(0.4)(COLOUR, draws(0.75, 0.25))
    expected = ops.Colour(0.4, 0.1)(light, draws(0.75, 0.75))
    torch.testing.assert_close(found, expected)
    assert ops.Jitter(0.4, 0.4, 0.1, 0.8)(COLOUR, draws(0.8)).equal(COLOUR)
    assert ops.Jitter(0.4, 0.4, 0.1, 0)(COLOUR, draws(0.0)).equal(COLOUR)


def test_grey_solarisation_flip_and_noise():
    grey = ops.Grey(0.5)(COLOUR, draws(0.4))
    assert grey[:, 0].equal(grey[:, 2])
    expected = np.tensordot([0.299, 0.587, 0.114], COLOUR.numpy(), (0, 1))
    assert grey[:, 1].numpy() == pytest.approx(expected, abs=1e-6)
    solar = ops.Solarise(1)(COLOUR, draws(0.4))
    assert solar.equal(torch.where(COLOUR < 0.5, COLOUR, 1 - COLOUR))
    assert ops.Flip(0.5)(COLOUR, draws(0.4)).equal(COLOUR.flip(-1))
    for kind in (ops.Grey, ops.Solarise, ops.Flip):
        assert kind(0.5)(COLOUR, draws(0.5)).equal(COLOUR)
    assert ops.Noise(0.2)(GREY, draws()).equal((GREY + 0.2).clamp(max=1))


def test_noise_is_normal_and_independent():
    middle = torch.full((400, 1, 8, 8), 0.5)
    noise = (parse_views("noise:0.05").views(middle, members=[0], **ADDRESS)[0] - 0.5) / 0.05
    values = noise.flatten().numpy()
    n = len(values)
    assert abs(values.mean()) < 4 / np.sqrt(n)
    assert abs(values.std() - 1) < 4 / np.sqrt(2 * n)
    assert abs((values**4).mean() - 3) < 4 * np.sqrt(96 / n)
    pixels = noise.flatten(1).numpy()
    correlations = np.corrcoef(pixels.T)[np.triu_indices(64, 1)]
    assert abs(correlations).max() < 5 / np.sqrt(400)


def test_numbers_of_an_operation_are_uniform_and_independent():
    uniforms = parse_views("jitter:1:1:0.1")._uniforms(
        torch.arange(4000), {"members": [0, 1], "seed": 3, "stream": Stream.DATA, "view": 2}
    )  # (1, 2, 4000, 4)
    columns = uniforms[0].transpose(0, 1).reshape(4000, 8).numpy()
    assert abs(columns.mean(0) - 0.5).max() < 4 / np.sqrt(12 * 4000)
    off = np.corrcoef(columns.T)[np.triu_indices(8, 1)]
    assert abs(off).max() < 4.5 / np.sqrt(4000)


def test_spaces_may_stand_around_operations():
    assert parse_views(" crop:0.5 + flip ") == parse_views("crop:0.5+flip")
    assert parse_views(" none ") == parse_views("none")
    with pytest.raises(ValueError, match="simclr is a preset, which stands alone"):
        parse_views("simclr + flip")


@pytest.mark.parametrize("text", EVERY)
def test_an_augmentation_is_a_value_with_a_name(text):
    augment = parse_views(text)
    assert str(augment) == augment.name == text
    assert parse_views(str(augment)) == augment == pickle.loads(pickle.dumps(augment))
    assert hash(parse_views(text)) == hash(augment)


def test_names_are_short_and_exact():
    assert str(parse_views("flip:0.5+blur:0.5+crop:0.50")) == "flip+blur+crop:0.5"
    assert str(parse_views("noise:0.123456789")) == "noise:0.123456789"
    assert str(ImageAugmentation()) == "none"
    assert parse_views(PRESETS["byol"]) == parse_views("byol")
    assert [ops.usage(kind) for kind in (ops.Crop, ops.Colour)] == [
        "crop:SCALE", "colour[:SATURATION[:HUE[:PROBABILITY]]]",
    ]  # fmt: skip


def test_presets_are_without_colour_for_grey_pictures():
    grey = parse_views("byol").for_shape((1, 28, 28))
    assert str(grey) == "crop:0.08+flip+light:0.4:0.8+blur:0.55+solarise:0.1"
    assert parse_views("byol").for_shape((3, 32, 32)) == parse_views("byol")
    assert parse_views("flip").for_shape((1, 8, 8)) == parse_views("flip")
    drawn = [a.views(GREY, members=[0], **ADDRESS) for a in (parse_views("byol"), grey)]
    assert drawn[0].equal(drawn[1])
    with pytest.raises(
        ValueError, match=r"shift's pixels must be below 10, the shorter side .* got 10"
    ):
        parse_views("shift:10").views(GREY, members=[0], **ADDRESS)
    with pytest.raises(ValueError, match=r"colour needs pictures of 3 channels, .* \(1, 12, 10\)"):
        parse_views("flip+colour").views(GREY, members=[0], **ADDRESS)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("crp:0.5", r"unknown operation 'crp' \(did you mean crop\?\); there are: crop:SCALE, "),
        ("", "an operation is missing in '', expected such as crop:0.5\\+blur, or none"),
        ("flip++blur", r"an operation is missing in 'flip\+\+blur', expected"),
        ("CROP:0.5", r"unknown operation 'CROP' \(did you mean crop\?\)"),
        ("crop:0.5,blur", r"scale must be a number, got '0.5,blur' \(operations are joined by \+\)"),
        ("noise:1e300", "noise's std must be in 0 < std <= 1, got 1e"),
        ("light:1e308", r"light's strength must be in 0\.\.10, got 1e"),
        (300 * "a", "unknown operation 'a+…a+'; there are"),
        ("crop", "crop needs a number: crop:SCALE"),
        ("crop:0.5:1", "has too many numbers: crop:SCALE"),
        ("crop:half", "crop's scale must be a number, got 'half'"),
        ("shift:1.5", "shift's pixels must be a whole number, got '1.5'"),
        ("crop:0", "crop's scale must be in 0 < scale <= 1, got 0"),
        ("crop:nan", "crop's scale must be in 0 < scale <= 1, got nan"),
        ("shift:0", "shift's pixels must be at least 1, got 0"),
        ("flip:2", "flip's probability must be in 0..1, got 2"),
        ("colour:1:0.6", "colour's hue must be in 0..0.5, got 0.6"),
        ("noise:-1", "noise's std must be in 0 < std <= 1, got -1"),
        ("simclr+flip", "simclr is a preset, which stands alone, got 'simclr.flip'"),
        ("+".join(["flip"] * 17), "may occur 16 times, flip"),
    ],
)  # fmt: skip
def test_other_texts_are_refused(text, message):
    with pytest.raises(ValueError, match=message):
        parse_views(text)


def test_other_arguments_of_views_are_refused():
    augment = parse_views("flip")
    with pytest.raises(TypeError, match="must be a text, got 3"):
        parse_views(3)
    with pytest.raises(TypeError, match="an operation must be such as"):
        ImageAugmentation(("flip",))
    with pytest.raises(TypeError, match="must be a tuple of operations, got Flip"):
        ImageAugmentation(augment.operations[0])
    for change, error, message in [
        ({"pictures": COLOUR[0]}, ValueError, r"\(N, C, H, W\), got \(3, 12, 10\)"),
        ({"rows": [1, 2]}, ValueError, r"rows must be 40 numbers, one for each picture, got \(2,\)"),
        ({"rows": [0.5] * 40}, TypeError, "rows must be whole numbers, got torch.float32"),
        ({"rows": [-1] * 40}, ValueError, r"rows must be in 0..2\^32-1, got -1..-1"),
        ({"rows": [1 << 32] * 40}, ValueError, r"rows must be in 0..2\^32-1, got 4294967296"),
        ({"pictures": COLOUR.long()}, TypeError, "floating-point numbers or uint8, got torch.int64"),
        ({"seed": -1}, ValueError, "seed must be in"),
        ({"view": -1}, ValueError, "view must be at least 0, got -1"),
        ({"view": 1 << 24}, ValueError, "view must be below 2"),
    ]:  # fmt: skip
        with pytest.raises(error, match=message):
            augment.views(**({"pictures": COLOUR, "members": [0]} | ADDRESS | change))
    every = parse_views(PRESETS["simclr"] + "+light:0.4+noise:0.1")
    assert every.views(COLOUR[:0], members=[0, 1], **ADDRESS).shape == (2, 0, 3, 12, 10)


def test_arrays_that_torch_does_not_take_are_read():
    pictures = np.random.default_rng(0).integers(0, 256, (5, 1, 6, 7), np.uint8)
    frozen = pictures.copy()
    frozen.flags.writeable = False  # as a memory map
    mirrored = pictures[..., ::-1].copy()[..., ::-1]
    drawn = [
        parse_views("flip").views(given, members=[0], **ADDRESS)
        for given in (pictures, frozen, mirrored)
    ]
    assert drawn[1].equal(drawn[0])
    assert drawn[2].equal(drawn[0])


def test_numbers_of_numpy_are_written_as_pythons():
    crop = type(parse_views("crop:0.5").operations[0])
    assert str(crop(np.float64(0.123456789))) == "crop:0.123456789"

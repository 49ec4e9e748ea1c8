from __future__ import annotations

import subprocess
import sys
import warnings

import numpy as np
import pytest
from PIL import Image
from skimage import data

from cmrm.errors import UserError
from cmrm.prompts.images import digest_pixels, open_image
from cmrm.prompts.meaningless_images import blank_image, noise_image

RED = (255, 0, 0)


def save(root, image, name, **options):
    image.save(root / name, **options)
    return name


@pytest.mark.parametrize(
    ("mode", "name"),
    [
        ("RGB", "x.png"),
        ("RGB", "x.jpg"),
        ("RGBA", "x.webp"),
        ("P", "x.gif"),
        ("P", "x.png"),
        ("L", "x.png"),
        ("LA", "x.png"),
        ("1", "x.bmp"),
        ("CMYK", "x.jpg"),
        ("CMYK", "x.tiff"),
        ("YCbCr", "x.jpg"),
        ("I;16", "x.png"),
    ],
)
def test_a_photograph_in_any_mode_opens_as_the_same_rgb_picture(tmp_path, mode, name):
    photograph = Image.fromarray(data.astronaut()).resize((96, 64))
    if mode == "I;16":
        stored = Image.fromarray(np.asarray(photograph.convert("L")).astype(np.uint16) * 257)
    else:
        stored = photograph.convert(mode)
    opened = open_image(tmp_path, save(tmp_path, stored, name))
    assert (opened.mode, opened.size) == ("RGB", (96, 64))
    colourful = mode in ("RGB", "RGBA", "P", "CMYK", "YCbCr")
    expected = photograph if colourful else photograph.convert("L").convert("RGB")
    difference = np.abs(np.asarray(opened, dtype=int) - np.asarray(expected, dtype=int)).mean()
    assert difference < (90 if mode == "1" else 15)


def test_a_picture_taken_sideways_is_turned_upright(tmp_path):
    picture = Image.new("RGB", (40, 20), "white")
    picture.paste(RED, (0, 0, 20, 20))
    exif = Image.Exif()
    exif[0x0112] = 6  # rotate by 90 degrees clockwise to view
    opened = open_image(tmp_path, save(tmp_path, picture, "x.png", exif=exif))
    assert opened.size == (20, 40)
    assert opened.getpixel((10, 5)) == RED


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_what_is_transparent_becomes_white(tmp_path, mode):
    picture = Image.new("RGBA", (8, 8), (0, 0, 0, 0))
    picture.paste((0, 0, 0, 255), (0, 0, 4, 8))
    opened = open_image(tmp_path, save(tmp_path, picture.convert(mode), "x.png"))
    assert opened.getpixel((6, 4)) == (255, 255, 255)
    assert opened.getpixel((1, 4)) == (0, 0, 0)


def test_a_colour_key_is_transparency_too(tmp_path):
    opened = open_image(tmp_path, save(tmp_path, Image.new("RGB", (4, 4), RED), "x.png", transparency=RED))
    assert opened.getpixel((0, 0)) == (255, 255, 255)


@pytest.mark.parametrize("values", [[0.0, 0.5, 1.0], [0.0, 127.5, 255.0]])
def test_float_pixels_are_scaled_to_bytes(tmp_path, values):
    stored = Image.fromarray(np.asarray([values], dtype=np.float32))
    opened = open_image(tmp_path, save(tmp_path, stored, "x.tiff"))
    assert [opened.getpixel((x, 0))[0] for x in range(3)] == [0, 128, 255]


def test_pixels_that_are_no_numbers_are_refused(tmp_path):
    stored = Image.fromarray(np.asarray([[np.nan, 1.0]], dtype=np.float32))
    with pytest.raises(UserError, match="not finite"):
        open_image(tmp_path, save(tmp_path, stored, "x.tiff"))


def test_the_first_frame_of_an_animation_is_shown(tmp_path):
    frames = [Image.new("RGB", (8, 8), color) for color in ("red", "blue")]
    frames[0].save(tmp_path / "x.gif", save_all=True, append_images=frames[1:])
    assert open_image(tmp_path, "x.gif").getpixel((0, 0)) == pytest.approx(RED, abs=2)


@pytest.mark.parametrize("keep", [0, 3, 100, 0.5])
@pytest.mark.parametrize("name", ["x.jpg", "x.png"])
def test_a_truncated_image_is_refused(tmp_path, name, keep):
    Image.fromarray(data.astronaut()).save(tmp_path / name)
    content = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(content[: int(keep * len(content)) if isinstance(keep, float) else keep])
    with pytest.raises(UserError, match="cannot be read"):
        open_image(tmp_path, name)


def test_a_text_file_is_no_image(tmp_path):
    (tmp_path / "x.jpg").write_text("<html>404 not found</html>")
    with pytest.raises(UserError, match=r"x\.jpg"):
        open_image(tmp_path, "x.jpg")


def test_postscript_is_not_run(tmp_path):
    (tmp_path / "x.eps").write_text(
        "%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\nshowpage\n"
    )
    with pytest.raises(UserError, match="cannot be read"):
        open_image(tmp_path, "x.eps")


@pytest.mark.parametrize("width", [10_000, 20_000])
def test_an_image_too_large_for_memory_is_refused_by_its_header(tmp_path, width):
    Image.new("1", (width, 10_000)).save(tmp_path / "bomb.png")
    with pytest.raises(UserError, match=r"too large|more than"):
        open_image(tmp_path, "bomb.png")


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_a_bomb_is_refused_even_when_warnings_are_silent(tmp_path):
    Image.new("1", (10_000, 10_000)).save(tmp_path / "bomb.png")
    with pytest.raises(UserError, match="more than"):
        open_image(tmp_path, "bomb.png")


def test_a_name_cannot_climb_out_of_the_folder(tmp_path):
    root = tmp_path / "images"
    root.mkdir()
    save(tmp_path, blank_image(size=4, color=RED), "secret.png")
    for name in ("../secret.png", str(tmp_path / "secret.png"), "sub/../../secret.png"):
        with pytest.raises(UserError, match="outside"):
            open_image(root, name)


def test_a_link_cannot_lead_out_of_the_folder(tmp_path):
    root = tmp_path / "images"
    root.mkdir()
    save(tmp_path, blank_image(size=4, color=RED), "secret.png")
    (root / "x.png").symlink_to(tmp_path / "secret.png")
    with pytest.raises(UserError, match="outside"):
        open_image(root, "x.png")


def test_a_link_inside_the_folder_and_a_linked_folder_are_fine(tmp_path):
    root = tmp_path / "images"
    root.mkdir()
    save(root, blank_image(size=4, color=RED), "x.png")
    (root / "y.png").symlink_to(root / "x.png")
    (tmp_path / "link").symlink_to(root)
    assert open_image(tmp_path / "link", "y.png").size == (4, 4)


@pytest.mark.parametrize("name", ["missing.png", "", ".", "a\0b.png", "x" * 5000, "loop.png"])
def test_a_name_without_a_file_is_refused(tmp_path, name):
    (tmp_path / "loop.png").symlink_to(tmp_path / "loop.png")
    with pytest.raises(UserError, match="image"):
        open_image(tmp_path, name)


def test_images_with_the_same_pixels_have_one_digest():
    image = noise_image(size=8, seed=0)
    assert digest_pixels(image) == digest_pixels(image.copy())
    wide, high = Image.new("RGB", (2, 8)), Image.new("RGB", (8, 2))
    assert len({digest_pixels(one) for one in (image, wide, high, wide.convert("L"))}) == 4


def test_images_that_are_shown_otherwise_have_other_digests():
    red, green = Image.new("P", (4, 4)), Image.new("P", (4, 4))
    red.putpalette([255, 0, 0])
    green.putpalette([0, 255, 0])
    assert red.tobytes() == green.tobytes()
    assert digest_pixels(red) != digest_pixels(green)
    turned = red.convert("RGB")
    upright = digest_pixels(turned)
    turned.getexif()[274] = 6
    assert digest_pixels(turned) != upright


HEIC = b"\x00\x00\x00\x18ftypheic\x00\x00\x00\x00mif1heic" + bytes(64)
SVG = b'<?xml version="1.0"?>\n<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"/>'


@pytest.mark.parametrize(
    ("name", "content", "kind"),
    [
        ("x.heic", HEIC, "HEIC"),
        ("x.jpg", HEIC, "HEIC"),
        ("x.svg", SVG, "SVG"),
        ("x.pdf", b"%PDF-1.7\n", "a PDF document"),
        ("x.png", b"", "empty"),
        ("x.png", b"hello", "of no known image format"),
    ],
)
def test_the_error_of_an_unsupported_format_names_it_and_those_that_are_read(tmp_path, name, content, kind):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError) as caught:
        open_image(tmp_path, name)
    said = str(caught.value)
    assert said.startswith(f"image {name!r} in {tmp_path} cannot be read: it is {kind}")
    for known in ("JPEG", "PNG", "GIF", "BMP", "TIFF", "WEBP", "AVIF"):
        assert known in said
    assert "convert the file" in said


@pytest.mark.parametrize("name", ["x.jpg", "x.png", "x.webp"])
def test_exif_data_that_cannot_be_read_names_the_image(tmp_path, name):
    exif = b"Exif\0\0MM\0\xff\xff\xff\xff\xff" + bytes(range(40))
    save(tmp_path, Image.new("RGB", (40, 20), RED), name, exif=exif)
    with pytest.raises(
        UserError, match=rf"image '{name}' in .* has EXIF data that cannot be read .*remove the row"
    ):
        open_image(tmp_path, name)


def test_a_picture_that_is_damaged_itself_is_not_said_to_have_damaged_exif_data(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    save(tmp_path, Image.fromarray(data.astronaut()), "x.png", exif=exif)
    whole = (tmp_path / "x.png").read_bytes()
    (tmp_path / "x.png").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match="cannot be read") as caught:
        open_image(tmp_path, "x.png")
    assert "EXIF" not in str(caught.value)


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp"])
def test_damage_in_exif_data_matters_where_it_hides_the_orientation_and_is_never_printed(tmp_path, suffix):
    for name, text in ("hidden", 0x010E), ("shown", 0x0131):
        exif = Image.Exif()
        exif[0x0112], exif[text] = 6, "a long text"
        # The tags are listed in their order, and Pillow stops at the text, which is cut.
        save(tmp_path, Image.new("RGB", (40, 20), RED), f"{name}.{suffix}", exif=exif.tobytes()[:-6])
    program = (
        "import pathlib, sys; from cmrm.prompts.images import open_image\n"
        "for name in sys.argv[2:]:\n"
        "    try: print(open_image(pathlib.Path(sys.argv[1]), name).size)\n"
        "    except Exception as error: print(error)\n"
    )
    names = [f"{name}.{suffix}" for name in ("hidden", "shown")]
    done = subprocess.run(
        [sys.executable, "-W", "default", "-c", program, str(tmp_path), *names],
        capture_output=True,
        text=True,
        check=True,
    )
    hidden, shown = done.stdout.splitlines()
    assert "has EXIF data that cannot be read (it is cut or damaged at or before the orientation)" in hidden
    assert (shown, done.stderr) == ("(20, 40)", "")


def test_empty_exif_data_hides_nothing(tmp_path):
    save(tmp_path, Image.new("RGB", (40, 20), RED), "x.jpg", exif=b"Exif\0\0")
    assert open_image(tmp_path, "x.jpg").size == (40, 20)


def test_what_else_a_file_says_of_itself_is_not_handed_on(tmp_path):
    exif = Image.Exif()
    exif[0x010E] = "a long description"
    # Cut in the middle of that: the picture can be shown, and nobody has to read this again.
    save(tmp_path, Image.new("RGB", (40, 20), RED), "x.jpg", exif=exif.tobytes()[:-6])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        opened = open_image(tmp_path, "x.jpg")
    assert not opened.info
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert digest_pixels(opened) == digest_pixels(opened.copy())
        assert not opened.getexif()

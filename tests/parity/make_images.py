"""Makes tests/fixtures/images: one small image of every kind, and beside it in expected/ what Pillow sees in it.

    python -m venv .venv && .venv/bin/pip install -r tests/parity/requirements.txt && .venv/bin/python tests/parity/make_images.py
"""

import struct
import zlib
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

OUT = Path(__file__).parent.parent / "fixtures" / "images"
EXPECTED = OUT / "expected"
W, H = 48, 32


def picture(width=W, height=H):
    """A colourful picture without any symmetry."""
    y, x = np.mgrid[0:height, 0:width] / [[[height]], [[width]]]
    rgb = np.stack([255 * x, 255 * y, 128 + 100 * np.sin(5 * x + 3 * y)], -1)
    image = Image.fromarray(rgb.astype(np.uint8))
    draw = ImageDraw.Draw(image)
    draw.ellipse([width * 0.1, height * 0.1, width * 0.4, height * 0.5], fill=(240, 30, 20))
    draw.rectangle([width * 0.6, height * 0.5, width * 0.9, height * 0.7], fill=(10, 20, 60))
    return image


def alpha():
    y, x = np.mgrid[0:H, 0:W]
    return Image.fromarray((x * 255 // (W - 1)).astype(np.uint8))


def over_white(image):
    rgba = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba).convert("RGB")


def save(image, name, expected=None, **options):
    """Saves the image and what Pillow reads back, unless the right answer is given."""
    image.save(OUT / name, **options)
    if expected is None:
        read = Image.open(OUT / name)
        read.seek(0)
        expected = over_white(read) if read.has_transparency_data else read.convert("RGB")
    expected.save(EXPECTED / (name + ".png"))


def png(path, samples, colour_type):
    """A PNG with 16 bits a sample, which Pillow does not write in colour."""
    height, width = samples.shape[:2]
    lines = b"".join(b"\0" + line.astype(">u2").tobytes() for line in samples)
    header = struct.pack(">IIBBBBB", width, height, 16, colour_type, 0, 0, 0)
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(lines)) + chunk(b"IEND", b""))


def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def sixteen_bits():
    rgb = np.asarray(picture()).astype(np.uint16)
    noise = np.random.default_rng(0).integers(-100, 100, rgb.shape)
    deep = np.clip(rgb * 257 + noise, 0, 65535)
    png(OUT / "rgb16.png", deep, 2)
    picture().save(EXPECTED / "rgb16.png.png")
    png(OUT / "grey16.png", deep[:, :, 0], 0)
    picture().getchannel(0).convert("RGB").save(EXPECTED / "grey16.png.png")
    opaque = np.asarray(alpha()).astype(np.uint16)[:, :, None] * 257
    png(OUT / "rgba16.png", np.concatenate([deep, opaque], -1), 6)
    eight = picture()
    eight.putalpha(alpha())
    over_white(eight).save(EXPECTED / "rgba16.png.png")


def jpegs():
    save(picture(), "rgb.jpg", quality=90)
    save(picture(), "rgb444.jpg", quality=90, subsampling=0)
    save(picture(), "progressive.jpg", quality=90, progressive=True)
    save(picture(), "restart.jpg", quality=90, restart_marker_blocks=2)
    save(picture().convert("L"), "grey.jpg", quality=90)
    # Pillow writes CMYK as Adobe does, inverted.
    save(picture().convert("CMYK"), "cmyk.jpg", quality=90)
    for orientation in range(1, 9):
        exif = Image.Exif()
        exif[0x0112] = orientation
        name = f"exif{orientation}.jpg"
        picture().save(OUT / name, quality=90, exif=exif)
        plain = Image.open(OUT / name).convert("RGB")
        turn = {
            2: Image.Transpose.FLIP_LEFT_RIGHT,
            3: Image.Transpose.ROTATE_180,
            4: Image.Transpose.FLIP_TOP_BOTTOM,
            5: Image.Transpose.TRANSPOSE,
            6: Image.Transpose.ROTATE_270,
            7: Image.Transpose.TRANSVERSE,
            8: Image.Transpose.ROTATE_90,
        }.get(orientation)
        (plain.transpose(turn) if turn is not None else plain).save(EXPECTED / (name + ".png"))


def lossless():
    rgba = picture()
    rgba.putalpha(alpha())
    grey = picture().convert("L")
    grey.putalpha(alpha())
    save(rgba, "rgba.png")
    save(grey, "la.png")
    save(grey.convert("L"), "grey.png")
    save(picture().convert("1"), "one_bit.png")
    save(picture().quantize(16), "palette.png")
    save(picture().quantize(16), "palette_transparent.png", transparency=3)
    save(picture(), "rgb.bmp")
    save(rgba, "rgba.webp", lossless=True)
    exif = Image.Exif()
    exif[0x0112] = 6
    save(picture(), "exif6.png", expected=picture().transpose(Image.Transpose.ROTATE_270), exif=exif)


def grouped_webps():
    """WebPs whose parts have tables of codes of their own: a photograph, a palette and noise beside each other, as colors and as transparency."""
    photo = Image.open(OUT.parent / "photos" / "cat.jpg").convert("RGB").resize((96, 128))
    noise = Image.fromarray(np.random.default_rng(1).integers(0, 255, (128, 48, 3), dtype=np.uint8))
    mixed = Image.new("RGB", (192, 128))
    mixed.paste(photo, (0, 0))
    mixed.paste(photo.crop((0, 0, 48, 128)).quantize(5).convert("RGB"), (96, 0))
    mixed.paste(noise, (144, 0))
    save(mixed, "groups.webp", lossless=True, quality=100, method=6)
    seen = mixed.copy()
    seen.putalpha(mixed.convert("L"))
    save(seen, "alpha_groups.webp", quality=30, alpha_quality=100, method=6)


def animations():
    second = Image.new("RGB", (W, H), (0, 255, 0))
    save(picture().quantize(32), "animated.gif", save_all=True, append_images=[second], duration=100)
    save(picture(), "animated.webp", save_all=True, append_images=[second], lossless=True, duration=100)
    save(picture(), "lossy.webp", quality=80)


def bitmap(name, bits, rows, *, masks=(), top_down=False, expected=None, compression=None, colors=b"", size=(W, H)):
    """A BMP with the header of version 5, which clipboards use; Pillow reads few of them."""
    compression = (3 if masks else 0) if compression is None else compression
    masks = [*masks, *[0] * (4 - len(masks))]
    offset = 14 + 124 + len(colors)
    height = -size[1] if top_down else size[1]
    header = struct.pack("<IiiHHIIiiII4I4s", 124, size[0], height, 1, bits, compression, len(rows), 2835, 2835, len(colors) // 4, 0, *masks, b"BGRs")
    (OUT / name).write_bytes(struct.pack("<2sIHHI", b"BM", offset + len(rows), 0, 0, offset) + header.ljust(124, b"\0") + colors + rows)
    expected.save(EXPECTED / (name + ".png"))


def bitmaps():
    rgb = np.asarray(picture()).astype(np.uint32)
    red, green, blue = rgb[:, :, 0], rgb[:, :, 1], rgb[:, :, 2]
    masks = (0xFF0000, 0xFF00, 0xFF, 0xFF000000)
    unfilled = (red << 16 | green << 8 | blue).astype("<u4")
    bitmap("unfilled_alpha.bmp", 32, unfilled[::-1].tobytes(), masks=masks, expected=picture())
    bitmap("top_down.bmp", 32, unfilled.tobytes(), masks=masks, top_down=True, expected=picture())
    see_through = picture()
    see_through.putalpha(alpha())
    filled = unfilled | (np.asarray(alpha()).astype("<u4") << 24)
    bitmap("alpha.bmp", 32, filled[::-1].tobytes(), masks=masks, expected=over_white(see_through))
    few = (red >> 3 << 11 | green >> 2 << 5 | blue >> 3).astype("<u2")
    levels = np.stack([(red >> 3) * 255 / 31, (green >> 2) * 255 / 63, (blue >> 3) * 255 / 31], -1).round().astype(np.uint8)
    bitmap("565.bmp", 16, few[::-1].tobytes(), masks=(0xF800, 0x7E0, 0x1F), expected=Image.fromarray(levels))
    palette = picture().quantize(16)
    colors = b"".join(bytes([b, g, r, 0]) for r, g, b in zip(*[iter(palette.getpalette()[:48])] * 3, strict=True))
    runs = b"".join(b"".join(bytes([1, i]) for i in line) + b"\0\0" for line in np.asarray(palette)[::-1]) + b"\0\1"
    bitmap("runs.bmp", 8, runs, compression=1, colors=colors, expected=palette.convert("RGB"))


def resizes():
    """Fine texture, where a wrong filter would show; written as PNG so that only the resize differs."""
    for name, (width, height) in {"shrink": (301, 500), "grow": (48, 32), "keep": (224, 224)}.items():
        y, x = np.mgrid[0:height, 0:width]
        texture = (x * x + 3 * x * y + 5 * y) % 97
        image = Image.fromarray((np.asarray(picture(width, height)) // 97 * 60 + texture[:, :, None]).astype(np.uint8))
        save(image, f"{name}.png", image.resize((224, 224), Image.Resampling.BICUBIC))
    smooth = picture(150, 260)
    save(smooth, "photo.png", smooth.resize((224, 224), Image.Resampling.BICUBIC))


def bomb():
    """A header that promises 30,000 x 30,000 pixels."""
    header = struct.pack(">IIBBBBB", 30000, 30000, 8, 2, 0, 0, 0)
    data = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(1 << 20), 9)) + chunk(b"IEND", b"")
    (OUT / "bomb.png").write_bytes(b"\x89PNG\r\n\x1a\n" + data)


if __name__ == "__main__":
    EXPECTED.mkdir(parents=True, exist_ok=True)
    for make in (jpegs, lossless, grouped_webps, sixteen_bits, animations, bitmaps, resizes, bomb):
        make()

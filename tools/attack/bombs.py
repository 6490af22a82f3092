"""Small files that ask for much."""

import binascii
import struct
import zlib


def _chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", binascii.crc32(kind + data))


def _zeros(length):
    """A zlib stream of so many zeros, made piece by piece."""
    packer, piece = zlib.compressobj(9), bytes(1 << 20)
    out = [packer.compress(piece) for _ in range(length >> 20)]
    return b"".join([*out, packer.compress(bytes(length & 0xFFFFF)), packer.flush()])


def png(width, height, color=2, depth=8, extra=b""):
    """A black PNG; `color` 0: gray, 2: RGB, 6: RGBA."""
    row = 1 + (width * depth * {0: 1, 2: 3, 6: 4}[color] + 7) // 8
    header = struct.pack(">IIBBBBB", width, height, depth, color, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", header) + extra + _chunk(b"IDAT", _zeros(row * height)) + _chunk(b"IEND", b"")


def png_huge_text(length=200 << 20):
    """A small PNG with a compressed text and a color profile that unpack to much."""
    packed = _zeros(length)
    return png(8, 8, extra=_chunk(b"iCCP", b"p\0\0" + packed) + _chunk(b"zTXt", b"t\0\0" + packed))


def png_huge_chunk():
    """A PNG with a chunk that says that it has 2 GiB."""
    whole = png(8, 8)
    return whole[:33] + struct.pack(">I", 0x7FFFFFFF) + b"tEXt" + whole[33:]


def gif(width, height, frames):
    """A GIF of this size with many frames of one pixel."""
    screen = b"GIF89a" + struct.pack("<HHBBB", width, height, 0x80, 0, 0) + bytes(6)
    # One pixel, in codes of 3 bits: clear, color 0, end.
    frame = b"\x21\xf9\x04\0\0\0\0\0\x2c" + struct.pack("<HHHHB", 0, 0, 1, 1, 0) + b"\x02\x02\x44\x01\0"
    return screen + frame * frames + b"\x3b"


def bmp(width, height):
    """The head of a BMP without its pixels."""
    return b"BM" + struct.pack("<IHHI", 54, 0, 0, 54) + struct.pack("<IiiHHIIiiII", 40, width, height, 1, 24, 0, 0, 0, 0, 0, 0)


class _Bits:
    def __init__(self):
        self.bits, self.length, self.out = 0, 0, bytearray()

    def put(self, value, length):
        self.bits, self.length = (self.bits << length) | value, self.length + length
        while self.length >= 8:
            byte = (self.bits >> (self.length - 8)) & 0xFF
            self.out += b"\xff\0" if byte == 0xFF else bytes([byte])
            self.length -= 8
        self.bits &= (1 << self.length) - 1

    def end(self):
        if self.length:
            self.put((1 << (8 - self.length)) - 1, 8 - self.length)
        return bytes(self.out)


def _segment(marker, data):
    return bytes([0xFF, marker]) + struct.pack(">H", len(data) + 2) + data


def jpeg_progressive(width, height, components, scans):
    """A gray progressive JPEG of so many components whose every scan says that nothing changes: a few bytes that touch all blocks."""
    parts = [
        b"\xff\xd8",
        _segment(0xEE, b"Adobe\0\x64\0\0\0\0\0") if components == 4 else b"",
        _segment(0xDB, b"\0" + b"\x01" * 64),
        _segment(0xC2, struct.pack(">BHHB", 8, height, width, components) + b"".join(bytes([c + 1, 0x11, 0]) for c in range(components))),
        # One code of one bit each: no difference of DC; an end of a band of 16,384 blocks and more.
        _segment(0xC4, b"\0" + bytes([1] + [0] * 15) + b"\0"),
        _segment(0xC4, b"\x10" + bytes([1] + [0] * 15) + b"\xe0"),
    ]
    blocks = ((width + 7) // 8) * ((height + 7) // 8)
    ids = b"".join(bytes([c + 1, 0]) for c in range(components))
    # The code is a 0 bit for every block of every component.
    whole, rest = divmod(blocks * components, 8)
    parts.append(_segment(0xDA, bytes([components]) + ids + b"\0\0\0") + bytes(whole) + (bytes([0xFF >> rest]) if rest else b""))
    bits, left = _Bits(), blocks
    while left > 0:
        run = min(max(left, 1 << 14), (1 << 15) - 1)
        bits.put(run - (1 << 14), 15)
        left -= run
    band = bits.end()
    for scan in range(scans):
        first = scan % 63 + 1
        parts.append(_segment(0xDA, bytes([1, scan // 63 % components + 1, 0, first, first, 0])) + band)
    return b"".join(parts) + b"\xff\xd9"


# Name, media type, what makes it, and whether a server may also decode it.
BOMBS = [
    ("thin 1×50,000,000", "image/png", lambda: png(1, 50_000_000), False),
    ("thin 1×1,000,000", "image/png", lambda: png(1, 1_000_000), False),
    ("wide 50,000,000×1", "image/png", lambda: png(50_000_000, 1), False),
    ("thin 1×65,535", "image/png", lambda: png(1, 65_535), False),
    ("wide 65,535×2", "image/png", lambda: png(65_535, 2), False),
    ("thin gray 1 bit 8×65,535", "image/png", lambda: png(8, 65_535, color=0, depth=1), False),
    ("flat 65,535×762 gray", "image/png", lambda: png(65_535, 762, color=0), True),
    ("flat 7,000×7,000 RGBA of 16 bits", "image/png", lambda: png(7_000, 7_000, color=6, depth=16), True),
    ("flat 30,000×30,000", "image/png", lambda: png(30_000, 30_000, color=0, depth=1), False),
    ("texts of 200 MiB", "image/png", png_huge_text, True),
    ("a chunk of 2 GiB", "image/png", png_huge_chunk, True),
    ("GIF of 20,000 frames", "image/gif", lambda: gif(500, 500, 20_000), True),
    ("GIF of 65,535×65,535", "image/gif", lambda: gif(65_535, 65_535, 1), False),
    ("thin GIF 1×65,535", "image/gif", lambda: gif(1, 65_535, 1), False),
    ("BMP of 2^31-1 pixels a side", "image/bmp", lambda: bmp(2**31 - 1, 2**31 - 1), False),
    ("BMP without pixels", "image/bmp", lambda: bmp(7_000, 7_000), False),
    ("JPEG of CMYK, progressive, 35 MP", "image/jpeg", lambda: jpeg_progressive(7_000, 5_000, 4, 8), True),
    ("JPEG of 2,000 scans", "image/jpeg", lambda: jpeg_progressive(5_000, 5_000, 3, 2_000), True),
    ("thin JPEG 1×65,500", "image/jpeg", lambda: jpeg_progressive(1, 65_500, 1, 0), False),
]

"""Makes tests/fixtures/images/jpeg_matrix.zip: JPEGs of every sampling and order of scans, and in expected/jpeg_matrix.png what Pillow sees in them.

Needs cjpeg (Debian: libjpeg-turbo-progs) beside what make_images.py needs. The picture of the file that is number i of the archive stands in the tile
that begins at row 40 * i.
"""

import io
import subprocess
import tempfile
import zipfile

from make_images import EXPECTED, OUT, picture
from PIL import Image

TILE = (48, 40)
SIZE = (43, 37)
# Of luma and the two chromas.
SAMPLINGS = """
1x1,1x1,1x1 2x1,1x1,1x1 1x2,1x1,1x1 2x2,1x1,1x1 4x1,1x1,1x1 1x4,1x1,1x1 4x2,1x1,1x1 2x4,1x1,1x1 3x1,1x1,1x1 1x3,1x1,1x1 3x2,1x1,1x1 2x3,1x1,1x1
3x3,1x1,1x1 4x4,1x1,1x1 1x1,2x2,2x2 1x1,2x1,2x1 1x1,1x2,1x2 1x1,3x1,3x1 2x1,1x2,1x2 1x2,2x1,2x1 2x2,2x1,1x2 2x2,1x2,2x1 2x2,2x1,2x1 2x2,1x2,1x2
1x1,2x2,1x1 1x1,1x1,2x2 2x2,2x2,2x2 2x1,2x1,2x1 2x1,2x1,1x1 2x2,1x1,2x2 4x1,2x1,2x1 4x1,2x1,1x1 4x2,2x1,2x1 4x2,2x2,2x2 4x4,2x2,1x1
""".split()
LAYOUTS = {
    "together": "",
    "each": "0;1;2;",
    "backwards": "2;1;0;",
    "luma_then_chroma": "0;1 2;",
    "blue_first": "0 1;2;",
    "chroma_first": "1 2;0;",
    "progressive": "progressive",
    "progressive_each": "0:0-0,0,0;1:0-0,0,0;2:0-0,0,0;0:1-63,0,0;1:1-63,0,0;2:1-63,0,0;",
    "refined": "1 2:0-0,0,1;0:0-0,0,1;1:1-5,0,2;2:1-5,0,2;0:1-63,0,1;1:6-63,0,2;2:6-63,0,2;1:1-63,2,1;2:1-63,2,1;"
    "0 1 2:0-0,1,0;0:1-63,1,0;1:1-63,1,0;2:1-63,1,0;",
}
USUAL = ["1x1,1x1,1x1", "2x1,1x1,1x1", "1x2,1x1,1x1", "2x2,1x1,1x1", "3x1,1x1,1x1", "1x1,2x2,2x2"]


def cjpeg(*options, layout="", size=SIZE):
    """The file, or nothing where the format has no such."""
    source = io.BytesIO()
    picture(*size).save(source, "PPM")
    command = ["cjpeg", "-quality", "85", *options]
    with tempfile.NamedTemporaryFile("w") as scans:
        if layout == "progressive":
            command.append("-progressive")
        elif layout:
            scans.write(layout.replace(";", ";\n"))
            scans.flush()
            command += ["-scans", scans.name]
        done = subprocess.run(command, input=source.getvalue(), capture_output=True, check=False)
    return done.stdout if done.returncode == 0 else b""


def inks(**options):
    out = io.BytesIO()
    picture(*SIZE).convert("CMYK").save(out, "JPEG", quality=85, **options)
    return out.getvalue()


def files():
    for sampling in SAMPLINGS:
        for layout, scans in LAYOUTS.items():
            yield f"{sampling} {layout}", cjpeg("-sample", sampling, layout=scans)
    for sampling in USUAL:
        for layout in ["together", "each", "luma_then_chroma", "progressive", "refined"]:
            for restart in ["1B", "2"]:
                yield f"{sampling} {layout} restart {restart}", cjpeg("-sample", sampling, "-restart", restart, layout=LAYOUTS[layout])
        for size in [(1, 1), (8, 8), (17, 25), (33, 16)]:
            for layout in ["together", "each", "progressive"]:
                yield f"{sampling} {layout} {size[0]}x{size[1]}", cjpeg("-sample", sampling, layout=LAYOUTS[layout], size=size)
    for layout in ["together", "progressive"]:
        for sampling in ["1x1", "2x2", "3x2"]:
            yield f"grey {sampling} {layout}", cjpeg("-grayscale", "-sample", sampling, layout=LAYOUTS[layout])
    for layout in ["together", "each", "progressive", "progressive_each"]:
        yield f"rgb {layout}", cjpeg("-rgb", layout=LAYOUTS[layout])
    for progressive in [False, True]:
        for subsampling in [0, 1, 2]:
            cmyk = inks(progressive=progressive, subsampling=subsampling)
            yield f"cmyk {subsampling} {progressive}", cmyk
            adobe = cmyk.index(b"Adobe")
            yield f"ycck {subsampling} {progressive}", cmyk[: adobe + 11] + b"\2" + cmyk[adobe + 12 :]


if __name__ == "__main__":
    made = [(name, data) for name, data in files() if data]
    sheet = Image.new("RGB", (TILE[0], TILE[1] * len(made)))
    with zipfile.ZipFile(OUT / "jpeg_matrix.zip", "w", zipfile.ZIP_STORED) as archive:
        for i, (name, data) in enumerate(made):
            archive.writestr(zipfile.ZipInfo(f"{name}.jpg"), data)
            sheet.paste(Image.open(io.BytesIO(data)).convert("RGB"), (0, TILE[1] * i))
    sheet.save(EXPECTED / "jpeg_matrix.png", optimize=True)
    print(len(made), "files")

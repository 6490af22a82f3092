"""The image: instructions followed in a container of util-linux, and the result run."""

import base64
from pathlib import Path

import dockerfile
from container import Container, Mount
from report import Report

SERVER = "http://127.0.0.1:8080"
PHOTO = dockerfile.ROOT / "tests/fixtures/photos/cat.jpg"


def question() -> dict[str, object]:
    photo = base64.b64encode(PHOTO.read_bytes()).decode()
    parts = [
        {"type": "text", "text": "Describe this photograph."},
        {"type": "image_url", "image_url": {"url": f"data:image/jpeg;base64,{photo}"}},
    ]
    return {"model": "candor-mini", "messages": [{"role": "user", "content": parts}]}


def build(container: Container, binary: Path, bill: Path, base: Path) -> str:
    if base == Path("/"):
        # This machine's system may have the number already.
        container.shell("sed -i '/^[^:]*:[^:]*:999:/d' /etc/passwd /etc/group")
    made = {"/candor": binary, "/candor.cdx.json": bill}
    left_out = container.build(dockerfile.chain(dockerfile.load(), "cpu"), made)
    assert not left_out, f"left out of the final stage: {left_out}"
    size = sum(file.stat().st_size for file in (binary, bill)) // 2**20
    system = "this machine's system" if base == Path("/") else str(base)
    return f"on {system}, all instructions of the final stage; {size} MiB beside the base"


def volumes(container: Container) -> list[Mount]:
    names = {place: place.strip("/").replace("/", "-") for place in container.image.volumes}
    return [Mount(place, f"image-{name}") for place, name in names.items()]


def serves(container: Container) -> str:
    """As in the quickstart: `docker run --read-only -e CANDOR_API_KEY -v candor-data:/data`."""
    image = container.image
    made = container.run([*image.entrypoint, "keys", "new"])
    key = made.stdout.splitlines()[0]
    command = [*image.entrypoint, *image.command]
    with container.mounted(volumes(container)):
        refused = container.run(command)
        assert refused.returncode == 2 and "CANDOR_API_KEY" in refused.stderr, refused.stderr
        assert container.run(image.health).returncode != 0, "healthy while nothing runs"
        for place in ("/file", "/tmp/file", "/etc/candor/file", "/keys/file"):
            tried = container.run(["touch", place])
            assert tried.returncode != 0, f"{place} could be written"
        with container.running(command, {"CANDOR_API_KEY": key}) as server:
            server.wait_until_healthy()
            assert container.fetch(f"{SERVER}/v1/models")[0] == 401
            url = f"{SERVER}/v1/chat/completions"
            status, answer = container.fetch(url, key, question())
            assert status == 200 and '"guard"' in answer, f"{status} {answer[:300]}"
            assert server.stop() == 0, server.log()[-800:]
            assert key not in server.log()
    kept = container.volume("image-data") / "candor-data"
    files = {str(file.relative_to(kept)) for file in kept.rglob("*") if file.is_file()}
    assert "feedback.db" in files and any(file.startswith("images/") for file in files), files
    return "read-only root, user 999, no capabilities; health check by bash"


def unhealthy_is_told(container: Container) -> None:
    """The health check fails where the server answers, but not with 200."""
    image = container.image
    command = [*image.entrypoint, *image.command, "--insecure"]
    with container.mounted(volumes(container)), container.running(command, {}) as server:
        server.wait_until_healthy()
        wrong = [word.replace("/health/ready", "/none") for word in image.health]
        assert wrong != image.health and container.run(wrong).returncode != 0


def check(report: Report, container: Container, binary: Path, bill: Path, base: Path) -> None:
    report.run("image: built", lambda: build(container, binary, bill, base))
    if not container.image.entrypoint:
        return
    report.run("image: serves", lambda: serves(container))
    report.run("image: health check can fail", lambda: unhealthy_is_told(container))

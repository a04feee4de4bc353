"""Images built and entered without an engine: buildah builds, and a mount namespace stands for the container."""

import os
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.packages.wheel import ROOT

_CERTIFICATES = Path("/etc/ssl/certs/ca-certificates.crt")
_INSIDE = "/run/certificates-of-the-host.crt"

# The root is mounted read-only, /tmp is in memory, /data is the volume: as the compose file has it. Signals reach the
# command itself, since each shell gives its place to the next.
_ENTER = """
root=$1 data=$2; shift 2
mount --bind "$root" "$root"; mount -o remount,bind,ro "$root"
mount --rbind /dev "$root/dev"; mount -t proc proc "$root/proc"; mount -t tmpfs tmpfs "$root/tmp"
mount --bind "$data" "$root/data"
exec chroot --userspec=10001:10001 "$root" /usr/bin/env -i PATH=/opt/hardrank/bin:/usr/bin:/bin HOME=/data TMPDIR=/tmp \
    PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 bash -c 'cd /data; exec "$@"' - "$@"
"""


def build(target: str, base: str) -> str:
    """Build a target of the Dockerfile over the image `base`; gives the image's name."""
    image = f"localhost/hardrank-test-{target}"
    with tempfile.TemporaryDirectory() as folder:
        options = []
        if _CERTIFICATES.is_file():  # pip in the build trusts whom the host trusts
            settings = Path(folder) / "pip.conf"
            settings.write_text(f"[global]\ncert = {_INSIDE}\ntimeout = 180\n")
            options = ["-v", f"{_CERTIFICATES}:{_INSIDE}:ro", "-v", f"{settings}:/etc/pip.conf:ro"]
        _buildah(
            "bud", "--isolation", "chroot", "--format", "docker", "--layers", "--build-arg", f"BASE_IMAGE={base}",
            "--target", target, "-t", image, *options, str(ROOT),
        )  # fmt: skip
    return image


@contextmanager
def mounted(image: str) -> Iterator[Path]:
    """Return the folder of an image's root."""
    container = _buildah("from", image)
    try:
        yield Path(_buildah("mount", container))
    finally:
        _buildah("rm", container)


def enter(root: Path, data: Path, *command: str) -> list[str]:
    """Return the command line that runs `command` in an image: as its user, the root read-only, `data` at /data."""
    return [
        "unshare",
        "--mount",
        "--propagation",
        "private",
        "bash",
        "-euc",
        _ENTER,
        "-",
        str(root),
        str(data),
        *command,
    ]


def _buildah(*arguments: str) -> str:
    done = subprocess.run(["buildah", *arguments], capture_output=True, text=True, check=False, env=os.environ)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout.strip()

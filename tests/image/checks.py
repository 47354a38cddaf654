"""Checks of the two images.

They examine what a container runtime would unpack, never the program that the image was packed
from.
"""

import contextlib
import hashlib
import io
import json
import os
import re
import shutil
import subprocess
import tarfile
import tempfile
import zlib
from pathlib import Path

from harness import REPOSITORY
from harness.cases import Failed, Runner, expect
from harness.images import FEATURES, IMAGES, Images, architecture

LARGEST = 16_000_000  # bytes of the sidecar's image
USER = "17080:17080"
PROGRAM = "usr/local/bin/idjag-proxy"
LABELS = ["title", "description", "licenses", "version", "revision"]
NOT_RUN = {
    "the Dockerfile's compile stage": "its base is in a registry; `tests/image/compile`, which it runs, was run here",
    "arm64": "this machine has another architecture; use `tests/image/build` on an arm64 machine, or docker buildx",
}


def check(runner: Runner, images: Images, profile: str):
    with contextlib.ExitStack() as stack:
        unpacked = {target: stack.enter_context(unpack(images, target)) for target in IMAGES}
        for name, function in CHECKS.items():
            for target, image in unpacked.items():
                runner.run(f"image: {target}: {name}", function, image, profile)
    if not runner.any_failed:
        runner.run("image: control: images with swapped programs are noticed", notices_swap, images, profile)
    for what, why in NOT_RUN.items():
        if what != architecture():
            runner.not_run(f"image: {what}", why)


def failures(images: Images, profile: str) -> set[tuple[str, str]]:
    """Returns the checks that fail, each with its target."""
    found = set()
    for target in IMAGES:
        with unpack(images, target) as image:
            for name, function in CHECKS.items():
                try:
                    function(image, profile)
                except Failed:
                    found.add((name, target))
    return found


@contextlib.contextmanager
def unpack(images: Images, target: str):
    with tempfile.TemporaryDirectory(prefix="idjag-image-") as root:
        # The image's user has no rights of its own there.
        os.chmod(root, 0o755)
        yield Image(images, target, Path(root))


class Image:
    """A docker-archive whose layers are unpacked into `root`."""

    def __init__(self, images: Images, target: str, root: Path):
        self.images, self.target, self.root = images, target, root
        self.archive, self.program = images.archive(target), root / PROGRAM
        with tarfile.open(self.archive) as files:
            (manifest,) = json.load(files.extractfile("manifest.json"))
            self.config = json.load(files.extractfile(manifest["Config"]))
            self.entries, self.layers = [], []
            for layer in manifest["Layers"]:
                content = files.extractfile(layer).read()
                self.layers.append(f"sha256:{hashlib.sha256(content).hexdigest()}")
                with tarfile.open(fileobj=io.BytesIO(content)) as contents:
                    self.entries += contents.getmembers()
                    contents.extractall(root, filter="tar")

    def ask(self, *words: str) -> subprocess.CompletedProcess:
        """Runs the program as the image's user, with the image as its root."""
        user = self.config["config"].get("User", "")
        argv = [shutil.which("chroot") or "/usr/sbin/chroot", f"--userspec={user}", self.root, f"/{PROGRAM}", *words]
        return subprocess.run(argv, capture_output=True, text=True, env={}, timeout=30)


def small(image: Image, profile: str) -> str:
    size = image.archive.stat().st_size
    if image.target == "sidecar" and profile == "dist":
        expect(size <= LARGEST, f"{size / 1e6:.1f} MB, more than {LARGEST / 1e6:.0f}")
    return f"{size / 1e6:.1f} MB"


def one_file(image: Image, _):
    files = [entry for entry in image.entries if not entry.isdir()]
    expect([entry.name for entry in files] == [PROGRAM], f"it contains {[entry.name for entry in files]}")
    (program,) = files
    is_as_expected = program.isfile() and program.mode & 0o7777 == 0o755 and program.uid == 0
    expect(is_as_expected, f"mode {program.mode:o}, user {program.uid}")


def whole(image: Image, _):
    expect(image.config["rootfs"]["diff_ids"] == image.layers, "its layers differ from those of its configuration")
    packed = image.images.program(image.target)
    is_same = packed.read_bytes() == image.program.read_bytes()
    expect(is_same, f"its program differs from {packed.name} in the same directory")


def configured(image: Image, _):
    config = image.config["config"]
    expect(config.get("User") == USER, f"user {config.get('User')}")
    expect(config.get("Entrypoint") == [f"/{PROGRAM}"], f"entry point {config.get('Entrypoint')}")
    prefixed = config.get("Labels") or {}
    labels = {name.removeprefix("org.opencontainers.image."): text for name, text in prefixed.items()}
    expect(all(labels.get(name) for name in LABELS), f"labels {labels}")
    expect(labels["version"] == image.images.version and labels["title"] == IMAGES[image.target], f"labels {labels}")
    expect(image.config["architecture"] == architecture(), f"architecture {image.config['architecture']}")


def static(image: Image, profile: str):
    headers = _readelf("-l", "-d", "-S", image.program)
    expect("INTERP" not in headers and "(NEEDED)" not in headers, "it needs a loader or a library")
    if profile == "dist":
        expect(".symtab" not in headers, "it has symbols")


def alone(image: Image, _):
    if os.getuid() != 0:
        raise Failed("needs root: it changes the root directory and the user")
    done = image.ask("--version")
    works = done.returncode == 0 and image.images.version in done.stdout
    expect(works, f"{done.returncode} {done.stdout}{done.stderr}")
    commands = set(re.findall(r"^  ([a-z-]+) ", image.ask("--help").stdout, re.MULTILINE))
    expect({"run", "check", "status"} <= commands, f"commands {commands}")
    expect("demo" not in commands, "it contains the demo")
    expect(("injector" in commands) == bool(FEATURES[image.target]), f"commands {commands}")


def dependencies_inside(image: Image, _) -> str:
    inside = embedded(image.program)
    names = {package["name"] for package in inside}
    expect({"idjag-proxy", "rustls", "tokio", "aws-lc-sys"} <= names, f"only {sorted(names)}")
    expect(
        ("kube" in names) == bool(FEATURES[image.target]),
        f"it must contain kube in the injector alone: {sorted(names)}",
    )
    return f"{len(inside)} packages"


def bill(image: Image, _) -> str:
    written = json.loads(image.images.bill(image.target).read_text())
    expect(written.get("bomFormat") == "CycloneDX", f"its format is {written.get('bomFormat')}")
    listed = {(one["name"], one["version"]) for one in written["components"]}
    linked = {
        (package["name"], package["version"])
        for package in embedded(image.program)
        if package.get("kind", "runtime") == "runtime"
    }
    missing = {one for one in linked - listed if one[0] != "idjag-proxy"}
    expect(not missing, f"linked, but not listed: {sorted(missing)}")
    return f"{len(listed)} components"


def roots(image: Image, _):
    expect(b"ISRG Root X1" in image.program.read_bytes(), "it lacks Mozilla's certificate authorities")


def no_paths(image: Image, _):
    content = image.program.read_bytes()
    # Only entries of the home directory count, because the injector names root's home of nodes.
    home = os.path.expanduser("~")
    cargo = os.environ.get("CARGO_HOME") or f"{home}/.cargo"
    for place in {str(REPOSITORY), cargo, *(f"{home}/{name}" for name in os.listdir(home))}:
        at = content.find(place.encode())
        expect(at < 0, f"it contains a path of this machine: {content[at : at + 120]}")


def embedded(program: Path) -> list[dict]:
    """Returns the list of packages that `cargo auditable` puts into the section `.dep-v0`."""
    with tempfile.NamedTemporaryFile() as section:
        options = ["-O", "binary", "--only-section=.dep-v0", "--set-section-flags", ".dep-v0=alloc"]
        subprocess.run(["objcopy", *options, program, section.name])
        content = Path(section.name).read_bytes()
    expect(content, "the section .dep-v0 is missing")
    return json.loads(zlib.decompress(content))["packages"]


def notices_swap(images: Images, profile: str) -> str:
    """Swaps the layers of both images, each consistently, and expects checks of the content to
    fail.
    """
    with tempfile.TemporaryDirectory(prefix="idjag-swapped-") as directory:
        swapped = Images(Path(directory), images.version)
        (one, other) = IMAGES
        for target, giver in ((one, other), (other, one)):
            swapped.program(target).parent.mkdir(exist_ok=True)
            swapped.program(target).symlink_to(images.program(target))
            swapped.bill(target).symlink_to(images.bill(target))
            _with_layers_of(images.archive(target), images.archive(giver), swapped.archive(target))
        noticed = failures(swapped, profile)
    blind = {(name, target) for name in NOTICE_SWAP for target in IMAGES} - noticed
    expect(not blind, f"these pass with swapped programs: {sorted(blind)}")
    return f"by {len(noticed)} checks"


def _with_layers_of(archive: Path, giver: Path, result: Path):
    with tarfile.open(archive) as own, tarfile.open(giver) as others, tarfile.open(result, "w") as written:
        (manifest,), (theirs,) = (json.load(files.extractfile("manifest.json")) for files in (own, others))
        config = json.load(own.extractfile(manifest["Config"]))
        config["rootfs"] = json.load(others.extractfile(theirs["Config"]))["rootfs"]
        contents = {name: others.extractfile(name).read() for name in theirs["Layers"]}
        contents[manifest["Config"]] = json.dumps(config).encode()
        contents["manifest.json"] = json.dumps([manifest | {"Layers": theirs["Layers"]}]).encode()
        for name, content in contents.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            written.addfile(entry, io.BytesIO(content))


def _readelf(*words) -> str:
    return subprocess.run(["readelf", "-W", *words], capture_output=True, text=True).stdout


CHECKS = {
    "its size": small,
    "one file, no shell": one_file,
    "its layers, and the program next to it": whole,
    "user, entry point, labels": configured,
    "static": static,
    "runs in an empty root as its user, with only its own commands": alone,
    "the program contains the list of its dependencies": dependencies_inside,
    "the CycloneDX file lists what is linked": bill,
    "the program contains the web's certificate authorities": roots,
    "the program contains no path of this machine": no_paths,
}
# The checks that must fail if each image has the other's program.
NOTICE_SWAP = [
    "its layers, and the program next to it",
    "runs in an empty root as its user, with only its own commands",
    "the program contains the list of its dependencies",
]

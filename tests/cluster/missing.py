"""Prints which parts of all suites are not in the cache, one name per line, for `.ci/run`."""

from cluster import agents_image, controller_manager, node_programs
from harness import images, tools
from harness.install import Cache, cache_directory, missing_parts


def main():
    root = cache_directory()
    cached = {
        "node": not node_programs.Programs(root).missing(),
        "controller-manager": (controller_manager.place(root) / ".complete").exists(),
        "auditable": (root / f"cargo-auditable-{images.AUDITABLE}" / ".complete").exists(),
        "agents": agents_image.archive(Cache(root)).exists(),
    }
    own = [name for name, there in cached.items() if not there]
    print("\n".join([*missing_parts(), *tools.missing(), *own]))


if __name__ == "__main__":
    main()

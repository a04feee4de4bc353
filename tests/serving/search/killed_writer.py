"""Kills a process that changes two indexes, again and again, and compares what is left.

    python killed_writer.py FOLDER steps          kill between all steps of an addition and a deletion
    python killed_writer.py FOLDER times KILLS    kill at random times

It imports everything once and forks for each kill, which makes a kill cost milliseconds. It prints a JSON object: how
many processes were killed, how many changes were acknowledged, and everything that was wrong afterwards.
"""

import json
import os
import random
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from hardrank.models.card import ArchitectureEntry, PreprocessingEntry
from hardrank.serving.index.search_index import SearchIndex
from hardrank.serving.search.item_writer import ItemWriter
from hardrank.serving.store.items import NewItem
from hardrank.serving.store.manifest import IndexManifest

KEYS = ("benign", "robust")
STEPS = (
    ("add", ("begin", "recorded", "added to benign", "added to robust", "acknowledged")),
    ("delete", ("begin", "recorded", "deleted from benign", "deleted from robust", "acknowledged")),
)


@dataclass(kw_only=True)
class Findings:
    kills: int = 0
    acknowledged: int = 0
    undone: int = 0
    """Repairs that found something to do."""
    wrong: list[str] = field(default_factory=list)


def open_indexes(folder: Path) -> dict[str, SearchIndex]:
    return {key: SearchIndex.open(folder / key, writable=True, maintenance=False) for key in KEYS}


def items(id: str) -> dict[str, NewItem]:
    vectors = np.eye(len(KEYS), 4, dtype=np.float32)
    return {key: NewItem(id=id, vector=vectors[n], source_sha256="a" * 64) for n, key in enumerate(KEYS)}


def create_index(folder: Path, model_sha256: str) -> None:
    manifest = IndexManifest(
        model=folder.name,
        model_sha256=model_sha256,
        architecture=ArchitectureEntry(backbone="small-resnet", dimension=4, image_size=32),
        preprocessing=PreprocessingEntry(resize=36, crop=32),
    )
    SearchIndex.create(folder, manifest=manifest, maintenance=False).close()


def forked(act: Callable[[], None], *, kill_after_s: float | None = None) -> int:
    """Run `act` in a child process, kill it after a time if given, and return the signal that ended it, or 0."""
    child = os.fork()
    if not child:
        try:
            act()
        finally:
            os._exit(0)
    if kill_after_s is not None:
        time.sleep(kill_after_s)
        os.kill(child, signal.SIGKILL)
    return os.WTERMSIG(os.waitpid(child, 0)[1])


def contents(folder: Path) -> list[set[str]]:
    found = []
    for index in open_indexes(folder).values():
        with index:
            found.append(set(index.ids(count=100_000)))
    return found


def repair(folder: Path, findings: Findings, context: str) -> set[str]:
    """Start as the server does, and check that the indexes hold the same items afterwards."""
    before = contents(folder)
    indexes = open_indexes(folder)
    ItemWriter(indexes).repair()
    for index in indexes.values():
        index.close()
    benign, robust = contents(folder)
    findings.undone += [benign, robust] != before
    if benign != robust:
        findings.wrong.append(f"{context}: only in one index: {sorted(benign ^ robust)}")
    if left := [path.name for key in KEYS for path in (folder / key).glob("pending-*.json")]:
        findings.wrong.append(f"{context}: {left} left")
    return benign


def kill_at_steps(folder: Path, findings: Findings) -> None:
    for action, steps in STEPS:
        for step in steps:
            id = f"{action} {step}"
            if action == "delete":
                ItemWriter(open_indexes(folder)).add(items(id))

            def act(action: str = action, step: str = step, id: str = id) -> None:
                def reached(name: str) -> None:
                    if name == step:
                        os.kill(os.getpid(), signal.SIGKILL)

                writer = ItemWriter(open_indexes(folder), reached=reached)
                writer.add(items(id)) if action == "add" else writer.delete(id)

            if forked(act) != signal.SIGKILL:
                findings.wrong.append(f"{id}: not killed")
            findings.kills += 1
            held = id in repair(folder, findings, id)
            expected = (step == "acknowledged") == (action == "add") if step in ("begin", "acknowledged") else False
            if held != expected:
                findings.wrong.append(f"{id}: the item {'is' if held else 'is not'} indexed")


def kill_at_times(folder: Path, kills: int, findings: Findings) -> None:
    generator = random.Random(5)
    log = folder / "acknowledged"
    for kill in range(kills):

        def act(kill: int = kill) -> None:
            writer = ItemWriter(open_indexes(folder))
            with log.open("a", buffering=1) as told:
                for number in range(100_000):
                    id = f"{kill}-{number}"
                    writer.add(items(id))
                    told.write(f"add {id}\n")
                    if number % 3 == 2:
                        told.write(f"delete {id}\n")  # a deletion that has begun may be made
                        writer.delete(id)

        forked(act, kill_after_s=generator.uniform(0.02, 0.4))
        findings.kills += 1
        held = repair(folder, findings, f"kill {kill}")
        expected = set[str]()
        for line in log.read_text().splitlines() if log.exists() else ():
            action, _, id = line.partition(" ")
            expected = expected | {id} if action == "add" else expected - {id}
        findings.acknowledged = len(expected)
        if missing := expected - held:
            findings.wrong.append(f"kill {kill}: acknowledged but lost: {sorted(missing)}")


def main() -> None:
    folder, mode, *rest = sys.argv[1:]
    for key, digit in zip(KEYS, "12", strict=True):
        create_index(Path(folder) / key, digit * 64)
    findings = Findings()
    if mode == "steps":
        kill_at_steps(Path(folder), findings)
    else:
        kill_at_times(Path(folder), int(rest[0]), findings)
    print(json.dumps(vars(findings)))


if __name__ == "__main__":
    main()

"""Kills a process that changes two indexes, again and again, and compares what is left.

    python killed_writer.py FOLDER steps          kill between all steps of an addition and a deletion
    python killed_writer.py FOLDER alone          the same, and change the item in one index alone before the repair
    python killed_writer.py FOLDER times KILLS    kill at random times

It imports everything once and forks for each kill, which makes a kill cost milliseconds. It prints a JSON object: how
many processes were killed, how many changes were acknowledged or refused, and everything that was wrong afterwards.
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
from hardrank.serving.store.errors import UnfinishedChangeError
from hardrank.serving.store.items import NewItem
from hardrank.serving.store.manifest import IndexManifest

KEYS = ("benign", "robust")
KEPT = {
    ("add", "begin"): False,
    ("add", "recorded in benign"): False,
    ("add", "recorded in robust"): False,
    ("add", "added to benign"): False,
    ("add", "added to robust"): False,
    ("add", "removed from benign"): True,
    ("add", "removed from robust"): True,
    ("delete", "begin"): True,
    ("delete", "recorded in benign"): True,
    ("delete", "recorded in robust"): False,
    ("delete", "deleted from benign"): False,
    ("delete", "deleted from robust"): False,
    ("delete", "removed from benign"): False,
    ("delete", "removed from robust"): False,
}
"""Change and step after which the process is killed → whether the item is indexed after the repair."""


@dataclass(kw_only=True)
class Findings:
    kills: int = 0
    acknowledged: int = 0
    refused: int = 0
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


def kill_at(action: str, step: str, id: str, folder: Path, findings: Findings) -> None:
    """Add or delete the item `id` in a process that is killed after a step."""
    if action == "delete":
        ItemWriter(open_indexes(folder)).add(items(id))

    def reached(name: str) -> None:
        if name == step:
            os.kill(os.getpid(), signal.SIGKILL)

    def act() -> None:
        writer = ItemWriter(open_indexes(folder), reached=reached)
        writer.add(items(id)) if action == "add" else writer.delete(id)

    if forked(act) != signal.SIGKILL:
        findings.wrong.append(f"{id}: not killed")
    findings.kills += 1


def kill_at_steps(folder: Path, findings: Findings) -> None:
    for (action, step), kept in KEPT.items():
        id = f"{action} {step}"
        kill_at(action, step, id, folder, findings)
        held = id in repair(folder, findings, id)
        if held != kept:
            findings.wrong.append(f"{id}: the item {'is' if held else 'is not'} indexed")


def kill_and_serve_alone(folder: Path, findings: Findings) -> None:
    for number, key in enumerate(KEYS):
        for action, step in KEPT:
            id = f"{action} {step} {key}"
            kill_at(action, step, id, folder, findings)
            alone = ItemWriter({key: open_indexes(folder)[key]})
            alone.repair()
            try:
                alone.add({key: items(id)[key]})
            except UnfinishedChangeError:
                findings.refused += 1
                repair(folder, findings, id)
                continue
            findings.acknowledged += 1
            ItemWriter(open_indexes(folder)).repair()
            if id not in contents(folder)[number]:
                findings.wrong.append(f"{id}: acknowledged but lost")
            ItemWriter(open_indexes(folder)).delete(id)


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
    elif mode == "alone":
        kill_and_serve_alone(Path(folder), findings)
    else:
        kill_at_times(Path(folder), int(rest[0]), findings)
    print(json.dumps(vars(findings)))


if __name__ == "__main__":
    main()

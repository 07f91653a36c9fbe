"""How fast molecules are scored: molecules per second by reward, with one and with two processes. Prints JSON.

    python benchmarks/molecules.py [--count 10000] [--rewards qed sa ...] [--workers 1 2]

Distinct molecules of the two collections in the rdkit wheel, as canonical SMILES. Each number of processes starts with no
value remembered; the start of the processes and what they load for their first molecule is not counted. Targets: with w
processes on at least w free cores within 10 % of w times the rate of one; asking again for the same molecules costs no
scoring (`again`, molecules per second).

`rate` is by wall time, and means little where other programs want the same cores. `per_busiest` is the number of molecules
over the processor time of the busiest process: what the rate would be if each process had a core to itself and never
waited. It shows what is lost to uneven shares and to talking, but not to waiting for the next batch. `per_all` is over the
processor time of all of them: below the number for one process by what scoring in a worker costs more.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Callable
from itertools import islice
from pathlib import Path

import psutil
from tiltflow.domains.molecules.data import read_set
from tiltflow.rewards.molecules import Alerts, Descriptor, Molecular, Property, Similarity, canonical, pmo_scorer
from tiltflow.rewards.molecules.profile import Scorer

SCORERS: dict[str, Callable[[], Scorer]] = {
    "qed": lambda: Descriptor("qed"),
    "sa": lambda: Descriptor("sa"),
    "logp": lambda: Descriptor("logp"),
    "similarity": lambda: Similarity("CC(=O)Oc1ccccc1C(=O)O"),
    "alerts": Alerts,
    "logd": lambda: Property("logd"),
    "perindopril_mpo": lambda: pmo_scorer("perindopril_mpo"),
    "scaffold_hop": lambda: pmo_scorer("scaffold_hop"),
}
WARM = 32  # molecules to each process before the clock starts


def processor_seconds(pids: list[int]) -> list[float]:
    """Processor time that each process has used so far (Linux)."""
    fields = [Path(f"/proc/{pid}/stat").read_text().rsplit(")")[-1].split() for pid in pids]
    return [(int(field[11]) + int(field[12])) / os.sysconf("SC_CLK_TCK") for field in fields]


def measure(scorer: Scorer, molecules: list[str], workers: int) -> dict[str, float]:
    """Molecules per second of wall time, new and asked for again; processor seconds of the busiest process."""
    with Molecular(scorer, "maximize", workers=workers) as reward:
        reward.score(molecules[: WARM * workers], are_canonical=True)
        fresh = molecules[WARM * workers :]
        pids = (
            sorted(child.pid for child in psutil.Process().children(recursive=True)) if workers > 1 else [os.getpid()]
        )
        before, started = processor_seconds(pids), time.perf_counter()
        reward.score(fresh, are_canonical=True)
        seconds = time.perf_counter() - started
        used = [now - then for then, now in zip(before, processor_seconds(pids), strict=True)]
        started = time.perf_counter()
        reward.score(fresh, are_canonical=True)
        again = time.perf_counter() - started
        assert reward.counts.evaluated == len(molecules)
    new = len(fresh)
    return {"rate": new / seconds, "per_busiest": new / max(used), "per_all": new / sum(used), "again": new / again}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=10_000)
    parser.add_argument("--rewards", nargs="+", choices=SCORERS, default=list(SCORERS))
    parser.add_argument("--workers", nargs="+", type=int, default=[1, 2])
    chosen = parser.parse_args()
    read = (canonical(smiles) for smiles in read_set("rdkit"))
    molecules = list(islice(dict.fromkeys(smiles for smiles in read if smiles), chosen.count))
    for name in chosen.rewards:
        rates = {str(workers): measure(SCORERS[name](), molecules, workers) for workers in chosen.workers}
        load = os.getloadavg()[0]
        print(json.dumps({"reward": name, "molecules": len(molecules), "load": load, "processes": rates}), flush=True)


if __name__ == "__main__":
    main()

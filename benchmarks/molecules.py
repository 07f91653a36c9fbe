"""How fast molecules are scored: molecules per second by reward, with one and with two processes. Prints JSON.

    python benchmarks/molecules.py [--count 10000] [--rewards qed sa ...] [--workers 1 2]

Distinct molecules of the two collections in the rdkit wheel, as canonical SMILES. Each number of processes starts with no
value remembered; the start of the processes and what they load for their first molecule is not counted. Targets: with w
processes on at least w free cores within 10 % of w times the rate of one; asking again for the same molecules costs no
scoring (`again`, molecules per second).
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Callable
from itertools import islice

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


def measure(scorer: Scorer, molecules: list[str], workers: int) -> dict[str, float]:
    """Molecules per second, new and asked for again; wall time, and processor time of this process."""
    with Molecular(scorer, "maximize", workers=workers) as reward:
        reward.score(molecules[: WARM * workers], are_canonical=True)
        fresh = molecules[WARM * workers :]
        started, busy = time.perf_counter(), time.process_time()
        reward.score(fresh, are_canonical=True)
        seconds, own = time.perf_counter() - started, time.process_time() - busy
        started = time.perf_counter()
        reward.score(fresh, are_canonical=True)
        again = time.perf_counter() - started
        assert reward.counts.evaluated == len(molecules)
    return {"rate": len(fresh) / seconds, "again": len(fresh) / again, "seconds": seconds, "parent_seconds": own}


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

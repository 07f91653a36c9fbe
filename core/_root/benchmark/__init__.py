"""Methods against each other and against published numbers. On the command line: `tiltflow benchmark=pmo`.

`pmo` is the benchmark of Gao, Fu, Sun and Coley (NeurIPS 2022): which optimiser of molecules makes the most of 10 000 calls
of a score, by the area under the mean of the best ten. Every method, task and seed is a run of its own, whose record of calls
is kept in `out/<method>/<task>/<seed>.csv.gz` (SMILES and value, in order) beside a summary in JSON:

    from tiltflow.benchmark import measures, read_record

    calls = read_record("runs/pmo/graph_ga/qed/0.csv.gz")
    measures([value for smiles, value in calls], limit=10_000)["auc_top10"]

A further method is a file in `configs/optimiser`, or on the command line `optimiser.mine={_target_: mypackage.Mine}`
`methods=[mine,graph_ga]` `plugins=[mypackage]`; see `tiltflow.domains.molecules.optimise.Optimiser`.
"""

from .plan import Plan, prepare
from .published import PUBLISHED, Published
from .report import content, markdown
from .units import Unit, measures, read_record

__all__ = [
    "PUBLISHED",
    "Plan",
    "Published",
    "Unit",
    "content",
    "markdown",
    "measures",
    "prepare",
    "read_record",
]

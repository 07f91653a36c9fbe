"""Published top-10 AUCs on the tasks of the PMO benchmark, 10 000 calls: mean ± standard deviation over runs.

Sources, and what they mean for a comparison:

* Gao, Fu, Sun and Coley, Sample Efficiency Matters, NeurIPS 2022 Datasets and Benchmarks: 5 runs, of Graph GA (Jensen 2019)
  and REINVENT (Olivecrona et al. 2017).
* Kim, Kim, Choi and Park, Genetic-guided GFlowNets, NeurIPS 2024, Table 12: 5 runs, of Genetic GFN and of the older methods
  run again. On the isomers, sitagliptin_mpo and zaleplon_mpo these are far from those of Gao et al.; on the others close.
* Tripp and Hernandez-Lobato, Genetic algorithms are strong baselines for molecule generation, 2023: Mol GA, as quoted by Lee
  et al. (2024).
* Lee et al., Molecule generation with fragment retrieval augmentation, NeurIPS 2024, Table 1: f-RAG, 3 runs.
* Lee et al., GenMol, ICML 2025: 3 runs, as quoted in the results of Kaech et al. (github.com/invirtuolabs/InVirtuoGen_results).
* Kaech, Wyss, Borgwardt and Grasso, Refine Drugs, Don't Complete Them, 2025 (arXiv:2509.26405): InVirtuoGen, 3 runs.

`screened`: f-RAG, GenMol and one of the two InVirtuoGen choose what they start from by scoring ZINC250k with the task itself;
those some 250 000 calls are not among the 10 000 (Kaech et al. 2025). They are no fair comparison for a method without.

Read off the tables; their sums over all 23 tasks, computed from the rounded numbers, agree with the stated ones within 0.012.
"""

from __future__ import annotations

from dataclasses import dataclass

CALLS = 10_000  # that all these numbers are for


@dataclass(frozen=True)
class Published:
    """What was published about a method.

    Attributes:
        name: as tables call it. source: who ran it. runs: how many.
        screened: it started from the best molecules of a large set by the task itself, at no charge.
        auc: by task, mean and standard deviation of the top-10 AUC.
    """

    name: str
    source: str
    runs: int
    screened: bool
    auc: dict[str, tuple[float, float]]


_METHODS = (
    ("Graph GA", "Gao 2022", 5, False),
    ("REINVENT", "Gao 2022", 5, False),
    ("Mol GA", "Tripp 2023", 5, False),
    ("Genetic GFN", "Kim 2024", 5, False),
    ("Graph GA again", "Kim 2024", 5, False),
    ("REINVENT again", "Kim 2024", 5, False),
    ("Mol GA again", "Kim 2024", 5, False),
    ("InVirtuoGen", "Kaech 2025", 3, False),
    ("f-RAG", "Lee 2024", 3, True),
    ("GenMol", "Lee 2025", 3, True),
    ("InVirtuoGen screened", "Kaech 2025", 3, True),
)
_TABLE = """
albuterol_similarity     0.838±0.016 0.882±0.006 0.896±0.035 0.949±0.010 0.859±0.013 0.881±0.016 0.928±0.015 0.950±0.017 0.977±0.002 0.937±0.010 0.975±0.016
amlodipine_mpo           0.661±0.020 0.635±0.035 0.688±0.039 0.761±0.019 0.657±0.022 0.644±0.019 0.740±0.055 0.733±0.043 0.749±0.019 0.810±0.012 0.836±0.031
celecoxib_rediscovery    0.630±0.097 0.713±0.067 0.567±0.083 0.802±0.029 0.593±0.092 0.717±0.027 0.629±0.062 0.798±0.028 0.778±0.007 0.826±0.018 0.839±0.013
deco_hop                 0.619±0.004 0.666±0.044 0.649±0.025 0.733±0.109 0.602±0.012 0.662±0.044 0.656±0.013 0.748±0.109 0.936±0.011 0.960±0.010 0.968±0.012
fexofenadine_mpo         0.760±0.011 0.784±0.006 0.825±0.019 0.856±0.039 0.762±0.014 0.781±0.013 0.835±0.012 0.845±0.016 0.856±0.016 0.894±0.028 0.904±0.000
isomers_c7h8n2o2         0.862±0.065 0.852±0.036 0.878±0.026 0.969±0.003 0.949±0.020 0.942±0.012 0.926±0.014 0.968±0.005 0.955±0.008 0.942±0.004 0.988±0.002
isomers_c9h10n2o2pf2cl   0.719±0.047 0.642±0.054 0.865±0.012 0.897±0.007 0.839±0.042 0.838±0.030 0.894±0.005 0.874±0.013 0.850±0.005 0.833±0.014 0.898±0.018
median1                  0.294±0.021 0.356±0.009 0.257±0.009 0.379±0.010 0.285±0.012 0.363±0.011 0.329±0.006 0.342±0.008 0.340±0.007 0.398±0.000 0.386±0.003
median2                  0.273±0.009 0.276±0.008 0.301±0.021 0.294±0.007 0.255±0.019 0.281±0.002 0.284±0.035 0.288±0.008 0.323±0.005 0.359±0.004 0.377±0.006
mestranol_similarity     0.579±0.022 0.618±0.048 0.591±0.053 0.708±0.057 0.571±0.036 0.634±0.042 0.762±0.048 0.797±0.033 0.671±0.021 0.982±0.000 0.991±0.002
osimertinib_mpo          0.831±0.005 0.837±0.009 0.844±0.015 0.860±0.008 0.813±0.006 0.834±0.010 0.853±0.005 0.870±0.005 0.866±0.009 0.876±0.008 0.881±0.012
perindopril_mpo          0.538±0.009 0.537±0.016 0.547±0.022 0.595±0.014 0.514±0.025 0.535±0.015 0.610±0.038 0.645±0.032 0.681±0.017 0.718±0.012 0.753±0.019
qed                      0.940±0.000 0.941±0.000 0.941±0.001 0.942±0.000 0.937±0.001 0.941±0.000 0.941±0.001 0.942±0.000 0.939±0.001 0.942±0.000 0.943±0.000
ranolazine_mpo           0.728±0.012 0.760±0.009 0.804±0.011 0.819±0.018 0.718±0.017 0.770±0.005 0.830±0.010 0.848±0.010 0.820±0.016 0.821±0.011 0.854±0.012
scaffold_hop             0.517±0.007 0.560±0.019 0.527±0.025 0.615±0.100 0.513±0.026 0.551±0.024 0.568±0.017 0.589±0.021 0.576±0.014 0.628±0.008 0.711±0.081
sitagliptin_mpo          0.433±0.075 0.021±0.003 0.582±0.040 0.634±0.039 0.498±0.048 0.470±0.041 0.677±0.055 0.709±0.029 0.601±0.011 0.584±0.034 0.743±0.022
thiothixene_rediscovery  0.479±0.025 0.534±0.013 0.519±0.041 0.583±0.034 0.483±0.034 0.544±0.026 0.544±0.067 0.625±0.014 0.584±0.009 0.692±0.123 0.652±0.024
troglitazone_rediscovery 0.390±0.016 0.441±0.032 0.427±0.031 0.511±0.054 0.373±0.013 0.458±0.018 0.487±0.024 0.595±0.053 0.448±0.017 0.867±0.022 0.853±0.003
valsartan_smarts         0.000±0.000 0.178±0.358 0.000±0.000 0.135±0.271 0.000±0.000 0.182±0.363 0.000±0.000 0.210±0.297 0.627±0.058 0.822±0.042 0.935±0.012
zaleplon_mpo             0.346±0.032 0.358±0.062 0.519±0.029 0.552±0.033 0.468±0.025 0.533±0.009 0.514±0.033 0.536±0.006 0.486±0.004 0.584±0.011 0.624±0.040
"""


def _read() -> tuple[Published, ...]:
    rows = [line.split() for line in _TABLE.split("\n") if line]
    pairs = {task: [tuple(map(float, cell.split("±"))) for cell in cells] for task, *cells in rows}
    found = []
    for index, facts in enumerate(_METHODS):
        found.append(Published(*facts, {task: (cells[index][0], cells[index][1]) for task, cells in pairs.items()}))
    return tuple(found)


#: In the order of the tables.
PUBLISHED = _read()

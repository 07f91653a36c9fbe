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
#: A column for each method, in thousandths.
_TABLE = """
albuterol_similarity     838±16   882±6    896±35   949±10   859±13   881±16   928±15   950±17   977±2    937±10   975±16
amlodipine_mpo           661±20   635±35   688±39   761±19   657±22   644±19   740±55   733±43   749±19   810±12   836±31
celecoxib_rediscovery    630±97   713±67   567±83   802±29   593±92   717±27   629±62   798±28   778±7    826±18   839±13
deco_hop                 619±4    666±44   649±25   733±109  602±12   662±44   656±13   748±109  936±11   960±10   968±12
fexofenadine_mpo         760±11   784±6    825±19   856±39   762±14   781±13   835±12   845±16   856±16   894±28   904±0
isomers_c7h8n2o2         862±65   852±36   878±26   969±3    949±20   942±12   926±14   968±5    955±8    942±4    988±2
isomers_c9h10n2o2pf2cl   719±47   642±54   865±12   897±7    839±42   838±30   894±5    874±13   850±5    833±14   898±18
median1                  294±21   356±9    257±9    379±10   285±12   363±11   329±6    342±8    340±7    398±0    386±3
median2                  273±9    276±8    301±21   294±7    255±19   281±2    284±35   288±8    323±5    359±4    377±6
mestranol_similarity     579±22   618±48   591±53   708±57   571±36   634±42   762±48   797±33   671±21   982±0    991±2
osimertinib_mpo          831±5    837±9    844±15   860±8    813±6    834±10   853±5    870±5    866±9    876±8    881±12
perindopril_mpo          538±9    537±16   547±22   595±14   514±25   535±15   610±38   645±32   681±17   718±12   753±19
qed                      940±0    941±0    941±1    942±0    937±1    941±0    941±1    942±0    939±1    942±0    943±0
ranolazine_mpo           728±12   760±9    804±11   819±18   718±17   770±5    830±10   848±10   820±16   821±11   854±12
scaffold_hop             517±7    560±19   527±25   615±100  513±26   551±24   568±17   589±21   576±14   628±8    711±81
sitagliptin_mpo          433±75    21±3    582±40   634±39   498±48   470±41   677±55   709±29   601±11   584±34   743±22
thiothixene_rediscovery  479±25   534±13   519±41   583±34   483±34   544±26   544±67   625±14   584±9    692±123  652±24
troglitazone_rediscovery 390±16   441±32   427±31   511±54   373±13   458±18   487±24   595±53   448±17   867±22   853±3
valsartan_smarts           0±0    178±358    0±0    135±271    0±0    182±363    0±0    210±297  627±58   822±42   935±12
zaleplon_mpo             346±32   358±62   519±29   552±33   468±25   533±9    514±33   536±6    486±4    584±11   624±40
"""


def _read() -> tuple[Published, ...]:
    rows = [line.split() for line in _TABLE.split("\n") if line]
    columns = zip(*([_pair(cell) for cell in cells] for _, *cells in rows), strict=True)
    tasks = [task for task, *_ in rows]
    return tuple(
        Published(*facts, dict(zip(tasks, column, strict=True)))
        for facts, column in zip(_METHODS, columns, strict=True)
    )


def _pair(cell: str) -> tuple[float, float]:
    mean, std = cell.split("±")
    return int(mean) / 1000, int(std) / 1000


#: In the order of the tables.
PUBLISHED = _read()

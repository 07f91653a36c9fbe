"""How exact is a method? Steering methods on worlds in which p* is known, trainers on worlds in which the optimum is.

On the command line: `tiltflow verify`. For a method of your own, in Python:

    from tiltflow.core.worlds import MaskedWorld
    from tiltflow.verify import measure, measure_trainer, show

    show([measure(MySteering(), MaskedWorld())])
    show([measure_trainer(MyTrainer(steps=200), MaskedWorld(3, 3))])
"""

from .bias import Bias, measure_bias
from .cases import METHODS, WORLDS
from .measure import Point, Row, measure
from .reference import Reference, refer
from .report import show
from .train import ExactAscent, Trained, measure_trainer
from .trainers import GROUNDS, TRAINERS

__all__ = [
    "GROUNDS",
    "METHODS",
    "TRAINERS",
    "WORLDS",
    "Bias",
    "ExactAscent",
    "Point",
    "Reference",
    "Row",
    "Trained",
    "measure",
    "measure_bias",
    "measure_trainer",
    "refer",
    "show",
]

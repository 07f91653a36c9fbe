"""How exact is a method? Every steering method, measured on worlds in which p* is known.

On the command line: `tiltflow verify`. For a method of your own, in Python:

    from tiltflow.core.worlds import MaskedWorld
    from tiltflow.verify import measure, show

    show([measure(MyMethod(), MaskedWorld())])
"""

from .cases import METHODS, WORLDS
from .measure import Point, Row, measure
from .reference import Reference, refer
from .report import show

__all__ = ["METHODS", "WORLDS", "Point", "Reference", "Row", "measure", "refer", "show"]

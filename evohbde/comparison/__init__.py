"""Which searcher, or which reduction, is ahead over many seeds, and is that more than chance?"""

from evohbde.comparison.compare import compare as compare
from evohbde.comparison.result import Comparison as Comparison

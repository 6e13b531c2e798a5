"""Random operations on pictures, of which views are made; each is a value that a word selects.

An operation is a frozen dataclass; its fields are its numbers, in the order in which they follow the word:
`crop:0.5` is `Crop(0.5)`. It works on `(N, C, H, W)` numbers in 0..1, on any device, and draws other random
numbers for each picture.
"""

from dualnets.images.operations.operation import OPERATIONS as OPERATIONS
from dualnets.images.operations.operation import Draws as Draws
from dualnets.images.operations.operation import Operation as Operation
from dualnets.images.operations.operation import parse_operation as parse_operation
from dualnets.images.operations.operation import usage as usage
from dualnets.images.operations.places import Blur as Blur
from dualnets.images.operations.places import Crop as Crop
from dualnets.images.operations.places import Flip as Flip
from dualnets.images.operations.places import Shift as Shift
from dualnets.images.operations.tones import Colour as Colour
from dualnets.images.operations.tones import Grey as Grey
from dualnets.images.operations.tones import Jitter as Jitter
from dualnets.images.operations.tones import Light as Light
from dualnets.images.operations.tones import Noise as Noise
from dualnets.images.operations.tones import Solarise as Solarise

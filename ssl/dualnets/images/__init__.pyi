from dualnets.images.dataset import LabelledImages as LabelledImages
from dualnets.images.dataset import Pictures as Pictures
from dualnets.images.known import load as load
from dualnets.images.operations import OPERATIONS as OPERATIONS
from dualnets.images.operations import Operation as Operation
from dualnets.images.views import PRESETS as PRESETS
from dualnets.images.views import ImageAugmentation as ImageAugmentation
from dualnets.images.views import parse_views as parse_views

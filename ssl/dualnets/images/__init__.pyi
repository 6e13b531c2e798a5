from dualnets.images.dataset import LabelledImages as LabelledImages
from dualnets.images.dataset import Pictures as Pictures
from dualnets.images.evaluate import evaluate as evaluate
from dualnets.images.known import load as load

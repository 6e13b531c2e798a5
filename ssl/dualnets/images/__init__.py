"""Real pictures: data sets that are found on this machine, and their random views.

`load` finds a data set, `LabelledImages.from_arrays` makes one of arrays, and `parse_views` reads how views
differ from a picture, such as `crop:0.5+blur`. The public names are listed in `__init__.pyi` and imported
when they are first used.
"""

from hltm._lazy import attach_stub

__getattr__, __dir__, __all__ = attach_stub(__name__, __file__)

"""The steps of the pipeline, one folder each. A step that runs ends with the pipeline that started it."""

import atexit
import os
from contextlib import ExitStack

from drtune.lifetime import mortal

if os.environ.get("_KFP_RUNTIME") == "true":  # so kfp tells a process that it is a running step
    life = ExitStack()
    life.enter_context(mortal())
    atexit.register(life.close)

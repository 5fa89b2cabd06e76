"""drtune from Python: `drtune.tune` and what it returns, without files that the user would have to write.

It is a front door beside `cli`, to the same rooms: lists, functions and pipelines become the files that these read. It
may know every room but `cli`; nothing knows it. `import drtune` loads it when one of its names is asked for.
"""

import os

os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")  # as for the commands, before it is first imported

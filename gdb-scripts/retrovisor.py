"""retrovisor's commands for GDB:  source gdb-scripts/retrovisor.py

The commands are in a module of their own, so that nobody's names get in the way of anybody's.
"""

import importlib
import os
import sys


def load():
    """Loads the commands, or loads them again."""
    here = os.path.dirname(os.path.abspath(__file__))
    writes, sys.dont_write_bytecode = sys.dont_write_bytecode, True
    sys.path.insert(0, here)
    try:
        if "retrovisor_commands" in sys.modules:
            importlib.reload(sys.modules["retrovisor_commands"])
        else:
            importlib.import_module("retrovisor_commands")
    finally:
        sys.path.remove(here)
        sys.dont_write_bytecode = writes


load()
del load

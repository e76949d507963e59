"""retrovisor's commands for GDB:  source gdb-scripts/retrovisor.py

`rv COMMAND ...` runs any of the server's `monitor` commands; the list of them, their help and their completion come
from the server itself (`monitor help --json`). What a `monitor` command cannot do is tell GDB that the machine has
moved: `rv seek` does, by resuming for the one stop that the server answers with.
"""

import json

import gdb


def monitor(line):
    """The text of a monitor command. What went wrong on the server's side is an error here."""
    text = gdb.execute("monitor " + line, to_string=True)
    if text.startswith("error: "):
        raise gdb.GdbError(text[len("error: "):].rstrip())
    return text


class Table:
    """The server's commands, fetched once a connection and registered as subcommands of `rv`."""

    def __init__(self):
        self.connection = None
        self.commands = {}

    def refresh(self):
        """Looks again when GDB is connected to another server."""
        inferior = gdb.selected_inferior()
        connection = getattr(inferior, "connection", None)
        if connection is None:
            raise gdb.GdbError("not connected: target remote 127.0.0.1:1234")
        if connection is self.connection:
            return
        try:
            table = json.loads(monitor("help --json"))
        except ValueError:
            raise gdb.GdbError("this server is not retrovisor")
        self.commands = {command["name"]: command for command in table}
        self.connection = connection
        for command in table:
            Subcommand(command)


class Subcommand(gdb.Command):
    """One command, with the server's own words as its help."""

    def __init__(self, command):
        self.name = command["name"]
        self.__doc__ = "{}\nusage: rv {}\n\n{}".format(
            command["summary"], command["usage"], command["manual"].rstrip()
        )
        super().__init__("rv " + self.name, gdb.COMMAND_RUNNING)

    def invoke(self, argument, from_tty):
        run((self.name + " " + argument).strip())


class Prefix(gdb.Command):
    """Commands of the retrovisor server: rv help lists them.
usage: rv COMMAND ...

rv when        where we are in the recording
rv seek PLACE  go there: a tick, start, end, +N, -N or a share like 50%
rv info        what was recorded"""

    def __init__(self):
        super().__init__("rv", gdb.COMMAND_RUNNING, gdb.COMPLETE_NONE, True)

    def invoke(self, argument, from_tty):
        run(argument.strip() or "help")


TABLE = Table()


def run(line):
    """Runs a command line; one that takes effect with the next resumption is followed by one."""
    TABLE.refresh()
    words = line.split()
    names = [name for name in TABLE.commands if name.startswith(words[0])]
    name = words[0] if words[0] in TABLE.commands else names[0] if len(names) == 1 else None
    text = monitor(line)
    if name == "symbols":
        gdb.write(text)
        # The file is the server's: it is there only if server and GDB run on one machine.
        gdb.execute("symbol-file " + text.rstrip().splitlines()[-1])
        return
    if name is not None and TABLE.commands[name]["resumes"]:
        gdb.execute("continue")
    else:
        gdb.write(text)


LAST_LOOKED_AT = [None]


def on_prompt():
    """Subcommands are there (for completion and help) as soon as GDB is connected to a retrovisor."""
    connection = getattr(gdb.selected_inferior(), "connection", None)
    if connection is None or connection is LAST_LOOKED_AT[0]:
        return
    LAST_LOOKED_AT[0] = connection
    try:
        TABLE.refresh()
    except (gdb.error, gdb.GdbError):
        # Not one of ours: a message is due only when the user asks for something.
        pass


Prefix()
if hasattr(gdb.events, "before_prompt"):
    gdb.events.before_prompt.connect(on_prompt)

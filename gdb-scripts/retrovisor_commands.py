"""The commands behind `rv`, loaded by retrovisor.py.

`rv COMMAND ...` runs any of the server's `monitor` commands; the list of them, their help, their examples and their
completion come from the server itself (`monitor help --json`). What a `monitor` command cannot do is done here:

- tell GDB that the machine has moved: `rv seek` resumes for the one stop that the server answers with;
- take an expression for an address: `rv last-write kernel_state.count`;
- be interrupted: a search is run by a resumption, in which GDB passes Ctrl-C on;
- load symbols: `rv symbols`, `rv vmlinux`, `rv load-module`, `rv load-modules`, `rv load-program`;
- conditions of watchpoints: `rv watch EXPRESSION if CONDITION`.
"""

import json
import mmap
import os
import re
import struct

import gdb


def monitor(line):
    """The text of a monitor command. What went wrong on the server's side is an error here."""
    if getattr(gdb.selected_inferior(), "connection", None) is None:
        raise gdb.GdbError("not connected: target remote 127.0.0.1:1234")
    try:
        text = gdb.execute("monitor " + line, to_string=True)
    except gdb.error as error:
        raise gdb.GdbError(str(error))
    # The server tells of commands as those type them who have no script.
    text = re.sub(r"(usage: |`)monitor ", r"\1rv ", text)
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

    def find(self, name):
        """The command of this name, or the only one that begins so."""
        if name in self.commands:
            return self.commands[name]
        found = [name_ for name_ in self.commands if name_.startswith(name)]
        return self.commands[found[0]] if len(found) == 1 else None


class Subcommand(gdb.Command):
    """One command, with the server's own words as its help."""

    def __init__(self, command):
        self.command = command
        self.__doc__ = "{}\nusage: rv {}\n\n{}\n\nexamples:\n{}".format(
            command["summary"].replace(" (with the next `continue`)", ""),
            command["usage"],
            command["manual"].rstrip(),
            "\n".join("  rv " + example for example in command["examples"]),
        )
        super().__init__("rv " + command["name"], gdb.COMMAND_RUNNING)

    def invoke(self, argument, from_tty):
        run((self.command["name"] + " " + argument).strip())

    def complete(self, text, word):
        # GDB gives the last word only from its last break character on: `--go` arrives as `go`.
        last = text.split(" ")[-1]
        cut = len(last) - len(word)
        choices = list(self.command["words"])
        kind = self.command["completes"]
        if kind == "bookmark":
            choices += monitor("bookmark --names").split()
        elif kind == "command":
            choices += list(TABLE.commands)
        found = [choice[cut:] for choice in choices if choice.startswith(last)]
        if kind in ("data", "code") and not (last and found):
            return gdb.COMPLETE_EXPRESSION
        return found


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


def number(value):
    return int(value) & (2**64 - 1)


def evaluate(expression):
    try:
        return gdb.parse_and_eval(expression)
    except gdb.error as error:
        # A variable without debug information has an address all the same.
        if "unknown type" in str(error):
            return gdb.parse_and_eval("&" + expression)
        # In one line, without the name of the exception.
        raise gdb.GdbError(str(error))


def place_of(text, kind):
    """An expression of the user's as the server takes it: an address, for data with a length."""
    length = None
    match = re.match(r"(.*),\s*(0x[0-9a-fA-F]+|\d+)$", text)
    if match and kind == "data":
        text, length = match.group(1), match.group(2)
    if re.fullmatch(r"0x[0-9a-fA-F_]+|\d+", text):
        return text + ("," + length if length else "")
    value = evaluate(text)
    code = value.type.strip_typedefs().code
    if kind == "code":
        address = value.address if code == gdb.TYPE_CODE_FUNC else value
        return hex(number(address))
    if value.address is not None and code != gdb.TYPE_CODE_FUNC:
        # Something in memory: itself.
        address, size = number(value.address), value.type.sizeof
    else:
        address, size = number(value), None
        if code == gdb.TYPE_CODE_PTR:
            target = value.type.strip_typedefs().target().strip_typedefs()
            if target.code not in (gdb.TYPE_CODE_VOID, gdb.TYPE_CODE_FUNC):
                size = target.sizeof
    if length is None and size:
        length = size
    return hex(address) + (",{}".format(length) if length else "")


def with_addresses(command, argument):
    """The argument with its expression evaluated; options and `between` stay."""
    if command["name"] == "read-process":
        # PID EXPRESSION [LENGTH], without a length that of the expression.
        match = re.fullmatch(r"(\S+)\s+(.+?)(?:\s+(0x[0-9a-fA-F]+|\d+))?", argument)
        if not match:
            return argument
        address, _, length = place_of(match.group(2), "data").partition(",")
        return " ".join((match.group(1), address, match.group(3) or length)).strip()
    if command is None or command["completes"] not in ("data", "code") or not argument:
        return argument
    match = re.match(r"(.*?)(\s+(?:--|between\s).*)?$", argument)
    return place_of(match.group(1).strip(), command["completes"]) + (match.group(2) or "")


def run(line):
    """Runs a command line; one that takes effect with the next resumption is followed by one."""
    TABLE.refresh()
    name, _, argument = line.partition(" ")
    command = TABLE.find(name)
    if command is None:
        gdb.write(monitor(line))
        return
    name = command["name"]
    line = (name + " " + with_addresses(command, argument.strip())).strip()
    if name == "symbols":
        text = monitor(line)
        gdb.write(text)
        # The file is the server's: it is there only if server and GDB run on one machine.
        gdb.execute("symbol-file " + text.rstrip().splitlines()[-1])
    elif command["searches"]:
        search(line)
    else:
        text = monitor(line)
        if command["resumes"]:
            gdb.execute("continue")
        else:
            gdb.write(text)
        if name == "space":
            # GDB keeps what it has read.
            gdb.execute("maintenance flush dcache", to_string=True)


def search(line):
    """Runs a command that can take long in a resumption, where Ctrl-C is heard."""
    here = tick()
    monitor("ask " + line)
    quietly("continue")
    text = monitor("answer")
    # What remains to be done is done.
    gdb.write("".join(part for part in text.splitlines(True) if "`continue`" not in part))
    if tick() != here:
        gdb.execute("frame")


def quietly(line):
    """Runs a command without the words in which GDB tells of the stop."""
    # They go to standard output whatever to_string says. What is no terminal may be a front end's, which needs them.
    if not os.isatty(1):
        gdb.execute(line, to_string=True)
        return
    gdb.flush()
    kept, nowhere = os.dup(1), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    try:
        gdb.execute(line, to_string=True)
    finally:
        gdb.flush()
        os.dup2(kept, 1)
        os.close(kept)
        os.close(nowhere)


def tick():
    return int(gdb.parse_and_eval("$rv_tick"))


# __START_KERNEL_map: vmlinux is linked to what lies above.
KERNEL_TEXT = 0xFFFFFFFF80000000


class Vmlinux(gdb.Command):
    """Load a kernel's vmlinux at the addresses to which KASLR has moved it.
usage: rv vmlinux FILE

The guest must have got so far that its kernel is in place (`rv kernel` says so). Per-CPU variables keep their
offsets. Symbols that were loaded before are forgotten.

example:
  rv vmlinux /usr/lib/debug/boot/vmlinux-6.1.0-18-amd64"""

    def __init__(self):
        super().__init__("rv vmlinux", gdb.COMMAND_FILES, gdb.COMPLETE_FILENAME)

    def invoke(self, argument, from_tty):
        (path,) = words(argument, 1, "rv vmlinux FILE")
        path = os.path.expanduser(path)
        offset = monitor("kernel --offset").strip()
        banner = monitor("kernel").splitlines()[0]
        sections = sections_of(path)
        keep = " -s .data..percpu 0" if ".data..percpu" in sections else ""
        if max(sections.values(), default=0) < KERNEL_TEXT:
            raise gdb.GdbError("{}: nothing in it is linked to where Linux kernels are".format(path))
        if elf(path).find(b"retrovisor, from the kernel's BTF") >= 0:
            raise gdb.GdbError("{} has the addresses of a recording already: symbol-file {}".format(path, path))
        if not holds(path, banner):
            gdb.write("warning: {} is of another kernel. This one is: {}\n".format(path, banner))
        gdb.execute("symbol-file")
        gdb.execute('add-symbol-file "{}" -o {}{}'.format(path, offset, keep), to_string=True)
        gdb.write("{}, moved by KASLR by {}\n".format(path, offset))


def add_symbols(path, arguments):
    """Adds a symbol file, in the place of itself where it is there already."""
    there = os.path.realpath(path)
    for objfile in gdb.objfiles():
        if objfile.filename == there:
            gdb.execute('remove-symbol-file "{}"'.format(there), to_string=True)
            break
    gdb.execute('add-symbol-file "{}" {}'.format(path, arguments), to_string=True)


def loaded_modules():
    """The modules that are loaded here: name, and the addresses of its code."""
    table = monitor("modules").splitlines()
    rows = [line.split() for line in table[1:]]
    if not rows:
        raise gdb.GdbError(table[0])
    return {row[3]: range(int(row[0], 16), int(row[0], 16) + int(row[1])) for row in rows}


def load_module(name, path):
    """Adds the symbols of a loaded module at the addresses of its sections."""
    there = dict(line.split() for line in monitor("modules --sections " + name).splitlines())
    there = {section: int(address, 16) for section, address in there.items()}
    known = sections_of(path)
    text = there.pop(".text", None)
    if text is None:
        raise gdb.GdbError("the kernel does not tell where the code of {} is".format(name))
    others, note = [], ""
    modules = loaded_modules()
    for section, address in there.items():
        owner = [module for module, code in modules.items() if module != name and address in code]
        if section in known and owner:
            # What ran only once has been given back.
            note = " (without {}, whose place {} has now)".format(section, owner[0])
        elif section in known:
            others.append("-s {} {:#x}".format(section, address))
    add_symbols(path, "{:#x} {}".format(text, " ".join(others)))
    gdb.write("{}: {} at {:#x}{}\n".format(name, path, text, note))


class LoadModule(gdb.Command):
    """Load the symbols of a module of the guest's kernel.
usage: rv load-module NAME FILE

NAME is that of a loaded module (`rv modules`), FILE its .ko, not compressed. What runs only when a module is loaded
is left out where the next module has been put in its place.

example:
  rv load-module ext4 /lib/modules/6.1.0-18-amd64/kernel/fs/ext4/ext4.ko"""

    def __init__(self):
        super().__init__("rv load-module", gdb.COMMAND_FILES, gdb.COMPLETE_FILENAME)

    def invoke(self, argument, from_tty):
        name, path = words(argument, 2, "rv load-module NAME FILE")
        load_module(name, os.path.expanduser(path))


class LoadModules(gdb.Command):
    """Load the symbols of all modules that are loaded here.
usage: rv load-modules [DIRECTORY...]

The files (NAME.ko, not compressed) are looked for below the directories, without any in
/usr/lib/debug/lib/modules/VERSION and /lib/modules/VERSION of this machine. Does for kernels with KASLR what
`lx-symbols` of the kernel's own scripts does for others.

example:
  rv load-modules ~/linux/drivers"""

    def __init__(self):
        super().__init__("rv load-modules", gdb.COMMAND_FILES, gdb.COMPLETE_FILENAME)

    def invoke(self, argument, from_tty):
        names = list(loaded_modules())
        directories = [os.path.expanduser(path) for path in gdb.string_to_argv(argument)]
        if not directories:
            version = monitor("kernel").split()[2]
            directories = [root + "/lib/modules/" + version for root in ("/usr/lib/debug", "")]
        files = {}
        for directory in directories:
            for root, _, found in sorted(os.walk(directory)):
                for file in found:
                    stem, ending = os.path.splitext(file)
                    if ending == ".ko":
                        files.setdefault(stem.replace("-", "_"), os.path.join(root, file))
        for name in names:
            path = files.get(name.replace("-", "_"))
            if path is None:
                gdb.write("{}: no {}.ko in {}\n".format(name, name, " or ".join(directories)))
            else:
                load_module(name, path)


class LoadProgram(gdb.Command):
    """Load the symbols of a program that a process of the guest runs.
usage: rv load-program PID FILE

FILE is the program's ELF file, wherever it was loaded to.

example:
  rv load-program 1 /bin/busybox"""

    def __init__(self):
        super().__init__("rv load-program", gdb.COMMAND_FILES, gdb.COMPLETE_FILENAME)

    def invoke(self, argument, from_tty):
        pid, path = words(argument, 2, "rv load-program PID FILE")
        path = os.path.expanduser(path)
        start = int(monitor("ps --code " + pid).strip(), 0)
        offset = (start - first_code_of(path)) & (2**64 - 1)
        add_symbols(path, "-o {:#x}".format(offset))
        gdb.write("{}, moved by {:#x}\n".format(path, offset))


# Agent-expression opcodes by the names that GDB lists them with (GDB manual, appendix F).
OPCODES = {
    "add": 0x02, "sub": 0x03, "mul": 0x04, "div_signed": 0x05, "div_unsigned": 0x06, "rem_signed": 0x07,
    "rem_unsigned": 0x08, "lsh": 0x09, "rsh_signed": 0x0A, "rsh_unsigned": 0x0B, "log_not": 0x0E,
    "bit_and": 0x0F, "bit_or": 0x10, "bit_xor": 0x11, "bit_not": 0x12, "equal": 0x13, "less_signed": 0x14,
    "less_unsigned": 0x15, "ext": 0x16, "ref8": 0x17, "ref16": 0x18, "ref32": 0x19, "ref64": 0x1A,
    "if_goto": 0x20, "goto": 0x21, "const8": 0x22, "const16": 0x23, "const32": 0x24, "const64": 0x25,
    "reg": 0x26, "end": 0x27, "dup": 0x28, "pop": 0x29, "zero_ext": 0x2A, "swap": 0x2B, "pick": 0x32, "rot": 0x33,
}


def bytecode(condition):
    """A condition as agent-expression bytecode in hex, out of GDB's own listing of it."""
    try:
        listing = gdb.execute("maint agent-eval " + condition, to_string=True)
    except gdb.error as error:
        raise gdb.GdbError(str(error))
    found = re.findall(r"^\s*(\d+)\s+(\w+)(?: (\d+))?\s*$", listing, re.M)
    if not found or found[-1][1] != "end" or any(name not in OPCODES for _, name, _ in found):
        raise gdb.GdbError("GDB makes no bytecode of this condition")
    code = bytearray()
    ends = [int(at) for at, _, _ in found[1:]] + [int(found[-1][0]) + 1]
    for (at, name, operand), end in zip(found, ends):
        code.append(OPCODES[name])
        code += int(operand or 0).to_bytes(end - int(at) - 1, "big")
    return code.hex()


class Watch(gdb.Command):
    """Watch an expression, with a condition that the server evaluates, in both directions.
usage: rv watch [-r | -a] EXPRESSION [if CONDITION]

As GDB's `watch -l` (with -r `rwatch`, with -a `awatch`), but a condition costs no round trip. The server looks at it
just after each access; it can have registers, memory and global variables in it. What GDB shows as the old value is
what it saw last, which need not be what was overwritten.

example:
  rv watch jiffies if $rdi == 5"""

    KINDS = {"-r": ("rwatch", "read"), "-a": ("awatch", "access")}

    def __init__(self):
        super().__init__("rv watch", gdb.COMMAND_BREAKPOINTS, gdb.COMPLETE_EXPRESSION)

    def invoke(self, argument, from_tty):
        TABLE.refresh()
        first, _, rest = argument.strip().partition(" ")
        command, kind = self.KINDS.get(first, ("watch", "write"))
        text = rest if first in self.KINDS else argument.strip()
        expression, found, condition = re.match(r"(.*?)(?:\s+(if)\s+(.*))?$", text).groups()
        if not expression:
            raise gdb.GdbError("usage: rv watch [-r | -a] EXPRESSION [if CONDITION]")
        value = evaluate(expression)
        if value.address is None:
            raise gdb.GdbError("{} is nothing in memory".format(expression))
        address = number(value.address)
        code = bytecode(condition) if found else None
        gdb.execute("{} -l {}".format(command, expression))
        if code is not None:
            monitor("watch-if {} {:#x} {}".format(kind, address, code))
            WATCHED[max(breakpoint.number for breakpoint in gdb.breakpoints())] = address


# Watchpoints with conditions: number and address.
WATCHED = {}


def on_deleted(breakpoint):
    """A condition goes with its watchpoint."""
    address = WATCHED.pop(breakpoint.number, None)
    if address is not None:
        try:
            monitor("watch-if --delete {:#x}".format(address))
        except (gdb.error, gdb.GdbError):
            # The server is gone, and the condition with it.
            pass


def words(argument, count, usage):
    found = gdb.string_to_argv(argument)
    if len(found) != count:
        raise gdb.GdbError("usage: " + usage)
    return found


def elf(path):
    """The bytes of a 64-bit little-endian ELF file."""
    try:
        with open(path, "rb") as file:
            data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except (OSError, ValueError) as error:
        raise gdb.GdbError("{}: {}".format(path, getattr(error, "strerror", None) or error))
    if data[:6] != b"\x7fELF\x02\x01" or len(data) < 64:
        raise gdb.GdbError("{}: no 64-bit ELF file".format(path))
    return data


def holds(path, banner):
    """Whether a kernel's file has the banner; one without any banner may be the right one's debug information."""
    data = elf(path)
    return data.find(banner.encode()) >= 0 or data.find(b"Linux version ") < 0


def sections_of(path):
    """Names and addresses of the sections that are in memory."""
    data = elf(path)
    found = {}
    try:
        (table,) = struct.unpack_from("<Q", data, 0x28)
        size, count, names = struct.unpack_from("<HHH", data, 0x3A)
        (text,) = struct.unpack_from("<Q", data, table + names * size + 0x18)
        for n in range(count):
            name, _, flags, address = struct.unpack_from("<IIQQ", data, table + n * size)
            # SHF_ALLOC
            if flags & 2:
                end = data.find(b"\0", text + name)
                found[data[text + name:end].decode(errors="replace")] = address
    except struct.error:
        raise gdb.GdbError("{}: damaged".format(path))
    return found


def first_code_of(path):
    """The lowest address of an executable segment."""
    data = elf(path)
    (table,) = struct.unpack_from("<Q", data, 0x20)
    size, count = struct.unpack_from("<HH", data, 0x36)
    found = []
    try:
        for n in range(count):
            kind, flags, _, address = struct.unpack_from("<IIQQ", data, table + n * size)
            if kind == 1 and flags & 1:
                found.append(address)
    except struct.error:
        raise gdb.GdbError("{}: damaged".format(path))
    if not found:
        raise gdb.GdbError("{}: no program".format(path))
    return min(found)


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
Vmlinux()
LoadModule()
LoadModules()
LoadProgram()
Watch()
gdb.events.breakpoint_deleted.connect(on_deleted)
if hasattr(gdb.events, "before_prompt"):
    gdb.events.before_prompt.connect(on_prompt)

#!/usr/bin/env python3
"""The form of the source, held by a test.

    tests/layers.py REPOSITORY

Fails when an include does not point down the layers (docs/design/DESIGN.md, section 3), when a file
does not include its own folder's header first, when a function in src/ does not fit on a screen, or when
clang-format would change a file.
"""

import os
import re
import shutil
import subprocess
import sys

# folder: what it may include besides itself
BELOW = {
    "base": "",
    "io": "base",
    "net": "base io",
    "store": "base io",
    "raft": "base io net",
    "meta": "base io net raft",
    "osd": "base io net raft meta store",
    "client": "base io net raft meta",
    "volume": "base io net raft meta client",
    "gw": "base io net raft meta client volume",
}
ANYTHING = ("cli", "")  # and src/*.c: they wire the parts together
PRIVATE = ("io/loop_impl.h", "io/loop_sim_impl.h", "io/os.h", "io/uring.h", "io/uv_impl.h",
           "io/sim.h")  # of io/ and of tests
FUNCTION_LINES_MAX = 70

INCLUDE = re.compile(r'^\s*#\s*include\s+"([^"]+)"')


def files(root, *folders):
    for folder in folders:
        for path, names, found in os.walk(os.path.join(root, folder)):
            names.sort()
            for name in sorted(found):
                if name.endswith((".c", ".h")):
                    yield os.path.relpath(os.path.join(path, name), root)


def includes(lines):
    for number, line in enumerate(lines, 1):
        match = INCLUDE.match(line)
        if match:
            yield number, match.group(1)


def check_includes(path, lines):
    folder = path.split("/")[1] if path.count("/") > 1 else ""
    if folder not in BELOW and folder not in ANYTHING:
        yield f"{path}: no layer is known for src/{folder}/"
        return
    for number, target in includes(lines):
        where = f"{path}:{number}"
        if "/" not in target and folder == "":
            continue
        if "/" not in target:
            yield f'{where}: include "{target}" by its path from src/'
            continue
        if target in PRIVATE and folder != "io":
            yield f'{where}: "{target}" is private to io/ and to tests'
        other = target.split("/")[0]
        if folder not in ANYTHING and other != folder and other not in BELOW[folder].split():
            yield f'{where}: {folder}/ must not include "{target}": includes point down'


def check_own_header(root, path, lines):
    """Own header first, or the private one of the folder that includes it: so each is complete."""
    header = path[:-2] + ".h"
    if not path.endswith(".c") or not os.path.exists(os.path.join(root, header)):
        return
    first = next((target for _, target in includes(lines)), "")
    if os.path.dirname(first) != os.path.dirname(header[len("src/"):]):
        yield f"{path}: its own header comes first"


def check_functions(path, lines):
    """Braces of functions alone stand in the first column: the format sees to that."""
    start = None
    for number, line in enumerate(lines, 1):
        if line.startswith("{"):
            start = number
        elif line.startswith("}") and start is not None:
            if number - start + 1 > FUNCTION_LINES_MAX:
                yield f"{path}:{start}: a function of {number - start + 1} lines; at most {FUNCTION_LINES_MAX}"
            start = None


def check_format(root, paths):
    program = shutil.which("clang-format-14") or shutil.which("clang-format")
    if program is None:
        print("layers: clang-format is missing: the format is not checked")
        return
    result = subprocess.run([program, "--dry-run", *paths], cwd=root, capture_output=True, text=True)
    seen = set()
    for line in result.stderr.splitlines():
        match = re.match(r"(.*?):(\d+):\d+: warning", line)
        if match and match.group(1) not in seen:
            seen.add(match.group(1))
            yield f"{match.group(1)}:{match.group(2)}: clang-format would change it"


def main():
    if len(sys.argv) != 2:
        sys.exit("usage: layers.py REPOSITORY")
    root = sys.argv[1]
    source = list(files(root, "src"))
    faults = []
    for path in source:
        with open(os.path.join(root, path), encoding="utf-8") as f:
            lines = f.read().split("\n")
        faults += check_includes(path, lines)
        faults += check_own_header(root, path, lines)
        faults += check_functions(path, lines)
    if not source:
        sys.exit(f"layers: no sources in {root}/src")
    faults += check_format(root, source + list(files(root, "tests", "bench")))
    for fault in faults:
        print(fault)
    if faults:
        sys.exit(f"layers: {len(faults)} faults")
    print(f"layers: {len(source)} files hold")


main()

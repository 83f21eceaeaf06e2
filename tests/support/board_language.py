"""What MicroPython does not have: a reader of source that names each use of it.

Probed on MicroPython 1.29, unix and stm32 ports. mpy-cross finds what does not parse; this finds
what parses and then fails on a board, or means something else there.
"""

from __future__ import annotations

import ast

FORBIDDEN_MODULES = frozenset(
    [
        "typing",
        "dataclasses",
        "enum",
        "abc",
        "functools",
        "contextlib",
        "logging",
        "__future__",
        "pathlib",
        "threading",
    ]
)
FORBIDDEN_ATTRIBUTES = {
    ("struct", "Struct"): "struct.Struct does not exist on MicroPython",
    ("time", "monotonic"): "time.monotonic does not exist on MicroPython: use ticks_ms",
    ("binascii", "crc_hqx"): "binascii.crc_hqx does not exist on MicroPython",
}
# The protocol is handed bytes and a time; with these it would fetch its own.
LINK_MODULES = frozenset({"array", "binascii", "struct", "micropython", "gapless_link"})
LINK_FORBIDDEN_CALLS = frozenset({"open", "print", "input", "__import__", "exec", "eval"})


def board_faults(source: str) -> list[str]:
    """Return one sentence, with its line, for each thing that a board does not understand."""
    return [
        f"line {getattr(node, 'lineno', 0)}: {fault}"
        for node in ast.walk(ast.parse(source))
        for fault in _faults_of(node)
    ]


def link_faults(source: str) -> list[str]:
    """Return one sentence for each import or call with which the protocol would do I/O."""
    faults = []
    for node in ast.walk(ast.parse(source)):
        for module in _modules(node):
            if module.split(".")[0] not in LINK_MODULES:
                faults.append(f"line {node.lineno}: imports {module}")  # type: ignore[attr-defined]
        called = getattr(node.func, "id", "") if isinstance(node, ast.Call) else ""
        if called in LINK_FORBIDDEN_CALLS:
            faults.append(f"line {node.lineno}: calls {called}()")  # type: ignore[attr-defined]
    return faults


def _modules(node: ast.AST) -> list[str]:
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom):
        return [node.module or "gapless_link"]
    return []


def _faults_of(node: ast.AST) -> list[str]:
    faults = [
        f"module {module} does not exist on MicroPython"
        for module in _modules(node)
        if module.split(".")[0] in FORBIDDEN_MODULES
    ]
    if isinstance(node, ast.Match):
        faults.append("match does not parse on MicroPython")
    if isinstance(node, ast.TryStar):
        faults.append("except* does not parse on MicroPython")
    if isinstance(node, ast.arguments) and node.posonlyargs:
        faults.append("positional-only parameters do not parse on MicroPython")
    if isinstance(node, ast.ClassDef) and any(k.arg == "metaclass" for k in node.keywords):
        faults.append("metaclass= does nothing on MicroPython")
    if isinstance(node, ast.Delete):
        faults += [
            'del of a slice fails on a bytearray: write buffer[:n] = b""'
            for target in node.targets
            if isinstance(target, ast.Subscript) and isinstance(target.slice, ast.Slice)
        ]
    if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
        fault = FORBIDDEN_ATTRIBUTES.get((node.value.id, node.attr))
        faults += [fault] if fault else []
    if isinstance(node, ast.Call):
        faults += _faults_of_call(node)
    return faults


def _faults_of_call(node: ast.Call) -> list[str]:
    name = getattr(node.func, "attr", getattr(node.func, "id", ""))
    if name == "clear" and not node.args:
        return ["clear() does not exist on a bytearray: write a new value or empty it by slice"]
    if name in ("from_bytes", "to_bytes") and any(k.arg == "signed" for k in node.keywords):
        return [f"{name}(signed=) does not exist on MicroPython"]
    if name == "_replace":
        return ["namedtuple._replace does not exist on MicroPython"]
    if name == "deque" and len(node.args) < 2:
        return ["deque() needs its bound on MicroPython: deque((), length)"]
    return []

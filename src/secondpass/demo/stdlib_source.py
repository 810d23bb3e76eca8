"""What one module of the standard library binds, told without running Python source.

Knows: how to read a source file with `ast`, and how to inspect a module that has none. Refuses to know:
which names are public, and what becomes a document.
"""

from __future__ import annotations

import ast
import importlib
import importlib.util
import inspect
import re
import tokenize
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from importlib.machinery import ExtensionFileLoader
from pathlib import Path

__all__ = ["Definition", "Module", "Origin", "inspect_compiled", "is_compiled", "read_source"]

Origin = tuple[str, ...] | int
"""The same for the same object, however it is reached: its place in the source, or its identity."""


@dataclass(frozen=True, slots=True)
class Definition:
    """A class, function or method: `module` defines it, `bases` are dotted names as that module sees them."""

    kind: str
    name: str
    module: str
    doc: str
    signature: str
    origin: Origin
    members: tuple[Definition, ...] = ()
    bases: tuple[str, ...] = ()

    @property
    def is_compiled(self) -> bool:
        """Whether it was inspected rather than read."""
        return isinstance(self.origin, int)


@dataclass(slots=True)
class Module:
    """A module's top level. Names map to everything the source may bind them to, in its order.

    `imports` maps a name to full dotted names ("reduce": ["_functools.reduce"]), `aliases` to dotted names
    as seen from here ("Lock": ["_thread.lock"]), `instances` to the class called ("_inst": "Random").
    `borrowed` are names whose docstring is that of another ("splitext": "genericpath._splitext").
    `stars` are modules imported with `*`. `exports` is `__all__` where the source spells it out, else None;
    its entry "x.*" stands for `x.__all__`.
    """

    name: str
    doc: str = ""
    is_package: bool = False
    definitions: dict[str, Definition] = field(default_factory=dict)
    imports: dict[str, list[str]] = field(default_factory=dict)
    aliases: dict[str, list[str]] = field(default_factory=dict)
    instances: dict[str, str] = field(default_factory=dict)
    borrowed: dict[str, str] = field(default_factory=dict)
    stars: list[str] = field(default_factory=list)
    exports: list[str] | None = None


def read_source(name: str, file: Path) -> Module:
    """What the module's source binds at top level, both branches of every `if` and `try` included."""
    with tokenize.open(file) as stream:  # minds the file's coding line
        tree = ast.parse(stream.read(), filename=str(file))
    module = Module(name, ast.get_docstring(tree) or "", file.name == "__init__.py")
    exports: list[str] | None = None
    readable = True
    for statement in _flat(tree.body):
        match statement:
            case ast.ClassDef() | ast.FunctionDef() | ast.AsyncFunctionDef():
                definition = _definition(statement, name, ())
                known = module.definitions.get(definition.name)
                if known is None or (definition.doc and not known.doc):  # of several, the first that is documented
                    module.definitions[definition.name] = definition
            case ast.Import(names=names):
                for alias in names:
                    target = alias.name if alias.asname else alias.name.partition(".")[0]
                    module.imports.setdefault(alias.asname or target, []).append(target)
            case ast.ImportFrom(names=names):
                source = _imported(statement, module)
                for alias in names:
                    if alias.name == "*":
                        module.stars.append(source)
                    elif alias.name == "__all__":
                        exports = [f"{source}.*"]
                    else:
                        module.imports.setdefault(alias.asname or alias.name, []).append(f"{source}.{alias.name}")
            case ast.Assign(targets=[ast.Name(id="__all__")], value=value):
                exports = _exported(value, module)
                readable = exports is not None
            case (
                ast.AugAssign(target=ast.Name(id="__all__"), value=value)
                | ast.Expr(
                    value=ast.Call(func=ast.Attribute(value=ast.Name(id="__all__"), attr="extend"), args=[value])
                )
            ):
                more = _exported(value, module)
                readable = readable and more is not None
                exports = (exports or []) + (more or [])
            case ast.Expr(
                value=ast.Call(
                    func=ast.Attribute(value=ast.Name(id="__all__"), attr="append"),
                    args=[ast.Constant(value=str(listed))],
                )
            ):
                exports = [*(exports or []), listed]
            case ast.Assign(targets=[ast.Name(id="__doc__")], value=ast.Constant(value=str(text))):
                module.doc = inspect.cleandoc(text)
            case ast.Assign(
                targets=[ast.Attribute(value=ast.Name(id=target), attr="__doc__")],
                value=ast.Attribute(value=ast.Name() | ast.Attribute() as source_of, attr="__doc__"),
            ):
                module.borrowed[target] = ast.unparse(source_of)
            case ast.Assign(targets=[ast.Name(id=target)], value=ast.Call(func=ast.Name(id=called), args=[])):
                module.instances[target] = called
            case ast.Assign(targets=[ast.Name(id=target)], value=ast.Name() | ast.Attribute() as value):
                module.aliases.setdefault(target, []).append(ast.unparse(value))
    module.exports = exports if readable else None
    return module


def is_compiled(name: str) -> bool:
    """Whether a top-level module is built into the interpreter or a compiled extension of it."""
    spec = importlib.util.find_spec(name)
    return spec is not None and (spec.origin == "built-in" or isinstance(spec.loader, ExtensionFileLoader))


def inspect_compiled(name: str) -> Module:
    """What a compiled module binds; nothing where there is none of that name, or where it does not load."""
    if "." in name or not is_compiled(name):
        return Module(name)
    try:
        live = importlib.import_module(name)
    except ImportError:  # _tkinter without Tk: there is nothing to describe on this machine
        return Module(name)
    module = Module(name, inspect.cleandoc(live.__doc__ or ""))
    for attribute, bound in sorted(vars(live).items()):
        value = vars(live).get(f"__{attribute}__", bound)  # a program may have replaced sys.displayhook; this one stays
        if inspect.isclass(value) or (inspect.isroutine(value) and not inspect.isfunction(value)):
            module.definitions[attribute] = _inspected(value, name)
    return module


def _flat(body: Iterable[ast.stmt]) -> Iterator[ast.stmt]:
    """Statements in order, those inside `if`, `try`, `with` and loops included."""
    for statement in body:
        yield statement
        match statement:
            case ast.If(body=inner, orelse=other) | ast.For(body=inner, orelse=other):
                yield from _flat([*inner, *other])
            case ast.Try(body=inner, handlers=handlers, orelse=other, finalbody=last):
                # a definition of the usual course comes before its stand-in
                yield from _flat([*inner, *other, *(line for handler in handlers for line in handler.body), *last])
            case ast.With(body=inner):
                yield from _flat(inner)


def _definition(
    node: ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef, module: str, owner: tuple[str, ...]
) -> Definition:
    origin = (module, *owner, node.name)
    doc = ast.get_docstring(node) or ""
    if not isinstance(node, ast.ClassDef):
        kind = "method" if owner else "function"
        return Definition(kind, node.name, module, doc, _signature(node, is_method=bool(owner)), origin)
    members: dict[str, Definition] = {}
    for statement in _flat(node.body):
        if isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef) and not statement.name.startswith("_"):
            member = _definition(statement, module, (*owner, node.name))
            if statement.name not in members or (member.doc and not members[statement.name].doc):
                members[statement.name] = member
    bases = tuple(ast.unparse(base) for base in node.bases if isinstance(base, ast.Name | ast.Attribute))
    return Definition("class", node.name, module, doc, "", origin, tuple(members.values()), bases)


def _signature(node: ast.FunctionDef | ast.AsyncFunctionDef, *, is_method: bool) -> str:
    """`(a, b=1)` without self and annotations; empty for a property and for the special forms of typing."""
    decorators = {ast.unparse(decorator).rpartition(".")[2] for decorator in node.decorator_list}
    if decorators & {"property", "cached_property", "setter"} or any("SpecialForm" in name for name in decorators):
        return ""
    arguments = node.args
    for argument in ast.walk(arguments):
        if isinstance(argument, ast.arg):
            argument.annotation = None
    if is_method and "staticmethod" not in decorators:
        first = arguments.posonlyargs or arguments.args
        del first[:1]
    return f"({ast.unparse(arguments)})"


def _imported(statement: ast.ImportFrom, module: Module) -> str:
    """Full name of the module an `from … import` takes from."""
    if not statement.level:
        return statement.module or ""
    parts = module.name.split(".")
    package = parts[: len(parts) - statement.level + module.is_package]
    return ".".join([*package, *([statement.module] if statement.module else [])])


def _exported(value: ast.expr, module: Module) -> list[str] | None:
    """The names an expression for `__all__` lists; None where it cannot be read."""
    match value:
        case ast.List(elts=elements) | ast.Tuple(elts=elements):
            listed = [element.value for element in elements if isinstance(element, ast.Constant)]
            names = [name for name in listed if isinstance(name, str)]
            return names if len(names) == len(elements) else None
        case ast.BinOp(left=left, op=ast.Add(), right=right):
            first, second = _exported(left, module), _exported(right, module)
            return None if first is None or second is None else first + second
        case ast.Attribute(value=ast.Name(id=source), attr="__all__"):
            if module.is_package and source not in module.imports:  # importing a submodule binds its name
                return [f"{module.name}.{source}.*"]
            return [f"{target}.*" for target in module.imports.get(source, ())] or None
    return None


def _inspected(value: object, module: str, attribute: str = "") -> Definition:
    """A compiled class or function, or a method of one, which is known by its attribute."""
    name = attribute or getattr(value, "__name__", "")
    doc = getattr(value, "__doc__", None)
    text = inspect.cleandoc(doc) if isinstance(doc, str) else ""
    signature = " ".join((getattr(value, "__text_signature__", None) or "").split())
    signature = re.sub(r"^\(\$\w+(, /)?(, )?", "(", signature)
    if not inspect.isclass(value):
        kind = "method" if attribute else "function"
        return Definition(kind, name, module, text, signature, id(value))
    members = tuple(
        _inspected(member, module, attribute)
        for attribute, member in sorted(vars(value).items())
        if not attribute.startswith("_") and (inspect.isroutine(member) or inspect.isdatadescriptor(member))
    )
    return Definition("class", name, module, text, signature, id(value), members)

"""The documentation of this machine's standard library, as a collection with questions and judgments.

Knows: how a public name of the standard library becomes one document, and where the questions and
judgments lie. Refuses to know: retrieval, metrics, and any network.

**Documents.** One per public module, class, function and method (properties count as methods) that has a
docstring. Python source is read with `ast` and never executed. Modules that have no Python source, built
into the interpreter or compiled extensions, are imported and inspected; importing one may make it import
what it needs itself. An extension that does not load (tkinter without Tk, say) gives no documents.

**Ids** are the names a user writes, with these rules:

- Public means no leading underscore in any part, and listed in `__all__` where the module has one that can
  be read without running it.
- What a public module takes from a private one, or a package from its own submodules, belongs to the
  importer: `datetime.date` (defined in `_pydatetime` since Python 3.12), `os.listdir` (`posix`),
  `json.JSONDecoder` (`json.decoder`). Where there is source and a compiled twin, the source is read.
- Built-ins go without `builtins.`: `len`, `str.split`. `posixpath` or `ntpath` is `os.path`.
- Module-level shorthands of a hidden instance go by the shorthand: `random.choice`, not `random.Random.choice`.
- Methods stand where they are defined; those of a private base class stand with the public class.
- One object is one document: of several names the most direct wins.
"""

from __future__ import annotations

import os.path
import sys
import sysconfig
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType

from secondpass.demo.stdlib_source import Definition, Module, Origin, inspect_compiled, is_compiled, read_source
from secondpass.errors import CollectionError
from secondpass.types import Document

__all__ = ["stdlib_documents"]

_SKIPPED: Mapping[str, str] = MappingProxyType(
    {
        **dict.fromkeys(("test", "idlelib", "lib2to3"), "programs and tests, not a library"),
        **dict.fromkeys(("tkinter", "turtle", "turtledemo"), "absent where Tk is packaged apart, as on Debian"),
        **dict.fromkeys(("antigravity", "this"), "jokes"),
        **dict.fromkeys(("encodings", "pydoc_data"), "tables"),
        **dict.fromkeys(("ensurepip", "venv"), "installers, used from the command line"),
        **dict.fromkeys(("sre_compile", "sre_constants", "sre_parse"), "deprecated names of private parts of re"),
        **dict.fromkeys(("posix", "nt", "genericpath"), "written as os and os.path"),
        **dict.fromkeys({"posixpath", "ntpath"} - {os.path.__name__}, "os.path of the other system"),
        **dict.fromkeys(
            ("aifc", "asynchat", "asyncore", "audioop", "cgi", "cgitb", "chunk", "crypt", "distutils", "imghdr", "imp"),
            "gone by Python 3.13",
        ),
        **dict.fromkeys(
            ("mailcap", "msilib", "nis", "nntplib", "ossaudiodev", "pipes", "smtpd", "sndhdr", "spwd", "sunau"),
            "gone by Python 3.13",
        ),
        **dict.fromkeys(("telnetlib", "uu", "xdrlib"), "gone by Python 3.13"),
    }
)
"""Top-level modules that are left out, with the reason. The collection should be much the same everywhere."""

_SKIPPED_PACKAGES: Mapping[str, str] = MappingProxyType(
    {"test": "tests", "tests": "tests", "site-packages": "not of the library"}
)
"""Folders that are left out wherever they lie, with the reason."""

_WRITTEN_AS: Mapping[str, str] = MappingProxyType({os.path.__name__: "os.path", "_collections_abc": "collections.abc"})
"""Modules whose names users write differently."""


def stdlib_documents(on_progress: Callable[[int, int], None] | None = None, root: Path | None = None) -> list[Document]:
    """The documents of this interpreter's standard library, sorted by id; ids are unique.

    `title` is the id with the signature where it is known, `text` the cleaned docstring, `metadata` holds
    `module` (public module) and `kind` (module, class, function, method). `on_progress(done, total)` counts
    modules. `root` is the folder of the library's source (default: that of this interpreter).

    Raises CollectionError where the folder holds no Python source.
    """
    folder = Path(sysconfig.get_paths()["stdlib"]) if root is None else root
    library = _Library(folder)
    if not library.sources:
        raise CollectionError(
            f"{folder}: no Python source of the standard library here (an embedded or zipped Python?); "
            "use an installation that has its .py files"
        )
    modules = library.public_modules()
    best: dict[Origin, _Candidate] = {}
    for done, name in enumerate(modules, start=1):
        for origin, candidate in _candidates(library, name):
            if origin not in best or candidate < best[origin]:
                best[origin] = candidate
        if on_progress is not None:
            on_progress(done, len(modules))
    by_id: dict[str, Document] = {}
    for candidate in sorted(best.values()):  # a name that two objects share, as in asyncio.timeouts, goes to the better
        by_id.setdefault(candidate.document.id, candidate.document)
    return [by_id[key] for key in sorted(by_id)]


@dataclass(frozen=True, slots=True, order=True)
class _Candidate:
    """A document under one of an object's names; the least in order is the name a user would write."""

    renamed: bool
    inherited: int
    unlisted: bool
    dots: int
    identifier: str
    document: Document = field(compare=False)


def _candidates(library: _Library, name: str) -> Iterator[tuple[Origin, _Candidate]]:
    """(object, name for it) for everything that the public module `name` offers."""
    module = library.module(name)
    written = _WRITTEN_AS.get(name, name)
    prefix = "" if name == "builtins" else f"{written}."
    exports = library.exports(module)
    listed = module.exports is not None or name not in library.sources

    def candidate(identifier: str, found: Definition, *, inherited: int, renamed: bool) -> tuple[Origin, _Candidate]:
        kind = "method" if identifier.removeprefix(prefix).count(".") else found.kind.replace("method", "function")
        document = _document(identifier, found.signature, found.doc, written, kind)
        return found.origin, _Candidate(renamed, inherited, not listed, identifier.count("."), identifier, document)

    if doc := library.doc(module):
        document = _document(written, "", doc, written, "module")
        yield (name,), _Candidate(False, 0, False, 0, written, document)
    for public in exports:
        if public.startswith("_"):
            continue
        found, inherited = library.find(module, public), 0
        if found is None:
            found, inherited = library.shorthand(module, public)
        if found is None or not _offers(name, found.module):
            continue
        renamed = found.name != public
        if found.doc:
            yield candidate(prefix + public, found, inherited=inherited, renamed=renamed)
        for member, inherited in library.members(found):
            if member.doc:
                yield candidate(f"{prefix}{public}.{member.name}", member, inherited=inherited, renamed=renamed)


def _document(identifier: str, signature: str, doc: str, module: str, kind: str) -> Document:
    return Document(identifier, doc, identifier + signature, MappingProxyType({"module": module, "kind": kind}))


def _offers(module: str, definer: str) -> bool:
    """Whether what `definer` defines is `module`'s to offer: its own, its submodules', or a private module's."""
    return definer == module or definer.startswith(f"{module}.") or _is_private(definer)


def _is_private(module: str) -> bool:
    hidden = any(part.startswith("_") for part in module.split(".")) or module in ("posix", "nt", "genericpath")
    return hidden and module not in _WRITTEN_AS


class _Library:
    """The standard library's modules, each read once, and names followed through their imports."""

    def __init__(self, root: Path) -> None:
        self.sources = dict(_sources(root))
        self._modules: dict[str, Module] = {}

    def public_modules(self) -> list[str]:
        """Names of the public modules, sorted: those with source and those compiled."""
        top = {name for name in sys.stdlib_module_names if not _is_private(name) and name not in _SKIPPED}
        with_source = {name for name in self.sources if name.partition(".")[0] in top and not _is_private(name)}
        return sorted(with_source | {name for name in top if name not in self.sources and is_compiled(name)})

    def module(self, name: str) -> Module:
        """What the module binds; nothing for one that is neither source of the library nor compiled."""
        if name not in self._modules:
            file = self.sources.get(name)
            self._modules[name] = read_source(name, file) if file else inspect_compiled(name)
        return self._modules[name]

    def doc(self, module: Module) -> str:
        """The module's docstring, or the one it imports (datetime, since Python 3.12)."""
        taken = (self.module(target.rpartition(".")[0]) for target in module.imports.get("__doc__", ()))
        return module.doc or next((source.doc for source in taken if source.doc), "")

    def exports(self, module: Module, seen: frozenset[str] = frozenset()) -> list[str]:
        """Names that `from module import *` brings, as far as the source tells."""
        if module.name in seen:
            return []
        seen |= {module.name}
        if module.exports is not None:
            return [
                name
                for entry in module.exports
                for name in (self.exports(self.module(entry[:-2]), seen) if entry.endswith(".*") else [entry])
            ]
        bound = [*module.definitions, *module.imports, *module.aliases]
        for star in module.stars:
            bound += self.exports(self.module(star), seen)
        return [name for name in dict.fromkeys(bound) if not name.startswith("_")]

    def find(self, module: Module, name: str, seen: frozenset[tuple[str, str]] = frozenset()) -> Definition | None:
        """The class or function behind a module's name. Of several: documented first, and source before compiled."""
        own = module.definitions.get(name)
        if (own and own.doc) or (module.name, name) in seen:
            return own
        seen |= {(module.name, name)}
        if own and name in module.borrowed:
            docs = [lender.doc for lender in self.follow(module, module.borrowed[name], seen)]
            own = replace(own, doc="".join(docs[:1]))
        found: list[Definition | None] = [own]
        for dotted in module.aliases.get(name, ()):
            found += self.follow(module, dotted, seen)
        for target in module.imports.get(name, ()):
            source, _, attribute = target.rpartition(".")
            found += [self.find(self.module(source), attribute, seen)] if source else []
        for star in module.stars:
            found += [self.find(self.module(star), name, seen)]
        if not any(found) and module.is_package and name in (module.exports or ()):
            # bound at first use by the package's __getattr__, as in concurrent.futures
            inside = (other for other in self.sources if other.rpartition(".")[0] == module.name)
            found += [self.module(other).definitions.get(name) for other in inside]
        return min(
            filter(None, found), key=lambda definition: (not definition.doc, definition.is_compiled), default=None
        )

    def follow(self, module: Module, dotted: str, seen: frozenset[tuple[str, str]] = frozenset()) -> list[Definition]:
        """What `a` or `a.b` may mean inside a module."""
        head, _, attribute = dotted.rpartition(".")
        if not head:
            return [found] if (found := self.find(module, attribute, seen)) else []
        reached = (self.find(self.module(target), attribute, seen) for target in module.imports.get(head, ()))
        return [found for found in reached if found]

    def members(self, owner: Definition, inherited: int = 0) -> Iterator[tuple[Definition, int]]:
        """(method, steps of inheritance): the class's own, then what it takes from private bases."""
        own = {member.name for member in owner.members}
        yield from ((member, inherited) for member in owner.members)
        for dotted in owner.bases:
            for base in self.follow(self.module(owner.module), dotted):
                if base.origin != owner.origin and (base.name.startswith("_") or _is_private(base.module)):
                    yield from (pair for pair in self.members(base, inherited + 1) if pair[0].name not in own)

    def shorthand(self, module: Module, name: str) -> tuple[Definition | None, int]:
        """(method, steps of inheritance) behind `choice = _inst.choice` (`_inst = Random()`) or `open = TarFile.open`.

        (None, 0) where there is none.
        """
        for dotted in module.aliases.get(name, ()):
            owner, _, attribute = dotted.rpartition(".")
            if attribute == name:
                for found in self.follow(module, module.instances.get(owner, owner)):
                    for member, inherited in self.members(found):
                        if member.name == name:
                            return member, inherited
        return None, 0


def _sources(root: Path) -> Iterator[tuple[str, Path]]:
    """(module name, file) for every module of the library that has source."""
    for top in sorted(sys.stdlib_module_names - (_SKIPPED.keys() - {"genericpath"})):
        if (file := root / f"{top}.py").is_file():
            yield top, file
        for file in sorted((root / top).rglob("*.py")) if (root / top / "__init__.py").is_file() else ():
            parts = file.relative_to(root).with_suffix("").parts
            if parts[-1] != "__main__" and not any(package in _SKIPPED_PACKAGES for package in parts[:-1]):
                yield ".".join(parts[:-1] if parts[-1] == "__init__" else parts), file

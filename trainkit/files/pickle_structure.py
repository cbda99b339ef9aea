"""What a pickle of ``torch.save`` would build, worked out without building it.

``torch.load(weights_only=True)`` calls many functions that ``torch.save`` never writes.  Some of them take memory
by a number in the file: ``torch.Tensor(10**10)``.  Lists that hold one another several times are small in memory,
but endless for code that walks through them.  So the structure is read here first, instruction by instruction, and
everything that ``torch.save`` does not write is refused.
"""

from __future__ import annotations

import _compat_pickle
import pickletools
from collections.abc import Callable, Iterable, Mapping
from typing import Any

#: The element sizes, in bytes, of the storage types that a file may name.
STORAGES: Mapping[str, int] = {
    **dict.fromkeys(("torch DoubleStorage", "torch LongStorage", "torch ComplexFloatStorage"), 8),
    **dict.fromkeys(("torch FloatStorage", "torch IntStorage", "torch QInt32Storage"), 4),
    **dict.fromkeys(("torch HalfStorage", "torch BFloat16Storage", "torch ShortStorage"), 2),
    **dict.fromkeys(("torch CharStorage", "torch ByteStorage", "torch BoolStorage", "torch QInt8Storage"), 1),
    **dict.fromkeys(("torch QUInt8Storage", "torch QUInt4x2Storage", "torch QUInt2x4Storage"), 1),
    "torch ComplexDoubleStorage": 16,
    "torch.storage UntypedStorage": 1,
}
#: How many elements of a tensor share an element of its storage.
_PACKED = {"torch QUInt4x2Storage": 2, "torch QUInt2x4Storage": 4}
#: A value that is repeated by reference counts each time.  This many are allowed in any file.
ALLOWED_VALUES = 1_000_000
ALLOWED_VALUES_PER_BYTE = 16
#: ``torch.save`` itself cannot write anything deeper.
DEEPEST = 1000
#: Of tuples that are keys of a dict, since hashing walks through them each time.
MOST_KEY_VALUES = 1000

#: The instructions that protocol 2 of ``pickle`` writes for what is allowed here.
_PLAIN_VALUES = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_NUMBERS_AND_TEXTS = frozenset({"BININT", "BININT1", "BININT2", "BINFLOAT", "LONG1", "BINUNICODE"})
_EMPTY = {"EMPTY_LIST": "list", "EMPTY_TUPLE": "tuple", "EMPTY_DICT": "dict"}
_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
_DICTS = frozenset({"dict", "OrderedDict", "Counter"})
_HASHABLE = frozenset({"tuple", "plain", "name", "object"})


class StructureError(ValueError):
    """A structure that ``torch.save`` would not write, or that claims more than its file holds."""


class Node:
    """A value with parts.

    Attributes:
        kind: ``list``, ``tuple``, ``dict``, ``OrderedDict``, ``Counter``, ``set``, ``bytearray``, ``storage``,
            ``tensor``, ``plain`` (a hashable value), ``name`` (of a class, function or constant), or ``object``
            (of a class that the user allowed).
        items: its parts; of a dict keys and values in turn.
        name: of a ``name``, as in the file: module and name with a blank between them.
        elements: how many a storage or tensor has.
        held: how many elements of a tensor its storage has room for.
        element_bytes: the size of one, in a storage.
        made: how many bytes a call makes of a text, or how many elements it reads again.
    """

    __slots__ = ("element_bytes", "elements", "held", "items", "kind", "made", "name")

    def __init__(self, kind: str, items: Iterable[Any] = (), *, name: str = "") -> None:
        self.kind, self.items, self.name = kind, list(items), name
        self.elements = self.held = self.element_bytes = self.made = 0


def check_structure(data: bytes, entries: Mapping[str, int], *, allowed: Iterable[str] = ()) -> None:
    """Refuse a structure that ``torch.save`` would not write for plain values and tensors.

    Args:
        data: the pickle.
        entries: the sizes in bytes of the stored tensors, by key.
        allowed: more names that may be called, ``module.name``.

    Raises:
        StructureError: with what was found.
        ValueError: it is not a pickle.

    >>> import pickle
    >>> check_structure(pickle.dumps({"epoch": 3, "losses": [0.5, 0.25]}, protocol=2), {})
    >>> check_structure(pickle.dumps(print, protocol=2), {})
    Traceback (most recent call last):
    ...
    trainkit.files.pickle_structure.StructureError: it asks for __builtin__ print
    """
    root = _Reader(data, entries, frozenset(allowed)).read()
    _check_size(root, ALLOWED_VALUES + ALLOWED_VALUES_PER_BYTE * len(data))


class _Reader:
    def __init__(self, data: bytes, entries: Mapping[str, int], allowed: frozenset[str]) -> None:
        self.data, self.entries, self.allowed = data, entries, allowed
        self.stack: list[Any] = []
        self.marks: list[list[Any]] = []
        self.memo: dict[int, Any] = {}
        self.storage_types: dict[str, str] = {}

    def read(self) -> Any:
        if self.data[:2] != b"\x80\x02":
            raise StructureError("its structure is not of pickle protocol 2")
        for opcode, argument, position in pickletools.genops(self.data):
            if opcode.name == "STOP":
                if position != len(self.data) - 1 or len(self.stack) != 1 or self.marks:
                    raise StructureError("its structure does not end where it should")
                return self.stack[0]
            if opcode.name != "PROTO":
                self._do(opcode.name, argument)
            elif position:
                raise StructureError("its structure begins twice")
        raise StructureError("its structure has no end")

    def _do(self, opcode: str, argument: Any) -> None:
        stack = self.stack
        if opcode in _NUMBERS_AND_TEXTS:
            stack.append(argument)
        elif opcode in ("BINPUT", "LONG_BINPUT"):
            self.memo[argument] = stack[-1]
        elif opcode in ("BINGET", "LONG_BINGET"):
            stack.append(self.memo[argument])
        elif opcode in _PLAIN_VALUES:
            stack.append(_PLAIN_VALUES[opcode])
        elif opcode in _EMPTY:
            stack.append(Node(_EMPTY[opcode]))
        elif opcode in _TUPLES:
            items = [stack.pop() for _ in range(_TUPLES[opcode])]
            stack.append(Node("tuple", reversed(items)))
        elif opcode == "MARK":
            self.marks.append(stack)
            self.stack = []
        elif opcode in ("TUPLE", "APPENDS", "SETITEMS"):
            self.stack = self.marks.pop()
            if opcode == "TUPLE":
                self.stack.append(Node("tuple", stack))
            else:
                self._put(stack, into_list=opcode == "APPENDS")
        elif opcode == "APPEND":
            self._put([stack.pop()], into_list=True)
        elif opcode == "SETITEM":
            value, key = stack.pop(), stack.pop()
            self._put([key, value], into_list=False)
        elif opcode == "GLOBAL":
            stack.append(self._named(argument))
        elif opcode == "BINPERSID":
            stack.append(self._storage(stack.pop()))
        elif opcode in ("REDUCE", "NEWOBJ"):
            arguments, function = stack.pop(), stack.pop()
            stack.append(self._call(function, arguments, new=opcode == "NEWOBJ"))
        elif opcode == "BUILD":
            self._build(stack.pop(), stack[-1])
        else:
            raise StructureError(f"it has the instruction {opcode}, which torch.save does not write")

    def _put(self, items: list[Any], *, into_list: bool) -> None:
        target = self.stack[-1]
        kind = target.kind if isinstance(target, Node) else type(target).__name__
        if kind != "list" if into_list else kind not in _DICTS or len(items) % 2:
            raise StructureError(f"it puts {'items' if into_list else 'keys and values'} into a {kind}")
        if not into_list:
            for key in items[::2]:
                if isinstance(key, Node):
                    _check_key(key)
        target.items += items

    def _named(self, name: str) -> Node:
        if name in _CALLS or name in _VALUES or name in STORAGES or self._is_allowed(name) or _is_dtype(name):
            return Node("name", name=name)
        raise StructureError(f"it asks for {name}")

    def _is_allowed(self, name: str) -> bool:
        # Protocol 2 writes the names of Python 2, such as __builtin__ xrange, and torch.load reads them as these.
        module, _, attribute = name.partition(" ")
        renamed = _compat_pickle.IMPORT_MAPPING.get(module, module), attribute
        return ".".join(_compat_pickle.NAME_MAPPING.get((module, attribute), renamed)) in self.allowed

    def _storage(self, described: Any) -> Node:
        items = described.items if _is(described, "tuple") else []
        if len(items) != 5 or items[0] != "storage" or not _is(items[1], "name") or type(items[2]) is not str:
            raise StructureError("it refers to something else than a stored tensor")
        _, kind, key, _, elements = items
        if kind.name not in STORAGES or self.storage_types.setdefault(key, kind.name) != kind.name:
            raise StructureError(f"it stores {key!r} as {kind.name}")
        storage = Node("storage")
        storage.element_bytes = STORAGES[kind.name]
        storage.elements = _count(elements)
        storage.held = storage.elements * _PACKED.get(kind.name, 1)
        if self.entries.get(key, -1) // storage.element_bytes != storage.elements:
            claimed, found = storage.elements * storage.element_bytes, self.entries.get(key, 0)
            raise StructureError(f"it claims {claimed:,} bytes for stored tensor {key!r}, which has {found:,}")
        return storage

    def _call(self, function: Any, arguments: Any, *, new: bool) -> Node:
        name = function.name if _is(function, "name") else ""
        if not _is(arguments, "tuple"):
            raise StructureError(f"it calls {name or 'something'} without a tuple of arguments")
        if self._is_allowed(name):
            return Node("object", arguments.items)
        if new or name not in _CALLS:
            raise StructureError(f"it calls {name or 'something that has no name'}")
        try:
            return _CALLS[name](arguments.items)
        except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
            if isinstance(error, StructureError):
                raise
            raise StructureError(f"it calls {name} with other arguments than torch.save writes") from error

    def _build(self, state: Any, target: Any) -> None:
        if not (_is(target, "OrderedDict") and _is(state, "dict")) and not _is(target, "object"):
            raise StructureError("it sets attributes of something else than an OrderedDict")
        target.items += ["", state]  # counted as an item more


# --- what torch.save writes calls of ------------------------------------------------------------------


def _expect(condition: bool) -> None:
    if not condition:
        raise ValueError


def _count(value: Any) -> int:
    if type(value) is not int or value < 0:
        raise StructureError(f"it claims {value!r:.40} elements")
    return value


def _counts(value: Any) -> list[int]:
    _expect(_is(value, "tuple") or _is(value, "plain"))
    return [_count(item) for item in value.items]


def _plain(*kinds: type) -> Callable[[list[Any]], Node]:
    def call(arguments: list[Any]) -> Node:
        _expect(len(arguments) == len(kinds) and all(map(isinstance, arguments, kinds)))
        return Node("plain")

    return call


def _device(arguments: list[Any]) -> Node:
    _expect(type(arguments[0]) is str and all(type(index) is int for index in arguments[1:]))
    return Node("plain")


def _size(arguments: list[Any]) -> Node:
    (size,) = arguments
    return Node("plain", _counts(size))


def _encoded(arguments: list[Any]) -> Node:
    text, encoding = arguments
    _expect(type(text) is str and encoding == "latin1")
    return _made("plain", len(text))


def _bytearray(arguments: list[Any]) -> Node:
    _expect(all(_is(argument, "plain") for argument in arguments) and len(arguments) <= 1)
    return _made("bytearray", sum(argument.made for argument in arguments))


def _made(kind: str, length: int) -> Node:
    node = Node(kind)
    node.made = length
    return node


def _set(arguments: list[Any]) -> Node:
    (items,) = arguments
    _expect(_is(items, "list"))
    for item in items.items:
        _check_key(item)
    return Node("set", items.items)


def _ordered_dict(arguments: list[Any]) -> Node:
    _expect(not arguments)
    return Node("OrderedDict")


def _counter(arguments: list[Any]) -> Node:
    _expect(all(_is(argument, "dict") for argument in arguments) and len(arguments) <= 1)
    return Node("Counter", arguments[0].items if arguments else ())


def _tensor(arguments: list[Any]) -> Node:
    storage, offset, size, stride, requires_grad, hooks, *metadata = arguments
    return _view(storage, offset, size, stride, requires_grad, hooks, metadata, storage.element_bytes)


def _tensor_of_dtype(arguments: list[Any]) -> Node:
    storage, offset, size, stride, requires_grad, hooks, dtype, *metadata = arguments
    _expect(_is(dtype, "name") and _is_dtype(dtype.name))
    return _view(storage, offset, size, stride, requires_grad, hooks, metadata, _dtype(dtype.name).itemsize)


def _view(
    storage: Any,
    offset: Any,
    size: Any,
    stride: Any,
    requires_grad: Any,
    hooks: Any,
    metadata: list[Any],
    element_bytes: int,
) -> Node:
    """Return a tensor that lies within its storage."""
    _expect(_is(storage, "storage") and type(requires_grad) is bool and _no_hooks(hooks) and len(metadata) <= 1)
    sizes, strides = _counts(size), _counts(stride)
    _expect(len(sizes) == len(strides))
    tensor = Node("tensor", [part for each in metadata if _is(each, "dict") for part in each.items])
    tensor.elements, tensor.held = 1, storage.held * storage.element_bytes // element_bytes
    for each in sizes:
        tensor.elements *= each
    last = _count(offset) + sum((each - 1) * step for each, step in zip(sizes, strides, strict=True))
    if tensor.elements >= 2**63 or (tensor.elements and last >= tensor.held):
        raise StructureError(
            f"it claims a tensor of shape {tuple(sizes)} and stride {tuple(strides)} in a storage of "
            f"{tensor.held:,} elements"
        )
    return tensor


def _parameter(arguments: list[Any]) -> Node:
    data, requires_grad, hooks, *state = arguments
    _expect(_is(data, "tensor") and type(requires_grad) is bool and _no_hooks(hooks) and len(state) <= 1)
    return _with_attributes(data, state)


def _tensor_of_type(arguments: list[Any]) -> Node:
    function, new_type, parts, state = arguments
    _expect(_is(new_type, "name") and _is(parts, "tuple"))
    return _with_attributes(_TENSORS[function.name](parts.items), [state])


def _with_attributes(data: Node, state: list[Any]) -> Node:
    tensor = Node("tensor", data.items)
    tensor.elements, tensor.held = data.elements, data.held
    for attributes in state:
        parts = attributes.items if _is(attributes, "tuple") else [attributes]
        for part in parts:
            _expect(part is None or _is(part, "dict"))
            names = part.items[::2] if part is not None else []
            _expect(all(type(name) is str and not name.startswith("__") for name in names))
        tensor.items.append(attributes)
    return tensor


def _sparse(arguments: list[Any]) -> Node:
    _, data = arguments
    tensors = [part for part in data.items if _is(part, "tensor")]
    _expect(len(tensors) in (2, 3))
    tensor = Node("tensor", data.items)
    for each in tensors:
        tensor.made += max(0, each.elements - each.held)  # checking it goes through all of them
        tensor.elements, tensor.held = tensor.elements + each.elements, tensor.held + each.held
    return tensor


def _quantized(arguments: list[Any]) -> Node:
    storage, offset, size, stride, parameters, requires_grad, hooks = arguments
    tensor = _view(storage, offset, size, stride, requires_grad, hooks, [], storage.element_bytes)
    _expect(_is(parameters, "tuple") and tensor.elements <= max(1, tensor.held))  # it takes memory of that size
    tensor.items += parameters.items
    return tensor


def _on_no_device(arguments: list[Any]) -> Node:
    _, size, stride, _ = arguments
    _expect(len(_counts(size)) == len(_counts(stride)))
    return Node("tensor")


def _from_another_device(arguments: list[Any]) -> Node:
    data, *_ = arguments
    _expect(_is(data, "tensor") and data.elements <= max(1, data.held))  # it is copied
    return _with_attributes(data, [])


#: What makes a tensor.
_TENSORS: dict[str, Callable[[list[Any]], Node]] = {
    "torch._utils _rebuild_tensor_v2": _tensor,
    "torch._utils _rebuild_tensor_v3": _tensor_of_dtype,
    "torch._utils _rebuild_parameter": _parameter,
    "torch._utils _rebuild_parameter_with_state": _parameter,
    "torch._utils _rebuild_sparse_tensor": _sparse,
    "torch._utils _rebuild_qtensor": _quantized,
    "torch._utils _rebuild_meta_tensor_no_storage": _on_no_device,
    "torch._utils _rebuild_device_tensor_from_cpu_tensor": _from_another_device,
}
#: All that a file may call, each with what it makes of its arguments.
_CALLS: dict[str, Callable[[list[Any]], Node]] = {
    **_TENSORS,
    "torch._tensor _rebuild_from_type_v2": _tensor_of_type,
    "torch Size": _size,
    "torch device": _device,
    "torch.serialization _get_layout": _plain(str),
    "collections OrderedDict": _ordered_dict,
    "collections Counter": _counter,
    "_codecs encode": _encoded,
    "__builtin__ bytearray": _bytearray,
    "__builtin__ set": _set,
    "builtins set": _set,
    "__builtin__ complex": _plain(float, float),
    "builtins complex": _plain(float, float),
}
#: What a file may name without calling it: the types of tensors, and how they are quantized.
_VALUES = frozenset(
    {
        "torch Tensor",
        "torch.nn.parameter Parameter",
        "torch per_tensor_affine",
        "torch per_tensor_symmetric",
        "torch per_channel_affine",
        "torch per_channel_symmetric",
        "torch per_channel_affine_float_qparams",
    }
)


def _dtype(name: str) -> Any:
    import torch

    module, _, dtype = name.partition(" ")
    return getattr(torch, dtype, None) if module == "torch" else None


def _is_dtype(name: str) -> bool:
    import torch

    return isinstance(_dtype(name), torch.dtype)


def _is(value: Any, kind: str) -> bool:
    return isinstance(value, Node) and value.kind == kind


def _no_hooks(hooks: Any) -> bool:
    return hooks is None or (_is(hooks, "OrderedDict") and not hooks.items)


# --- how much it is ---------------------------------------------------------------------------------


def _check_key(key: Any) -> None:
    waiting, seen = [key], 0
    while waiting:
        value = waiting.pop()
        seen += 1
        if isinstance(value, Node):
            if value.kind not in _HASHABLE:
                raise StructureError(f"it has a {value.kind} as a key")
            waiting += value.items
        if seen > MOST_KEY_VALUES:
            raise StructureError(f"it has a key of more than {MOST_KEY_VALUES:,} values")


def _check_size(root: Any, most: int) -> None:
    """Count all values, those that are referred to twice twice, and refuse too many or too deep ones."""
    counted: dict[int, tuple[int, int]] = {}  # by identity: the values, and how deep they go
    under_way: set[int] = set()
    waiting = [root] if isinstance(root, Node) else []
    while waiting:
        node = waiting[-1]
        if id(node) in counted:
            waiting.pop()
            continue
        parts = [item for item in node.items if isinstance(item, Node)]
        if id(node) not in under_way:
            under_way.add(id(node))
            for part in parts:
                if id(part) in under_way:
                    raise StructureError("its structure holds itself")
                if id(part) not in counted:
                    waiting.append(part)
            continue
        waiting.pop()
        under_way.discard(id(node))
        values = 1 + node.made + len(node.items) - len(parts) + sum(counted[id(part)][0] for part in parts)
        depth = 1 + max((counted[id(part)][1] for part in parts), default=0)
        if values > most:
            raise StructureError(f"its structure repeats itself to more than {most:,} values")
        if depth > DEEPEST:
            raise StructureError(f"its structure is more than {DEEPEST:,} levels deep")
        counted[id(node)] = (values, depth)

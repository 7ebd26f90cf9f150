"""Lists, tuples and dicts as Python prints them: what `str()` leaves where JSON was meant.

Quotes may be single, brackets round, a comma may follow the last item; `null`, `true` and `false` are known
beside Python's own names. Source: docs.python.org/3/reference/lexical_analysis.html.
"""

from __future__ import annotations

import ast
import warnings
from typing import Any

from data_handle.converters.fields import as_object

_NAMES = {"null": None, "true": True, "false": False, "nan": None, "NaN": None}
_MAX_CHARACTERS = 200_000


def parse_python(text: str) -> Any:
    """Return the value of a literal; tuples become lists, a key with two values gets a `RepeatedKey`.

    Raises:
        ValueError: it is something else.
    """
    if len(text) > _MAX_CHARACTERS:
        raise ValueError("太长")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of "\d" and the like
            return _value(ast.parse(text.strip(), mode="eval").body)
    except (SyntaxError, MemoryError, RecursionError) as error:
        raise ValueError("不是 Python 的写法") from error


def _value(node: ast.expr) -> Any:
    if isinstance(node, ast.Constant) and isinstance(node.value, (str, int, float, type(None))):
        return node.value
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        value = _value(node.operand)
        if isinstance(value, (int, float)):
            return -value
    if isinstance(node, ast.Name) and node.id in _NAMES:
        return _NAMES[node.id]
    if isinstance(node, (ast.List, ast.Tuple)):
        return [_value(item) for item in node.elts]
    if isinstance(node, ast.Dict):
        keys = [key.value if isinstance(key, ast.Constant) else None for key in node.keys]
        if all(isinstance(key, str) for key in keys):
            pairs = zip(map(str, keys), map(_value, node.values), strict=True)
            return as_object(list(pairs))
    raise ValueError("不是常量")

"""The small changes that tools/mutate.py makes: one node of the syntax tree of an exported cell, in its place.

Changed are arithmetic (+ and -, * and /, the order of @), comparisons (< and <=, == and !=, is, in), `and` and `or`,
`not`, unary minus, conditions, True and False, whole numbers (0 and 1, k to k + 1, -k to -(k + 1)), decimals (times
1.1), sum and mean, min and max, any and all, .mT; the first two arguments change places (in `where` the last two), a
keyword argument is dropped, f(x) and x.f() become x, and a statement is removed. Left alone are docstrings, messages,
annotations, decorators, numbers given as defaults (a choice that no test can know), whole numbers above 100, decimals
up to 1e-4 (a margin of rounding) and from 1e6, and what is known to change nothing, such as .contiguous().
"""

import ast
import copy
import hashlib
from dataclasses import dataclass

SWAPPED = {  # operators, each with the one that takes its place
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Div,
    ast.Div: ast.Mult,
    ast.FloorDiv: ast.Div,
    ast.Mod: ast.FloorDiv,
    ast.Pow: ast.Mult,
}
for pair in ("BitAnd BitOr", "Lt LtE", "Gt GtE", "Eq NotEq", "Is IsNot", "In NotIn", "And Or"):
    one, other = (getattr(ast, name) for name in pair.split())
    SWAPPED |= {one: other, other: one}
RENAMED = {"sum": "mean", "mean": "sum", "min": "max", "max": "min", "any": "all", "all": "any", "amin": "amax"}
RENAMED |= {"amax": "amin", "minimum": "maximum", "maximum": "minimum", "floor": "ceil", "ceil": "floor"}
# `x.f()` and `f(x)` with these are as good as x, or obviously not
PLAIN = """contiguous clone detach to item tolist cpu numpy copy expand expand_as broadcast_to requires_grad_ values
    items keys tuple list dict int float bool str len iter next super type range zip enumerate repr format join encode
    decode double read close flush split strip parameters named_parameters modules children isinstance print""".split()
# the first two arguments of these may change places
EITHER = """isinstance issubclass hasattr getattr setattr max min maximum minimum add mul logaddexp gaussian_log_prob
    broadcast_tensors broadcast_shapes gcd equal allclose assert_close lru_cache partial""".split()
SKIPPED = {  # fields that are not looked into
    "arg": ("annotation",),
    "FunctionDef": ("decorator_list", "returns"),
    "AsyncFunctionDef": ("decorator_list", "returns"),
    "ClassDef": ("decorator_list", "bases", "keywords"),
    "AnnAssign": ("annotation",),
    "Raise": ("exc", "cause"),
    "Assert": ("msg",),
    "JoinedStr": ("values",),
}
DEFS = (ast.FunctionDef, ast.AsyncFunctionDef)


@dataclass(frozen=True)
class Mutant:
    "One change of one exported cell."

    key: str  # names it as long as its function is the same
    module: str
    function: str  # qualified name: outermost function, or class
    scope: str  # qualified name of the code that is changed
    cell: int  # which cell that runs, from 0
    span: tuple  # first and last line of the statement, within the cell
    line: int  # line of the change, within the cell
    before: str  # the lines changed
    after: str
    source: str  # the cell with the change


def but(node, **fields):
    "A copy of the node with other fields."
    new = copy.copy(node)
    for name, value in fields.items():
        setattr(new, name, value)
    return new


def called(node):
    "The last part of the name of what is called."
    return getattr(node.func, "attr", getattr(node.func, "id", ""))


def number(node):
    "What takes the place of this constant, or nothing."
    value = node.value
    if isinstance(value, bool):
        return ast.Constant(not value)
    if isinstance(value, int) and value <= 100:
        return ast.Constant(1 - value if value in (0, 1) else value + 1)
    if isinstance(value, float) and (value == 0 or 1e-4 < value < 1e6):
        return ast.Constant(round(value * 1.1, 10) if value else 1.0)


def of_binary(node):
    "Changes of a binary operator; not where lists or strings are put together, nor of x + 0 and x * 1."
    for side in (node.left, node.right):
        if isinstance(side, (ast.JoinedStr, ast.List, ast.Tuple, ast.ListComp)):
            return
        if isinstance(side, ast.Constant) and isinstance(side.value, (str, bytes)):
            return
    neutral = {ast.Add: 0, ast.Sub: 0, ast.Mult: 1, ast.Div: 1}.get(type(node.op))
    if isinstance(node.op, ast.MatMult):
        yield but(node, left=node.right, right=node.left)
    elif type(node.op) in SWAPPED and (neutral is None or getattr(node.right, "value", None) != neutral):
        yield but(node, op=SWAPPED[type(node.op)]())


def of_operator(node):
    "Changes of an operator or a constant."
    if isinstance(node, ast.BinOp):
        yield from of_binary(node)
    elif isinstance(node, ast.Compare):
        for k, op in enumerate(node.ops):
            yield but(node, ops=node.ops[:k] + [SWAPPED[type(op)]()] + node.ops[k + 1 :])
    elif isinstance(node, (ast.BoolOp, ast.AugAssign)) and type(node.op) in SWAPPED:
        yield but(node, op=SWAPPED[type(node.op)]())
    elif isinstance(node, ast.UnaryOp):
        value = getattr(node.operand, "value", None)
        whole = isinstance(node.op, ast.USub) and type(value) is int
        yield ast.UnaryOp(ast.USub(), ast.Constant(value + 1)) if whole else node.operand
    elif isinstance(node, ast.Constant) and (new := number(node)):
        yield new


def of_arguments(node):
    "Changes of the arguments of a call."
    name, args = called(node), node.args
    k = 1 if name == "where" else 0  # torch.where(c, x, y); in x.where(c, y) there is nothing to exchange
    if len(args) > k + 1 and name not in EITHER and not any(isinstance(a, ast.Starred) for a in args[: k + 2]):
        if ast.dump(args[k]) != ast.dump(args[k + 1]):
            yield but(node, args=args[:k] + [args[k + 1], args[k]] + args[k + 2 :])
    for k, word in enumerate(node.keywords):
        if word.arg not in (None, "device"):
            yield but(node, keywords=node.keywords[:k] + node.keywords[k + 1 :])


def of_call(node, modules):
    "Changes of a call or an attribute; `modules` are names that stand for modules."
    if isinstance(node, ast.Attribute) and node.attr in ("mT", "T", "mH"):
        yield node.value
    if not isinstance(node, ast.Call):
        return
    name, args, method = called(node), node.args, isinstance(node.func, ast.Attribute)
    if name in RENAMED:
        yield but(node, func=but(node.func, **{"attr" if method else "id": RENAMED[name]}))
    yield from of_arguments(node)
    if name in PLAIN or name[:1].isupper() or not name:
        return
    of = node.func.value if method else None
    if of and getattr(of, "id", "") not in modules | {
        "self"
    }:  # x.f(), and neither torch.f() nor self.f() nor super().f()
        if not (isinstance(of, ast.Call) and called(of) == "super"):
            yield of
    elif len(args) == 1 and not isinstance(args[0], (ast.Starred, ast.Constant, ast.GeneratorExp)):
        yield args[0]


def of_statement(node, bound, scope):
    "A statement whose removal leaves the names it needs in place: `bound`, with the line on which each is first set."
    if isinstance(node, (ast.Raise, ast.Assert, ast.Continue, ast.Break, ast.AugAssign)):
        yield ast.Pass()
    elif isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):
        if called(node.value) not in ("print", "warn"):
            yield ast.Pass()
    elif isinstance(node, ast.Assign):
        inner = [n for t in node.targets for n in ast.walk(t) if isinstance(getattr(n, "ctx", None), ast.Store)]
        names = [n.id for n in inner if isinstance(n, ast.Name)]
        parts = any(isinstance(n, (ast.Attribute, ast.Subscript)) for n in inner)
        if all(bound.get(n, node.lineno) < node.lineno for n in names) and not (parts and scope.endswith("__init__")):
            yield ast.Pass()


def bindings(function):
    "The names of a function, with the line on which each is first set."
    a = function.args
    names = {x.arg: 0 for x in [*a.posonlyargs, *a.args, *a.kwonlyargs, a.vararg, a.kwarg] if x}
    for node in ast.walk(function):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            names[node.id] = min(names.get(node.id, node.lineno), node.lineno)
    return names


def of_condition(test):
    "The opposite of a condition that nothing else changes."
    plain = not isinstance(test, (ast.Compare, ast.BoolOp, ast.Constant))
    if plain and not (isinstance(test, ast.UnaryOp) and isinstance(test.op, ast.Not)):
        yield ast.UnaryOp(ast.Not(), test)


def changes(node, inside):
    "Every (node, what can take its place), for this node and its condition; `inside` says where it stands."
    for new in of_operator(node):
        yield node, new
    if node is not inside["alone"]:
        for new in of_call(node, inside["modules"]):
            yield node, new
    for new in of_statement(node, inside["bound"], inside["scope"]):
        yield node, new
    if isinstance(node, (ast.If, ast.While, ast.IfExp)):
        for new in of_condition(node.test):
            yield node.test, new


def entered(node, inside):
    "What is known in the head and in the body of a function, class or lambda."
    name = getattr(node, "name", "<lambda>")
    scope = inside["scope"] + inside["joint"] + name if inside["scope"] else name
    head = inside
    if "<locals>" not in inside["joint"] and not isinstance(node, ast.Lambda):
        head = inside | {"function": scope, "node": node}
    body = head | {"scope": scope, "joint": "." if isinstance(node, ast.ClassDef) else ".<locals>."}
    return head, body | ({"bound": bindings(node)} if isinstance(node, DEFS) else {})


def walk(node, inside):
    "Every (node, what can take its place, where it stands) from this node down."
    if isinstance(node, ast.stmt):
        inside = inside | {"span": (node.lineno, node.end_lineno), "alone": getattr(node, "value", None)}
        inside["alone"] = inside["alone"] if isinstance(node, ast.Expr) else None
    if inside["function"]:
        for old, new in changes(node, inside):
            yield old, new, inside
    if isinstance(node, ast.UnaryOp) and isinstance(node.operand, ast.Constant):
        return
    head = body = inside
    if isinstance(node, (*DEFS, ast.ClassDef, ast.Lambda)):
        head, body = entered(node, inside)
    for field, value in ast.iter_fields(node):
        if field not in SKIPPED.get(type(node).__name__, ()):
            for child in value if isinstance(value, list) else [value]:
                if isinstance(child, ast.AST) and not is_choice(node, field, child, inside):
                    place = body if field == "body" else head
                    if isinstance(node, (ast.If, ast.While, ast.For, ast.With)) and isinstance(child, ast.expr):
                        place = place | {"span": (child.lineno, child.end_lineno)}
                    yield from walk(child, place)


def is_choice(node, field, child, inside):
    "Whether this is a default that is no truth value, or the free axis of a `reshape`."
    if isinstance(node, ast.Call) and called(node) in ("reshape", "view"):
        return isinstance(child, ast.UnaryOp)
    default = isinstance(node, ast.arguments) and field in ("defaults", "kw_defaults")
    if default or (isinstance(node, ast.AnnAssign) and isinstance(inside["node"], ast.ClassDef)):
        return not (isinstance(child, ast.Constant) and isinstance(child.value, bool))
    return False


def spliced(source, old, new):
    "The source with the text of `new` in the place of `old`, and the lines that differ, before and after."
    starts = [0]
    for line in source.encode().splitlines(True):
        starts.append(starts[-1] + len(line))
    data, first, last = source.encode(), starts[old.lineno - 1] + old.col_offset, starts[old.end_lineno - 1]
    text = ast.unparse(ast.fix_missing_locations(new))
    if isinstance(new, (ast.BinOp, ast.UnaryOp, ast.BoolOp, ast.Compare, ast.IfExp, ast.Lambda)):
        text = f"({text})"
    changed = data[:first] + text.encode() + data[last + old.end_col_offset :]
    tail = len(data) - starts[old.end_lineno]
    head = starts[old.lineno - 1]
    return changed.decode(), *(" ".join(x[head : len(x) - tail].decode().split()) for x in (data, changed))


def essence(function):
    "A function without its docstring, as text that does not depend on its format."
    has = isinstance(function.body[0], ast.Expr) and isinstance(getattr(function.body[0].value, "value", None), str)
    return ast.unparse(but(function, body=function.body[has:] or [ast.Pass()]))


def mutants(source, module, cell):
    "All mutants of an exported cell, in the order of its lines; none that compiles to the same code."
    tree, found = ast.parse(source), []
    seen = {ast.dump(tree)}
    modules = {a.asname or a.name.split(".")[0] for n in ast.walk(tree) if isinstance(n, ast.Import) for a in n.names}
    modules |= {"torch", "np", "F", "nn", "math", "os", "json", "plt"}
    start = {"scope": "", "joint": "", "function": "", "node": None, "bound": {}}
    start |= {"modules": modules, "span": (1, 1), "alone": None}
    for old, new, inside in walk(tree, start):
        changed, before, after = spliced(source, old, new)
        dump = ast.dump(ast.parse(changed))
        if dump in seen:
            continue
        seen.add(dump)
        function, text = inside["function"], essence(inside["node"])
        place = sum(m.function == function for m in found)
        key = hashlib.sha1("\0".join((module, function, text, after, str(place))).encode()).hexdigest()[:10]
        at = function, inside["scope"], cell, inside["span"], old.lineno
        found.append(Mutant(key, module, *at, before, after, changed))
    return found

"""Up to which cell of a notebook a change of a function can be felt.

A cell feels it if it executes the function, or reads a name that a cell which felt it has used; a name is clean again
once a cell that feels nothing has set it anew. The fork of a mutant ends after the last cell that feels it.
"""

import ast

from mutants import DEFS, bindings

COMPREHENSIONS = (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)


def under(name, scope):
    "Whether a qualified name is this scope or within it; fastcore's `@patch` puts a class before the name of a method."
    return any((n + ".").startswith(scope + ".") for n in (name, name.partition(".")[2]))


def free(node):
    "The names that this code reads and does not set itself within a function or comprehension."
    if isinstance(node, ast.Name):
        return {node.id} if isinstance(node.ctx, ast.Load) else set()
    names = set().union(*map(free, ast.iter_child_nodes(node)))
    if isinstance(node, ast.AugAssign) and isinstance(node.target, ast.Name):
        return names | {node.target.id}
    if isinstance(node, (*DEFS, ast.Lambda)):
        return names - bindings(node).keys()
    if isinstance(node, COMPREHENSIONS):
        return names - {n.id for g in node.generators for n in ast.walk(g.target) if isinstance(n, ast.Name)}
    return names


def stored(*nodes):
    "The names that these nodes set."
    return {n.id for x in nodes for n in ast.walk(x) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)}


def scanned(body, known):
    "The names that these statements read before they set them, and those known after them, given those known before."
    reads, known = set(), set(known)
    for node in body:
        blocks = [getattr(node, name, []) for name in ("body", "orelse", "finalbody")]
        if isinstance(node, (ast.For, ast.While, ast.If, ast.With)):
            heads = [x for x in ast.iter_child_nodes(node) if not isinstance(x, ast.stmt)]
            reads |= set().union(*map(free, heads)) - known
            inner = known | stored(*heads)
            for block in blocks:
                reads |= scanned(block, inner)[0]
            if isinstance(node, ast.With):
                known = scanned(node.body, inner)[1]
        else:
            reads |= free(node) - known
            known |= stored(*node.targets) if isinstance(node, ast.Assign) else set()
    return reads, known


class Flow:
    "What the top level of a cell does with names: those it reads before it sets them, sets for certain, or mentions."

    def __init__(self, source):
        tree, self.later = ast.parse(source), {}
        self.reads, self.sets = scanned(tree.body, ())
        for node in tree.body:  # what is read when a function is called
            if isinstance(node, (*DEFS, ast.ClassDef)):
                self.later[node.name] = free(node)
            elif isinstance(node, ast.Assign):
                reads = set().union(*(free(n) for n in ast.walk(node.value) if isinstance(n, ast.Lambda)))
                self.later |= {name: reads for name in stored(*node.targets) if reads}
        self.stored = stored(tree)
        self.names = {n.id for n in ast.walk(tree) if isinstance(n, ast.Name)}


class Flows:
    "The cells of a notebook, and which functions each executes: a set of (cell of the function, qualified name)."

    def __init__(self, sources, reach):
        self.cells, self.reach, later = [Flow(s) for s in sources], reach, {}
        for cell in self.cells:
            for name, reads in cell.later.items():
                later[name] = later.get(name, set()) | reads
        data = set().union(*(c.stored for c in self.cells))  # functions, classes and modules are not
        for cell in self.cells:
            todo = [*cell.reads]
            while todo:
                new = later.get(todo.pop(), set()) - cell.reads
                cell.reads |= new
                todo += new
            cell.reads, cell.names = cell.reads & data, (cell.names | cell.reads) & data

    def last(self, mutant):
        "The last cell that can feel this mutant; the last of all if its code runs where it is defined."
        if not mutant.scope or any(c == mutant.cell and under(n, mutant.function) for c, n in self.reach[mutant.cell]):
            return len(self.cells) - 1
        last, felt = mutant.cell, set()
        for k in range(mutant.cell + 1, len(self.cells)):
            cell = self.cells[k]
            runs = any(c == mutant.cell and under(n, mutant.function) for c, n in self.reach[k])
            if runs or cell.reads & felt:
                last, felt = k, felt | cell.names
            else:
                felt -= cell.sets
        return last

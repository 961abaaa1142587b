"""What the repository promises of itself: its size, imports and files, its README's example."""

import ast
import io
import re
import subprocess
import sys
import tokenize
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
CORE = ("data.py", "models.py", "train.py", "test.py")
README = (ROOT / "README.md").read_text()


def tracked():
    done = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        pytest.skip("not a git checkout")
    return [ROOT / name for name in done.stdout.split("\0") if name]


def test_the_core_stays_small_and_plain():
    """Syntax nodes, and what a code line holds of them: no docstrings, comments, blank lines."""
    nodes = short = 0
    lines = []
    shortcuts = ast.ListComp, ast.GeneratorExp, ast.DictComp, ast.SetComp, ast.IfExp, ast.Lambda
    for name in CORE:
        text = (ROOT / name).read_text()
        assert max(map(len, text.splitlines())) <= 100
        code, documented = set(), set()
        for token in tokenize.generate_tokens(io.StringIO(text).readline):
            if token.type in (tokenize.OP, tokenize.NAME, tokenize.NUMBER, tokenize.STRING):
                code.update(range(token.start[0], token.end[0] + 1))
        for node in ast.walk(ast.parse(text)):
            nodes += not isinstance(node, (ast.Load, ast.Store, ast.Module))
            short += isinstance(node, shortcuts)
            if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
                documented.update(range(node.lineno, node.end_lineno + 1))
        lines += [text.splitlines()[n - 1].strip() for n in sorted(code - documented)]
    assert nodes <= 4200 and nodes / len(lines) <= 8.2
    assert sum(map(len, lines)) / len(lines) <= 46 and 100 * short / len(lines) <= 9


def test_what_the_core_does_without():
    """Packages but torch and torchvision, unpickling; and nothing is patched outside tests."""
    allowed = {*sys.stdlib_module_names, "torch", "torchvision", "data", "models", "train"}
    for name in CORE:
        text = (ROOT / name).read_text()
        imports = re.findall(r"^\s*(?:import|from) (\w+)", text, re.MULTILINE)
        assert imports and set(imports) <= allowed
        assert not re.search(r"pickle\b|torch\.load|(?<!\.)\beval\(|exec\(", text)
    for path in [*ROOT.glob("*.py"), *(ROOT / "report").glob("*.py")]:
        assert not re.search(r"unittest|\bmock\b|monkeypatch|setattr", path.read_text()), path


def test_no_large_file_is_tracked_but_mnists():
    """A repository must stay quick to clone; nothing unpacked belongs in it. Logs of some 700
    rounds, each with all its settings, may have a little more."""
    large = {path.name for path in tracked() if path.exists() and path.stat().st_size > 2**20}
    logs = {path.name for path in tracked() if path.suffix == ".jsonl"}
    assert large - logs <= {"train-images-idx3-ubyte.gz", "t10k-images-idx3-ubyte.gz"}
    assert all(path.stat().st_size < 1.25 * 2**20 for path in tracked() if path.name in logs)
    assert {path.name for path in tracked() if path.parent.name == "raw"} == {
        f"{part}-{what}-ubyte.gz"
        for part in ("train", "t10k")
        for what in ("images-idx3", "labels-idx1")
    }


def test_the_readmes_example_runs_as_printed():
    (code,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout


def test_every_option_is_in_the_readme():
    command = [sys.executable, ROOT / "test.py", "--help"]
    done = subprocess.run(command, capture_output=True, text=True)
    options = set(re.findall(r"--\w+", done.stdout)) - {"--help"}
    assert done.returncode == 0 and len(options) == 9
    assert all(f"`{option} " in README for option in options)


def test_the_readme_is_short():
    """At most 900 words, not counting its blocks of code and output."""
    text = re.sub(r"```.*?```", "", README, flags=re.DOTALL)
    assert len([word for word in text.split() if re.search(r"\w", word)]) <= 900

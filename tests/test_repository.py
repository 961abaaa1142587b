"""What the repository promises of itself: its size, imports and files, its README's example."""

import re
import subprocess
import sys
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


def test_the_core_stays_small():
    lines = [line for name in CORE for line in (ROOT / name).read_text().splitlines()]
    assert len(lines) <= 830 and max(map(len, lines)) <= 100


def test_the_core_imports_only_torch_torchvision_and_the_standard_library():
    allowed = {*sys.stdlib_module_names, "torch", "torchvision", "data", "models", "train"}
    for name in CORE:
        imports = re.findall(r"^\s*(?:import|from) (\w+)", (ROOT / name).read_text(), re.MULTILINE)
        assert imports and set(imports) <= allowed


def test_nothing_is_unpickled_from_files():
    for name in CORE:
        assert not re.search(
            r"pickle\b|torch\.load|(?<!\.)\beval\(|exec\(", (ROOT / name).read_text()
        )


def test_nothing_is_patched_outside_tests():
    for path in [*ROOT.glob("*.py"), *(ROOT / "report").glob("*.py")]:
        assert not re.search(r"unittest|\bmock\b|monkeypatch|setattr", path.read_text()), path


def test_no_large_file_is_tracked_but_mnists():
    """A repository must stay quick to clone; nothing unpacked belongs in it."""
    large = {path.name for path in tracked() if path.exists() and path.stat().st_size > 2**20}
    assert large <= {"train-images-idx3-ubyte.gz", "t10k-images-idx3-ubyte.gz"}
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

"""The package as a whole: where it comes from, and what it costs to import."""

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]


def test_is_the_one_of_this_repository() -> None:
    found = importlib.util.find_spec("models")
    assert found is not None and found.origin is not None
    assert Path(found.origin) == REPOSITORY / "models" / "__init__.py"


@pytest.mark.parametrize(
    "module",
    ["models", "models.registry", "models.resize", "models.colour", "models.evaluation.metrics", "models.evaluation.protocol"],
)
def test_imports_without_torch(module: str) -> None:
    code = f"import sys, {module}; print(sorted({{'torch', 'onnx', 'safetensors'}} & sys.modules.keys()))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=REPOSITORY, check=False)
    assert (result.stdout.strip(), result.stderr) == ("[]", "")

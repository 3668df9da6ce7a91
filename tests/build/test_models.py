"""The models that ship with the project."""

from pathlib import Path

MODELS = Path(__file__).resolve().parents[2] / "models"


def test_they_are_small_and_described():
    files = list(MODELS.glob("*.gguf"))
    assert files and sum(file.stat().st_size for file in files) < 48 * 2**20
    readme = (MODELS / "README.md").read_text()
    assert [file.name for file in files if file.name not in readme] == []

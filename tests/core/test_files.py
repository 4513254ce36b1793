import pytest

from rlhive.core.files import replacing_directory


def test_a_directory_is_there_whole_or_not_at_all(tmp_path):
    with pytest.raises(ArithmeticError), replacing_directory(tmp_path / "a.b") as beside:
        (beside / "half").write_text("1")
        raise ArithmeticError
    assert not list(tmp_path.iterdir())
    with replacing_directory(tmp_path / "a.b") as beside:
        (beside / "sub").mkdir()
        (beside / "sub" / "whole").write_text("2")
        assert not (tmp_path / "a.b").exists()
    assert [str(path.relative_to(tmp_path)) for path in sorted(tmp_path.rglob("*"))] == [
        "a.b",
        "a.b/sub",
        "a.b/sub/whole",
    ]
    with pytest.raises(OSError, match="not empty"), replacing_directory(tmp_path / "a.b"):
        pass
    assert [path.name for path in tmp_path.iterdir()] == ["a.b"]

"""The modules of the user's own that commands import."""

import pytest

from rlhive import own_modules


def test_a_module_that_cannot_be_imported_is_refused_in_one_line(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "fails_at_once.py").write_text("1 / 0")
    for name, why in (("no_such_parts", "ModuleNotFoundError"), ("fails_at_once", "ZeroDivisionError")):
        with pytest.raises(ValueError, match=f"^--import={name}: cannot be imported: {why}: "):
            own_modules.import_own_modules(["json", name])


def test_what_a_configuration_imports_is_told_as_flags():
    text = "import lab.parts\nfrom eyes import parts as sight\nTOTAL_STEPS = 5\n"
    assert own_modules.import_flags(text) == " --import=lab.parts --import=eyes.parts"
    assert own_modules.import_flags("TOTAL_STEPS = 5\n") == ""


def test_what_every_command_has_needs_no_flag():
    text = "from __gin__ import dynamic_registration\nimport rlhive.core.optim\nfrom rlhive import core\n"
    assert own_modules.import_flags(text) == ""
    assert own_modules.import_flags(f"{text}import rlhive_lab.parts\n") == " --import=rlhive_lab.parts"

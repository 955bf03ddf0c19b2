"""Configuration files that let pytest collect nothing, or other files."""

FILES = {
    "pytest.ini": "[pytest]\naddopts = --collect-only -q\npython_files = none.py\n",
    "tests/pytest.ini": "[pytest]\naddopts = --collect-only\n",
    "tox.ini": "[pytest]\naddopts = --co\n",
    "setup.cfg": "[tool:pytest]\naddopts = --deselect tests\n",
    "pyproject.toml": "[tool.pytest.ini_options]\naddopts = '--co'\n",
}

"""The Makefile: its targets run what there is, and hand OpenMP's default on."""

import importlib.util
import os
import re
import subprocess

import pytest

from d2_regnet.utils import threads


def make(root, *arguments, **environment):
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("OMP", "GOMP"))}
    command = ["make", "--silent", "-C", str(root), *arguments]
    done = subprocess.run(command, env=kept | environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_targets_run_modules_and_files_that_exist(root):
    targets = [line.split()[0] for line in make(root, "help").splitlines()]
    assert {"setup", "demo", "test", "test-all", "reliability", "lint", "clean"} <= set(targets)
    recipes = "".join(make(root, "--dry-run", target) for target in targets)
    modules = set(re.findall(r"python -m (\S+)", recipes))
    assert modules >= {"examples.demo", "tests.reliability", "pytest"}
    # `make docs` installs mkdocs itself.
    assert all(importlib.util.find_spec(module) for module in modules - {"mkdocs"})
    scripts = set(re.findall(r"^(tools/\S+)", recipes, re.M))
    assert scripts and all(os.access(root / script, os.X_OK) for script in scripts)


@pytest.mark.parametrize("given", [{}, {"GOMP_SPINCOUNT": "7"}, {"OMP_WAIT_POLICY": "active"}])
def test_openmp_spins_as_in_the_commands(root, monkeypatch, given):
    show = "--eval=show:; @echo $$GOMP_SPINCOUNT"
    printed = make(root, show, "show", **given).strip()
    monkeypatch.setattr(os, "environ", dict(given))
    threads.spin_briefly()
    assert printed == os.environ.get("GOMP_SPINCOUNT", "")

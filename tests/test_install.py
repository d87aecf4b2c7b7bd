"""The wheel, the declared requirements, and the set-up script."""

import ast
import email
import importlib.metadata
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import textwrap
import zipfile
from pathlib import Path

import pytest
import torch
from detectron2.config import instantiate
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from PIL import Image

import d2_regnet
from d2_regnet import build_regnet, model_zoo
from d2_regnet.commands import COMMANDS


def python(code: str, *args, **kwargs) -> subprocess.CompletedProcess:
    """Runs `code` in an interpreter of its own."""
    command = [sys.executable, "-c", textwrap.dedent(code), *map(str, args)]
    return subprocess.run(command, capture_output=True, text=True, **kwargs)


@pytest.fixture(scope="module")
def wheel(root, tmp_path_factory) -> Path:
    """The wheel, built from a copy so that the checkout stays as it is."""
    tree, out = tmp_path_factory.mktemp("tree"), tmp_path_factory.mktemp("wheel")
    for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(root / name, tree)
    for name in ("d2_regnet", "configs", "tests", "tools", "benchmarks", "examples"):
        shutil.copytree(root / name, tree / name, ignore=shutil.ignore_patterns("__pycache__"))
    pip = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "--no-index"]
    subprocess.run([*pip, "--quiet", "--wheel-dir", out, tree], check=True)
    return next(out.glob("*.whl"))


@pytest.fixture(scope="module")
def metadata(wheel) -> email.message.Message:
    with zipfile.ZipFile(wheel) as archive:
        name = next(n for n in archive.namelist() if n.endswith(".dist-info/METADATA"))
        return email.message_from_bytes(archive.read(name))


def test_wheel_has_every_file_of_the_package_and_nothing_else(root, wheel):
    with zipfile.ZipFile(wheel) as archive:
        packed = {name for name in archive.namelist() if ".dist-info/" not in name}
        licence = [name for name in archive.namelist() if name.endswith("/LICENSE")]
    expected = {
        prefix + path.relative_to(root).as_posix()
        for folder, prefix in (("d2_regnet", ""), ("configs", "d2_regnet/"))
        for path in (root / folder).rglob("*")
        if path.is_file() and path.suffix != ".pyc"
    }
    assert packed == expected
    assert licence


def test_installed_wheel_finds_its_configs(wheel, tmp_path):
    site = tmp_path / "site"
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site)
    code = """
        import sys
        from pathlib import Path
        sys.path.insert(0, sys.argv[1])
        from d2_regnet import model_zoo
        names = model_zoo.list()
        assert len(names) >= 31, names
        for name in names:
            file = Path(model_zoo.get_config_file(name))
            assert file.is_relative_to(Path(sys.argv[1]) / "d2_regnet/configs"), file
        assert model_zoo.get_config("mask_rcnn_regnetx_3.2gf_fpn_1x").model.backbone
    """
    done = python(code, site, cwd=tmp_path)
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory):
    """run(*words): `d2-regnet` of the installed wheel, in an empty folder, without the checkout."""
    venv, folder = tmp_path_factory.mktemp("venv"), tmp_path_factory.mktemp("empty")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", venv], check=True)
    pip = [sys.executable, "-m", "pip", "--python", venv / "bin/python", "install", "--quiet"]
    subprocess.run([*pip, "--no-deps", "--no-index", wheel], check=True)
    # What it needs, from here; a .pth file's folder is not searched for more of them, so what
    # would lead to the checkout leads nowhere.
    (site,) = venv.glob("lib/python*/site-packages")
    (site / "others.pth").write_text(sysconfig.get_path("purelib"))
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    environment |= {"D2_REGNET_CACHE": str(folder / "cache"), "FVCORE_CACHE": str(folder / "cache")}

    def run(*words) -> str:
        command = [venv / "bin/d2-regnet", *map(str, words)]
        done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, (words, done.stdout, done.stderr)
        return done.stdout

    run.folder = folder
    return run


@pytest.mark.slow
def test_every_command_helps_in_an_empty_folder(installed, root):
    usage = installed("--help")
    for name in COMMANDS:
        assert name in usage
        text = installed(name, "--help")
        assert f"d2-regnet {name}" in text
        assert "tools/" not in text and "configs/" not in text and str(root) not in text
    assert not list(installed.folder.iterdir())


@pytest.mark.slow
def test_the_installed_commands_work(installed):
    name = "faster_rcnn_regnetx_400mf_fpn_3x"
    assert name in installed("zoo")
    assert "RegNetX" in installed("design", "describe", "RegNetX-400MF")
    assert "cfg.model" in installed("zoo", "--config", name)
    body = build_regnet("RegNetX-200MF", norm="BN").state_dict()
    head = {"head.fc.weight": torch.zeros(1000, 368), "head.fc.bias": torch.zeros(1000)}
    torch.save({"model_state": body | head}, installed.folder / "src.pyth")
    assert "RegNetX-200MF from pycls" in installed("convert", "src.pyth", "dst.pth")
    model = instantiate(model_zoo.get_config(name).model)
    torch.save({"model": model.state_dict()}, installed.folder / "random.pth")
    Image.new("RGB", (96, 64), "gray").save(installed.folder / "a.png")
    words = ("--model", name, "--weights", "random.pth", "--device", "cpu")
    installed("predict", "a.png", *words, "--output", "found")
    assert (installed.folder / "found" / "predictions.json").is_file()


def test_metadata(metadata):
    assert metadata["Name"] in ("d2_regnet", "d2-regnet")
    assert metadata["License-Expression"] == "Apache-2.0"
    assert metadata["Version"] == d2_regnet.__version__
    assert metadata["Author"] == "The d2_regnet developers"
    assert metadata["Requires-Python"] == ">=3.11"
    assert {"dev", "export"} <= set(metadata.get_all("Provides-Extra"))


def test_installing_brings_no_other_detectron2(metadata):
    required = {Requirement(line).name for line in metadata.get_all("Requires-Dist")}
    assert not {name for name in required if "detectron2" in name}


def test_pins_fulfil_the_declared_requirements(root, metadata):
    pins = {}
    for file in (root / "requirements").glob("*.txt"):
        for name, version in re.findall(r"^([\w.-]+)==([^\s]+)", file.read_text(), re.M):
            assert name not in pins, f"{name} is pinned twice"
            pins[name.lower().replace("_", "-")] = version
    for line in metadata.get_all("Requires-Dist"):
        requirement = Requirement(line)
        if requirement.marker is None or requirement.marker.evaluate({"extra": "dev"}):
            assert requirement.specifier.contains(pins[requirement.name]), line
    assert "opencv-python" not in pins  # both OpenCV builds write the same folder


def test_whatever_the_package_imports_is_declared(root, metadata):
    declared = {
        canonicalize_name(Requirement(line).name) for line in metadata.get_all("Requires-Dist")
    }
    owners = importlib.metadata.packages_distributions()
    undeclared = set()
    for path in (root / "d2_regnet").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and not node.level:
                names = [node.module]
            for top in {name.split(".")[0] for name in names} - sys.stdlib_module_names:
                if not declared & set(map(canonicalize_name, owners.get(top, [top]))):
                    undeclared.add(top)
    # Detectron2 is its user's own, and brings OpenCV: both OpenCV builds would write one folder.
    assert undeclared <= {"d2_regnet", "detectron2", "cv2"}


def test_without_detectron2_the_import_says_how_to_get_one():
    done = python("import sys; sys.modules['detectron2'] = None; import d2_regnet")
    assert done.returncode == 1
    message = done.stderr.strip().splitlines()[-1]
    assert message.startswith("ImportError: d2_regnet")
    assert "pip install" in message and "facebookresearch/detectron2" in message
    assert "make setup" in message


# An interpreter that only pretends: it writes down what it is asked to do, and makes a
# .venv/bin/python out of itself. PRETEND spoils it.
PRETENDER = """
    #!{executable}
    import os, sys, pathlib, shutil
    spoilt, args = os.environ.get("PRETEND", ""), sys.argv[1:]
    if args[0] == "-V":
        print("Python 3.99")
    elif args[0] == "-":
        if spoilt == "old":
            sys.version_info = (3, 9, 1, "final", 0)
        if spoilt == "no venv":
            sys.modules["ensurepip"] = None
        exec(sys.stdin.read())
    elif args[:3] == ["-m", "pip", "list"]:
        print(os.environ.get("INSTALLED", ""))
    elif args[0] == "-c":
        sys.executable = pathlib.Path(__file__).resolve().read_text().split()[-1]
        if "d2_regnet" not in args[1]:
            exec(args[1])
    else:
        with open("log", "a") as log:
            print(*args, file=log)
        if "venv" in args:
            shutil.rmtree(".venv", ignore_errors=True)
            os.makedirs(".venv/bin")
            shutil.copy(__file__, ".venv/bin/python")
        if spoilt and spoilt in args:
            sys.exit("no such luck")
    # {name}
"""


class Setup:
    """A tree with the real set-up script and interpreters that pretend."""

    def __init__(self, root: Path, tree: Path):
        self.tree = tree
        for name in ("requirements", "tools"):
            (tree / name).mkdir()
        for file in (root / "requirements").glob("*.txt"):
            shutil.copy(file, tree / "requirements")
        shutil.copy(root / "tools/setup.sh", tree / "tools")
        for name in ("setup.py", "pyproject.toml"):
            shutil.copy(root / name, tree)
        self.python = self.interpreter("python3")

    def interpreter(self, name: str) -> Path:
        path = self.tree / name
        text = textwrap.dedent(PRETENDER).strip().format(executable=sys.executable, name=path)
        path.write_text(text)
        path.chmod(0o755)
        return path

    def __call__(self, *args, PYTHON="", **env) -> subprocess.CompletedProcess:
        """Runs the script; `steps` of the answer are the commands that it gave."""
        (self.tree / "log").unlink(missing_ok=True)
        path = f"{self.tree}{os.pathsep}{os.environ['PATH']}"
        done = subprocess.run(
            [self.tree / "tools/setup.sh", *args],
            env={**os.environ, "PATH": path, "PYTHON": str(PYTHON), **env},
            capture_output=True,
            text=True,
        )
        log = self.tree / "log"
        done.steps = log.read_text().splitlines() if log.exists() else []
        return done


@pytest.fixture
def setup(root, tmp_path):
    return Setup(root, tmp_path)


def test_setup_installs_everything_once(setup):
    first = setup()
    assert first.returncode == 0, first.stderr
    commands = "\n".join(first.steps)
    for part in ("venv --clear .venv", "build.txt", "base.txt", "dev.txt", "-e ."):
        assert commands.count(part) == 1, part
    (detectron2,) = [step for step in first.steps if "detectron2.txt" in step]
    assert "--require-hashes" in detectron2 and "--no-deps" in detectron2
    assert "5 GB" in first.stdout

    second = setup()
    assert (second.returncode, second.steps, second.stdout) == (0, [], "")


def test_setup_runs_again_when_a_pin_changes_and_keeps_the_venv(setup):
    setup()
    with (setup.tree / "requirements/dev.txt").open("a") as file:
        file.write("another==1.0\n")
    again = setup()
    assert any("dev.txt" in step for step in again.steps)
    assert not any("venv --clear" in step for step in again.steps)
    assert setup().steps == []


@pytest.mark.parametrize("step", ["requirements/base.txt", "requirements/dev.txt", "-e"])
def test_setup_that_failed_says_where_and_is_done_again(setup, step):
    failed = setup(PRETEND=step)
    assert failed.returncode == 2
    assert "set-up failed at" in failed.stderr
    assert "run the same make command again" in failed.stderr
    again = setup()
    assert again.returncode == 0
    assert again.steps[0] == "-m venv --clear .venv"
    assert setup().steps == []


def test_setup_keeps_a_detectron2_that_is_there(setup):
    kept = setup(INSTALLED="detectron2==0.6")
    assert kept.returncode == 0
    assert not any("detectron2.txt" in step for step in kept.steps)


def test_setup_follows_python(setup):
    setup()
    other = setup.interpreter("python-of-another-kind")
    assert setup(PYTHON=setup.python).steps == []
    assert setup(PYTHON=other).steps[0] == "-m venv --clear .venv"
    assert setup(PYTHON=other).steps == []
    assert setup().steps == []


@pytest.mark.parametrize(
    "spoilt, reason", [("old", "Python 3.9; 3.11 or newer"), ("no venv", "no ensurepip")]
)
def test_setup_refuses_an_unfit_interpreter(setup, spoilt, reason):
    refused = setup(PYTHON=setup.python, PRETEND=spoilt)
    assert refused.returncode == 2
    assert reason in refused.stderr and "PYTHON=" in refused.stderr
    assert refused.steps == []


def test_setup_refuses_a_missing_interpreter(setup):
    refused = setup(PYTHON="/nonexistent")
    assert refused.returncode == 2
    assert "/nonexistent cannot be used: there is no such program" in refused.stderr


def test_setup_of_the_linter_alone_is_small(setup):
    done = setup("ruff")
    assert done.returncode == 0
    assert [step for step in done.steps if "install" in step] == [
        f"-m pip install --quiet {pin}"
        for pin in re.findall(r"^ruff==.*", (setup.tree / "requirements/dev.txt").read_text(), re.M)
    ]


def test_pre_commit_runs_the_pinned_ruff(root):
    (pin,) = re.findall(r"^ruff==(.*)", (root / "requirements/dev.txt").read_text(), re.M)
    assert f"rev: v{pin}\n" in (root / ".pre-commit-config.yaml").read_text()

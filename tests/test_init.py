"""What importing d2_regnet does, and what it leaves alone."""

import subprocess
import sys

CODE = """
import sys
import detectron2.config
import detectron2.modeling

loaded, touched = set(sys.modules), []


def watch(event, args):
    if event.startswith(("socket.", "subprocess.", "os.mkdir", "os.rename", "os.system")):
        touched.append((event, args))
    elif event == "open" and not str(args[0]).endswith((".py", ".pyc")):
        touched.append((event, args))


sys.addaudithook(watch)
import d2_regnet
from d2_regnet import RegNetArch, add_regnet_config, build_regnet, get_arch, list_archs
from d2_regnet.modeling import EvalBN

assert not touched, touched
assert {name.partition(".")[0] for name in set(sys.modules) - loaded} <= {
    "d2_regnet",
    "detectron2",
}
for name in (
    "build_regnet_backbone",
    "build_regnet_fpn_backbone",
    "build_retinanet_regnet_fpn_backbone",
):
    assert callable(detectron2.modeling.BACKBONE_REGISTRY.get(name))
"""


def test_import_registers_the_builders_and_touches_no_file_and_no_network():
    """It loads no third-party module that Detectron2 doesn't, so it takes no time either."""
    done = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr

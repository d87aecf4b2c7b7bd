#!/bin/sh
# Installs a wheel or a source distribution of d2_regnet in a clean environment, with Detectron2 as
# requirements/detectron2.txt pins it, and uses the command in an empty folder.
#   .github/smoke_test.sh dist/d2_regnet-0.1.0-py3-none-any.whl
# PYTHON chooses the interpreter; PIP_CONSTRAINT, pip's own variable, may pin what is installed.
set -eu
package=$(realpath "$1")
root=$(realpath "$(dirname "$0")/..")
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"

"${PYTHON:-python3}" -m venv env
py=env/bin/python
$py -m pip install --quiet "setuptools<81" wheel
$py -m pip install --quiet "$package"
# What Detectron2 needs of its own besides, and Detectron2 without its metadata's old limits.
$py -m pip install --quiet cloudpickle opencv-python-headless packaging tensorboard termcolor
$py -m pip install --quiet --no-deps --only-binary=:all: --python-version 3.10 --implementation cp \
    --require-hashes -r "$root/requirements/detectron2.txt" \
    --target "$($py -c 'import sysconfig; print(sysconfig.get_path("purelib"))')"

for name in train evaluate predict finetune export convert check-dataset report design zoo replay slurm; do
    env/bin/d2-regnet "$name" --help >/dev/null
done
env/bin/d2-regnet zoo >/dev/null
env/bin/d2-regnet design describe RegNetX-400MF
$py - <<'PY'
import torch
from d2_regnet import Predictor, model_zoo

name = "retinanet_regnetx_800mf_fpn_1x"
torch.save({"model": model_zoo.get(name).state_dict()}, "random.pth")
predictor = Predictor(model_zoo.get_config(name), "random.pth", device="cpu")
print(len(predictor(__import__("numpy").zeros((64, 96, 3), "uint8"), array_format="RGB").to_coco(image_id=1)))
PY
echo "ok: $(basename "$package") on $($py -V)"

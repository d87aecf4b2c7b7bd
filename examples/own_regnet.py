"""Your own RegNet inside a detector: from five numbers to boxes.

python examples/own_regnet.py my_regnet.yaml

my_regnet.yaml holds, one `key: value` a line: depth, w_0, w_a, w_m and group_width.
"""

import sys

import torch
from detectron2.config import instantiate

from d2_regnet import get_arch, model_zoo


def main(file):
    arch = get_arch(file)
    for width, depth in zip(arch.stage_widths, arch.stage_depths):
        print(f"{depth} block(s) of {width} channels")
    cost = arch.complexity((800, 1216), num_classes=0)
    print(
        f"backbone at 800x1216: {cost.flops / 1e9:.1f} GFLOPs, {cost.params / 1e6:.2f} M parameters"
    )

    # A model's name with the file in place of the arch; the weights are random.
    cfg = model_zoo.get_config(f"retinanet_{file}_fpn_1x")
    cfg.model.num_classes = 3
    model = instantiate(cfg.model).eval()
    with torch.no_grad():
        image = torch.randint(0, 256, (3, 128, 192), dtype=torch.uint8)
        (answer,) = model([{"image": image}])
    print(answer["instances"].get_fields().keys())


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    main(sys.argv[1])

#!/usr/bin/env python
"""Finds objects in an image with the model that a training left, and draws them.

    python examples/predict.py output/mine image.jpg predicted.png

In place of the run's folder, the name of a published model downloads its weights, once:
`mask_rcnn_regnetx_400mf_fpn_3x`.
"""

import sys

from PIL import Image

from d2_regnet.data import read_image
from d2_regnet.inference import load_predictor


def main(model: str, source: str, target: str) -> None:
    predictor = load_predictor(model)
    prediction = predictor(source)
    for name, each in zip(prediction.names, prediction.to_coco()):
        x, y, width, height = each["bbox"]
        print(f"{name} {each['score']:.0%}: {width:.0f} x {height:.0f} pixels at {x:.0f}, {y:.0f}")
    Image.fromarray(prediction.draw(read_image(source, "RGB"))).save(target)


if __name__ == "__main__":
    if len(sys.argv) != 4:
        sys.exit(__doc__)
    main(*sys.argv[1:])

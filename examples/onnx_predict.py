"""Runs a file that `d2-regnet export` has written, with numpy, Pillow and onnxruntime alone.

python onnx_predict.py detector.onnx image.jpg predicted.png
"""

import json
import sys

import numpy as np
import onnxruntime
from PIL import Image, ImageDraw, ImageOps


def main(file, source, target, threshold=0.5):
    session = onnxruntime.InferenceSession(file)
    names = json.loads(session.get_modelmeta().custom_metadata_map["class_names"])
    image = ImageOps.exif_transpose(Image.open(source)).convert("RGB")
    outputs = [output.name for output in session.get_outputs()]
    found = dict(zip(outputs, session.run(outputs, {"image": np.asarray(image)})))
    sure = found["scores"] >= threshold
    found = {name: array[sure] for name, array in found.items()}

    pixels = np.array(image)
    colours = np.random.default_rng(0).integers(64, 256, (len(names), 3))
    for mask, label in zip(found.get("masks", []), found["classes"]):
        pixels[mask] = (pixels[mask] + colours[label]) // 2
    drawn = Image.fromarray(pixels)
    draw = ImageDraw.Draw(drawn)
    for box, score, label in zip(found["boxes"], found["scores"], found["classes"]):
        print(f"{names[label]} {score:.3f}", *(f"{x:.1f}" for x in box))
        draw.rectangle(box.tolist(), outline=tuple(colours[label].tolist()), width=2)
        draw.text((box[0] + 3, box[1] + 1), f"{names[label]} {score:.0%}", fill="white")
    drawn.save(target)


if __name__ == "__main__":
    if len(sys.argv) not in (4, 5):
        sys.exit(__doc__)
    main(*sys.argv[1:4], *map(float, sys.argv[4:]))

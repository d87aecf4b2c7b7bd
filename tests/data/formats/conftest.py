"""Makers of small data sets as annotation tools write them."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

WIDTH, HEIGHT = 160, 120


class Maker:
    """Writes below one folder: `img` for the images, `ann` for the label files."""

    def __init__(self, root: Path):
        self.root, self.images, self.labels = root, root / "img", root / "ann"
        for folder in (self.images, self.labels):
            folder.mkdir()

    def image(self, name="a.jpg", boxes=(), turn=None, size=(WIDTH, HEIGHT)) -> Path:
        """Black, with a white rectangle for each box (x, y, w, h) of the stored pixels."""
        pixels = np.zeros((size[1], size[0], 3), np.uint8)
        for x, y, w, h in boxes:
            pixels[y : y + h, x : x + w] = 255
        path = self.images / name
        path.parent.mkdir(parents=True, exist_ok=True)
        exif = Image.Exif()
        if turn:
            exif[274] = turn
        Image.fromarray(pixels).save(path, exif=exif, **({"tiffinfo": exif} if turn else {}))
        return path

    def write(self, name: str, content: str | bytes) -> Path:
        path = self.labels / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    def labelme(
        self, name="a.json", shapes=(), image="a.jpg", size=(WIDTH, HEIGHT), **more
    ) -> Path:
        content = {"version": "5.5.0", "flags": {}, "imagePath": image, "imageData": None}
        if size:
            content |= {"imageWidth": size[0], "imageHeight": size[1]}
        return self.write(name, json.dumps(content | {"shapes": list(shapes)} | more))

    def voc(self, name="a.xml", objects="", image="a.jpg", size=(WIDTH, HEIGHT), head="") -> Path:
        size = f"<size><width>{size[0]}</width><height>{size[1]}</height></size>" if size else ""
        named = f"<filename>{image}</filename>" if image else ""
        return self.write(name, f"{head}<annotation>{named}{size}{objects}</annotation>")

    def yolo(self, name="a.txt", lines="", names="names: [cap, dog]\n") -> Path:
        (self.root / "data.yaml").write_text(names)
        return self.write(name, lines)


@pytest.fixture
def maker(tmp_path) -> Maker:
    return Maker(tmp_path)

"""Pascal VOC as the development kit, LabelImg, CVAT, Roboflow and others write it."""

import numpy as np
import pytest
from PIL import Image

from d2_regnet.data import read_image
from d2_regnet.data.formats import read_dataset

WIDTH, HEIGHT = 160, 120


def box(xmin, ymin, xmax, ymax):
    values = dict(xmin=xmin, ymin=ymin, xmax=xmax, ymax=ymax)
    return f"<bndbox>{''.join(f'<{k}>{v}</{k}>' for k, v in values.items())}</bndbox>"


def thing(inside, name="cap"):
    return f"<object><name>{name}</name>{inside}</object>"


ONE = thing(box(11, 21, 40, 50))


def read(maker, objects=ONE, **options):
    maker.image()
    maker.voc(objects=objects, **options)
    coco, account = read_dataset(maker.images, maker.labels)
    assert account.total("objects") == objects.count("<object>")
    return coco["annotations"], account


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        (box(11, 21, 40, 50), [10, 20, 30, 30]),
        (box(11.5, 21.25, 40.0, "5e1"), [10.5, 20.25, 29.5, 29.75]),
        (box(40, 50, 11, 21), [10, 20, 30, 30]),
        (box(" 11 ", "\n21\n", 40, 50), [10, 20, 30, 30]),
        (box(1, 1, 160, 120), [0, 0, 160, 120]),
    ],
)
def test_boxes(maker, written, expected):
    [found], account = read(maker, thing(written))
    assert found["bbox"] == expected and account.lines() == []


def test_a_zero_shows_that_the_tool_counts_from_zero(maker):
    found, account = read(maker, thing(box(0, 5, 160, 120)) + thing(box(10, 20, 30, 40)))
    assert [each["bbox"] for each in found] == [[0, 5, 160, 115], [10, 20, 20, 20]]
    assert "2 of 2 objects: counted from 0" in account.lines()[0]


@pytest.mark.parametrize(
    "polygon",
    [
        "<polygon><x1>11</x1><y1>21</y1><x2>40</x2><y2>21</y2><x3>40</x3><y3>50</y3></polygon>",
        "<polygon><pt><x>11</x><y>21</y></pt><pt><x>40</x><y>21</y></pt><pt><x>40</x><y>50</y></pt>"
        "</polygon>",
    ],
)
def test_polygons(maker, polygon):
    found, _ = read(maker, thing(box(11, 21, 40, 50) + polygon) + thing(polygon) + ONE)
    assert [each.get("segmentation") for each in found] == [[[10, 20, 39, 20, 39, 49]]] * 2 + [None]
    assert [each["bbox"] for each in found] == [
        [10, 20, 30, 30],
        [10, 20, 29, 29],
        [10, 20, 30, 30],
    ]


def test_parts_marks_and_masks_as_images_are_said(maker):
    part = f"<part><name>head</name>{box(12, 22, 20, 30)}</part>"
    marks = (
        "<pose>Left</pose><truncated>1</truncated><difficult>1</difficult><occluded>1</occluded>"
    )
    found, account = read(
        maker, "<segmented>1</segmented>" + thing(marks + part + box(11, 21, 40, 50))
    )
    assert [each["bbox"] for each in found] == [[10, 20, 30, 30]]
    said = " ".join(account.lines())
    assert all(each in said for each in ("marked difficult", "has parts", "SegmentationObject"))


def test_oriented_boxes_of_other_tools_are_counted(maker):
    turned = "<type>robndbox</type><robndbox><cx>50</cx><cy>50</cy><w>9</w><h>9</h></robndbox>"
    found, account = read(maker, ONE + thing(turned, "ship"))
    assert len(found) == 1
    assert "neither bndbox nor polygon, but name, type, robndbox" in account.lines()[0]


def test_copies_and_boxes_without_area_are_counted(maker):
    found, account = read(maker, ONE + ONE + thing(box(11, 21, 11, 50)) + thing(box(0, 0, 9, 9)))
    assert len(found) == 2
    assert sum("1 of 4 objects left out" in line for line in account.lines()) == 2


@pytest.mark.parametrize("size", [None, (0, 0), ("", "")])
def test_without_a_size(maker, size):
    maker.image(turn=6)
    maker.voc(objects=ONE, size=size)
    coco, account = read_dataset(maker.images, maker.labels)
    assert (coco["images"][0]["width"], coco["images"][0]["height"]) == (HEIGHT, WIDTH)
    assert "turned or mirrored by EXIF" in account.lines()[0]


@pytest.mark.parametrize("suffix", ["jpg", "png", "tif", "webp"])
@pytest.mark.parametrize(
    ("turn", "on"),
    # In between, the size cannot tell, and they are taken as displayed.
    [
        *((turn, "displayed") for turn in range(1, 9)),
        *((turn, "stored") for turn in (1, 5, 6, 7, 8)),
    ],
)
def test_the_annotated_size_decides_about_exif(maker, suffix, turn, on):
    """The box is white inside, whichever pixels it was drawn on."""
    name = f"a.{suffix}"
    x, y, w, h = 20, 30, 50, 40
    maker.image(name, [(x, y, w, h)], turn)
    size = (WIDTH, HEIGHT)
    if on == "displayed":
        upright = read_image(str(maker.images / name), "RGB")
        ys, xs = np.nonzero(upright[..., 0] > 128)
        x, y, w, h = (int(v) for v in (xs.min(), ys.min(), np.ptp(xs) + 1, np.ptp(ys) + 1))
        size = upright.shape[1::-1]
    maker.voc(objects=thing(box(x + 1, y + 1, x + w, y + h)), image=name, size=size)
    coco, account = read_dataset(maker.images, maker.labels)
    image, [found] = coco["images"][0], coco["annotations"]
    pixels = read_image(str(maker.images / name), "RGB", (image["width"], image["height"]))
    assert pixels.shape[:2] == (image["height"], image["width"])
    x, y, w, h = (round(value) for value in found["bbox"])
    assert pixels[y + 2 : y + h - 2, x + 2 : x + w - 2].min() > 128
    assert pixels[:, : x - 3].max() < 128 and pixels[: y - 3].max() < 128
    said = any("turned or mirrored" in line for line in account.lines())
    assert said == (turn in (2, 3, 4))  # a half turn or a mirror image


def test_a_square_that_is_turned_is_said(maker):
    maker.image(size=(80, 80), turn=6)
    maker.voc(objects=ONE, size=(80, 80))
    assert "taken as they are displayed" in read_dataset(maker.images, maker.labels)[1].lines()[0]


def test_another_size_is_left_out_with_its_objects(maker):
    maker.image()
    maker.voc(objects=ONE)
    maker.image("small.png", size=(80, 60))
    maker.voc("small.xml", ONE + thing(box(1, 1, 9, 9)), "small.png")
    coco, account = read_dataset(maker.images, maker.labels)
    assert len(coco["images"]) == len(coco["annotations"]) == 1
    assert account.total("objects") == 3
    assert "annotated at another size, such as 160 x 120 (first: small.png)" in account.lines()[0]


@pytest.mark.parametrize(
    "suffix", ["jfif", "JPG", "jpe", "gif", "ppm", "tga", "jp2", "avif", "bmp"]
)
def test_suffixes(maker, suffix):
    Image.new("RGB", (WIDTH, HEIGHT)).save(maker.images / f"a.{suffix}")
    maker.voc(objects=ONE, image=f"a.{suffix}")
    assert len(read_dataset(maker.images, maker.labels)[0]["annotations"]) == 1


def test_images_that_nobody_has_labelled(maker):
    for name in ("a.jpg", "b.jpg", "c.jpg"):
        maker.image(name)
    maker.voc(objects=ONE)
    coco, account = read_dataset(maker.images, maker.labels)
    assert len(coco["images"]) == 1
    assert account.lines()[0].startswith("2 of 3 images left out: no .xml file, so nobody has")
    assert "(first: b.jpg)" in account.lines()[0]
    coco, account = read_dataset(maker.images, maker.labels, unlabelled="empty")
    assert len(coco["images"]) == 3
    assert account.lines()[0].startswith("2 of 3 images: no .xml file: taken as showing nothing")


def test_a_label_file_without_objects_is_a_negative(maker):
    maker.image("b.jpg")
    maker.voc("b.xml", "", "b.jpg")
    read(maker)
    coco, account = read_dataset(maker.images, maker.labels)
    assert len(coco["images"]) == 2 and account.lines() == []


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16", "latin-1", "gb2312", "cp1252"])
def test_encodings(maker, encoding):
    name = "猫" if encoding in ("gb2312", "utf-16") else "é"
    maker.image()
    text = maker.voc(objects=thing(box(11, 21, 40, 50), name)).read_text()
    declared = f'<?xml version="1.0" encoding="{encoding}"?>\n{text}'
    maker.write("a.xml", declared.encode(encoding))
    assert read_dataset(maker.images, maker.labels)[0]["categories"][0]["name"] == name


BOMB = '<!DOCTYPE x [<!ENTITY a "aaaaaaaa"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;">]>'
OUTSIDE = '<!DOCTYPE x [<!ENTITY a SYSTEM "file:///etc/hostname">]>'


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (f"{BOMB}<annotation><object><name>&b;</name></object></annotation>", "declares entities"),
        (
            f"{OUTSIDE}<annotation><object><name>&a;</name></object></annotation>",
            "declares entities",
        ),
        ("<annotation><object></annotation>", "no XML: mismatched tag: line 1"),
        ("", "no XML: no element found"),
        ("<annotations><image name='a.jpg'/></annotations>", "CVAT's own form"),
        (b"<annotation><object><name>\xe9</name></object></annotation>", "no XML"),
        (b"<?xml version='1.0' encoding='klingon'?><annotation/>", "no XML: unknown encoding"),
        (f"<annotation>{thing('', '')}</annotation>", "object 1: it has no name"),
        (f"<annotation>{thing(box(1, 'x', 3, 4))}</annotation>", "object 1: 'x' is not a number"),
        (f"<annotation>{thing('<bndbox/>')}</annotation>", "object 1: '' is not a number"),
        (f"<annotation>{thing(box(1, 2, 'inf', 4))}</annotation>", "not a finite number"),
        (f"<annotation>{thing(box('1,5', 2, 3, 4))}</annotation>", "'1,5' is not a number"),
    ],
)
def test_what_cannot_be_understood_is_refused(maker, content, said):
    maker.image()
    maker.write("a.xml", content)
    with pytest.raises(ValueError, match=rf"cannot be read as voc: 1 problem.*a\.xml[:,] .*{said}"):
        read_dataset(maker.images, maker.labels)


def test_fractions_of_the_image_are_not_counted_from_one(maker):
    """Else the finding of boxes in another form would not know them."""
    (found,), _ = read(maker, thing(box(0.25, 0.5, 0.5, 0.75)))
    assert found["bbox"] == [0.25, 0.5, 0.25, 0.25]


def test_sides_for_corners_are_refused(maker):
    """One box in many may be drawn from right to left."""
    right, turned = thing(box(11, 21, 40, 50)), thing(box(40, 50, 11, 21))
    maker.image()
    for count, objects in ((2, right * 20 + turned * 2), (3, right * 3 + turned * 3)):
        maker.voc(objects=objects)
        if count == 2:
            read_dataset(maker.images, maker.labels)
            continue
        with pytest.raises(ValueError, match=r"of 6 boxes, 3 have xmax < xmin .*width, height"):
            read_dataset(maker.images, maker.labels)


@pytest.mark.parametrize("wrap", ["<objects>{}</objects>", "{}"])
def test_objects_at_another_depth_or_in_capitals(maker, wrap):
    maker.image()
    maker.voc(objects=wrap.format(ONE.replace("object>", "Object>")))
    coco, account = read_dataset(maker.images, maker.labels)
    assert [each["bbox"] for each in coco["annotations"]] == [[10, 20, 30, 30]]
    assert account.used["objects"] == 1

"""The label spaces the project knows: Cityscapes 19 train ids and CamVid 11."""

from __future__ import annotations

from streams.frame import ClassSet

CITYSCAPES_19 = ClassSet(
    name="cityscapes19",
    names=(
        "road", "sidewalk", "building", "wall", "fence", "pole", "traffic light", "traffic sign", "vegetation",
        "terrain", "sky", "person", "rider", "car", "truck", "bus", "train", "motorcycle", "bicycle",
    ),
    palette=(
        (128, 64, 128), (244, 35, 232), (70, 70, 70), (102, 102, 156), (190, 153, 153), (153, 153, 153),
        (250, 170, 30), (220, 220, 0), (107, 142, 35), (152, 251, 152), (70, 130, 180), (220, 20, 60), (255, 0, 0),
        (0, 0, 142), (0, 0, 70), (0, 60, 100), (0, 80, 100), (0, 0, 230), (119, 11, 32),
    ),
    things=(6, 7, 11, 12, 13, 14, 15, 16, 17, 18),
    sky=10,
    ground=(0, 1, 9),
)  # fmt: skip

CAMVID_11 = ClassSet(
    name="camvid11",
    names=(
        "sky", "building", "pole", "road", "pavement", "tree", "sign", "fence", "car", "pedestrian", "bicyclist",
    ),
    palette=(
        (128, 128, 128), (128, 0, 0), (192, 192, 128), (128, 64, 128), (0, 0, 192), (128, 128, 0), (192, 128, 128),
        (64, 64, 128), (64, 0, 128), (64, 64, 0), (0, 128, 192),
    ),
    things=(6, 8, 9, 10),
    sky=0,
    ground=(3, 4),
    void=(11,),
)  # fmt: skip

CLASS_SETS: dict[str, ClassSet] = {classes.name: classes for classes in (CITYSCAPES_19, CAMVID_11)}

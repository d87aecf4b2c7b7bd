"""RegNet, ResNet and their FPN on Detectron2's own blocks, and the builders for yacs configs."""

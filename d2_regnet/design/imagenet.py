"""What is published about the 24 RegNets beyond their parameters."""

# Top-1 error (%) on ImageNet's validation set, 224x224, one crop, 100 epochs: pycls's MODEL_ZOO.md
# (https://github.com/facebookresearch/pycls), whose models these are.
IMAGENET_ERROR = {
    "RegNetX-200MF": 31.1,
    "RegNetX-400MF": 27.4,
    "RegNetX-600MF": 25.9,
    "RegNetX-800MF": 24.8,
    "RegNetX-1.6GF": 23.0,
    "RegNetX-3.2GF": 21.7,
    "RegNetX-4.0GF": 21.4,
    "RegNetX-6.4GF": 20.8,
    "RegNetX-8.0GF": 20.7,
    "RegNetX-12GF": 20.3,
    "RegNetX-16GF": 20.0,
    "RegNetX-32GF": 19.5,
    "RegNetY-200MF": 29.7,
    "RegNetY-400MF": 25.9,
    "RegNetY-600MF": 24.5,
    "RegNetY-800MF": 23.7,
    "RegNetY-1.6GF": 22.1,
    "RegNetY-3.2GF": 21.1,
    "RegNetY-4.0GF": 20.6,
    "RegNetY-6.4GF": 20.1,
    "RegNetY-8.0GF": 20.1,
    "RegNetY-12GF": 19.7,
    "RegNetY-16GF": 19.6,
    "RegNetY-32GF": 19.1,
}

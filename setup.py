"""What pyproject.toml cannot say: configs/ of a checkout is d2_regnet/configs/ once installed."""

from setuptools import find_packages, setup

setup(
    packages=[*find_packages(include=["d2_regnet", "d2_regnet.*"]), "d2_regnet.configs"],
    package_dir={"d2_regnet.configs": "configs"},
    package_data={
        "d2_regnet": ["py.typed", "**/*.json", "**/*.html"],
        "d2_regnet.configs": ["**/*.py", "**/*.yaml"],
    },
)

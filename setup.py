from setuptools import find_packages, setup

setup(
    name="cdl_d2",
    version="0.1.0",
    description="Vision models on compressed latents, taught by pixel networks, for Detectron2",
    license="Apache-2.0",
    python_requires=">=3.10",
    packages=find_packages(include=["cdl_d2", "cdl_d2.*"]),
    package_data={"cdl_d2.codec": ["weights/*.safetensors"]},
    install_requires=[
        "torch>=2.1",
        "torchvision>=0.16",
        "compressai>=1.2.6",
        "numpy",
        "Pillow",
        "safetensors",
        "tqdm",
        "zstandard",
        "matplotlib",
        "bjontegaard",
        "fvcore",
        "pycocotools",
        "opencv-python-headless",  # for Detectron2's visualizer
        # Detectron2's model zoo and CompressAI import pkg_resources.
        "setuptools<81",
    ],
    extras_require={
        "test": ["hypothesis", "pytest", "pytest-xdist", "ruff"],
        "cityscapes": ["cityscapesscripts"],
        "ray": ["ray[data]", "pyarrow<20", "pandas<2.3"],
    },
)

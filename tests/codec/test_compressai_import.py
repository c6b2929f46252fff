import subprocess
import sys

SCRIPT = """
import sys

from cdl_d2.codec import Codec
from cdl_d2.codec.compressai_import import import_compressai

Codec.load("tiny-bmshj2018-hyperprior", 2).coder._y_tables
import torchvision  # looks into all modules
unused = {"torch_geometric", "scipy.stats", "pandas"}
assert not unused & set(sys.modules), unused & set(sys.modules)

import compressai, scipy
assert scipy.stats.norm.ppf(0.5) == 0 and not hasattr(compressai, "of no such name")
assert compressai.datasets.ImageFolder

for name in [name for name in sys.modules if name.startswith("compressai")]:
    del sys.modules[name]
sys.modules["compressai.layers"] = None  # a first import that fails
import_compressai()
from compressai.registry import TRANSFORMS
from compressai.transforms import ToDict
assert "NormalizeScale" in TRANSFORMS
assert Codec.load("tiny-bmshj2018-hyperprior", 1).identity
"""


def test_a_codec_is_loaded_without_packages_for_other_data_which_can_be_imported_later():
    subprocess.run([sys.executable, "-W", "ignore", "-c", SCRIPT], check=True)

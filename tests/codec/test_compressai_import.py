import subprocess
import sys

SCRIPT = """
import sys

from cdl_d2.codec import Codec

Codec.load("tiny-bmshj2018-hyperprior", 2).coder._y_tables
import torchvision  # looks into all modules
unused = {"torch_geometric", "scipy.stats", "pandas"}
assert not unused & set(sys.modules), unused & set(sys.modules)

import compressai, scipy
assert scipy.stats.norm.ppf(0.5) == 0 and not hasattr(compressai, "of no such name")
assert compressai.datasets.ImageFolder
"""


def test_a_codec_is_loaded_without_packages_for_other_data_which_can_be_imported_later():
    subprocess.run([sys.executable, "-W", "ignore", "-c", SCRIPT], check=True)

"""Images and labels come in: files, folders, tables and published data sets become a pool. Nothing here imports torch."""

from typing import TYPE_CHECKING

import lazy_loader

if TYPE_CHECKING:
    from ssl_diffusion.data.arrays import encode_labels as encode_labels
    from ssl_diffusion.data.arrays import find_image_shape as find_image_shape
    from ssl_diffusion.data.arrays import find_value_range as find_value_range
    from ssl_diffusion.data.arrays import to_images as to_images
    from ssl_diffusion.data.folders import load_csv as load_csv
    from ssl_diffusion.data.folders import load_folder as load_folder
    from ssl_diffusion.data.label_choice import LabeledSet as LabeledSet
    from ssl_diffusion.data.label_choice import choose_labeled as choose_labeled
    from ssl_diffusion.data.label_choice import hold_out_test as hold_out_test
    from ssl_diffusion.data.label_choice import label_name as label_name
    from ssl_diffusion.data.loading import input_paths as input_paths
    from ssl_diffusion.data.loading import is_table as is_table
    from ssl_diffusion.data.loading import load_pool as load_pool
    from ssl_diffusion.data.loading import with_size_of as with_size_of
    from ssl_diffusion.data.pool import Pool as Pool
    from ssl_diffusion.data.published.catalog import DATASETS as DATASETS
    from ssl_diffusion.data.published.catalog import LAYOUTS as LAYOUTS
    from ssl_diffusion.data.published.catalog import DatasetInfo as DatasetInfo
    from ssl_diffusion.data.published.catalog import Layout as Layout
    from ssl_diffusion.data.published.datasets import dataset_info as dataset_info
    from ssl_diffusion.data.published.datasets import find_dataset as find_dataset
    from ssl_diffusion.data.published.datasets import load_dataset as load_dataset
    from ssl_diffusion.data.settings import DataSettings as DataSettings
    from ssl_diffusion.data.settings import LabelSettings as LabelSettings
    from ssl_diffusion.data.source import FileSource as FileSource
    from ssl_diffusion.data.source import ImageSource as ImageSource

# Imported on first use: who wants one name does not wait for torch and all the others.
__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "pool": ["Pool"],
        "source": ["FileSource", "ImageSource"],
        "label_choice": ["LabeledSet", "choose_labeled", "hold_out_test", "label_name"],
        "settings": ["DataSettings", "LabelSettings"],
        "loading": ["input_paths", "is_table", "load_pool", "with_size_of"],
        "folders": ["load_csv", "load_folder"],
        "arrays": ["encode_labels", "find_image_shape", "find_value_range", "to_images"],
        "published.datasets": ["dataset_info", "find_dataset", "load_dataset"],
        "published.catalog": ["DATASETS", "DatasetInfo", "LAYOUTS", "Layout"],
    },
)

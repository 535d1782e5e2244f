"""Needs nothing of zswap but its installed package: zswap.pxd for Cython, zswap/zswap.h for the C
compiler."""

from importlib.util import find_spec
from pathlib import Path

from Cython.Build import cythonize
from setuptools import Extension, setup

include = Path(find_spec("zswap_core").origin).parent / "include"
extension = Extension("requests_in_cython", ["requests_in_cython.pyx"], include_dirs=[str(include)])
setup(ext_modules=cythonize([extension], language_level=3))

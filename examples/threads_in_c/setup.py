"""Needs nothing of zswap but its installed package: zswap/zswap.h for the C compiler."""

from setuptools import Extension, setup

import zswap_core

setup(
    name="threads_in_c",
    ext_modules=[
        Extension(
            "threads_in_c",
            ["threads_in_c.c"],
            include_dirs=[zswap_core.get_include()],
            libraries=["pthread"],
        )
    ],
)

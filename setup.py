"""Packages: what lies below ssl_diffusion/, and the two folders that are installed into it; the rest is in setup.cfg."""

from setuptools import find_packages, setup

setup(
    packages=[*find_packages(include=["ssl_diffusion", "ssl_diffusion.*"]), "ssl_diffusion.cli", "ssl_diffusion.recipes"],
    package_dir={"ssl_diffusion": "ssl_diffusion", "ssl_diffusion.cli": "cli", "ssl_diffusion.recipes": "recipes"},
)

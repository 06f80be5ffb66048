"Packaging, read from settings.ini."
from configparser import ConfigParser
from pathlib import Path

from setuptools import setup

here = Path(__file__).parent
ini = ConfigParser(delimiters=["="])
ini.read(here/"settings.ini", encoding="utf-8")
settings = ini["DEFAULT"]
name = settings["lib_name"]


def words(key): return settings[key].split()


setup(
    name=name,
    version=settings["version"],
    description=settings["description"],
    long_description=(here/"README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    author=settings["author"],
    author_email=settings["author_email"],
    license="Apache-2.0",
    url=settings["git_url"],
    project_urls={"Documentation": settings["doc_host"] + settings["doc_baseurl"]},
    keywords=words("keywords"),
    classifiers=[
        "Development Status :: 3 - Alpha",
        "Intended Audience :: Developers",
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Programming Language :: Python :: 3.13",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
    ],
    packages=[name],
    python_requires=">=" + settings["min_python"],
    install_requires=words("requirements"),
    # dev_requirements is the extra `dev`, and so on
    extras_require={key.removesuffix("_requirements"): words(key) for key in settings if key.endswith("_requirements")},
    # The second lets the docs of other nbdev projects link to names of this one
    entry_points={"console_scripts": words("console_scripts"), "nbdev": [f"{name}={name}._modidx:d"]},
)

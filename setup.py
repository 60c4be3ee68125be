"""How pip installs fairseq-taskmoe. Exact versions for the demo and the tests: constraints.txt."""

import re
from pathlib import Path
from shutil import copytree, ignore_patterns

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py

HERE = Path(__file__).parent


def version() -> str:
    text = (HERE / "fairseq_taskmoe" / "version.py").read_text(encoding="utf-8")
    return re.search(r'__version__ = "(.+)"', text).group(1)


def long_description() -> str:
    readme = HERE / "README.md"
    return readme.read_text(encoding="utf-8") if readme.exists() else ""


class WithTools(build_py):
    """Puts preprocess/ and configs/ into the installed package; a clone has them beside it.

    Listed in package_dir, they would make an editable install import through a finder of
    setuptools, and the root of the clone would no longer be importable.
    """

    def run(self) -> None:
        super().run()
        if not self.editable_mode:
            for name in ("preprocess", "configs"):
                copytree(
                    HERE / name, Path(self.build_lib) / "fairseq_taskmoe" / name,
                    ignore=ignore_patterns("__pycache__"), dirs_exist_ok=True,
                )


# fairseq itself is not required here, on purpose: bring a build of 0.12.3 that runs on your Python,
# as `pip install --no-deps ve-fairseq==0.12.3`. All of them install the one folder `fairseq` under
# different names, so a requirement on one would overwrite the others; and all of them ask for
# torchaudio, which text does not need and which fails to load beside most builds of torch. What
# fairseq needs for text stands here instead, so that --no-deps leaves nothing missing.
FAIRSEQ_FOR_TEXT = [
    "bitarray",
    "cffi",
    "cython",
    "packaging",
    "regex",
    "scikit-learn",
]

setup(
    name="fairseq-taskmoe",
    version=version(),
    description="Task-level Mixture-of-Experts for multilingual translation, as a fairseq plugin",
    long_description=long_description(),
    long_description_content_type="text/markdown",
    license="MIT",
    python_requires=">=3.11,<3.13",
    packages=find_packages(include=["fairseq_taskmoe*"]),
    package_data={"fairseq_taskmoe": ["py.typed", "serving/page.html", "tables/paper.yaml"]},
    cmdclass={"build_py": WithTools},
    install_requires=[
        *FAIRSEQ_FOR_TEXT,
        "fairscale>=0.4.13",  # fairseq's fully sharded data parallelism for the shared weights
        "hydra-core>=1.3",  # older ones do not run on Python 3.11
        "numpy",
        "omegaconf>=2.3",
        "pyyaml",  # --moe-task-groups, configs/
        "sacrebleu>=2.3",  # scores and their signatures
        "scipy",  # dealing batches to ranks, similarity of routing
        "sentencepiece",
        "shtab",  # taskmoe --print-completion
        "torch>=2.6",
        "tqdm",
    ],
    extras_require={
        "serve": [
            "ctranslate2>=4.5",
            "fastapi",
            "prometheus_client",  # /metrics
            "protobuf",  # a SentencePiece model for a smaller vocabulary
            "uvicorn",
        ],
        "hf": [
            "protobuf",  # reads SentencePiece models
            "safetensors",
            "transformers>=5",  # taskmoe extract --format huggingface, taskmoe import-hf
        ],
        "sentences": ["sentencex>=1"],  # taskmoe translate --split-sentences
        "track": ["tensorboard", "wandb"],  # through fairseq's own settings: docs/your-data.md
        "plot": ["matplotlib"],
        "data": [
            "pycld2",  # language identification, its model included
            "requests",
        ],
        "dev": [
            "babel",  # writes the demo's phrases again, to compare with those in the repository
            "hypothesis",
            "mypy",
            "playwright",  # drives the browser that is there, and brings none
            "pytest",
            "pytest-xdist",
            "ruff",
            "sentencex",
            "types-PyYAML",
        ],
    },
    entry_points={"console_scripts": ["taskmoe = fairseq_taskmoe.cli:main"]},
    classifiers=[
        "Intended Audience :: Science/Research",
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
    ],
)

"""A name means one engine, and what an engine cannot give is not asked of it in vain."""

from __future__ import annotations

import subprocess
import sys

import pytest

from medidiff.batch.clusters import engine_for
from medidiff.batch.dask import DaskEngine
from medidiff.batch.engines import LocalEngine, Resources
from medidiff.batch.slurm import Allocation, SlurmEngine
from medidiff.errors import SettingsError

ALONE, ASKED = Allocation(), Allocation(partition="long")


@pytest.mark.parametrize(
    ("name", "kind", "asked", "where"),
    [
        ("local", LocalEngine, ALONE, {}),
        ("slurm", SlurmEngine, ASKED, {}),
        ("dask", DaskEngine, ALONE, {}),
        ("dask", DaskEngine, ALONE, {"address": "tcp://127.0.0.1:9"}),
        ("dask", DaskEngine, ASKED, {"jobqueue": "slurm"}),
    ],
)
def test_a_name_means_an_engine(name, kind, asked, where):
    engine = engine_for(name, Resources(threads=2), asked, **where)
    assert type(engine) is kind
    assert engine.resources.threads == 2


@pytest.mark.parametrize(
    ("name", "asked", "where", "says"),
    [
        ("pigeon", ALONE, {}, "local, slurm or dask"),
        ("local", ALONE, {"address": "tcp://127.0.0.1:9"}, "--address"),
        ("slurm", ALONE, {"jobqueue": "slurm"}, "--jobqueue"),
        ("local", ASKED, {}, "--engine slurm"),
        ("dask", ASKED, {}, "--jobqueue"),
        ("dask", ALONE, {"jobqueue": "pigeon"}, "pbs, sge, slurm"),
    ],
)
def test_what_an_engine_has_not_is_refused(name, asked, where, says):
    with pytest.raises(SettingsError, match="E-SETTING") as refusal:
        engine_for(name, Resources(), asked, **where)
    assert says in str(refusal.value)


def test_no_package_of_a_cluster_is_imported_before_it_is_used():
    code = "import sys, medidiff.batch.clusters; print({'submitit', 'dask', 'distributed', 'torch'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"

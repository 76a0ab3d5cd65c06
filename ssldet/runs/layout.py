"""Every file name of a results folder, once.

<results>/<run>/                record.json, config.yaml, split.json, log.jsonl, detections.parquet, ...
<results>/first_stages/<key>/   checkpoint.safetensors, log.jsonl, stage.json
<results>/pretrained/<run>/     weights files, by the names that their backbone looks for
<results>/external/<name>/      external.json, per_video.parquet: others' detections, scored
<results>/jobs/                 of grids that a batch system carries out: see benchmark/executors/job_files.py
<results>/trackers/<tracker>/  what trackers keep of runs
<results>/profiles/<run>.json.gz  what some training steps did, for a viewer of traces
"""

from __future__ import annotations

import re
from pathlib import Path

RESULTS = Path("results/runs")
"""Where runs are written to and looked for, unless told otherwise."""

RECORD = "record.json"
"""Written last: its presence with status "done" is the only sign of a finished run."""

CONFIG = "config.yaml"
SPLIT = "split.json"
LOG = "log.jsonl"
CHECKPOINT = "checkpoint.safetensors"
CHECKPOINT_BEFORE = "checkpoint.before.safetensors"
"""The one before, in case the newest is damaged. Both are deleted when the run is done, unless `keep_checkpoints`."""

CHECKPOINT_DAMAGED = "checkpoint.damaged.safetensors"
CHECKPOINT_BEFORE_DAMAGED = "checkpoint.before.damaged.safetensors"
"""The same, where neither could be read and training began anew; kept to be looked at."""

WEIGHTS = "weights.safetensors"
NETWORK = "network.json"
"""What the weights are of: enough to build the network and to apply it to other videos, without the data."""

DETECTIONS = "detections.parquet"

PER_VIDEO = "per_video.parquet"
"""Which detection of which video was a hit: what comparisons read, small enough to be committed."""

CLAIM = ".claim"
"""Names the process that carries out a run or trains a first stage; see claims.py."""

LOCK = ".lock"
"""What earlier versions held in its place."""

KEPT = (CONFIG, SPLIT, LOG, DETECTIONS, PER_VIDEO, NETWORK, WEIGHTS)
"""What a finished run keeps beside its record, which holds their hashes."""

DAMAGED = (CHECKPOINT_DAMAGED, CHECKPOINT_BEFORE_DAMAGED)

RUN_FILES = (RECORD, *KEPT, CHECKPOINT, CHECKPOINT_BEFORE, *DAMAGED, LOCK, CLAIM)
"""Everything that a run writes into its folder. The record is removed first: half a run is not a finished one."""

FIRST_STAGES = "first_stages"
STAGE = "stage.json"
"""What the key of a first stage is made of, and who trained it."""

PRETRAINED = "pretrained"
"""Weights that a grid made itself, as initial ones of its other runs."""

EXTERNAL = "external"
"""Others' detections that `ssldet evaluate --record` scored, a folder each."""

EXTERNAL_RECORD = "external.json"
"""Its presence makes a folder that of an external record; written last. By name no run's record."""

EXTERNAL_FILES = (EXTERNAL_RECORD, PER_VIDEO)

PROFILES = "profiles"
"""Traces of `ssldet run --profile`, one a run."""

JOBS = "jobs"
"""Which tasks of a grid a batch system has, and what its jobs left."""

TRACKERS = "trackers"
"""What trackers keep of all runs, a folder each."""

NO_RUNS = (FIRST_STAGES, PRETRAINED, EXTERNAL, PROFILES, JOBS, TRACKERS)
"""Folders of results that hold parts of several runs, or what is not ours, and no run."""

RUN_FOLDER = re.compile(r".+-split\d+-seed\d+-([0-9a-f]{12})")
"""How the folder of a run is named, with its id."""

RUN_ID = re.compile(r"[0-9a-f]{4,64}")

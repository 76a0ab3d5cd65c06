"""The configuration of a run: typed, checked before any work, written whole into the run's folder.

Layers, each over the one before: the defaults below, a preset (ssldet/presets/*.yaml), a file (`--config`), flags,
`--set key=value`. What defines the experiment (`Experiment`) is apart from where and how it runs (`Machine`): only
the former goes into the run's id.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import yaml
from pydantic import BeforeValidator, Field, ValidationError, field_validator, model_validator
from pydantic_core import to_jsonable_python

from ssldet import plugins
from ssldet.contracts import Backbone, DatasetFacts, Options, Strategy, Tracker
from ssldet.data.batches import ClipOptions
from ssldet.data.datasets import dataset_options
from ssldet.data.stored_frames import default_quality
from ssldet.data.views import ViewOptions
from ssldet.errors import ConfigError, PluginError, UnknownName
from ssldet.util.settings import explain, named, read_assignment, split_flavour, typed_options, unknown_key
from ssldet.util.yaml_text import load_yaml

DEFAULT_PRESET = "paper"

REVISION = 2
"""What this version computes under the same settings; it grows when a default behaviour moves a number."""

PLUGIN_KINDS = ("strategy", "backbone", "dataset")
"""The plugins of an experiment; `--set KIND.NAME=VALUE` is an option of one."""

Switch = Annotated[
    Literal["auto", "on", "off"],
    BeforeValidator(lambda value: {True: "on", False: "off"}[value] if isinstance(value, bool) else value),
]
"""YAML reads on and off as true and false."""

Mistake = str | UnknownName
"""What is wrong with a request, as a line for people."""


class TrainOptions(Options):
    """The schedule."""

    batch: int = Field(128, ge=1)
    """Labelled clips a step."""
    unlabelled_batch: int | None = Field(None, ge=1)
    """Unlabelled clips a step; None means as many."""
    bn_batch: int = Field(8, ge=1)
    """Labelled clips, with the partners and unlabelled clips that go with them, that batch normalisation takes for one
    batch: a group.
    """
    micro_batch: Annotated[int, Field(ge=1)] | Literal["auto"] = "auto"
    """Labelled clips in one forward pass, a multiple of `bn_batch`; gradients accumulate to `batch`. It moves a run's
    numbers by rounding alone and is no part of its id. "auto" is `bn_batch` on a CPU, and on a GPU as much as fits.
    """
    steps: int | None = Field(None, ge=1)
    """Optimiser steps in all; None means `epochs` passes over the unlabelled key frames."""
    epochs: int = Field(10, ge=1)
    """What the schedule counts in, whether or not `steps` is given."""
    burn_in: float = Field(0.2, ge=0, le=1)
    """Share of the steps that make up the first, labelled-only stage."""
    optimizer: Literal["adam", "adamw"] = "adam"
    """What decays: "adam" decays all (L2), "adamw" neither BatchNorm nor biases."""
    lr: float = Field(1e-3, gt=0)
    """The learning rate before `schedule` and `warmup`."""
    lr_scale: dict[str, Annotated[float, Field(gt=0)]] = Field(default_factory=dict)
    """Part of the backbone -> what its learning rate is multiplied by, such as {2d: 0.1}; 1 for all else."""
    weight_decay: float = Field(5e-4, ge=0)
    """Weight of the decay, in the optimiser's own form."""
    schedule: Literal["halve", "cosine", "constant"] = "halve"
    """How the rate falls: "halve" halves it after each epoch of `halve_after`; "cosine" falls to 0; "constant"."""
    halve_after: tuple[int, ...] = (3, 4, 5, 6)
    """The epochs of "halve"."""
    warmup: int = Field(0, ge=0)
    """Steps over which the rate rises linearly from 0."""
    clip_norm: float | None = Field(None, gt=0)
    """Largest gradient norm; None leaves it."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """Of the arithmetic; "bfloat16" computes the forward pass under autocast."""
    fused_forward: bool = False
    """After the first stage labelled clips and strong views go through the student in one call: both are normalised by
    the statistics of all of a group's clips, so it is another run.
    """
    sync_bn: bool = False
    """Batch normalisation takes all clips of a step that go through the student in one call for one batch, those of
    other processes too (`--devices`), instead of `bn_batch` at a time; losses stay those of groups. All groups of a
    process go through at once. It is another run, and the same one in any number of processes.
    """
    checkpoint_activations: bool = False
    """Keep what lies between the blocks of the network alone, and compute what lies within them again in the backward
    pass: less memory for about a third more arithmetic. It moves no number.
    """
    pair_share: float = Field(1.0, ge=0, le=1)
    """Share of the clips that get a partner for the temporal term."""
    checkpoint_every: int = Field(50, ge=1)
    """Steps between checkpoints."""
    log_every: int | None = Field(None, ge=1)
    """Steps between lines of the log; None means once an epoch."""
    gradient_norms: bool = False
    """Log the gradient norm of every loss term, in the last step of each line; it costs that step a backward pass a
    term.
    """
    eval_every: int | None = Field(None, ge=1)
    """Steps between scores of student and teacher on the validation part (`val_fraction`), in the log, from the second
    stage on and at its end; None means never.
    """

    @model_validator(mode="after")
    def _groups_are_equal(self) -> Self:
        for name, count in (("batch", self.batch), ("unlabelled_batch", self.unlabelled)):
            if count % self.groups:
                raise ValueError(
                    f"{name} = {count} does not divide into {self.groups} groups of bn_batch = {self.bn_batch}"
                )
        if self.micro_batch != "auto" and self.micro_batch % self.bn_batch:
            raise ValueError(
                f"micro_batch = {self.micro_batch} is no multiple of bn_batch = {self.bn_batch}, the clips that batch "
                "normalisation takes for one batch; give a multiple, or give bn_batch too, which is another run"
            )
        if self.sync_bn and self.micro_batch != "auto":
            raise ValueError("sync_bn normalises all groups of a step together; leave micro_batch out")
        if self.sync_bn and self.checkpoint_activations:
            raise ValueError("sync_bn and checkpoint_activations do not go together: blocks are computed again alone")
        return self

    @property
    def groups(self) -> int:
        """Groups of clips that a step has: what batch normalisation takes for one batch each."""
        return math.ceil(self.batch / self.bn_batch)

    @property
    def groups_at_once(self) -> int:
        """Groups in one forward pass, where `micro_batch` says so; else one."""
        if self.sync_bn:
            return self.groups
        return 1 if self.micro_batch == "auto" else min(self.groups, self.micro_batch // self.bn_batch)

    @property
    def unlabelled(self) -> int:
        return self.unlabelled_batch or self.batch

    def rate(self, step: int, steps: int) -> float:
        """The learning rate of a step (from 0) of `steps`."""
        warm = min(1.0, (step + 1) / self.warmup) if self.warmup else 1.0
        if self.schedule == "cosine":
            return self.lr * warm * 0.5 * (1 + math.cos(math.pi * step / steps))
        if self.schedule == "halve":
            epoch = step * self.epochs / steps
            return self.lr * warm * 0.5 ** sum(epoch >= after for after in self.halve_after)
        return self.lr * warm


UNNUMBERED = frozenset(
    {"micro_batch", "checkpoint_activations", "checkpoint_every", "log_every", "gradient_norms", "eval_every"}
)
"""Settings of the schedule that move no number."""

ADDED: Mapping[str, Any] = {"lr_scale": {}, "fused_forward": False, "sync_bn": False}
"""Settings of the schedule that came later, and what they are where a run is what it was before there were such."""


def as_before(train: Mapping[str, Any]) -> dict[str, Any]:
    """Settings of a schedule without those that came later and change nothing: names of runs stay what they were."""
    return {key: value for key, value in train.items() if key not in ADDED or value != ADDED[key]}


def as_hashed(train: Mapping[str, Any]) -> dict[str, Any]:
    """Settings of a schedule by the names that ids are made of: `bn_batch` goes by that of `micro_batch`, once both."""
    return {"micro_batch" if key == "bn_batch" else key: value for key, value in train.items()}


class DetectOptions(Options):
    """What goes into the detections file: filter and suppression of decoded boxes, as YOWO publishes them."""

    score_threshold: float = Field(0.005, ge=0, le=1)
    """Boxes below are left out: a bound of confidence x best class; of confidence alone on multi-label data."""
    nms_iou: float | None = Field(None, gt=0, le=1)
    """IoU from which a box suppresses a lesser one; None means 0.4, or 0.5 on multi-label data."""
    batch: int = Field(16, ge=1)
    """Clips in one forward pass."""


def migrated(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Fields of an experiment as this version names them.

    Until API 2.0 the settings of the region loss were a section of their own, `loss`; they are the backbone's now.
    Until there was `train.bn_batch`, `train.micro_batch` said how many clips batch normalisation took for one batch.
    """
    current = {key: value for key, value in fields.items() if key != "loss"}
    if "loss" in fields:
        current["backbone_options"] = {"region": fields["loss"], **(fields.get("backbone_options") or {})}
    return current


def with_bn_batch(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Fields of a whole experiment with `train.bn_batch`, which was named `train.micro_batch` before there was one."""
    train = fields.get("train")
    if not isinstance(train, Mapping) or "bn_batch" in train or "micro_batch" not in train:
        return dict(fields)
    renamed = {"bn_batch" if key == "micro_batch" else key: value for key, value in train.items()}
    return {**fields, "train": renamed}


class Experiment(Options):
    """What defines a run's numbers; its hash, with those of data, split and weights, is the run's id.

    `resolve` fills in what is left out: every option of the plugins, and the data set's own ratio.
    """

    revision: int = Field(REVISION, ge=1)
    """What the code computes under the same settings (docs/moved-numbers.md); records without it have revision 1."""
    strategy: str
    """The strategy's name."""
    strategy_options: dict[str, Any] = Field(default_factory=dict)
    """Options of the strategy; `--set strategy.NAME=VALUE`."""
    dataset: str
    """The data set's name."""
    dataset_options: dict[str, Any] = Field(default_factory=dict)
    """Options of the data set; `--set dataset.NAME=VALUE`."""
    split: int = Field(1, ge=1)
    """The data set's split, from 1."""
    videos: tuple[str, ...] | None = None
    """Training and test are restricted to these ids, sorted; None means all videos."""
    ratio: float = Field(gt=0, le=1)
    """Share of the training videos that are labelled. The default is the data set's (`DatasetFacts.default_ratio`)."""
    seed: int = Field(0, ge=0)
    """Of every draw of the run: which videos are labelled, initial weights, clips, views."""
    backbone: str = "yowo"
    """The backbone's name."""
    backbone_options: dict[str, Any] = Field(default_factory=dict)
    """Options of the backbone; `--set backbone.NAME=VALUE`."""
    pretrained: bool = False
    """The backbone starts from the weights that it names for the data set."""
    eval_on: Literal["test", "val"] = "test"
    """The videos that are scored: "test", or "val", a part of the labelled training videos."""
    val_fraction: float = Field(0.0, ge=0, lt=1)
    """Share of the labelled videos that "val" holds; they are not trained on."""
    clip: ClipOptions = ClipOptions()
    """The clip that the network sees."""
    views: ViewOptions = ViewOptions()
    """How views are drawn."""
    train: TrainOptions = TrainOptions()
    """The schedule."""
    detect: DetectOptions = DetectOptions()
    """What goes into the detections file."""

    @model_validator(mode="before")
    @classmethod
    def _read_older_versions(cls, fields: Any) -> Any:
        return {"revision": 1, **with_bn_batch(migrated(fields))} if isinstance(fields, Mapping) else fields

    @field_validator("videos")
    @classmethod
    def _one_order(cls, videos: tuple[str, ...] | None) -> tuple[str, ...] | None:
        return None if videos is None else tuple(sorted(set(videos)))

    @model_validator(mode="after")
    def _validation_needs_videos(self) -> Self:
        if self.eval_on == "val" and self.val_fraction == 0:
            raise ValueError("eval_on = val needs a val_fraction above 0, such as 0.25")
        if self.train.eval_every and self.val_fraction == 0:
            raise ValueError("train.eval_every needs a validation part; give --val-fraction, such as 0.25")
        return self

    def settings(self) -> dict[str, Any]:
        """The settings that move a number, as plain data."""
        unnumbered: dict[str, Any] = {"train": set(UNNUMBERED), "detect": {"batch"}}
        if self.videos is None:  # experiments are named as before there was such a field
            unnumbered["videos"] = True
        if self.clip.jpeg_quality is None:  # likewise
            unnumbered["clip"] = {"jpeg_quality"}
        content = self.model_dump(mode="json", exclude=unnumbered)
        return content | {"train": as_before(content["train"])}

    def identity(self) -> dict[str, Any]:
        """The same under the names by which they have always been hashed: the hash names an experiment."""
        content = self.settings()
        return content | {"train": as_hashed(content["train"])}


class Machine(Options):
    """Where and how a run happens: recorded, but not part of its id."""

    preset: str = DEFAULT_PRESET
    """The preset that the settings were laid over."""
    data_root: Path | None = None
    """The data set's folder; None means its default."""
    results: Path = Path("results/runs")
    """The folder of runs."""
    weights_root: Path | None = None
    """The folder of downloaded weights; None means the default."""
    download: bool = False
    """Weights of `pretrained` that are neither there nor in a cache may be fetched from where their owner put them."""
    device: str = "auto"
    """"cpu", "cuda", "cuda:N"; "auto" takes a GPU where there is one."""
    devices: int = Field(1, ge=1)
    """Processes of this machine that train together, each on a device of its own: cuda:0, cuda:1 and so on, or with
    device "cpu" that many processes on the CPU. Their number must divide the groups of a step, and moves a run's
    numbers by rounding alone.
    """
    threads: int | None = Field(None, ge=1)
    """Threads of the arithmetic on the CPU; None leaves torch its own choice. Their number may move the last bits."""
    convolutions: Literal["auto", "plain", "measured"] = "auto"
    """How convolutions are computed: "plain" leaves them to torch; "measured" takes the layout, and of 3D ones the
    formulations, that are the quickest in a short measurement before training, which moves the last bits; "auto" is
    "measured" on a GPU.
    """
    channels_last: Switch = "auto"
    """Weights of convolutions lie channels last, and maps with them: "on", "off" (as they are), or "auto": off on a
    CPU, and on a GPU what is quicker in a few rehearsed steps. It moves the last bits, as do the two that follow.
    """
    compile: Switch = "auto"
    """Blocks of student and teacher are called through torch.compile; "auto" likewise, and tried where training lasts
    longer than half an hour.
    """
    fused_optimizer: Switch = "auto"
    """One kernel moves all weights; "auto" likewise."""
    workers: int = Field(2, ge=1)
    """Processes that decode videos, before training."""
    loader_workers: int = Field(0, ge=0)
    """Processes that make batches while the network trains; 0: training makes them itself. They change no number."""
    feature_cache_gb: float = Field(0, ge=0)
    """Room for features of frozen layers, which runs of one seed share, in the cache folder; 0: none are kept. It
    changes no number.
    """
    skip_damaged: bool = False
    """Leave out videos that cannot be read, and say so in the record."""
    keep_checkpoints: bool = False
    """Keep the checkpoints of a finished run."""
    tracker: str | None = None
    """The tracker that the log goes to beside its file, such as "tensorboard"; None: to none."""
    tracker_options: dict[str, Any] = Field(default_factory=dict)
    """Its options."""

    def switches(self) -> dict[str, str]:
        """Options of how a step is computed."""
        return {name: getattr(self, name) for name in ("channels_last", "compile", "fused_optimizer")}


class RunConfig(Options):
    """A whole run."""

    experiment: Experiment
    """What defines the numbers."""
    machine: Machine = Machine()
    """Where and how it runs."""

    def build_strategy(self) -> Strategy:
        """The strategy with its typed options."""
        return _build("strategy", self.experiment.strategy, self.experiment.strategy_options)

    def build_backbone(self) -> Backbone:
        """The backbone with its typed options."""
        return _build("backbone", self.experiment.backbone, self.experiment.backbone_options)

    def build_tracker(self) -> Tracker | None:
        """The tracker with its typed options; None where the run has none."""
        machine = self.machine
        return _build("tracker", machine.tracker, machine.tracker_options) if machine.tracker else None

    def to_yaml(self) -> str:
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False)


def resolve(
    flags: Mapping[str, Any],
    *,
    preset: str | None = None,
    file: Path | None = None,
    assignments: Sequence[str] = (),
    tuned: Sequence[str] = (),
) -> RunConfig:
    """The run's configuration from all its layers, with every option of its plugins spelled out.

    Args:
        flags: fields of `Experiment` and `Machine`; None values are not set.
        preset: name of a preset.
        file: a YAML file of the same fields (a run's config.yaml is one).
        assignments: "key=value" with a dotted key (train.lr=0.001, strategy.f_th=0.5), the value in YAML.
        tuned: the same, below `flags`: settings that were chosen for the strategy, which flags may still change.

    Raises:
        ConfigError: names every unknown name and key and every bad value at once.
        UnknownName: the one mistake is a preset or plugin that does not exist.
        PluginError: a plugin is broken.
    """
    mistakes: list[Mistake] = []
    given = _from_file(file) if file else {}
    name = preset or given.get("preset") or DEFAULT_PRESET
    if name not in presets():
        mistakes.append(UnknownName("preset", str(name), presets()))
        name = DEFAULT_PRESET  # to go on looking
    base, proposed = _preset(name)
    from_flags = {k: v for k, v in flags.items() if v is not None}
    merged: dict[str, Any] = {}
    chosen, assigned = (_from_assignments(texts, mistakes) for texts in (tuned, assignments))
    for layer in (base, given, chosen, from_flags, assigned):
        merged = _merge(merged, _with_flavour(layer, mistakes))
    return _typed({**merged, "preset": name}, proposed, mistakes)


def _with_flavour(layer: Mapping[str, Any], mistakes: list[Mistake]) -> Mapping[str, Any]:
    """The layer with synthetic:ucf24 written as name and option, so that it is one run either way."""
    name, options = layer.get("dataset"), layer.get("dataset_options")
    if not isinstance(name, str) or ":" not in name:
        return layer
    try:
        plain, chosen = split_flavour(name, options if isinstance(options, Mapping) else None)
    except ConfigError as error:
        mistakes.append(str(error))
        return layer
    return {**layer, "dataset": plain, "dataset_options": chosen}


def presets() -> list[str]:
    """The names of the presets."""
    folder = resources.files("ssldet") / "presets"
    return sorted(entry.name.removesuffix(".yaml") for entry in folder.iterdir() if entry.name.endswith(".yaml"))


def _preset(name: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """A preset's fields, and what it proposes to plugins: to any strategy and backbone that knows an option
    (`strategy_options`, `backbone_options`), and to one strategy by its name (`options_of`).
    """
    layer = yaml.safe_load((resources.files("ssldet") / "presets" / f"{name}.yaml").read_text())
    base = layer.pop("base", None)
    if base:
        below, proposed = _preset(base)
        layer = _merge(below | proposed, layer)
    return layer, {key: layer.pop(key, {}) for key in ("strategy_options", "backbone_options", "options_of")}


def _from_file(path: Path) -> dict[str, Any]:
    try:
        content = load_yaml(Path(path).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(f"cannot read the configuration {path}: {' '.join(str(error).split())}") from error
    if not isinstance(content, dict):
        raise ConfigError(f"{path} must hold a mapping of settings, not {type(content).__name__}")
    content = named(content)
    if wrong := [key for key in ("experiment", "machine") if not isinstance(content.get(key, {}), dict)]:
        raise ConfigError(f"{path}: {' and '.join(wrong)} must hold a mapping of settings, as in a run's config.yaml")
    if "experiment" in content:  # a run's config.yaml; those of the first revision do not name it
        content = {"revision": 1, **with_bn_batch(content["experiment"]), **content.get("machine", {})}
        if isinstance(content.get("clip"), dict):  # before there was this setting all frames were raw
            content["clip"] = {"jpeg_quality": None, **content["clip"]}
    return migrated(content)


def _from_assignments(assignments: Sequence[str], mistakes: list[Mistake]) -> dict[str, Any]:
    layer: dict[str, Any] = {}
    for text in assignments:
        try:
            layer = _merge(layer, _from_assignment(text))
        except ConfigError as error:
            mistakes.append(str(error))
    return layer


def _from_assignment(text: str) -> dict[str, Any]:
    key, nested = read_assignment(text, "train.lr=0.001")
    head, *rest = key.split(".")
    if head == "preset":
        raise ConfigError(f"--set {text!r}: a preset is what --set changes; choose it with --preset")
    if rest and head in (*PLUGIN_KINDS, "tracker"):
        head = f"{head}_options"
    for part in reversed(rest):
        nested = {part: nested}
    return {head: nested}


def _merge(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(below)
    for key, value in above.items():
        old = merged.get(key)
        merged[key] = _merge(old, value) if isinstance(old, Mapping) and isinstance(value, Mapping) else value
    return merged


def _typed(merged: Mapping[str, Any], proposed: Mapping[str, Any], mistakes: list[Mistake]) -> RunConfig:
    """Check all layers together, so that every mistake is named at once."""
    known = [*Experiment.model_fields, *Machine.model_fields]
    mistakes += [_unknown_setting(key, known, merged) for key in merged if key not in known]
    if problem := revision_problem(merged.get("revision", REVISION)):
        mistakes.append(problem)
    spelled = _plugin_options({**merged, "revision": REVISION}, proposed, mistakes)
    spelled = {**spelled, **_tracker_options(merged, mistakes)}
    parts: dict[str, Any] = {}
    for name, model in (("experiment", Experiment), ("machine", Machine)):
        try:
            parts[name] = model(**{key: value for key, value in spelled.items() if key in model.model_fields})
        except ValidationError as error:
            mistakes += explain(error, model, remedy=_how_to_give)
    if mistakes:
        alone = mistakes[0] if len(mistakes) == 1 else None
        raise alone if isinstance(alone, UnknownName) else ConfigError("\n".join(map(str, mistakes)))
    return RunConfig(**parts)


def revision_problem(revision: Any) -> str | None:
    """Why settings of a revision cannot be run here; None where they can."""
    if revision == REVISION:
        return None
    return (
        f"made under revision {revision}; this ssldet computes revision {REVISION}, and docs/moved-numbers.md says "
        f"what changed: give revision {REVISION} to run these settings under it, or use the ssldet that made them"
    )


def _plugin_options(
    merged: Mapping[str, Any], proposed: Mapping[str, Any], mistakes: list[Mistake]
) -> Mapping[str, Any]:
    """The settings with every option of the plugins spelled out, and with the ratio that the data set proposes."""
    spelled = {"ratio": 1.0, **merged}  # a data set that is not known proposes none, and is the mistake to be named
    defaults = {
        kind: field.default for kind in PLUGIN_KINDS if not (field := Experiment.model_fields[kind]).is_required()
    }
    for kind in PLUGIN_KINDS:
        name, options = merged.get(kind, defaults.get(kind)), merged.get(f"{kind}_options", {})
        if not isinstance(name, str) or not isinstance(options, Mapping):
            continue  # Experiment says what is wrong
        try:
            plugin = plugins.load(kind, name)
        except UnknownName as error:
            mistakes.append(error)
            continue
        if kind == "dataset":
            spelled |= _proposed_by_data(plugin.facts, merged)
        known = plugin.Config.model_fields
        offered = {k: v for k, v in proposed.get(f"{kind}_options", {}).items() if k in known}
        options = _merge(_merge(offered, proposed["options_of"].get(name, {}) if kind == "strategy" else {}), options)
        try:
            spelled[f"{kind}_options"] = _checked(kind, plugin, options).model_dump(mode="json")
        except ConfigError as error:
            mistakes += str(error).splitlines()
    return spelled


def _tracker_options(merged: Mapping[str, Any], mistakes: list[Mistake]) -> dict[str, Any]:
    """The options of the tracker, spelled out; nothing where there is none."""
    name, options = merged.get("tracker"), merged.get("tracker_options") or {}
    if name is None:
        mistakes += [
            f"tracker.{key} is an option of a tracker, and there is none; name it with --tracker" for key in options
        ]
        return {}
    if not isinstance(name, str) or not isinstance(options, Mapping):
        return {}  # Machine says what is wrong
    try:
        typed = typed_options(plugins.load("tracker", name).Config, options, "tracker.", f" of tracker {name!r}")
    except (UnknownName, ConfigError) as error:
        mistakes.append(error if isinstance(error, UnknownName) else str(error))
        return {}
    return {"tracker_options": typed.model_dump(mode="json")}


def _proposed_by_data(facts: DatasetFacts, merged: Mapping[str, Any]) -> dict[str, Any]:
    """What a data set sets where no layer does: the ratio, and how frames are stored. Never what this machine has."""
    proposed: dict[str, Any] = {} if "ratio" in merged else {"ratio": facts.default_ratio}
    clip = merged.get("clip", {})
    if isinstance(clip, Mapping) and "jpeg_quality" not in clip:
        size = clip.get("size", ClipOptions().size)
        if isinstance(size, int):  # else Experiment says what is wrong
            proposed["clip"] = {**clip, "jpeg_quality": default_quality(facts, size)}
    return proposed


def _checked(kind: str, plugin: type[Any], options: Mapping[str, Any]) -> Options:
    """The typed options of a plugin. Raises ConfigError, one line a mistake."""
    if kind == "dataset":
        return dataset_options(plugin, options)
    config: Options = typed_options(plugin.Config, options, f"{kind}.")
    return config


def default_options(kind: type[Options]) -> dict[str, Any]:
    """The default of every option as plain data, of those too that are no part of the settings where they do nothing.

    Raises:
        ValidationError: an option has no default.
    """
    defaults = kind()
    return {name: to_jsonable_python(getattr(defaults, name)) for name in kind.model_fields}


def non_default_options(kind: str, name: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """Of a plugin's options those that differ from their defaults; all where these are not known."""
    try:
        defaults = default_options(plugins.load(kind, name).Config)
    except (UnknownName, PluginError, ValidationError):
        return dict(options)
    return {key: value for key, value in options.items() if key not in defaults or defaults[key] != value}


def spelled_out(experiment: Experiment) -> Experiment:
    """An experiment of a record, with the defaults of those options that its plugins got after it was made.

    Where a plugin is absent, or has other options by now, its options stay as they are. So do those of an experiment
    of another revision, for which today's defaults did not hold; but for the data set's, which say what it is about.
    """
    spelled: dict[str, Any] = {}
    for kind in PLUGIN_KINDS if experiment.revision == REVISION else ("dataset",):
        try:
            model = plugins.load(kind, getattr(experiment, kind)).Config
            spelled[f"{kind}_options"] = model(**getattr(experiment, f"{kind}_options")).model_dump(mode="json")
        except (UnknownName, PluginError, ValidationError):
            continue
    return experiment.model_copy(update=spelled)


def _build(kind: str, name: str, options: Mapping[str, Any]) -> Any:
    plugin = plugins.load(kind, name)
    return plugin(plugin.Config(**options))


def _how_to_give(key: str) -> str:
    """What to do where a setting is missing: its flag, and the names that it may be where it names a plugin."""
    if "." in key:
        return f"; give it with --set {key}=VALUE"
    names = f", one of {', '.join(plugins.names(key))}" if key in PLUGIN_KINDS else ""
    return f"; give --{key}{names}, or a --config that has it"


def _unknown_setting(key: str, known: Sequence[str], merged: Mapping[str, Any]) -> str:
    """An unknown key, which may be an option of a plugin without its prefix."""
    if key == "loss":
        return "unknown option 'loss'; since API 2.0 the box loss is an option of grid backbones: 'backbone.region'"
    for kind in PLUGIN_KINDS:
        try:
            options = plugins.load(kind, str(merged.get(kind))).Config.model_fields
        except (UnknownName, PluginError):
            continue
        if key in options:
            return f"unknown option {key!r}; did you mean '{kind}.{key}'?"
    return unknown_key(key, [name for name in known if not name.endswith("_options")])

"""Any network of timm over the key frame: `timm:resnet50`, `timm:tf_efficientnet_lite0` ...

timm is imported when such a network is asked for, not before. Nothing is downloaded unless that is asked for too.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

import torch
from torch import Tensor, nn

from ssldet.detector.weights import COUNTER, WeightsReport, read_weights
from ssldet.errors import ConfigError, WeightsError, nearest
from ssldet_backbones.branches.branch import Branch, BranchKind, Standardise

PREFIX = "timm:"
STRIDE = 32
USUAL_SIZE = (224, 224)

HUB_FILES = ("model.safetensors", "pytorch_model.bin")
"""What timm's repositories on the Hugging Face hub call their weights, the preferred one first."""


class TimmFeatures(nn.Module):
    """(b, 3, h, w) in [0, 1] -> the maps of a timm network at some strides, each (b, c, h / stride, w / stride).

    Its own mean and standard deviation are applied within. What lies behind the last map is cut off.

    Args:
        name: as timm lists it, with or without a tag: resnet18, resnet18.a1_in1k.
        strides: which maps are wanted; of several of one stride the last is.

    Attributes:
        channels: of each map.

    Raises:
        ConfigError: timm has no such network, or it has no such maps.
    """

    def __init__(self, name: str, strides: Sequence[int] = (STRIDE,)) -> None:
        super().__init__()
        known = network_facts(name, tuple(strides))
        self.channels = known.channels
        self.standardise = Standardise(known.mean, known.std)
        self.network = _create(name, features_only=True, out_indices=known.indices)
        for path in known.cut:
            _replace(self.network, path, nn.Identity())
        for path in known.idle:
            self.network.get_parameter(path).requires_grad_(False)
        self._edges, self._fixed_size, self._name = known.edges, known.fixed_size, name

    def forward(self, x_bchw: Tensor) -> list[Tensor]:
        """Raises ConfigError: the network takes images of another size only."""
        size = (x_bchw.shape[2], x_bchw.shape[3])
        if self._fixed_size not in (None, size):
            raise ConfigError(f"timm's {self._name} takes images of {self._fixed_size} pixels only, and {size} came")
        maps = self.network(self.standardise(x_bchw))
        return [_channels_first(out, channels) for out, channels in zip(maps, self.channels, strict=True)]

    def stages(self) -> list[list[nn.Module]]:
        """Its parts between the maps that timm knows; one part where these leave a parameter out."""
        return _stages(self.network, self._edges)


class TimmImages(Branch):
    """(b, 3, h, w) -> (b, c, h / 32, w / 32): a timm network's last map of stride 32."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.features = TimmFeatures(name)
        (self.channels,) = self.features.channels

    def forward(self, x_bchw: Tensor) -> Tensor:
        (out,) = self.features(x_bchw)
        return out

    def stages(self) -> Sequence[Sequence[nn.Module]]:
        return self.features.stages()


def timm_kind(name: str) -> BranchKind:
    """The 2D branch `timm:NAME`.

    Raises:
        ConfigError: timm has no such network, or it has no map of stride 32.
    """
    network = name.removeprefix(PREFIX)
    network_facts(network, (STRIDE,))
    settings = _settings(network)
    return BranchKind(
        name,
        lambda: TimmImages(network),
        lambda path: read_timm(path, network),
        origin=settings.get("origin_url") or "timm (Wightman)",
        licence=str(settings.get("license") or ""),
        weights=_place(settings) and f"{_place(settings)} (--download fetches it)",
        any_file=f"{network}.safetensors",
        installed=lambda: cached_timm(network),
        fetch=lambda: fetch_timm(network),
    )


# ------------------------------------------------------------------------------------------------ what timm knows


@dataclass(frozen=True, slots=True)
class NetworkFacts:
    """What is known of a timm network without its weights.

    Attributes:
        indices: of the wanted maps, among those that timm knows.
        channels: of the wanted maps.
        edges: the modules at whose ends the maps are read, up to the last one.
        cut: modules that no wanted map needs.
        idle: parameters of the same kind, of modules that the network cannot do without.
        mean, std: of its images.
        fixed_size: (h, w) of the images that it takes; None: any multiple of its stride.
    """

    indices: tuple[int, ...]
    channels: tuple[int, ...]
    edges: tuple[str, ...]
    cut: tuple[str, ...]
    idle: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    fixed_size: tuple[int, int] | None


@lru_cache(maxsize=16)
def network_facts(name: str, strides: tuple[int, ...]) -> NetworkFacts:
    """Raises ConfigError: timm has no such network, or it has no such maps."""
    _check_name(name)
    settings = _settings(name)
    maps = _maps(name)
    indices = tuple(_index(name, maps, stride) for stride in strides)
    with torch.inference_mode(False), torch.device("meta"):
        network = _create(name, features_only=True, out_indices=indices)
    fixed = settings["input_size"] if settings["fixed_input_size"] else None
    cut = _cut(name, network, strides, fixed or (3, *USUAL_SIZE))
    return NetworkFacts(
        indices=indices,
        channels=tuple(maps[index]["num_chs"] for index in indices),
        edges=tuple(str(level["module"]) for level in maps[: max(indices) + 1]),
        cut=cut,
        idle=tuple(path for path, parameter in network.named_parameters() if parameter.grad is None),
        mean=tuple(settings["mean"]),
        std=tuple(settings["std"]),
        fixed_size=fixed and tuple(fixed[1:]),
    )


def timm_names() -> list[str]:
    """Every network that timm lists, without tags."""
    import timm

    return list(timm.list_models())


def _check_name(name: str) -> None:
    import timm

    if timm.is_model(name) and (name in timm.list_models() or name in timm.list_models(pretrained=True)):
        return
    known = [*timm.list_models(), *timm.list_models(pretrained=True)]
    raise ConfigError(
        f"timm {timm.__version__} has no network {name!r}{nearest(name, known)}; "
        "timm.list_models() of Python lists all of them"
    )


def _settings(name: str) -> dict[str, Any]:
    """What timm publishes about a network: mean, std, size of images, licence, where its weights lie."""
    from timm.models import get_pretrained_cfg

    settings = get_pretrained_cfg(name)
    return {} if settings is None else asdict(settings)


def _maps(name: str) -> list[dict[str, Any]]:
    """Every map that timm can read from a network, by rising stride. Raises ConfigError."""
    try:
        with torch.device("meta"):
            network = _create(name, features_only=True)
    except Exception as error:  # timm raises runtime, assertion, attribute and type errors here
        raise ConfigError(
            f"timm's {name} cannot be a 2D branch: timm reads no maps from it (features_only); "
            f"take one that has a map of stride {STRIDE}, such as timm:resnet18"
        ) from error
    return list(network.feature_info.info)


def _index(name: str, maps: Sequence[Mapping[str, Any]], stride: int) -> int:
    """The last map of a stride. Raises ConfigError."""
    reductions = [level["reduction"] for level in maps]
    if stride not in reductions:
        raise ConfigError(
            f"timm's {name} cannot be a 2D branch: it has no map of stride {stride}, but of "
            f"{', '.join(map(str, dict.fromkeys(reductions)))}; take another, such as timm:resnet18"
        )
    return len(reductions) - 1 - reductions[::-1].index(stride)


def _create(name: str, **options: Any) -> Any:
    import timm

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of names that timm has since changed
        return timm.create_model(name, pretrained=False, **options)


def _channels_first(map_: Tensor, channels: int) -> Tensor:
    """Networks of windows and tokens give (b, h, w, c)."""
    return map_ if map_.shape[1] == channels else map_.permute(0, 3, 1, 2)


# ------------------------------------------------------------------------------------- what lies behind the last map


def _cut(name: str, network: nn.Module, strides: Sequence[int], input_size: Sequence[int]) -> tuple[str, ...]:
    """Take out the modules none of whose parameters moves a wanted map, by one backward pass without values.

    Returns:
        Their paths. What the network cannot run without stays.

    Raises:
        ConfigError: it does not run so, or its maps have not the size that they should have.
    """
    sizes = [(input_size[1] // stride, input_size[2] // stride) for stride in strides]
    try:
        with torch.inference_mode(False), torch.enable_grad():
            images = torch.empty(2, *input_size, device="meta")
            maps = network(images)
            torch.stack([out.sum() for out in maps]).sum().backward()
    except Exception as error:
        raise ConfigError(f"timm's {name} cannot be a 2D branch: a trial of it failed ({error})") from error
    shapes = [out.shape for out in maps]
    if any(size not in (tuple(shape[2:]), tuple(shape[1:3])) for size, shape in zip(sizes, shapes, strict=True)):
        raise ConfigError(
            f"timm's {name} cannot be a 2D branch: images of {input_size[1]} x {input_size[2]} should give maps of "
            f"{sizes}, and gave {[tuple(shape[1:]) for shape in shapes]}; take another, such as timm:resnet18"
        )
    return tuple(_cut_below(network, "", lambda: shapes == [out.shape for out in network(images)]))


def _cut_below(network: nn.Module, path: str, runs: Callable[[], bool]) -> Iterator[str]:
    """From the last module on: what reads the output of another goes before it."""
    for key, child in reversed(list(network.get_submodule(path).named_children())):
        inner, parameters = f"{path}.{key}".removeprefix("."), list(child.parameters())
        unused = bool(parameters) and all(parameter.grad is None for parameter in parameters)
        if unused and _does_without(network, inner, child, runs):
            yield inner
        elif any(parameter.grad is None for parameter in parameters):
            yield from _cut_below(network, inner, runs)


def _does_without(network: nn.Module, path: str, module: nn.Module, runs: Callable[[], bool]) -> bool:
    """Take a module out, and put it back where the network does not run without it."""
    _replace(network, path, nn.Identity())
    try:
        fine = runs()
    except Exception:  # whatever a network raises where a module is not what it was
        fine = False
    if not fine:
        _replace(network, path, module)
    return fine


def _replace(network: nn.Module, path: str, module: nn.Module) -> None:
    parent, _, key = path.rpartition(".")
    network.get_submodule(parent)._modules[key] = module


# --------------------------------------------------------------------------------------------------------- stages


def _stages(network: nn.Module, edges: Sequence[str]) -> list[list[nn.Module]]:
    """The network's modules from the input on, a new stage behind each edge."""
    flat = {edge.replace(".", "_", 1) for edge in edges} | set(edges)  # timm flattens the first level of some
    children = list(network.named_children())
    prefix = f"{children[0][0]}." if len(children) == 1 else ""  # some networks are wrapped once
    stages: list[list[nn.Module]] = [[]]
    for path, module in _pieces(network, flat, prefix, ""):
        stages[-1].append(module)
        if path.removeprefix(prefix) in flat:
            stages.append([])
    *stages, rest = stages
    stages[-1:] = [[*(stages[-1] if stages else []), *rest]]
    held = {id(p) for stage in stages for module in stage for p in module.parameters()}
    return stages if held == {id(p) for p in network.parameters()} else [[network]]


def _pieces(module: nn.Module, edges: set[str], prefix: str, path: str) -> Iterator[tuple[str, nn.Module]]:
    """The outermost modules that hold no edge within, by path."""
    for key, child in module.named_children():
        inner = f"{path}{key}"
        if any(f"{prefix}{edge}".startswith(f"{inner}.") for edge in edges):
            yield from _pieces(child, edges, prefix, f"{inner}.")
        else:
            yield inner, child


# -------------------------------------------------------------------------------------------------------- weights


def read_timm(path: Path, name: str) -> dict[str, Tensor]:
    """The entries of a weights file of a whole timm network, by their names in `TimmImages(name)`.

    A file of one of our own runs or conversions has them already.

    Raises:
        WeightsError: it is no weights file, or one of another network.
    """
    state = read_weights(path)
    if state and all("features.network." in key for key in state):
        return state
    return {f"features.{key}": value for key, value in features_state(name, state, source=str(path)).items()}


def features_state(name: str, state: Mapping[str, Tensor], *, source: str = "the weights") -> dict[str, Tensor]:
    """Entries of a whole timm network -> those of `TimmFeatures(name)`, by their names there.

    The classifier, of any number of classes, and what lies behind the last map are left out.

    Raises:
        WeightsError: entries are missing, unknown to the network, or of another shape.
    """
    with torch.device("meta"):
        whole = _create(name).state_dict()
        features = TimmFeatures(name).state_dict()
    names = _names_in_features(whole, features)
    report = _compare(name, state, whole, names, source)
    if not report.complete:
        raise WeightsError(f"these are not the weights of timm's {name}. {report}")
    return {own: state[key] for key, own in names.items() if key in state}


def _names_in_features(whole: Mapping[str, Tensor], features: Mapping[str, Tensor]) -> dict[str, str]:
    """Name in the whole network -> name in the features: unchanged, with its first level flattened, or wrapped."""
    names = {}
    for key in whole:
        forms = (key, key.replace(".", "_", 1), f"model.{key}", f"body.{key}")
        own = next((f"network.{form}" for form in forms if f"network.{form}" in features), None)
        if own is not None:
            names[key] = own
    return names


def _compare(
    name: str, state: Mapping[str, Tensor], whole: Mapping[str, Tensor], names: Mapping[str, str], source: str
) -> WeightsReport:
    """How a file fits the whole network; only what the features need may not be missing."""
    heads = _settings(name).get("classifier") or ()
    heads = (heads,) if isinstance(heads, str) else tuple(heads)
    shared = [key for key in whole if key in state and not key.startswith(tuple(f"{head}." for head in heads))]
    return WeightsReport(
        source=source,
        loaded=tuple(key for key in names if key in state),
        missing=tuple(key for key in names if key not in state and not key.endswith(COUNTER)),
        unexpected=tuple(key for key in state if key not in whole),
        shape_mismatch=tuple(
            f"{key}: {tuple(state[key].shape)} for {tuple(whole[key].shape)}"
            for key in shared
            if state[key].shape != whole[key].shape
        ),
    )


# ------------------------------------------------------------------------------------------ where the weights lie


def cached_timm(name: str) -> Path | None:
    """The weights of a timm network in the cache of the Hugging Face hub or of torch's hub, which timm fills."""
    from huggingface_hub import try_to_load_from_cache

    settings = _settings(name)
    for repository, revision, file in _hub_files(settings):
        cached = try_to_load_from_cache(repository, file, revision=revision)
        if isinstance(cached, str):
            return Path(cached)
    if url := settings.get("url"):
        path = Path(torch.hub.get_dir()) / "checkpoints" / Path(urlparse(url).path).name
        return path if path.is_file() else None
    return None


def fetch_timm(name: str) -> Path:
    """Download the weights of a timm network into its cache, as timm does. Raises WeightsError."""
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError
    from timm.models._hub import download_cached_file

    settings, cause = _settings(name), "timm publishes none"
    try:
        for repository, revision, file in _hub_files(settings):
            try:
                return Path(hf_hub_download(repository, file, revision=revision))
            except LocalEntryNotFoundError:  # there is no network
                raise
            except EntryNotFoundError as error:
                cause = _first_line(error)
        if settings.get("url"):
            return Path(download_cached_file(settings["url"], check_hash=True))
    except (OSError, RuntimeError, ValueError) as error:  # no network, another hash, no such repository
        cause = _first_line(error)
    raise WeightsError(
        f"the weights of timm's {name} could not be fetched from {_place(settings) or 'anywhere'} ({cause}); "
        f"put them into the weights root as {name}.safetensors, or use --scratch"
    )


def _hub_files(settings: Mapping[str, Any]) -> list[tuple[str, str | None, str]]:
    """Repository, revision and file on the Hugging Face hub, the preferred one first."""
    if not settings.get("hf_hub_id"):
        return []
    repository, _, revision = str(settings["hf_hub_id"]).partition("@")
    named = settings.get("hf_hub_filename")
    return [(repository, revision or None, file) for file in ((named,) if named else HUB_FILES)]


def _first_line(error: Exception) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)


def _place(settings: Mapping[str, Any]) -> str:
    """Where timm's own weights lie, in words; "" where there are none."""
    hub = settings.get("hf_hub_id")
    return f"huggingface.co/{hub}" if hub else str(settings.get("url") or "")

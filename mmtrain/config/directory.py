"""Where the configuration files lie."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

import mmtrain
from mmtrain.config.provenance import Source, find_default, relative, scalars
from mmtrain.errors import ConfigError, did_you_mean

ROOT_CONFIG = "train"


def config_dir() -> Path:
    """Returns ``conf/``: inside the package in an installed wheel, beside it in a source tree.

    Raises:
        ConfigError: Neither place holds the root configuration.
    """
    package = Path(mmtrain.__file__).resolve().parent
    # The wheel's own place first: beside an installed package, "conf" may be a stranger's.
    for candidate in (package / "conf", package.parent / "conf"):
        if (candidate / f"{ROOT_CONFIG}.yaml").is_file():
            return candidate
    raise ConfigError(
        f"the configuration files of mmtrain are missing: no conf/{ROOT_CONFIG}.yaml",
        where=str(package),
        mend="reinstall mmtrain, or run from a complete source tree",
    )


def check_directories(main: Path, extra: Sequence[Path]) -> None:
    """Refuses directories that do not exist, and files in them that the main directory would hide.

    Hydra takes the first file of a name that it finds, so a user's ``experiment/clip_base.yaml`` beside one of mmtrain
    would be passed over in silence.

    Raises:
        ConfigError: A directory is missing, or a file has the name of one in ``main``.
    """
    if not (main / f"{ROOT_CONFIG}.yaml").is_file():
        raise ConfigError(f"{main} holds no {ROOT_CONFIG}.yaml")
    for directory in extra:
        if not directory.is_dir():
            raise ConfigError(f"config directory {directory} does not exist", where=f"--config-dir {directory}")
        for path in sorted(directory.rglob("*.yaml")):
            if (main / path.relative_to(directory)).exists():
                raise ConfigError(
                    f"{path.relative_to(directory)} is also a file of mmtrain, which would be used in its place",
                    where=str(path),
                    mend="rename it",
                )


@dataclass(frozen=True)
class ConfigFiles:
    """The directories that are searched for configuration files, the first one first."""

    directories: Sequence[Path]

    def options(self, group: str) -> list[str]:
        """Returns the options of a group."""
        return sorted({path.stem for directory in self.directories for path in (directory / group).glob("*.yaml")})

    def groups(self) -> list[str]:
        """Returns all groups, nested ones too (``model/text``)."""
        return sorted(
            {
                str(path.parent.relative_to(directory))
                for directory in self.directories
                for path in directory.rglob("*.yaml")
                if path.parent != directory
            }
        )

    def find(self, name: str) -> Path | None:
        """Returns the file of a configuration such as ``model/clip``."""
        candidates = (directory / f"{name}.yaml" for directory in self.directories)
        return next((path for path in candidates if path.is_file()), None)

    def all(self) -> Iterator[Path]:
        """Yields every configuration file."""
        for directory in self.directories:
            yield from sorted(directory.rglob("*.yaml"))

    def unreadable(self) -> str | None:
        """Returns the place of the first file, and where possible its line, that OmegaConf cannot read."""
        for path in self.all():
            try:
                OmegaConf.load(path)
            except (OmegaConfBaseException, yaml.YAMLError, ValueError):
                line = next((line for value, line in scalars(path) if not _is_readable(value)), None)
                return f"{relative(path)}:{line}" if line else relative(path)
        return None

    def unknown_option(self, group: str, option: str, picked: Mapping[str, str]) -> ConfigError:
        """Returns the error for an option without a file, picked by an override or else by a defaults list.

        Args:
            group: The group.
            option: The option that is not there.
            picked: Group to the override that picks its option.
        """
        line = picked.get(group, "")
        is_override = option in re.split(r"[=,\[\] ]", line)
        source = Source(override=line) if is_override else find_default(self.all(), group, option)
        where = str(source) if source else None
        mend = did_you_mean(option, self.options(group))
        return ConfigError(f"{group} has no option {option!r}", where=where, mend=mend)


def _is_readable(value: str) -> bool:
    try:
        OmegaConf.create({"value": value})
    except OmegaConfBaseException:
        return False
    return True

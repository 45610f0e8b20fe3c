"""What each command takes. The one source of defaults: CLI, library and tests read them here."""

from parity.config.accelerator import AcceleratorConfig
from parity.config.bench import BenchConfig
from parity.config.bits import BitsConfig
from parity.config.check import CheckConfig
from parity.config.compile import CompileConfig
from parity.config.convert import ConvertConfig
from parity.config.data import DataConfig
from parity.config.export import ExportConfig
from parity.config.faults import FaultsConfig
from parity.config.init import InitConfig
from parity.config.prove import ProveConfig
from parity.config.report import ReportConfig
from parity.config.sweep import SweepConfig
from parity.config.train import TrainConfig
from parity.config.trajectory import TrajectoryConfig

__all__ = [
    "AcceleratorConfig",
    "BenchConfig",
    "BitsConfig",
    "CheckConfig",
    "CompileConfig",
    "ConvertConfig",
    "DataConfig",
    "ExportConfig",
    "FaultsConfig",
    "InitConfig",
    "ProveConfig",
    "ReportConfig",
    "SweepConfig",
    "TrainConfig",
    "TrajectoryConfig",
]

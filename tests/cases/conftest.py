"""The fixtures of the cases, see `harness`."""

from harness import mura as mura

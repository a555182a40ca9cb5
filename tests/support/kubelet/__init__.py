"""A small kubelet: pods of a real API server as processes of this machine."""

from tests.support.kubelet.node import Kubelet, joined, need_kubelet

__all__ = ["Kubelet", "joined", "need_kubelet"]

"""The protocol: the digest of each sweep's runs, from ``JudgedStudy.digests``."""

from collections.abc import Mapping

PROTOCOL: Mapping[str, str] = {
    "theory/volume_today": "4a99ed471041f802",
    "theory/volume_decay": "c0b6cf0e9110a96e",
    "theory/volume_hinge": "5cb74709566b76ea",
    "theory/volume_penalty": "8a983c0dfc648a16",
    "theory/volume_unit": "9232c6d8dc8c0182",
    "theory/volume_today_rates": "793a21142a1146b2",
    "theory/volume_decay_rates": "8ad84a936936cf51",
    "theory/depth_one": "8ee356dff115f216",
    "theory/depth_turns": "55c111cae398fb19",
    "theory/depth_together": "25dc5325bea7bc68",
    "theory/depth_joint": "9fb3307229bb53f3",
    "theory/explicit_em_exact": "5ba7b429a8138bdc",
    "theory/explicit_em_stochastic": "f0fdf8ebdda2f525",
    "theory/explicit_em_adam": "1d93fdb9bb2392c5",
    "theory/explicit_em_sgd": "341848508a2e7cd4",
    "theory/lse_weight": "b2486454ebbf82d6",
    "theory/lse_temperature": "e383b355f83270fd",
    "theory/lse_square": "64d12aa4f71dca18",
    "theory/lse_today": "245c278be0414b42",
    "theory/lse_square_today": "36438af42d5bb34d",
    "theory/lse_mixture": "b40e57cb0d2d24a3",
    "theory/anomaly_derived": "2b389996c1f616af",
    "theory/anomaly_mixture": "647b919cb64e7b4a",
    "theory/anomaly_sae": "15334f3b649056b3",
}

"""The field's metrics of disentanglement, as functions of codes (N, D) and factor classes (N, K).

Definitions and default constants are those of Locatello et al. 2019 (arXiv:1811.12359, the library
disentanglement_lib), so that numbers compare with published ones. A function that departs from them says so in its
docstring. Every metric draws its samples from the rows given: for a full grid of factors this is the published
procedure, for a random sample of images it is a bootstrap. Factors with a single value are left out of every metric
(`varying` returns the others). Dead latents are scored like the others, and never cause a division by zero.

scikit-learn and scipy.stats take a second to import, so each function that needs them imports them itself.
"""

from .beta_vae import BetaVAEScore, beta_vae_score, logistic_regression
from .dci import DCIScores, dci_scores, gradient_boosting
from .factor_vae import FactorVAEScore, factor_vae_score
from .irs import IRSScore, irs_score
from .mig import MIGScore, mig_score
from .modularity import ExplicitnessScore, ModularityScore, explicitness_score, modularity_score
from .mutual_information import discretise, entropies, mutual_information_matrix
from .sap import SAPScore, sap_score
from .table import varying
from .udr import UDRScores, udr_scores
from .unsupervised import UnsupervisedScores, unsupervised_scores

__all__ = [
    "BetaVAEScore",
    "DCIScores",
    "ExplicitnessScore",
    "FactorVAEScore",
    "IRSScore",
    "MIGScore",
    "ModularityScore",
    "SAPScore",
    "UDRScores",
    "UnsupervisedScores",
    "beta_vae_score",
    "dci_scores",
    "discretise",
    "entropies",
    "explicitness_score",
    "factor_vae_score",
    "gradient_boosting",
    "irs_score",
    "logistic_regression",
    "mig_score",
    "modularity_score",
    "mutual_information_matrix",
    "sap_score",
    "udr_scores",
    "unsupervised_scores",
    "varying",
]

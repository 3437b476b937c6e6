"""The metrics of scikit-learn that make one number of labels and outputs, by what they read."""

from __future__ import annotations

import difflib

# Predicted classes: the position of the largest of an output's class scores.
CLASSES = frozenset(
    "accuracy_score adjusted_mutual_info_score adjusted_rand_score balanced_accuracy_score cohen_kappa_score "
    "completeness_score f1_score fbeta_score fowlkes_mallows_score hamming_loss homogeneity_score jaccard_score "
    "matthews_corrcoef mutual_info_score normalized_mutual_info_score precision_score rand_score recall_score "
    "v_measure_score zero_one_loss".split()
)
# Outputs as they are: scores or probabilities of classes, ...
SCORES = frozenset(
    "average_precision_score brier_score_loss coverage_error d2_brier_score d2_log_loss_score dcg_score hinge_loss "
    "label_ranking_average_precision_score label_ranking_loss log_loss ndcg_score roc_auc_score "
    "top_k_accuracy_score".split()
)
# ... and numbers.
NUMBERS = frozenset(
    "d2_absolute_error_score d2_pinball_score d2_tweedie_score explained_variance_score max_error mean_absolute_error "
    "mean_absolute_percentage_error mean_gamma_deviance mean_pinball_loss mean_poisson_deviance mean_squared_error "
    "mean_squared_log_error mean_tweedie_deviance median_absolute_error r2_score root_mean_squared_error "
    "root_mean_squared_log_error".split()
)

AVERAGED = frozenset("f1_score fbeta_score jaccard_score precision_score recall_score".split())
"""Those of two classes, unless an average over classes is named."""

READS = {
    name: kind for kind, names in (("classes", CLASSES), ("scores", SCORES), ("numbers", NUMBERS)) for name in names
}
"""What each of them reads, by name. Here and not asked of scikit-learn, which takes a second to import."""


def closest(name: str) -> tuple[str, ...]:
    """The metrics that a name may have been meant for: it is a part of theirs, their initials, or nearly theirs.

    >>> closest("f1"), closest("mse"), closest("acuracy_score"), closest("speed")
    (('f1_score',), ('mean_squared_error',), ('accuracy_score',), ())
    """
    asked, names = name.lower(), sorted(READS, key=len)
    parts = [one for one in names if asked in one or asked == "".join(word[0] for word in one.split("_"))]
    return tuple(parts[:2] or difflib.get_close_matches(asked, names, n=1))

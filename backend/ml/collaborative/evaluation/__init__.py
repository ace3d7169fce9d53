"""How good a model is, and whether it is fit to be published."""

from .gate import Check as Check
from .gate import Published as Published
from .gate import Verdict as Verdict
from .gate import check_model as check_model
from .gate import describe_refusal as describe_refusal
from .gate import is_no_better_than_biases as is_no_better_than_biases
from .gate import keep_real_model as keep_real_model
from .gate import too_few as too_few
from .held_out import HoldOut as HoldOut
from .held_out import hold_out as hold_out
from .held_out import name_trainings as name_trainings
from .metrics import LIKED as LIKED
from .protocol import ALL as ALL
from .protocol import BIASES as BIASES
from .protocol import POPULAR as POPULAR
from .protocol import Score as Score
from .protocol import evaluate as evaluate
from .protocol import rank as rank
from .splits import FOLDS as FOLDS
from .splits import all_splits as all_splits
from .tuning import TUNING_FOLDS as TUNING_FOLDS
from .tuning import Trial as Trial
from .tuning import tune as tune

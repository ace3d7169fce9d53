"""What an app's service imports: predictions and lists, with NumPy alone."""

from .export import export_lists as export_lists
from .follow import FollowerState as FollowerState
from .follow import ReleaseFollower as ReleaseFollower
from .lists import Reason as Reason
from .lists import Recommendation as Recommendation
from .lists import SimilarFilm as SimilarFilm
from .model import CollaborativeModel as CollaborativeModel
from .model import load_collaborative as load_collaborative
from .snapshot import FoldedUser as FoldedUser
